//! Restarts under load, with every pattern of connections: keep-alive, one connection per request, pipelined, HTTP/2.
//!
//! What always holds, whatever the instant of the SIGTERM: a request whose head was read (it has a line in the exchange
//! log) is answered; no order becomes unknown; a client that repeats an order under its `Idempotency-Key` until it is
//! answered gets it executed once. Each order takes Fastrac 1 to 50 ms.
//!
//! 20 restarts; `FASTRAC_RESTARTS=100` for another number.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use fastrac_sandbox::{Act, DelayDistribution, Fault, Sandbox};
use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::{
    bodies,
    client::{Connection, Request, Response, post},
    h2::{self, Http2Connection},
    process::Program,
    test_gateway::{ACCESS, SECRET, digest_of, sandbox, until},
};

/// Requests that a pipelining client writes at once, and open streams of an HTTP/2 client.
const AT_ONCE: usize = 4;
/// Least number of orders that are answered before the next restart.
const BETWEEN: usize = 10;
/// Pause of a client whose connection was refused.
const PAUSE: Duration = Duration::from_millis(2);

/// The clients' orders, and what became of them.
struct Load {
    data: SocketAddr,
    /// Number of the next order.
    next: AtomicUsize,
    /// Number of the next request.
    requests: AtomicUsize,
    ended: AtomicBool,
    /// Orders that were answered with 200.
    done: AtomicUsize,
    /// Ids of the requests that got a whole response.
    answered: Mutex<BTreeSet<String>>,
    /// Responses other than 200.
    refused: Mutex<Vec<String>>,
}

/// One attempt to place an order.
struct OrderAttempt {
    number: usize,
    id: String,
}

impl Load {
    fn new(data: SocketAddr) -> Load {
        let (answered, refused) = Default::default();
        let (next, requests, done) = Default::default();
        Load { data, next, requests, ended: AtomicBool::new(false), done, answered, refused }
    }

    /// A new order; `None` once the load ends.
    fn order(&self) -> Option<usize> {
        (!self.ended.load(Relaxed)).then(|| self.next.fetch_add(1, Relaxed))
    }

    fn attempt(&self, number: usize) -> (OrderAttempt, Request) {
        let id = format!("attempt-{:07}", self.requests.fetch_add(1, Relaxed));
        let request = post("/order/express", &bodies::order(number)).by("shop").header("x-request-id", &id);
        (OrderAttempt { number, id }, request.header("idempotency-key", &format!("order-{number}")))
    }

    /// Records a response.
    fn answered(&self, attempt: OrderAttempt, status: u16, text: impl FnOnce() -> String) {
        self.answered.lock().expect("whole").insert(attempt.id);
        if status == 200 {
            self.done.fetch_add(1, Relaxed);
        } else {
            self.refused.lock().expect("whole").push(format!("order {}: {status}: {}", attempt.number, text()));
        }
    }

    fn connect(&self) -> Connection {
        loop {
            match Connection::try_open(self.data) {
                Some(connection) => return connection,
                None => thread::sleep(PAUSE),
            }
        }
    }

    /// Writes up to `at_once` requests before it reads their responses, and repeats what was not answered. `keep`: on
    /// connections that are used again.
    fn run_http1(&self, at_once: usize, keep: bool) {
        let (mut connection, mut open) = (None, Vec::new());
        loop {
            while open.len() < at_once
                && let Some(number) = self.order()
            {
                open.push(number);
            }
            if open.is_empty() {
                return;
            }
            let current = connection.get_or_insert_with(|| self.connect());
            let (attempts, bytes): (Vec<_>, Vec<_>) = open
                .iter()
                .map(|number| {
                    let (attempt, request) = self.attempt(*number);
                    (attempt, request.bytes())
                })
                .unzip();
            current.write(&bytes.concat());
            let mut goes_on = keep;
            for attempt in attempts {
                let Some(response) = current.read_response("POST").filter(|response| response.whole) else {
                    goes_on = false;
                    break;
                };
                open.retain(|number| *number != attempt.number);
                self.answered(attempt, response.status, || response.text());
                if closes(&response) {
                    goes_on = false;
                    break;
                }
            }
            if !goes_on {
                connection = None;
            }
        }
    }

    async fn run_http2(&self) {
        let (mut connection, mut open) = (None, Vec::new());
        loop {
            while open.len() < AT_ONCE
                && let Some(number) = self.order()
            {
                open.push(number);
            }
            if open.is_empty() {
                return;
            }
            let current = match &mut connection {
                Some(connection) => connection,
                None => match TcpStream::connect(self.data).await {
                    Ok(stream) => connection.insert(Http2Connection::begin(stream).await),
                    Err(_) => {
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                },
            };
            let sent: Vec<_> = open
                .iter()
                .map(|number| {
                    let (attempt, request) = self.attempt(*number);
                    (attempt, current.send(request))
                })
                .collect();
            let mut goes_on = true;
            for (attempt, response) in sent {
                match response.await.expect("no panic") {
                    Ok((status, body)) => {
                        open.retain(|number| *number != attempt.number);
                        self.answered(attempt, status, || String::from_utf8_lossy(&body).into_owned());
                    }
                    Err(_) => goes_on = false,
                }
            }
            if !goes_on {
                connection = None;
            }
        }
    }
}

fn closes(response: &Response) -> bool {
    response.header("connection") == Some("close")
}

fn configuration(data: SocketAddr, fastrac: SocketAddr, grace: &str) -> String {
    format!(
        "[listen]\ndata = [\"{data}\"]\nadmin = \"127.0.0.1:0\"\nworkers = 2\n\
         [limits]\ndrain_grace = \"{grace}\"\ndrain = \"15s\"\n\
         [accounts.main]\nbase_url = \"http://{fastrac}\"\nkeys = {{ source = \"file\", path = \"keys.toml\" }}\n\
         budget = {{ per_second = 100000, burst = 100000, per_day = 10000000, in_flight = 512 }}\n\
         breaker = {{ minimum = 100000 }}\n\
         [services.shop]\naccount = \"main\"\nallow = [\"lookup\", \"order\"]\n\
         credentials = [{{ access_key = \"svc-shop-1\", secret_sha256 = \"{}\" }}]\n",
        digest_of("shop")
    )
}

/// An address that no other test binds: of its own network of loopback addresses.
fn own_address() -> SocketAddr {
    static PORT: AtomicU16 = AtomicU16::new(18_080);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, 64 + high % 64, middle, low], PORT.fetch_add(1, Relaxed)))
}

/// The lines of the requests whose heads were read.
fn lines(program: &Program) -> BTreeMap<String, serde_json::Value> {
    let text = std::fs::read_to_string(program.file("state/exchanges.jsonl")).expect("a log");
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON"));
    lines.map(|line| (line["request_id"].as_str().unwrap_or("an event").to_owned(), line)).collect()
}

/// Who sends orders, and how long they take.
struct Scenario {
    /// `limits.drain_grace`.
    grace: &'static str,
    /// Maximum time that an order takes Fastrac, in milliseconds; the minimum is 1.
    most: u64,
    clients: &'static [Pattern],
}

/// How a client uses its connections.
#[derive(Clone, Copy)]
enum Pattern {
    KeepAlive,
    OnePerRequest,
    Pipelined,
    Http2,
}

impl Load {
    fn run(&self, pattern: Pattern) {
        match pattern {
            Pattern::KeepAlive => self.run_http1(1, true),
            Pattern::OnePerRequest => self.run_http1(1, false),
            Pattern::Pipelined => self.run_http1(AT_ONCE, true),
            Pattern::Http2 => h2::run(self.run_http2()),
        }
    }
}

fn restart_under_load(restarts: usize, scenario: &Scenario) {
    let Scenario { grace, most, clients } = *scenario;
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let delay = Some(DelayDistribution::Uniform { least: 1, most });
    fastrac.fault(Fault { delay, ..Fault::on("v2.order_express", Act::Pass) });
    let load = Load::new(own_address());
    let mut program = Program::start(&configuration(load.data, fastrac.addr(), grace), ACCESS, SECRET);
    thread::scope(|scope| {
        let load = &load;
        clients.iter().for_each(|pattern| drop(scope.spawn(move || load.run(*pattern))));
        for round in 0..restarts {
            let before = load.done.load(Relaxed);
            until("orders are answered", || load.done.load(Relaxed) > before + BETWEEN + round);
            program.signal(Signal::TERM);
            assert_eq!(program.ends(Duration::from_secs(10)).code(), Some(0), "{}", program.stderr());
            program.start_again();
        }
        load.ended.store(true, Relaxed);
    });
    program.signal(Signal::TERM);
    assert_eq!(program.ends(Duration::from_secs(10)).code(), Some(0), "{}", program.stderr());

    let (answered, refused) = (load.answered.into_inner().expect("whole"), load.refused.into_inner().expect("whole"));
    let lost: Vec<_> = lines(&program).into_iter().filter(|(id, _)| !answered.contains(id)).collect();
    assert_eq!(lost, [], "{} of {} requests were read and not answered", lost.len(), answered.len());
    assert_eq!(refused, [] as [&str; 0]);
    let orders = fastrac.counters().orders;
    assert_eq!((orders.express as usize, orders.duplicates), (load.next.into_inner(), 0));
}

fn restarts() -> usize {
    std::env::var("FASTRAC_RESTARTS").map_or(20, |number| number.parse().expect("a number"))
}

const ALL: [Pattern; 8] = [
    Pattern::KeepAlive,
    Pattern::OnePerRequest,
    Pattern::Pipelined,
    Pattern::Http2,
    Pattern::KeepAlive,
    Pattern::OnePerRequest,
    Pattern::Pipelined,
    Pattern::Http2,
];

#[test]
fn a_restart_under_load_answers_whatever_was_read() {
    restart_under_load(restarts(), &Scenario { grace: "0s", most: 50, clients: &ALL });
}

#[test]
fn a_restart_with_a_grace_period_answers_whatever_was_read() {
    restart_under_load(restarts() / 2, &Scenario { grace: "100ms", most: 50, clients: &ALL });
}

/// A single caller, between whose connections there are instants without any.
#[test]
fn a_restart_between_two_connections_answers_whatever_was_read() {
    restart_under_load(restarts(), &Scenario { grace: "0s", most: 2, clients: &[Pattern::OnePerRequest] });
}
