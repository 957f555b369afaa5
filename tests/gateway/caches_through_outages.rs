//! Lookups that were fetched once are answered while Fastrac fails, whatever way it fails in: marked, within their bound,
//! and in time. A bad response never replaces a good one, and nothing is fetched again at the expense of a caller.

use std::time::{Duration, Instant};

use fastrac_gateway::{admission::BudgetUsage, snapshot::Snapshot};
use fastrac_sandbox::{Act, CannedResponse, Fault, Sandbox};

use crate::{
    client::{Request, Response, get},
    test_gateway::{Setup, TestGateway, sandbox, until},
};

/// Stale after a tenth of a second; from a fifth on, Fastrac is asked first.
const SOON: &str =
    "[operations.\"v2.city\"]\ncache = { fresh = \"100ms\", stale_if_error = \"1h\", refresh_ahead = 1 }\n";

fn lookup(number: usize) -> Request {
    get(&format!("/region/city?province_id=31&n={number}"))
}

fn city(number: usize) -> Request {
    lookup(number).by("shop")
}

pub(crate) fn cache_status(response: &Response) -> &str {
    response.header("cache-status").expect("Cache-Status").strip_prefix("fastrac-gateway; ").expect("its name")
}

fn snapshot(gateway: &TestGateway) -> std::sync::Arc<Snapshot> {
    gateway.app().gateway.current.load_full()
}

fn budget(gateway: &TestGateway) -> BudgetUsage {
    snapshot(gateway).accounts[0].budget.usage()
}

/// Nothing waits to be refreshed, and nothing is being fetched.
fn is_idle(gateway: &TestGateway) -> bool {
    let snapshot = snapshot(gateway);
    snapshot.flights.is_empty() && snapshot.accounts[0].refreshes.is_empty()
}

/// Stores responses and lets them become so old that Fastrac is asked before they are used.
fn warm(gateway: &TestGateway, count: usize) -> Vec<Response> {
    let stored = (0..count).map(|number| gateway.send(city(number))).collect::<Vec<_>>();
    assert!(stored.iter().all(|response| cache_status(response) == "fwd=uri-miss; stored"), "{stored:?}");
    std::thread::sleep(Duration::from_millis(250));
    stored
}

fn busy() -> Act {
    Act::Answer(CannedResponse {
        status: 503,
        headers: vec![("retry-after".to_owned(), "7".to_owned())],
        body: r#"{"success": false, "message": "Busy"}"#.to_owned(),
        ..CannedResponse::default()
    })
}

/// Under these a response of 100 kB is too long.
pub(crate) const FAILURE_LIMITS: &str = "answer_buffer = \"32KiB\"\nanswer_body = \"64KiB\"";

/// How Fastrac fails, and the status that it responds with, if any.
pub(crate) fn failures() -> Vec<(Act, Option<u16>)> {
    vec![
        (Act::Html(500), Some(500)),
        (busy(), Some(503)),
        (Act::throttle(None), Some(429)),
        (Act::Html(200), Some(200)),
        (Act::answer(302, r#"{"success":true,"data":[]}"#), Some(302)),
        (Act::answer(200, r#"{"success":true,"data":[{"id":"#), Some(200)),
        (Act::answer(200, r#"{"success":false,"message":"no"}"#), Some(200)),
        (Act::answer(500, r#"{"success":false,"message":"Data not found"}"#), Some(500)),
        (Act::answer(401, r#"{"success":false,"message":"Unauthorized"}"#), Some(401)),
        (Act::Cut { after: 10, reset: false }, None),
        (Act::Reset, None),
        (Act::Long { bytes: 100_000 }, None),
    ]
}

/// Answers that may not be stored. All have `other` in their data.
fn unstorable() -> Vec<Act> {
    let long = |length| format!(r#"{{"success":true,"message":"","data":["other","{}"]}}"#, "x".repeat(length));
    vec![
        coded("gzip"),
        coded("identity, x-unknown"),
        Act::answer(200, "\u{feff}{\"success\":true,\"message\":\"\",\"data\":[\"other\"]}"),
        Act::answer(201, &long(1)),
        // Above an eighth of the cache, and above `answer_buffer`.
        Act::answer(200, &long(20_000)),
        Act::answer(200, &long(40_000)),
    ]
}

/// A good response that says that it is coded, and is not.
fn coded(codings: &str) -> Act {
    Act::Answer(CannedResponse {
        status: 200,
        headers: vec![("content-encoding".to_owned(), codings.to_owned())],
        body: r#"{"success": true, "data": ["other"]}"#.to_owned(),
        ..CannedResponse::default()
    })
}

/// Checks a stale response to a request with this number.
fn assert_stale(response: &Response, stored: &Response, case: &str) {
    assert_eq!((response.status, response.outcome()), (200, "stale"), "{case}: {response:?}");
    assert_eq!(response.body, stored.body, "{case}");
    assert!(response.header("age").is_some_and(|age| age.parse::<u64>().is_ok_and(|age| age < 60)), "{case}");
    assert_eq!((response.header("retry-after"), response.header("proxy-status")), (None, None), "{case}");
}

#[test]
fn every_way_of_failing_leaves_the_stored_responses() {
    let mut gateway = Setup { more: SOON, limits: FAILURE_LIMITS, account: "retries = 0", ..Setup::default() }.start();
    let failures = failures();
    let stored = warm(&gateway, failures.len() + 1);
    for (number, (act, status)) in failures.iter().enumerate() {
        let case = format!("{act:?}");
        gateway.sandbox.clear_faults();
        gateway.wait_for_pauses();
        gateway.sandbox.fault(Fault::on("v2.city", act.clone()));
        let response = gateway.send(city(number));
        assert_stale(&response, &stored[number], &case);
        let expected = status.map_or("fwd=stale".to_owned(), |status| format!("fwd=stale; fwd-status={status}"));
        assert_eq!(cache_status(&response), expected, "{case}");
        assert_ne!(response.sent(), "no", "{case}");
        // After a failure it is given at once, and nothing is sent.
        let before = gateway.received().len();
        let again = gateway.send(city(number));
        assert_stale(&again, &stored[number], &case);
        assert!(cache_status(&again).starts_with("hit; ttl=-"), "{case}: {again:?}");
        assert_eq!((again.sent(), gateway.received().len()), ("no", before), "{case}");
    }
    assert_eq!(gateway.metric("cache_requests_total", &[("result", "stale")]), 2.0 * failures.len() as f64);
    // Connections are refused.
    let last = failures.len();
    gateway.sandbox = Sandbox::start(sandbox()).expect("another");
    let response = gateway.send(city(last));
    assert_stale(&response, &stored[last], "refused");
    assert_eq!((cache_status(&response), response.sent()), ("fwd=stale", "no"));
}

/// What is stored is for failures: it hides no answer of a Fastrac in good health.
#[test]
fn an_answer_that_may_not_be_stored_is_given_rather_than_a_stale_response() {
    let more: &'static str = format!("[cache]\nmemory = \"128KiB\"\n{SOON}").leak();
    let gateway =
        Setup { more, limits: "answer_buffer = \"32KiB\"", account: "retries = 0", ..Setup::default() }.start();
    let stored = warm(&gateway, unstorable().len());
    for (number, act) in unstorable().into_iter().enumerate() {
        let case: String = format!("{act:?}").chars().take(200).collect();
        gateway.sandbox.clear_faults();
        gateway.sandbox.fault(Fault::on("v2.city", act));
        // Nor is it given because this could not replace it.
        for _ in 0..2 {
            let answer = gateway.send(city(number));
            assert_eq!((answer.outcome(), cache_status(&answer)), ("ok", "fwd=stale"), "{case}");
            assert!(answer.text().contains("other") && answer.header("age").is_none(), "{case}");
        }
        gateway.sandbox.clear_faults();
        gateway.sandbox.fault(Fault::on("v2.city", Act::Html(500)));
        assert_stale(&gateway.send(city(number)), &stored[number], &case);
    }
    assert_eq!(gateway.metric("cache_comparisons_total", &[]), 0.0, "nothing was replaced");
}

/// `not_found = "0ms"` means that it is never stored, not that it is never told.
#[test]
fn a_not_found_that_is_not_stored_takes_a_good_response_away() {
    let more: &'static str = SOON.replace("refresh_ahead", "not_found = \"0ms\", refresh_ahead").leak();
    let gateway = Setup { more, account: "retries = 0", ..Setup::default() }.start();
    let stored = warm(&gateway, 1);
    let missing = |status| Act::answer(status, r#"{"success":false,"message":"Data not found"}"#);
    gateway.sandbox.fault(Fault::on("v2.city", missing(503)));
    assert_stale(&gateway.send(city(0)), &stored[0], "an error of Fastrac's own");
    gateway.sandbox.clear_faults();
    gateway.sandbox.fault(Fault::on("v2.city", missing(404)).wait(Duration::from_secs(1)));
    until("it is asked again", || gateway.send(city(0)).outcome() != "stale");
    for _ in 0..2 {
        let gone = gateway.send(city(0));
        assert_eq!((gone.status, gone.outcome(), cache_status(&gone)), (404, "not_found", "fwd=uri-miss"));
    }
    assert_eq!(gateway.metric("cache_comparisons_total", &[("result", "changed")]), 1.0);
    gateway.sandbox.clear_faults();
    let back = gateway.send(city(0));
    assert_eq!((&back.body, cache_status(&back)), (&stored[0].body, "fwd=uri-miss; stored"));
}

/// The others got `fwd=stale; fwd-status=500` too, as if each had been forwarded.
#[test]
fn one_of_those_that_share_a_failed_fetch_was_forwarded() {
    let gateway = Setup { more: SOON, account: "retries = 0", ..Setup::default() }.start();
    let stored = warm(&gateway, 1);
    gateway.sandbox.fault(Fault::on("v2.city", Act::Html(500)).wait(Duration::from_millis(500)));
    let all = std::sync::Barrier::new(5);
    let mut told: Vec<String> = std::thread::scope(|scope| {
        let asks = || {
            all.wait();
            let answer = gateway.send(city(0));
            assert_eq!((answer.outcome(), &answer.body), ("stale", &stored[0].body));
            cache_status(&answer).to_owned()
        };
        let asking: Vec<_> = (0..5).map(|_| scope.spawn(asks)).collect();
        asking.into_iter().map(|one| one.join().expect("a response")).collect()
    });
    told.sort();
    let joined = "fwd=stale; collapsed; fwd-status=500";
    assert_eq!(told, [joined, joined, joined, joined, "fwd=stale; fwd-status=500"]);
}

/// Also those that join the fetch.
#[test]
fn all_that_wait_get_an_answer_that_may_not_be_stored() {
    let more: &'static str = SOON.replace("refresh_ahead", "not_found = \"0ms\", refresh_ahead").leak();
    let gateway = Setup { more, account: "retries = 0", ..Setup::default() }.start();
    warm(&gateway, 2);
    let missing = Act::answer(404, r#"{"success":false,"message":"Data not found"}"#);
    for (number, act, status) in [(0, coded("gzip"), 200), (1, missing, 404)] {
        gateway.sandbox.clear_faults();
        gateway.sandbox.fault(Fault::on("v2.city", act).wait(Duration::from_secs(1)));
        let before = gateway.received().len();
        let mut callers: Vec<_> = (0..5).map(|_| gateway.connect()).collect();
        callers.iter_mut().for_each(|caller| caller.write(&city(number).bytes()));
        let answers: Vec<_> = callers.iter_mut().map(|it| it.read_response("GET").expect("a response")).collect();
        assert!(answers.iter().all(|answer| answer.status == status), "{answers:?}");
        assert!(answers.iter().all(|answer| cache_status(answer).starts_with("fwd=stale")), "{answers:?}");
        assert_eq!(gateway.received().len(), before + 1);
    }
}

#[test]
fn a_good_response_replaces_a_stale_one() {
    let gateway = Setup { more: SOON, ..Setup::default() }.start();
    warm(&gateway, 1);
    let replaced = gateway.send(city(0));
    assert_eq!((replaced.outcome(), cache_status(&replaced), replaced.sent()), ("ok", "fwd=stale; stored", "yes"));
    assert_eq!(replaced.header("age"), None);
    assert_eq!(gateway.received().len(), 2);
}

/// Nobody asked for a coding, and the next caller could not read it.
#[test]
fn a_response_that_says_it_is_coded_is_passed_on_and_not_stored() {
    let gateway = TestGateway::new();
    for (number, (codings, is_stored)) in
        [("gzip", false), ("BR", false), ("identity, gzip", false), ("*", false), ("identity", true)]
            .into_iter()
            .enumerate()
    {
        gateway.sandbox.clear_faults();
        gateway.sandbox.fault(Fault::on("v2.city", coded(codings)));
        let response = gateway.send(city(number));
        assert_eq!((response.status, response.header("content-encoding")), (200, Some(codings)), "as Fastrac sent it");
        assert_eq!(cache_status(&response).ends_with("; stored"), is_stored, "{codings}");
        gateway.sandbox.clear_faults();
        assert_eq!(gateway.send(city(number)).outcome() == "hit", is_stored, "{codings}");
    }
}

/// Strict readers of JSON refuse it.
#[test]
fn a_response_that_begins_with_a_byte_order_mark_is_passed_on_and_not_stored() {
    let gateway = TestGateway::new();
    let body = "\u{feff}{\"success\":true,\"message\":\"\",\"data\":[]}";
    gateway.sandbox.fault(Fault::on("v2.city", Act::answer(200, body)));
    for _ in 0..2 {
        let response = gateway.send(city(0));
        assert_eq!((response.outcome(), cache_status(&response)), ("ok", "fwd=uri-miss"));
        assert_eq!(response.body, body.as_bytes(), "as Fastrac sent it");
    }
}

#[test]
fn a_refusal_by_the_gateway_leaves_the_stored_responses_too() {
    for (budget, breaker) in [
        // The canary takes one unit.
        ("per_day = 2", "minimum = 100000"),
        ("per_second = 1, burst = 1, max_wait = \"0s\"", "minimum = 100000"),
        ("per_day = 1000", "minimum = 1, failures = 0.1, open = \"1m\""),
    ] {
        let gateway = Setup { more: SOON, budget, breaker, account: "retries = 0", ..Setup::default() }.start();
        if budget.contains("burst") {
            until("a token", || budget_of_second(&gateway) >= 1);
        }
        let stored = warm(&gateway, 1);
        gateway.sandbox.fault(Fault::everywhere(Act::Html(500)));
        if breaker.contains("1m") {
            assert_eq!(gateway.send(city(1)).status, 500);
        }
        let before = gateway.received().len();
        let response = gateway.send(city(0));
        assert_stale(&response, &stored[0], budget);
        assert_eq!((cache_status(&response), response.sent()), ("fwd=stale", "no"), "{budget}");
        assert_eq!(gateway.received().len(), before, "{budget}");
    }
}

fn budget_of_second(gateway: &TestGateway) -> u64 {
    budget(gateway).bucket.expect("a limit").left
}

#[test]
fn a_services_own_limits_leave_them_too() {
    let services = &[
        ("small", "quota = { per_day = 1 }"),
        ("free", "quota = { per_second = 1, burst = 1 }\ncharge_hits = { second = false }"),
    ];
    let gateway = Setup { more: SOON, services, ..Setup::default() }.start();
    for service in ["small", "free"] {
        let request = |number| lookup(number).by(service);
        let stored = gateway.send(request(0));
        std::thread::sleep(Duration::from_millis(250));
        if service == "free" {
            gateway.send(request(7));
        }
        let response = gateway.send(request(0));
        assert_stale(&response, &stored, service);
        assert_eq!((cache_status(&response), response.sent()), ("fwd=stale", "no"), "{service}");
        // That says nothing of other services, and the response is fetched again behind its use.
        assert_ne!(gateway.send(city(0)).outcome(), "stale");
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// Nobody else asks for it.
#[test]
fn a_service_whose_quota_is_used_up_gets_no_ever_older_response() {
    let more = "[operations.\"v2.city\"]\ncache = { fresh = \"2s\", stale_if_error = \"1h\", refresh_ahead = 1 }\n";
    let services = &[("small", "quota = { per_day = 1 }")];
    let gateway = Setup { more, services, ..Setup::default() }.start();
    let ask = || gateway.send(lookup(0).by("small"));
    assert_eq!(ask().outcome(), "ok");
    // Beyond twice `fresh`, Fastrac is asked first.
    std::thread::sleep(Duration::from_millis(4_100));
    assert_eq!(ask().outcome(), "stale");
    until("it is fetched again", || ask().outcome() == "hit");
}

/// The service without a share is refused again and again; that with one still gets what its share pays for.
#[test]
fn a_budget_that_is_used_up_for_one_service_keeps_no_response_stale_for_another() {
    let services = &[("paid", "share = 0.5"), ("poor", "priority = \"low\"")];
    let budget = "per_second = 4, burst = 4, per_day = 1000000, max_wait = \"50ms\"";
    let gateway = Setup { more: SOON, services, budget, ..Setup::default() }.start();
    let mut others = (0..).map(|number| get(&format!("/region/district?city_id=3171&n={number}")).by("poor"));
    for _ in 0..2 {
        until("it is stored", || gateway.send(lookup(0).by("paid")).outcome() == "ok");
        until("the budget is used up for the service without a share", || {
            std::thread::sleep(Duration::from_millis(250));
            while gateway.send(others.next().expect("endless")).outcome() == "ok" {}
            let stale = gateway.send(lookup(0).by("poor"));
            (cache_status(&stale), stale.outcome(), stale.sent()) == ("fwd=stale", "stale", "no")
        });
        // Its next token is there within a second.
        assert_eq!(gateway.send(lookup(0).by("paid")).outcome(), "ok");
        // Its share is two requests a second.
        std::thread::sleep(Duration::from_millis(1500));
    }
}

#[test]
fn silence_costs_a_caller_two_seconds_or_its_own_time_and_the_next_ones_nothing() {
    let gateway = Setup { more: SOON, ..Setup::default() }.start();
    let stored = warm(&gateway, 2);
    gateway.sandbox.fault(Fault::on("v2.city", Act::Pass).wait(Duration::from_secs(6)).times(2));
    let timed = |request: Request| {
        let began = Instant::now();
        (gateway.send(request), began.elapsed())
    };
    let (impatient, time) = timed(city(0).header("x-gateway-timeout", "500"));
    assert_stale(&impatient, &stored[0], "an impatient caller");
    assert!(time < Duration::from_millis(500), "{time:?}");
    let (patient, time) = timed(city(1));
    assert_stale(&patient, &stored[1], "a patient caller");
    assert_eq!((cache_status(&patient), patient.sent()), ("fwd=stale", "unknown"));
    assert!(time >= Duration::from_secs(2) && time < Duration::from_secs(5), "{time:?}");
    let (next, time) = timed(city(1));
    assert!(cache_status(&next).starts_with("hit; ttl=-") && time < Duration::from_secs(1), "{next:?}");
    // The fills go on, and what they bring is stored.
    until("a fresh response", || gateway.send(city(1)).outcome() == "hit" || is_idle(&gateway));
    assert!(gateway.received().len() >= 4);
}

#[test]
fn a_stale_response_is_given_at_once_and_refreshed_behind_it() {
    let more = "[operations.\"v2.city\"]\ncache = { fresh = \"2s\", stale_if_error = \"1h\", refresh_ahead = 1 }\n";
    let gateway = Setup { more, ..Setup::default() }.start();
    let stored = gateway.send(city(0));
    until("it is stale", || gateway.send(city(0)).outcome() == "stale");
    until("it is fresh again", || gateway.send(city(0)).outcome() == "hit");
    assert_eq!(gateway.received().len(), 2);
    let refreshed = &gateway.received()[1];
    assert_eq!(refreshed.target(), "/region/city?n=0&province_id=31");
    let hit = gateway.send(city(0));
    assert_eq!(hit.body, stored.body);
    // It is the gateway's own spending.
    assert_eq!(gateway.metric("upstream_requests_total", &[("operation", "v2.city")]), 2.0);
}

#[test]
fn what_is_used_is_refreshed_ahead_from_spare_budget_only() {
    let more =
        "[operations.\"v2.city\"]\ncache = { fresh = \"1h\", stale_if_error = \"2h\", refresh_ahead = 0.00001 }\n";
    let budget_of = "per_second = 2, burst = 4, max_wait = \"0s\"";
    let gateway = Setup { more, budget: budget_of, ..Setup::default() }.start();
    until("a full burst", || budget_of_second(&gateway) == 4);
    gateway.send(city(0));
    // No refresh is younger.
    std::thread::sleep(Duration::from_millis(1050));
    // Three tokens are gone: the bucket is not full.
    for number in 1..=2 {
        gateway.send(city(number));
    }
    assert_eq!(gateway.send(city(0)).outcome(), "hit");
    until("a refresh", || gateway.received().len() == 4);
    assert!(budget_of_second(&gateway) >= 3, "it took one of four");
    until("it is over", || is_idle(&gateway));
    assert_eq!(gateway.received().len(), 4);
}

#[test]
fn a_refresh_takes_no_token_that_a_caller_waits_for() {
    let more =
        "[operations.\"v2.city\"]\ncache = { fresh = \"1h\", stale_if_error = \"2h\", refresh_ahead = 0.00001 }\n";
    let budget_of = "per_second = 4, burst = 4, max_wait = \"10s\"";
    let gateway = Setup { more, budget: budget_of, ..Setup::default() }.start();
    gateway.send(city(0));
    // No refresh is younger.
    std::thread::sleep(Duration::from_millis(1050));
    std::thread::scope(|scope| {
        let gateway = &gateway;
        for number in 1..=12 {
            scope.spawn(move || assert_eq!(gateway.send(city(number)).status, 200));
        }
        until("callers to wait", || budget(gateway).waiting >= 8);
        assert_eq!(gateway.send(city(0)).outcome(), "hit");
    });
    until("the refresh", || gateway.received().len() == 14);
    let received = gateway.received();
    assert_eq!(received[13].target(), "/region/city?n=0&province_id=31", "it was the last");
}

/// Also if the one that leads the fetch is of low priority and does not wait, and if Fastrac fails.
#[test]
fn a_thousand_cold_callers_make_one_call() {
    let services = &[("batch", "priority = \"low\"")];
    for (act, status, next) in [(Act::Pass, 200, "hit"), (Act::Html(500), 500, "upstream_error")] {
        let gateway = Setup { services, account: "retries = 0", ..Setup::default() }.start();
        gateway.sandbox.fault(Fault::on("v2.city", act).wait(Duration::from_secs(4)).times(2));
        let mut leader = gateway.connect();
        leader.write(&lookup(0).by("batch").header("x-gateway-timeout", "300").bytes());
        until("it leads", || gateway.received().len() == 1);
        let mut callers: Vec<_> = (0..1000).map(|_| gateway.connect()).collect();
        callers.iter_mut().for_each(|caller| caller.write(&city(0).bytes()));
        until("all wait", || gateway.metric("in_flight_requests", &[("service", "shop")]) == 1000.0);
        drop(leader);
        let mut statuses = callers.iter_mut().map(|caller| caller.read_response("GET").expect("a response").status);
        assert!(statuses.all(|shared| shared == status), "{status}");
        assert_eq!(gateway.received().len(), 1, "{status}");
        gateway.sandbox.clear_faults();
        gateway.sandbox.fault(Fault::on("v2.city", Act::Html(500)));
        assert_eq!(gateway.send(city(0)).outcome(), next);
    }
}

#[test]
fn an_outage_ends_without_a_herd() {
    let more = "[operations.\"v2.city\"]\ncache = { fresh = \"300ms\", stale_if_error = \"1h\" }\n";
    let budget = "per_second = 10, burst = 10, max_wait = \"100ms\"";
    let gateway = Setup { more, budget, account: "retries = 0", ..Setup::default() }.start();
    const COUNT: usize = 30;
    for number in 0..COUNT {
        until("it is stored", || gateway.send(city(number)).status == 200);
    }
    gateway.sandbox.fault(Fault::everywhere(Act::Html(503)));
    std::thread::sleep(Duration::from_millis(700));
    let all = || (0..COUNT).map(|number| gateway.send(city(number))).collect::<Vec<_>>();
    let outage = all();
    assert!(outage.iter().all(|response| response.status == 200 && response.outcome() == "stale"), "{outage:?}");
    gateway.sandbox.clear_faults();
    let (before, began) = (gateway.received().len(), Instant::now());
    while began.elapsed() < Duration::from_millis(900) {
        assert!(all().iter().all(|response| response.status == 200));
    }
    let calls = gateway.received().len() - before;
    assert!(calls <= 20, "{calls} calls in the first second");
    until("responses are fresh again", || all().iter().any(|response| response.outcome() == "hit"));
}

#[test]
fn an_operation_without_stale_responses_fails_as_before() {
    let more = "[operations.\"v2.city\"]\ncache = { fresh = \"100ms\", stale_if_error = \"0s\" }\n";
    let gateway = Setup { more, account: "retries = 0", ..Setup::default() }.start();
    warm(&gateway, 1);
    gateway.sandbox.fault(Fault::on("v2.city", Act::Html(500)));
    let response = gateway.send(city(0));
    assert_eq!((response.status, cache_status(&response)), (500, "fwd=uri-miss"));
}

#[test]
fn a_stale_response_is_gone_at_the_end_of_its_bound() {
    let more = "[operations.\"v2.city\"]\ncache = { fresh = \"100ms\", stale_if_error = \"400ms\" }\n";
    let gateway = Setup { more, account: "retries = 0", ..Setup::default() }.start();
    warm(&gateway, 1);
    gateway.sandbox.fault(Fault::on("v2.city", Act::Html(500)));
    std::thread::sleep(Duration::from_millis(200));
    let response = gateway.send(city(0));
    assert_eq!((response.status, cache_status(&response)), (500, "fwd=uri-miss"));
}

#[test]
fn the_callers_directives_decide_about_stale_responses() {
    let services = &[("fresh", "force_refresh = true")];
    let gateway = Setup { more: SOON, services, account: "retries = 0", ..Setup::default() }.start();
    let stored = warm(&gateway, 1).remove(0);
    gateway.sandbox.fault(Fault::on("v2.city", Act::Html(500)));
    let before = gateway.received().len();
    for control in ["only-if-cached", "max-stale", "max-stale=3600"] {
        let response = gateway.send(city(0).header("cache-control", control));
        assert_stale(&response, &stored, control);
        assert!(cache_status(&response).starts_with("hit; ttl=-"), "{control}: {response:?}");
    }
    until("what they asked for is over", || is_idle(&gateway));
    assert!(gateway.received().len() <= before + 1, "it is refreshed behind them, once");
    for (service, control) in
        [("shop", "max-stale=0"), ("fresh", "no-cache"), ("fresh", "max-age=0"), ("fresh", "min-fresh=0")]
    {
        let response = gateway.send(lookup(0).by(service).header("cache-control", control));
        assert_eq!((response.status, cache_status(&response)), (500, "fwd=stale"), "{control}");
    }
    let tag = stored.header("etag").expect("a tag");
    let known = gateway.send(city(0).header("if-none-match", tag));
    assert_eq!((known.status, known.outcome(), known.body.len()), (304, "stale", 0));
}

#[test]
fn a_forced_refresh_that_fails_is_told_so_and_takes_nothing_away() {
    let services = &[("fresh", "force_refresh = true")];
    let gateway = Setup { services, account: "retries = 0", ..Setup::default() }.start();
    let stored = gateway.send(city(0));
    for act in [Act::Html(500), Act::answer(500, r#"{"success":false,"message":"Data not found"}"#)] {
        gateway.sandbox.clear_faults();
        gateway.sandbox.fault(Fault::on("v2.city", act));
        let forced = gateway.send(lookup(0).by("fresh").header("cache-control", "no-cache"));
        assert_eq!((forced.status, cache_status(&forced)), (500, "fwd=request"));
        let hit = gateway.send(city(0));
        assert_eq!((hit.outcome(), hit.body == stored.body), ("hit", true));
    }
}

/// A `no-cache` request overtakes a fetch that was sent before it. What each brings is stored, unless it is older than what is.
#[test]
fn a_response_is_stored_although_a_newer_one_is_being_fetched() {
    let services = &[("fresh", "force_refresh = true")];
    let list = |name: &str| Act::answer(200, &format!(r#"{{"success":true,"message":"","data":["{name}"]}}"#));
    let seconds = Duration::from_secs;
    for (old, new, expected) in [
        ((list("old"), seconds(1)), (Act::Html(500), seconds(4)), "old"),
        ((list("old"), seconds(3)), (list("new"), seconds(0)), "new"),
    ] {
        let gateway = Setup { services, account: "retries = 0", ..Setup::default() }.start();
        let stored = || gateway.send(city(0).header("cache-control", "only-if-cached"));
        for (act, time) in [old, new] {
            gateway.sandbox.fault(Fault::on("v2.city", act).wait(time).times(1));
        }
        std::thread::scope(|scope| {
            let older = scope.spawn(|| gateway.send(city(0)));
            until("the first is sent", || gateway.received().len() == 1);
            let newer = scope.spawn(|| gateway.send(lookup(0).by("fresh").header("cache-control", "no-cache")));
            until("the second is sent", || gateway.received().len() == 2);
            until("one is stored", || stored().outcome() == "hit");
            assert!(!(older.is_finished() && newer.is_finished()), "the other is not over");
        });
        let hit = stored();
        assert!(hit.outcome() == "hit" && hit.text().contains(expected), "{hit:?}");
    }
}

#[test]
fn stale_responses_cost_what_hits_do_also_when_the_day_is_used_up() {
    let services = &[("small", "quota = { per_day = 1, per_second = 1, burst = 2 }")];
    let gateway = Setup { more: SOON, services, ..Setup::default() }.start();
    let request = || lookup(0).by("small");
    assert_eq!(gateway.send(request()).outcome(), "ok");
    std::thread::sleep(Duration::from_millis(250));
    let outcomes: Vec<_> = (0..20).map(|_| gateway.send(request()).outcome().to_owned()).collect();
    assert_eq!(outcomes[0], "stale");
    assert!(outcomes.iter().any(|outcome| outcome == "over_quota"), "{outcomes:?}");
}

#[test]
fn a_refresh_leaves_callers_half_of_the_places() {
    let more =
        "[operations.\"v2.city\"]\ncache = { fresh = \"1h\", stale_if_error = \"2h\", refresh_ahead = 0.00001 }\n";
    // One of them is kept for orders.
    let gateway = Setup { more, budget: "in_flight = 3", ..Setup::default() }.start();
    gateway.send(city(0));
    // No refresh is younger.
    std::thread::sleep(Duration::from_millis(1050));
    for operation in ["v2.province", "v2.city"] {
        gateway.sandbox.fault(Fault::on(operation, Act::Pass).wait(Duration::from_secs(2)).times(1));
    }
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| gateway.send(get("/region/province").by("shop")));
        until("a place is taken", || budget(&gateway).in_flight.left == 2);
        assert_eq!(gateway.send(city(0)).outcome(), "hit");
        let mut fewest = 3;
        until("it is over", || {
            fewest = budget(&gateway).in_flight.left.min(fewest);
            slow.is_finished()
        });
        assert_eq!(fewest, 2, "no refresh beside it");
    });
    until("the refresh", || gateway.received().len() == 3);
}

#[test]
fn the_time_that_fastrac_takes_is_a_part_of_the_age() {
    let gateway = TestGateway::new();
    gateway.sandbox.fault(Fault::on("v2.city", Act::Pass).wait(Duration::from_millis(2_100)).times(1));
    assert_eq!(gateway.send(city(0)).outcome(), "ok");
    let age: u64 = gateway.send(city(0)).header("age").expect("Age").parse().expect("seconds");
    assert!((2..60).contains(&age), "{age}");
}
