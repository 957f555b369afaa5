//! What the gateway fetches again by itself: one "Data not found" that nobody asked for takes no good response away, each
//! fetch has a line that names it, and what befalls it costs callers nothing.

use std::{
    thread,
    time::{Duration, Instant},
};

use fastrac_sandbox::{Act, Fault};

use crate::{
    client::{Request, get},
    test_gateway::{Setup, TestGateway, until},
};

/// Stale after a second.
const SHORT: &str =
    "[operations.\"v2.city\"]\ncache = { fresh = \"1s\", stale_if_error = \"1h\", refresh_ahead = 1 }\n";

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
    gateway.app().gateway.current.load_full().accounts[0].retries.left()
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

/// Each of them had Fastrac verify the pair, although an earlier one had shown that the operation is refused and not the pair.
#[test]
fn refreshes_that_cause_their_own_401s_cost_a_canary_a_second_at_most() {
    const COUNT: usize = 20;
    let gateway = Setup { more: SHORT, ..Setup::default() }.start();
    let city = |number: usize| get(&format!("/region/city?province_id=31&n={number}")).by("shop");
    for number in 0..COUNT {
        assert_eq!(gateway.send(city(number)).outcome(), "ok");
    }
    thread::sleep(Duration::from_millis(1050));
    gateway.sandbox.fault(fails(401));
    let canaries = || gateway.metric("upstream_requests_total", &[("operation", "v2.province")]);
    let (before, began) = (canaries(), Instant::now());
    let mut used = 0;
    for number in 0..COUNT {
        used += usize::from(gateway.send(city(number)).outcome() == "stale");
    }
    until("the refreshes are over", || {
        gateway.received().iter().filter(|entry| entry.status == Some(401)).count() >= used
    });
    let canaries = canaries() - before;
    assert!(used > 10 && canaries <= 1.0 + began.elapsed().as_secs_f64(), "{used} refreshes, {canaries} canaries");
}
