//! What the gateway fetches again by itself: one "Data not found" that nobody asked for takes no good response away, each
//! fetch has a line that names it, and what befalls it costs callers nothing.

use std::{
    thread,
    time::{Duration, Instant},
};

use fastrac_sandbox::{Act, Entry, Fault};

use crate::{
    client::{Request, get},
    test_gateway::{Setup, TestGateway, pair, sum, until, write},
};

/// Stale after a second.
const SHORT: &str =
    "[operations.\"v2.city\"]\ncache = { fresh = \"1s\", stale_if_error = \"1h\", refresh_ahead = 1 }\n";

/// Refreshed ahead once it is a second old.
const AHEAD: &str =
    "[operations.\"v2.city\"]\ncache = { fresh = \"1h\", stale_if_error = \"2h\", refresh_ahead = 0.00001 }\n";

const FORCING: &[(&str, &str)] = &[("fresh", "force_refresh = true")];

fn city(service: &str) -> Request {
    get("/region/city?province_id=31").by(service)
}

fn forced() -> Request {
    city("fresh").header("cache-control", "no-cache")
}

/// Waits until the stored response is stale, uses it, and waits for the refresh behind it.
fn refresh(gateway: &TestGateway) {
    thread::sleep(Duration::from_millis(1050));
    let fetched = gateway.received().len();
    assert_eq!(gateway.send(city("shop")).outcome(), "stale");
    let snapshot = gateway.app().gateway.current.load_full();
    until("the refresh is over", || {
        gateway.received().len() > fetched && snapshot.flights.is_empty() && snapshot.accounts[0].refreshes.is_empty()
    });
}

#[test]
fn one_not_found_of_a_refresh_takes_no_good_response_away_and_that_of_a_caller_does() {
    let gateway = Setup { more: SHORT, services: FORCING, ..Setup::default() }.start();
    let good = gateway.send(city("shop"));
    let missing = Act::answer(404, r#"{"success":false,"message":"Data not found"}"#);
    gateway.sandbox.fault(Fault::on("v2.city", missing));
    refresh(&gateway);
    // Also when it is so old that Fastrac is asked first: it was asked a moment ago.
    thread::sleep(Duration::from_millis(1000));
    let kept = gateway.send(city("shop"));
    assert_eq!((kept.outcome(), &kept.body, gateway.received().len()), ("stale", &good.body, 2));
    assert_eq!(gateway.metric("cache_comparisons_total", &[]), 0.0, "nothing took its place");
    assert_eq!(gateway.send(forced()).outcome(), "not_found");
    assert_eq!(gateway.metric("cache_comparisons_total", &[("result", "changed")]), 1.0);
    let gone = gateway.send(city("shop"));
    assert_eq!((gone.outcome(), gone.status), ("hit", 404));
}

#[test]
fn what_a_refresh_has_stored_names_its_line_in_the_log() {
    let gateway = Setup { more: SHORT, ..Setup::default() }.start();
    let first = gateway.send(city("shop"));
    refresh(&gateway);
    let hit = gateway.send(city("shop"));
    assert_eq!(hit.outcome(), "hit");
    let line = gateway.line(hit.header("x-request-id").expect("an id"));
    let from = line["stored_from"].as_str().expect("an id");
    assert_ne!(Some(from), first.header("x-request-id"));
    let line = gateway.line(from);
    let members = ["service", "account", "operation", "class", "method", "path", "outcome", "cache", "sent"];
    let values = members.map(|member| line[member].as_str().expect("text"));
    assert_eq!(values, ["-", "main", "v2.city", "lookup", "GET", "/region/city", "ok", "miss", "yes"]);
    assert_eq!((line["status"].as_u64(), line["attempts"].as_u64()), (Some(200), Some(1)));
    assert!(line["answer_body"]["data"].is_array() && line["key_version"].is_string(), "{line}");
    assert_eq!(gateway.metric("requests_total", &[]), 3.0, "it is no request of a caller");
}

#[test]
fn a_forced_refresh_is_compared_too() {
    let gateway = Setup { services: FORCING, ..Setup::default() }.start();
    gateway.send(city("shop"));
    assert_eq!(gateway.send(forced()).outcome(), "ok");
    assert_eq!(gateway.metric("cache_comparisons_total", &[("operation", "v2.city"), ("result", "same")]), 1.0);
}

fn retries_left(gateway: &TestGateway) -> u64 {
    gateway.app().gateway.current.load_full().accounts[0].address.retries.left()
}

fn fails(status: u16) -> Fault {
    Fault::on("v2.city", Act::Html(status))
}

#[test]
fn a_refresh_that_nobody_waits_for_has_no_second_attempt_and_no_part_in_the_retry_budget() {
    let gateway = Setup { more: SHORT, account: "retries = 1", ..Setup::default() }.start();
    gateway.sandbox.fault(fails(503).times(1));
    assert_eq!(gateway.send(city("shop")).outcome(), "ok");
    let (left, first) = (retries_left(&gateway), gateway.received().len());
    assert_eq!((left, first), (9, 2), "the caller's second attempt");
    refresh(&gateway);
    assert_eq!((retries_left(&gateway), gateway.received().len()), (left, first + 1), "it adds nothing");
    gateway.sandbox.fault(fails(503));
    refresh(&gateway);
    assert_eq!((retries_left(&gateway), gateway.received().len()), (left, first + 2), "it is sent once");
    assert_eq!(gateway.metric("retries_total", &[]), 1.0);
}

#[test]
fn a_refresh_that_a_caller_has_joined_has_a_second_attempt() {
    let gateway = Setup { more: SHORT, services: FORCING, ..Setup::default() }.start();
    gateway.send(city("shop"));
    thread::sleep(Duration::from_millis(1050));
    gateway.sandbox.fault(fails(503).wait(Duration::from_secs(1)).times(1));
    assert_eq!(gateway.send(city("shop")).outcome(), "stale");
    until("the refresh is sent", || gateway.received().len() == 2);
    // It takes no stale response.
    let joined = gateway.send(city("fresh").header("cache-control", "min-fresh=0"));
    assert_eq!((joined.status, joined.outcome()), (200, "ok"), "{joined:?}");
    assert_eq!(gateway.received().len(), 3);
    assert_eq!(gateway.metric("retries_total", &[("reason", "503")]), 1.0);
}

/// Stores responses for cities 0 to `count`, and lets them become so old that their use has them refreshed.
fn store_and_age(gateway: &TestGateway, count: usize) {
    for number in 0..count {
        assert_eq!(gateway.send(numbered(number)).outcome(), "ok");
    }
    thread::sleep(Duration::from_millis(1050));
}

fn numbered(number: usize) -> Request {
    get(&format!("/region/city?province_id=31&n={number}")).by("shop")
}

/// Number of calls for cities that Fastrac has answered with this status.
fn cities(gateway: &TestGateway, status: u16) -> usize {
    let is_one = |entry: &Entry| entry.target().starts_with("/region/city") && entry.status == Some(status);
    gateway.received().iter().filter(|entry| is_one(entry)).count()
}

/// State of the callers' breaker that is farthest from closed.
fn breaker(gateway: &TestGateway) -> &'static str {
    gateway.app().gateway.current.load_full().accounts[0].address.breakers.worst().as_str()
}

/// Each of them had Fastrac verify the pair, although an earlier one had shown that the operation is refused and not the pair.
#[test]
fn refreshes_that_cause_their_own_401s_cost_a_canary_a_second_at_most() {
    const COUNT: usize = 20;
    let gateway = Setup { more: AHEAD, ..Setup::default() }.start();
    store_and_age(&gateway, COUNT);
    gateway.sandbox.fault(fails(401));
    let canaries = || gateway.metric("upstream_requests_total", &[("operation", "v2.province")]);
    let (before, began) = (canaries(), Instant::now());
    for number in 0..COUNT {
        assert_eq!(gateway.send(numbered(number)).outcome(), "hit");
    }
    until("the refreshes are over", || cities(&gateway, 401) == COUNT);
    let canaries = canaries() - before;
    assert!(canaries <= 1.0 + began.elapsed().as_secs_f64(), "{canaries} canaries");
}

#[test]
fn refreshes_that_fail_stop_refreshes_and_no_caller() {
    const COUNT: usize = 10;
    let rules = "minimum = 3, failures = 0.5, open = \"1h\"";
    let gateway = Setup { more: AHEAD, breaker: rules, account: "retries = 0", ..Setup::default() }.start();
    store_and_age(&gateway, COUNT);
    gateway.sandbox.fault(fails(503));
    for number in 0..COUNT {
        assert_eq!(gateway.send(numbered(number)).outcome(), "hit");
    }
    let snapshot = gateway.app().gateway.current.load_full();
    until("nothing is refreshed", || snapshot.accounts[0].refreshes.is_empty() && snapshot.flights.is_empty());
    assert_eq!(gateway.send(numbered(COUNT)).outcome(), "upstream_error", "a caller's call is sent");
    assert_eq!(gateway.send(get("/region/province").by("shop")).outcome(), "ok");
    assert_eq!(cities(&gateway, 503), 4, "three refreshes and a caller's");
    assert_eq!(breaker(&gateway), "closed");
    assert_eq!(sum(&gateway.admin("/metrics").text(), "breaker_transitions_total", &[]), 0.0);
    // A walk is refused too, and counts nothing as failed.
    assert!(gateway.app().warmer.begin("main"));
    thread::sleep(Duration::from_millis(50));
    let walk = gateway.app().warmer.progress().remove("main").expect("a walk");
    assert_eq!((walk.ended, walk.counts.failed, cities(&gateway, 503)), (None, 0, 4));
}

/// Six responses of an operation that hangs kept the only place, and those of all others grew stale.
#[test]
fn an_operation_that_hangs_leaves_the_place_to_others() {
    const HANGS: &str = "[operations.\"v2.couriers\"]\ntimeout = \"2s\"\n\
                         cache = { fresh = \"1h\", stale_if_error = \"2h\", refresh_ahead = 0.00001 }\n";
    let gateway = Setup { more: format!("{AHEAD}{HANGS}").leak(), ..Setup::default() }.start();
    let couriers = |number: usize| get(&format!("/courier/all?n={number}")).by("shop");
    (0..6).for_each(|number| assert_eq!(gateway.send(couriers(number)).outcome(), "ok"));
    store_and_age(&gateway, 1);
    gateway.sandbox.fault(Fault::on("v2.couriers", Act::Pass).wait(Duration::from_secs(20)));
    for number in 0..6 {
        assert_eq!(gateway.send(couriers(number)).outcome(), "hit");
    }
    until("one refresh hangs", || {
        gateway.received().iter().filter(|one| one.target().starts_with("/courier")).count() > 6
    });
    assert_eq!(gateway.send(numbered(0)).outcome(), "hit");
    let began = Instant::now();
    until("that of another operation is sent", || cities(&gateway, 200) == 2);
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}: after two of six", began.elapsed());
    gateway.sandbox.clear_faults();
}

/// The whole operation rested after one, for three times as long.
#[test]
fn a_response_whose_refresh_hangs_keeps_no_other_of_its_operation_from_being_refreshed() {
    let more = AHEAD.replace("cache", "timeout = \"2s\"\ncache");
    let gateway = Setup { more: more.leak(), ..Setup::default() }.start();
    store_and_age(&gateway, 4);
    gateway.sandbox.fault(Fault::on("v2.city", Act::Pass).wait(Duration::from_secs(20)).times(1));
    for number in 0..4 {
        assert_eq!(gateway.send(numbered(number)).outcome(), "hit");
    }
    until("the others are refreshed, although no other hit asks for it", || cities(&gateway, 200) == 4 + 3);
}

/// It stayed in the pool, even once Fastrac had closed it, until another response was refreshed.
#[test]
fn a_refresh_that_takes_long_leaves_no_connection_behind() {
    let gateway = Setup { more: AHEAD, ..Setup::default() }.start();
    store_and_age(&gateway, 1);
    gateway.sandbox.fault(Fault::on("v2.city", Act::Pass).wait(Duration::from_millis(1_500)).times(1));
    assert_eq!(gateway.send(numbered(0)).outcome(), "hit");
    until("it is over", || cities(&gateway, 200) == 2);
    // Those of callers are closed after a few seconds.
    until("no connection is left", || gateway.metric("upstream_connections", &[]) == 0.0);
}

/// Also those that are not waited for any more.
#[test]
fn refreshes_that_a_stop_ends_have_their_lines() {
    let mut gateway = Setup { more: AHEAD, drain: ("0s", "1s"), ..Setup::default() }.start();
    store_and_age(&gateway, 2);
    gateway.sandbox.fault(Fault::on("v2.city", Act::Pass).wait(Duration::from_secs(20)));
    (0..2).for_each(|number| assert_eq!(gateway.send(numbered(number)).outcome(), "hit"));
    until("both are sent", || gateway.received().len() == 4);
    gateway.take_app().stop();
    let lines = gateway.log();
    let own: Vec<_> = lines.iter().filter(|line| line["service"] == "-").collect();
    assert_eq!(own.len(), 2, "{own:?}");
    assert!(own.iter().all(|line| line["attempts"] == 1 && line["sent"] != "no"), "{own:?}");
}

#[test]
fn a_refresh_takes_no_probe_that_a_caller_needs() {
    let rules = "minimum = 1, failures = 0.1, open = \"250ms\", probes = 1";
    let gateway = Setup { more: AHEAD, breaker: rules, account: "retries = 0", ..Setup::default() }.start();
    store_and_age(&gateway, 1);
    gateway.sandbox.fault(Fault::on("v2.district", Act::Html(500)).times(1));
    let district = || gateway.send(get("/region/district?city_id=3171").by("shop"));
    assert_eq!(district().status, 500);
    until("callers' breaker is half-open", || breaker(&gateway) == "half_open");
    gateway.sandbox.fault(Fault::on("v2.city", Act::Pass).wait(Duration::from_secs(5)).times(1));
    assert_eq!(gateway.send(numbered(0)).outcome(), "hit");
    let snapshot = gateway.app().gateway.current.load_full();
    until("the refresh has been decided", || snapshot.accounts[0].refreshes.is_empty());
    assert_eq!(district().outcome(), "ok", "the probe is there");
    assert_eq!(breaker(&gateway), "closed");
    gateway.sandbox.clear_faults();
    until("it is refreshed now", || {
        assert_eq!(gateway.send(numbered(0)).outcome(), "hit");
        cities(&gateway, 200) >= 2
    });
}

/// The previous pair is at hand at once: with that, it took the token that is left to callers.
#[test]
fn a_refresh_whose_pair_is_refused_is_sent_again_from_spare_budget_only() {
    const NEXT: (&str, &str) = ("canary-fastrac-access-52c8-next", "canary/fastrac+secret=e41b07-next");
    let scarce = "per_second = 2, burst = 2, max_wait = \"0s\"";
    for (budget, good) in [("per_second = 100000, burst = 100000", 2), (scarce, 1)] {
        let gateway = Setup { more: AHEAD, budget, ..Setup::default() }.start();
        let snapshot = gateway.app().gateway.current.load_full();
        let account = &snapshot.accounts[0];
        gateway.sandbox.add_key("next", NEXT.0, NEXT.1);
        write(&gateway.folder.path().join("keys.toml"), &pair(NEXT.0, NEXT.1));
        let by_next = |entry: &Entry| entry.key.as_deref() == Some("next");
        until("the next pair is verified", || gateway.received().iter().any(by_next));
        let is_full = || account.budget.usage().bucket.is_some_and(|bucket| bucket.left == bucket.burst);
        until("a full bucket", is_full);
        store_and_age(&gateway, 1);
        until("a full bucket", is_full);
        gateway.sandbox.fault(fails(401).times(1));
        assert_eq!(gateway.send(numbered(0)).outcome(), "hit");
        until("the refresh is over", || {
            cities(&gateway, 401) == 1 && snapshot.flights.is_empty() && account.refreshes.is_empty()
        });
        assert_eq!(cities(&gateway, 200), good, "{budget}");
    }
}
