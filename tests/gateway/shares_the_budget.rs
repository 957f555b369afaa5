//! An account's budget is shared: guarantees hold in a flood, and Fastrac's own limit responses are heeded by all.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use fastrac_sandbox::{Act, CannedResponse, Fault, Limit};

use crate::{
    bodies,
    client::{Response, get, post, request},
    test_gateway::{Setup, TestGateway, pair, sum, until, write},
};

fn quote(number: usize) -> String {
    format!("/tariff/express?{number}")
}

/// One of `service`'s requests.
fn send(gateway: &TestGateway, service: &str, number: usize) -> Response {
    gateway.send(post(&quote(number), bodies::TARIFF).by(service))
}

/// Twenty requests a second: one service sends as fast as it can on eight connections, the others what they are guaranteed.
#[test]
fn a_flood_takes_nothing_of_what_others_are_guaranteed() {
    let gateway = Setup {
        budget: "per_second = 20, burst = 20, in_flight = 64, max_wait = \"250ms\"",
        services: &[
            ("flood", "share = 0.2\nallow = [\"quote\"]"),
            ("first", "share = 0.3\npriority = \"high\"\nallow = [\"quote\"]"),
            ("second", "share = 0.2\nallow = [\"quote\"]"),
            ("last", "share = 0.2\npriority = \"low\"\nallow = [\"quote\"]"),
            ("guest", "allow = [\"quote\"]"),
        ],
        ..Setup::default()
    }
    .start();
    let ended = AtomicBool::new(false);
    let (refused, good) = thread::scope(|scope| {
        let flood = || {
            let (mut connection, mut refused) = (gateway.connect(), Vec::new());
            while !ended.load(Ordering::Relaxed) {
                let response = connection.send(&post(&quote(0), bodies::TARIFF).by("flood"));
                if response.status != 200 {
                    refused.push(response);
                }
            }
            refused
        };
        let floods: Vec<_> = (0..8).map(|_| scope.spawn(flood)).collect();
        let steady = |service: &'static str, per_second: u64, count: usize| {
            let gateway = &gateway;
            scope.spawn(move || {
                let (mut connection, began) = (gateway.connect(), Instant::now());
                let mut good = 0;
                for number in 0..count {
                    let due = began + Duration::from_millis(number as u64 * 1_000 / per_second);
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    good +=
                        usize::from(connection.send(&post(&quote(number), bodies::TARIFF).by(service)).status == 200);
                }
                (service, count, good)
            })
        };
        let others = [steady("first", 6, 36), steady("second", 4, 24), steady("last", 4, 24)];
        let good = others.map(|other| other.join().expect("responses"));
        ended.store(true, Ordering::Relaxed);
        let refused: Vec<Response> = floods.into_iter().flat_map(|one| one.join().expect("responses")).collect();
        (refused, good)
    });
    for (service, count, good) in good {
        assert!(good * 20 >= count * 19, "{service} got {good} of {count}");
    }
    assert!(!refused.is_empty());
    for response in &refused {
        assert_eq!((response.status, response.code().as_str(), response.sent()), (429, "budget.second", "no"));
        assert!(response.header("retry-after").is_some(), "{response:?}");
    }
    // It has no share that it could have used up.
    let guest = (0..40).map(|number| send(&gateway, "guest", number)).find(|response| response.status != 200);
    assert!(guest.is_none_or(|response| response.status == 503));
}

/// What the status says of ten places, of which so many are left.
fn in_flight(left: usize) -> serde_json::Value {
    serde_json::json!({"limit": 10, "left": left, "kept_for_orders": 2, "kept_for_others": 2})
}

/// Slow quotes of one service wait and hold every place that they may; orders of it and of another one are sent at once.
#[test]
fn slow_quotes_leave_orders_the_places_that_are_kept_for_them() {
    let services =
        &[("flood", "priority = \"high\"\nallow = [\"quote\"]"), ("till", "priority = \"low\"\nallow = [\"order\"]")];
    let budget = "per_second = 1000, burst = 1000, in_flight = 10, max_wait = \"30s\"";
    let gateway = Setup { budget, services, ..Setup::default() }.start();
    let until_the_end = Fault::on("v2.multi_items", Act::Pass).wait(Duration::from_secs(4));
    gateway.sandbox.fault(until_the_end.times(8));
    let quote = |service| gateway.send(post("/item/multi-items", bodies::MULTI_ITEMS).by(service));
    let status = || gateway.admin("/status").json()["accounts"]["main"]["budget"].clone();
    thread::scope(|scope| {
        let quotes: Vec<_> = (0..12).map(|_| scope.spawn(|| quote("flood"))).collect();
        until("the others to wait", || status()["waiting"] == 4);
        assert_eq!(status()["in_flight"], in_flight(2));
        for (number, service) in [(1, "shop"), (2, "till"), (3, "till")] {
            let order = gateway.send(post("/order/express", &bodies::order(number)).by(service));
            assert_eq!((order.status, order.outcome()), (200, "ok"), "{order:?}");
        }
        assert_eq!(status()["waiting"], 4, "no quote has ended meanwhile");
        for quote in quotes {
            assert_eq!(quote.join().expect("a response").outcome(), "ok");
        }
    });
}

/// Slow orders of one service wait and hold every place that they may; reads of it and of another one are sent at once.
#[test]
fn slow_orders_leave_others_the_places_that_are_kept_for_them() {
    let services =
        &[("till", "priority = \"high\"\nallow = [\"order\"]"), ("desk", "priority = \"low\"\nallow = [\"read\"]")];
    let budget = "per_second = 1000, burst = 1000, in_flight = 10, max_wait = \"30s\"";
    let gateway = Setup { budget, services, ..Setup::default() }.start();
    let until_the_end = Fault::on("v2.order_express", Act::Pass).wait(Duration::from_secs(4));
    gateway.sandbox.fault(until_the_end.times(8));
    let order = |number| gateway.send(post("/order/express", &bodies::order(number)).by("till"));
    let status = || gateway.admin("/status").json()["accounts"]["main"]["budget"].clone();
    thread::scope(|scope| {
        let orders: Vec<_> = (0..12).map(|number| scope.spawn(move || order(number))).collect();
        until("the others to wait", || status()["waiting"] == 4);
        assert_eq!(status()["in_flight"], in_flight(2));
        for service in ["shop", "desk", "desk"] {
            let read = gateway.send(request("GET", "/order/track").json("{}").by(service));
            assert_eq!(read.sent(), "yes", "{read:?}");
        }
        assert_eq!(status()["waiting"], 4, "no order has ended meanwhile");
        for order in orders {
            assert_eq!(order.join().expect("a response").outcome(), "ok");
        }
    });
}

#[test]
fn a_limit_response_of_fastrac_pauses_the_account_for_all() {
    for (limit, pause) in [
        (Limit { per_day: Some(1), ..Limit::default() }, 0.0..1.01),
        (Limit { per_day: Some(1), retry_after: true, ..Limit::default() }, 30.0..3_601.0),
        (Limit { per_day: Some(1), status: 200, message: "Rate limit exceeded".into(), ..Limit::default() }, 0.0..1.01),
    ] {
        let budget = "per_second = 100, burst = 100, in_flight = 8, max_wait = \"0s\"";
        let services = &[("other", "priority = \"high\"\nallow = [\"quote\", \"order\"]")];
        let gateway = Setup { budget, services, ..Setup::default() }.start();
        gateway.sandbox.limit(vec![limit]);
        assert_eq!(send(&gateway, "shop", 1).outcome(), "ok");
        let throttled = send(&gateway, "shop", 2);
        assert_eq!((throttled.outcome(), throttled.sent()), ("throttled", "yes"), "{throttled:?}");
        let received = gateway.sandbox.counters().requests;
        let refused = send(&gateway, "other", 3);
        assert_eq!((refused.status, refused.code().as_str(), refused.sent()), (503, "budget.second", "no"));
        assert!(refused.json()["message"].as_str().expect("text").contains("Fastrac throttles account main"));
        let order = gateway.send(post("/order/express", &bodies::order(4)).by("other"));
        assert_eq!((order.status, order.code().as_str(), order.sent()), (503, "budget.second", "no"));
        assert_eq!(gateway.sandbox.counters().requests, received, "nothing went out");
        let budget = gateway.admin("/status").json()["accounts"]["main"]["budget"].clone();
        assert_eq!(budget["learned_per_second"], 50.0, "{budget}");
        assert!(pause.contains(&budget["paused_seconds"].as_f64().expect("a number")), "{budget}");
        assert_eq!(budget["second"]["limit"], 100);
        let metrics = gateway.admin("/metrics").text();
        assert_eq!(sum(&metrics, "budget_learned_limit", &[("account", "main")]), 50.0);
    }
}

/// Whatever makes quotes fail, and however long Fastrac says that it will last: no order waits for it.
#[test]
fn an_error_that_is_no_limit_pauses_no_other_request() {
    let budget = "per_second = 100, burst = 100, in_flight = 8, max_wait = \"0s\"";
    let services = &[("other", "allow = [\"quote\", \"order\"]")];
    let gateway = Setup { budget, services, ..Setup::default() }.start();
    for (number, status) in [503, 500, 502, 403].into_iter().enumerate() {
        let headers = vec![("retry-after".to_owned(), "3600".to_owned())];
        let body = r#"{"success":false,"message":"Maintenance of tariffs"}"#.to_owned();
        let busy = Act::Answer(CannedResponse { status, headers, body, ..CannedResponse::default() });
        gateway.sandbox.fault(Fault::on("v2.tariff_express", busy).times(1));
        let failed = send(&gateway, "shop", 1);
        assert_eq!((failed.status, failed.header("retry-after")), (status, Some("3600")), "{failed:?}");
        let order = gateway.send(post("/order/express", &bodies::order(number)).by("other"));
        assert_eq!((order.status, order.outcome()), (200, "ok"), "after {status}: {order:?}");
        assert_eq!(send(&gateway, "other", 2).outcome(), "ok", "after {status}");
        let budget = gateway.admin("/status").json()["accounts"]["main"]["budget"].clone();
        assert_eq!(
            (&budget["paused_seconds"], &budget["learned_per_second"]),
            (&0.0.into(), &100.0.into()),
            "{status}"
        );
    }
}

/// The day's shares add up to 1: the gateway's own calls and a service without a share still get budget.
#[test]
fn shares_of_the_whole_day_leave_budget_for_the_gateways_own_calls() {
    let gateway = Setup {
        budget: "per_second = 1000, burst = 1000, per_day = 4000, in_flight = 64, max_wait = \"250ms\"",
        services: &[("first", "share = 0.5\nallow = [\"lookup\"]"), ("second", "share = 0.5\nallow = [\"lookup\"]")],
        more: "[operations.\"v2.city\"]\ncache = { fresh = \"2s\", stale_if_error = \"1h\", refresh_ahead = 1 }\n",
        ..Setup::default()
    }
    // Until a canary has verified the pair.
    .start();
    let city = || gateway.send(get("/region/city?province_id=31").by("first"));
    assert_eq!(city().outcome(), "ok");
    until("it is stale", || city().outcome() == "stale");
    until("the gateway has refreshed it", || city().outcome() == "hit");
    assert_eq!(gateway.received().len(), 2);

    let promoted = || gateway.metric("key_events_total", &[("event", "promoted")]);
    let (before, access, secret) = (promoted(), "next-access", "next-secret");
    gateway.sandbox.add_key("next", access, secret);
    write(&gateway.folder.path().join("keys.toml"), &pair(access, secret));
    until("the next pair is verified and in use", || promoted() > before);
    assert_eq!(gateway.admin("/readyz").status, 200);
    assert!(!gateway.admin("/readyz").text().contains("not verified"));

    // It has no share.
    assert_eq!(send(&gateway, "shop", 1).outcome(), "ok");
    let received = gateway.received();
    assert_eq!(received.last().and_then(|entry| entry.key.as_deref()), Some("next"));
}
