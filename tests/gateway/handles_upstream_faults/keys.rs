//! A key pair that Fastrac takes back: now, at a time of its clock, and while a request is with it.

use std::time::Duration;

use fastrac_sandbox::{Act, Fault, When};

use super::{key, plain, unknown};
use crate::{
    bodies,
    client::{Answer, post},
    test_gateway::{ACCESS, SECRET, Setup, Stage, pair, sandbox, until, write},
};

/// The pair that Fastrac gives next; it begins with the canaries.
const NEXT: (&str, &str) = ("canary-fastrac-access-7d1c-next", "canary/fastrac+secret=93f0a2-next");

/// A stage whose Fastrac knows a next pair already.
fn stage() -> Stage {
    let sandbox =
        fastrac_sandbox::Options { keys: vec![key("gateway", (ACCESS, SECRET)), key("next", NEXT)], ..sandbox() };
    Setup { sandbox, ..Setup::default() }.start()
}

fn order(stage: &Stage, number: usize) -> Answer {
    stage.ask(post("/order/express", &bodies::order(number)).by("shop"))
}

fn quote(stage: &Stage) -> Answer {
    stage.ask(post("/tariff/express", bodies::TARIFF).by("shop"))
}

/// What a client sees that asks the sandbox with a pair.
fn plainly(stage: &Stage, (access, secret): (&str, &str)) -> u16 {
    plain::ask(stage.sandbox.addr(), &post("/tariff/express", bodies::TARIFF).pair(access, secret)).status
}

fn refused(stage: &Stage, answer: &Answer) {
    assert_eq!((answer.status, answer.outcome(), answer.sent()), (502, "key_rejected", "yes"), "{answer:?}");
    assert_eq!(answer.code(), "keys.rejected");
    let line = stage.line(answer.header("x-request-id").expect("an id"));
    assert_eq!((&line["outcome"], &line["code"]), (&"key_rejected".into(), &"keys.rejected".into()));
}

/// The next pair is where the gateway finds it, and all is well again.
fn recovers(stage: &Stage) {
    write(&stage.folder.path().join("keys.toml"), &pair(NEXT.0, NEXT.1));
    until("the next pair is used", || quote(stage).outcome() == "ok");
    assert_eq!(stage.sandbox.journal().pop().and_then(|entry| entry.key).as_deref(), Some("next"));
}

#[test]
fn now() {
    let stage = stage();
    assert_eq!((plainly(&stage, (ACCESS, SECRET)), quote(&stage).outcome()), (200, "ok"));
    stage.sandbox.revoke(ACCESS);
    assert_eq!(plainly(&stage, (ACCESS, SECRET)), 401);
    refused(&stage, &quote(&stage));
    refused(&stage, &order(&stage, 1));
    assert_eq!(stage.metric("requests_total", &[("outcome", "key_rejected")]), 2.0);
    assert_eq!(unknown(&stage), 0.0, "a refused key executed nothing");
    recovers(&stage);
}

#[test]
fn at_a_time_of_its_clock() {
    let stage = stage();
    assert!(stage.sandbox.revoke_at(ACCESS, "2026-01-02T03:05:00Z".parse::<When>().expect("a time")));
    stage.sandbox.advance(Duration::from_secs(54));
    assert_eq!((plainly(&stage, (ACCESS, SECRET)), quote(&stage).outcome()), (200, "ok"));
    stage.sandbox.advance(Duration::from_secs(1));
    assert_eq!(plainly(&stage, (ACCESS, SECRET)), 401);
    refused(&stage, &quote(&stage));
    recovers(&stage);
}

#[test]
fn between_accept_and_answer() {
    for execute in [false, true] {
        let stage = stage();
        let fault = || Fault::on("v2.order_express", Act::Revoke { execute }).times(1);
        // A plain client with the next pair sees it first.
        stage.sandbox.fault(fault().key("next"));
        let asked = post("/order/express", &bodies::order(7)).pair(NEXT.0, NEXT.1);
        let seen = plain::ask(stage.sandbox.addr(), &asked);
        assert_eq!(seen.status, if execute { 200 } else { 401 });
        assert_eq!(plainly(&stage, NEXT), 401, "from now on");
        stage.sandbox.add_key("next", NEXT.0, NEXT.1);
        let before = stage.sandbox.counters().orders.express;
        // The gateway finds the next pair where it reads keys.
        write(&stage.folder.path().join("keys.toml"), &pair(NEXT.0, NEXT.1));
        stage.sandbox.fault(fault());
        let answer = order(&stage, 1);
        assert_eq!((answer.status, answer.outcome(), answer.sent()), (200, "ok", "yes"), "{answer:?}");
        assert_eq!(stage.sandbox.counters().orders.express - before, 1, "once");
        let line = stage.line(answer.header("x-request-id").expect("an id"));
        // A 401 proves that nothing was executed, so the order went out again with the other pair.
        assert_eq!(line["attempts"], if execute { 1 } else { 2 });
        assert_eq!(quote(&stage).outcome(), "ok");
        assert_eq!(stage.sandbox.counters().orders.duplicates, 0);
    }
}
