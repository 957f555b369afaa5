//! TLS handshakes with Fastrac that fail or hang: nothing was sent, and the gateway reports that. TLS connections that end
//! without notice: the order may have been executed.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use fastrac_sandbox::{Act, Fault, Options, Sandbox, TlsFailure};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, pki_types::CertificateDer,
};

use super::{shared, unknown};
use crate::{
    bodies,
    client::{get, post},
    passes_responses_unchanged::Certificates,
    test_gateway::{Setup, TWIN, TestGateway, until},
};

/// The status line or error that a direct TLS client gets.
fn send_directly(addr: SocketAddr, authority: &CertificateDer<'static>) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).expect("a root");
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let session = ClientConnection::new(Arc::new(config), "localhost".try_into().expect("a name")).expect("a session");
    let mut stream = rustls::StreamOwned::new(session, TcpStream::connect(addr).expect("connected"));
    let request = get("/region/province").pair(TWIN.0, TWIN.1).header("connection", "close");
    let mut received = Vec::new();
    let request = stream.write_all(&request.bytes()).and_then(|()| stream.read_to_end(&mut received));
    request.map(|_| String::from_utf8_lossy(&received[..12]).into_owned()).map_err(|error| error.to_string())
}

/// A gateway whose Fastrac is at this port of `localhost`.
fn gateway(certificates: &Certificates, port: u16) -> TestGateway {
    let folder = tempfile::tempdir().expect("a folder").keep();
    let file = folder.join("ca.pem");
    std::fs::write(&file, &certificates.authority).expect("written");
    let account: &'static str = Box::leak(format!("ca = \"{}\"", file.display()).into_boxed_str());
    let base_url = Some(format!("https://localhost:{port}"));
    let gateway = Setup { account, base_url, wait: false, ..Setup::default() }.start();
    until("a pair", || gateway.app().gateway.was_ready());
    gateway
}

#[test]
fn a_failed_tls_handshake_gives_sent_no() {
    let certificates = Certificates::new();
    let options = Options { tls: Some(certificates.server()), ..shared() };
    for (how, expected) in [(TlsFailure::Refuse, "HandshakeFailure"), (TlsFailure::WrongCertificate, "certificate")] {
        let sandbox = Sandbox::start(options.clone()).expect("a sandbox");
        let authority = certificates.root();
        assert_eq!(send_directly(sandbox.addr(), &authority), Ok("HTTP/1.1 200".to_owned()));
        // The fault is set before the first connection: an open connection would be reused.
        let number = sandbox.fault(Fault::everywhere(Act::Tls(how)));
        let error = send_directly(sandbox.addr(), &authority).expect_err("no answer");
        assert!(error.contains(expected), "{how:?}: {error}");
        let before = sandbox.counters().requests;
        let gateway = gateway(&certificates, sandbox.addr().port());
        for request in [get("/courier/all"), post("/order/express", bodies::ORDER)] {
            let operation = if request.method == "GET" { "v2.couriers" } else { "v2.order_express" };
            let response = gateway.send(request.by("shop"));
            assert_eq!(
                (response.status, response.outcome(), response.sent()),
                (502, "unreachable", "no"),
                "{response:?}"
            );
            assert_eq!(response.code(), "upstream.connect");
            let line = gateway.line(response.header("x-request-id").expect("an id"));
            assert_eq!((&line["code"], &line["sent"]), (&"upstream.connect".into(), &"no".into()), "{line}");
            let counted = gateway.metric("requests_total", &[("operation", operation), ("outcome", "unreachable")]);
            assert_eq!(counted, 1.0);
        }
        assert_eq!(unknown(&gateway), 0.0, "nothing was sent");
        assert_eq!(sandbox.counters().requests, before);
        assert!(sandbox.times_applied(number) > Some(2), "the fault applied to connections");
        sandbox.clear_faults();
        let order = gateway.send(post("/order/express", bodies::ORDER).by("shop"));
        assert_eq!((order.status, sandbox.counters().orders.express), (200, 1), "the same order may be sent now");
    }
}

/// Passes connections on to a server, or keeps them without a word.
struct Relay {
    port: u16,
    state: Arc<Mutex<RelayState>>,
}

#[derive(Default)]
struct RelayState {
    hangs: bool,
    streams: Vec<TcpStream>,
}

impl Relay {
    fn to(server: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let relay = Relay { port: listener.local_addr().expect("an address").port(), state: Arc::default() };
        let state = Arc::clone(&relay.state);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("accepted");
                let mut state = state.lock().expect("no panic");
                state.streams.push(client.try_clone().expect("a handle"));
                if !state.hangs {
                    let server = TcpStream::connect(server).expect("connected");
                    let back = (server.try_clone().expect("a handle"), client.try_clone().expect("a handle"));
                    thread::spawn(move || pass_on(client, server));
                    thread::spawn(move || pass_on(back.0, back.1));
                }
            }
        });
        relay
    }

    /// New connections hang, or do so no longer; the open ones end.
    fn hang(&self, hangs: bool) {
        let mut state = self.state.lock().expect("no panic");
        state.hangs = hangs;
        for stream in state.streams.drain(..) {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    // Whatever ends one direction ends both.
    let _ = io::copy(&mut from, &mut to);
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

#[test]
fn a_tls_handshake_that_hangs_ends_in_the_requests_time_and_gives_sent_no() {
    let certificates = Certificates::new();
    let sandbox = Sandbox::start(Options { tls: Some(certificates.server()), ..shared() }).expect("a sandbox");
    let relay = Relay::to(sandbox.addr());
    let gateway = gateway(&certificates, relay.port);
    let order = |number| post("/order/express", &bodies::order(number)).by("shop");
    // Twice: it comes, goes, and comes again.
    for (orders, number) in [(1, 1), (2, 2)] {
        relay.hang(true);
        let began = Instant::now();
        let response = gateway.send(order(number).header("x-gateway-timeout", "700"));
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert_eq!((response.outcome(), response.sent()), ("unreachable", "no"), "{response:?}");
        assert_eq!(unknown(&gateway), 0.0, "nothing was sent");
        assert_eq!(sandbox.counters().orders.express, orders - 1);
        relay.hang(false);
        assert_eq!(gateway.send(order(number)).status, 200, "the same order may be sent now");
        assert_eq!(sandbox.counters().orders.express, orders);
    }
}

#[test]
fn a_tls_connection_that_ends_without_notice_leaves_the_order_unknown() {
    let certificates = Certificates::new();
    let sandbox = Sandbox::start(Options { tls: Some(certificates.server()), ..shared() }).expect("a sandbox");
    sandbox.fault(Fault { delay_ms: 20_000, ..Fault::on("v2.order_express", Act::Pass) });
    let relay = Relay::to(sandbox.addr());
    let gateway = gateway(&certificates, relay.port);
    let response = thread::scope(|scope| {
        let sending = scope.spawn(|| gateway.send(post("/order/express", bodies::ORDER).by("shop")));
        until("it is executed", || sandbox.counters().orders.express == 1);
        relay.hang(true);
        sending.join().expect("a response")
    });
    assert_eq!((response.status, response.outcome(), response.sent()), (502, "cut", "unknown"), "{response:?}");
    assert_eq!(unknown(&gateway), 1.0);
    relay.hang(false);
    let equal = gateway.send(post("/order/express", bodies::ORDER).by("shop"));
    assert_eq!((equal.status, equal.code().as_str()), (409, "order.unknown"));
    assert_eq!(sandbox.counters().orders.express, 1);
}

/// A TLS server that sends bytes which are no TLS record behind each response to a caller, in the same write, and closes.
fn junk_behind_responses(config: Arc<ServerConfig>) -> u16 {
    const BODY: &str = r#"{"success":true,"message":"","data":[]}"#;
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let mut session = ServerConnection::new(config.clone()).expect("a session");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n")
                && !request.ends_with(b"}")
                && session.complete_io(&mut socket).is_ok()
            {
                // Nothing is there yet.
                let _ = session.reader().read_to_end(&mut request);
            }
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", BODY.len());
            session
                .writer()
                .write_all(head.as_bytes())
                .and_then(|()| session.writer().write_all(BODY.as_bytes()))
                .expect("written");
            let mut records = Vec::new();
            session.write_tls(&mut records).expect("written");
            if !request.starts_with(b"GET /region/province") {
                records.extend_from_slice(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            }
            let _ = socket.write_all(&records);
        }
    });
    port
}

/// The response was lost with what came behind it, and the order unknown.
#[test]
fn a_response_before_a_fault_of_the_tls_layer_is_read() {
    let certificates = Certificates::new();
    let gateway = gateway(&certificates, junk_behind_responses(certificates.server()));
    for request in [get("/courier/all"), get("/order/track").json("{}"), post("/order/express", bodies::ORDER)] {
        for _ in 0..3 {
            let response = gateway.send(request.clone().by("shop"));
            assert!(response.status == 200 && response.text().contains("success"), "{response:?}");
        }
    }
    assert_eq!(unknown(&gateway), 0.0);
}
