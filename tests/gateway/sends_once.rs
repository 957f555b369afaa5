//! An order is sent once, whatever happens to its caller, its response or the gateway.

use std::time::Duration;

use fastrac_gateway::app::AppError;
use fastrac_sandbox::{Act, CannedResponse, Fault};

use crate::{
    bodies,
    client::{Request, Response, get, post, request},
    test_gateway::{Setup, TestGateway, until},
};

fn order(number: usize) -> Request {
    post("/order/express", &bodies::order(number)).by("shop")
}

fn keyed(number: usize, key: &str) -> Request {
    order(number).header("idempotency-key", key)
}

fn executed(gateway: &TestGateway) -> u64 {
    gateway.sandbox.counters().orders.express
}

fn unknown(gateway: &TestGateway) -> u64 {
    gateway.app().gateway.live.orders.unknown_count("main")
}

fn id(response: &Response) -> String {
    response.header("x-request-id").expect("an id").to_owned()
}

#[test]
fn an_order_whose_caller_leaves_is_executed_once_and_logged() {
    let services = &[("poor", "quota = { per_day = 1 }\nallow = [\"order\"]")];
    let gateway = Setup { services, budget: "per_day = 100, in_flight = 4", ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.order_express", Act::Pass).delay(Duration::from_millis(300)));
    for half in [false, true] {
        let number = usize::from(half);
        let name = format!("caller-leaves-{number}");
        let service = if half { "shop" } else { "poor" };
        let mut connection = gateway.connect();
        connection
            .write(&post("/order/express", &bodies::order(number)).by(service).header("x-request-id", &name).bytes());
        until("Fastrac has received it", || gateway.received().len() == number + 1);
        if half {
            connection.finish()
        } else {
            drop(connection)
        }
        let line = gateway.line(&name);
        assert_eq!((&line["outcome"], &line["status"], &line["sent"]), (&"ok".into(), &200.into(), &"yes".into()));
        assert_eq!((&line["attempts"], &line["answer_body"]["success"]), (&1.into(), &true.into()));
    }
    assert_eq!((executed(&gateway), gateway.received().len(), unknown(&gateway)), (2, 2, 0));
    // The reservation is spent, and the place in flight is free.
    let usage = gateway.app().gateway.current.load().accounts[0].budget.usage();
    assert_eq!((usage.used_today, usage.in_flight.left), (3, 4), "the canary and two orders");
    assert_eq!(gateway.send(order(9).by("poor")).status, 401, "credentials of two services");
    assert_eq!(gateway.send(post("/order/express", &bodies::order(9)).by("poor")).code(), "quota.day");
    assert_eq!(gateway.metric("in_flight_requests", &[]), 0.0);
}

#[test]
fn an_order_whose_caller_leaves_before_it_is_sent_is_not_executed() {
    let gateway = TestGateway::new();
    let mut connection = gateway.connect();
    let bytes = order(1).header("x-request-id", "half-an-order").bytes();
    connection.write(&bytes[..bytes.len() - 5]);
    until("the head is read", || gateway.metric("in_flight_requests", &[("service", "shop")]) == 1.0);
    drop(connection);
    let line = gateway.line("half-an-order");
    assert_eq!((&line["sent"], &line["attempts"]), (&"no".into(), &0.into()), "{line}");
    assert_eq!((gateway.received().len(), unknown(&gateway)), (0, 0));
}

#[test]
fn a_repeat_of_a_key_gets_the_first_response() {
    let gateway = TestGateway::new();
    let first = gateway.send(keyed(1, "\"k-1\""));
    assert_eq!((first.status, first.outcome(), first.sent()), (200, "ok", "yes"));
    assert_eq!((first.header("idempotent-replayed"), first.header("x-gateway-first-request")), (None, None));
    for _ in 0..3 {
        let repeat = gateway.send(keyed(1, "\"k-1\""));
        assert_eq!((repeat.status, repeat.outcome(), repeat.sent()), (200, "ok", "yes"));
        assert_eq!(repeat.body, first.body);
        assert_eq!(repeat.header("idempotent-replayed"), Some("true"));
        assert_eq!(repeat.header("x-gateway-first-request"), Some(id(&first).as_str()));
        assert_ne!(id(&repeat), id(&first));
        assert_eq!(gateway.line(&id(&repeat))["attempts"], 0);
    }
    assert_eq!((executed(&gateway), gateway.received().len()), (1, 1));
    assert_eq!(gateway.metric("orders_replayed_total", &[("account", "main")]), 3.0);
    // The same order without the key is another order.
    assert_eq!(gateway.send(order(1)).status, 200);
    assert_eq!(executed(&gateway), 2);
}

#[test]
fn a_key_is_bound_to_one_request() {
    let gateway = TestGateway::new();
    assert_eq!(gateway.send(keyed(1, "token-1")).status, 200);
    let body = bodies::order(1);
    for other in [
        keyed(2, "token-1"),
        post("/order/express", &format!("{body} ")).by("shop").header("idempotency-key", "token-1"),
        post("/order/express?x=1", &body).by("shop").header("idempotency-key", "token-1"),
        post("/order/cancel", &body).by("shop").header("idempotency-key", "\"token-1\""),
    ] {
        let response = gateway.send(other);
        assert_eq!((response.status, response.code().as_str(), response.sent()), (422, "request.idempotency", "no"));
    }
    assert_eq!(gateway.received().len(), 1);
}

#[test]
fn a_repeat_of_an_order_in_flight_is_a_conflict() {
    let gateway = TestGateway::new();
    gateway.sandbox.fault(Fault::on("v2.order_express", Act::Pass).wait(Duration::from_millis(500)));
    let mut connection = gateway.connect();
    connection.write(&keyed(1, "k").header("x-request-id", "the-first-one").bytes());
    until("it is in flight", || gateway.received().len() == 1);
    let repeat = gateway.send(keyed(1, "k"));
    assert_eq!((repeat.status, repeat.code().as_str(), repeat.outcome()), (409, "order.in_flight", "held"));
    assert_eq!((repeat.sent(), repeat.header("retry-after")), ("no", Some("1")));
    assert!(repeat.json()["message"].as_str().is_some_and(|message| message.contains("the-first-one")));
    let first = connection.read_response("POST").expect("a response");
    assert_eq!(gateway.send(keyed(1, "k")).body, first.body);
    assert_eq!(executed(&gateway), 1);
}

#[test]
fn an_order_that_was_not_sent_frees_its_key() {
    let gateway =
        Setup { services: &[("poor", "quota = { per_day = 1 }\nallow = [\"order\"]")], ..Setup::default() }.start();
    let request = |number| post("/order/express", &bodies::order(number)).by("poor");
    assert_eq!(gateway.send(request(1)).status, 200);
    for _ in 0..2 {
        let response = gateway.send(request(2).header("idempotency-key", "k"));
        assert_eq!((response.status, response.code().as_str()), (429, "quota.day"));
    }
    assert_eq!(
        gateway.send(request(3).header("idempotency-key", "k")).code(),
        "quota.day",
        "no conflict: the key is free"
    );
}

/// A 429 proves that nothing was executed, whatever its body: a proxy in front of Fastrac knows no envelope.
#[test]
fn an_order_that_was_throttled_leaves_nothing_behind() {
    let gateway = TestGateway::new();
    let compressed = CannedResponse {
        status: 429,
        body: "H4sIAAAAAAAAAwMAAAAAAAAAAAA=".into(),
        base64: true,
        ..CannedResponse::default()
    };
    let acts =
        [Act::throttle(None), Act::Html(429), Act::answer(429, ""), Act::answer(429, "[]"), Act::Answer(compressed)];
    for (number, act) in acts.into_iter().enumerate() {
        for request in [order(number), keyed(100 + number, &format!("throttled-{number}"))] {
            gateway.sandbox.fault(Fault::on("v2.order_express", act.clone()).times(1));
            let before = gateway.received().len();
            let throttled = gateway.send(request.clone());
            assert_eq!((throttled.status, throttled.outcome(), throttled.sent()), (429, "throttled", "yes"), "{act:?}");
            assert!(throttled.header("retry-after").is_some(), "{act:?}: {throttled:?}");
            assert_eq!(gateway.line(&id(&throttled))["sent"], "yes", "{act:?}");
            gateway.wait_for_pauses();
            let sent = gateway.send(request);
            assert_eq!((sent.status, sent.outcome(), sent.header("idempotent-replayed")), (200, "ok", None), "{act:?}");
            assert_eq!(gateway.received().len(), before + 2, "{act:?}");
        }
    }
    assert_eq!(unknown(&gateway), 0);
}

/// Faults after which the outcome of an order is unknown.
fn unknown_outcomes() -> Vec<Act> {
    vec![
        Act::Reset,
        Act::Close,
        Act::Lose,
        Act::LoseReset,
        Act::Cut { after: 15, reset: false },
        Act::Cut { after: 15, reset: true },
        Act::WrongLength { by: 10 },
        Act::Html(500),
        Act::Html(502),
        Act::answer(503, r#"{"success":false,"message":"busy"}"#),
        Act::Html(504),
        Act::Html(200),
        Act::answer(302, ""),
        Act::answer(200, r#"{"success":true"#),
    ]
}

#[test]
fn an_order_is_never_retried_and_an_unknown_one_is_held() {
    let gateway = TestGateway::new();
    for (number, act) in unknown_outcomes().into_iter().enumerate() {
        for (request, operation) in [
            (order(number), "v2.order_express"),
            (request("POST", "/apiOrder/orderExpress").json(&bodies::order(number)).by("shop"), "v1.order_express"),
        ] {
            let before = gateway.received().len();
            gateway.sandbox.clear_faults();
            gateway.sandbox.fault(Fault::on(operation, act.clone()));
            let first = gateway.send(request.clone());
            assert_eq!(first.sent(), "unknown", "{act:?}: {first:?}");
            gateway.sandbox.clear_faults();
            let held = gateway.send(request.clone());
            assert_eq!(
                (held.status, held.code().as_str(), held.outcome(), held.sent()),
                (409, "order.unknown", "held", "no")
            );
            assert!(held.json()["message"].as_str().is_some_and(|message| message.contains(&id(&first))), "{act:?}");
            assert_eq!(gateway.received().len(), before + 1, "{act:?}");
        }
    }
    assert_eq!(unknown(&gateway), 2 * unknown_outcomes().len() as u64);
    assert_eq!(gateway.metric("retries_total", &[]), 0.0);
}

#[test]
fn sent_never_falls_if_a_second_attempt_is_refused() {
    // Enough for the canary and one attempt.
    let gateway = Setup { budget: "per_day = 2, in_flight = 4", ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::Close));
    let response = gateway.send(post("/tariff/express", bodies::TARIFF).by("shop"));
    assert_eq!((response.sent(), gateway.received().len()), ("unknown", 1), "{response:?}");
    let line = gateway.line(&id(&response));
    assert_eq!((&line["sent"], &line["attempts"]), (&"unknown".into(), &1.into()), "{line}");
}

#[test]
fn an_unlisted_post_is_handled_as_an_order() {
    let gateway = TestGateway::new();
    for (method, path) in [("POST", "/new/thing"), ("DELETE", "/old/thing"), ("PUT", "/region/province")] {
        let request = request(method, path).json("{}").by("shop");
        gateway.sandbox.clear_faults();
        gateway.sandbox.fault(Fault::everywhere(Act::Lose));
        let before = gateway.received().len();
        assert_eq!(gateway.send(request.clone()).sent(), "unknown");
        gateway.sandbox.clear_faults();
        let held = gateway.send(request.clone());
        assert_eq!((held.status, held.code().as_str()), (409, "order.unknown"), "{method} {path}");
        assert_eq!(gateway.received().len(), before + 1);
    }
    // With a safe method it is not an order, but it is still sent only once.
    gateway.sandbox.fault(Fault::everywhere(Act::Lose));
    let before = gateway.received().len();
    assert_eq!(gateway.send(get("/new/thing").by("shop")).code(), "upstream.cut");
    assert_eq!(gateway.received().len(), before + 1);
    gateway.sandbox.clear_faults();
    assert_eq!(gateway.send(get("/new/thing").by("shop")).status, 404);
}

#[test]
fn a_confirmed_order_is_sent_and_settles_the_unknown_one() {
    let gateway = TestGateway::new();
    gateway.sandbox.fault(Fault::on("v2.order_express", Act::Lose).times(1));
    assert_eq!(gateway.send(order(1)).code(), "upstream.cut");
    for wrong in ["yes", "Confirmed", "confirmed, confirmed", ""] {
        assert_eq!(gateway.send(order(1).header("x-gateway-resend", wrong)).code(), "order.unknown", "{wrong}");
    }
    // Other orders, and an equal one of another service, are not held.
    assert_eq!(gateway.send(order(2)).status, 200);
    assert_eq!((executed(&gateway), unknown(&gateway)), (2, 1));
    let sent = gateway.send(order(1).header("x-gateway-resend", "confirmed"));
    assert_eq!((sent.status, sent.sent()), (200, "yes"));
    assert_eq!((executed(&gateway), unknown(&gateway)), (3, 0));
    assert_eq!(gateway.send(order(1)).status, 200, "no outcome is unknown any more");
}

#[test]
fn a_key_whose_order_is_unknown_is_never_sent_again() {
    let gateway = TestGateway::new();
    gateway.sandbox.fault(Fault::on("v2.order_express", Act::Lose).times(1));
    let first = gateway.send(keyed(1, "k"));
    for _ in 0..2 {
        let repeat = gateway.send(keyed(1, "k"));
        assert_eq!((repeat.status, repeat.code().as_str(), repeat.sent()), (502, "upstream.cut", "unknown"));
        assert_eq!(repeat.outcome(), first.outcome());
        assert_eq!(repeat.header("proxy-status"), first.header("proxy-status"));
        assert!(repeat.header("proxy-status").is_some());
    }
    assert_eq!(executed(&gateway), 1);
}

#[test]
fn an_order_that_fastrac_rejects_may_be_sent_again() {
    let gateway = TestGateway::new();
    for _ in 0..2 {
        let response = gateway.send(post("/order/express", r#"{"courier_code":"idx"}"#).by("shop"));
        assert_eq!((response.status, response.outcome(), response.sent()), (400, "rejected", "yes"));
    }
    assert_eq!((gateway.received().len(), unknown(&gateway)), (2, 0));
}

#[test]
fn a_restart_keeps_unknown_orders_and_answers() {
    let mut gateway = TestGateway::new();
    let kept = gateway.send(keyed(1, "kept"));
    assert_eq!(kept.status, 200);
    gateway.sandbox.fault(Fault::on("v2.order_express", Act::Lose).times(2));
    let lost = gateway.send(order(2));
    assert_eq!(lost.sent(), "unknown");
    assert_eq!(gateway.send(keyed(3, "lost")).sent(), "unknown");
    let seq = gateway.lines(3)[2]["seq"].as_u64().expect("a number");
    gateway.restart();
    assert_eq!(unknown(&gateway), 2);
    let held = gateway.send(order(2));
    assert_eq!((held.status, held.code().as_str()), (409, "order.unknown"));
    assert!(held.json()["message"].as_str().is_some_and(|message| message.contains(&id(&lost))));
    let repeat = gateway.send(keyed(1, "kept"));
    assert_eq!((repeat.status, &repeat.body, repeat.outcome()), (200, &kept.body, "ok"));
    assert_eq!(gateway.send(keyed(3, "lost")).sent(), "unknown");
    assert_eq!((gateway.received().len(), executed(&gateway)), (0, 3));
    let next = gateway.line(&id(&held))["seq"].as_u64().expect("a number");
    assert_eq!(next, seq + 1, "the log's sequence numbers continue");
}

#[test]
fn an_order_cut_off_by_the_shutdown_is_unknown_afterwards() {
    let mut gateway = Setup { drain: ("0s", "300ms"), ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.order_express", Act::Pass).delay(Duration::from_secs(4)));
    let mut connection = gateway.connect();
    connection.write(&order(1).header("x-request-id", "cut-by-the-end").bytes());
    until("Fastrac has received it", || gateway.received().len() == 1);
    gateway.restart();
    assert_eq!(connection.read_response("POST"), None);
    assert_eq!(unknown(&gateway), 1);
    gateway.sandbox.clear_faults();
    let held = gateway.send(order(1));
    assert_eq!((held.status, held.code().as_str()), (409, "order.unknown"));
    assert!(held.text().contains("cut-by-the-end"));
}

#[test]
fn two_processes_never_share_a_state_folder() {
    let gateway = TestGateway::new();
    match gateway.second() {
        Err(error @ AppError::Store(_)) => assert!(error.to_string().contains("state.dir"), "{error}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("a second process runs on the same folder"),
    }
    assert_eq!(gateway.send(order(1)).status, 200, "the first process keeps working");
    assert_eq!(gateway.lines(1).len(), 1);
}
