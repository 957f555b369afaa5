//! Second attempts after failures: only where they can do no harm, counted by reason, and few: they never multiply the
//! load on a Fastrac that fails, and are never made against its will or after the caller's time.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use fastrac_sandbox::{Act, CannedResponse, Fault};

use crate::{
    bodies,
    client::{Request, Response, get, post, request},
    test_gateway::{Setup, TestGateway, until},
};

const QUOTE: &str = "v2.tariff_express";

fn quote() -> Request {
    post("/tariff/express", bodies::TARIFF).by("shop")
}

fn busy(retry_after: &str) -> Act {
    Act::Answer(CannedResponse {
        status: 503,
        headers: vec![("retry-after".to_owned(), retry_after.to_owned())],
        body: r#"{"success": false, "message": "Busy"}"#.to_owned(),
        base64: false,
        execute: false,
    })
}

fn attempts(gateway: &TestGateway, response: &Response) -> u64 {
    let line = gateway.line(response.header("x-request-id").expect("an id"));
    line["attempts"].as_u64().expect("a number")
}

/// Second attempts that may be made at once.
fn left(gateway: &TestGateway) -> u64 {
    gateway.admin("/status").json()["accounts"]["main"]["retries_left"].as_u64().expect("a number")
}

fn retries(gateway: &TestGateway, reason: &str) -> f64 {
    gateway.metric("retries_total", &[("account", "main"), ("class", "quote"), ("reason", reason)])
}

#[test]
fn after_a_failure_that_a_second_attempt_may_mend_and_counts_by_reason() {
    let gateway = TestGateway::new();
    for (reason, act) in [
        ("reset", Act::Reset),
        ("reset", Act::Close),
        ("502", Act::Html(502)),
        ("503", Act::Html(503)),
        ("504", Act::Html(504)),
    ] {
        let before = (retries(&gateway, reason), gateway.received().len());
        gateway.sandbox.clear_faults();
        gateway.sandbox.fault(Fault::on(QUOTE, act.clone()).times(1));
        let response = gateway.send(quote());
        assert_eq!((response.status, response.sent()), (200, "yes"), "{act:?}: {response:?}");
        assert_eq!(attempts(&gateway, &response), 2, "{act:?}");
        let after = (retries(&gateway, reason), gateway.received().len());
        assert_eq!((after.0 - before.0, after.1 - before.1), (1.0, 2), "{act:?}");
    }
    assert_eq!(gateway.metric("retries_total", &[]), 5.0);
    for act in [Act::Html(500), Act::Html(501), Act::Html(505)] {
        gateway.sandbox.clear_faults();
        gateway.sandbox.fault(Fault::on(QUOTE, act).times(1));
        assert!(gateway.send(quote()).status >= 500);
    }
    assert_eq!(gateway.metric("retries_total", &[]), 5.0);
}

#[test]
fn after_a_connection_that_could_not_be_opened() {
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("an address");
    let gateway = Setup { base_url: Some(format!("http://{closed}")), wait: false, ..Setup::default() }.start();
    let mut refused = gateway.send(quote());
    until("the pair is used", || {
        refused = gateway.send(quote());
        refused.code() == "upstream.connect"
    });
    assert_eq!((refused.sent(), attempts(&gateway, &refused)), ("no", 2));
    assert!(retries(&gateway, "connect") >= 1.0);
}

/// A Fastrac that closes its port when it gets a quote, and then answers it with these bytes.
fn closing(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let addr = listener.local_addr().expect("an address");
    thread::spawn(move || {
        loop {
            let (mut socket, _) = listener.accept().expect("a connection");
            let mut reader = BufReader::new(socket.try_clone().expect("cloned"));
            let (mut head, mut body) = (String::new(), 0);
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|read| read > 0) {}
            let lines = head.to_lowercase();
            if let Some(length) = lines.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()) {
                body = length.parse().expect("a length");
            }
            reader.read_exact(&mut vec![0; body]).expect("a body");
            if head.starts_with("POST /tariff") {
                drop(listener);
                let _ = socket.write_all(answer.as_bytes());
                return;
            }
            let ok = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 26\r\n\r\n{\"success\":true,\"data\":[]}";
            let _ = socket.write_all(ok.as_bytes());
        }
    });
    addr
}

#[test]
fn an_attempt_that_is_not_sent_leaves_the_result_of_the_one_before() {
    const BUSY: &str = "HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 34\r\n\r\n\
                        {\"success\":false,\"message\":\"Busy\"}";
    for (answer, status, outcome, sent) in [(BUSY, 503, "upstream_error", "yes"), ("", 502, "cut", "unknown")] {
        let base_url = Some(format!("http://{}", closing(answer)));
        let gateway = Setup { base_url, wait: false, ..Setup::default() }.start();
        until("a key pair", || gateway.admin("/readyz").status == 200);
        let response = gateway.send(quote());
        assert_eq!((response.status, response.outcome(), response.sent()), (status, outcome, sent), "{response:?}");
        assert!(!response.text().contains("nothing was sent"), "{response:?}");
        let line = gateway.line(response.header("x-request-id").expect("an id"));
        assert_eq!((&line["attempts"], &line["sent"]), (&2.into(), &sent.into()), "{line}");
    }
}

#[test]
fn only_a_tenth_of_first_attempts_and_a_few_while_everything_fails() {
    for (account, most) in [("", 29), ("retries = 0.5", 109), ("retries = 0", 0)] {
        let gateway = Setup { account, ..Setup::default() }.start();
        gateway.sandbox.fault(Fault::on(QUOTE, Act::Html(503)));
        let mut connection = gateway.connect();
        for _ in 0..200 {
            assert_eq!(connection.send(&quote()).status, 503);
        }
        let (received, counted) = (gateway.received().len(), retries(&gateway, "503"));
        assert_eq!((received, counted), (200 + most, most as f64), "{account}");
        assert_eq!(left(&gateway), 0, "{account}");
    }
}

#[test]
fn not_before_fastrac_allows_it() {
    let gateway = TestGateway::new();
    gateway.sandbox.fault(Fault::on(QUOTE, busy("1")).times(1));
    let began = Instant::now();
    let response = gateway.send(quote());
    assert_eq!((response.status, attempts(&gateway, &response)), (200, 2), "{response:?}");
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());

    gateway.sandbox.fault(Fault::on(QUOTE, busy("5")));
    let began = Instant::now();
    let response = gateway.send(quote());
    assert_eq!((response.status, response.header("retry-after")), (503, Some("5")), "{response:?}");
    assert_eq!(attempts(&gateway, &response), 1);
    assert!(began.elapsed() < Duration::from_secs(4), "the first response is not held back: {:?}", began.elapsed());
}

#[test]
fn not_before_the_longest_wait_that_fastrac_names() {
    let gateway = TestGateway::new();
    for waits in [&["1", "60"][..], &["60", "1"], &["1, 60"]] {
        let headers = waits.iter().map(|wait| ("retry-after".to_owned(), (*wait).to_owned())).collect();
        let busy = CannedResponse {
            status: 503,
            headers,
            body: r#"{"success": false}"#.to_owned(),
            ..CannedResponse::default()
        };
        gateway.sandbox.fault(Fault::on(QUOTE, Act::Answer(busy)).times(1));
        let response = gateway.send(quote());
        assert_eq!((response.status, attempts(&gateway, &response)), (503, 1), "{waits:?}: {response:?}");
    }
}

#[test]
fn not_after_the_callers_time() {
    let gateway = TestGateway::new();
    // The shortest pause is 25 ms.
    gateway.sandbox.fault(Fault::on(QUOTE, Act::Html(503)));
    for millis in ["10", "20"] {
        let response = gateway.send(quote().header("x-gateway-timeout", millis));
        assert!([503, 504].contains(&response.status), "{response:?}");
        assert!(attempts(&gateway, &response) <= 1);
    }
    gateway.sandbox.clear_faults();
    gateway.sandbox.fault(Fault::on(QUOTE, busy("2")));
    let response = gateway.send(quote().header("x-gateway-timeout", "1500"));
    assert_eq!((response.status, attempts(&gateway, &response)), (503, 1), "{response:?}");
    assert_eq!(gateway.metric("retries_total", &[]), 0.0);
}

#[test]
fn not_once_the_breaker_has_opened() {
    let gateway = Setup { breaker: "minimum = 1, failures = 0.1, open = \"1h\"", ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on(QUOTE, Act::Html(503)));
    let response = gateway.send(quote());
    assert_eq!((response.status, response.sent(), attempts(&gateway, &response)), (503, "yes", 1), "{response:?}");
    assert_eq!(gateway.send(quote()).code(), "upstream.breaker");
    assert_eq!(left(&gateway), 10, "and none was taken");
}

/// It would take what is left of them to others.
#[test]
fn none_that_nobody_waits_for_any_more_once_its_pause_is_over() {
    for is_spare in [true, false] {
        let budget = "per_second = 100000, burst = 100000, in_flight = 4, max_wait = \"3s\"";
        let gateway = Setup { budget, ..Setup::default() }.start();
        gateway.sandbox.fault(Fault::on("v2.track", Act::Pass).wait(Duration::from_secs(8)));
        gateway.sandbox.fault(Fault::on("v2.city", busy("1")));
        let take_place = |_| {
            let mut connection = gateway.connect();
            connection.write(&request("GET", "/order/track").json("{}").by("shop").bytes());
            connection
        };
        let held: Vec<_> = (0..if is_spare { 0 } else { 2 }).map(take_place).collect();
        until("places are taken", || gateway.received().len() == held.len());
        for n in 0..15 {
            let lookup = get(&format!("/region/city?province_id=31&n={n}")).by("clerk");
            assert_eq!(gateway.send(lookup.header("x-gateway-timeout", "150")).outcome(), "timeout");
        }
        until("the fetches are over", || gateway.app().gateway.current.load().flights.is_empty());
        // What a slow machine has not sent in time is sent from spare budget, if at all.
        assert!(gateway.received().len() <= held.len() + 15, "spare: {is_spare}");
        assert_eq!((gateway.metric("retries_total", &[]), left(&gateway)), (0.0, 10), "spare: {is_spare}");
        gateway.sandbox.fault(Fault::on("v2.multi_items", Act::Html(503)).times(1));
        let other = gateway.send(post("/item/multi-items", bodies::MULTI_ITEMS).by("shop"));
        assert_eq!((other.status, attempts(&gateway, &other)), (200, 2), "{other:?}");
    }
}

#[test]
fn one_that_does_not_begin_goes_back() {
    let gateway = TestGateway::new();
    gateway.sandbox.fault(Fault::on(QUOTE, busy("2")));
    let mut connection = gateway.connect();
    connection.write(&quote().bytes());
    until("it waits for its second attempt", || left(&gateway) == 9);
    drop(connection);
    until("its caller has left", || gateway.metric("requests_total", &[("outcome", "client_gone")]) == 1.0);
    assert_eq!((left(&gateway), gateway.received().len()), (10, 1));

    // The first one takes the only token of the second.
    let budget = "per_second = 1, burst = 1, max_wait = \"0s\"";
    let gateway = Setup { budget, ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on(QUOTE, Act::Html(503)));
    until("it is sent, and no second attempt is", || gateway.send(quote()).outcome() == "upstream_error");
    assert_eq!((left(&gateway), retries(&gateway, "503")), (10, 0.0));
}
