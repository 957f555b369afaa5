//! Fastrac's own limits, as the sandbox counts them: with direct requests and through the gateway.

use std::{sync::Arc, time::Duration};

use fastrac_sandbox::{CountedBy, Limit, Options, Window};

use super::{FaultSetup, plain, shared};
use crate::{
    bodies,
    client::post,
    test_gateway::{Setup, TWIN, TestGateway},
};

/// Time until midnight in Jakarta from the sandbox's clock: 2026-01-02 10:04:05.678.
const TO_MIDNIGHT: Duration = Duration::from_millis((13 * 3_600 + 55 * 60 + 54) * 1_000 + 322);

fn statuses(setup: &FaultSetup, times: usize) -> Vec<u16> {
    let send = || plain::send(setup.gateway.sandbox.addr(), &setup.direct());
    std::iter::repeat_with(send).take(times).map(|response| response.status).collect()
}

/// Outcomes of requests through the gateway; each must agree with its log line.
fn outcomes(setup: &FaultSetup, times: usize) -> Vec<String> {
    let send = || {
        setup.gateway.wait_for_pauses();
        let response = setup.gateway.send(setup.track().by("shop"));
        let line = setup.gateway.line(response.header("x-request-id").expect("an id"));
        assert_eq!((&line["outcome"], &line["sent"]), (&response.outcome().into(), &"yes".into()));
        assert_eq!(line["code"] == "upstream.limit", response.outcome() == "throttled");
        assert_eq!(response.sent(), "yes");
        response.outcome().to_owned()
    };
    std::iter::repeat_with(send).take(times).collect()
}

fn refused(gateway: &TestGateway, label: &str, window: Window) -> u64 {
    gateway.sandbox.counters().limited.get(&(Arc::from(label), window)).copied().unwrap_or(0)
}

#[test]
fn the_limit_per_second_is_counted_per_key() {
    let setup = FaultSetup::new();
    let limit = Limit { per_second: Some(3), by: CountedBy::Key, retry_after: true, ..Limit::default() };
    setup.gateway.sandbox.limit(vec![limit]);
    assert_eq!(statuses(&setup, 5), [200, 200, 200, 429, 429]);
    let throttled = setup.gateway.metric("requests_total", &[("outcome", "throttled")]);
    assert_eq!(outcomes(&setup, 5), ["ok", "ok", "ok", "throttled", "throttled"]);
    assert_eq!(setup.gateway.metric("requests_total", &[("outcome", "throttled")]) - throttled, 2.0);
    // Each key is counted separately, and the sandbox counts the refused requests.
    assert_eq!(refused(&setup.gateway, "direct", Window::Second), 2);
    assert_eq!(refused(&setup.gateway, "gateway", Window::Second), 2);
    setup.gateway.wait_for_pauses();
    let order = setup.gateway.send(post("/order/express", &bodies::order(1)).by("shop"));
    assert_eq!((order.status, order.outcome(), order.sent()), (429, "throttled", "yes"), "nothing was executed");
    assert_eq!(order.header("retry-after"), Some("1"));
    assert_eq!(setup.gateway.sandbox.counters().orders.express, 1, "only the order of the setup");
    setup.gateway.sandbox.advance(Duration::from_secs(1));
    assert_eq!((statuses(&setup, 1), outcomes(&setup, 1)), (vec![200], vec!["ok".to_owned()]));
}

#[test]
fn the_limit_per_day_resets_at_midnight_in_jakarta() {
    let setup = FaultSetup::new();
    setup.gateway.sandbox.limit(vec![Limit { per_day: Some(4), ..Limit::default() }]);
    assert_eq!(statuses(&setup, 2), [200, 200]);
    assert_eq!(outcomes(&setup, 3), ["ok", "ok", "throttled"], "both keys are one account");
    assert_eq!(statuses(&setup, 1), [429]);
    setup.gateway.sandbox.advance(TO_MIDNIGHT - Duration::from_millis(1));
    assert_eq!((statuses(&setup, 1), outcomes(&setup, 1)), (vec![429], vec!["throttled".to_owned()]));
    setup.gateway.sandbox.advance(Duration::from_millis(1));
    assert_eq!((statuses(&setup, 2), outcomes(&setup, 3)[2].as_str()), (vec![200, 200], "throttled"));
    assert_eq!(refused(&setup.gateway, "gateway", Window::Day), 3);
    assert_eq!(refused(&setup.gateway, "direct", Window::Day), 2);
}

#[test]
fn every_form_of_a_limit_response_is_recognised() {
    let limit = |status, message: &str| Limit {
        per_second: Some(0),
        by: CountedBy::Key,
        status,
        message: message.to_owned(),
        ..Limit::default()
    };
    let sandbox = Options { ..shared() };
    let gateway = Setup { sandbox, ..Setup::default() }.start();
    for (status, message, outcome) in [
        (200, "Rate limit exceeded", "throttled"),
        (403, "too many requests ", "throttled"),
        (503, "Try later", "upstream_error"),
        (400, "Quota", "rejected"),
    ] {
        gateway.sandbox.limit(vec![limit(status, message)]);
        let request = post("/item/multi-items", bodies::MULTI_ITEMS);
        let response = plain::send(gateway.sandbox.addr(), &request.clone().pair(TWIN.0, TWIN.1));
        assert_eq!((response.status, response.json()["message"].as_str()), (status, Some(message)));
        gateway.wait_for_pauses();
        let response = gateway.send(request.by("shop"));
        assert_eq!((response.status, response.outcome(), response.sent()), (status, outcome, "yes"), "{message}");
        assert_eq!(response.header("retry-after").is_some(), outcome == "throttled");
    }
}
