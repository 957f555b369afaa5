//! Connections to Fastrac while an address is silent, a name lookup hangs or fails, or the gateway's own host has run out
//! of something: other addresses are tried in time, and what is not Fastrac's fault does not count as one.

use std::{
    io::Read as _,
    net::{IpAddr, SocketAddr, TcpStream},
    process::Command,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use fastrac_gateway::connector::{Connector, LookupError};
use fastrac_sandbox::{Options, Sandbox};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};

use crate::{
    bodies,
    client::{get, post},
    h2,
    passes_responses_unchanged::Certificates,
    test_gateway::{Setup, TestGateway, closed_port, sandbox, sum, until},
};

/// Another address of this machine.
const SILENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

/// An address that answers no attempt to connect: its backlog is full, so the system drops what arrives.
struct Silent {
    _listener: TcpListener,
    _filled: Vec<TcpStream>,
}

impl Silent {
    /// At [`SILENT`], on this port.
    fn on(port: u16) -> Silent {
        let address = SocketAddr::new(SILENT, port);
        let _listener = h2::run(async {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind(address).expect("bound");
            socket.listen(0).expect("listens")
        });
        let mut _filled = Vec::new();
        while let Ok(connected) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
            _filled.push(connected);
        }
        Silent { _listener, _filled }
    }
}

fn address(host: IpAddr) -> SocketAddr {
    SocketAddr::new(host, 0)
}

/// `fastrac.test` is this machine's second address, which is silent, and its first.
fn silent_first(name: &str) -> Result<Vec<SocketAddr>, LookupError> {
    assert!(name.ends_with(".test"), "{name}");
    Ok(vec![address(SILENT), address([127, 0, 0, 1].into())])
}

/// Another address that accepts connections, of which nothing else comes.
struct Useless {
    accepted: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    Silent,
    Closes,
    Resets,
}

impl Useless {
    /// At [`SILENT`], on this port.
    fn on(port: u16, then: Then) -> Useless {
        let listener = std::net::TcpListener::bind((SILENT, port)).expect("bound");
        let accepted = Arc::new(AtomicUsize::new(0));
        let counted = accepted.clone();
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for mut socket in listener.incoming().flatten() {
                counted.fetch_add(1, SeqCst);
                match then {
                    Then::Silent => kept.push(socket),
                    // With nothing unread.
                    Then::Closes => drop(socket.read(&mut [0; 16 * 1024])),
                    Then::Resets => {
                        let _ = rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
                    }
                }
            }
        });
        Useless { accepted }
    }
}

#[test]
fn an_address_whose_tls_handshakes_fail_leaves_the_others_their_chance() {
    let certificates = Certificates::new();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, &certificates.authority).expect("written");
    let account = format!("ca = \"{}\"", file.display());
    for then in [Then::Silent, Then::Closes, Then::Resets] {
        let fastrac = Sandbox::start(Options { tls: Some(certificates.server()), ..sandbox() }).expect("a sandbox");
        let useless = Useless::on(fastrac.addr().port(), then);
        let both = |_: &str| Ok(vec![address(SILENT), address([127, 0, 0, 1].into())]);
        let gateway = Setup {
            base_url: Some(format!("https://localhost:{}", fastrac.addr().port())),
            account: Box::leak(account.clone().into_boxed_str()),
            connector: Connector::with_lookup(both),
            wait: false,
            ..Setup::default()
        }
        .start();
        until("a verified key pair", || fastrac.counters().requests > 0 && gateway.app().gateway.was_ready());
        let before = useless.accepted.load(SeqCst);
        assert!(before > 0, "{then:?}");
        is_quick(&gateway);
        // On a busy machine, it may be tried beside an address that is slow to accept.
        assert!(useless.accepted.load(SeqCst) < before + 6, "{then:?}: it is tried each time");
    }
}

fn is_quick(gateway: &TestGateway) {
    for _ in 0..6 {
        let began = Instant::now();
        // Each on a connection of its own, so that both workers open connections to Fastrac.
        let quote = post("/tariff/express", bodies::TARIFF).by("shop").header("x-gateway-timeout", "4000");
        let response = gateway.send(quote);
        assert_eq!(response.outcome(), "ok", "{response:?}");
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
}

#[test]
fn a_silent_address_of_fastrac_leaves_the_others_their_chance() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let _silent = Silent::on(fastrac.addr().port());
    let gateway = Setup {
        base_url: Some(format!("http://fastrac.test:{}", fastrac.addr().port())),
        account: "allow_cleartext = true",
        connector: Connector::with_lookup(silent_first),
        wait: false,
        ..Setup::default()
    }
    .start();
    until("a key pair", || gateway.app().gateway.was_ready());
    is_quick(&gateway);
}

/// However the request is served, and whoever waits for it.
#[test]
fn an_address_that_never_answers_is_unreachable_for_all_classes() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let _silent = Silent::on(fastrac.addr().port());
    let rows = ["city", "track", "tariff_express", "order_express"];
    let rows = rows.map(|row| format!("[operations.\"v2.{row}\"]\ntimeout = \"1s\"\n")).concat();
    let gateway = Setup {
        base_url: Some(format!("http://{SILENT}:{}", fastrac.addr().port())),
        more: rows.leak(),
        wait: false,
        ..Setup::default()
    }
    .start();
    until("a key pair", || gateway.app().gateway.was_ready());
    let requests = [
        get("/region/city?province_id=31"),
        get("/order/track"),
        post("/tariff/express", bodies::TARIFF),
        post("/order/express", bodies::ORDER),
    ];
    for request in requests.clone() {
        let response = gateway.send(request.by("shop"));
        let told = (response.status, response.code(), response.sent().to_owned());
        assert_eq!(told, (502, "upstream.connect".to_owned(), "no".to_owned()), "{response:?}");
    }
    // Nor does anybody whose own time ends before read that Fastrac may have executed it.
    for request in requests {
        let response = gateway.send(request.by("shop").header("x-gateway-timeout", "100"));
        assert_eq!(response.sent(), "no", "{response:?}");
        assert!(!response.text().contains("it may have"), "{response:?}");
    }
    // Nor does it matter who has begun the fetch.
    let all = Barrier::new(24);
    let joined: Vec<_> = std::thread::scope(|scope| {
        let lookup = || {
            all.wait();
            gateway.send(get("/region/city?province_id=32").by("shop"))
        };
        let requests: Vec<_> = (0..24).map(|_| scope.spawn(lookup)).collect();
        requests.into_iter().map(|request| request.join().expect("a response")).collect()
    });
    for response in joined {
        assert_eq!((response.status, response.code()), (502, "upstream.connect".to_owned()), "{response:?}");
    }
}

/// A link-local address without an interface: connect(2) fails at once (EINVAL, as with a `blackhole` route).
#[test]
fn what_this_host_refuses_at_once_is_no_fault_of_fastrac() {
    let base_url = Some("http://[fe80::1]:8080".to_owned());
    let gateway = Setup { base_url, account: "allow_cleartext = true", wait: false, ..Setup::default() }.start();
    until("a key pair", || gateway.app().gateway.was_ready());
    for number in 0..30 {
        for request in [get("/order/track"), post("/order/express", &bodies::order(number))] {
            let response = gateway.send(request.by("shop"));
            let told = (response.status, response.code(), response.sent().to_owned());
            assert_eq!(told, (503, "gateway.overloaded".to_owned(), "no".to_owned()), "{response:?}");
        }
    }
}

#[test]
fn a_silent_address_of_a_proxy_leaves_the_others_their_chance() {
    let proxy = crate::connects_through_proxies::Proxy::start();
    let _silent = Silent::on(proxy.addr.port());
    let account = format!("proxy = \"http://proxy.test:{}\"", proxy.addr.port());
    let connector = Connector::with_lookup(silent_first);
    let gateway = Setup { account: Box::leak(account.into_boxed_str()), connector, ..Setup::default() }.start();
    is_quick(&gateway);
}

/// A name service that knows `good.test`, and `late.test` unless lookups hang. No other name exists.
#[derive(Clone, Default)]
struct NameService {
    /// Whether the lookups of all names but `good.test` hang.
    hangs: Arc<AtomicBool>,
    /// Lookups of these names that run now, and all that were started.
    running: Arc<AtomicUsize>,
    started: Arc<AtomicUsize>,
}

impl NameService {
    fn lookup(&self, name: &str) -> Result<Vec<SocketAddr>, LookupError> {
        if name == "good.test" {
            return Ok(vec![address([127, 0, 0, 1].into())]);
        }
        self.started.fetch_add(1, SeqCst);
        self.running.fetch_add(1, SeqCst);
        while self.hangs.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.running.fetch_sub(1, SeqCst);
        match name {
            "late.test" => Ok(vec![address([127, 0, 0, 1].into())]),
            _ => Err(LookupError::NoAddress("no such name".into())),
        }
    }

    fn connector(&self) -> Connector {
        let own = self.clone();
        Connector::with_lookup(move |name| own.lookup(name))
    }

    /// A gateway whose operations of `v2` go to a name that is known, and those of `v1` to one that is not.
    fn gateway(&self, fastrac: &Sandbox) -> TestGateway {
        let port = fastrac.addr().port();
        let account = format!("allow_cleartext = true\nv1 = {{ base_url = \"http://bad.test:{port}\" }}");
        let gateway = Setup {
            base_url: Some(format!("http://good.test:{port}")),
            account: Box::leak(account.into_boxed_str()),
            breaker: "minimum = 3, failures = 0.1, open = \"1m\"",
            budget: "per_day = 1000",
            services: &[("other", "allow = [\"quote\"]")],
            connector: self.connector(),
            wait: false,
            ..Setup::default()
        }
        .start();
        until("a verified key pair", || fastrac.counters().requests > 0 && gateway.app().gateway.was_ready());
        gateway
    }
}

#[test]
fn a_lookup_that_hangs_is_a_fault_of_the_gateways_own() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let names = NameService::default();
    names.hangs.store(true, SeqCst);
    let mut gateway = names.gateway(&fastrac);
    let used = || sum(&gateway.admin("/metrics").text(), "budget_used", &[("window", "day")]);
    let before = used();
    let quote = || post("/apiTariff/tariffExpress", bodies::TARIFF_V1).by("shop").header("x-gateway-timeout", "300");
    let refused: Vec<_> = std::thread::scope(|scope| {
        // Fewer than there are places in flight.
        let requests: Vec<_> = (0..50).map(|_| scope.spawn(|| gateway.send(quote()))).collect();
        requests.into_iter().map(|request| request.join().expect("a response")).collect()
    });
    for response in &refused {
        assert_eq!((response.status, response.code().as_str(), response.sent()), (503, "gateway.overloaded", "no"));
        assert_eq!((response.outcome(), response.header("retry-after")), ("overloaded", Some("1")));
    }
    assert_eq!((names.running.load(SeqCst), names.started.load(SeqCst)), (1, 1), "one lookup for all");
    // It has cost nothing, says nothing about Fastrac, and is counted and logged like any request.
    assert_eq!(used(), before);
    assert_eq!(gateway.send(post("/tariff/express", bodies::TARIFF).by("other")).outcome(), "ok");
    let overloaded = [("operation", "v1.tariff_express"), ("outcome", "overloaded")];
    assert_eq!(gateway.metric("requests_total", &overloaded), 50.0);
    let line = gateway.line(refused[0].header("x-request-id").expect("an id"));
    assert_eq!((&line["code"], &line["sent"]), (&"gateway.overloaded".into(), &"no".into()));
    // A stop does not wait for it.
    let began = Instant::now();
    gateway.take_app().stop();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(names.running.load(SeqCst), 1);
    names.hangs.store(false, SeqCst);
}

#[test]
fn a_name_that_does_not_exist_is_a_fault_of_fastracs_side() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let names = NameService::default();
    let gateway = names.gateway(&fastrac);
    let codes: Vec<String> = (0..8)
        .map(|number| gateway.send(get(&format!("/apiRegion/city?province={number}")).by("shop")).code())
        .collect();
    assert_eq!(codes[0], "upstream.connect", "{codes:?}");
    assert_eq!(codes.last().map(String::as_str), Some("upstream.breaker"), "{codes:?}");
    // Kept for a moment: requests do not ask the name service one by one.
    assert!(names.started.load(SeqCst) < codes.len(), "{}", names.started.load(SeqCst));
}

#[test]
fn a_fault_of_the_gateways_own_does_not_decide_about_a_key_pair() {
    let fastrac = Sandbox::start(sandbox()).expect("a sandbox");
    let names = NameService::default();
    names.hangs.store(true, SeqCst);
    let gateway = Setup {
        base_url: Some(format!("http://late.test:{}", fastrac.addr().port())),
        account: "allow_cleartext = true",
        breaker: "minimum = 1, failures = 0.1, open = \"1m\"",
        connector: names.connector(),
        wait: false,
        ..Setup::default()
    }
    .start();
    // The first canary meets it, and is undecided: then the pair is used all the same.
    let quote = || post("/tariff/express", bodies::TARIFF).by("shop").header("x-gateway-timeout", "200");
    until("the pair is used", || gateway.send(quote()).code() == "gateway.overloaded");
    names.hangs.store(false, SeqCst);
    until("the name is known", || gateway.send(quote()).status == 200);
    let event = |event| gateway.metric("key_events_total", &[("event", event)]);
    until("the pair is verified", || event("verified") == 1.0);
    assert_eq!(event("refused"), 0.0);
    let metrics = gateway.admin("/metrics").text();
    assert_eq!(sum(&metrics, "breaker_state", &[("class", "lookup"), ("state", "closed")]), 1.0);
    assert_eq!(sum(&metrics, "breaker_transitions_total", &[]), 0.0);
}

/// The test that runs alone in its process, because it takes the process's descriptors away.
const ALONE: &str = "connects_despite_faults::without_descriptors";

#[test]
fn a_lack_of_descriptors_is_a_fault_of_the_gateways_own() {
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", ALONE, "--ignored", "--nocapture"])
        .output()
        .expect("started");
    let printed = String::from_utf8_lossy(&[child.stdout, child.stderr].concat()).into_owned();
    assert!(child.status.success() && printed.contains("1 passed"), "{printed}");
}

#[test]
#[ignore = "takes away the descriptors of its process; run by a_lack_of_descriptors_is_a_fault_of_the_gateways_own"]
fn without_descriptors() {
    let breaker = "minimum = 3, failures = 0.1, open = \"1m\"";
    let gateway = Setup { breaker, ..Setup::default() }.start();
    // Open, with no connection to Fastrac behind it.
    let mut connections = [gateway.connect(), gateway.connect()];
    for connection in &mut connections {
        assert_eq!(connection.send(&get("/region/province")).code(), "caller.unknown");
    }
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(3), maximum }).expect("set");
    for _ in 0..5 {
        for connection in &mut connections {
            let response = connection.send(&post("/tariff/express", bodies::TARIFF).by("shop"));
            assert_eq!((response.status, response.code().as_str(), response.sent()), (503, "gateway.overloaded", "no"));
            assert!(response.text().contains("Too many open files"), "{}", response.text());
        }
    }
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).expect("set");
    for connection in &mut connections {
        assert_eq!(connection.send(&post("/tariff/express", bodies::TARIFF).by("shop")).outcome(), "ok");
    }
}

#[test]
fn a_refused_connection_is_a_fault_of_fastracs() {
    let (_held, gone) = closed_port();
    let base_url = Some(format!("http://{gone}"));
    let gateway = Setup { breaker: "minimum = 3, failures = 0.1", base_url, wait: false, ..Setup::default() }.start();
    until("a key pair", || gateway.app().gateway.was_ready());
    let code = || gateway.send(post("/tariff/express", bodies::TARIFF).by("shop")).code();
    assert!(["upstream.connect", "upstream.breaker"].contains(&code().as_str()));
    until("the breaker opens", || code() == "upstream.breaker");
}
