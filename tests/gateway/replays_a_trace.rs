//! A trace of lookups, as checkouts make them, over the real region tree: nearly all are hits, and none is wrong.
//!
//! Three services of two accounts look up where parcels go: province, city, district, sub-district and postal code of a
//! village. Which village is drawn by Zipf's law from all. Fastrac is a stub for each account that answers from the same
//! tree and says in each response which account it was made for and which target was asked for, so that a response that
//! belongs to another request is recognised.
//!
//! 20,000 requests over one province; `FASTRAC_REPLAY=1000000` for another number, over the whole tree, and with
//! `FASTRAC_REPLAY_MEMORY=8MiB` another `cache.memory`. It prints its figures.

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    client::{Connection, Request, Response, get, post},
    process::Program,
    test_gateway::{digest_of, pair, secret_of, until, write},
};

/// Accounts, and the services of each.
const ACCOUNTS: [(&str, &[&str]); 2] = [("main", &["shop", "checkout"]), ("other", &["mobile"])];
/// Callers at the same time, over the services.
const CALLERS: usize = 6;
/// The province of the short trace.
const PROVINCE: u64 = 31;
/// Longest time that the walk of a tree may take.
const WALK: Duration = Duration::from_secs(600);

/// The region tree: for each target of a lookup, what the response lists.
struct Tree {
    lists: HashMap<String, String>,
    villages: Vec<Village>,
}

/// What a checkout looks up for one village.
struct Village {
    targets: [String; 5],
}

impl Tree {
    /// The tree of the sandbox's data (`sandbox/data/make-regions.py` has the format), or of one province.
    fn read(only: Option<u64>) -> Tree {
        let file = include_bytes!("../../sandbox/data/regions.gz").as_slice();
        let mut text = String::new();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("whole");
        let mut lists = BTreeMap::<String, Vec<String>>::new();
        let mut villages = Vec::new();
        let (mut province, mut city, mut district, mut number, mut post) = (0, 0, 0, 0, 0_u64);
        for line in text.lines() {
            let (tag, name) = line.split_once(' ').expect("a tag and a name");
            let digits = || tag[1..].parse::<u64>().expect("digits");
            match tag.as_bytes().first() {
                Some(b'=') => province = digits(),
                Some(b'+') => city = province * 100 + digits(),
                Some(b'-') => district = (city * 100 + digits()) * 10,
                _ => {
                    let (own, code) = tag.split_once('@').unwrap_or((tag, ""));
                    number = own.strip_prefix('#').map_or(number + 1, |own| own.parse().expect("digits"));
                    post = if code.is_empty() { post } else { code.parse().expect("digits") };
                }
            }
            if only.is_some_and(|only| only != province) {
                continue;
            }
            let mut list = |target: String, row: String| lists.entry(target).or_default().push(row);
            match tag.as_bytes().first() {
                Some(b'=') => list(provinces(), format!(r#"{{"province_id":{province},"name":"{name}"}}"#)),
                Some(b'+') => list(
                    format!("/region/city?province_id={province}"),
                    format!(r#"{{"city_id":{city},"name":"{name}","province_id":{province}}}"#),
                ),
                Some(b'-') => list(
                    format!("/region/district?city_id={city}"),
                    format!(r#"{{"district_id":{district},"name":"{name}","city_id":{city}}}"#),
                ),
                _ => {
                    let id = district / 10 * 10_000 + number;
                    let village = Village {
                        targets: [
                            provinces(),
                            format!("/region/city?province_id={province}"),
                            format!("/region/district?city_id={city}"),
                            format!("/region/sub-district?district_id={district}"),
                            format!("/region/post-code?post_code={post:05}"),
                        ],
                    };
                    let row = format!(r#"{{"subdistrict_id":{id},"name":"{name}","post_code":"{post:05}"}}"#);
                    village.targets[3..].iter().for_each(|target| list(target.clone(), row.clone()));
                    villages.push(village);
                }
            }
        }
        Tree { lists: lists.into_iter().map(|(target, rows)| (target, rows.join(","))).collect(), villages }
    }
}

fn provinces() -> String {
    "/region/province".to_owned()
}

/// What every right response to this request contains, and no other one.
fn mark(account: &str, target: &str) -> String {
    format!(r#""message":"{account} {target}""#)
}

fn access_of(account: &str) -> String {
    format!("access-of-{account}")
}

/// Fastrac for one account.
struct Stub {
    account: &'static str,
    tree: Arc<Tree>,
    /// How often each target was asked for.
    calls: Mutex<HashMap<String, usize>>,
    /// Requests without the account's key pair, or for what does not exist.
    wrong: AtomicUsize,
}

impl Stub {
    fn start(account: &'static str, tree: Arc<Tree>) -> (Arc<Stub>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let stub = Arc::new(Stub { account, tree, calls: Mutex::default(), wrong: AtomicUsize::new(0) });
        let own = stub.clone();
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let stub = own.clone();
                thread::spawn(move || stub.serve(socket));
            }
        });
        (stub, address)
    }

    fn serve(&self, mut socket: TcpStream) {
        let _ = socket.set_nodelay(true);
        let mut lines = BufReader::new(socket.try_clone().expect("cloned")).lines().map_while(Result::ok);
        while let Some(first) = lines.next() {
            let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
            let target = first.split(' ').nth(1).unwrap_or_default();
            let rows = self.tree.lists.get(target).filter(|_| self.is_authorized(&head));
            let body = match rows {
                Some(rows) => format!(r#"{{"success":true,{},"data":[{rows}]}}"#, mark(self.account, target)),
                None => r#"{"success":false,"message":"wrong"}"#.to_owned(),
            };
            if rows.is_none() {
                self.wrong.fetch_add(1, Relaxed);
            }
            *self.calls.lock().expect("whole").entry(target.to_owned()).or_default() += 1;
            let head = "content-type: application/json";
            let response = format!("HTTP/1.1 200 OK\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            if socket.write_all(response.as_bytes()).is_err() {
                return;
            }
        }
    }

    /// Whether a head has the account's key pair, in any style.
    fn is_authorized(&self, head: &[String]) -> bool {
        let access = access_of(self.account);
        let basic = |value: &str| STANDARD.decode(value).is_ok_and(|pair| pair.starts_with(access.as_bytes()));
        head.iter().filter_map(|line| line.rsplit_once(' ')).any(|(_, value)| value.contains(&access) || basic(value))
    }

    fn calls(&self) -> usize {
        self.calls.lock().expect("whole").values().sum()
    }
}

/// A gateway with an account for each stub, and a trace of requests.
struct Replay {
    tree: Arc<Tree>,
    stubs: Vec<Arc<Stub>>,
    program: Program,
    requests: usize,
    /// Resident memory of the process before the first lookup, in bytes.
    resident: u64,
    _keys: tempfile::TempDir,
}

/// What became of the requests.
#[derive(Debug, Default)]
struct Tally {
    requests: AtomicUsize,
    hits: AtomicUsize,
    /// The first response that was wrong.
    wrong: Mutex<Option<String>>,
    ended: AtomicBool,
}

impl Replay {
    fn start() -> Replay {
        let requests = std::env::var("FASTRAC_REPLAY").ok().map(|number| number.parse().expect("a number"));
        // A walk leaves an eighth of it free: the whole tree of both accounts needs more than the default.
        let memory = std::env::var("FASTRAC_REPLAY_MEMORY").unwrap_or_else(|_| "80MiB".to_owned());
        let tree = Arc::new(Tree::read(requests.is_none().then_some(PROVINCE)));
        let keys = tempfile::tempdir().expect("a folder");
        let mut configuration = format!(
            "[listen]\ndata = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nworkers = 2\n\
             [log]\nexchanges = \"none\"\n[cache]\nmemory = \"{memory}\"\n\
             [admin]\ntoken_sha256 = \"{}\"\n",
            digest_of("operator")
        );
        let mut stubs = Vec::new();
        for (account, services) in ACCOUNTS {
            let (stub, address) = Stub::start(account, tree.clone());
            stubs.push(stub);
            let file = keys.path().join(format!("{account}.toml"));
            write(&file, &pair(&access_of(account), "secret").replace("[main]", &format!("[{account}]")));
            configuration.push_str(&format!(
                "[accounts.{account}]\nbase_url = \"http://{address}\"\n\
                 keys = {{ source = \"file\", path = \"{}\" }}\n\
                 budget = {{ per_second = 100000, burst = 100000, per_day = 10000000, in_flight = 64 }}\n",
                file.display()
            ));
            for service in services {
                configuration.push_str(&format!(
                    "[services.{service}]\naccount = \"{account}\"\nallow = [\"lookup\"]\n\
                     credentials = [{{ access_key = \"svc-{service}-1\", secret_sha256 = \"{}\" }}]\n",
                    digest_of(service)
                ));
            }
        }
        let program = Program::start(&configuration, "unused", "unused");
        let mut replay =
            Replay { tree, stubs, program, requests: requests.unwrap_or(20_000), resident: 0, _keys: keys };
        replay.wait_for_keys();
        replay.resident = replay.resident_now();
        replay
    }

    /// Each account's canary is one lookup.
    fn wait_for_keys(&self) {
        until("all key pairs are verified", || {
            self.stubs.iter().all(|stub| stub.calls() > 0) && self.program.admin_page("/readyz").status == 200
        });
        self.stubs.iter().for_each(|stub| stub.calls.lock().expect("whole").clear());
    }

    fn resident_now(&self) -> u64 {
        let status = std::fs::read_to_string(self.program.proc("status")).expect("running");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// Walks the tree of every account.
    fn warm(&self) -> Duration {
        let began = Instant::now();
        assert_eq!(self.admin(post("/cache/warm", "{}")).status, 200);
        loop {
            let walks = self.status()["cache"]["walks"].clone();
            let states = ACCOUNTS.map(|(account, _)| walks[account]["state"].clone());
            if states.iter().all(|state| state == "complete") {
                return began.elapsed();
            }
            assert!(began.elapsed() < WALK && states.iter().all(|state| state.is_string()), "{walks}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn status(&self) -> serde_json::Value {
        self.admin(get("/status")).json()
    }

    fn admin(&self, request: Request) -> Response {
        let token = format!("Bearer {}", secret_of("operator"));
        let request = request.header("host", "localhost").header("authorization", &token);
        Connection::open(self.program.admin).send(&request)
    }

    /// Plays the first `requests` of a trace that `seed` determines.
    fn play(&self, requests: usize, seed: u64) -> Tally {
        let tally = Tally::default();
        let trace = Trace::new(self.tree.villages.len());
        let callers = ACCOUNTS.iter().flat_map(|(account, services)| services.iter().map(move |it| (*account, *it)));
        thread::scope(|scope| {
            for (number, (account, service)) in callers.cycle().take(CALLERS).enumerate() {
                let (tally, trace) = (&tally, &trace);
                let mut random = fastrand::Rng::with_seed(seed + number as u64);
                scope.spawn(move || {
                    let mut caller = Caller { account, service, connection: Connection::open(self.program.data) };
                    while tally.requests.load(Relaxed) < requests && !tally.ended.load(Relaxed) {
                        let village = trace.draw(&mut random);
                        caller.check_out(&self.tree.villages[village], tally);
                    }
                });
            }
        });
        assert_eq!(*tally.wrong.lock().expect("whole"), None);
        tally
    }

    /// Targets that were asked for more than once, and requests that the stubs refused.
    fn check_calls(&self) {
        for stub in &self.stubs {
            let calls = stub.calls.lock().expect("whole");
            let again: Vec<_> = calls.iter().filter(|(_, calls)| **calls > 1).collect();
            assert!(again.is_empty(), "{}: {again:?}", stub.account);
            assert_eq!(stub.wrong.load(Relaxed), 0, "{}", stub.account);
        }
    }

    fn report(&self, what: &str, tally: &Tally) -> f64 {
        let (requests, hits) = (tally.requests.load(Relaxed), tally.hits.load(Relaxed));
        let share = hits as f64 / requests as f64;
        let calls: Vec<_> = self.stubs.iter().map(|stub| stub.calls()).collect();
        let cache = self.status()["cache"].clone();
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        eprintln!(
            "{what}: {requests} requests, {:.3} % hits; calls so far {calls:?}; {} entries, {:.1} MiB; RSS {:.1} MiB, \
             {:.1} MiB more than before",
            share * 100.0,
            cache["entries"],
            mib(cache["bytes"].as_u64().expect("a number")),
            mib(self.resident_now()),
            mib(self.resident_now().saturating_sub(self.resident)),
        );
        share
    }
}

/// One caller of a service, with a connection of its own.
struct Caller {
    account: &'static str,
    service: &'static str,
    connection: Connection,
}

impl Caller {
    /// Looks one village up, with all requests at once.
    fn check_out(&mut self, village: &Village, tally: &Tally) {
        let requests: Vec<u8> =
            village.targets.iter().flat_map(|target| get(target).by(self.service).bytes()).collect();
        self.connection.write(&requests);
        for target in &village.targets {
            let response = self.connection.read_response("GET").expect("a response");
            let mark = mark(self.account, target);
            let right = response.status == 200 && memchr::memmem::find(&response.body, mark.as_bytes()).is_some();
            if !right {
                tally.ended.store(true, Relaxed);
                *tally.wrong.lock().expect("whole") = Some(format!("{} {target}: {response:?}", self.service));
            }
            tally.requests.fetch_add(1, Relaxed);
            tally.hits.fetch_add(usize::from(is_hit(&response)), Relaxed);
        }
    }
}

fn is_hit(response: &Response) -> bool {
    response.header("cache-status").is_some_and(|value| value.starts_with("fastrac-gateway; hit"))
}

/// Which villages are looked up: the one of rank n is n times as rare as the first.
struct Trace {
    /// Sum of the weights up to each rank.
    sums: Vec<f64>,
    /// Village of each rank.
    ranks: Vec<usize>,
}

impl Trace {
    fn new(villages: usize) -> Trace {
        let mut ranks: Vec<_> = (0..villages).collect();
        fastrand::Rng::with_seed(17).shuffle(&mut ranks);
        let weights = (1..=villages).scan(0.0, |sum, rank| {
            *sum += 1.0 / rank as f64;
            Some(*sum)
        });
        Trace { sums: weights.collect(), ranks }
    }

    fn draw(&self, random: &mut fastrand::Rng) -> usize {
        let at = random.f64() * self.sums[self.sums.len() - 1];
        self.ranks[self.sums.partition_point(|sum| *sum <= at).min(self.ranks.len() - 1)]
    }
}

#[test]
fn a_trace_over_the_region_tree_is_answered_from_the_cache() {
    let replay = Replay::start();
    // Cold: what is looked up first is a miss, and no response is fetched twice, also for two services.
    let cold = replay.play(replay.requests / 4, 1);
    replay.report("cold", &cold);
    let usual = std::env::var("FASTRAC_REPLAY_MEMORY").is_err();
    let distinct: usize = replay.stubs.iter().map(|stub| stub.calls.lock().expect("whole").len()).sum();
    if usual {
        replay.check_calls();
        assert!(cold.requests.load(Relaxed) - cold.hits.load(Relaxed) >= distinct, "{cold:?}");
    }
    eprintln!("the rest of the tree was fetched within {:?}", replay.warm());
    let calls = || replay.stubs.iter().map(|stub| stub.calls()).sum::<usize>();
    let walked = calls();
    let warm = replay.play(replay.requests, 100);
    let share = replay.report("warm", &warm);
    let misses = warm.requests.load(Relaxed) - warm.hits.load(Relaxed);
    assert!(calls() - walked <= misses, "{} calls for {misses} misses", calls() - walked);
    if usual {
        assert!(share >= 0.99, "{share}");
        replay.check_calls();
        assert_eq!(walked, replay.tree.lists.len() * ACCOUNTS.len());
    }
    let bytes = replay.status()["cache"]["bytes"].as_u64().expect("a number");
    // Other memory of a process that works: connections, the walk's ids, what the allocator keeps.
    let other = 24 << 20;
    assert!(replay.resident_now() - replay.resident <= bytes + bytes / 5 + other, "{bytes}");
}
