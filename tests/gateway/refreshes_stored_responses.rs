//! What the gateway fetches again by itself: one "Data not found" that nobody asked for takes no good response away, and each
//! fetch has a line that names it.

use std::{thread, time::Duration};

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
    assert_eq!(gateway.metric("cache_comparisons_total", &[("result", "changed")]), 1.0);
    assert_eq!(gateway.send(forced()).outcome(), "not_found");
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
