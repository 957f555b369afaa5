//! Requests sent = requests counted = lines written, however they ended, and nothing is left in flight.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use fastrac_sandbox::{Act, Fault};

use crate::{
    bodies,
    client::{Request, Wire, get, post, request},
    test_gateway::{Setup, Stage, until},
};

const CONNECTIONS: usize = 64;
const REQUESTS: usize = 10_000;

/// What a client does with a request.
enum Does {
    Waits,
    /// Closes the connection at once, before the request can be sent on.
    Leaves,
    /// Closes the connection a little later, perhaps while Fastrac works on it.
    LeavesLater,
    /// Closes the connection in the middle of the body.
    LeavesHalfway,
}

/// The `n`-th request of the mix.
fn nth(n: usize) -> (Request, Does) {
    let track = |awb: usize| request("GET", "/order/track").json(&format!(r#"{{"courier_code":"idx","awb":"{awb}"}}"#));
    match n % 20 {
        0..5 => (get(&format!("/region/city?province_id={}", 11 + n % 80)).by("shop"), Does::Waits),
        5 => (post("/region/search-region", &format!(r#"{{"keyword":"k{}"}}"#, n % 300)).by("clerk"), Does::Waits),
        6 => (post("/tariff/express", bodies::TARIFF).by("shop"), Does::Waits),
        7 => (track(n).by("shop"), Does::Waits),
        8 => (post("/order/express", &bodies::order(n)).by("shop"), Does::Waits),
        9 => (post("/order/express", bodies::ORDER).by("clerk"), Does::Waits),
        10 => (get("/region/province").pair("svc-shop-1", "wrong"), Does::Waits),
        11 => (get("/region/%2e%2e/x").by("shop"), Does::Waits),
        12 => (post("/tariff/express", bodies::TARIFF).by("poor"), Does::Waits),
        13 => (get("/webhook/get").by("shop"), Does::Waits),
        14 => (post("/user/balance/history", "{}").by("shop"), Does::Waits),
        15 => (get("/courier/all").by("shop").header("cache-control", "only-if-cached"), Does::Waits),
        16 => (post("/item/multi-items", bodies::MULTI_ITEMS).by("shop"), Does::Leaves),
        17 if n % 40 == 17 => (post("/apiOrder/orderExpress", &bodies::order(n)).by("shop"), Does::Leaves),
        17 => (post("/apiOrder/orderExpress", &bodies::order(n)).by("shop"), Does::LeavesLater),
        18 => (post("/tariff/express", bodies::TARIFF).by("shop"), Does::LeavesHalfway),
        _ => (get(&format!("/region/district?city_id={n}")).by("shop"), Does::LeavesLater),
    }
}

/// One client: sends every `CONNECTIONS`-th request, on a connection that it keeps as long as it can.
fn client(stage: &Stage, first: usize, answered: &AtomicUsize) {
    let mut wire: Option<Wire> = None;
    let mut leaving = Vec::new();
    for n in (first..REQUESTS).step_by(CONNECTIONS) {
        let (request, does) = nth(n);
        // A client that leaves uses another connection: nothing on it is unread, so everything sent arrives.
        match does {
            Does::Waits => {
                let open = wire.get_or_insert_with(|| stage.wire());
                let answer = open.ask(&request);
                assert!(answer.whole && answer.header("x-request-id").is_some());
                answered.fetch_add(1, Ordering::Relaxed);
                leaving.clear();
                if answer.header("connection") == Some("close") {
                    wire = None;
                }
            }
            Does::Leaves => stage.wire().send(&request.bytes()),
            Does::LeavesLater => {
                let mut own = stage.wire();
                own.send(&request.bytes());
                leaving.push(own);
            }
            Does::LeavesHalfway => {
                let bytes = request.bytes();
                stage.wire().send(&bytes[..bytes.len() - 7]);
            }
        }
    }
}

#[test]
fn ten_thousand_mixed_requests_from_sixty_four_connections() {
    let services = &[("poor", "quota = { per_day = 100 }")];
    let log = "bodies = \"none\"";
    let stage = Setup { services, log, ..Setup::default() }.start();
    stage.sandbox.fault(Fault::on("v2.webhook_get", Act::Html(500)));
    stage.sandbox.fault(Fault::on("v2.balance_history", Act::Close));
    stage.sandbox.fault(Fault::on("v2.multi_items", Act::Pass).wait(Duration::from_millis(20)));
    stage.sandbox.fault(Fault::on("v1.order_express", Act::Pass).delay(Duration::from_millis(10)));
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for first in 0..CONNECTIONS {
            let (stage, answered) = (&stage, &answered);
            scope.spawn(move || client(stage, first, answered));
        }
    });
    assert_eq!(answered.into_inner(), REQUESTS / 20 * 16);

    until("every request is counted", || stage.metric("requests_total", &[]) >= REQUESTS as f64);
    let mut lines = Vec::new();
    until("every line is written", || {
        lines = stage.log();
        lines.len() >= REQUESTS
    });
    until("all connections are closed", || stage.metric("client_connections", &[]) == 0.0);
    assert_eq!(stage.metric("requests_total", &[]), REQUESTS as f64);
    assert_eq!(lines.len(), REQUESTS);
    assert_eq!(stage.metric("log_records_total", &[("result", "dropped")]), 0.0);
    assert_eq!(stage.metric("in_flight_requests", &[]), 0.0);
    assert_eq!(stage.metric("request_duration_seconds_count", &[]), REQUESTS as f64);

    // Metrics and log agree on every outcome, and the numbers have no gap.
    let mut outcomes = BTreeMap::<&str, usize>::new();
    for (number, line) in lines.iter().enumerate() {
        *outcomes.entry(line["outcome"].as_str().expect("an outcome")).or_default() += 1;
        assert_eq!(line["seq"], number + 1);
    }
    for (outcome, count) in &outcomes {
        assert_eq!(stage.metric("requests_total", &[("outcome", outcome)]), *count as f64, "{outcome}");
    }
    let each = REQUESTS / 20;
    assert_eq!((outcomes["unauthenticated"], outcomes["forbidden"]), (each, each));
    assert_eq!((outcomes["over_quota"], outcomes["upstream_error"], outcomes["cut"]), (each - 100, each, each));
    assert_eq!(outcomes["not_cached"], each);

    // Every attempt is counted, also if its caller has left; plus one canary.
    let sent = stage.metric("upstream_requests_total", &[]);
    let received = stage.received().len() as f64;
    assert!(sent > received && received >= attempts(&lines), "{sent} sent, {received} received");

    // An order was executed if and only if its line says that it was sent, and none was executed twice.
    let orders = stage.sandbox.counters().orders;
    let ordered = |line: &&serde_json::Value| line["class"] == "order" && line["sent"] == "yes";
    let said = lines.iter().filter(ordered).count() as u64;
    assert_eq!((orders.express, orders.duplicates), (said, 0));
    assert!(said > each as u64, "some whose caller left were executed too");
    assert!(lines.iter().all(|line| line["class"] != "order" || line["sent"] != "unknown"));

    let account = &stage.app().gateway.current.load().accounts[0];
    let usage = account.budget.usage();
    assert_eq!((usage.in_flight.left, usage.waiting), (usage.in_flight.limit, 0));
    assert_eq!(stage.app().gateway.current.load().flights.len(), 0);
    assert_eq!(stage.metric("upstream_connections", &[("state", "active")]), 0.0);
}

/// Attempts of requests whose callers waited for the response.
fn attempts(lines: &[serde_json::Value]) -> f64 {
    lines.iter().map(|line| line["attempts"].as_f64().expect("a number")).sum()
}

#[test]
fn a_request_whose_client_closes_at_once_is_counted() {
    let stage = Stage::new();
    for _ in 0..200 {
        stage.wire().send(&get("/region/province").by("shop").bytes());
    }
    until("all are counted", || stage.metric("requests_total", &[]) >= 200.0);
    assert_eq!(stage.lines(200).len(), 200);
}

#[test]
fn an_attempt_whose_caller_leaves_is_counted() {
    let stage = Stage::new();
    stage.sandbox.fault(Fault::on("v2.multi_items", Act::Pass).wait(Duration::from_secs(2)));
    let mut wire = stage.wire();
    wire.send(&post("/item/multi-items", bodies::MULTI_ITEMS).by("shop").header("x-request-id", "left-early").bytes());
    until("Fastrac has it", || stage.received().len() == 1);
    drop(wire);
    let line = stage.line("left-early");
    assert_eq!(
        (&line["outcome"], &line["sent"], &line["attempts"]),
        (&"client_gone".into(), &"unknown".into(), &1.into())
    );
    let failed = [("operation", "v2.multi_items"), ("status", "failed")];
    assert_eq!(stage.metric("upstream_requests_total", &failed), 1.0);
}
