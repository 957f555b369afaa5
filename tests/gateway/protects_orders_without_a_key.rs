//! An order without an `Idempotency-Key` is executed once too, also if its caller gives up and repeats it blindly; and two
//! that are both wanted are two.

use std::{
    io::Write as _,
    net::{Shutdown, TcpStream},
    time::Duration,
};

use fastrac_sandbox::{Act, Fault};

use crate::{
    bodies,
    client::{Connection, Request, Response, post},
    h2,
    test_gateway::{Setup, TestGateway, until},
};

const PATIENCE: &str = "x-gateway-timeout";

pub(crate) fn order(number: usize) -> Request {
    post("/order/express", &bodies::order(number)).by("shop")
}

pub(crate) fn executed(gateway: &TestGateway) -> u64 {
    gateway.sandbox.counters().orders.express
}

/// Fastrac takes this long to respond to orders.
pub(crate) fn slow(gateway: &TestGateway, delay: Duration) {
    gateway.sandbox.fault(Fault::on("v2.order_express", Act::Pass).delay(delay));
}

/// Sends an order and reads nothing.
fn begin(gateway: &TestGateway, order: &Request) -> Connection {
    let before = gateway.received().len();
    let mut connection = gateway.connect();
    connection.write(&order.bytes());
    until("Fastrac has received it", || gateway.received().len() == before + 1);
    connection
}

pub(crate) fn is_replay_of(response: &Response, first: &str) {
    assert_eq!((response.status, response.outcome(), response.sent()), (200, "ok", "yes"), "{response:?}");
    assert_eq!(response.header("idempotent-replayed"), Some("true"));
    assert_eq!(response.header("x-gateway-first-request"), Some(first));
}

#[test]
fn two_that_are_answered_one_after_the_other_are_two() {
    let gateway = TestGateway::new();
    let mut connection = gateway.connect();
    let numbers: Vec<_> = (0..3).map(|_| connection.send(&order(1)).json()["data"].clone()).collect();
    assert_eq!(executed(&gateway), 3);
    assert!(numbers[0] != numbers[1] && numbers[1] != numbers[2], "{numbers:?}");
    // Over HTTP/2, also a rejected one, whose response is short.
    h2::run(async {
        let connection = h2::Http2Connection::open(gateway.app().data[0], None).await;
        for count in 4..6 {
            let (status, _) = connection.send(order(1)).await.unwrap().unwrap();
            assert_eq!((status, executed(&gateway)), (200, count));
        }
        let rejected = post("/order/express", "{}").by("shop");
        let before = gateway.received().len();
        for count in 1..3 {
            assert_eq!(connection.send(rejected.clone()).await.unwrap().unwrap().0, 400);
            assert_eq!(gateway.received().len(), before + count);
        }
    });
}

#[test]
fn of_two_at_the_same_time_one_is_sent_and_the_other_is_told_how_to_confirm() {
    let gateway = TestGateway::new();
    slow(&gateway, Duration::from_millis(500));
    let mut first = begin(&gateway, &order(1).header("x-request-id", "first-one"));
    let second = gateway.send(order(1));
    assert_eq!((second.status, second.code().as_str(), second.sent()), (409, "order.in_flight", "no"));
    assert_eq!((second.outcome(), second.header("retry-after")), ("held", Some("1")));
    let message = second.text();
    assert!(message.contains("first-one") && message.contains("x-gateway-resend: confirmed"), "{message}");
    // Of another service, of another body, and a confirmed one are other orders.
    assert_eq!(gateway.send(order(2)).status, 200);
    assert_eq!(gateway.send(order(1).header("x-gateway-resend", "confirmed")).status, 200);
    assert_eq!(first.read_response("POST").expect("a response").status, 200);
    assert_eq!(executed(&gateway), 3);
}

/// `curl -m` against a slow Fastrac, repeated at once and again later.
#[test]
fn a_caller_that_leaves_and_repeats_gets_the_first_response() {
    let gateway = TestGateway::new();
    slow(&gateway, Duration::from_millis(600));
    drop(begin(&gateway, &order(1).header("x-request-id", "the-first")));
    // It waits for the first one.
    let repeat = gateway.send(order(1));
    is_replay_of(&repeat, "the-first");
    assert_eq!(executed(&gateway), 1);
    // It has its response: the next one is a second order.
    assert_eq!(gateway.send(order(1)).header("idempotent-replayed"), None);
    assert_eq!(executed(&gateway), 2);

    drop(begin(&gateway, &order(2).header("x-request-id", "the-second")));
    assert_eq!(gateway.line("the-second")["outcome"], "ok");
    // Nobody waited; the one that repeats leaves as well, before its response was written.
    is_replay_of(&gateway.send(order(2)), "the-second");
    assert_eq!(gateway.send(order(2)).header("idempotent-replayed"), None);
    assert_eq!(executed(&gateway), 4);
}

#[test]
fn a_caller_whose_own_time_ends_first_gets_the_response_when_it_repeats() {
    let gateway = TestGateway::new();
    slow(&gateway, Duration::from_millis(900));
    let impatient = order(1).header(PATIENCE, "200");
    let first = gateway.send(impatient.clone());
    assert_eq!((first.status, first.code().as_str(), first.sent()), (504, "upstream.timeout", "unknown"));
    // The order is still under way.
    let still = gateway.send(impatient);
    assert_eq!((still.status, still.code().as_str(), still.sent()), (504, "upstream.timeout", "unknown"));
    let id = first.header("x-request-id").expect("an id");
    assert!(still.text().contains(id), "{}", still.text());
    is_replay_of(&gateway.send(order(1)), id);
    assert_eq!(executed(&gateway), 1);
}

#[test]
fn it_holds_over_a_restart_and_for_as_long_as_configured() {
    let mut gateway = TestGateway::new();
    slow(&gateway, Duration::from_millis(200));
    drop(begin(&gateway, &order(1).header("x-request-id", "before-the-restart")));
    gateway.line("before-the-restart");
    gateway.restart();
    is_replay_of(&gateway.send(order(1)), "before-the-restart");
    assert_eq!(executed(&gateway), 1);

    let mut gateway = Setup { more: "[orders]\nundelivered = \"0s\"\n", ..Setup::default() }.start();
    slow(&gateway, Duration::from_millis(200));
    drop(begin(&gateway, &order(1).header("x-request-id", "not-kept")));
    gateway.line("not-kept");
    assert_eq!(gateway.send(order(1)).header("idempotent-replayed"), None);
    assert_eq!(executed(&gateway), 2);
    gateway.restart();
}

/// A response that is longer than the buffers of the connection has not reached a caller that reads nothing of it.
#[test]
fn a_response_that_is_not_read_has_not_reached_its_caller() {
    let gateway = TestGateway::new();
    let long = format!(r#"{{"success":true,"message":"ok","data":"{}"}}"#, "x".repeat(14 << 20));
    gateway.sandbox.fault(Fault::on("v2.order_express", Act::answer(200, &long)).times(1));
    let connection = begin(&gateway, &order(1).header("x-request-id", "long-response"));
    until("the response has begun", || {
        gateway.metric("upstream_requests_total", &[("operation", "v2.order_express")]) == 1.0
    });
    let in_flight = gateway.send(order(1));
    assert_eq!((in_flight.status, in_flight.code().as_str()), (409, "order.in_flight"));
    drop(connection);
    gateway.line("long-response");
    is_replay_of(&gateway.send(order(1)), "long-response");
    assert_eq!(gateway.received().iter().filter(|entry| entry.uri.path().contains("express")).count(), 1);
}

/// What is provably not executed leaves the order free.
#[test]
fn one_that_was_throttled_or_not_sent_may_be_sent_again() {
    let gateway = TestGateway::new();
    for key in [None, Some("k")] {
        let request = |number| match key {
            Some(key) => order(number).header("idempotency-key", key),
            None => order(number),
        };
        let throttled = Act::answer(429, r#"{"success":false,"message":"Too Many Requests"}"#);
        gateway.sandbox.fault(Fault::on("v2.order_express", throttled).times(1));
        assert_eq!(gateway.send(request(1)).outcome(), "throttled");
        until("the order can be sent", || gateway.send(request(1)).status == 200);
    }
}

/// Programs that close their sending half first do not reset the connection at once, and a reset comes only while the
/// gateway's half is open.
#[test]
fn a_caller_that_has_not_read_its_response_is_noticed_however_it_closes() {
    let gateway = TestGateway::new();
    let closes = ["at once", "half, then the rest", "half, then the rest much later", "after `Connection: close`"];
    for (number, how) in closes.into_iter().enumerate() {
        let request = order(number).header("x-request-id", &format!("unread-{number}"));
        let request = if number == 3 { request.header("connection", "close") } else { request };
        let mut connection = TcpStream::connect(gateway.data).expect("connected");
        connection.write_all(&request.bytes()).expect("written");
        // Waits for the response, and leaves it unread.
        assert_eq!(connection.peek(&mut [0]).expect("a response"), 1);
        if number == 1 || number == 2 {
            connection.shutdown(Shutdown::Write).expect("half closed");
        }
        if number >= 2 {
            std::thread::sleep(Duration::from_millis(400));
        }
        drop(connection);
        is_replay_of(&gateway.send(order(number)), &format!("unread-{number}"));
        assert_eq!(executed(&gateway), number as u64 + 1, "{how}");
    }
}

/// The methods of unlisted requests differ.
#[test]
fn another_method_is_another_request() {
    let gateway = TestGateway::new();
    let request = |method: &str| Request { method: method.to_owned(), ..post("/new/thing", "{}").by("shop") };
    gateway.sandbox.fault(Fault::everywhere(Act::Pass).delay(Duration::from_millis(300)).times(1));
    drop(begin(&gateway, &request("POST").header("x-request-id", "the-post")));
    gateway.line("the-post");
    let deleted = gateway.send(request("DELETE"));
    assert_eq!((deleted.header("idempotent-replayed"), gateway.received().len()), (None, 2), "{deleted:?}");
}

/// Its time is over just as the response comes: it repeats the order by another connection, and closes the first afterwards.
#[test]
fn a_caller_that_repeats_before_it_closes_is_not_sent_twice() {
    let gateway = TestGateway::new();
    for number in 0..2 {
        let id = format!("kept-open-{number}");
        let request = order(number).header("x-request-id", &id);
        let first = TcpStream::connect(gateway.data).expect("connected");
        (&first).write_all(&request.bytes()).expect("written");
        assert_eq!(first.peek(&mut [0]).expect("a response"), 1);
        let mut second = gateway.connect();
        second.write(&order(number).bytes());
        until("it waits", || gateway.metric("in_flight_requests", &[("service", "shop")]) >= 1.0);
        if number == 1 {
            // Also of those whose own time ends before.
            let impatient = gateway.send(order(number).header(PATIENCE, "50"));
            assert_eq!((impatient.status, impatient.code().as_str()), (409, "order.in_flight"));
        }
        drop(first);
        is_replay_of(&second.read_response("POST").expect("a response"), &id);
        assert_eq!(executed(&gateway), number as u64 + 1);
    }
}
