//! What one caller does ends with that caller: its impatience proves nothing about Fastrac, a request that it sends in
//! a wrong form ends its connection, and its HEAD is not an abandoned GET.

use std::time::Duration;

use fastrac_sandbox::{Act, Fault};

use crate::{
    bodies,
    client::{get, post, request},
    h2,
    test_gateway::{Setup, TestGateway, secret_of},
};

#[test]
fn impatient_callers_do_not_open_the_circuit_breaker() {
    let gateway = Setup { breaker: "minimum = 5, failures = 0.5, open = \"1m\"", ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.multi_items", Act::Pass).wait(Duration::from_millis(300)));
    let quote = || post("/item/multi-items", bodies::MULTI_ITEMS).by("shop");
    for _ in 0..12 {
        let refused = gateway.send(quote().header("x-gateway-timeout", "20"));
        assert_eq!((refused.status, refused.code().as_str(), refused.sent()), (504, "upstream.timeout", "unknown"));
    }
    assert_eq!(gateway.send(quote()).status, 200);
    assert!(!gateway.admin("/readyz").text().contains("circuit breaker"));
}

#[test]
fn the_operations_own_timeout_opens_it() {
    let more = "[operations.\"v2.multi_items\"]\ntimeout = \"50ms\"\n";
    let breaker = "minimum = 5, failures = 0.5, open = \"1m\"";
    let gateway = Setup { breaker, more, ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.multi_items", Act::Pass).wait(Duration::from_millis(300)));
    let quote = || post("/item/multi-items", bodies::MULTI_ITEMS).by("shop").header("x-gateway-timeout", "5000");
    let codes: Vec<_> = (0..8).map(|_| gateway.send(quote()).code()).collect();
    assert_eq!(codes.last().map(String::as_str), Some("upstream.breaker"), "{codes:?}");
}

#[test]
fn a_request_refused_for_its_form_ends_its_connection() {
    let gateway = TestGateway::new();
    for (case, head) in [
        ("transfer-encoding", "POST /tariff/express HTTP/1.1\r\ntransfer-encoding: identity, chunked\r\n"),
        ("gzip", "POST /tariff/express HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n"),
        ("connect", "CONNECT gw:80 HTTP/1.1\r\n"),
        ("dot segment", "GET /region/../region/city HTTP/1.1\r\n"),
        (
            "two keys",
            "POST /order/express HTTP/1.1\r\nidempotency-key: a\r\nidempotency-key: b\r\ncontent-length: 0\r\n",
        ),
    ] {
        let mut connection = gateway.connect();
        let smuggled = get("/region/province").by("shop").bytes();
        let proof =
            format!("host: gateway.test\r\naccess-key: svc-shop-1\r\nsecret-key: {}\r\n\r\n", secret_of("shop"));
        connection.write(&[head.as_bytes(), proof.as_bytes(), b"0\r\n\r\n", &smuggled].concat());
        let response = connection.read_response("GET").expect("a refusal");
        assert!([400, 501].contains(&response.status), "{case}: {response:?}");
        assert!(connection.read_response("GET").is_none(), "{case}: the next request was served");
    }
    assert_eq!(gateway.received().len(), 0);
}

#[test]
fn a_refusal_before_the_body_was_read_ends_the_connection() {
    let gateway = TestGateway::new();
    let unknown = post("/tariff/express", "{}").pair("svc-shop-1", "wrong");
    let refused = gateway.send(unknown);
    assert_eq!((refused.status, refused.header("connection")), (401, Some("close")));
    // Without a body there is nothing left to read.
    let refused = gateway.send(get("/region/province").pair("svc-shop-1", "wrong"));
    assert_eq!((refused.status, refused.header("connection")), (401, None));
}

#[test]
fn head_is_logged_as_what_it_was() {
    let gateway = TestGateway::new();
    let city = "/region/city?province_id=31";
    gateway.send(get(city).by("shop"));
    let hit = gateway.send(request("HEAD", city).by("shop"));
    let line = gateway.line(hit.header("x-request-id").expect("an id"));
    assert_eq!((&line["outcome"], &line["status"]), (&"hit".into(), &200.into()));
    let refused = gateway.send(request("HEAD", city));
    let line = gateway.line(refused.header("x-request-id").expect("an id"));
    assert_eq!((&line["outcome"], &line["status"]), (&"unauthenticated".into(), &401.into()));
    h2::run(async {
        let connection = h2::Http2Connection::open(gateway.data, None).await;
        for (id, head, expected) in [
            ("h2-head-hit", request("HEAD", city).by("shop"), "hit"),
            ("h2-head-miss", request("HEAD", "/region/city?province_id=32").by("shop"), "ok"),
            ("h2-head-refused", request("HEAD", city), "unauthenticated"),
        ] {
            let response = connection.send(head.header("x-request-id", id)).await.expect("joined");
            let (status, body) = response.expect("a response");
            let line = gateway.line(id);
            assert_eq!((&line["outcome"], &line["status"], body.len()), (&expected.into(), &status.into(), 0), "{id}");
        }
    });
}
