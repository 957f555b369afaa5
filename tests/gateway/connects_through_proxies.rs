//! Connections to Fastrac through an account's proxy: how its failures are reported, and what it can see.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use fastrac_sandbox::{Options, Sandbox};

use crate::{
    client::{get, post},
    passes_responses_unchanged::Certificates,
    test_gateway::{ACCESS, LOG, SECRET, Setup, TestGateway, canary_in, closed_port, sandbox, until},
};

/// How the proxy behaves after it has read a CONNECT request.
#[derive(Clone, Copy)]
enum ProxyBehaviour {
    /// Opens the tunnel.
    Tunnel,
    /// Sends this and keeps the connection open.
    Says(&'static str),
    /// Sends this and closes the connection.
    Closes(&'static str),
    /// Sends header lines without end.
    Drips,
    /// Opens the tunnel and sends these bytes right after the response head.
    Intrudes(&'static str),
}

/// A proxy that can misbehave; `tests/real/proxy` uses a real one.
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    behaviour: Arc<Mutex<ProxyBehaviour>>,
    /// The request heads that it read.
    heads: Arc<Mutex<Vec<String>>>,
    /// All bytes that went through it, in both directions.
    passed: Arc<Mutex<Vec<u8>>>,
}

impl Proxy {
    pub(crate) fn start() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let addr = listener.local_addr().expect("an address");
        let proxy = Proxy {
            addr,
            behaviour: Arc::new(Mutex::new(ProxyBehaviour::Tunnel)),
            heads: Arc::default(),
            passed: Arc::default(),
        };
        let (behaviour, heads, passed) = (proxy.behaviour.clone(), proxy.heads.clone(), proxy.passed.clone());
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (behaviour, heads, passed) = (*behaviour.lock().expect("whole"), heads.clone(), passed.clone());
                std::thread::spawn(move || serve(socket, behaviour, &heads, &passed));
            }
        });
        proxy
    }

    fn set_behaviour(&self, behaviour: ProxyBehaviour) {
        *self.behaviour.lock().expect("whole") = behaviour;
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("whole").clone()
    }
}

/// Serves one connection until either side closes it; I/O errors are ignored.
fn serve(mut socket: TcpStream, behaviour: ProxyBehaviour, heads: &Mutex<Vec<String>>, passed: &Arc<Mutex<Vec<u8>>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if socket.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text");
    heads.lock().expect("whole").push(head.clone());
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).expect("a target").to_owned();
    match behaviour {
        ProxyBehaviour::Tunnel => {
            tunnel(socket, &target, b"HTTP/1.1 200 Connection established\r\nvia: 1.1 us\r\n\r\n", passed)
        }
        ProxyBehaviour::Intrudes(first) => {
            tunnel(socket, &target, format!("HTTP/1.1 200 OK\r\n\r\n{first}").as_bytes(), passed);
        }
        ProxyBehaviour::Says(text) => {
            let _ = socket.write_all(text.as_bytes());
            while socket.read(&mut byte).is_ok_and(|read| read > 0) {}
        }
        ProxyBehaviour::Closes(text) => drop(socket.write_all(text.as_bytes())),
        ProxyBehaviour::Drips => {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n");
            while socket.write_all(b"x: y\r\n").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn tunnel(mut near: TcpStream, target: &str, first: &[u8], passed: &Arc<Mutex<Vec<u8>>>) {
    let Ok(far) = TcpStream::connect(target) else { return };
    let _ = near.write_all(first);
    let pass = |mut from: TcpStream, mut to: TcpStream, passed: Arc<Mutex<Vec<u8>>>| {
        let mut piece = [0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut piece) {
            passed.lock().expect("whole").extend_from_slice(&piece[..read]);
            if to.write_all(&piece[..read]).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    };
    let (back, forth) = (near.try_clone().expect("cloned"), far.try_clone().expect("cloned"));
    let kept = passed.clone();
    std::thread::spawn(move || pass(far, back, kept));
    pass(near, forth, passed.clone());
}

fn gateway(proxy: &Proxy) -> TestGateway {
    let account = Box::leak(format!("proxy = \"http://{}\"", proxy.addr).into_boxed_str());
    Setup { account, ..Setup::default() }.start()
}

#[test]
fn cleartext_uses_connect_too_and_connections_are_reused() {
    let proxy = Proxy::start();
    let gateway = gateway(&proxy);
    let mut connection = gateway.connect();
    let canaries = proxy.heads().len();
    assert_eq!(gateway.metric("upstream_connections", &[]), 0.0, "a canary leaves no connection behind");
    for _ in 0..10 {
        assert_eq!(connection.send(&post("/user/balance/history", "{}").by("shop")).status, 200);
    }
    assert_eq!(gateway.received().len(), 10);
    // One connection, opened by the worker that serves this client connection.
    assert_eq!(proxy.heads().len(), canaries + 1);
    let target = gateway.sandbox.addr();
    for head in proxy.heads() {
        assert_eq!(head, format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n"));
    }
}

#[test]
fn a_proxy_sees_only_the_ciphertext_of_tls() {
    let (own, proxy) = (Certificates::new(), Proxy::start());
    let far = Sandbox::start(Options { tls: Some(own.server()), ..sandbox() }).expect("a sandbox");
    let account = format!("proxy = \"http://{}\"\nca = \"ca.pem\"", proxy.addr);
    // Only the proxy resolves this name, and the certificate must contain it.
    let base_url = Some(format!("https://localhost:{}", far.addr().port()));
    let gateway = Setup {
        account: Box::leak(account.into_boxed_str()),
        files: vec![("ca.pem", own.authority.clone())],
        base_url,
        wait: false,
        ..Setup::default()
    }
    .start();
    until("ready", || gateway.app().gateway.was_ready());
    assert_eq!(gateway.send(get("/region/province").by("shop")).status, 200);
    assert!(far.counters().requests > 0);
    let passed = proxy.passed.lock().expect("whole").clone();
    assert!(memchr::memmem::find(&passed, b"localhost").is_some(), "SNI carries the server's name, as without a proxy");
    assert_eq!(canary_in(&passed), None);
    assert!(proxy.heads().iter().all(|head| head.starts_with(&format!("CONNECT localhost:{} ", far.addr().port()))));
}

#[test]
fn a_request_that_the_proxy_refuses_was_not_sent_and_the_reason_is_reported() {
    let proxy = Proxy::start();
    let gateway = gateway(&proxy);
    for (behaviour, why) in [
        (
            ProxyBehaviour::Says("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"),
            "the proxy answered 407 to CONNECT",
        ),
        (
            ProxyBehaviour::Says("HTTP/1.1 403 Forbidden\r\ncontent-length: 3\r\n\r\nno!"),
            "the proxy answered 403 to CONNECT",
        ),
        (ProxyBehaviour::Closes("HTTP/1.0 502 Bad Gateway\r\n\r\n"), "the proxy answered 502 to CONNECT"),
        (ProxyBehaviour::Says("HTTP/1.1 200 OK\r\nx: 1\r\nSSH-2.0-canary\r\n"), "did not open in time"),
        (ProxyBehaviour::Says("SSH-2.0-canary\r\n"), "the proxy's response is not HTTP"),
        (ProxyBehaviour::Says(""), "did not open in time"),
        (ProxyBehaviour::Drips, "did not open in time"),
        (ProxyBehaviour::Closes(""), "the proxy closed the connection before it responded"),
        (ProxyBehaviour::Closes("HTTP/1.1 200 OK\r\nvia"), "the proxy closed the connection before it responded"),
    ] {
        proxy.set_behaviour(behaviour);
        let before = gateway.received().len();
        let began = Instant::now();
        let request = post("/user/balance/history", "{}").by("shop").header("x-gateway-timeout", "700");
        let response = gateway.send(request);
        assert_eq!(
            (response.status, response.code().as_str(), response.sent()),
            (502, "upstream.connect", "no"),
            "{why}"
        );
        assert_eq!(response.outcome(), "unreachable");
        let message = response.json()["message"].as_str().expect("a message").to_owned();
        assert!(message.contains(why), "{message} is not {why}");
        assert!(![ACCESS, SECRET, "canary"].iter().any(|secret| message.contains(secret)), "{message}");
        assert!(began.elapsed() < Duration::from_secs(3), "{why}: {:?}", began.elapsed());
        assert_eq!(gateway.received().len(), before);
    }
    proxy.set_behaviour(ProxyBehaviour::Tunnel);
    assert_eq!(gateway.send(post("/user/balance/history", "{}").by("shop")).status, 200);
}

#[test]
fn an_unreachable_proxy_is_reported_like_an_unreachable_fastrac() {
    let (_held, gone) = closed_port();
    let account = Box::leak(format!("proxy = \"http://{gone}\"").into_boxed_str());
    let gateway = Setup { account, wait: false, ..Setup::default() }.start();
    until("a pair", || gateway.app().gateway.was_ready());
    let response = gateway.send(get("/courier/all").by("shop"));
    assert_eq!((response.status, response.code().as_str(), response.sent()), (502, "upstream.connect", "no"));
    assert!(response.text().contains("no connection to the proxy"), "{}", response.text());
    // It is logged once, however often the connection was tried.
    let log = String::from_utf8(LOG.lock().expect("whole").clone()).expect("text");
    let entries =
        log.lines().filter(|line| line.contains("no connection to Fastrac") && line.contains(&gone.to_string()));
    assert_eq!(entries.count(), 1, "{log}");
    // The proxy is never bypassed.
    assert_eq!(gateway.sandbox.counters().requests, 0);
}

#[test]
fn bytes_after_the_proxys_response_head_are_refused() {
    let proxy = Proxy::start();
    let gateway = gateway(&proxy);
    // A response before any request: if it were accepted, it would be taken for the response to the first request.
    proxy.set_behaviour(ProxyBehaviour::Intrudes("HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{\"success\":true}"));
    let response = gateway.send(post("/user/balance/history", "{}").by("shop"));
    assert_eq!(response.status, 502, "{}", response.text());
}

#[test]
fn a_reload_switches_to_another_proxy() {
    let (first, second) = (Proxy::start(), Proxy::start());
    let mut gateway = gateway(&first);
    assert_eq!(gateway.send(post("/user/balance/history", "{}").by("shop")).status, 200);
    let used = first.heads().len();
    gateway.reload(&first.addr.to_string(), &second.addr.to_string());
    assert_eq!(gateway.send(post("/user/balance/history", "{}").by("shop")).status, 200);
    assert_eq!((first.heads().len(), second.heads().len()), (used, 1));
}
