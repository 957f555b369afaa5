//! HTTP/2 and TLS at the door keep the same promises as HTTP/1.1.

use std::{io::Read as _, time::Duration};

use fastrac_sandbox::{Act, Fault};

use crate::{
    bodies,
    client::{get, post, request},
    h2::{Connection, run},
    passes_responses_unchanged::Certificates,
    test_gateway::{Setup, Stage, until},
};

#[test]
fn h2_with_prior_knowledge_is_served_the_same() {
    let stage = Stage::new();
    let plain = stage.ask(get("/courier/all").by("shop"));
    run(async {
        let open = Connection::open(stage.data, None).await;
        let told = open.ask(get("/courier/all").by("shop")).await.expect("joined").expect("an answer");
        assert_eq!(told, (200, plain.body));
        let tariff = open.ask(post("/tariff/express", bodies::TARIFF).by("shop")).await.expect("joined");
        assert_eq!(tariff.expect("an answer").0, 200);
        let track = request("GET", "/order/track").json(r#"{"courier_code":"idx","awb":"x"}"#).by("shop");
        assert_eq!(open.ask(track).await.expect("joined").expect("an answer").0, 404);
        for (asked, status) in [
            (get("/courier/all").by("nobody"), 401),
            (post("/order/express", "{}").by("clerk"), 403),
            (get("/Courier/all").by("shop"), 400),
        ] {
            assert_eq!(open.ask(asked).await.expect("joined").expect("an answer").0, status);
        }
    });
    assert_eq!(stage.received().pop().expect("an entry").body, r#"{"courier_code":"idx","awb":"x"}"#);
}

#[test]
fn a_hundred_streams_at_once_are_a_hundred_requests() {
    let stage = Stage::new();
    stage.sandbox.fault(Fault::on("v2.city", Act::Pass).wait(Duration::from_millis(50)));
    run(async {
        let open = Connection::open(stage.data, None).await;
        let all: Vec<_> = (0..100)
            .map(|n| match n % 4 {
                0 => post("/order/express", &bodies::order(n)),
                1 => post("/tariff/express", bodies::TARIFF),
                _ => get("/region/city?province_id=31"),
            })
            .map(|asked| open.ask(asked.by("shop")))
            .collect();
        for one in all {
            assert_eq!(one.await.expect("joined").expect("an answer").0, 200);
        }
    });
    assert_eq!(stage.lines(100).len(), 100);
    assert_eq!(stage.metric("requests_total", &[]), 100.0);
    assert_eq!(stage.metric("in_flight_requests", &[]), 0.0);
    assert_eq!((stage.received().len(), stage.sandbox.counters().orders.express), (51, 25));
}

#[test]
fn a_stream_that_its_caller_gives_up_is_counted_and_an_order_goes_on() {
    let stage = Stage::new();
    stage.sandbox.fault(Fault::on("v2.order_express", Act::Pass).delay(Duration::from_millis(300)));
    stage.sandbox.fault(Fault::on("v2.multi_items", Act::Pass).delay(Duration::from_secs(3)));
    run(async {
        let open = Connection::open(stage.data, None).await;
        let order = post("/order/express", bodies::ORDER).by("shop").header("x-request-id", "given-up-order");
        let items = post("/item/multi-items", bodies::MULTI_ITEMS).by("shop").header("x-request-id", "given-up-items");
        let asking = [open.ask(order), open.ask(items)];
        while stage.received().len() < 2 {
            tokio::task::yield_now().await;
        }
        asking.iter().for_each(tokio::task::JoinHandle::abort);
        // The connection itself goes on.
        assert_eq!(open.ask(get("/courier/all").by("shop")).await.expect("joined").expect("an answer").0, 200);
        until("it is counted", || stage.log().iter().any(|line| line["request_id"] == "given-up-items"));
    });
    let (order, items) = (stage.line("given-up-order"), stage.line("given-up-items"));
    assert_eq!((&order["outcome"], &order["status"], &order["sent"]), (&"ok".into(), &200.into(), &"yes".into()));
    assert_eq!((&items["outcome"], &items["sent"]), (&"client_gone".into(), &"unknown".into()));
    assert_eq!(stage.metric("in_flight_requests", &[]), 0.0);
}

#[test]
fn an_h2_connection_is_told_to_go_and_what_is_on_it_ends() {
    let mut stage = Stage::new();
    stage.sandbox.fault(Fault::on("v2.tariff_express", Act::Pass).delay(Duration::from_millis(400)));
    let (data, app) = (stage.data, stage.take_app());
    run(async {
        let mut open = Connection::open(data, None).await;
        assert_eq!(open.ask(get("/courier/all").by("shop")).await.expect("joined").expect("an answer").0, 200);
        let slow = open.ask(post("/tariff/express", bodies::TARIFF).by("shop"));
        while stage.received().len() < 2 {
            tokio::task::yield_now().await;
        }
        let ending = std::thread::spawn(move || app.stop());
        assert_eq!(slow.await.expect("joined").expect("what was accepted is answered").0, 200);
        let ended = open.driver.join_next().await.expect("it ends").expect("joined");
        assert!(ended.is_ok(), "{ended:?}");
        assert!(open.sender.ready().await.is_err());
        ending.join().expect("ended");
    });
}

#[test]
fn the_door_speaks_tls_and_nothing_else_then() {
    let folder = tempfile::tempdir().expect("a folder");
    let certificates = Certificates::new();
    let [cert, key] = [("door.crt", &certificates.cert), ("door.key", &certificates.key)].map(|(name, text)| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).expect("written");
        file.display().to_string()
    });
    let listen: &'static str = Box::leak(format!("tls = {{ cert = \"{cert}\", key = \"{key}\" }}").into_boxed_str());
    let stage = Setup { listen, ..Setup::default() }.start();
    run(async {
        let open = Connection::open(stage.data, Some(&certificates.authority)).await;
        let told = open.ask(get("/courier/all").by("shop")).await.expect("joined").expect("an answer");
        assert_eq!(told.0, 200);
    });
    let mut plain = std::net::TcpStream::connect(stage.data).expect("connected");
    std::io::Write::write_all(&mut plain, &get("/courier/all").by("shop").bytes()).expect("sent");
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said);
    // Nothing of the gateway's: whoever forgot the `s` is told, and the request goes nowhere.
    assert!(said.starts_with(b"HTTP/1.1 400 ") && said.ends_with(b"}}"), "{said:?}");
    assert_eq!(stage.received().len(), 1);
}
