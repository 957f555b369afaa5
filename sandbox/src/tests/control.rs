//! The control address: what a test in another process can see and change.

use super::*;

fn both() -> (Sandbox, SocketAddr) {
    let control = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let clock = Clock::stepped_at(1_767_323_045_678);
    let sandbox = Sandbox::start(Options { control, clock, ..Options::default() }).unwrap();
    let at = sandbox.control_addr().unwrap();
    (sandbox, at)
}

fn status(sandbox: &Sandbox) -> u16 {
    ask(sandbox.addr(), "GET", "/region/province", "").status
}

#[test]
fn a_fault_is_set_counted_and_shown() {
    let (sandbox, at) = both();
    let fault = r#"{"operation": "v2.province", "times": 2, "every": 2, "act": {"html": 502}}"#;
    assert_eq!(ask(at, "POST", "/_sandbox/faults", fault).json()["id"], 1);
    assert_eq!([(); 3].map(|()| status(&sandbox)), [200, 502, 200]);
    let shown = ask(at, "GET", "/_sandbox/faults", "").json();
    let first = &shown["faults"][0];
    assert_eq!((&first["met"], &first["seen"], &first["fault"]["times"]), (&json!(1), &json!(3), &json!(1)));
    assert_eq!([(); 2].map(|()| status(&sandbox)), [502, 200]);
    let shown = ask(at, "GET", "/_sandbox/faults", "").json();
    assert_eq!((shown["faults"].as_array().unwrap().len(), &shown["spent"][0]["met"]), (0, &json!(2)));
    let counters = ask(at, "GET", "/_sandbox/counters", "").json();
    assert_eq!((&counters["faults"], &counters["acts"]["html"]), (&json!(2), &json!(2)));
    assert_eq!(ask(at, "POST", "/_sandbox/faults", r#"{"chance": 2}"#).status, 400);
}

#[test]
fn limits_are_set_count_and_are_shown() {
    let (sandbox, at) = both();
    let limits =
        r#"{"limits": [{"per_second": 2, "by": "key", "status": 503, "message": "Slow down", "retry_after": true}]}"#;
    assert_eq!(ask(at, "PUT", "/_sandbox/limits", limits).status, 200);
    assert_eq!([(); 3].map(|()| status(&sandbox)), [200, 200, 503]);
    let refused = ask(sandbox.addr(), "POST", "/order/express", &order());
    assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
    assert_eq!((refused.status, &refused.json()["message"]), (503, &json!("Slow down")));
    let counters = sandbox.counters();
    assert_eq!((counters.limited[&("sandbox".into(), limits::Window::Second)], counters.orders.express), (2, 0));
    let shown = ask(at, "GET", "/_sandbox/limits", "").json();
    assert_eq!(shown["limits"][0]["used"][0], json!({"key": "sandbox", "second": 2, "day": 2}));
    sandbox.advance(Duration::from_secs(1));
    assert_eq!(status(&sandbox), 200);
    assert_eq!(ask(at, "PUT", "/_sandbox/limits", r#"{"limits": [{}]}"#).status, 400);
    assert_eq!(ask(at, "DELETE", "/_sandbox/limits", "").json()["limits"], json!([]));
    assert_eq!([(); 3].map(|()| status(&sandbox)), [200, 200, 200]);
}

#[test]
fn a_pair_is_revoked_at_its_instant() {
    let (sandbox, at) = both();
    let revoke = r#"{"access_key": "sandbox-access", "at": "+10s"}"#;
    let shown = ask(at, "POST", "/_sandbox/keys/revoke", revoke).json();
    assert_eq!(
        shown["keys"][0],
        json!({"label": "sandbox", "access_key": "sandbox-access", "live": true, "until": "2026-01-02T03:04:15.678Z"})
    );
    sandbox.advance(Duration::from_millis(9_999));
    assert_eq!(status(&sandbox), 200);
    sandbox.advance(Duration::from_millis(1));
    assert_eq!(status(&sandbox), 401);
    let again = r#"{"label": "n", "access_key": "sandbox-access", "secret_key": "sandbox-secret", "revoke_at": "2026-01-03T00:00:00Z"}"#;
    assert_eq!(ask(at, "POST", "/_sandbox/keys", again).status, 200);
    assert_eq!(status(&sandbox), 200);
}

#[test]
fn a_pair_may_go_between_accept_and_answer() {
    for (execute, expected) in [(false, 401), (true, 200)] {
        let (sandbox, _) = both();
        sandbox.fault(Fault::on("v2.order_express", Act::Revoke { execute }).times(1));
        let seen = ask(sandbox.addr(), "POST", "/order/express", &order());
        assert_eq!((seen.status, sandbox.counters().orders.express), (expected, u64::from(execute)));
        assert_eq!(status(&sandbox), 401);
    }
}

#[test]
fn date_and_timestamp_are_the_sandboxs_time_and_wrong_on_request() {
    let (sandbox, _) = both();
    let seen = ask(sandbox.addr(), "GET", "/region/province", "");
    assert!(seen.head.contains("date: Fri, 02 Jan 2026 03:04:05 GMT"), "{}", seen.head);
    sandbox.fault(Fault { skew_ms: -3_600_000, ..Fault::everywhere(Act::Pass) });
    sandbox.fault(Fault { skew_ms: 86_400_000, ..Fault::everywhere(Act::Cut { after: 500_000, reset: false }) });
    for (head, stamp) in
        [("02 Jan 2026 02:04:05", "2026-01-02T02:04:05.678Z"), ("03 Jan 2026 03:04:05", "2026-01-03T03:04:05.678Z")]
    {
        let seen = ask(sandbox.addr(), "GET", "/region/province", "");
        assert!(seen.head.contains(head), "{}", seen.head);
        assert_eq!(seen.json()["timestamp"], stamp);
        sandbox.end_fault(1);
    }
}

#[test]
fn a_truncated_answer_is_good_http_and_no_json() {
    let (sandbox, _) = both();
    sandbox.fault(Fault::everywhere(Act::Truncate { after: 9 }));
    let seen = ask(sandbox.addr(), "GET", "/region/province", "");
    assert!(seen.head.contains("content-length: 9") && seen.body == br#"{"success"#, "{seen:?}");
}

#[test]
fn an_envelope_has_any_status_and_message_and_may_lie_of_an_execution() {
    let (sandbox, at) = both();
    let fault = r#"{"act": {"envelope": {"status": 200, "message": "Unauthorized", "execute": true}}}"#;
    ask(at, "POST", "/_sandbox/faults", fault);
    let seen = ask(sandbox.addr(), "POST", "/order/express", &order());
    assert_eq!((seen.status, &seen.json()["message"]), (200, &json!("Unauthorized")));
    assert_eq!((seen.json()["success"].clone(), sandbox.counters().orders.express), (json!(false), 1));
}

#[test]
fn the_metrics_are_told_as_text() {
    let (sandbox, at) = both();
    sandbox.fault(Fault::on("v2.order_express", Act::Lose).times(1));
    let _ = exchange(sandbox.addr(), &request("POST", "/order/express", BASIC, &order()));
    ask(sandbox.addr(), "POST", "/order/express", &order());
    let seen = ask(at, "GET", "/_sandbox/metrics", "");
    assert!(seen.head.contains("content-type: text/plain; version=0.0.4"), "{}", seen.head);
    let text = String::from_utf8(seen.body).unwrap();
    assert_eq!(text, sandbox.metrics());
    for line in [
        "fastrac_sandbox_orders_duplicate_total 1",
        "fastrac_sandbox_faults_met_total{act=\"lose\"} 1",
        "fastrac_sandbox_orders_executed_total{kind=\"express\"} 2",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn the_settings_file_sets_what_the_control_address_does() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sandbox.toml");
    let text = r#"
        keys = [{ label = "a", access_key = "sandbox-access", secret_key = "sandbox-secret", revoke_at = "2026-01-02T03:04:06Z" }]
        limits = [{ per_second = 3, status = 200, message = "Rate limit exceeded" }]
        [[faults]]
        operation = "v2.province"
        every = 2
        from = "+0s"
        delay = { percentiles = [[50, 1], [99.5, 2]] }
        act = { envelope = { status = 503, message = "x" } }
    "#;
    std::fs::write(&file, text).unwrap();
    let clock = Clock::stepped_at(1_767_323_045_678);
    let options = settings::load(&file, Options { clock, ..Options::default() }).unwrap();
    let sandbox = Sandbox::start(options).unwrap();
    assert_eq!([(); 3].map(|()| status(&sandbox)), [200, 503, 200]);
    assert_eq!(ask(sandbox.addr(), "GET", "/region/city?province_id=31", "").json()["message"], "Rate limit exceeded");
    sandbox.advance(Duration::from_millis(322));
    assert_eq!(ask(sandbox.addr(), "GET", "/region/city?province_id=31", "").status, 401);
    for wrong in
        ["limits = [{}]", "[[faults]]\nchance = 2.0", "[[faults]]\nfrom = \"soon\"", "[[faults]]\nact = { html = 9 }"]
    {
        std::fs::write(&file, wrong).unwrap();
        assert!(settings::load(&file, Options::default()).is_err(), "{wrong}");
    }
}

#[test]
fn a_fault_of_tls_closes_a_plain_connection_at_once_and_is_counted() {
    let (sandbox, at) = both();
    let fault = r#"{"act": {"tls": "refuse"}, "times": 2}"#;
    ask(at, "POST", "/_sandbox/faults", fault);
    for _ in 0..2 {
        // What was sent meanwhile makes the close a reset.
        assert!(
            exchange(sandbox.addr(), &request("GET", "/region/province", BASIC, ""))
                .map_or(true, |seen| seen.is_empty())
        );
    }
    assert_eq!((status(&sandbox), sandbox.counters().acts["tls"], sandbox.counters().requests), (200, 2, 1));
}
