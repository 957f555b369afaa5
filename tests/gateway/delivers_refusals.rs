//! A refusal, or another last response, reaches a client that is still sending (RFC 9112, section 9.6; RFC 9113, section 8.1).
//!
//! The clients here are like Python's `http.client`: they send a request to its end and read only then, and an error while
//! sending is an error of the request.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use fastrac_sandbox::{Act, Fault};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::pem::PemObject as _};

use crate::{
    client::{Request, get, post, request},
    h2,
    passes_responses_unchanged::Certificates,
    test_gateway::{Setup, TestGateway, until},
};

/// Larger than the socket buffers of both sides, and than `limits.request_body`.
const LONG: usize = 3 << 20;

/// Number of tries of each case.
const TRIES: usize = 50;

/// Sends everything, then reads the status; an error if not everything could be sent.
fn send(mut stream: impl Read + Write, bytes: &[u8]) -> io::Result<u16> {
    for piece in bytes.chunks(64 * 1024) {
        stream.write_all(piece)?;
    }
    stream.flush()?;
    let mut response = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&response);
        if let Some(end) = text.find("\r\n\r\n") {
            // Bare responses of hyper have no body.
            let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
            if response.len() >= end + 4 + length.unwrap_or(0) {
                break;
            }
        }
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => response.extend_from_slice(&piece[..read]),
        }
    }
    let text = String::from_utf8_lossy(&response);
    text.get(9..12).and_then(|status| status.parse().ok()).ok_or_else(|| io::Error::other(text.into_owned()))
}

fn long(request: Request) -> Request {
    let body = "x".repeat(LONG);
    request.json(&body)
}

fn in_chunks(request: Request) -> Vec<u8> {
    let head = request.by("shop").header("transfer-encoding", "chunked").bytes();
    let chunk = [&b"10000\r\n"[..], &[b'x'; 0x10000], b"\r\n"].concat();
    [head, chunk.repeat(LONG / 0x10000), b"0\r\n\r\n".to_vec()].concat()
}

/// Name, bytes and the expected status.
fn cases() -> Vec<(&'static str, Vec<u8>, u16)> {
    let tariff = || request("POST", "/tariff/express");
    let fields = format!("x-filler: {}\r\n", "x".repeat(1000)).repeat(LONG / 1000);
    let head = format!("GET /region/city HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
    vec![
        ("too long, announced", long(tariff()).by("shop").bytes(), 413),
        ("too long, in chunks", in_chunks(tariff()), 413),
        ("unknown caller", long(tariff()).by("nobody").bytes(), 401),
        ("not allowed", long(request("POST", "/order/express")).by("clerk").bytes(), 403),
        ("malformed target", long(request("POST", "/tariff/./express")).by("shop").bytes(), 400),
        ("unreadable head", [&b"POST / HTTP/1.1\r\nhost: a\r\nbad head\r\n\r\n"[..], &[b'x'; LONG]].concat(), 400),
        ("long head", head.into_bytes(), 431),
        ("upgrade", long(tariff()).by("shop").header("connection", "upgrade").header("upgrade", "x").bytes(), 501),
    ]
}

#[test]
fn a_refusal_is_read_by_a_client_that_first_sends_everything() {
    let gateway = TestGateway::new();
    for (name, bytes, status) in cases() {
        for n in 0..TRIES {
            let stream = TcpStream::connect(gateway.data).expect("connected");
            let got = send(stream, &bytes).unwrap_or_else(|error| panic!("{name}, try {n}: {error}"));
            assert_eq!(got, status, "{name}");
        }
    }
}

#[test]
fn a_refusal_is_read_over_tls_too() {
    let certificates = Certificates::new();
    let gateway = Setup::with_tls(&certificates).start();
    let mut roots = RootCertStore::empty();
    let authority = rustls::pki_types::CertificateDer::from_pem_slice(certificates.authority.as_bytes()).expect("PEM");
    roots.add(authority).expect("added");
    let client = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").expect("a name");
    for (case, bytes, status) in cases() {
        for n in 0..TRIES / 10 {
            let session = ClientConnection::new(client.clone(), name.clone()).expect("a session");
            let stream = StreamOwned::new(session, TcpStream::connect(gateway.data).expect("connected"));
            let got = send(stream, &bytes).unwrap_or_else(|error| panic!("{case}, try {n}: {error}"));
            assert_eq!(got, status, "{case}");
        }
    }
}

#[test]
fn a_slow_upload_reads_why_it_was_ended() {
    let gateway = Setup { limits: "request = \"300ms\"", ..Setup::default() }.start();
    let bytes = post("/tariff/express", &"x".repeat(4000)).by("shop").bytes();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut stream = TcpStream::connect(gateway.data).expect("connected");
                let (head, body) = bytes.split_at(bytes.len() - 4000);
                stream.write_all(head).expect("sent");
                for piece in body.chunks(400) {
                    stream.write_all(piece).expect("is read to its end");
                    thread::sleep(Duration::from_millis(100));
                }
                assert_eq!(send(stream, b"").expect("a response"), 408);
            });
        }
    });
}

#[test]
fn http2_clients_read_a_refusal_too() {
    let gateway = TestGateway::new();
    h2::run(async {
        let connection = h2::Http2Connection::open(gateway.data, None).await;
        for n in 0..TRIES {
            let (request, status) = match n % 2 {
                0 => (long(request("POST", "/tariff/express")).by("shop"), 413),
                _ => (long(request("POST", "/tariff/express")).by("nobody"), 401),
            };
            let response = connection.send(request).await.expect("joined");
            assert_eq!(response.unwrap_or_else(|error| panic!("try {n}: {error:?}")).0, status);
        }
        // The connection goes on.
        assert_eq!(connection.send(get("/courier/all").by("shop")).await.expect("joined").expect("whole").0, 200);
    });
}

/// As clients do that end a body with a line break, or send the next request before they have read that the connection ends.
#[test]
fn the_last_response_is_read_whole_by_a_client_that_has_sent_more() {
    let gateway = TestGateway::new();
    gateway.sandbox.fault(Fault::on("v2.couriers", Act::Long { bytes: 50_000 }));
    let lookup = get("/courier/all").by("shop");
    let length = gateway.send(lookup.clone()).body.len();
    let last = lookup.clone().header("connection", "close");
    for more in [b"\r\n".to_vec(), lookup.bytes()] {
        for ends in [false, true] {
            let mut connection = gateway.connect();
            connection.receive_little_ahead();
            connection.write(&last.bytes());
            thread::sleep(Duration::from_millis(20));
            connection.write(&more);
            if ends {
                connection.finish();
            }
            thread::sleep(Duration::from_millis(100));
            let response = connection.read_response("GET").expect("a response");
            assert_eq!((response.outcome(), response.body.len(), response.whole), ("hit", length, true));
            assert!(connection.ends());
        }
    }
}

#[test]
fn a_client_that_goes_on_sending_holds_neither_its_connection_nor_the_drain() {
    let mut gateway = Setup { limits: "connections = 1", drain: ("0s", "1s"), ..Setup::default() }.start();
    let mut connection = gateway.connect();
    connection.write(&request("POST", "/tariff/express").by("shop").header("content-length", "99999999").bytes());
    assert_eq!(connection.read_response("POST").expect("a response").status, 413);
    // It neither sends nor closes.
    until("its place is free", || {
        let mut other = gateway.connect();
        other.write(&get("/courier/all").by("shop").bytes());
        other.read_response("GET").is_some_and(|response| response.status == 200)
    });
    until("it is refused again", || {
        connection = gateway.connect();
        connection.write(&request("POST", "/tariff/express").by("shop").header("content-length", "99999999").bytes());
        connection.read_response("POST").is_some_and(|response| response.status == 413)
    });
    let app = gateway.take_app();
    let began = Instant::now();
    let stopped = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                connection.write(b"x");
                thread::sleep(Duration::from_millis(50));
            }
        });
        app.stop();
        stopped.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}
