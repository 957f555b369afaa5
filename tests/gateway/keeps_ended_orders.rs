//! Ended orders with a key, which are on disk only (`orders.redb`): whatever that disk does and whenever the process is
//! killed, none is sent twice and no key is forgotten.
#![cfg(target_os = "linux")]

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use fastrac_gateway::store::{self, StoreKind};
use fastrac_sandbox::Sandbox;
use rustix::process::Signal;

use crate::{
    bodies,
    client::{Connection, Request, Response, get, post},
    process::Program,
    system_faults::{SystemFaults, begin, end},
    test_gateway::{digest_of, sandbox, secret_of, sum, until},
};

fn configuration(fastrac: &Sandbox) -> String {
    format!(
        "[listen]\ndata = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nworkers = 1\n\
         [admin]\ntoken_sha256 = \"{}\"\n[limits]\ndrain_grace = \"0s\"\ndrain = \"1s\"\n\
         [accounts.main]\nbase_url = \"http://{}\"\nallow_cleartext = true\n\
         keys = {{ source = \"file\", path = \"keys.toml\" }}\nbreaker = {{ minimum = 100000 }}\n\
         [services.shop]\naccount = \"main\"\nallow = [\"lookup\", \"order\"]\n\
         credentials = [{{ access_key = \"svc-shop-1\", secret_sha256 = \"{}\" }}]\n",
        digest_of("ops"),
        fastrac.addr(),
        digest_of("shop")
    )
}

/// The order of this number, with a key of its own.
fn keyed(number: usize) -> Request {
    order(number).header("idempotency-key", &format!("key-{number}"))
}

fn order(number: usize) -> Request {
    post("/order/express", &bodies::order(number)).by("shop")
}

fn send(program: &Program, request: &Request) -> Response {
    Connection::open(program.data).send(request)
}

/// Asserts that it is refused for the archive's sake.
fn refused(program: &Program, request: &Request) {
    let response = send(program, request);
    let facts = (response.status, response.code(), response.sent().to_owned());
    assert_eq!(facts, (503, "gateway.overloaded".to_owned(), "no".to_owned()), "{response:?}");
}

/// Rows of a table, also while the gateway runs.
fn rows(program: &Program, kind: StoreKind, table: &str) -> Option<u64> {
    let tables = store::inspect(kind, &kind.file(&program.file("state")), &mut |_, _, _| {}).ok()?;
    Some(tables.iter().find(|found| found.name == table).map_or(0, |found| found.rows))
}

/// Waits until so many orders are in the archive and nowhere else.
fn archived(program: &Program, orders: u64) {
    until("the orders move to the archive", || {
        rows(program, StoreKind::ORDERS, "orders.ended") == Some(orders)
            && rows(program, StoreKind::STATE, "orders") == Some(0)
    });
}

fn status(program: &Program) -> serde_json::Value {
    let token = format!("Bearer {}", secret_of("ops"));
    let page = get("/status").header("host", "localhost").header("authorization", &token);
    Connection::open(program.admin).send(&page).json()
}

/// How often Fastrac has executed each order, by the body.
fn executions(fastrac: &Sandbox) -> HashMap<String, usize> {
    let mut executions = HashMap::new();
    for entry in fastrac.journal().iter().filter(|entry| entry.uri.path() == "/order/express") {
        *executions.entry(String::from_utf8_lossy(&entry.body).into_owned()).or_default() += 1;
    }
    executions
}

/// Asserts that these orders were executed, each once, and no others.
fn executed_once(fastrac: &Sandbox, orders: impl Iterator<Item = usize>) {
    let expected: HashMap<_, _> = orders.map(|number| (bodies::order(number), 1)).collect();
    assert_eq!(executions(fastrac), expected);
}

#[test]
fn a_full_disk_of_the_archive_refuses_new_keys_forgets_none_and_recovers_by_itself() {
    let (fastrac, faults) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    let program = faults.start(&configuration(&fastrac));
    let first = send(&program, &keyed(1));
    archived(&program, 1);
    begin(&faults.full_archive());
    let second = send(&program, &keyed(2));
    assert_eq!((first.status, second.status), (200, 200), "{second:?}");
    until("it is degraded", || program.admin_page("/readyz").text().contains("archive of ended orders"));
    assert!(program.admin_page("/readyz").text().contains("orders.redb"), "it names the file");
    refused(&program, &keyed(3));
    assert_eq!(send(&program, &keyed(2)).body, second.body, "it is in memory");
    let archived_order = send(&program, &keyed(1));
    assert!(archived_order.body == first.body || archived_order.status == 503, "{archived_order:?}");
    assert_eq!(send(&program, &order(4)).status, 200, "without a key, it does not need the archive");
    end(&faults.full_archive());
    until("it recovers", || !program.admin_page("/readyz").text().contains("archive"));
    assert_eq!(send(&program, &keyed(3)).status, 200);
    archived(&program, 3);
    assert_eq!(send(&program, &keyed(2)).body, second.body);
    executed_once(&fastrac, 1..=4);
}

#[test]
fn a_hung_disk_of_the_archive_refuses_what_it_must_look_up_and_is_named() {
    let (fastrac, faults) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    let mut program = faults.start(&configuration(&fastrac));
    let first = send(&program, &keyed(1));
    archived(&program, 1);
    begin(&faults.lookups());
    let mut waiting = Connection::open(program.data);
    waiting.write(&keyed(1).bytes());
    until("it waits", || {
        sum(&program.admin_page("/metrics").text(), "in_flight_requests", &[("service", "shop")]) >= 1.0
    });
    let places = status(&program)["accounts"]["main"]["budget"]["in_flight"].take();
    assert_eq!(places["left"], places["limit"], "it holds no place of the account's");
    assert_eq!(waiting.read_response("POST").expect("a response").status, 503);
    until("it is degraded", || program.admin_page("/readyz").text().contains("the disk of orders.redb"));
    let began = Instant::now();
    for number in 1..=20 {
        refused(&program, &keyed(number));
    }
    assert!(began.elapsed() < Duration::from_secs(20), "at once, not after 2 s each: {:?}", began.elapsed());
    assert_eq!(send(&program, &order(30)).status, 200, "without a key, it does not need the archive");
    end(&faults.lookups());
    until("it recovers", || !program.admin_page("/readyz").text().contains("archive"));
    assert_eq!(send(&program, &keyed(1)).body, first.body);
    assert_eq!(send(&program, &keyed(2)).status, 200);
    // What hangs now is the move: the orders stay where they are.
    begin(&faults.archive());
    assert_eq!(send(&program, &keyed(3)).status, 200);
    until("it is degraded", || program.admin_page("/readyz").text().contains("the disk of orders.redb"));
    assert_eq!(send(&program, &keyed(3)).header("idempotent-replayed"), Some("true"));
    executed_once(&fastrac, [1, 2, 3, 30].into_iter());
    program.signal(Signal::TERM);
    assert_eq!(program.ends(Duration::from_secs(20)).code(), Some(0), "{}", program.stderr());
}

/// Each round tears another write to the archive. `KILLS=200` makes more rounds.
#[test]
fn a_kill_in_any_write_to_the_archive_sends_nothing_twice_and_forgets_no_key() {
    let kills = std::env::var("KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(10);
    let (fastrac, faults) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    let mut program = faults.start(&configuration(&fastrac));
    let mut responses: HashMap<usize, Option<Response>> = HashMap::new();
    let mut next = 0;
    for round in 0..kills {
        // A few more than the writes of a commit, in steps that meet each of them after some rounds.
        fs::write(faults.killed_archive(), (1 + round * 7 % 30).to_string()).expect("written");
        let mut caller = Connection::open(program.data);
        while responses.get(&next).is_none_or(Option::is_some) {
            next += 1;
            caller.write(&keyed(next).bytes());
            responses.insert(next, caller.read_response("POST"));
        }
        assert!(!program.ends(Duration::from_secs(60)).success());
        end(&faults.killed_archive());
        faults.start_again(&mut program);
        // The last one was cut: it may have been sent, or not.
        let repeat = send(&program, &keyed(next));
        assert!(repeat.sent() == "unknown" || repeat.status == 200, "{repeat:?}");
        if repeat.sent() == "unknown" {
            responses.remove(&next);
        } else {
            responses.insert(next, Some(repeat));
        }
    }
    let mut unknown = 0;
    for (number, first) in &responses {
        let repeat = send(&program, &keyed(*number));
        // The end of an order is written after its response.
        if repeat.code() == "order.unknown" {
            unknown += 1;
            continue;
        }
        let first = first.as_ref().expect("each has one");
        assert_eq!((repeat.status, &repeat.body), (first.status, &first.body), "order {number}: {repeat:?}");
    }
    assert!(unknown <= kills, "{unknown} of {} orders are unknown", responses.len());
    assert!(executions(&fastrac).values().all(|times| *times == 1), "{:?}", executions(&fastrac));
}

fn state(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fastrac-gateway"));
    command.arg("state").args(arguments).env("FASTRAC_GATEWAY_ADMIN_TOKEN", secret_of("ops"));
    command.output().expect("it starts")
}

/// Ends a loop when it is dropped.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Copies are made while orders come and move to the archive; one of them is restored.
#[test]
fn a_copy_of_both_stores_knows_every_order_that_was_there_before_it() {
    let (fastrac, faults) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    let mut program = faults.start(&configuration(&fastrac));
    let admin = format!("http://{}", program.admin);
    let (copy, orders) = (program.file("copy.redb"), program.file("copy.redb.orders"));
    let backup = || state(&["backup", copy.to_str().expect("UTF-8"), "--admin", &admin]);
    let ended = AtomicUsize::new(0);
    let goes_on = AtomicBool::new(true);
    let before = thread::scope(|scope| {
        // Also when an assertion fails.
        let _stop = Stop(&goes_on);
        scope.spawn(|| {
            let mut caller = Connection::open(program.data);
            while goes_on.load(Ordering::Relaxed) {
                let next = ended.load(Ordering::Relaxed) + 1;
                assert_eq!(caller.send(&keyed(next)).status, 200);
                ended.store(next, Ordering::Relaxed);
            }
        });
        let (mut before, mut round) = (0, 0);
        // Each at another instant of the moves, which are a second apart; until some have moved.
        loop {
            let more = before + 30;
            until("orders come", || ended.load(Ordering::Relaxed) >= more);
            before = ended.load(Ordering::Relaxed);
            let copied = backup();
            let text = String::from_utf8_lossy(&copied.stderr).into_owned();
            assert!(copied.status.success() && text.contains("copy.redb.orders"), "{copied:?}");
            let checked = state(&["check", copy.to_str().expect("UTF-8")]);
            assert!(checked.status.success(), "{checked:?}");
            // All of them had ended: those that are not in the state store are in the archive.
            let text = String::from_utf8_lossy(&checked.stdout).into_owned();
            let unmoved = text.split("  orders: ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a count");
            let has_moved = unmoved.parse::<usize>().expect("a number") < before;
            round += 1;
            if round > 3 && has_moved {
                break before;
            }
            for file in [&copy, &orders] {
                fs::remove_file(file).expect("removed");
            }
        }
    });
    assert_eq!(backup().status.code(), Some(2), "they are not overwritten");
    program.signal(Signal::KILL);
    program.ends(Duration::from_secs(20));
    for (from, to) in [(&copy, "state/state.redb"), (&orders, "state/orders.redb")] {
        assert_eq!(fs::metadata(from).expect("a file").permissions().mode() & 0o777, 0o600);
        fs::copy(from, program.file(to)).expect("restored");
    }
    let checked = state(&["check", program.file("state").to_str().expect("UTF-8")]);
    assert!(checked.status.success(), "{checked:?}");
    faults.start_again(&mut program);
    for number in 1..=before {
        let repeat = send(&program, &keyed(number));
        let known = repeat.header("idempotent-replayed") == Some("true") || repeat.code() == "order.unknown";
        assert!(known, "order {number} of {before}: {repeat:?}");
    }
    executed_once(&fastrac, 1..=ended.load(Ordering::Relaxed));
    // One without the other, or one of another time, is refused.
    program.signal(Signal::TERM);
    program.ends(Duration::from_secs(20));
    fs::remove_file(&orders).expect("removed");
    let checked = state(&["check", copy.to_str().expect("UTF-8")]);
    assert!(
        !checked.status.success() && String::from_utf8_lossy(&checked.stderr).contains("orders.redb"),
        "{checked:?}"
    );
    let archive = program.file("state/orders.redb");
    let mut bytes = fs::read(&archive).expect("a file");
    let airway_bills: Vec<_> =
        bytes.windows(4).enumerate().filter(|(_, part)| part == b"FSTR").map(|(at, _)| at).collect();
    for at in airway_bills {
        bytes[at] = b'X';
    }
    fs::write(&archive, bytes).expect("written");
    let checked = state(&["check", program.file("state").to_str().expect("UTF-8")]);
    assert!(
        !checked.status.success() && String::from_utf8_lossy(&checked.stderr).contains("orders.redb"),
        "{checked:?}"
    );
}

#[test]
fn a_gateway_starts_without_its_archive_only_after_forget_ended_orders() {
    let (fastrac, faults) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    let mut program = faults.start(&configuration(&fastrac));
    assert_eq!(send(&program, &keyed(1)).status, 200);
    archived(&program, 1);
    let folder = program.file("state");
    let forget = || state(&["forget-ended-orders", folder.to_str().expect("UTF-8")]);
    let in_use = forget();
    assert_eq!(in_use.status.code(), Some(1), "a gateway uses the folder: {in_use:?}");
    program.signal(Signal::TERM);
    program.ends(Duration::from_secs(20));
    fs::remove_file(folder.join("orders.redb")).expect("removed");
    let mut failing = crate::process::command(program.file(".").as_path());
    let failed = failing.output().expect("it starts");
    let text = String::from_utf8_lossy(&failed.stderr);
    assert!(!failed.status.success() && text.contains("state forget-ended-orders"), "{text}");
    let forgotten = forget();
    assert_eq!(forgotten.status.code(), Some(0), "{forgotten:?}");
    faults.start_again(&mut program);
    assert_eq!(send(&program, &keyed(2)).status, 200);
    // As the command says: it is sent again.
    assert_eq!(send(&program, &keyed(1)).status, 200);
    assert_eq!(executions(&fastrac)[&bodies::order(1)], 2);
    archived(&program, 2);
    assert_eq!(send(&program, &keyed(1)).header("idempotent-replayed"), Some("true"));
}
