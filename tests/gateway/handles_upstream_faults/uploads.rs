//! Connections that end while a request body is being sent: by a reset, or by an early response.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
};

use fastrac_sandbox::{Act, Fault};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{CUT, Expected, FaultSetup, Row, by_reset, plain, row, unknown};
use crate::{
    bodies,
    client::{Request, find, post},
    passes_responses_unchanged::Certificates,
    test_gateway::{Setup, TWIN, until},
};

/// Body lengths in bytes: two that fit into the socket buffers, and one that is still being written when the connection ends.
const LENGTHS: [usize; 3] = [2_000, 900_000, 12_000_000];

const LIMITS: &str = "request_body = \"16MiB\"";

/// A JSON body padded with trailing spaces to a length.
fn padded(body: &str, length: usize) -> String {
    [body, &" ".repeat(length - body.len())].concat()
}

#[test]
fn a_reset_interrupts_the_writing_of_a_body() {
    let setup = FaultSetup::new();
    let sandbox = &setup.gateway.sandbox;
    let request = post("/order/express", &padded(bodies::ORDER, LENGTHS[2])).pair(TWIN.0, TWIN.1);
    for after in [Some(0), Some(70_000), None] {
        let (number, before) = (sandbox.fault(Fault::everywhere(Act::ResetUpload { after })), sandbox.counters());
        let mut stream = TcpStream::connect(sandbox.addr()).expect("connected");
        stream.set_write_timeout(Some(plain::READ_TIMEOUT)).expect("set");
        stream.set_read_timeout(Some(plain::READ_TIMEOUT)).expect("set");
        // The buffers of a loopback connection may take all of the body before (`tcp_rmem`).
        let ended = stream.write_all(&request.bytes()).and_then(|()| stream.read(&mut [0]).map(drop));
        let error = ended.expect_err("the connection ends before a response");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{after:?}");
        let counters = sandbox.counters();
        assert_eq!(
            (counters.requests, counters.orders),
            (before.requests, before.orders),
            "never received completely, not executed"
        );
        assert_eq!((counters.broken - before.broken, sandbox.times_applied(number)), (1, Some(1)), "{after:?}");
        sandbox.clear_faults();
    }
    assert_eq!(sandbox.counters().acts["reset_upload"], 3);
}

/// Requests through the gateway: short and long, of classes that may be retried and that may not.
#[test]
fn a_reset_during_a_request_gives_sent_unknown_and_no_order_is_sent_twice() {
    let mut setup = FaultSetup::of(Setup { limits: LIMITS, ..Setup::default() });
    for (length, after) in LENGTHS.into_iter().flat_map(|length| [(length, 0), (length, 1_000)]) {
        let fault = Fault::everywhere(Act::ResetUpload { after: Some(after) }).key("gateway");
        let row = row("a reset during the request", "", by_reset(), CUT.twice(), CUT, false);
        let order = padded(&bodies::order(length + after), length);
        for (path, body, operation, expected) in [
            ("/tariff/express", &padded(bodies::TARIFF, length), "v2.tariff_express", row.read),
            ("/order/express", &order, "v2.order_express", row.order),
            ("/new/thing", &order, "unlisted", row.order),
        ] {
            send_and_cut_off(&setup, &fault, post(path, body), &Upload { row: &row, operation, expected });
        }
        confirm_resend(&setup, &post("/order/express", &order).by("shop"));
    }
    setup.logs();
    setup.logged.get_mut().clear();
}

/// What is expected of a request whose upload is cut off.
struct Upload<'a> {
    row: &'a Row,
    operation: &'a str,
    expected: Expected,
}

/// Sends a request while the fault is active; the sandbox's counts must agree with the gateway's.
fn send_and_cut_off(setup: &FaultSetup, fault: &Fault, request: Request, upload: &Upload<'_>) {
    let Upload { row, operation, expected } = *upload;
    let sandbox = &setup.gateway.sandbox;
    let before = (sandbox.counters(), unknown(&setup.gateway), setup.gateway.metric("retries_total", &[]));
    let number = sandbox.fault(fault.clone());
    setup.through(row, request, operation, expected);
    let counters = sandbox.counters();
    assert_eq!(sandbox.times_applied(number), Some(expected.attempts), "{operation}: applied to each attempt");
    assert_eq!(counters.broken - before.0.broken, expected.attempts, "{operation}: broken connections");
    assert_eq!((counters.requests, counters.orders), (before.0.requests, before.0.orders), "{operation}: not executed");
    let doubtful = if expected.attempts == 1 { 1.0 } else { 0.0 };
    assert_eq!(unknown(&setup.gateway) - before.1, doubtful, "{operation}: in the journal of unknown orders");
    assert_eq!(setup.gateway.metric("retries_total", &[]) - before.2, 1.0 - doubtful, "{operation}");
    sandbox.clear_faults();
}

/// An order with an unknown outcome is held until a resend is confirmed.
fn confirm_resend(setup: &FaultSetup, order: &Request) {
    let executed = || setup.gateway.sandbox.counters().orders.express;
    let before = executed();
    let held = setup.gateway.send(order.clone());
    assert_eq!((held.status, held.code().as_str(), held.sent()), (409, "order.unknown", "no"));
    assert_eq!(executed(), before);
    let again = setup.gateway.send(order.clone().header("x-gateway-resend", "confirmed"));
    assert_eq!((again.status, again.sent(), executed()), (200, "yes", before + 1), "{again:?}");
}

/// Starts an upstream that responds after the request head and closes with the body unread, which resets the connection.
fn start_early_responder(tls: Option<Arc<ServerConfig>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let addr = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Otherwise the response might still wait for an acknowledgement when the connection is reset.
            stream.set_nodelay(true).expect("set");
            match &tls {
                None => refuse(stream),
                Some(config) => {
                    let session = ServerConnection::new(config.clone()).expect("a session");
                    refuse(StreamOwned::new(session, stream));
                }
            }
        }
    });
    addr
}

fn refuse(mut stream: impl Read + Write) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if !stream.read(&mut byte).is_ok_and(|read| read == 1) {
            return;
        }
        head.extend_from_slice(&byte);
    }
    let (status, body) = match find(&head, b"POST ") {
        None => ("200 OK", r#"{"success":true,"message":"","data":[]}"#),
        Some(_) if find(&head, b"/page").is_some() => ("413 Payload Too Large", "<html>413</html>"),
        Some(_) if find(&head, b"/cancel").is_some() => {
            ("401 Unauthorized", r#"{"success":false,"message":"Unauthorized"}"#)
        }
        Some(_) => ("413 Payload Too Large", r#"{"success":false,"message":"Too long"}"#),
    };
    let response = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let _ = stream.write_all(response.as_bytes());
}

/// Sends `times` requests for each length and path; counts the responses by path, status, outcome and `sent`.
fn count_responses(tls: bool, times: usize) -> BTreeMap<(&'static str, u16, String, String), u32> {
    let certificates = Certificates::new();
    let addr = start_early_responder(tls.then(|| certificates.server()));
    let (scheme, account) = if tls { ("https", "ca = \"ca.pem\"") } else { ("http", "") };
    let (base_url, files) = (Some(format!("{scheme}://{addr}")), vec![("ca.pem", certificates.authority)]);
    let gateway = Setup { base_url, account, files, wait: false, limits: LIMITS, ..Setup::default() }.start();
    until("ready", || gateway.app().gateway.was_ready());
    let mut count_responses = BTreeMap::new();
    for (number, length) in (0..times).flat_map(|number| LENGTHS.map(|length| (number, length))) {
        for path in ["/order/express", "/order/cancel", "/new/thing", "/new/page"] {
            let response = gateway.send(post(path, &padded(&bodies::order(number), length)).by("shop"));
            let (outcome, sent) = (response.outcome().to_owned(), response.sent().to_owned());
            *count_responses.entry((path, response.status, outcome, sent)).or_default() += 1;
        }
    }
    count_responses
}

/// Regression test: over TLS, where writes are large, the response was lost when the first write failed.
#[test]
fn a_response_before_the_end_of_the_request_reaches_the_caller() {
    const TIMES: usize = 3;
    for tls in [false, true] {
        let all = [
            // An HTML page is not Fastrac's envelope: it does not prove whether the request was executed.
            ("/new/page", 413, "rejected", "unknown"),
            ("/new/thing", 413, "rejected", "yes"),
            ("/order/cancel", 401, "rejected", "yes"),
            ("/order/express", 413, "rejected", "yes"),
        ];
        let all = all.map(|(path, status, outcome, sent)| (path, status, outcome.to_owned(), sent.to_owned()));
        let times = (TIMES * LENGTHS.len()) as u32;
        assert_eq!(count_responses(tls, TIMES), all.map(|response| (response, times)).into(), "over TLS: {tls}");
    }
}
