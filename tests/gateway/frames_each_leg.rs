//! A response of Fastrac is one response for its caller, whatever its framing says: no byte of it ends up in another,
//! and no length is passed on that the body does not have (RFC 9112, section 6.3).

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use crate::{
    client::{Request, Response, find, get, post, request},
    h2,
    test_gateway::{Setup, TestGateway, until},
};

const ENVELOPE: &str = r#"{"success":true,"message":"ok","data":[{"id":1,"name":"Jakarta"}],"timestamp":"2026-11-24"}"#;

/// A Fastrac that answers every request with the same bytes, and remembers the requests.
struct RawFastrac {
    addr: SocketAddr,
    response: Arc<Mutex<Vec<u8>>>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl RawFastrac {
    fn start() -> RawFastrac {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let fastrac = RawFastrac {
            addr: listener.local_addr().expect("an address"),
            response: Arc::default(),
            heads: Arc::default(),
        };
        // For the canary that verifies the key pair.
        fastrac.answers(&chunked(""));
        let (response, heads) = (fastrac.response.clone(), fastrac.heads.clone());
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (response, heads) = (response.clone(), heads.clone());
                std::thread::spawn(move || answer(socket, &response, &heads));
            }
        });
        fastrac
    }

    fn answers(&self, response: &str) {
        *self.response.lock().expect("whole") = response.as_bytes().to_vec();
    }

    fn last_head(&self) -> String {
        self.heads.lock().expect("whole").last().expect("a request").clone()
    }

    fn gateway(&self) -> TestGateway {
        let base_url = Some(format!("http://{}", self.addr));
        let gateway = Setup { base_url, wait: false, ..Setup::default() }.start();
        until("a key pair", || gateway.admin("/readyz").status == 200);
        gateway
    }
}

fn answer(mut socket: TcpStream, response: &Mutex<Vec<u8>>, heads: &Mutex<Vec<String>>) {
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let Some(end) = find(&seen, b"\r\n\r\n") else {
            match socket.read(&mut buffer) {
                Ok(read) if read > 0 => seen.extend_from_slice(&buffer[..read]),
                _ => return,
            }
            continue;
        };
        let head = String::from_utf8_lossy(&seen[..end]).to_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        let whole = end + 4 + length.unwrap_or(0);
        while seen.len() < whole {
            match socket.read(&mut buffer) {
                Ok(read) if read > 0 => seen.extend_from_slice(&buffer[..read]),
                _ => return,
            }
        }
        seen.drain(..whole);
        heads.lock().expect("whole").push(head);
        let bytes = response.lock().expect("whole").clone();
        if socket.write_all(&bytes).is_err() {
            return;
        }
    }
}

fn chunked(fields: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{fields}transfer-encoding: chunked\r\n\r\n\
         {:x}\r\n{ENVELOPE}\r\n0\r\n\r\n",
        ENVELOPE.len()
    )
}

fn whole(status: &str, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{fields}\r\n{body}")
}

fn quote() -> Request {
    post("/tariff/express", r#"{"origin":1}"#).by("shop")
}

fn length(response: &Response) -> Option<usize> {
    response.header("content-length").map(|length| length.parse().expect("a number"))
}

/// Nothing after the response: the next one on the connection is the next one.
fn assert_framed(gateway: &TestGateway, case: &str, status: u16, code: Option<&str>) {
    let mut connection = gateway.connect();
    for round in 0..2 {
        let response = connection.send(&quote());
        assert_eq!(response.status, status, "{case}, round {round}: {}", response.text());
        assert!(length(&response).is_none_or(|length| length == response.body.len()), "{case}: {response:?}");
        match code {
            None => assert!(response.body.is_empty() || response.text() == ENVELOPE, "{case}: {}", response.text()),
            Some(code) => assert_eq!(response.code(), code, "{case}"),
        }
        if response.header("connection") == Some("close") {
            connection = gateway.connect();
        }
    }
}

#[test]
fn lengths_and_chunks_that_disagree_are_no_response() {
    let (fastrac, n) = (RawFastrac::start(), ENVELOPE.len());
    let gateway = fastrac.gateway();
    let cut = Some("upstream.cut");
    for (case, response, status, code) in [
        ("chunked", chunked(""), 200, None),
        ("a true length beside chunks", chunked(&format!("content-length: {n}\r\n")), 200, None),
        ("a short length beside chunks", chunked("content-length: 5\r\n"), 502, cut),
        ("a long length beside chunks", chunked("content-length: 9999\r\n"), 502, cut),
        ("the same length in one field", whole("200 OK", &format!("content-length: {n}\r\n"), ENVELOPE), 200, None),
        ("two lengths", whole("200 OK", &format!("content-length: {n}\r\ncontent-length: 3\r\n"), ENVELOPE), 502, cut),
        ("a length that is no number", whole("200 OK", "content-length: x\r\n", ENVELOPE), 502, cut),
        ("204 with a length", whole("204 No Content", "content-length: 5\r\n", ""), 204, None),
        ("an unasked 101", whole("101 Switching Protocols", "upgrade: x\r\nconnection: upgrade\r\n", ""), 502, cut),
    ] {
        fastrac.answers(&response);
        assert_framed(&gateway, case, status, code);
    }
}

#[test]
fn http2_callers_get_whole_streams() {
    let fastrac = RawFastrac::start();
    let gateway = fastrac.gateway();
    for (response, status) in [
        (chunked("content-length: 5\r\n"), 502),
        (chunked(&format!("content-length: {}\r\n", ENVELOPE.len())), 200),
        (whole("204 No Content", "content-length: 5\r\n", ""), 204),
    ] {
        fastrac.answers(&response);
        let (got, _) = h2::run(async {
            let connection = h2::Http2Connection::open(gateway.data, None).await;
            connection.send(quote()).await.expect("joined").expect("a whole stream")
        });
        assert_eq!(got, status);
    }
}

#[test]
fn http2_callers_get_no_body_in_response_to_head() {
    let fastrac = RawFastrac::start();
    let gateway = fastrac.gateway();
    let city = "/region/city?province_id=31";
    gateway.send(get(city).by("shop"));
    for (case, request, status) in [
        ("a hit", request("HEAD", city).by("shop"), 200),
        ("a miss", request("HEAD", "/region/city?province_id=32").by("shop"), 200),
        ("a refusal", request("HEAD", city), 401),
    ] {
        let over_http2 = h2::run(async {
            let connection = h2::Http2Connection::open(gateway.data, None).await;
            connection.send(request.clone()).await.expect("joined")
        });
        let (got, body) = over_http2.unwrap_or_else(|error| panic!("{case}: {error:?}"));
        assert_eq!((got, body.len()), (status, 0), "{case}");
        let over_http1 = gateway.send(request);
        assert!(over_http1.status == status && length(&over_http1).is_some_and(|length| length > 0), "{case}");
    }
}

#[test]
fn a_contradiction_is_neither_stored_nor_given_to_another_service() {
    let fastrac = RawFastrac::start();
    let gateway = fastrac.gateway();
    let lookup = || get("/region/city?province_id=31");
    fastrac.answers(&chunked("content-length: 5\r\n"));
    assert_eq!(gateway.send(lookup().by("shop")).code(), "upstream.cut");
    fastrac.answers(&chunked(""));
    let fetched = gateway.send(lookup().by("clerk"));
    assert_eq!((fetched.outcome(), fetched.text().as_str()), ("ok", ENVELOPE));
    let hit = gateway.send(lookup().by("shop"));
    assert_eq!((hit.outcome(), length(&hit)), ("hit", Some(ENVELOPE.len())));
}

#[test]
fn lengths_that_describe_the_body_of_a_get_are_passed_on() {
    let fastrac = RawFastrac::start();
    let gateway = fastrac.gateway();
    // hyper's server leaves the field out of a 304.
    fastrac.answers(&whole("304 Not Modified", "content-length: 91\r\n", ""));
    assert!(length(&gateway.send(quote())).is_none_or(|length| length == 91));
    fastrac.answers(&whole("200 OK", "content-length: 91\r\n", ""));
    let head = || request("HEAD", "/order/track").by("shop");
    assert_eq!(length(&gateway.send(head())), Some(91));
    for (status, fields) in [
        ("204 No Content", "content-length: 91\r\n"),
        ("200 OK", "content-length: 91\r\ntransfer-encoding: chunked\r\n"),
        ("200 OK", "content-length: 91\r\ncontent-length: 91\r\n"),
        ("200 OK", "content-length: 91, 91\r\n"),
    ] {
        fastrac.answers(&whole(status, fields, ""));
        assert_eq!(length(&gateway.send(head())), None, "{status} {fields:?}");
    }
}

#[test]
fn a_response_may_have_hundreds_of_header_lines() {
    let fastrac = RawFastrac::start();
    let gateway = fastrac.gateway();
    let fields: String = (0..900).map(|n| format!("x-{n}: {n}\r\n")).collect();
    fastrac.answers(&whole("200 OK", &format!("{fields}content-length: {}\r\n", ENVELOPE.len()), ENVELOPE));
    let response = gateway.send(quote());
    assert_eq!((response.status, response.header("x-899")), (200, Some("899")));
}

#[test]
fn a_response_to_head_is_judged_by_its_status() {
    let fastrac = RawFastrac::start();
    let gateway = fastrac.gateway();
    for (status, outcome) in
        [("200 OK", "ok"), ("204 No Content", "ok"), ("500 Internal Server Error", "upstream_error")]
    {
        fastrac.answers(&format!("HTTP/1.1 {status}\r\n\r\n"));
        let response = gateway.send(request("HEAD", "/health").by("shop"));
        assert_eq!(response.outcome(), outcome, "{status}");
    }
}

#[test]
fn an_empty_body_is_announced_however_the_caller_announced_it() {
    let fastrac = RawFastrac::start();
    let gateway = fastrac.gateway();
    fastrac.answers(&whole("200 OK", &format!("content-length: {}\r\n", ENVELOPE.len()), ENVELOPE));
    for method in ["POST", "PUT", "PATCH"] {
        let empty = || request(method, "/anything").by("shop");
        let mut chunked = empty().header("transfer-encoding", "chunked");
        chunked.body = b"0\r\n\r\n".to_vec();
        for request in [empty().header("content-length", "0"), chunked, empty()] {
            gateway.send(request);
            let head = fastrac.last_head();
            assert!(head.contains("\r\ncontent-length: 0\r\n"), "{method}: {head}");
            assert_eq!(head.matches("content-length").count(), 1, "{method}: {head}");
        }
    }
    gateway.send(get("/anything").by("shop"));
    assert!(!fastrac.last_head().contains("content-length"), "{}", fastrac.last_head());
}

/// What an HTTP/1.0 caller gets in response to a read, and whether the connection is reset after it.
fn over_http10(gateway: &TestGateway, fields: &str) -> (String, bool) {
    let read = request("GET", "/order/track").header("x-case", "1.0").by("shop");
    let request =
        String::from_utf8(read.bytes()).expect("text").replacen("HTTP/1.1\r\n", &format!("HTTP/1.0\r\n{fields}"), 1);
    let mut socket = TcpStream::connect(gateway.data).expect("connected");
    socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("set");
    socket.write_all(request.as_bytes()).expect("written");
    let mut received = Vec::new();
    let end = socket.read_to_end(&mut received);
    (String::from_utf8_lossy(&received).to_lowercase(), end.is_err())
}

/// HTTP/1.0 has no chunks: where the length is not known either, only the end of the connection says where the response
/// ends.
#[test]
fn a_cut_response_without_a_length_does_not_look_complete() {
    let (fastrac, mib) = (RawFastrac::start(), 1 << 20);
    let gateway = fastrac.gateway();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let long = format!("{{\"success\":true,\"data\":\"{}\"}}", "x".repeat(3 * mib));
    let first = format!("{head}{mib:x}\r\n{}\r\n{mib:x}\r\n{}\r\n", &long[..mib], &long[mib..2 * mib]);
    for fields in ["", "connection: keep-alive\r\n"] {
        for (rest, complete) in [
            // No chunk has such a length.
            ("zzz\r\n".to_owned(), false),
            (format!("{:x}\r\n{}\r\n0\r\n\r\n", long.len() - 2 * mib, &long[2 * mib..]), true),
        ] {
            fastrac.answers(&format!("{first}{rest}"));
            let (received, reset) = over_http10(&gateway, fields);
            assert_eq!(reset, !complete, "{fields:?}, complete: {complete}, {} bytes", received.len());
            if complete {
                let (head, body) = received.split_once("\r\n\r\n").expect("a head");
                assert_eq!((head.contains("content-length"), body.len()), (false, long.len()));
                assert!(!head.contains("keep-alive"), "{head}");
            }
        }
    }
}
