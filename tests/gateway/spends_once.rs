//! Quotas and budgets are exact, also under concurrent requests.

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::TcpListener,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use fastrac_sandbox::{Act, Fault};

use crate::{
    bodies,
    client::{Request, find, get, post},
    test_gateway::{ACCESS, Setup, TestGateway, closed_port, until},
};

const CLIENTS: usize = 16;

/// All clients send requests as fast as they can; returns the number of successes and the other statuses.
fn send_from_all_clients(gateway: &TestGateway, service: &str, times: usize) -> (usize, Vec<u16>) {
    let good = AtomicUsize::new(0);
    let refused: Vec<u16> = std::thread::scope(|scope| {
        let send_all = || {
            let mut connection = gateway.connect();
            let statuses =
                (0..times).map(|_| connection.send(&post("/tariff/express", bodies::TARIFF).by(service)).status);
            let (mine, refused): (Vec<_>, Vec<_>) = statuses.partition(|status| *status == 200);
            good.fetch_add(mine.len(), Ordering::Relaxed);
            refused
        };
        let all: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(send_all)).collect();
        all.into_iter().flat_map(|one| one.join().expect("answers")).collect()
    });
    (good.into_inner(), refused)
}

#[test]
fn the_daily_quota_of_a_service_is_exact() {
    let gateway = Setup { services: &[("poor", "quota = { per_day = 101 }")], ..Setup::default() }.start();
    let (good, refused) = send_from_all_clients(&gateway, "poor", 20);
    assert_eq!((good, refused.len()), (101, CLIENTS * 20 - 101));
    assert!(refused.iter().all(|status| *status == 429));
    assert_eq!(gateway.received().len(), 101);
}

#[test]
fn the_daily_budget_of_an_account_is_exact() {
    let budget = "per_day = 78, in_flight = 64";
    let gateway = Setup { budget, ..Setup::default() }.start();
    let (good, refused) = send_from_all_clients(&gateway, "shop", 10);
    assert_eq!((good, refused.len()), (77, CLIENTS * 10 - 77), "the canary is one of them");
    assert!(refused.iter().all(|status| *status == 503));
    assert_eq!(gateway.sandbox.counters().requests, 78);
}

#[test]
fn the_rate_of_an_account_is_never_exceeded() {
    let began = Instant::now();
    let budget = "per_second = 100, burst = 10, in_flight = 64, max_wait = \"20ms\"";
    let gateway = Setup { budget, ..Setup::default() }.start();
    let (good, _) = send_from_all_clients(&gateway, "shop", 25);
    let most = 10.0 + 100.0 * began.elapsed().as_secs_f64();
    let received = gateway.sandbox.counters().requests;
    assert_eq!(received, good as u64 + 1);
    assert!(received as f64 <= most, "{received} of at most {most}");
    assert!(good >= 10, "the whole budget is granted: {good}");
}

#[test]
fn requests_in_flight_are_limited_and_the_others_wait() {
    let gateway = Setup { budget: "in_flight = 3, max_wait = \"10s\"", ..Setup::default() }.start();
    gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::Pass).wait(Duration::from_millis(15)));
    let ended = AtomicBool::new(false);
    let most = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0.0_f64;
            while !ended.load(Ordering::Relaxed) {
                most = most.max(gateway.metric("upstream_connections", &[("state", "active")]));
            }
            most
        });
        let (good, refused) = send_from_all_clients(&gateway, "shop", 4);
        ended.store(true, Ordering::Relaxed);
        assert_eq!((good, refused), (CLIENTS * 4, vec![]));
        watch.join().expect("a number")
    });
    assert!((2.0..=3.0).contains(&most), "{most} at once");
}

/// A Fastrac that responds to `count` requests, each on a connection of its own that then stays open, and closes all
/// of them when it is dropped.
struct FiniteFastrac {
    listener: TcpListener,
    kept: Vec<std::net::TcpStream>,
}

impl FiniteFastrac {
    fn respond(&mut self) {
        let (mut socket, _) = self.listener.accept().expect("a connection");
        let mut head = Vec::new();
        while find(&head, b"\r\n\r\n").is_none() {
            let mut piece = [0; 4096];
            let read = std::io::Read::read(&mut socket, &mut piece).expect("a request");
            head.extend_from_slice(&piece[..read]);
        }
        let body = r#"{"success":true,"message":"","data":[]}"#;
        let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        socket.write_all(response.as_bytes()).expect("sent");
        self.kept.push(socket);
    }
}

#[test]
fn what_was_never_sent_costs_nothing_of_the_day() {
    let mut fastrac = FiniteFastrac { listener: TcpListener::bind("127.0.0.1:0").expect("bound"), kept: Vec::new() };
    let base_url = Some(format!("http://{}", fastrac.listener.local_addr().expect("an address")));
    let services = &[("poor", "quota = { per_day = 1000 }\nallow = [\"lookup\", \"quote\", \"order\", \"unlisted\"]")];
    let gateway = Setup { base_url, services, wait: false, budget: "per_day = 1000", ..Setup::default() }.start();
    fastrac.respond();
    until("the key pair is verified", || gateway.app().gateway.was_ready());
    let used = || {
        let day = ("window", "day");
        let metrics = gateway.admin("/metrics").text();
        let used = |family, label| crate::test_gateway::sum(&metrics, family, &[label, day]);
        (used("budget_used", ("account", "main")), used("quota_used", ("service", "poor")))
    };
    for (number, (method, target)) in
        [("POST", "/tariff/express"), ("POST", "/order/express"), ("POST", "/anything")].iter().enumerate()
    {
        // A connection that is idle in the pool of the worker that has this client connection.
        let mut connection = gateway.connect();
        let request = || crate::client::request(method, target).json(&bodies::order(number)).by("poor");
        let first = std::thread::scope(|scope| {
            let first = scope.spawn(|| connection.send(&request()));
            fastrac.respond();
            first.join().expect("a response")
        });
        assert_eq!((first.status, first.sent()), (200, "yes"), "{target}");
        let before = used();
        fastrac.kept.clear();
        // The listener is closed too: neither the idle connection nor a new one can be used.
        let port = fastrac.listener.local_addr().expect("an address");
        drop(fastrac);
        let other = crate::client::request(method, &format!("{target}?again")).json(&bodies::order(number)).by("poor");
        let refused = connection.send(&other);
        assert_eq!((refused.code().as_str(), refused.sent()), ("upstream.connect", "no"), "{target}: {refused:?}");
        assert_eq!(used(), before, "{target}");
        fastrac = FiniteFastrac { listener: TcpListener::bind(port).expect("bound again"), kept: Vec::new() };
    }
}

/// A step that refuses a request after its quota of the second was taken.
struct LaterStep {
    /// Code of the refusal.
    code: &'static str,
    setup: Setup,
    /// Of service `poor`.
    prepare: fn(&TestGateway),
    request: fn(usize) -> Request,
}

/// `poor` has three requests and then one in a second, so of 20 at once all but three or four would be refused by the
/// quota of the second if those that a later step refuses cost anything. Nor do they cost anything of the service's day, the
/// account's second, its day or its places in flight.
#[test]
fn a_refusal_by_a_later_step_costs_nothing_of_any_limit() {
    fn quote(number: usize) -> Request {
        post(&format!("/tariff/express?{number}"), bodies::TARIFF)
    }
    const POOR: &str = "quota = { per_second = 1, burst = 3 }\nallow = [\"lookup\", \"quote\", \"order\"]";
    let setup = || Setup { services: &[("poor", POOR)], ..Setup::default() };
    let (_closed, address) = closed_port();
    let usual = |code, setup, prepare| LaterStep { code, setup, prepare, request: quote };
    let nothing = |_: &TestGateway| {};
    let steps = [
        usual(
            "quota.day",
            Setup {
                services: &[("poor", "quota = { per_second = 1, burst = 3, per_day = 1 }\nallow = [\"quote\"]")],
                ..setup()
            },
            |gateway| assert_eq!(gateway.send(quote(0).by("poor")).status, 200),
        ),
        usual("budget.day", Setup { budget: "per_day = 1", ..setup() }, nothing),
        usual("budget.second", Setup { budget: "per_second = 1, burst = 1, max_wait = \"0s\"", ..setup() }, nothing),
        usual("upstream.breaker", Setup { breaker: "minimum = 1, open = \"1h\"", ..setup() }, |gateway| {
            gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::Close).times(2));
            assert_eq!(gateway.send(quote(0).by("shop")).status, 502);
        }),
        usual(
            "upstream.connect",
            Setup { base_url: Some(format!("http://{address}")), wait: false, ..setup() },
            |gateway| until("a pair is in use", || gateway.app().gateway.was_ready()),
        ),
        usual(
            "budget.in_flight",
            Setup { budget: "per_second = 1000, burst = 1000, in_flight = 1, max_wait = \"0s\"", ..setup() },
            |gateway| {
                gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::Pass).wait(Duration::from_secs(4)).times(1));
                let mut connection = gateway.connect();
                connection.write(&quote(0).by("shop").bytes());
                until("the place is taken", || limits_left(gateway)["in flight"] == 0);
                // It stays open.
                std::mem::forget(connection);
            },
        ),
        usual("keys.unavailable", setup(), |gateway| {
            assert!(gateway.sandbox.revoke(ACCESS));
            until("the account is locked out", || gateway.send(quote(0).by("shop")).code() == "keys.unavailable");
        }),
        LaterStep {
            request: |_| get("/region/city?province_id=31").header("cache-control", "only-if-cached"),
            ..usual("cache.only", setup(), nothing)
        },
        LaterStep {
            request: |number| post("/order/express", &bodies::order(number)),
            ..usual("budget.day", Setup { budget: "per_day = 1", ..setup() }, nothing)
        },
        LaterStep {
            request: |number| get(&format!("/region/city?province_id={}", number + 11)),
            ..usual("budget.day", Setup { budget: "per_day = 1", ..setup() }, nothing)
        },
    ];
    for LaterStep { code, setup, prepare, request } in steps {
        let gateway = setup.start();
        prepare(&gateway);
        let mut connection = gateway.connect();
        let (before, received) = (limits_left(&gateway), gateway.sandbox.counters().requests);
        let codes: Vec<String> = (1..=20)
            .map(|number| connection.send(&request(number).by("poor")))
            .filter(|response| response.status >= 400)
            .map(|response| response.code())
            .collect();
        assert!(codes.len() >= 15 && codes.iter().all(|other| other == code), "{code}: {codes:?}");
        let served = 20 - codes.len() as i64;
        // Canaries of a lock-out are charged to the account too.
        let received = (gateway.sandbox.counters().requests - received) as i64;
        for (limit, left) in limits_left(&gateway) {
            // Tokens of the second come again, and a place is free again.
            let expected = match limit {
                "account's day" => before[limit] - received,
                "service's day" => before[limit] - served,
                _ => before[limit],
            };
            let is_left = if limit.ends_with("day") { left == expected } else { left >= expected - served };
            assert!(is_left, "{code}: {left} left of the {limit}, {} before, {served} served", before[limit]);
        }
    }
}

/// What is left of each limit of `poor` and its account; of those without a limit, what is used, as a negative number.
fn limits_left(gateway: &TestGateway) -> BTreeMap<&'static str, i64> {
    let status = gateway.admin("/status").json();
    let (service, budget) = (&status["services"]["poor"], &status["accounts"]["main"]["budget"]);
    let number = |value: &serde_json::Value| value.as_i64();
    let left = [
        ("service's second", number(&service["quota"]["second"]["left"])),
        ("service's day", number(&service["used_today"]).map(|used| -used)),
        ("account's second", number(&budget["second"]["left"])),
        ("account's day", number(&budget["used_today"]).map(|used| -used)),
        ("in flight", number(&budget["in_flight"]["left"])),
    ];
    left.into_iter().filter_map(|(limit, left)| Some((limit, left?))).collect()
}
