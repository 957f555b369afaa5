//! A full disk and a `kill -9` cost no request; the exchange log and the audit log have whole lines only, say what they
//! lost, and go on by themselves.
#![cfg(target_os = "linux")]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use fastrac_sandbox::Sandbox;
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    bodies,
    client::{Connection, Request, get, post, request},
    process::Program,
    system_faults::{SystemFaults, begin, end},
    test_gateway::{digest_of, sandbox, secret_of, sum, until},
};

/// For what takes a moment on a loaded machine.
const SOON: Duration = Duration::from_secs(10);

const LOG: &str = "state/exchanges.jsonl";
const UNIDENTIFIED: &str = "state/unidentified.jsonl";
const AUDIT: &str = "state/audit.jsonl";

/// A gateway whose log's queue is small: 4 MiB, of which 15/64 are for ordinary lines and 1/64 for unknown callers.
fn configuration(fastrac: &Sandbox) -> String {
    format!(
        "[listen]\ndata = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nworkers = 1\n\
         [admin]\ntoken_sha256 = \"{}\"\n[limits]\ndrain_grace = \"0s\"\ndrain = \"5s\"\nmemory = \"16MiB\"\n\
         [accounts.main]\nbase_url = \"http://{}\"\nkeys = {{ source = \"file\", path = \"keys.toml\" }}\n\
         budget = {{ per_second = 100000, burst = 100000, per_day = 10000000 }}\n\
         [services.shop]\naccount = \"main\"\nallow = [\"lookup\", \"read\", \"order\"]\n\
         quota = {{ per_second = 100000, burst = 100000 }}\n\
         credentials = [{{ access_key = \"svc-shop-1\", secret_sha256 = \"{}\" }}]\n",
        digest_of("ops"),
        fastrac.addr(),
        digest_of("shop")
    )
}

fn lookup() -> Request {
    get("/region/province").by("shop")
}

fn order(number: usize) -> Request {
    post("/order/express", &bodies::order(number)).by("shop")
}

/// Lines of more than 2 KiB.
fn long(request: Request) -> Request {
    Request { target: format!("{}?a={}", request.target, "x".repeat(2000)), ..request }
}

fn command() -> Request {
    request("POST", "/cache/purge")
        .header("host", "localhost")
        .header("authorization", &format!("Bearer {}", secret_of("ops")))
}

fn post_command(program: &Program) {
    assert_eq!(Connection::open(program.admin).send(&command()).status, 200);
}

/// What a log says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Contents {
    /// Ids of requests.
    requests: BTreeSet<String>,
    lines: u64,
    /// Sum of the lines that events say were dropped.
    dropped: u64,
    torn: usize,
}

/// Every line is whole, and their numbers have no gap.
fn contents(path: &Path) -> Contents {
    let mut contents = Contents::default();
    for (index, line) in lines(path).iter().enumerate() {
        assert_eq!(line["seq"], index + 1, "{line}");
        match line["event"].as_str() {
            Some("dropped") => contents.dropped += line["count"].as_u64().expect("a number"),
            Some("torn") => contents.torn += 1,
            Some(event) => panic!("{event}"),
            None => {
                contents.lines += 1;
                contents.requests.insert(line["request_id"].as_str().expect("an id").to_owned());
            }
        }
    }
    assert_eq!(contents.requests.len() as u64, contents.lines, "a line was written twice");
    contents
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "{}: the last line is torn", path.display());
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn counted(program: &Program, result: &str) -> f64 {
    sum(&program.admin_page("/metrics").text(), "log_records_total", &[("result", result)])
}

/// Sends requests that must be answered as if the disk had room.
fn answered(connection: &mut Connection, requests: &[Request], status: u16) {
    for request in requests {
        let began = Instant::now();
        let response = connection.send(request);
        assert_eq!(response.status, status, "{}", response.text());
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    }
}

#[test]
fn a_full_disk_costs_no_request_and_only_the_lines_that_are_counted() {
    let (fastrac, faults) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    let mut program = faults.start(&configuration(&fastrac));
    let mut connection = Connection::open(program.data);
    let unknown = vec![long(get("/region/province")); 100];
    let lookups = vec![long(lookup()); 700];
    answered(&mut connection, &lookups[..10], 200);
    answered(&mut connection, &unknown[..10], 401);
    post_command(&program);
    until("they are written", || counted(&program, "written") == 20.0 && lines(&program.file(AUDIT)).len() == 1);

    begin(&faults.full_disk());
    answered(&mut connection, &lookups, 200);
    answered(&mut connection, &(0..20).map(order).collect::<Vec<_>>(), 200);
    answered(&mut connection, &unknown, 401);
    (0..4).for_each(|_| post_command(&program));
    let degraded = |text: &str| program.admin_page("/readyz").text().contains(text);
    until("it is degraded", || {
        ["audit log:", "exchange log of services:", "exchange log of unknown callers:"].iter().all(|it| degraded(it))
    });
    assert_eq!(program.admin_page("/livez").status, 200);
    let waiting = || program.stderr().matches("a line of the audit log that could not be written yet").count();
    // One may have found room.
    until("the lines of the audit log are in the program's log", || waiting() >= 3);
    let dropped = counted(&program, "dropped");
    assert!(dropped > 100.0, "{dropped}");

    end(&faults.full_disk());
    until("it recovers", || !degraded("log:") && !degraded("exchange log"));
    answered(&mut connection, &[lookup()], 200);
    answered(&mut connection, &[get("/region/province")], 401);
    let all = 20.0 + 700.0 + 20.0 + 100.0 + 2.0;
    until("all are written or dropped", || counted(&program, "written") + counted(&program, "dropped") == all);
    assert_eq!(counted(&program, "dropped"), dropped);
    program.signal(Signal::TERM);
    assert_eq!(program.ends(SOON).code(), Some(0), "{}", program.stderr());

    let (services, strangers) = (contents(&program.file(LOG)), contents(&program.file(UNIDENTIFIED)));
    assert_eq!((services.lines + services.dropped, strangers.lines + strangers.dropped), (731, 111));
    assert_eq!(services.torn + strangers.torn, 0);
    assert!(services.dropped > 0 && strangers.dropped > 0, "{services:?} {strangers:?}");
    assert_eq!((services.dropped + strangers.dropped) as f64, dropped);
    // No line of an order was dropped: they have room of their own.
    assert_eq!(lines(&program.file(LOG)).iter().filter(|line| line["class"] == "order").count(), 20);
    let audited = lines(&program.file(AUDIT));
    assert!(audited.iter().all(|line| line["action"] == "cache_purge"), "{audited:?}");
    assert_eq!(audited.len(), 5);
}

/// Issue: while a call of its file hung, nobody was told of the audit log's lines, and a stop lost them.
#[test]
fn an_audit_log_whose_disk_hangs_costs_no_command_and_no_line() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    // Each in a folder of its own.
    for call in ["open", "stat", "write"] {
        let faults = SystemFaults::new();
        let mut program = faults.start(&configuration(&fastrac));
        let audit = program.file(AUDIT);
        let degraded = || program.admin_page("/readyz").text().contains("audit log:");
        let told = || program.stderr().matches("a line of the audit log that could not be written yet").count();
        post_command(&program);
        until("it is written", || lines(&audit).len() == 1);

        fs::write(faults.audit(), call).expect("written");
        // The program's log has no more than 20 of one kind at once otherwise.
        (0..30).for_each(|_| post_command(&program));
        until("it is degraded", degraded);
        until("the lines are in the program's log", || told() == 30);
        post_command(&program);
        until("so is a further one", || told() == 31);
        end(&faults.audit());
        until("it recovers", || !degraded());
        until("each is written once", || lines(&audit).len() == 32);

        fs::write(faults.audit(), call).expect("written");
        post_command(&program);
        program.signal(Signal::TERM);
        assert_eq!(program.ends(SOON).code(), Some(0), "{}", program.stderr());
        let told = || program.stderr().matches("a line of the audit log that could not be written yet").count();
        until("the last line is in the program's log", || told() == 32);
    }
}

#[test]
fn a_kill_in_the_middle_of_a_write_leaves_whole_lines_and_an_event() {
    let (fastrac, faults) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    let mut program = faults.start(&configuration(&fastrac));
    for (round, torn) in [LOG, UNIDENTIFIED, AUDIT].into_iter().enumerate() {
        answered(&mut Connection::open(program.data), &[lookup(), order(round), lookup()], 200);
        answered(&mut Connection::open(program.data), &[get("/region/province")], 401);
        post_command(&program);
        until("they are written", || counted(&program, "written") >= 4.0);
        let audit = program.file(AUDIT);
        let audited = |count| lines(&audit).iter().filter(|line| line.get("action").is_some()).count() == count;
        until("they are written", || audited(round + 1));
        begin(&faults.killed_write());
        let (port, last) = match torn {
            AUDIT => (program.admin, command()),
            LOG => (program.data, order(100)),
            _ => (program.data, get("/region/province")),
        };
        let mut connection = Connection::open(port);
        connection.write(&last.bytes());
        assert_eq!(program.ends(SOON).signal(), Some(9));
        end(&faults.killed_write());
        assert!(!fs::read(program.file(torn)).expect("a file").ends_with(b"\n"), "{torn} is not torn");
        faults.start_again(&mut program);
        until("the audit log has whole lines", || fs::read(&audit).expect("a file").ends_with(b"\n"));
        let told = || lines(&audit).iter().filter(|line| line["event"] == "torn").count();
        until("it quotes the torn one", || told() == usize::from(torn == AUDIT));
        let (services, strangers) = (contents(&program.file(LOG)), contents(&program.file(UNIDENTIFIED)));
        assert_eq!((services.torn, services.lines as usize), (1, 3 * (round + 1)), "{services:?}");
        assert_eq!((strangers.torn, strangers.lines as usize), (usize::from(round > 0), round + 1), "{strangers:?}");
        assert!(audited(round + 1));
    }
}

#[test]
fn a_kill_under_load_loses_at_most_the_last_second() {
    let (fastrac, faults) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    let mut program = faults.start(&configuration(&fastrac));
    for round in 0..2 {
        let mut connection = Connection::open(program.data);
        let began = Instant::now();
        let mut answered = Vec::new();
        while began.elapsed() < Duration::from_millis(1600) {
            let id = format!("round-{round}-{:06}", answered.len());
            assert_eq!(connection.send(&lookup().header("x-request-id", &id)).status, 200);
            answered.push((id, Instant::now()));
            // At most a few thousand lines.
            thread::sleep(Duration::from_micros(200));
        }
        let killed = Instant::now();
        program.signal(Signal::KILL);
        assert_eq!(program.ends(SOON).signal(), Some(9));
        program.start_again();
        until("it has a key pair", || program.admin_page("/readyz").status == 200);
        let written = contents(&program.file(LOG)).requests;
        for (id, at) in answered {
            let age = killed - at;
            assert!(written.contains(&id) || age < Duration::from_secs(1), "{id}, {age:?} before the end, is missing");
        }
    }
}
