//! Day counts survive kills, restarts and a lost store: never above a limit, and short by no more than is stated. No
//! restart grants a burst.
//!
//! 30 kills and 30 restarts, at random instants under load; `FASTRAC_KILLS=100` for another number.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use fastrac_sandbox::{Act, Fault, KeyPair, Options, Sandbox};
use rustix::process::Signal;

#[cfg(target_os = "linux")]
use crate::system_faults::{SystemFaults, begin, end};
use crate::{
    bodies,
    client::{Connection, get, post},
    process::Program,
    test_gateway::{ACCESS, SECRET, TWIN, digest_of, sandbox, secret_of, sum, until},
};

/// `services.shop.quota.per_day`; after a kill, 5 may be missing.
const LIMIT: u64 = 1_000;
const SLACK: u64 = 5;
const CLIENTS: usize = 4;

fn kills() -> u64 {
    std::env::var("FASTRAC_KILLS").map_or(30, |number| number.parse().expect("a number"))
}

fn configuration(fastrac: &Sandbox, quota: &str) -> String {
    format!(
        "[listen]\ndata = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nworkers = 2\n\
         [limits]\ndrain_grace = \"0s\"\ndrain = \"5s\"\n\
         [accounts.main]\nbase_url = \"http://{}\"\nkeys = {{ source = \"file\", path = \"keys.toml\" }}\n\
         budget = {{ per_second = 100000, burst = 100000, per_day = 200000, in_flight = 64 }}\n\
         [services.shop]\naccount = \"main\"\nallow = [\"lookup\", \"quote\"]\nquota = {{ {quota} }}\n\
         credentials = [{{ access_key = \"svc-shop-1\", secret_sha256 = \"{}\" }}]\n",
        fastrac.addr(),
        digest_of("shop")
    )
}

/// Quotes that Fastrac has received, once none is on its way any more.
fn received(fastrac: &Sandbox) -> u64 {
    let count =
        || fastrac.journal().iter().filter(|entry| entry.uri.path().ends_with("/tariff/express")).count() as u64;
    let mut last = count();
    loop {
        thread::sleep(Duration::from_millis(20));
        let now = count();
        if now == last {
            return now;
        }
        last = now;
    }
}

fn used(program: &Program) -> u64 {
    let status: serde_json::Value = serde_json::from_slice(&program.admin_page("/status").body).expect("JSON");
    status["services"]["shop"]["used_today"].as_u64().expect("a number")
}

/// Clients that ask for quotes on connections of their own, while a program runs at `data`.
struct Load {
    data: Mutex<std::net::SocketAddr>,
    ended: AtomicBool,
    answered: AtomicU64,
    refused: AtomicU64,
    other: Mutex<Vec<String>>,
}

impl Load {
    fn run(&self) {
        let mut connection = None;
        while !self.ended.load(Relaxed) {
            let Some(current) = connection.as_mut() else {
                connection = Connection::try_open(*self.data.lock().expect("whole"));
                if connection.is_none() {
                    thread::sleep(Duration::from_millis(2));
                }
                continue;
            };
            current.write(&post("/tariff/express", bodies::TARIFF).by("shop").bytes());
            match current.read_response("POST") {
                None => connection = None,
                Some(response) => match response.status {
                    200 => drop(self.answered.fetch_add(1, Relaxed)),
                    429 => drop(self.refused.fetch_add(1, Relaxed)),
                    status => self.other.lock().expect("whole").push(format!("{status}: {}", response.text())),
                },
            }
        }
    }
}

/// Ends the clients, also if the test fails.
struct EndLoad<'a>(&'a Load);

impl Drop for EndLoad<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Relaxed);
    }
}

/// Runs clients, and `rounds` times, at random instants, `interrupt`.
fn under_load(program: &mut Program, rounds: u64, mut interrupt: impl FnMut(&mut Program)) -> Load {
    let load = Load {
        data: Mutex::new(program.data),
        ended: AtomicBool::new(false),
        answered: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        other: Mutex::default(),
    };
    thread::scope(|scope| {
        let _ended = EndLoad(&load);
        for _ in 0..CLIENTS {
            scope.spawn(|| load.run());
        }
        for _ in 0..rounds {
            let (before, more) = (load.answered.load(Relaxed), fastrand::u64(1..25));
            until("quotes are answered", || {
                load.answered.load(Relaxed) >= before + more || load.refused.load(Relaxed) > 0
            });
            thread::sleep(Duration::from_micros(fastrand::u64(..3_000)));
            interrupt(program);
            *load.data.lock().expect("whole") = program.data;
        }
        until("the quota is used up", || load.refused.load(Relaxed) > 0);
    });
    load
}

#[test]
fn a_kill_never_grants_a_unit_twice_and_loses_no_more_than_the_slack() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let mut program = Program::start(&configuration(&fastrac, "per_day = 1000"), ACCESS, SECRET);
    let (mut gap, mut largest) = (0, 0);
    let load = under_load(&mut program, kills(), |program| {
        program.signal(Signal::KILL);
        program.ends(Duration::from_secs(5));
        let received = received(&fastrac);
        program.start_again();
        // Clients only know the old address.
        let used = used(program);
        assert!(received <= used, "{received} were sent, and {used} are counted");
        let lost = used - received - gap;
        assert!(lost <= SLACK, "{lost} were lost at once; {received} sent, {used} counted");
        (gap, largest) = (gap + lost, largest.max(lost));
    });
    let sent = received(&fastrac);
    assert!(sent <= LIMIT && sent + gap >= LIMIT, "{sent} were sent, {gap} lost");
    assert_eq!(load.other.into_inner().expect("whole"), [] as [&str; 0]);
    assert!(gap <= kills() * SLACK, "{gap} were lost, at most {largest} at once");
}

#[test]
fn a_clean_restart_keeps_the_count_exactly() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let mut program = Program::start(&configuration(&fastrac, "per_day = 1000"), ACCESS, SECRET);
    let load = under_load(&mut program, kills(), |program| {
        program.signal(Signal::TERM);
        assert_eq!(program.ends(Duration::from_secs(10)).code(), Some(0), "{}", program.stderr());
        let received = received(&fastrac);
        program.start_again();
        assert_eq!(used(program), received);
    });
    assert_eq!(received(&fastrac), LIMIT);
    assert_eq!(load.other.into_inner().expect("whole"), [] as [&str; 0]);
}

/// The gateway's own calls cost units of the account's day, which has large blocks here. Fastrac answers them late.
#[test]
fn a_stop_while_the_gateway_itself_calls_fastrac_keeps_the_count_exactly() {
    let keys = [(ACCESS, SECRET), TWIN].map(|(access, secret)| KeyPair::new(access, access, secret));
    let fastrac = Sandbox::start(Options { keys: keys.into(), ..sandbox() }).expect("a sandbox");
    let canaries =
        || fastrac.journal().iter().filter(|entry| entry.uri.path().ends_with("/region/province")).count() as u64;
    let mut program = Program::start(&configuration(&fastrac, "per_day = 1000"), ACCESS, SECRET);
    let counted = |program: &Program| {
        until("the key pair is verified", || program.admin_page("/readyz").status == 200);
        let status: serde_json::Value = serde_json::from_slice(&program.admin_page("/status").body).expect("JSON");
        let budget = &status["accounts"]["main"]["budget"];
        let units = |value: &serde_json::Value| value.as_u64().expect("a number");
        (units(&budget["used_today"]), units(&budget["spent_today"]["-"]))
    };
    // During start-up, which waits for the canary; and later, when a new pair is verified.
    for (is_up, pair) in [(false, (ACCESS, SECRET)), (true, TWIN), (false, TWIN), (true, (ACCESS, SECRET))] {
        if !is_up {
            program.signal(Signal::TERM);
            assert_eq!(program.ends(Duration::from_secs(10)).code(), Some(0), "{}", program.stderr());
        }
        let before = canaries();
        fastrac.fault(Fault::on("v2.province", Act::Pass).wait(Duration::from_secs(3)));
        if is_up {
            program.rotate(pair.0, pair.1);
        } else {
            program.begin_again_as(|_| {});
        }
        until("a canary is in flight", || canaries() > before);
        program.signal(Signal::TERM);
        assert_eq!(program.ends(Duration::from_secs(10)).code(), Some(0), "{}", program.stderr());
        fastrac.clear_faults();
        program.start_again();
        assert_eq!(counted(&program), (canaries(), canaries()), "was up: {is_up}");
    }
}

/// How many of so many quotes are given.
fn quotes(program: &Program, number: usize) -> usize {
    quotes_of(program, "shop", number)
}

fn quotes_of(program: &Program, service: &str, number: usize) -> usize {
    let mut connection = Connection::open(program.data);
    let quote = post("/tariff/express", bodies::TARIFF).by(service);
    (0..number).filter(|_| connection.send(&quote).status == 200).count()
}

/// Two services that are guaranteed half of a day each, and have a large quota of their own.
fn two_halves(fastrac: &Sandbox, per_day: u32) -> Program {
    // A zone whose day does not end soon: the guarantees are lent in its last hour.
    let hour = jiff::Timestamp::now().as_second() / 3_600 % 24;
    let zone = if hour < 12 { "UTC" } else { "Etc/GMT-12" };
    let mut configuration = configuration(fastrac, "per_day = 1000000")
        .replace("per_day = 200000,", &format!("per_day = {per_day},"))
        .replace("[services.shop]\n", &format!("day_zone = \"{zone}\"\n[services.shop]\nshare = 0.5\n"));
    let shop = configuration.split_once("[services.shop]").expect("a service").1;
    configuration +=
        &format!("[services.web]{}", shop.replace(&digest_of("shop"), &digest_of("web")).replace("shop", "web"));
    Program::start(&configuration, ACCESS, SECRET)
}

fn kill_and_start(program: &mut Program) {
    program.signal(Signal::KILL);
    program.ends(Duration::from_secs(5));
    program.start_again();
}

/// One uses its half; the kill comes before who has spent what is written.
#[test]
fn a_kill_gives_no_service_its_share_of_the_day_anew() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let mut program = two_halves(&fastrac, 400);
    let before = quotes_of(&program, "shop", 210);
    assert!((190..=200).contains(&before), "{before}");
    kill_and_start(&mut program);
    assert_eq!(quotes_of(&program, "shop", 20), 0, "it has used its share");
    // At most 0.5 % of the account's day is lost, and what the gateway has called by itself.
    let web = quotes_of(&program, "web", 210);
    assert!((190..=200).contains(&web), "{web}");
}

/// What the one has spent right before the kill is not charged to the other: it loses 0.5 % of its own 500 at most.
#[test]
fn a_kill_charges_no_service_for_what_others_have_spent() {
    const SLACK: usize = 2;
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let mut program = two_halves(&fastrac, 1_000);
    let mut shop = quotes_of(&program, "shop", 50);
    let mut web = 0;
    for kills in 1..=3 {
        web += quotes_of(&program, "web", 100);
        kill_and_start(&mut program);
        shop += quotes_of(&program, "shop", 20);
        assert_eq!((shop, web), (50 + 20 * kills, 100 * kills));
    }
    shop += quotes_of(&program, "shop", 500);
    assert!((500 - 3 * SLACK..=500).contains(&shop), "{shop}");
    // It also lacks what the account has lost, and what the gateway has called by itself.
    web += quotes_of(&program, "web", 500);
    assert!((500 - 3 * (5 + SLACK) - 10..=500).contains(&web), "{web}");
}

#[test]
fn no_restart_grants_a_burst_and_a_clean_one_loses_none() {
    const BURST: usize = 30;
    for limits_the_service in [true, false] {
        let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
        let limit = "per_second = 1, burst = 30";
        let configuration = if limits_the_service {
            configuration(&fastrac, limit)
        } else {
            let all = configuration(&fastrac, "per_day = 1000");
            all.replace("per_second = 100000, burst = 100000", &format!("{limit}, max_wait = \"0s\""))
        };
        let mut program = Program::start(&configuration, ACCESS, SECRET);
        let began = Instant::now();
        assert_eq!(quotes(&program, 10), 10);
        for signal in [Signal::TERM, Signal::KILL, Signal::TERM, Signal::KILL] {
            program.signal(signal);
            program.ends(Duration::from_secs(10));
            program.start_again();
            let _ = quotes(&program, BURST + 10);
            let passed = began.elapsed().as_secs() as usize + 1;
            let received = received(&fastrac) as usize;
            // Canaries are charged to the budget.
            let sent = if limits_the_service { received } else { fastrac.journal().len() };
            assert!(sent <= BURST + passed, "{sent} in {passed} s, {signal:?}");
            assert!(sent >= BURST, "{sent}: a clean restart keeps what is left");
        }
    }
}

#[test]
fn a_lost_or_damaged_record_is_replaced_by_the_other() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let mut program = Program::start(&configuration(&fastrac, "per_day = 60"), ACCESS, SECRET);
    assert_eq!(quotes(&program, 20), 20);
    let store = program.file("state/state.redb");
    let marks = program.file("state/day-marks");
    let ready = |program: &Program| program.admin_page("/readyz").text();
    assert!(!ready(&program).contains("state.redb"), "{}", ready(&program));
    // The store is gone, then killed: at most one unit is lost, and `/readyz` says so before and after.
    fs::remove_file(&store).expect("removed");
    until("it is noticed", || ready(&program).contains("state.redb is gone"));
    program.signal(Signal::KILL);
    program.ends(Duration::from_secs(5));
    program.start_again();
    until("it is reported", || ready(&program).contains("state.redb was missing at the start"));
    assert!(program.stderr().contains("ERROR") && program.stderr().contains("state.redb was missing"));
    assert!(program.admin_page("/metrics").text().contains("degraded{reason=\"store_lost\"} 1"));
    assert!((20..=21).contains(&used(&program)), "{}", used(&program));
    // Ended, and the store is replaced by an empty one.
    program.signal(Signal::TERM);
    program.ends(Duration::from_secs(10));
    let before = fs::read(&marks).expect("a file");
    fs::remove_file(&store).expect("removed");
    program.start_again();
    assert!((20..=21).contains(&used(&program)), "{}", used(&program));
    let more = quotes(&program, 10);
    let total = used(&program);
    assert_eq!(more, 10);
    // Ended, and the marks are gone: the store is exact.
    program.signal(Signal::TERM);
    program.ends(Duration::from_secs(10));
    fs::remove_file(&marks).expect("removed");
    program.start_again();
    assert_eq!(used(&program), total);
    assert!(!ready(&program).contains("missing"), "{}", ready(&program));
    // The marks are older than the store, or damaged: never less.
    program.signal(Signal::TERM);
    program.ends(Duration::from_secs(10));
    fs::write(&marks, before).expect("written");
    program.start_again();
    assert!(used(&program) >= total);
    program.signal(Signal::TERM);
    program.ends(Duration::from_secs(10));
    fs::write(&marks, "damaged").expect("written");
    program.start_again();
    assert!(used(&program) >= total && program.file("state/day-marks.unreadable").exists());
}

/// A reload with another limit or zone, and a service that is removed and added again, keep the count.
#[test]
fn a_kill_after_a_limit_was_lowered_loses_the_new_slack_only() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let mut program = Program::start(&configuration(&fastrac, "per_day = 100000"), ACCESS, SECRET);
    let mut connection = Connection::open(program.data);
    for _ in 0..30 {
        assert_eq!(connection.send(&post("/tariff/express", bodies::TARIFF).by("shop")).status, 200);
    }
    fs::write(program.file(crate::process::CONFIG), configuration(&fastrac, "per_day = 40")).expect("written");
    program.signal(Signal::HUP);
    until("the new limit is in force", || {
        let response = connection.send(&post("/tariff/express", bodies::TARIFF).by("shop"));
        response.header("ratelimit-policy").is_some_and(|policy| policy.contains("q=40;"))
    });
    let sent = received(&fastrac);
    program.signal(Signal::KILL);
    program.ends(Duration::from_secs(5));
    program.start_again();
    assert!((sent..=sent + 1).contains(&used(&program)), "{sent} were sent, {} are counted", used(&program));
}

/// A lease is 100 units. What it covers is served; then requests are refused at once, not after `max_wait`; and when the
/// disk writes again, so does the ledger, and the limit is exact.
#[cfg(target_os = "linux")]
#[test]
fn a_full_or_hung_disk_refuses_at_once_what_cannot_be_counted_and_recovers_by_itself() {
    let (fastrac, faults) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    for fault in [faults.full_store(), faults.disk()] {
        let configuration = configuration(&fastrac, "per_day = 300").replace("in_flight = 64", "max_wait = \"20s\"");
        let program = faults.start(&configuration);
        let mut connection = Connection::open(program.data);
        let mut quote = || connection.send(&post("/tariff/express", bodies::TARIFF).by("shop"));
        begin(&fault);
        let served = (0..300).take_while(|_| quote().status == 200).count();
        assert!((99..300).contains(&served), "{served}");
        let began = Instant::now();
        for _ in 0..20 {
            let refused = quote();
            assert_eq!((refused.code().as_str(), refused.sent()), ("gateway.overloaded", "no"), "{refused:?}");
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        until("it is degraded", || program.admin_page("/readyz").text().contains("day counts"));
        end(&fault);
        until("it recovers", || !program.admin_page("/readyz").text().contains("day counts"));
        let more = (0..300).map(|_| quote()).take_while(|response| response.status == 200).count();
        assert_eq!(served + more, 300);
        assert_eq!(quote().code(), "quota.day");
    }
}

/// The journal's row of the table in `spends_once`: an order that cannot be written to the journal costs nothing.
#[cfg(target_os = "linux")]
#[test]
fn orders_that_cannot_be_journalled_cost_nothing_of_any_limit() {
    let (fastrac, faults) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    let configuration =
        configuration(&fastrac, "per_second = 1, burst = 3").replace("\"quote\"]", "\"quote\", \"order\"]");
    let program = faults.start(&configuration);
    begin(&faults.full_store());
    let mut connection = Connection::open(program.data);
    for number in 1..=20 {
        let refused = connection.send(&post("/order/express", &bodies::order(number)).by("shop"));
        assert_eq!((refused.code().as_str(), refused.sent()), ("gateway.overloaded", "no"), "{number}: {refused:?}");
    }
    let status: serde_json::Value = serde_json::from_slice(&program.admin_page("/status").body).expect("JSON");
    let (service, budget) = (&status["services"]["shop"], &status["accounts"]["main"]["budget"]);
    assert_eq!((&service["used_today"], &service["quota"]["second"]["left"]), (&0.into(), &1.into()));
    assert_eq!((&budget["used_today"], &budget["in_flight"]["left"]), (&1.into(), &64.into()), "the canary's");
    end(&faults.full_store());
    assert_eq!(quotes(&program, 3), 3, "the whole burst");
}

/// The file of day marks is lost while the gateway runs, then the gateway is killed.
#[test]
fn a_file_of_marks_that_is_lost_is_written_again() {
    const LIMIT: u64 = 600;
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let mut program = Program::start(&configuration(&fastrac, "per_day = 600"), ACCESS, SECRET);
    let marks = program.file("state/day-marks");
    let losses: [fn(&Path); 4] = [
        |path| fs::remove_file(path).expect("removed"),
        |path| fs::rename(path, path.with_extension("old")).expect("moved"),
        |path| fs::rename(path.with_extension("old"), path).expect("replaced"),
        |path| fs::write(path, "").expect("emptied"),
    ];
    let mut gap = 0;
    for lose in losses {
        let mut connection = Connection::open(program.data);
        let mut quotes = |number: usize| {
            for _ in 0..number {
                assert_eq!(connection.send(&post("/tariff/express", bodies::TARIFF).by("shop")).status, 200);
            }
        };
        quotes(20);
        lose(&marks);
        until("it is noticed", || program.stderr().contains("the file of day marks was lost"));
        quotes(30);
        program.signal(Signal::KILL);
        program.ends(Duration::from_secs(5));
        program.start_again();
        let (received, used) = (received(&fastrac), used(&program));
        let lost = used - received - gap;
        assert!(lost <= LIMIT / 200, "{lost} lost: {received} sent, {used} counted");
        gap += lost;
    }
}

/// A service is blocked for an hour; the clock is two hours ahead for a moment.
#[cfg(target_os = "linux")]
#[test]
fn a_clock_that_jumps_for_a_moment_ends_no_override() {
    let (fastrac, faults) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    let admin = format!("[admin]\ntoken_sha256 = \"{}\"\n[limits]", digest_of("ops"));
    let configuration = configuration(&fastrac, "per_day = 300").replace("[limits]", &admin);
    let mut program = faults.start(&configuration);
    let mut connection = Connection::open(program.data);
    let mut quote = || connection.send(&post("/tariff/express", bodies::TARIFF).by("shop"));
    assert_eq!(quote().status, 200);
    let block = r#"{"service": "shop", "block": true, "for": "1h", "reason": "loops"}"#;
    let token = format!("Bearer {}", secret_of("ops"));
    let block = post("/quota", block).header("host", "localhost").header("authorization", &token);
    assert_eq!(Connection::open(program.admin).send(&block).status, 200);
    let mut is_blocked = || {
        let refused = quote();
        assert!(refused.status == 429 && refused.text().contains("loops"), "{refused:?}");
        let date = jiff::fmt::rfc2822::parse(refused.header("date").expect("a date")).expect("a date").timestamp();
        date.duration_since(jiff::Timestamp::now()).as_secs() / 60
    };
    is_blocked();
    for (change, jumps) in [(begin as fn(&Path), 1), (end, 2)] {
        change(&faults.clock_ahead());
        is_blocked();
        let jumped = || program.stderr().matches("the system clock has jumped").count();
        until("the jump is noticed", || jumped() == jumps);
        // Minutes that the `Date` is ahead: it follows the clock in both directions.
        let ahead = is_blocked();
        assert!(if jumps == 1 { (118..=121).contains(&ahead) } else { ahead.abs() <= 1 }, "{jumps}: {ahead}");
    }
    // Nor does a start while it is ahead, after a kill and after a stop.
    begin(&faults.clock_ahead());
    for signal in [Signal::KILL, Signal::TERM] {
        program.signal(signal);
        program.ends(Duration::from_secs(10));
        program.start_again_as(|command| faults.preload(command));
        let refused = Connection::open(program.data).send(&post("/tariff/express", bodies::TARIFF).by("shop"));
        assert!(refused.status == 429 && refused.text().contains("loops"), "{signal:?}: {refused:?}");
        until("the jump is noticed", || program.admin_page("/readyz").text().contains("it has jumped by 7"));
    }
    end(&faults.clock_ahead());
}

/// Removes all other files of a folder.
fn keep_only(state: &Path, name: &str) {
    assert!(state.join(name).exists(), "{name}");
    for entry in fs::read_dir(state).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_file() && !path.ends_with(name) {
            fs::remove_file(path).expect("removed");
        } else if path.is_dir() {
            fs::remove_dir_all(path).expect("removed");
        }
    }
}

/// Both records of the day are lost: nobody knows what was used, so `degraded` says so until an operator sets the count.
#[test]
fn a_loss_of_both_records_is_reported_until_the_count_is_set() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let admin = format!("[admin]\ntoken_sha256 = \"{}\"\n[limits]", digest_of("ops"));
    let configuration = configuration(&fastrac, "per_day = 60").replace("[limits]", &admin);
    let mut program = Program::start(&configuration, ACCESS, SECRET);
    let state = program.file("state");
    let losses: [fn(&Path); 6] = [
        |state| fs::remove_file(state.join("day-marks")).expect("removed"),
        |state| fs::write(state.join("day-marks"), "garbage").expect("written"),
        |state| {
            fs::remove_file(state.join("day-marks")).expect("removed");
            fs::create_dir(state.join("day-marks")).expect("created");
        },
        // All but one file; each shows that a gateway ran here.
        |state| keep_only(state, "exchanges.jsonl"),
        |state| keep_only(state, "orders.redb"),
        |state| keep_only(state, "clock-mark"),
    ];
    let used = |program: &Program| {
        let metrics = program.admin_page("/metrics").text();
        sum(&metrics, "quota_used", &[("service", "shop"), ("window", "day")]) as u64
    };
    let is_reported = |program: &Program| {
        let metrics = program.admin_page("/metrics").text();
        let reported = metrics.contains("degraded{reason=\"day_counts_lost\"} 1");
        let text = program.admin_page("/readyz").text();
        assert_eq!(text.contains("account main: state.redb and day-marks were both lost"), reported, "{text}");
        reported
    };
    assert!(!is_reported(&program), "a new folder has lost nothing");
    assert_eq!(quotes(&program, 20), 20);
    let log = state.join("exchanges.jsonl");
    until("the log is written", || log.metadata().is_ok_and(|found| found.len() > 0));
    for (number, lose) in losses.into_iter().enumerate() {
        program.signal(Signal::KILL);
        program.ends(Duration::from_secs(5));
        lose(&state);
        let _ = fs::remove_file(state.join("state.redb"));
        program.start_again();
        assert_eq!((is_reported(&program), used(&program)), (true, 0), "loss {number}");
        let count = |more: &[&str]| {
            let output = std::process::Command::new(env!("CARGO_BIN_EXE_fastrac-gateway"))
                .args(["quota", "count"])
                .args(more)
                .args(["--reason", "lost disk", "--admin", &format!("http://{}", program.admin)])
                .env("FASTRAC_GATEWAY_ADMIN_TOKEN", secret_of("ops"))
                .output()
                .expect("it starts");
            (output.status.code(), String::from_utf8(output.stdout).expect("text"))
        };
        let of = |name: &str, units: u64| (Some(0), format!("{name}: {units} used today (0 before)\n"));
        assert_eq!(count(&["shop", "--at-least", "20"]), of("shop", 20));
        assert!(is_reported(&program));
        let (code, text) = count(&["--account", "main", "--at-least", "25"]);
        assert!(code == Some(0) && text.starts_with("account main: 25 used today"), "{code:?} {text}");
        assert!(!is_reported(&program));
        assert_eq!(count(&["shop", "--at-least", "3"]), (Some(0), "shop: 20 used today (20 before)\n".to_owned()));
        assert_eq!(count(&["--account", "nobody", "--at-least", "3"]).0, Some(2));
        program.signal(Signal::KILL);
        program.ends(Duration::from_secs(5));
        program.start_again();
        assert!(!is_reported(&program) && (20..=21).contains(&used(&program)), "{}", used(&program));
    }
    let given = quotes(&program, 60);
    assert!((39..=40).contains(&given), "{given}");
}

/// Who has spent what is on disk a second later.
#[test]
fn a_kill_loses_who_spent_what_of_the_last_second_only() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let mut program = Program::start(&configuration(&fastrac, "per_day = 100000"), ACCESS, SECRET);
    let (began, mut sent) = (Instant::now(), Vec::new());
    while began.elapsed() < Duration::from_secs(4) {
        assert_eq!(quotes(&program, 10), 10);
        sent.push(began.elapsed());
        thread::sleep(Duration::from_millis(50));
    }
    program.signal(Signal::KILL);
    let killed = began.elapsed();
    program.ends(Duration::from_secs(5));
    program.start_again();
    let status: serde_json::Value = serde_json::from_slice(&program.admin_page("/status").body).expect("JSON");
    let spent = status["services"]["shop"]["spent_today"]["v2.tariff_express"].as_u64().unwrap_or(0);
    // A second until the write, and one for a slow disk.
    let settled = sent.iter().filter(|at| **at + Duration::from_secs(2) < killed).count() as u64 * 10;
    let all = sent.len() as u64 * 10;
    assert!(settled > 0 && spent >= settled && spent <= all, "{spent} of {all}; {settled} were two seconds old");
}

/// `state check` and `state backup`: a damaged store is named, and a copy that was made before takes its place.
#[test]
fn a_copy_of_the_store_replaces_a_damaged_one() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let admin = format!("[admin]\ntoken_sha256 = \"{}\"\n[limits]", digest_of("ops"));
    let configuration = configuration(&fastrac, "per_day = 40").replace("[limits]", &admin);
    let mut program = Program::start(&configuration, ACCESS, SECRET);
    assert_eq!(quotes(&program, 20), 20);
    let (state, store, copy) = (program.file("state"), program.file("state/state.redb"), program.file("copy.redb"));
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_fastrac-gateway"))
            .arg("state")
            .args(arguments)
            .env("FASTRAC_GATEWAY_ADMIN_TOKEN", secret_of("ops"))
            .output()
            .expect("it starts");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).expect("text"))
    };
    let check = || run(&["check", state.to_str().expect("UTF-8")]);
    let address = format!("http://{}", program.admin);
    let copied = run(&["backup", copy.to_str().expect("UTF-8"), "--admin", &address]);
    assert_eq!(copied.0, Some(0), "{}", copied.1);
    let again = run(&["backup", copy.to_str().expect("UTF-8"), "--admin", &address]);
    assert_eq!(again.0, Some(2), "it is not overwritten: {}", again.1);
    assert_eq!(fs::metadata(&copy).expect("a file").permissions().mode() & 0o777, 0o600);
    program.signal(Signal::TERM);
    program.ends(Duration::from_secs(10));
    assert_eq!(check().0, Some(0), "{}", check().1);
    let whole = fs::read(&store).expect("a file");
    let damaged = [b"no store at all".repeat(1_000), vec![], whole[..whole.len() / 2].to_vec()];
    for bytes in damaged {
        fs::write(&store, &bytes).expect("written");
        let (code, text) = check();
        assert!(code == Some(1) && text.contains("state.redb"), "{} bytes: {code:?} {text}", bytes.len());
        assert_eq!(fs::read(&store).expect("a file"), bytes, "a check changes nothing");
    }
    fs::copy(&copy, &store).expect("copied");
    assert_eq!(check().0, Some(0), "{}", check().1);
    program.start_again();
    // The lease in the copy is larger than that of the marks, and applies.
    let token = format!("Bearer {}", secret_of("ops"));
    let status = get("/status").header("host", "localhost").header("authorization", &token);
    let status = Connection::open(program.admin).send(&status).json();
    let used = status["services"]["shop"]["used_today"].as_u64().expect("a number");
    assert!((20..=40).contains(&used), "{status}");
    assert_eq!(quotes(&program, 30) as u64, 40 - used);
}
