//! HTTP/2 and TLS listeners behave like HTTP/1.1.

use std::{io::Read as _, time::Duration};

use fastrac_sandbox::{Act, Fault};

use crate::{
    bodies,
    client::{get, post, request},
    h2::{Http2Connection, run},
    passes_responses_unchanged::Certificates,
    test_gateway::{Setup, TestGateway, until},
};

#[test]
fn h2_with_prior_knowledge_gets_the_same_responses() {
    let gateway = TestGateway::new();
    let plain = gateway.send(get("/courier/all").by("shop"));
    run(async {
        let connection = Http2Connection::open(gateway.data, None).await;
        let response = connection.send(get("/courier/all").by("shop")).await.expect("joined").expect("a response");
        assert_eq!(response, (200, plain.body));
        let tariff = connection.send(post("/tariff/express", bodies::TARIFF).by("shop")).await.expect("joined");
        assert_eq!(tariff.expect("a response").0, 200);
        let track = request("GET", "/order/track").json(r#"{"courier_code":"idx","awb":"x"}"#).by("shop");
        assert_eq!(connection.send(track).await.expect("joined").expect("a response").0, 404);
        for (request, status) in [
            (get("/courier/all").by("nobody"), 401),
            (post("/order/express", "{}").by("clerk"), 403),
            (get("/Courier/all").by("shop"), 400),
        ] {
            assert_eq!(connection.send(request).await.expect("joined").expect("a response").0, status);
        }
    });
    assert_eq!(gateway.received().pop().expect("an entry").body, r#"{"courier_code":"idx","awb":"x"}"#);
}

#[test]
fn a_hundred_streams_at_once_are_a_hundred_requests() {
    let gateway = TestGateway::new();
    gateway.sandbox.fault(Fault::on("v2.city", Act::Pass).wait(Duration::from_millis(50)));
    run(async {
        let connection = Http2Connection::open(gateway.data, None).await;
        let all: Vec<_> = (0..100)
            .map(|n| match n % 4 {
                0 => post("/order/express", &bodies::order(n)),
                1 => post("/tariff/express", bodies::TARIFF),
                _ => get("/region/city?province_id=31"),
            })
            .map(|request| connection.send(request.by("shop")))
            .collect();
        for one in all {
            assert_eq!(one.await.expect("joined").expect("a response").0, 200);
        }
    });
    assert_eq!(gateway.lines(100).len(), 100);
    assert_eq!(gateway.metric("requests_total", &[]), 100.0);
    assert_eq!(gateway.metric("in_flight_requests", &[]), 0.0);
    assert_eq!((gateway.received().len(), gateway.sandbox.counters().orders.express), (51, 25));
}

#[test]
fn a_reset_stream_is_counted_and_its_order_still_completes() {
    let gateway = TestGateway::new();
    gateway.sandbox.fault(Fault::on("v2.order_express", Act::Pass).delay(Duration::from_millis(300)));
    gateway.sandbox.fault(Fault::on("v2.multi_items", Act::Pass).delay(Duration::from_secs(3)));
    run(async {
        let connection = Http2Connection::open(gateway.data, None).await;
        let order = post("/order/express", bodies::ORDER).by("shop").header("x-request-id", "given-up-order");
        let items = post("/item/multi-items", bodies::MULTI_ITEMS).by("shop").header("x-request-id", "given-up-items");
        let asking = [connection.send(order), connection.send(items)];
        while gateway.received().len() < 2 {
            tokio::task::yield_now().await;
        }
        asking.iter().for_each(tokio::task::JoinHandle::abort);
        // The connection itself stays usable.
        assert_eq!(connection.send(get("/courier/all").by("shop")).await.expect("joined").expect("a response").0, 200);
        until("it is counted", || gateway.log().iter().any(|line| line["request_id"] == "given-up-items"));
    });
    let (order, items) = (gateway.line("given-up-order"), gateway.line("given-up-items"));
    assert_eq!((&order["outcome"], &order["status"], &order["sent"]), (&"ok".into(), &200.into(), &"yes".into()));
    assert_eq!((&items["outcome"], &items["sent"]), (&"client_gone".into(), &"unknown".into()));
    assert_eq!(gateway.metric("in_flight_requests", &[]), 0.0);
}

#[test]
fn draining_closes_an_h2_connection_after_its_open_streams() {
    let mut gateway = TestGateway::new();
    gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::Pass).delay(Duration::from_millis(400)));
    let (data, app) = (gateway.data, gateway.take_app());
    run(async {
        let mut connection = Http2Connection::open(data, None).await;
        assert_eq!(connection.send(get("/courier/all").by("shop")).await.expect("joined").expect("a response").0, 200);
        let slow = connection.send(post("/tariff/express", bodies::TARIFF).by("shop"));
        while gateway.received().len() < 2 {
            tokio::task::yield_now().await;
        }
        let ending = std::thread::spawn(move || app.stop());
        assert_eq!(slow.await.expect("joined").expect("an accepted request is answered").0, 200);
        let ended = connection.driver.join_next().await.expect("it ends").expect("joined");
        assert!(ended.is_ok(), "{ended:?}");
        assert!(connection.sender.ready().await.is_err());
        ending.join().expect("ended");
    });
}

#[test]
fn a_tls_listener_refuses_cleartext() {
    let certificates = Certificates::new();
    let gateway = Setup::with_tls(&certificates).start();
    run(async {
        let connection = Http2Connection::open(gateway.data, Some(&certificates.authority)).await;
        let response = connection.send(get("/courier/all").by("shop")).await.expect("joined").expect("a response");
        assert_eq!(response.0, 200);
    });
    let mut plain = std::net::TcpStream::connect(gateway.data).expect("connected");
    std::io::Write::write_all(&mut plain, &get("/courier/all").by("shop").bytes()).expect("sent");
    let mut received = Vec::new();
    let _ = plain.read_to_end(&mut received);
    // A client that forgot the `s` of `https` gets a 400, and the request is not forwarded.
    assert!(received.starts_with(b"HTTP/1.1 400 ") && received.ends_with(b"}}"), "{received:?}");
    assert_eq!(gateway.received().len(), 1);
}
