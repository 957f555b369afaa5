//! Requests sent = requests counted = lines written, however they ended, and nothing is left in flight.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use fastrac_sandbox::{Act, Fault};
use serde_json::json;

use crate::{
    bodies,
    client::{Connection, Request, get, post, request},
    test_gateway::{Setup, TestGateway, pair, until, write},
};

const CONNECTIONS: usize = 64;
const REQUESTS: usize = 10_000;

/// What a client does after it has sent a request.
enum ClientBehaviour {
    Waits,
    /// Closes the connection at once, before the request can be sent on.
    Leaves,
    /// Closes the connection a little later, perhaps while Fastrac works on it.
    LeavesLater,
    /// Closes the connection in the middle of the body.
    LeavesHalfway,
}

/// The `n`-th request of the mix.
fn nth_request(n: usize) -> (Request, ClientBehaviour) {
    let track = |awb: usize| request("GET", "/order/track").json(&format!(r#"{{"courier_code":"idx","awb":"{awb}"}}"#));
    match n % 20 {
        0..5 => (get(&format!("/region/city?province_id={}", 11 + n % 80)).by("shop"), ClientBehaviour::Waits),
        5 => (
            post("/region/search-region", &format!(r#"{{"keyword":"k{}"}}"#, n % 300)).by("clerk"),
            ClientBehaviour::Waits,
        ),
        6 => (post("/tariff/express", bodies::TARIFF).by("shop"), ClientBehaviour::Waits),
        7 => (track(n).by("shop"), ClientBehaviour::Waits),
        8 => (post("/order/express", &bodies::order(n)).by("shop"), ClientBehaviour::Waits),
        9 => (post("/order/express", bodies::ORDER).by("clerk"), ClientBehaviour::Waits),
        10 => (get("/region/province").pair("svc-shop-1", "wrong"), ClientBehaviour::Waits),
        11 => (get("/region/%2e%2e/x").by("shop"), ClientBehaviour::Waits),
        12 => (post("/tariff/express", bodies::TARIFF).by("poor"), ClientBehaviour::Waits),
        13 => (get("/webhook/get").by("shop"), ClientBehaviour::Waits),
        14 => (post("/user/balance/history", "{}").by("shop"), ClientBehaviour::Waits),
        15 => (get("/courier/all").by("shop").header("cache-control", "only-if-cached"), ClientBehaviour::Waits),
        16 => (post("/item/multi-items", bodies::MULTI_ITEMS).by("shop"), ClientBehaviour::Leaves),
        17 if n % 40 == 17 => (post("/apiOrder/orderExpress", &bodies::order(n)).by("shop"), ClientBehaviour::Leaves),
        17 => (post("/apiOrder/orderExpress", &bodies::order(n)).by("shop"), ClientBehaviour::LeavesLater),
        18 => (post("/tariff/express", bodies::TARIFF).by("shop"), ClientBehaviour::LeavesHalfway),
        _ => (get(&format!("/region/district?city_id={n}")).by("shop"), ClientBehaviour::LeavesLater),
    }
}

/// One client: sends every `CONNECTIONS`-th request, on a connection that it keeps as long as it can.
fn run_client(gateway: &TestGateway, first: usize, answered: &AtomicUsize) {
    let mut connection: Option<Connection> = None;
    let mut leaving = Vec::new();
    for n in (first..REQUESTS).step_by(CONNECTIONS) {
        let (request, behaviour) = nth_request(n);
        // A client that leaves uses another connection: nothing on it is unread, so everything sent arrives.
        match behaviour {
            ClientBehaviour::Waits => {
                let open = connection.get_or_insert_with(|| gateway.connect());
                let response = open.send(&request);
                assert!(response.whole && response.header("x-request-id").is_some());
                answered.fetch_add(1, Ordering::Relaxed);
                leaving.clear();
                if response.header("connection") == Some("close") {
                    connection = None;
                }
            }
            ClientBehaviour::Leaves => gateway.connect().write(&request.bytes()),
            ClientBehaviour::LeavesLater => {
                let mut own = gateway.connect();
                own.write(&request.bytes());
                leaving.push(own);
            }
            ClientBehaviour::LeavesHalfway => {
                let bytes = request.bytes();
                gateway.connect().write(&bytes[..bytes.len() - 7]);
            }
        }
    }
}

#[test]
fn ten_thousand_mixed_requests_are_all_accounted_for() {
    let services = &[("poor", "quota = { per_day = 100 }")];
    let log = "bodies = \"none\"";
    let gateway = Setup { services, log, ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.webhook_get", Act::Html(500)));
    gateway.sandbox.fault(Fault::on("v2.balance_history", Act::Close));
    gateway.sandbox.fault(Fault::on("v2.multi_items", Act::Pass).wait(Duration::from_millis(20)));
    gateway.sandbox.fault(Fault::on("v1.order_express", Act::Pass).delay(Duration::from_millis(10)));
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for first in 0..CONNECTIONS {
            let (gateway, answered) = (&gateway, &answered);
            scope.spawn(move || run_client(gateway, first, answered));
        }
    });
    assert_eq!(answered.into_inner(), REQUESTS / 20 * 16);

    until("every request is counted", || gateway.metric("requests_total", &[]) >= REQUESTS as f64);
    let mut lines = Vec::new();
    until("every line is written", || {
        lines = gateway.log();
        lines.len() >= REQUESTS
    });
    until("all connections are closed", || gateway.metric("client_connections", &[]) == 0.0);
    assert_eq!(gateway.metric("requests_total", &[]), REQUESTS as f64);
    assert_eq!(lines.len(), REQUESTS);
    assert_eq!(gateway.metric("log_records_total", &[("result", "dropped")]), 0.0);
    assert_eq!(gateway.metric("in_flight_requests", &[]), 0.0);
    assert_eq!(gateway.metric("request_duration_seconds_count", &[]), REQUESTS as f64);

    // Metrics and log agree on every outcome, and the sequence numbers have no gaps.
    let mut outcomes = BTreeMap::<&str, usize>::new();
    let mut numbers = [0; 2];
    for line in &lines {
        *outcomes.entry(line["outcome"].as_str().expect("an outcome")).or_default() += 1;
        // Unknown callers have a file of their own.
        let number = &mut numbers[usize::from(line["service"] == "-")];
        *number += 1;
        assert_eq!(line["seq"], *number);
    }
    for (outcome, count) in &outcomes {
        assert_eq!(gateway.metric("requests_total", &[("outcome", outcome)]), *count as f64, "{outcome}");
    }
    let each = REQUESTS / 20;
    assert_eq!((outcomes["unauthenticated"], outcomes["forbidden"]), (each, each));
    assert_eq!((outcomes["over_quota"], outcomes["upstream_error"], outcomes["cut"]), (each - 100, each, each));
    assert_eq!(outcomes["not_cached"], each);

    // Every attempt is counted, also if its caller has left; plus one canary.
    let sent = gateway.metric("upstream_requests_total", &[]);
    let received = gateway.received().len() as f64;
    // An attempt that its caller abandoned may have ended before it was received.
    let waited = lines.iter().filter(|line| line["outcome"] != "client_gone");
    assert!(sent > received && received >= attempts(waited), "{sent} sent, {received} received");
    assert!(sent > attempts(&lines), "{sent} sent");

    // An order was executed if and only if its line says `sent: yes`, and none was executed twice.
    let orders = gateway.sandbox.counters().orders;
    let ordered = |line: &&serde_json::Value| line["class"] == "order" && line["sent"] == "yes";
    let sent_orders = lines.iter().filter(ordered).count() as u64;
    assert_eq!((orders.express, orders.duplicates), (sent_orders, 0));
    assert!(sent_orders > each as u64, "some orders whose callers left were executed too");
    assert!(lines.iter().all(|line| line["class"] != "order" || line["sent"] != "unknown"));

    let account = &gateway.app().gateway.current.load().accounts[0];
    let usage = account.budget.usage();
    assert_eq!((usage.in_flight.left, usage.waiting), (usage.in_flight.limit, 0));
    assert_eq!(gateway.app().gateway.current.load().flights.len(), 0);
    assert_eq!(gateway.metric("upstream_connections", &[("state", "active")]), 0.0);
}

/// Sum of the attempts in these lines.
fn attempts<'a>(lines: impl IntoIterator<Item = &'a serde_json::Value>) -> f64 {
    lines.into_iter().map(|line| line["attempts"].as_f64().expect("a number")).sum()
}

#[test]
fn a_request_whose_client_closes_at_once_is_counted() {
    let gateway = TestGateway::new();
    for _ in 0..200 {
        gateway.connect().write(&get("/region/province").by("shop").bytes());
    }
    until("all are counted", || gateway.metric("requests_total", &[]) >= 200.0);
    assert_eq!(gateway.lines(200).len(), 200);
}

#[test]
fn an_attempt_that_its_caller_abandons_is_counted() {
    let gateway = TestGateway::new();
    gateway.sandbox.fault(Fault::on("v2.multi_items", Act::Pass).wait(Duration::from_secs(2)));
    let mut connection = gateway.connect();
    connection
        .write(&post("/item/multi-items", bodies::MULTI_ITEMS).by("shop").header("x-request-id", "left-early").bytes());
    until("Fastrac has received it", || gateway.received().len() == 1);
    drop(connection);
    let line = gateway.line("left-early");
    assert_eq!(
        (&line["outcome"], &line["sent"], &line["attempts"]),
        (&"client_gone".into(), &"unknown".into(), &1.into())
    );
    let failed = [("operation", "v2.multi_items"), ("status", "failed")];
    assert_eq!(gateway.metric("upstream_requests_total", &failed), 1.0);
}

#[test]
fn the_wait_that_a_caller_leaves_is_not_the_gateways_own_time() {
    let budget = "per_second = 1, burst = 2, max_wait = \"30s\"";
    let gateway = Setup { budget, ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::everywhere(Act::Pass).wait(Duration::from_secs(5)));
    let requests = [
        ("caller-read", request("GET", "/order/track").json("{}")),
        ("caller-lookup", get("/region/province")),
        ("caller-follows", get("/region/province")),
        ("caller-queues", request("GET", "/order/track").json("{}")),
    ];
    let leave = |(name, request): (&'static str, Request)| {
        let mut connection = gateway.connect();
        connection.write(&request.by("shop").header("x-request-id", name).bytes());
        until("it waits", || gateway.metric("in_flight_requests", &[("service", "shop")]) >= 1.0);
        (name, connection)
    };
    let waiting = requests.map(leave);
    std::thread::sleep(Duration::from_millis(700));
    for (name, connection) in waiting {
        drop(connection);
        let line = gateway.line(name);
        assert_eq!(line["outcome"], "client_gone", "{line}");
        let [took, upstream, waited] =
            ["duration_ms", "upstream_ms", "waited_ms"].map(|field| line[field].as_f64().expect("milliseconds"));
        assert!(upstream + waited > took / 2.0, "{line}");
    }
    assert_mostly_waited(&gateway, &[("outcome", "client_gone")]);
}

/// The gateway's own part of the time of these requests is the smaller one.
fn assert_mostly_waited(gateway: &TestGateway, labels: &[(&str, &str)]) {
    let own = gateway.metric("overhead_duration_seconds_sum", labels);
    let whole = gateway.metric("request_duration_seconds_sum", labels);
    assert!(own < whole / 2.0, "{own} s of {whole} s");
}

/// What these lines say that was waited, in milliseconds.
fn waited<'a>(lines: impl IntoIterator<Item = &'a serde_json::Value>) -> f64 {
    let of = |line: &serde_json::Value| {
        let [took, upstream, waited] =
            ["duration_ms", "upstream_ms", "waited_ms"].map(|field| line[field].as_f64().expect("milliseconds"));
        assert!(upstream + waited <= took, "{line}");
        upstream + waited
    };
    lines.into_iter().map(of).sum()
}

#[test]
fn the_wait_of_an_order_whose_callers_time_ends_is_not_the_gateways_own_time() {
    let gateway = TestGateway::new();
    gateway.sandbox.fault(Fault::on("v2.order_express", Act::Pass).wait(Duration::from_secs(2)));
    let order = post("/order/express", bodies::ORDER).by("shop").header("x-gateway-timeout", "700");
    assert_eq!(gateway.send(order.header("x-request-id", "impatient")).outcome(), "timeout");
    let line = gateway.line("impatient");
    assert!(waited([&line]) > line["duration_ms"].as_f64().expect("milliseconds") / 2.0, "{line}");
    assert_mostly_waited(&gateway, &[("operation", "v2.order_express")]);
}

/// It is sent for another caller, and the rest of the wait is in the line of what follows.
#[test]
fn the_wait_for_budget_of_a_fetch_is_divided_where_its_first_caller_stops_waiting() {
    let budget = "per_second = 100000, burst = 100000, per_day = 10000000, in_flight = 1, max_wait = \"5s\"";
    let gateway = Setup { budget, ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.multi_items", Act::Pass).wait(Duration::from_millis(1200)).times(1));
    let (mut busy, mut connection, mut patient) = (gateway.connect(), gateway.connect(), gateway.connect());
    busy.write(&post("/item/multi-items", bodies::MULTI_ITEMS).by("shop").bytes());
    until("the only place is taken", || gateway.received().len() == 1);
    let (lookup, began) = (get("/region/city?province_id=31").by("shop"), Instant::now());
    connection.write(&lookup.clone().header("x-gateway-timeout", "500").bytes());
    until("it leads", || !gateway.app().gateway.current.load().flights.is_empty());
    patient.write(&lookup.bytes());
    let refused = connection.read_response("GET").expect("a response");
    assert_eq!((refused.outcome(), refused.sent()), ("timeout", "no"));
    assert_eq!(patient.read_response("GET").expect("a response").outcome(), "ok");
    let took = began.elapsed().as_secs_f64() * 1e3;
    let lines: Vec<_> = gateway.lines(4).into_iter().filter(|line| line["cache"] == "miss").collect();
    let [first, rest] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((&first["outcome"], &first["attempts"], &rest["attempts"]), (&"timeout".into(), &0.into(), &1.into()));
    assert_eq!((&first["upstream_ms"], waited([first]) > 250.0), (&0.0.into(), true), "{first}");
    assert!(rest["waited_ms"].as_f64() > Some(0.0) && waited([first, rest]) <= took, "{took} {first} {rest}");
}

/// Each is in exactly one line, also if the caller that has begun the fetch leaves before, or in between.
#[test]
fn attempts_after_the_caller_has_left_are_logged() {
    let budget = "per_second = 100000, burst = 100000, per_day = 10000000, in_flight = 1, max_wait = \"5s\"";
    let gateway = Setup { budget, ..Setup::default() }.start();
    let lookup = |n: usize| get(&format!("/region/city?province_id=31&n={n}")).by("shop");
    let is_over = || gateway.app().gateway.current.load().flights.is_empty();
    let attempts_received = || (attempts(&gateway.log()), gateway.received().len() as f64);
    // Its own time ends, or its client leaves, while the first attempt waits for a response. The second one succeeds: it is
    // sent for another caller that waits.
    for leaves in [false, true] {
        let n = usize::from(leaves);
        let slow = Fault::on("v2.city", Act::Close).wait(Duration::from_millis(800)).times(1);
        gateway.sandbox.fault(slow);
        let (before, began) = (gateway.received().len(), Instant::now());
        let (mut connection, mut patient) = (gateway.connect(), gateway.connect());
        let impatient = lookup(n).header("x-gateway-timeout", "300");
        connection.write(&if leaves { lookup(n) } else { impatient }.bytes());
        until("Fastrac has received it", || gateway.received().len() > before);
        patient.write(&lookup(n).bytes());
        until("it has joined", || gateway.metric("in_flight_requests", &[("service", "shop")]) == 2.0);
        if leaves {
            drop(connection);
        } else {
            let refused = connection.read_response("GET").expect("a response");
            assert_eq!((refused.code().as_str(), refused.sent()), ("upstream.timeout", "unknown"));
        }
        assert_eq!(patient.read_response("GET").expect("a response").outcome(), "ok");
        until("the fetch is over", is_over);
        let took = began.elapsed().as_secs_f64() * 1e3;
        let lines = gateway.lines(3 + 4 * n);
        let is_rest = |line: &&serde_json::Value| line["attempts"] == 1 && line["status"] == 200;
        let rest = lines.iter().rfind(is_rest).expect("a line");
        let told = ["service", "operation", "status", "outcome", "cache", "sent", "attempts"].map(|name| &rest[name]);
        let expected = json!(["shop", "v2.city", 200, "ok", "miss", "yes", 1]);
        assert_eq!(json!(told), expected, "{rest}");
        assert_eq!(rest["answer_body"]["success"], true);
        let of_leader = |line: &&serde_json::Value| line["attempts"] == 1 && line["status"] != 200;
        let leader = lines.iter().rfind(of_leader).expect("a line");
        assert!(waited([leader, rest]) <= took, "{took} {leader} {rest}");
        let hit = gateway.send(lookup(n));
        assert_eq!(hit.outcome(), "hit");
        let id = hit.header("x-request-id").expect("an id");
        assert_eq!(gateway.line(id)["stored_from"], rest["request_id"], "the exchange that filled it");
        let (logged, received) = attempts_received();
        assert_eq!((logged, received), (2.0 * (n + 1) as f64, 2.0 * (n + 1) as f64));
    }
    // It waits for the budget until its time ends: nothing of it is sent, because no place is spare.
    gateway.sandbox.fault(Fault::on("v2.multi_items", Act::Pass).wait(Duration::from_millis(800)).times(1));
    let mut busy = gateway.connect();
    busy.write(&post("/item/multi-items", bodies::MULTI_ITEMS).by("shop").bytes());
    until("the only place is taken", || gateway.received().len() == 5);
    let unsent = gateway.send(lookup(2).header("x-gateway-timeout", "200"));
    assert_eq!((unsent.code().as_str(), unsent.sent()), ("upstream.timeout", "no"));
    assert_eq!(busy.read_response("POST").expect("a response").status, 200);
    until("the fetch is over", is_over);
    assert_eq!(attempts_received(), (5.0, 5.0));
    assert_eq!(gateway.metric("requests_total", &[]), 8.0, "those lines are no requests");
}

/// Its key pair is refused when its caller has left, and it is sent again with another.
#[test]
fn attempts_at_an_order_after_the_caller_has_left_are_logged() {
    let second = ("canary-fastrac-access-7d1c-second", "canary/fastrac+secret=93f0a2-second");
    let gateway = TestGateway::new();
    gateway.sandbox.add_key("second", second.0, second.1);
    let refused = Act::answer(401, r#"{"success":false,"message":"Unauthorized"}"#);
    gateway.sandbox.fault(Fault::on("v2.order_express", refused).wait(Duration::from_millis(900)).times(1));
    let orders = || gateway.received().iter().filter(|entry| entry.uri.path() == "/order/express").count();
    let mut connection = gateway.connect();
    let order = post("/order/express", bodies::ORDER).by("shop").header("x-gateway-timeout", "400");
    connection.write(&order.header("x-request-id", "left-early").bytes());
    until("Fastrac has received it", || orders() == 1);
    write(&gateway.folder.path().join("keys.toml"), &pair(second.0, second.1));
    let late = connection.read_response("POST").expect("a response");
    assert_eq!((late.code().as_str(), late.sent()), ("upstream.timeout", "unknown"));
    until("it is sent again", || orders() == 2);
    let lines = gateway.lines(2);
    let told = |line: &serde_json::Value| {
        let names = ["service", "class", "outcome", "sent", "attempts", "status"];
        json!(names.map(|name| line[name].clone()))
    };
    assert_eq!(told(&lines[0]), json!(["shop", "order", "timeout", "unknown", 1, 504]));
    assert_eq!(told(&lines[1]), json!(["shop", "order", "ok", "yes", 1, 200]), "{}", lines[1]);
    assert_eq!((gateway.metric("requests_total", &[]), gateway.sandbox.counters().orders.express), (1.0, 1));
}
