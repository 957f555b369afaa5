//! An order is sent once, whatever happens to its caller, its response or the gateway.

use std::time::Duration;

use fastrac_gateway::app::AppError;
use fastrac_sandbox::{Act, Fault};

use crate::{
    bodies,
    client::{Answer, Request, get, post, request},
    test_gateway::{Setup, Stage, until},
};

fn order(number: usize) -> Request {
    post("/order/express", &bodies::order(number)).by("shop")
}

fn keyed(number: usize, key: &str) -> Request {
    order(number).header("idempotency-key", key)
}

fn executed(stage: &Stage) -> u64 {
    stage.sandbox.counters().orders.express
}

fn unknown(stage: &Stage) -> u64 {
    stage.app().gateway.live.orders.unknown_count("main")
}

fn id(answer: &Answer) -> String {
    answer.header("x-request-id").expect("an id").to_owned()
}

#[test]
fn an_order_whose_caller_leaves_is_executed_once_and_logged() {
    let services = &[("poor", "quota = { per_day = 1 }\nallow = [\"order\"]")];
    let stage = Setup { services, budget: "per_day = 100, in_flight = 4", ..Setup::default() }.start();
    stage.sandbox.fault(Fault::on("v2.order_express", Act::Pass).delay(Duration::from_millis(300)));
    for half in [false, true] {
        let number = usize::from(half);
        let name = format!("caller-leaves-{number}");
        let service = if half { "shop" } else { "poor" };
        let mut wire = stage.wire();
        wire.send(&post("/order/express", &bodies::order(number)).by(service).header("x-request-id", &name).bytes());
        until("Fastrac has it", || stage.received().len() == number + 1);
        if half {
            wire.finish()
        } else {
            drop(wire)
        }
        let line = stage.line(&name);
        assert_eq!((&line["outcome"], &line["status"], &line["sent"]), (&"ok".into(), &200.into(), &"yes".into()));
        assert_eq!((&line["attempts"], &line["answer_body"]["success"]), (&1.into(), &true.into()));
    }
    assert_eq!((executed(&stage), stage.received().len(), unknown(&stage)), (2, 2, 0));
    // The reservation is spent, and the place in flight is free.
    let usage = stage.app().gateway.current.load().accounts[0].budget.usage();
    assert_eq!((usage.used_today, usage.in_flight.left), (3, 4), "the canary and two orders");
    assert_eq!(stage.ask(order(9).by("poor")).status, 401, "two services at once");
    assert_eq!(stage.ask(post("/order/express", &bodies::order(9)).by("poor")).code(), "quota.day");
    assert_eq!(stage.metric("in_flight_requests", &[]), 0.0);
}

#[test]
fn an_order_whose_caller_leaves_before_it_is_sent_is_not_executed() {
    let stage = Stage::new();
    let mut wire = stage.wire();
    let bytes = order(1).header("x-request-id", "half-an-order").bytes();
    wire.send(&bytes[..bytes.len() - 5]);
    until("the head is read", || stage.metric("in_flight_requests", &[("service", "shop")]) == 1.0);
    drop(wire);
    let line = stage.line("half-an-order");
    assert_eq!((&line["sent"], &line["attempts"]), (&"no".into(), &0.into()), "{line}");
    assert_eq!((stage.received().len(), unknown(&stage)), (0, 0));
}

#[test]
fn a_repeat_of_a_key_gets_the_first_response() {
    let stage = Stage::new();
    let first = stage.ask(keyed(1, "\"k,1\""));
    assert_eq!((first.status, first.outcome(), first.sent()), (200, "ok", "yes"));
    for _ in 0..3 {
        let repeat = stage.ask(keyed(1, "\"k,1\""));
        assert_eq!((repeat.status, repeat.outcome(), repeat.sent()), (200, "ok", "yes"));
        assert_eq!(repeat.body, first.body);
        assert_ne!(id(&repeat), id(&first));
        assert_eq!(stage.line(&id(&repeat))["attempts"], 0);
    }
    assert_eq!((executed(&stage), stage.received().len()), (1, 1));
    // The same order without the key is another order.
    assert_eq!(stage.ask(order(1)).status, 200);
    assert_eq!(executed(&stage), 2);
}

#[test]
fn a_key_is_bound_to_one_request() {
    let stage = Stage::new();
    assert_eq!(stage.ask(keyed(1, "token-1")).status, 200);
    let body = bodies::order(1);
    for other in [
        keyed(2, "token-1"),
        post("/order/express", &format!("{body} ")).by("shop").header("idempotency-key", "token-1"),
        post("/order/express?x=1", &body).by("shop").header("idempotency-key", "token-1"),
        post("/order/cancel", &body).by("shop").header("idempotency-key", "\"token-1\""),
    ] {
        let answer = stage.ask(other);
        assert_eq!((answer.status, answer.code().as_str(), answer.sent()), (422, "request.idempotency", "no"));
    }
    assert_eq!(stage.received().len(), 1);
}

#[test]
fn a_repeat_of_an_order_in_flight_is_a_conflict() {
    let stage = Stage::new();
    stage.sandbox.fault(Fault::on("v2.order_express", Act::Pass).wait(Duration::from_millis(500)));
    let mut wire = stage.wire();
    wire.send(&keyed(1, "k").header("x-request-id", "the-first-one").bytes());
    until("it is in flight", || stage.received().len() == 1);
    let repeat = stage.ask(keyed(1, "k"));
    assert_eq!((repeat.status, repeat.code().as_str()), (409, "request.idempotency"));
    assert!(repeat.json()["message"].as_str().is_some_and(|message| message.contains("the-first-one")));
    let first = wire.answer("POST").expect("an answer");
    assert_eq!(stage.ask(keyed(1, "k")).body, first.body);
    assert_eq!(executed(&stage), 1);
}

#[test]
fn an_order_that_was_not_sent_frees_its_key() {
    let stage =
        Setup { services: &[("poor", "quota = { per_day = 1 }\nallow = [\"order\"]")], ..Setup::default() }.start();
    let request = |number| post("/order/express", &bodies::order(number)).by("poor");
    assert_eq!(stage.ask(request(1)).status, 200);
    for _ in 0..2 {
        let answer = stage.ask(request(2).header("idempotency-key", "k"));
        assert_eq!((answer.status, answer.code().as_str()), (429, "quota.day"));
    }
    assert_eq!(
        stage.ask(request(3).header("idempotency-key", "k")).code(),
        "quota.day",
        "no conflict: the key is free"
    );
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
    let stage = Stage::new();
    for (number, act) in unknown_outcomes().into_iter().enumerate() {
        for (request, operation) in [
            (order(number), "v2.order_express"),
            (request("POST", "/apiOrder/orderExpress").json(&bodies::order(number)).by("shop"), "v1.order_express"),
        ] {
            let before = stage.received().len();
            stage.sandbox.clear_faults();
            stage.sandbox.fault(Fault::on(operation, act.clone()));
            let first = stage.ask(request.clone());
            assert_eq!(first.sent(), "unknown", "{act:?}: {first:?}");
            stage.sandbox.clear_faults();
            let held = stage.ask(request.clone());
            assert_eq!(
                (held.status, held.code().as_str(), held.outcome(), held.sent()),
                (409, "order.unknown", "held", "no")
            );
            assert!(held.json()["message"].as_str().is_some_and(|message| message.contains(&id(&first))), "{act:?}");
            assert_eq!(stage.received().len(), before + 1, "{act:?}");
        }
    }
    assert_eq!(unknown(&stage), 2 * unknown_outcomes().len() as u64);
    assert_eq!(stage.metric("retries_total", &[]), 0.0);
}

#[test]
fn sent_never_falls_if_a_second_attempt_is_refused() {
    // Enough for the canary and one attempt.
    let stage = Setup { budget: "per_day = 2, in_flight = 4", ..Setup::default() }.start();
    stage.sandbox.fault(Fault::on("v2.tariff_express", Act::Close));
    let answer = stage.ask(post("/tariff/express", bodies::TARIFF).by("shop"));
    assert_eq!((answer.sent(), stage.received().len()), ("unknown", 1), "{answer:?}");
    let line = stage.line(&id(&answer));
    assert_eq!((&line["sent"], &line["attempts"]), (&"unknown".into(), &1.into()), "{line}");
}

#[test]
fn an_unlisted_post_is_handled_as_an_order() {
    let stage = Stage::new();
    for (method, path) in [("POST", "/new/thing"), ("DELETE", "/old/thing"), ("PUT", "/region/province")] {
        let request = request(method, path).json("{}").by("shop");
        stage.sandbox.clear_faults();
        stage.sandbox.fault(Fault::everywhere(Act::Lose));
        let before = stage.received().len();
        assert_eq!(stage.ask(request.clone()).sent(), "unknown");
        stage.sandbox.clear_faults();
        let held = stage.ask(request.clone());
        assert_eq!((held.status, held.code().as_str()), (409, "order.unknown"), "{method} {path}");
        assert_eq!(stage.received().len(), before + 1);
    }
    // With a safe method it is not an order, but it is still sent only once.
    stage.sandbox.fault(Fault::everywhere(Act::Lose));
    let before = stage.received().len();
    assert_eq!(stage.ask(get("/new/thing").by("shop")).code(), "upstream.cut");
    assert_eq!(stage.received().len(), before + 1);
    stage.sandbox.clear_faults();
    assert_eq!(stage.ask(get("/new/thing").by("shop")).status, 404);
}

#[test]
fn a_confirmed_order_is_sent_and_settles_the_unknown_one() {
    let stage = Stage::new();
    stage.sandbox.fault(Fault::on("v2.order_express", Act::Lose).times(1));
    assert_eq!(stage.ask(order(1)).code(), "upstream.cut");
    for wrong in ["yes", "Confirmed", "confirmed, confirmed", ""] {
        assert_eq!(stage.ask(order(1).header("x-gateway-resend", wrong)).code(), "order.unknown", "{wrong}");
    }
    // Other orders, and an equal one of another service, are not held.
    assert_eq!(stage.ask(order(2)).status, 200);
    assert_eq!((executed(&stage), unknown(&stage)), (2, 1));
    let sent = stage.ask(order(1).header("x-gateway-resend", "confirmed"));
    assert_eq!((sent.status, sent.sent()), (200, "yes"));
    assert_eq!((executed(&stage), unknown(&stage)), (3, 0));
    assert_eq!(stage.ask(order(1)).status, 200, "nothing is in doubt any more");
}

#[test]
fn a_key_whose_order_is_unknown_is_never_sent_again() {
    let stage = Stage::new();
    stage.sandbox.fault(Fault::on("v2.order_express", Act::Lose).times(1));
    let first = stage.ask(keyed(1, "k"));
    for _ in 0..2 {
        let repeat = stage.ask(keyed(1, "k"));
        assert_eq!((repeat.status, repeat.code().as_str(), repeat.sent()), (502, "upstream.cut", "unknown"));
        assert_eq!(repeat.outcome(), first.outcome());
    }
    assert_eq!(executed(&stage), 1);
}

#[test]
fn an_order_that_fastrac_rejects_may_be_sent_again() {
    let stage = Stage::new();
    for _ in 0..2 {
        let answer = stage.ask(post("/order/express", r#"{"courier_code":"idx"}"#).by("shop"));
        assert_eq!((answer.status, answer.outcome(), answer.sent()), (400, "rejected", "yes"));
    }
    assert_eq!((stage.received().len(), unknown(&stage)), (2, 0));
}

#[test]
fn a_restart_keeps_unknown_orders_and_answers() {
    let mut stage = Stage::new();
    let kept = stage.ask(keyed(1, "kept"));
    assert_eq!(kept.status, 200);
    stage.sandbox.fault(Fault::on("v2.order_express", Act::Lose).times(2));
    let lost = stage.ask(order(2));
    assert_eq!(lost.sent(), "unknown");
    assert_eq!(stage.ask(keyed(3, "lost")).sent(), "unknown");
    let seq = stage.lines(3)[2]["seq"].as_u64().expect("a number");
    stage.restart();
    assert_eq!(unknown(&stage), 2);
    let held = stage.ask(order(2));
    assert_eq!((held.status, held.code().as_str()), (409, "order.unknown"));
    assert!(held.json()["message"].as_str().is_some_and(|message| message.contains(&id(&lost))));
    let repeat = stage.ask(keyed(1, "kept"));
    assert_eq!((repeat.status, &repeat.body, repeat.outcome()), (200, &kept.body, "ok"));
    assert_eq!(stage.ask(keyed(3, "lost")).sent(), "unknown");
    assert_eq!((stage.received().len(), executed(&stage)), (0, 3));
    let next = stage.line(&id(&held))["seq"].as_u64().expect("a number");
    assert_eq!(next, seq + 1, "the log's numbers go on");
}

#[test]
fn an_order_cut_off_by_the_shutdown_is_unknown_afterwards() {
    let mut stage = Setup { drain: ("0s", "300ms"), ..Setup::default() }.start();
    stage.sandbox.fault(Fault::on("v2.order_express", Act::Pass).delay(Duration::from_secs(4)));
    let mut wire = stage.wire();
    wire.send(&order(1).header("x-request-id", "cut-by-the-end").bytes());
    until("Fastrac has it", || stage.received().len() == 1);
    stage.restart();
    assert_eq!(wire.answer("POST"), None);
    assert_eq!(unknown(&stage), 1);
    stage.sandbox.clear_faults();
    let held = stage.ask(order(1));
    assert_eq!((held.status, held.code().as_str()), (409, "order.unknown"));
    assert!(held.text().contains("cut-by-the-end"));
}

#[test]
fn two_processes_never_share_a_state_folder() {
    let stage = Stage::new();
    match stage.second() {
        Err(error @ AppError::Store(_)) => assert!(error.to_string().contains("state.dir"), "{error}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("a second program runs on the same folder"),
    }
    assert_eq!(stage.ask(order(1)).status, 200, "the first one goes on");
    assert_eq!(stage.lines(1).len(), 1);
}
