//! A key pair that Fastrac revokes: at once, at a set time, and during a request.

use std::time::Duration;

use fastrac_sandbox::{Act, CannedResponse, Fault, When};

use super::{key, plain, unknown};
use crate::{
    bodies,
    client::{Response, post},
    test_gateway::{ACCESS, SECRET, Setup, TestGateway, pair, sandbox, until, write},
};

/// The next key pair; it begins with the canaries.
const NEXT: (&str, &str) = ("canary-fastrac-access-7d1c-next", "canary/fastrac+secret=93f0a2-next");

/// A gateway whose sandbox already knows the next pair.
fn gateway() -> TestGateway {
    let sandbox = fastrac_sandbox::Options {
        keys: vec![key("gateway", ACCESS, SECRET), key("next", NEXT.0, NEXT.1)],
        ..sandbox()
    };
    Setup { sandbox, ..Setup::default() }.start()
}

fn order(gateway: &TestGateway, number: usize) -> Response {
    gateway.send(post("/order/express", &bodies::order(number)).by("shop"))
}

fn quote(gateway: &TestGateway) -> Response {
    gateway.send(post("/tariff/express", bodies::TARIFF).by("shop"))
}

/// The status that a direct client gets with a pair.
fn send_directly(gateway: &TestGateway, access: &str, secret: &str) -> u16 {
    plain::send(gateway.sandbox.addr(), &post("/tariff/express", bodies::TARIFF).pair(access, secret)).status
}

fn refused(gateway: &TestGateway, response: &Response) {
    assert_eq!((response.status, response.outcome(), response.sent()), (502, "key_rejected", "yes"), "{response:?}");
    assert_eq!(response.code(), "keys.rejected");
    let line = gateway.line(response.header("x-request-id").expect("an id"));
    assert_eq!((&line["outcome"], &line["code"]), (&"key_rejected".into(), &"keys.rejected".into()));
}

/// Writes the next pair into the key file and waits until the gateway uses it.
fn recovers(gateway: &TestGateway) {
    write(&gateway.folder.path().join("keys.toml"), &pair(NEXT.0, NEXT.1));
    until("the next pair is used", || quote(gateway).outcome() == "ok");
    assert_eq!(gateway.sandbox.journal().pop().and_then(|entry| entry.key).as_deref(), Some("next"));
}

#[test]
fn a_key_revoked_now_is_replaced() {
    let gateway = gateway();
    assert_eq!((send_directly(&gateway, ACCESS, SECRET), quote(&gateway).outcome()), (200, "ok"));
    gateway.sandbox.revoke(ACCESS);
    assert_eq!(send_directly(&gateway, ACCESS, SECRET), 401);
    refused(&gateway, &quote(&gateway));
    // From the canary's verdict on, nothing but canaries is sent.
    let response = order(&gateway, 1);
    assert_eq!((response.status, response.outcome(), response.sent()), (503, "no_key", "no"), "{response:?}");
    assert_eq!(gateway.metric("requests_total", &[("outcome", "key_rejected")]), 1.0);
    assert_eq!(unknown(&gateway), 0.0, "a refused key executed nothing");
    recovers(&gateway);
}

#[test]
fn a_key_revoked_at_a_set_time_is_replaced() {
    let gateway = gateway();
    assert!(gateway.sandbox.revoke_at(ACCESS, "2026-01-02T03:05:00Z".parse::<When>().expect("a time")));
    gateway.sandbox.advance(Duration::from_secs(54));
    assert_eq!((send_directly(&gateway, ACCESS, SECRET), quote(&gateway).outcome()), (200, "ok"));
    gateway.sandbox.advance(Duration::from_secs(1));
    assert_eq!(send_directly(&gateway, ACCESS, SECRET), 401);
    refused(&gateway, &quote(&gateway));
    recovers(&gateway);
}

#[test]
fn a_key_revoked_during_a_request_is_replaced() {
    for execute in [false, true] {
        let gateway = gateway();
        let fault = || Fault::on("v2.order_express", Act::Revoke { execute }).times(1);
        // A direct request with the next pair triggers the fault first.
        gateway.sandbox.fault(fault().key("next"));
        let request = post("/order/express", &bodies::order(7)).pair(NEXT.0, NEXT.1);
        let response = plain::send(gateway.sandbox.addr(), &request);
        assert_eq!(response.status, if execute { 200 } else { 401 });
        assert_eq!(send_directly(&gateway, NEXT.0, NEXT.1), 401, "after the revocation");
        gateway.sandbox.add_key("next", NEXT.0, NEXT.1);
        let before = gateway.sandbox.counters().orders.express;
        // The gateway finds the next pair in its key file.
        write(&gateway.folder.path().join("keys.toml"), &pair(NEXT.0, NEXT.1));
        gateway.sandbox.fault(fault());
        let response = order(&gateway, 1);
        assert_eq!((response.status, response.outcome(), response.sent()), (200, "ok", "yes"), "{response:?}");
        assert_eq!(gateway.sandbox.counters().orders.express - before, 1, "once");
        let line = gateway.line(response.header("x-request-id").expect("an id"));
        // A 401 proves that nothing was executed, so the order was sent again with the other pair.
        assert_eq!(line["attempts"], if execute { 1 } else { 2 });
        assert_eq!(quote(&gateway).outcome(), "ok");
        assert_eq!(gateway.sandbox.counters().orders.duplicates, 0);
    }
}

#[test]
fn an_order_that_is_not_sent_again_never_gets_the_accounts_401() {
    let account = "rotation = { resend_orders = false, overlap = \"0s\" }";
    let sandbox = fastrac_sandbox::Options {
        keys: vec![key("gateway", ACCESS, SECRET), key("next", NEXT.0, NEXT.1)],
        ..sandbox()
    };
    let gateway = Setup { sandbox, account, ..Setup::default() }.start();
    // The order meets a pair that is revoked at this moment, and the next pair is in the file.
    write(&gateway.folder.path().join("keys.toml"), &pair(NEXT.0, NEXT.1));
    gateway.sandbox.revoke(ACCESS);
    let response = order(&gateway, 1);
    if response.outcome() != "ok" {
        refused(&gateway, &response);
    }
    until("the next pair is used", || quote(&gateway).outcome() == "ok");
    gateway.sandbox.revoke(NEXT.0);
    refused(&gateway, &order(&gateway, 2));
    assert_eq!(unknown(&gateway), 0.0, "a refused key executed nothing");
}

/// A 401 whose body or head quotes the pair was a leak and nothing else: the source was not read, and requests went on
/// with the refused pair for ever.
#[test]
fn a_401_that_quotes_the_pair_refuses_it_all_the_same() {
    let quotes = |header: bool| {
        let (headers, message) =
            if header { (vec![("x-debug".to_owned(), SECRET.to_owned())], "Unauthorized") } else { (vec![], SECRET) };
        let body = format!(r#"{{"success":false,"message":"Unauthorized: {message}"}}"#);
        CannedResponse { status: 401, headers, body, ..CannedResponse::default() }
    };
    for header in [false, true] {
        let gateway = gateway();
        write(&gateway.folder.path().join("keys.toml"), &pair(NEXT.0, NEXT.1));
        gateway.sandbox.fault(Fault::everywhere(Act::Answer(quotes(header))).key("gateway"));
        let response = order(&gateway, 1);
        assert_eq!((response.status, response.outcome()), (200, "ok"), "{response:?}");
        assert_eq!(quote(&gateway).outcome(), "ok");

        let gateway = self::gateway();
        gateway.sandbox.fault(Fault::everywhere(Act::Answer(quotes(header))).key("gateway"));
        refused(&gateway, &quote(&gateway));
        let response = order(&gateway, 1);
        assert_eq!((response.status, response.outcome(), response.sent()), (503, "no_key", "no"), "{response:?}");
        assert_eq!(unknown(&gateway), 0.0, "a refused key executed nothing");
        recovers(&gateway);
    }
}

/// What is remembered of a request that caused its own 401 once decided orders after it.
#[test]
fn an_order_that_caused_a_401_decides_no_later_one() {
    let account = "rotation = { resend_orders = false, overlap = \"0s\" }";
    let gateway = Setup { account, ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.order_express", Act::Html(401)).times(1));
    let own = order(&gateway, 1);
    let unreadable = unknown(&gateway);
    assert_eq!((own.status, own.outcome()), (401, "rejected"), "{own:?}");
    gateway.sandbox.revoke(ACCESS);
    refused(&gateway, &order(&gateway, 2));
    assert_eq!(unknown(&gateway), unreadable, "a refused key executed nothing");
}
