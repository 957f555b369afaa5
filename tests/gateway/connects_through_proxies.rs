//! What an account's proxy does to it, and what the proxy learns.

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
    test_gateway::{ACCESS, LOG, SECRET, Setup, Stage, canary_in, sandbox, until, vacant},
};

/// What a proxy does once it has read CONNECT.
#[derive(Clone, Copy)]
enum Acts {
    /// As it should.
    Tunnel,
    /// Says this and stays.
    Says(&'static str),
    /// Says this and closes.
    Closes(&'static str),
    /// Says headers for ever.
    Drips,
    /// Opens the tunnel, and says this in it before anybody else.
    Intrudes(&'static str),
}

/// A proxy of our own, for the bad ones; the good one is tried in `tests/real` too.
struct Proxy {
    addr: SocketAddr,
    acts: Arc<Mutex<Acts>>,
    /// The heads that it read.
    heads: Arc<Mutex<Vec<String>>>,
    /// Everything that went through it, both ways.
    passed: Arc<Mutex<Vec<u8>>>,
}

impl Proxy {
    fn start() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let addr = listener.local_addr().expect("an address");
        let proxy =
            Proxy { addr, acts: Arc::new(Mutex::new(Acts::Tunnel)), heads: Arc::default(), passed: Arc::default() };
        let (acts, heads, passed) = (proxy.acts.clone(), proxy.heads.clone(), proxy.passed.clone());
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (acts, heads, passed) = (*acts.lock().expect("whole"), heads.clone(), passed.clone());
                std::thread::spawn(move || serve(socket, acts, &heads, &passed));
            }
        });
        proxy
    }

    fn does(&self, acts: Acts) {
        *self.acts.lock().expect("whole") = acts;
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("whole").clone()
    }
}

/// Ends with either side; what goes wrong is the gateway's affair.
fn serve(mut socket: TcpStream, acts: Acts, heads: &Mutex<Vec<String>>, passed: &Arc<Mutex<Vec<u8>>>) {
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
    match acts {
        Acts::Tunnel => tunnel(socket, &target, b"HTTP/1.1 200 Connection established\r\nvia: 1.1 us\r\n\r\n", passed),
        Acts::Intrudes(first) => {
            tunnel(socket, &target, format!("HTTP/1.1 200 OK\r\n\r\n{first}").as_bytes(), passed);
        }
        Acts::Says(text) => {
            let _ = socket.write_all(text.as_bytes());
            while socket.read(&mut byte).is_ok_and(|read| read > 0) {}
        }
        Acts::Closes(text) => drop(socket.write_all(text.as_bytes())),
        Acts::Drips => {
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

fn stage(proxy: &Proxy) -> Stage {
    let account = Box::leak(format!("proxy = \"http://{}\"", proxy.addr).into_boxed_str());
    Setup { account, ..Setup::default() }.start()
}

#[test]
fn cleartext_goes_through_connect_too_and_connections_are_kept() {
    let proxy = Proxy::start();
    let stage = stage(&proxy);
    let mut wire = stage.wire();
    let canaries = proxy.heads().len();
    assert_eq!(stage.metric("upstream_connections", &[]), 0.0, "a canary leaves no connection behind");
    for _ in 0..10 {
        assert_eq!(wire.ask(&post("/user/balance/history", "{}").by("shop")).status, 200);
    }
    assert_eq!(stage.received().len(), 10);
    // One connection of the worker that serves the wire.
    assert_eq!(proxy.heads().len(), canaries + 1);
    let target = stage.sandbox.addr();
    for head in proxy.heads() {
        assert_eq!(head, format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n"));
    }
}

#[test]
fn a_proxy_sees_nothing_of_tls_but_its_bytes() {
    let (own, proxy) = (Certificates::new(), Proxy::start());
    let far = Sandbox::start(Options { tls: Some(own.server()), ..sandbox() }).expect("a sandbox");
    let account = format!("proxy = \"http://{}\"\nca = \"ca.pem\"", proxy.addr);
    // A name that only the proxy has to look up, and the certificate must have.
    let base_url = Some(format!("https://localhost:{}", far.addr().port()));
    let stage = Setup {
        account: Box::leak(account.into_boxed_str()),
        files: vec![("ca.pem", own.authority.clone())],
        base_url,
        wait: false,
        ..Setup::default()
    }
    .start();
    until("ready", || stage.app().gateway.was_ready());
    assert_eq!(stage.ask(get("/region/province").by("shop")).status, 200);
    assert!(far.counters().requests > 0);
    let passed = proxy.passed.lock().expect("whole").clone();
    assert!(
        memchr::memmem::find(&passed, b"localhost").is_some(),
        "the server's name is asked for, as without a proxy"
    );
    assert_eq!(canary_in(&passed), None);
    assert!(proxy.heads().iter().all(|head| head.starts_with(&format!("CONNECT localhost:{} ", far.addr().port()))));
}

#[test]
fn what_a_proxy_refuses_was_not_sent_and_says_why() {
    let proxy = Proxy::start();
    let stage = stage(&proxy);
    for (acts, why) in [
        (Acts::Says("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"), "the proxy answered 407 to CONNECT"),
        (Acts::Says("HTTP/1.1 403 Forbidden\r\ncontent-length: 3\r\n\r\nno!"), "the proxy answered 403 to CONNECT"),
        (Acts::Closes("HTTP/1.0 502 Bad Gateway\r\n\r\n"), "the proxy answered 502 to CONNECT"),
        (Acts::Says("HTTP/1.1 200 OK\r\nx: 1\r\nSSH-2.0-canary\r\n"), "did not open in time"),
        (Acts::Says("SSH-2.0-canary\r\n"), "the proxy's response is not HTTP"),
        (Acts::Says(""), "did not open in time"),
        (Acts::Drips, "did not open in time"),
        (Acts::Closes(""), "the proxy closed the connection before it responded"),
        (Acts::Closes("HTTP/1.1 200 OK\r\nvia"), "the proxy closed the connection before it responded"),
    ] {
        proxy.does(acts);
        let before = stage.received().len();
        let began = Instant::now();
        let asked = post("/user/balance/history", "{}").by("shop").header("x-gateway-timeout", "700");
        let answer = stage.ask(asked);
        assert_eq!((answer.status, answer.code().as_str(), answer.sent()), (502, "upstream.connect", "no"), "{why}");
        assert_eq!(answer.outcome(), "unreachable");
        let message = answer.json()["message"].as_str().expect("a message").to_owned();
        assert!(message.contains(why), "{message} is not {why}");
        assert!(![ACCESS, SECRET, "canary"].iter().any(|secret| message.contains(secret)), "{message}");
        assert!(began.elapsed() < Duration::from_secs(3), "{why}: {:?}", began.elapsed());
        assert_eq!(stage.received().len(), before);
    }
    proxy.does(Acts::Tunnel);
    assert_eq!(stage.ask(post("/user/balance/history", "{}").by("shop")).status, 200);
}

#[test]
fn a_proxy_that_is_not_there_is_a_connection_that_is_not_there() {
    let (_held, gone) = vacant();
    let account = Box::leak(format!("proxy = \"http://{gone}\"").into_boxed_str());
    let stage = Setup { account, wait: false, ..Setup::default() }.start();
    until("a pair", || stage.app().gateway.was_ready());
    let answer = stage.ask(get("/courier/all").by("shop"));
    assert_eq!((answer.status, answer.code().as_str(), answer.sent()), (502, "upstream.connect", "no"));
    assert!(answer.text().contains("no connection to the proxy"), "{}", answer.text());
    // Operators read it too: once, however often it was tried.
    let log = String::from_utf8(LOG.lock().expect("whole").clone()).expect("text");
    let told = log.lines().filter(|line| line.contains("no connection to Fastrac") && line.contains(&gone.to_string()));
    assert_eq!(told.count(), 1, "{log}");
    // It is never gone around.
    assert_eq!(stage.sandbox.counters().requests, 0);
}

#[test]
fn what_stands_behind_the_proxys_head_is_taken_for_fastracs_and_refused() {
    let proxy = Proxy::start();
    let stage = stage(&proxy);
    // An answer that nobody has asked for yet: believed, it would answer the first request.
    proxy.does(Acts::Intrudes("HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{\"success\":true}"));
    let answer = stage.ask(post("/user/balance/history", "{}").by("shop"));
    assert_eq!(answer.status, 502, "{}", answer.text());
}

#[test]
fn another_proxy_is_used_from_a_reload_on() {
    let (first, second) = (Proxy::start(), Proxy::start());
    let mut stage = stage(&first);
    assert_eq!(stage.ask(post("/user/balance/history", "{}").by("shop")).status, 200);
    let used = first.heads().len();
    stage.reload(&first.addr.to_string(), &second.addr.to_string());
    assert_eq!(stage.ask(post("/user/balance/history", "{}").by("shop")).status, 200);
    assert_eq!((first.heads().len(), second.heads().len()), (used, 1));
}
