//! What counts as a failure of Fastrac, for all services of its account: no response, or a server error. A response that
//! only its caller can make something of is neither, and whatever one service provokes leaves the circuit breaker closed
//! for the others.

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fastrac_sandbox::{Act, CannedResponse, Fault};

use crate::{
    bodies,
    client::{Request, Response, get, post},
    test_gateway::{Setup, TestGateway, sum, until},
};

/// An envelope, compressed with gzip (`echo '{"success":true}' | gzip -n`).
const COMPRESSED: &[u8] = &[
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0xab, 0x56, 0x2a, 0x2e, 0x4d, 0x4e, 0x4e, 0x2d, 0x2e,
    0x56, 0xb2, 0x2a, 0x29, 0x2a, 0x4d, 0xad, 0xe5, 0x02, 0x00, 0x21, 0x3f, 0xdd, 0x24, 0x11, 0x00, 0x00, 0x00,
];

/// What Fastrac, or something in front of it, may respond with instead of the envelope.
fn odd_responses() -> Vec<(&'static str, Act)> {
    let canned = |status: u16, fields: &[(&str, &str)], body: &[u8]| {
        Act::Answer(CannedResponse {
            status,
            headers: fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            body: STANDARD.encode(body),
            base64: true,
            execute: false,
        })
    };
    let json = &[("content-type", "application/json")];
    vec![
        ("a page of HTML", Act::Html(200)),
        ("gzip that was not requested", canned(200, &[("content-encoding", "gzip")], COMPRESSED)),
        ("gzip that does not say so", canned(200, json, COMPRESSED)),
        ("truncated JSON", canned(200, json, br#"{"success":tr"#)),
        ("an empty body", canned(200, json, b"")),
        ("success that is no boolean", canned(200, json, br#"{"success":"true"}"#)),
        ("success twice", canned(200, json, br#"{"success":true,"success":true}"#)),
        ("an array", canned(200, json, b"[]")),
        ("a PDF", canned(200, &[("content-type", "application/pdf")], b"%PDF-1.7\n%\xe2\xe3\xcf\xd3")),
        ("201 without a body", canned(201, &[], b"")),
        ("204", canned(204, &[], b"")),
        ("206", canned(206, &[], b"x")),
        ("a redirect", canned(302, &[("location", "https://elsewhere.example/")], b"")),
        ("304", canned(304, &[], b"")),
        ("an envelope after a byte order mark", canned(200, json, b"\xef\xbb\xbf{\"success\":true}")),
        ("a response longer than the gateway's limit", canned(200, json, &vec![b' '; 70_000])),
    ]
}

/// A gateway that has a short memory for responses, and the response that one service provokes.
struct Judged(TestGateway);

impl Judged {
    fn start(breaker: &'static str) -> Judged {
        let limits = "answer_buffer = \"32KiB\"\nanswer_body = \"64KiB\"";
        let services = &[("odd", "allow = [\"unlisted\"]"), ("usual", "allow = [\"quote\"]")];
        Judged(Setup { breaker, limits, services, ..Setup::default() }.start())
    }

    /// Requests of the service `odd`, which Fastrac answers like this.
    fn provoke(&self, act: Act, times: usize) -> Vec<Response> {
        self.0.sandbox.clear_faults();
        self.0.sandbox.fault(Fault::everywhere(act));
        let responses = (0..times).map(|_| self.0.send(get("/odd").by("odd"))).collect();
        self.0.sandbox.clear_faults();
        responses
    }

    /// Whether the breaker of unlisted requests is in this state.
    fn state(&self, state: &str) -> bool {
        breaker_of(&self.0, "unlisted", state)
    }
}

/// Whether the breaker of a class is in this state.
fn breaker_of(gateway: &TestGateway, class: &str, state: &str) -> bool {
    sum(&gateway.admin("/metrics").text(), "breaker_state", &[("class", class), ("state", state)]) == 1.0
}

#[test]
fn a_response_below_500_never_opens_the_breaker() {
    let judged = Judged::start("minimum = 3, failures = 0.01, open = \"1m\"");
    for (case, act) in odd_responses() {
        for response in judged.provoke(act, 4) {
            assert_ne!(response.outcome(), "breaker_open", "{case}");
        }
        assert!(judged.state("closed"), "{case}");
    }
    let usual = judged.0.send(post("/tariff/express", bodies::TARIFF).by("usual"));
    assert_eq!(usual.outcome(), "ok");
}

#[test]
fn a_server_error_opens_it_whatever_its_body() {
    for act in [Act::Html(503), Act::Html(500), Act::Html(599)] {
        let judged = Judged::start("minimum = 3, failures = 0.5, open = \"1m\"");
        judged.provoke(act, 4);
        assert!(judged.state("open"));
    }
}

#[test]
fn a_half_open_breaker_does_not_stay_so_for_lack_of_envelopes() {
    for (case, act) in odd_responses() {
        let judged = Judged::start("minimum = 3, failures = 0.5, open = \"100ms\", probes = 2");
        judged.provoke(Act::Html(503), 3);
        until("it is half-open", || !judged.state("open"));
        judged.provoke(act, 2);
        assert!(judged.state("closed"), "{case}");
    }
}

/// A request of each class, with its operation.
fn of_each_class() -> [(&'static str, &'static str, Request); 6] {
    let track = get("/order/track").json(r#"{"courier_code": "idx", "awb": "1"}"#);
    [
        ("lookup", "v2.city", get("/region/city?province_id=31").header("cache-control", "no-cache")),
        ("read", "v2.track", track),
        ("quote", "v2.tariff_express", post("/tariff/express", bodies::TARIFF)),
        ("order", "v2.order_express", post("/order/express", bodies::ORDER).header("x-gateway-resend", "confirmed")),
        ("account", "v2.webhook_get", get("/webhook/get")),
        ("unlisted", "unlisted", get("/odd")),
    ]
}

#[test]
fn a_breaker_of_one_class_stops_no_other() {
    // The canary has succeeded as a lookup.
    let breaker = "minimum = 2, failures = 0.6, open = \"1h\"";
    for (failing, operation, failed) in of_each_class() {
        let services: &[_] = &[(
            "all",
            "force_refresh = true\nallow = [\"lookup\", \"read\", \"quote\", \"order\", \"account\", \"unlisted\"]",
        )];
        let gateway = Setup { breaker, services, ..Setup::default() }.start();
        let fault = if operation == "unlisted" {
            Fault::everywhere(Act::Html(500))
        } else {
            Fault::on(operation, Act::Html(500))
        };
        gateway.sandbox.fault(fault);
        for _ in 0..2 {
            assert_eq!(gateway.send(failed.clone().by("all")).status, 500, "{failing}");
        }
        gateway.sandbox.clear_faults();
        for (class, _, request) in of_each_class() {
            let refused = gateway.send(request.by("all"));
            assert_eq!(
                refused.outcome() == "breaker_open",
                class == failing,
                "{class} while {failing} fails: {refused:?}"
            );
            if class == failing {
                let message = refused.json()["message"].as_str().unwrap_or_default().to_owned();
                assert!(message.contains(&format!("({class} requests); try again in 3600 s")), "{message}");
            }
            assert!(breaker_of(&gateway, class, if class == failing { "open" } else { "closed" }), "{class}");
        }
        let metrics = gateway.admin("/metrics").text();
        assert_eq!(sum(&metrics, "breaker_transitions_total", &[]), 1.0);
        assert_eq!(sum(&metrics, "breaker_transitions_total", &[("class", failing), ("state", "open")]), 1.0);
        assert_eq!(gateway.sandbox.counters().orders.duplicates, 0);
    }
}

#[test]
fn a_refused_key_and_a_limit_are_no_evidence_at_all() {
    // Half of the calls fail, if those are not counted; else few.
    for (case, act) in [
        ("401", Act::answer(401, r#"{"success": false, "message": "Unauthorized"}"#)),
        ("a key message", Act::answer(200, r#"{"success": false, "message": "Invalid access key"}"#)),
    ] {
        let judged = Judged::start("minimum = 2, failures = 0.9, open = \"1h\"");
        judged.provoke(act.clone(), 20);
        judged.provoke(Act::Html(500), 1);
        judged.provoke(act, 20);
        assert!(judged.state("closed"), "{case}");
        judged.provoke(Act::Html(500), 1);
        assert!(judged.state("open"), "{case}");
    }
    let judged = Judged::start("minimum = 2, failures = 0.9, open = \"1h\"");
    for last in [false, true] {
        judged.provoke(Act::answer(429, r#"{"success": false, "message": "Too Many Requests"}"#), 1);
        judged.0.wait_for_pauses();
        judged.provoke(Act::Html(500), 1);
        assert!(judged.state(if last { "open" } else { "closed" }));
    }
}

#[test]
fn slow_responses_open_the_breaker_if_they_are_counted() {
    let slow = "minimum = 3, open = \"100ms\", probes = 1, slow = { after = \"100ms\", part = 0.6 }";
    let judged = Judged::start(slow);
    let wait = |millis| {
        judged.0.sandbox.clear_faults();
        judged.0.sandbox.fault(Fault::everywhere(Act::Pass).wait(Duration::from_millis(millis)));
    };
    let send = || judged.0.send(get("/odd").by("odd")).outcome().to_owned();
    wait(0);
    send();
    wait(300);
    assert_eq!([send(), send()], ["rejected", "rejected"]);
    assert!(!judged.state("closed"));
    until("a slow probe opens it again", || {
        send();
        sum(&judged.0.admin("/metrics").text(), "breaker_transitions_total", &[("state", "open")]) >= 2.0
    });
    wait(0);
    until("a quick one closes it", || send() == "rejected" && judged.state("closed"));
}

/// Ends the callers also if the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn a_total_failure_gets_probes_and_nothing_else_and_ends_with_the_next_of_them() {
    const CALLERS: u64 = 8;
    let breaker = "minimum = 20, failures = 0.5, open = \"250ms\", probes = 3";
    let gateway = Setup { breaker, ..Setup::default() }.start();
    let entered = |state| {
        let labels = [("class", "quote"), ("state", state)];
        sum(&gateway.admin("/metrics").text(), "breaker_transitions_total", &labels) as u64
    };
    let failed = || gateway.received().iter().filter(|entry| entry.status == Some(503)).count() as u64;
    gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::Html(503)));
    let stopped = AtomicBool::new(false);
    let mut refused = thread::scope(|scope| {
        let caller = || {
            let (mut connection, mut refused) = (gateway.connect(), Vec::new());
            while !stopped.load(SeqCst) {
                let began = Instant::now();
                let response = connection.send(&post("/tariff/express", bodies::TARIFF).by("shop"));
                if response.outcome() == "breaker_open" {
                    refused.push(began.elapsed());
                    assert_eq!((response.status, response.header("retry-after")), (503, Some("1")));
                }
                thread::sleep(Duration::from_millis(2));
            }
            refused
        };
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(caller)).collect();
        let stop = StopOnDrop(&stopped);
        until("ten half-open periods", || entered("half_open") >= 10);
        gateway.sandbox.clear_faults();
        let before = entered("half_open");
        until("it closes", || entered("closed") == 1);
        let (periods, failed) = (entered("half_open"), failed());
        assert!(periods <= before + 1, "the next half-open period closes it: {before}, then {periods}");
        // Those that had to fail, those on their way meanwhile, and their second attempts.
        let (first, probes) = (20 + CALLERS + 10, 3 * periods);
        println!("{failed} requests failed at Fastrac, {probes} probes");
        assert!(failed * 10 <= first * 10 + probes * 11, "{failed} requests failed, {probes} probes");
        thread::sleep(Duration::from_millis(300));
        assert_eq!((entered("closed"), entered("half_open")), (1, periods), "it stays closed");
        drop(stop);
        callers.into_iter().flat_map(|caller| caller.join().expect("no panic")).collect::<Vec<_>>()
    });
    refused.sort();
    // Not the median, for the sake of a busy machine.
    let quartile = refused[refused.len() / 4];
    println!("{} requests refused, a quarter of them within {quartile:?}", refused.len());
    assert!(refused.len() as u64 > 10 * 3 * 3, "{}", refused.len());
    assert!(quartile <= Duration::from_millis(5), "{quartile:?}");
}
