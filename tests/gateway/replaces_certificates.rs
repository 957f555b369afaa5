//! The listeners' certificates are replaced while running, without a failed handshake or request.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustls::{ClientConfig, version};

use fastrac_gateway::{files::configuration::LoadError, gateway::ReloadError};

use crate::{
    authority::{Authority, Pair},
    client::{Connection, get},
    h2::{Http2Connection, run},
    refuses_clearly::before_a_request,
    test_gateway::{LOG, Setup, TestGateway, until, write},
};

const LISTEN: &str = "tls = { cert = \"door.crt\", key = \"door.key\" }\n\
                      admin_tls = { cert = \"door.crt\", key = \"door.key\" }";

fn gateway(pair: &Pair, limits: &'static str) -> TestGateway {
    let files = vec![("door.crt", pair.cert.clone()), ("door.key", pair.key.clone())];
    Setup { listen: LISTEN, limits, files, ..Setup::default() }.start()
}

fn install(folder: &Path, pair: &Pair) {
    write(&folder.join("door.crt"), &pair.cert);
    write(&folder.join("door.key"), &pair.key);
}

/// A page of the admin port, over TLS.
fn admin(gateway: &TestGateway, page: &str, authority: &Authority) -> crate::client::Response {
    let (mut connection, _) =
        Connection::over_tls(gateway.app().admin, &authority.trusting(None, &[])).expect("a handshake");
    connection.send(&get(page).header("host", "localhost"))
}

#[test]
fn a_thousand_handshakes_during_twenty_replacements_all_succeed() {
    const HANDSHAKES: usize = 1_000;
    const SWAPS: usize = 20;
    let authority = Authority::new();
    let pairs: Vec<Pair> = (0..=SWAPS).map(|n| authority.server(2030 + n as i32)).collect();
    let gateway = gateway(&pairs[0], "");
    let client = authority.trusting(None, &[]);
    let (mut kept, first) = Connection::over_tls(gateway.data, &client).expect("a handshake");
    assert_eq!(first, pairs[0].der().to_vec());
    let (done, seen) = (AtomicUsize::new(0), std::sync::Mutex::new(BTreeSet::from([first])));
    let swapped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while done.fetch_add(1, Ordering::Relaxed) < HANDSHAKES || !swapped.load(Ordering::Relaxed) {
                    // A new client each time, so that no session is resumed.
                    let (mut connection, leaf) =
                        Connection::over_tls(gateway.data, &authority.trusting(None, &[])).expect("a handshake");
                    assert_eq!(connection.send(&get("/region/province").by("shop")).status, 200);
                    seen.lock().expect("whole").insert(leaf);
                }
            });
        }
        for (n, pair) in pairs.iter().enumerate().skip(1) {
            install(gateway.folder.path(), pair);
            // Some are picked up by polling, the others by a reload.
            if n % 5 != 0 {
                gateway.app().gateway.reload().expect("reloaded");
            }
            let listeners = &gateway.app().gateway.live.tls;
            let year = (2030 + n).to_string();
            until("the new certificate is presented", || {
                listeners.each().all(|(_, listener)| listener.expires().expect("an end").to_string().starts_with(&year))
            });
            let enough = done.load(Ordering::Relaxed) + HANDSHAKES / SWAPS / 2;
            until("it is used", || done.load(Ordering::Relaxed) > enough);
        }
        swapped.store(true, Ordering::Relaxed);
    });
    let seen = seen.into_inner().expect("whole");
    assert!(done.into_inner() >= HANDSHAKES);
    let made: BTreeSet<Vec<u8>> = pairs.iter().map(|pair| pair.der().to_vec()).collect();
    assert!(
        seen == made,
        "each certificate was presented, and no other: {} of {}",
        seen.intersection(&made).count(),
        made.len()
    );
    // A connection opened with the first certificate is still served after the last.
    assert_eq!(kept.send(&get("/region/province").by("shop")).status, 200);
    assert_eq!(gateway.metric("tls_handshakes_total", &[("result", "failed")]), 0.0);
}

#[test]
fn a_faulty_file_keeps_the_old_certificate_and_is_reported_everywhere() {
    let authority = Authority::new();
    let (old, new) = (authority.server(2040), authority.server(2041));
    let gateway = gateway(&old, "");
    let told = "listen.tls.key: ";
    let seen = |page: &str| admin(&gateway, page, &authority).text();
    assert!(seen("/metrics").contains("certificate_expiry_timestamp_seconds{listener=\"data\"} 2214864000\n"));
    assert!(seen("/metrics").contains("config_last_reload_successful 1\n"));
    write(&gateway.folder.path().join("door.crt"), &new.cert);
    until("the fault is reported", || seen("/readyz").contains("data listener: the new certificate cannot be used"));
    assert!(seen("/readyz").contains("\"ready\":true"));
    assert!(seen("/metrics").contains("config_last_reload_successful 0\n"));
    let status = admin(&gateway, "/status", &authority).json();
    let fault = status["certificates"]["data"]["fault"].as_str().expect("a fault").to_owned();
    assert!(fault.starts_with(told) && fault.contains("put the two that were issued together in place"), "{fault}");
    assert_eq!(status["certificates"]["data"]["ends_at"], "2040-03-09T00:00:00.000Z");
    // A reload reports it too, and changes nothing.
    match gateway.app().gateway.reload() {
        Err(ReloadError::Load(LoadError::Invalid { errors, .. })) => {
            assert!(errors.len() == 2 && errors[0].to_string().starts_with(told), "{errors:?}");
        }
        other => panic!("{other:?}"),
    }
    let (_, leaf) = Connection::over_tls(gateway.data, &authority.trusting(None, &[])).expect("a handshake");
    assert_eq!(leaf, old.der().to_vec());
    let log = String::from_utf8(LOG.lock().expect("whole").clone()).expect("text");
    let folder = gateway.folder.path().display().to_string();
    let lines = |text: &str| log.lines().filter(|line| line.contains(text) && line.contains(&folder)).count();
    // Once for each listener, and once for the reload.
    assert_eq!(lines("the previous certificate stays in use"), 2, "{log}");
    // It recovers without a reload when the key is replaced too.
    write(&gateway.folder.path().join("door.key"), &new.key);
    until("the new certificate is presented", || {
        seen("/metrics").contains("certificate_expiry_timestamp_seconds{listener=\"data\"} 2246400000")
    });
    assert!(!seen("/readyz").contains("listener"));
    gateway.app().gateway.reload().expect("reloaded");
    assert!(seen("/metrics").contains("config_last_reload_successful 1\n"));
}

#[test]
fn tls_1_2_and_1_3_work_and_alpn_selects_the_http_version() {
    let authority = Authority::new();
    let gateway = gateway(&authority.server(2040), "");
    for version in [&version::TLS12, &version::TLS13] {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(rustls::pki_types::pem::PemObject::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let client = ClientConfig::builder_with_protocol_versions(&[version]).with_root_certificates(roots);
        let (mut connection, _) =
            Connection::over_tls(gateway.data, &Arc::new(client.with_no_client_auth())).expect("a handshake");
        assert_eq!(connection.send(&get("/region/province").by("shop")).status, 200);
    }
    run(async {
        let open = Http2Connection::over_tls(gateway.data, authority.trusting(None, &[b"h2"])).await;
        assert_eq!(open.send(get("/region/province").by("shop")).await.expect("joined").expect("a response").0, 200);
    });
    // A client that offers no supported protocol is refused in the handshake, and counted.
    assert!(Connection::over_tls(gateway.data, &authority.trusting(None, &[b"ftp"])).is_err());
    until("it is counted", || gateway.metric("tls_handshakes_total", &[("result", "failed")]) == 1.0);
    assert_eq!(gateway.metric("tls_handshakes_total", &[("listener", "data"), ("result", "ok")]), 3.0);
}

/// Sends these bytes, reads to the end, and returns the received bytes and the duration.
fn exchange_bytes(gateway: &TestGateway, bytes: &[u8]) -> (Vec<u8>, Duration) {
    let began = Instant::now();
    let mut socket = TcpStream::connect(gateway.data).expect("connected");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    socket.write_all(bytes).expect("sent");
    let mut exchange_bytes = Vec::new();
    let _ = socket.read_to_end(&mut exchange_bytes);
    (exchange_bytes, began.elapsed())
}

#[test]
fn cleartext_is_refused_and_slow_handshakes_time_out() {
    let authority = Authority::new();
    let gateway = gateway(&authority.server(2040), "header_read = \"300ms\"\nidle = \"600ms\"");
    let mut cleartext = gateway.connect();
    cleartext.write(&get("/region/province").bytes());
    let response = cleartext.read_response("GET").expect("a response");
    assert_eq!((response.status, response.outcome(), response.sent()), (400, "bad_request", "no"));
    assert!(response.code() == "request.malformed" && response.text().contains("https://"), "{}", response.text());
    before_a_request(&response);
    gateway.line(response.header("x-request-id").expect("an id"));
    assert!(cleartext.ends());
    drop(cleartext);
    until("it is counted", || gateway.metric("tls_handshakes_total", &[("result", "cleartext")]) == 1.0);
    until("it is counted as a request too", || gateway.metric("requests_total", &[("outcome", "bad_request")]) == 1.0);
    // Garbage and an invalid record: at most an alert comes back.
    for bytes in [&b"\x80\x2e\x01\x00\x02"[..], b"\x16\x03\x01\x00\x05hello", b"\0\0\0\0"] {
        let (response, _) = exchange_bytes(&gateway, bytes);
        assert!(response.len() < 10 && !response.starts_with(b"HTTP"), "{response:?}");
    }
    // Half a ClientHello is limited by `header_read`, silence by `idle`.
    let (response, took) = exchange_bytes(&gateway, b"\x16\x03\x01\x01\x00\x01");
    assert!(response.is_empty() && (250..3000).contains(&took.as_millis()), "{response:?} {took:?}");
    let (response, took) = exchange_bytes(&gateway, b"");
    assert!(response.is_empty() && (550..3000).contains(&took.as_millis()), "{response:?} {took:?}");
    assert_eq!(gateway.metric("tls_handshakes_total", &[("result", "timeout")]), 1.0);
    until("all connections are closed", || gateway.metric("client_connections", &[]) == 0.0);
    assert_eq!(gateway.received().len(), 0);
}

#[test]
fn handshakes_count_towards_the_connection_limit() {
    let authority = Authority::new();
    let gateway = gateway(&authority.server(2040), "connections = 2");
    let silent: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(gateway.data).expect("connected")).collect();
    until("both connections are counted", || gateway.metric("client_connections", &[]) == 2.0);
    assert!(Connection::over_tls(gateway.data, &authority.trusting(None, &[])).is_err());
    until("they make room", || Connection::over_tls(gateway.data, &authority.trusting(None, &[])).is_ok());
    drop(silent);
}

#[test]
fn tls_on_a_cleartext_port_is_refused() {
    let gateway = TestGateway::new();
    assert!(Connection::over_tls(gateway.data, &Authority::new().trusting(None, &[])).is_err());
    until("it is counted", || gateway.metric("requests_total", &[("outcome", "bad_request")]) == 1.0);
    assert_eq!(gateway.received().len(), 0);
    until("all connections are closed", || gateway.metric("client_connections", &[]) == 0.0);
}

#[test]
fn a_reload_switches_files_and_never_turns_tls_off() {
    let authority = Authority::new();
    let (old, new) = (authority.server(2040), authority.server(2041));
    let mut gateway = gateway(&old, "");
    write(&gateway.folder.path().join("new.crt"), &new.cert);
    write(&gateway.folder.path().join("new.key"), &new.key);
    gateway.reload("\"door.crt\", key = \"door.key\"", "\"new.crt\", key = \"new.key\"");
    let shown = |gateway: &TestGateway| {
        Connection::over_tls(gateway.data, &authority.trusting(None, &[])).expect("a handshake").1
    };
    assert_eq!(shown(&gateway), new.der().to_vec());
    // The old files are no longer watched.
    fs::remove_file(gateway.folder.path().join("door.crt")).expect("removed");
    gateway.reload("workers = 2\ntls = { cert = \"new.crt\", key = \"new.key\" }", "workers = 2");
    assert_eq!(shown(&gateway), new.der().to_vec());
}
