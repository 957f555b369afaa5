//! The cache survives a restart: what was warm is answered without Fastrac, no older or younger than it is, and nothing that
//! was purged, damaged or meant for another address comes back.
//!
//! `FASTRAC_KILLS=200` for another number of processes killed while they write a snapshot.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use fastrac_gateway::cache::snapshot::{SnapshotDecoder, SnapshotEncoder, SnapshotEntry};
use fastrac_sandbox::{Act, Fault, Sandbox};
use rustix::process::Signal;

use crate::{
    client::{Connection, Request, Response, get, post},
    process::Program,
    system_faults::{SystemFaults, begin, end},
    test_gateway::{ACCESS, LOG, SECRET, Setup, TestGateway, canary_in, digest_of, sandbox, secret_of, until},
};

/// Longest time for a restore.
const ENDS: Duration = Duration::from_secs(10);

fn city(number: usize) -> Request {
    get(&format!("/region/city?province_id={}&page={number}", 31 + number % 3)).by("shop")
}

/// An operator's request.
fn purge(scope: &str) -> Request {
    let purge = post("/cache/purge", scope).header("host", "localhost");
    purge.header("authorization", &format!("Bearer {}", secret_of("ops")))
}

/// A gateway with an operator.
fn operated() -> TestGateway {
    let more = format!("[admin]\ntoken_sha256 = \"{}\"\n", digest_of("ops")).leak();
    Setup { more, ..Setup::default() }.start()
}

fn purge_in(gateway: &TestGateway, scope: &str) -> Response {
    Connection::open(gateway.app().admin).send(&purge(scope))
}

fn snapshot(gateway: &TestGateway) -> PathBuf {
    gateway.folder.path().join("state/cache-snapshot")
}

/// Restarts with a pipe in place of the snapshot: opening it waits for somebody who writes to it. Returns where the pipe is,
/// and where the snapshot is now if there was one.
fn restart_with_a_restore_that_hangs(gateway: &mut TestGateway) -> (PathBuf, PathBuf) {
    gateway.take_app().stop();
    let (file, away) = (snapshot(gateway), gateway.folder.path().join("snapshot"));
    if file.exists() {
        fs::rename(&file, &away).expect("renamed");
    }
    rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
    let app = gateway.second().expect("started");
    gateway.put_app(app);
    (file, away)
}

/// Fetches some lookups; returns the bodies.
fn warm(gateway: &TestGateway) -> Vec<Response> {
    let responses: Vec<_> = (0..20).map(|number| gateway.send(city(number))).collect();
    assert!(responses.iter().all(|response| response.outcome() == "ok"));
    responses
}

/// How often the program's log says so.
fn said(text: &str) -> usize {
    String::from_utf8_lossy(&LOG.lock().expect("whole")).matches(text).count()
}

/// Stops it and starts it again, and waits until the snapshot is restored.
fn restart(gateway: &mut TestGateway) {
    let before = said("the cache was restored");
    gateway.restart();
    until("the cache is restored", || said("the cache was restored") > before);
}

#[test]
fn what_was_warm_is_a_hit_after_a_restart_also_while_fastrac_fails() {
    let mut gateway = TestGateway::new();
    let first = warm(&gateway);
    let nothing = gateway.send(get("/region/city?province_id=9999").by("shop"));
    assert_eq!(nothing.outcome(), "not_found");
    gateway.take_app().stop();
    let file = snapshot(&gateway);
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    assert_eq!(canary_in(&fs::read(&file).expect("a file")), None);
    let app = gateway.second().expect("started");
    gateway.put_app(app);
    gateway.sandbox.fault(Fault { act: Act::Html(500), ..Fault::default() });
    until("the cache is restored", || gateway.send(city(19)).outcome() == "hit");
    for (number, first) in first.iter().enumerate() {
        let again = gateway.send(city(number));
        assert_eq!((again.outcome(), again.sent(), again.status), ("hit", "no", 200));
        assert_eq!((&again.body, again.header("content-type")), (&first.body, first.header("content-type")));
        let line = gateway.line(again.header("x-request-id").expect("an id"));
        assert_eq!(line["stored_from"], first.header("x-request-id").expect("an id"));
    }
    let again = gateway.send(get("/region/city?province_id=9999").by("shop"));
    assert_eq!((again.outcome(), again.status, &again.body), ("hit", nothing.status, &nothing.body));
}

#[test]
fn nothing_is_restored_for_another_address_or_where_it_is_switched_off() {
    let mut gateway = TestGateway::new();
    warm(&gateway);
    let address = format!("http://{}\"", gateway.sandbox.addr());
    let other = address.replace("127.0.0.1", "localhost");
    gateway.rewrite(&address, &other);
    restart(&mut gateway);
    assert!((0..20).all(|number| gateway.send(city(number)).outcome() == "ok"));
    assert_eq!(gateway.received().len(), 20);
    restart(&mut gateway);
    assert!((0..20).all(|number| gateway.send(city(number)).outcome() == "hit"));
    // The row has another lifetime now, and another row none.
    gateway.rewrite(
        "[limits]",
        "[operations.\"v2.city\"]\ncache = { fresh = \"1ms\", stale_if_error = \"2ms\" }\n[limits]",
    );
    restart(&mut gateway);
    assert_eq!(gateway.send(city(0)).outcome(), "ok");
    gateway.rewrite("[limits]", "[cache]\nsnapshot = false\n[limits]");
    gateway.restart();
    until("the snapshot is removed", || !snapshot(&gateway).exists());
    gateway.take_app().stop();
    assert!(!snapshot(&gateway).exists());
}

#[test]
fn a_damaged_truncated_foreign_or_newer_snapshot_is_discarded() {
    let mut gateway = TestGateway::new();
    type Damage = fn(&mut Vec<u8>);
    let damages: [(Damage, &str); 4] = [
        (|file| file[1000] ^= 1, "it is damaged"),
        (|file| file.truncate(2000), "it ends too early"),
        (|file| *file = b"something else".to_vec(), "it is no snapshot of a cache"),
        (|file| file[12] = 9, "it has version 9 of the format"),
    ];
    for (damage, reason) in damages {
        (0..20).for_each(|number| assert_eq!(gateway.send(city(number)).status, 200));
        gateway.take_app().stop();
        let file = snapshot(&gateway);
        let mut bytes = fs::read(&file).expect("a file");
        damage(&mut bytes);
        fs::write(&file, bytes).expect("written");
        let before = said(reason);
        let app = gateway.second().expect("started");
        gateway.put_app(app);
        until("it is discarded", || said(reason) > before && !file.exists());
        assert_eq!(said(reason), before + 1);
        assert_eq!(gateway.send(city(0)).outcome(), "ok");
    }
}

/// It would bring back what was purged.
#[test]
fn a_snapshot_beside_a_damaged_list_of_purges_is_discarded() {
    let mut gateway = operated();
    let damages: [fn(&mut Vec<u8>); 3] = [|list| list.clear(), |list| list[30] ^= 4, |list| list.truncate(50)];
    for damage in damages {
        warm(&gateway);
        let (file, away) = restart_with_a_restore_that_hangs(&mut gateway);
        assert_eq!(purge_in(&gateway, r#"{"operation": "v2.district"}"#).status, 200);
        gateway.take_app().stop();
        fs::rename(&away, &file).expect("renamed");
        let list = file.with_extension("purges");
        let mut bytes = fs::read(&list).expect("a list");
        damage(&mut bytes);
        fs::write(&list, bytes).expect("written");
        let discarded = || said("discarded: the list of what was purged since is damaged");
        let before = discarded();
        let app = gateway.second().expect("started");
        gateway.put_app(app);
        until("it is discarded", || discarded() > before && !file.exists() && !list.exists());
        assert!((0..20).all(|number| gateway.send(city(number)).outcome() == "ok"));
        // So that there is nothing left for the next one.
        assert_eq!(purge_in(&gateway, "{}").status, 200);
    }
}

#[test]
fn reloads_that_switch_it_off_or_move_the_account_leave_nothing_behind() {
    let mut gateway = TestGateway::new();
    warm(&gateway);
    restart(&mut gateway);
    assert!(snapshot(&gateway).exists());
    let address = format!("http://{}\"", gateway.sandbox.addr());
    gateway.reload(&address, &address.replace("127.0.0.1", "localhost"));
    assert!(gateway.app().gateway.current.load().cache.usage().is_empty());
    gateway.reload("[limits]", "[cache]\nsnapshot = false\n[limits]");
    until("the snapshot is removed", || !snapshot(&gateway).exists());
}

#[test]
fn a_restore_that_hangs_is_reported_and_later_snapshots_are_written() {
    let mut gateway = TestGateway::new();
    let (file, _) = restart_with_a_restore_that_hangs(&mut gateway);
    warm(&gateway);
    let is_degraded = || !gateway.app().gateway.live.degraded.list().is_empty();
    assert!(!is_degraded());
    let began = Instant::now();
    while !is_degraded() {
        assert!(began.elapsed() < Duration::from_secs(30));
        thread::sleep(Duration::from_millis(100));
    }
    gateway.app().gateway.live.snapshot_file.make_due();
    until("a snapshot is written", || fs::metadata(&file).expect("a file").is_file() && !is_degraded());
    restart(&mut gateway);
    assert!((0..20).all(|number| gateway.send(city(number)).outcome() == "hit"));
}

/// Whatever was stored since the last snapshot.
#[test]
fn only_a_reload_that_removes_something_makes_a_snapshot_due() {
    let mut gateway = TestGateway::new();
    // Until that is over, no snapshot is written.
    restart_with_a_restore_that_hangs(&mut gateway);
    warm(&gateway);
    let waiting = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let is_due = |gateway: &TestGateway| {
        let file = &gateway.app().gateway.live.snapshot_file;
        waiting.block_on(async { tokio::time::timeout(Duration::ZERO, file.until_due()).await }).is_ok()
    };
    let mut before = "[limits]".to_owned();
    let row = |fresh| format!("[operations.\"v2.city\"]\ncache = {{ fresh = \"{fresh}\" }}\n[limits]");
    for (after, expected) in [
        ("[limits] # of all".to_owned(), false),
        (row("1h"), false),
        (row("0s"), true),
        (row("1h"), false),
        ("[cache]\nsnapshot = false\n[limits]".to_owned(), true),
        ("[limits]".to_owned(), true),
    ] {
        gateway.reload(&before, &after);
        assert_eq!(is_due(&gateway), expected, "{after}");
        before = after;
    }
}

/// Only the disk of the snapshot hangs, and nothing is in progress.
#[test]
fn a_snapshot_that_is_never_written_delays_a_stop_by_seconds_only() {
    let mut gateway = Setup { drain: ("0s", "60s"), ..Setup::default() }.start();
    warm(&gateway);
    let file = gateway.app().gateway.live.snapshot_file.clone();
    let ((begun, has_begun), (end, ended)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
    let writer = thread::spawn(move || {
        file.replace(|_, _| {
            begun.send(()).expect("awaited");
            // Dropped below.
            let _: Result<(), _> = ended.recv();
            Err(std::io::ErrorKind::TimedOut.into())
        })
    });
    has_begun.recv().expect("it hangs");
    let began = Instant::now();
    gateway.take_app().stop();
    let elapsed = began.elapsed();
    drop(end);
    assert!(writer.join().expect("no panic").is_err());
    assert!(elapsed < Duration::from_secs(30), "{elapsed:?}");
}

#[test]
fn a_purge_whose_snapshot_cannot_be_removed_purges_nothing_and_says_so() {
    let mut gateway = operated();
    warm(&gateway);
    let purge = || purge_in(&gateway, "{}");
    let file = snapshot(&gateway);
    fs::create_dir(&file).expect("a folder in its place");
    let refused = purge();
    assert_eq!(
        (refused.status, refused.json()["error"]["code"].as_str()),
        (500, Some("cache.snapshot")),
        "{refused:?}"
    );
    assert_eq!(gateway.send(city(0)).outcome(), "hit");
    fs::remove_dir(&file).expect("removed");
    assert_eq!(purge().status, 200);
    assert_eq!(gateway.send(city(0)).outcome(), "ok");
    gateway.take_app().stop();
    let audit = fs::read_to_string(gateway.folder.path().join("state/audit.jsonl")).expect("a file");
    let results =
        audit.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["result"].clone());
    assert_eq!(results.collect::<Vec<_>>(), ["refused", "done"]);
}

#[test]
fn a_purge_of_a_part_leaves_the_fetches_under_way_that_it_does_not_cover() {
    let gateway = operated();
    let district = || get("/region/district?city_id=3171").by("shop");
    let slow = |operation| Fault::on(operation, Act::Pass).wait(Duration::from_millis(700)).times(1);
    gateway.sandbox.fault(slow("v2.city"));
    gateway.sandbox.fault(slow("v2.district"));
    thread::scope(|scope| {
        for request in [city(0), district()] {
            scope.spawn(|| gateway.send(request));
        }
        until("both are under way", || gateway.received().len() == 2);
        assert_eq!(purge_in(&gateway, r#"{"path_prefix": "/region/city"}"#).status, 200);
    });
    assert_eq!((gateway.send(city(0)).outcome(), gateway.send(district()).outcome()), ("ok", "hit"));
}

pub(crate) fn configuration(fastrac: SocketAddr) -> String {
    format!(
        "[listen]\ndata = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nworkers = 1\n\
         [admin]\ntoken_sha256 = \"{}\"\n[limits]\ndrain_grace = \"0s\"\ndrain = \"5s\"\n\
         [accounts.main]\nbase_url = \"http://{fastrac}\"\nkeys = {{ source = \"file\", path = \"keys.toml\" }}\n\
         budget = {{ per_second = 100000, burst = 100000, per_day = 10000000, in_flight = 512 }}\n\
         [services.shop]\naccount = \"main\"\n\
         credentials = [{{ access_key = \"svc-shop-1\", secret_sha256 = \"{}\" }}]\n",
        digest_of("ops"),
        digest_of("shop")
    )
}

fn send(program: &Program, number: usize) -> Response {
    Connection::open(program.data).send(&city(number))
}

fn is_hit(program: &Program, number: usize) -> bool {
    send(program, number).outcome() == "hit"
}

fn kill(program: &mut Program) {
    program.signal(Signal::KILL);
    program.ends(ENDS);
}

fn stop(program: &mut Program) {
    program.signal(Signal::TERM);
    assert_eq!(program.ends(ENDS).code(), Some(0), "{}", program.stderr());
}

#[test]
fn a_purge_is_not_undone_by_a_kill_right_after_it() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let mut program = Program::start(&configuration(fastrac.addr()), ACCESS, SECRET);
    send(&program, 0);
    stop(&mut program);
    program.start_again();
    until("it is restored", || is_hit(&program, 0));
    assert_eq!(Connection::open(program.admin).send(&purge("")).status, 200);
    kill(&mut program);
    assert!(!program.file("state/cache-snapshot").exists());
    program.start_again();
    assert_eq!(send(&program, 0).outcome(), "ok");
}

#[test]
fn a_purge_of_a_part_is_not_undone_by_a_kill_and_costs_nothing_else() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let mut program = Program::start(&configuration(fastrac.addr()), ACCESS, SECRET);
    let district = |program: &Program, request: Request| Connection::open(program.data).send(&request);
    let plain = || get("/region/district?city_id=3171").by("shop");
    let stored_district = |program: &Program| district(program, plain().header("cache-control", "only-if-cached"));
    send(&program, 0);
    district(&program, plain());
    stop(&mut program);
    program.start_again();
    until("it is restored", || is_hit(&program, 0) && stored_district(&program).outcome() == "hit");
    assert_eq!(Connection::open(program.admin).send(&purge(r#"{"operation": "v2.city"}"#)).status, 200);
    // At any instant: before what is left is written, and after it.
    kill(&mut program);
    program.start_again();
    until("it is restored", || stored_district(&program).outcome() == "hit");
    assert_eq!(send(&program, 0).outcome(), "ok");
}

/// The restore waits for its disk, and the process ends before it is over.
#[test]
fn a_purge_before_the_restore_purges_its_part_only_also_if_a_stop_follows() {
    let mut gateway = operated();
    let district = || get("/region/district?city_id=3171").by("shop");
    warm(&gateway);
    assert_eq!(gateway.send(district()).outcome(), "ok");
    let (file, away) = restart_with_a_restore_that_hangs(&mut gateway);
    assert_eq!(purge_in(&gateway, r#"{"operation": "v2.city"}"#).status, 200);
    gateway.take_app().stop();
    fs::rename(&away, &file).expect("renamed");
    let app = gateway.second().expect("started");
    gateway.put_app(app);
    until("it is restored", || gateway.send(district().header("cache-control", "only-if-cached")).outcome() == "hit");
    assert!((0..20).all(|number| gateway.send(city(number)).outcome() == "ok"));
    gateway.take_app().stop();
    assert!(!file.with_extension("purges").exists(), "the new snapshot has it behind it");
}

/// An earlier version may have stored it.
#[test]
fn what_says_that_it_is_coded_is_not_restored() {
    let mut gateway = TestGateway::new();
    let identity = Act::Answer(fastrac_sandbox::CannedResponse {
        status: 200,
        headers: vec![("content-encoding".to_owned(), "identity".to_owned())],
        body: r#"{"success": true, "data": []}"#.to_owned(),
        ..fastrac_sandbox::CannedResponse::default()
    });
    gateway.sandbox.fault(Fault::on("v2.city", identity));
    assert!((0..2).all(|number| gateway.send(city(number)).outcome() == "ok"));
    gateway.take_app().stop();
    let (file, mut changed) = (snapshot(&gateway), Vec::new());
    let written = fs::read(&file).expect("a snapshot");
    let mut decoder = SnapshotDecoder::begin(&written[..], written.len() as u64, usize::MAX).expect("a snapshot");
    let mut encoder = SnapshotEncoder::begin(decoder.taken(), decoder.included(), &mut changed);
    let mut is_first = true;
    while let Some(entry) = decoder.read_next().expect("whole") {
        let mut packed = entry.packed.to_vec();
        let value = memchr::memmem::find(&packed, b"identity").expect("its value");
        if std::mem::take(&mut is_first) {
            packed[value..value + 8].copy_from_slice(b"gzip, br");
        }
        encoder.entry(&SnapshotEntry { packed: &packed, ..entry }, &mut changed);
    }
    assert_eq!(encoder.end(&mut changed), 2);
    fs::write(&file, changed).expect("written");
    let restored = said("the cache was restored");
    let app = gateway.second().expect("started");
    gateway.put_app(app);
    until("it is restored", || said("the cache was restored") > restored && gateway.app().gateway.was_ready());
    let mut outcomes = [0, 1].map(|number| gateway.send(city(number)).outcome().to_owned());
    outcomes.sort();
    assert_eq!(outcomes, ["hit", "ok"]);
}

/// Also where the names of the headers, which the entries share, would take more than the rest.
#[test]
fn a_full_cache_is_restored_whole() {
    let mut gateway = Setup { more: "[cache]\nmemory = \"1MiB\"\n", ..Setup::default() }.start();
    let name = |number: usize| (format!("x-{number}-{}", "name".repeat(25)), "v".to_owned());
    let headers = (0..90).map(name).collect();
    let body = r#"{"success": true, "data": []}"#.to_owned();
    let answer =
        fastrac_sandbox::CannedResponse { status: 200, headers, body, ..fastrac_sandbox::CannedResponse::default() };
    gateway.sandbox.fault(Fault::on("v2.city", Act::Answer(answer)));
    let usage = |gateway: &TestGateway| {
        gateway.app().gateway.current.load().cache.usage().get("v2.city").copied().unwrap_or_default()
    };
    let mut number = 0;
    while usage(&gateway).bytes < (1 << 20) * 98 / 100 {
        assert_eq!(gateway.send(city(number)).outcome(), "ok");
        number += 1;
    }
    let before = usage(&gateway);
    restart(&mut gateway);
    assert_eq!(usage(&gateway), before);
}

/// A row of its own, a service, and quotes that are stored.
const ROW: &str = "[operations.\"own.list\"]\nmethod = \"GET\"\npath = \"/own/list\"\nclass = \"lookup\"\n\
                   cache = { fresh = \"1h\" }\n";
const OTHER: &str = "[services.gone]\naccount = \"main\"\n";
const QUOTES: &str = "[operations.\"v2.tariff_express\"]\ncache = { fresh = \"1h\" }\n";

fn quote(service: &str) -> Request {
    post("/tariff/express", "{}").by(service)
}

/// A part of the configuration whose stored responses go with it.
struct RemovedPart {
    text: String,
    /// In its place.
    with: String,
    request: Request,
    /// Another request, whose stored response stays.
    survivor: Request,
}

impl RemovedPart {
    /// A gateway, and what can be removed of its configuration.
    fn each() -> (TestGateway, [RemovedPart; 5]) {
        let secret = digest_of("gone");
        let other = format!("{OTHER}credentials = [{{ access_key = \"svc-gone-1\", secret_sha256 = \"{secret}\" }}]\n");
        let mut gateway = Setup { more: format!("{other}{ROW}{QUOTES}").leak(), ..Setup::default() }.start();
        let good = Act::answer(200, r#"{"success":true,"message":"","data":[]}"#);
        gateway.sandbox.fault(Fault { act: good, ..Fault::default() });
        let address = format!("base_url = \"http://{}\"", gateway.sandbox.addr());
        let moved = address.replace("127.0.0.1", "localhost");
        let of_v2 = format!("v2 = {{ {moved} }} # of v2");
        // With the address of another version, that of v2 is in use also when v2 has another.
        gateway.reload(&address, &format!("{address}\nv1 = {{ {moved} }}\n{of_v2}"));
        let part = |text: &str, with: &str, request, survivor| {
            let with = format!("{with}# here\n");
            RemovedPart { text: text.to_owned(), with, request, survivor }
        };
        let own = get("/own/list").by("shop");
        let parts = [
            part(ROW, "", own.clone(), city(0)),
            part(&other, "", quote("gone"), city(0)),
            part(&address, &moved, own.clone(), city(0)),
            part(&of_v2, "", city(0), own.clone()),
            part("\"/own/list\"", "\"/own/list\"\napi = \"v2\" ", own, city(0)),
        ];
        (gateway, parts)
    }

    fn store(&self, gateway: &TestGateway) {
        for request in [self.request.clone(), self.survivor.clone(), quote("shop")] {
            until("it is stored", || gateway.send(request.clone()).outcome() == "hit");
        }
    }

    /// Starts it with the part put back.
    fn put_back(&self, gateway: &mut TestGateway) {
        gateway.rewrite(&self.with, &self.text);
        let restored = said("the cache was restored");
        let app = gateway.second().expect("started");
        gateway.put_app(app);
        until("it is restored", || said("the cache was restored") > restored && gateway.app().gateway.was_ready());
    }

    fn is_gone_alone(&self, gateway: &TestGateway) {
        assert_eq!(gateway.send(self.survivor.clone()).outcome(), "hit", "{}", self.text);
        assert_eq!(gateway.send(self.request.clone()).outcome(), "ok", "{}", self.text);
    }
}

#[test]
fn what_a_reload_removes_does_not_come_back_with_the_next_one() {
    let (mut gateway, parts) = RemovedPart::each();
    for part in parts {
        part.store(&gateway);
        gateway.reload(&part.text, &part.with);
        gateway.reload(&part.with, &part.text);
        part.is_gone_alone(&gateway);
    }
}

/// A process that is killed before the snapshot of what is left is written.
#[test]
fn what_a_reload_removes_is_not_brought_back_by_a_kill_right_after_it() {
    let (mut gateway, parts) = RemovedPart::each();
    for part in parts {
        part.store(&gateway);
        // Until the snapshot is restored, none is written.
        let (file, away) = restart_with_a_restore_that_hangs(&mut gateway);
        gateway.reload(&part.text, &part.with);
        gateway.take_app().stop();
        fs::rename(&away, &file).expect("renamed");
        part.put_back(&mut gateway);
        part.is_gone_alone(&gateway);
    }
}

/// Number of entries.
fn written(gateway: &TestGateway) -> u64 {
    let bytes = fs::read(snapshot(gateway)).expect("a snapshot");
    let mut decoder = SnapshotDecoder::begin(&bytes[..], bytes.len() as u64, 0).expect("a snapshot");
    while decoder.read_next().expect("whole").is_some() {}
    decoder.entries()
}

/// Nothing else happens meanwhile, so that nothing else makes a snapshot due.
#[test]
fn what_a_restart_removes_is_not_brought_back_by_the_next_one() {
    let (mut gateway, parts) = RemovedPart::each();
    for part in parts {
        part.store(&gateway);
        gateway.take_app().stop();
        let before = written(&gateway);
        gateway.rewrite(&part.text, &part.with);
        let app = gateway.second().expect("started");
        gateway.put_app(app);
        until("it has left the disk", || written(&gateway) < before);
        gateway.take_app().stop();
        part.put_back(&mut gateway);
        part.is_gone_alone(&gateway);
    }
}

/// Of a cache of which nothing is left.
#[test]
fn lookups_that_a_restart_no_longer_stores_do_not_come_back() {
    let mut gateway = Setup::default().start();
    warm(&gateway);
    let uncached = "[operations.\"v2.city\"]\ncache = { fresh = \"0s\" }\n[limits]";
    gateway.rewrite("[limits]", uncached);
    restart(&mut gateway);
    gateway.rewrite(uncached, "[limits]");
    restart(&mut gateway);
    assert!((0..20).all(|number| gateway.send(city(number)).outcome() == "ok"));
}

/// The wall clock says how long no gateway ran, and a clock that goes back makes nothing younger than it was, nor does one
/// that was set back while no gateway ran: the uptime says more.
#[test]
#[cfg(target_os = "linux")]
fn ages_go_on_while_no_gateway_runs() {
    let (fastrac, faults) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    let preload = |command: &mut std::process::Command| faults.preload(command);
    let mut program = Program::start_as(&configuration(fastrac.addr()), (ACCESS, SECRET), preload);
    let age = |program: &Program| -> u64 {
        until("it is restored", || is_hit(program, 0));
        send(program, 0).header("age").expect("Age").parse().expect("seconds")
    };
    send(&program, 0);
    assert!(age(&program) < 60);
    for (is_ahead, expected) in [(true, 7200), (false, 7200), (true, 14_400)] {
        stop(&mut program);
        if is_ahead {
            begin(&faults.clock_ahead())
        } else {
            end(&faults.clock_ahead())
        }
        program.start_again_as(preload);
        let age = age(&program);
        assert!((expected..expected + 120).contains(&age), "{age} s, expected {expected}");
    }
}

/// What callers learn before the restore comes to a response counts, whether it is stored or not.
#[test]
#[cfg(target_os = "linux")]
fn what_a_fetch_takes_away_during_a_restore_is_not_brought_back() {
    let (fastrac, faults) = (Sandbox::start(sandbox()).expect("a sandbox"), SystemFaults::new());
    let row = |operation, not_found| {
        format!("[operations.\"{operation}\"]\ncache = {{ fresh = \"1h\", not_found = \"{not_found}\" }}\n")
    };
    let rows = [row("v2.city", "0s"), row("v2.district", "1ms")].concat();
    // Opening the snapshot hangs.
    let preload = |command: &mut std::process::Command| {
        faults.preload(command);
        command.env("HANG_NAME", "cache-snapshot");
    };
    let mut program = Program::start_as(&format!("{}{rows}", configuration(fastrac.addr())), (ACCESS, SECRET), preload);
    let ask = |program: &Program, path: &str, more: &str| {
        let request = get(path).by("shop").header("cache-control", more);
        let response = Connection::open(program.data).send(&request);
        format!("{} {}", response.status, response.outcome())
    };
    let [unstored, coded, expired, unproven, untouched] = [
        "/region/city?province_id=31",
        "/region/sub-district?district_id=317101",
        "/region/district?city_id=3171",
        "/courier/all",
        "/region/province",
    ];
    let all = [unstored, coded, expired, unproven, untouched];
    let found = Act::answer(200, r#"{"success":true,"message":"","data":[]}"#);
    fastrac.fault(Fault { act: found, ..Fault::default() });
    until("it has a key pair", || program.admin_page("/readyz").status == 200);
    assert_eq!(all.map(|path| ask(&program, path, "")), ["200 ok"; 5]);
    stop(&mut program);

    begin(&faults.key_file());
    program.start_again_as(preload);
    until("it has a key pair", || program.admin_page("/readyz").status == 200);
    let missing = |status, coding: Option<&str>| {
        let headers = coding.map(|coding| ("content-encoding".to_owned(), coding.to_owned()));
        Act::Answer(fastrac_sandbox::CannedResponse {
            status,
            headers: headers.into_iter().collect(),
            body: r#"{"success":false,"message":"Data not found","data":null}"#.to_owned(),
            ..fastrac_sandbox::CannedResponse::default()
        })
    };
    fastrac.clear_faults();
    fastrac.fault(Fault::on("v2.city", missing(404, None)));
    fastrac.fault(Fault::on("v2.sub_district", missing(404, Some("gzip"))));
    fastrac.fault(Fault::on("v2.district", missing(404, None)));
    fastrac.fault(Fault::on("v2.couriers", missing(500, None)));
    assert_eq!(
        [unstored, coded, expired, unproven].map(|path| ask(&program, path, "")),
        ["404 not_found", "404 not_found", "404 not_found", "500 not_found"]
    );
    until("it is not stored any more", || ask(&program, expired, "only-if-cached") == "504 not_cached");
    end(&faults.key_file());
    until("it is restored", || ask(&program, untouched, "only-if-cached") == "200 hit");
    until("all of it", || program.stderr().contains("the cache was restored"));
    let (gone, kept) = ("504 not_cached", "200 hit");
    assert_eq!(all.map(|path| ask(&program, path, "only-if-cached")), [gone, gone, gone, kept, kept]);
    // Nor by the next one.
    stop(&mut program);
    program.start_again_as(preload);
    until("it is restored", || ask(&program, untouched, "only-if-cached") == "200 hit");
    until("all of it", || program.stderr().contains("the cache was restored"));
    assert_eq!(all.map(|path| ask(&program, path, "only-if-cached")), [gone, gone, gone, kept, kept]);
}

/// Processes that are killed at any instant of their last snapshot: the next one always starts, and never serves anything
/// but what was stored.
#[test]
fn a_kill_during_a_snapshot_leaves_the_old_one_or_the_new_one() {
    let kills = std::env::var("FASTRAC_KILLS").ok().and_then(|number| number.parse().ok()).unwrap_or(6);
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let mut program = Program::start(&configuration(fastrac.addr()), ACCESS, SECRET);
    let bodies: Vec<_> = (0..60).map(|number| send(&program, number).body).collect();
    // How long a whole stop takes on this machine.
    let began = Instant::now();
    stop(&mut program);
    let stops = began.elapsed().as_micros() as u64;
    program.start_again();
    let (mut hits, mut random) = (0, fastrand::Rng::new());
    for round in 0..kills {
        // So that there is something to be written.
        let new = get(&format!("/region/city?province_id=31&round={round}")).by("shop");
        assert_eq!(Connection::open(program.data).send(&new).outcome(), "ok");
        program.signal(Signal::TERM);
        thread::sleep(Duration::from_micros(random.u64(..stops)));
        kill(&mut program);
        program.start_again();
        for (number, body) in bodies.iter().enumerate() {
            let response = send(&program, number);
            assert_eq!((response.status, &response.body), (200, body), "round {round}");
            hits += usize::from(response.outcome() == "hit");
        }
        assert!(!program.stderr().contains("discarded"), "{}", program.stderr());
    }
    assert_eq!(hits, kills * bodies.len(), "kills within {stops} us of a stop");
}
