//! Fastrac's own limits, that really count: asked directly, and through the gateway.

use std::{sync::Arc, time::Duration};

use fastrac_sandbox::{CountedBy, Limit, Options, Window};

use super::{Scene, plain, shared};
use crate::{
    bodies,
    client::post,
    test_gateway::{Setup, Stage, TWIN},
};

/// To midnight in Jakarta from where the sandbox's clock stands: 2026-01-02 10:04:05.678.
const TO_MIDNIGHT: Duration = Duration::from_millis((13 * 3_600 + 55 * 60 + 54) * 1_000 + 322);

fn statuses(scene: &Scene, times: usize) -> Vec<u16> {
    let ask = || plain::ask(scene.stage.sandbox.addr(), &scene.direct());
    std::iter::repeat_with(ask).take(times).map(|seen| seen.status).collect()
}

/// Outcomes through the gateway, which agree with its log.
fn outcomes(scene: &Scene, times: usize) -> Vec<String> {
    let ask = || {
        let answer = scene.stage.ask(scene.track().by("shop"));
        let line = scene.stage.line(answer.header("x-request-id").expect("an id"));
        assert_eq!((&line["outcome"], &line["sent"]), (&answer.outcome().into(), &"yes".into()));
        assert_eq!(line["code"] == "upstream.limit", answer.outcome() == "throttled");
        assert_eq!(answer.sent(), "yes");
        answer.outcome().to_owned()
    };
    std::iter::repeat_with(ask).take(times).collect()
}

fn refused(stage: &Stage, label: &str, window: Window) -> u64 {
    stage.sandbox.counters().limited.get(&(Arc::from(label), window)).copied().unwrap_or(0)
}

#[test]
fn so_many_in_a_second_and_no_more() {
    let scene = Scene::new();
    let limit = Limit { per_second: Some(3), by: CountedBy::Key, retry_after: true, ..Limit::default() };
    scene.stage.sandbox.limit(vec![limit]);
    assert_eq!(statuses(&scene, 5), [200, 200, 200, 429, 429]);
    let throttled = scene.stage.metric("requests_total", &[("outcome", "throttled")]);
    assert_eq!(outcomes(&scene, 5), ["ok", "ok", "ok", "throttled", "throttled"]);
    assert_eq!(scene.stage.metric("requests_total", &[("outcome", "throttled")]) - throttled, 2.0);
    // Each key counts for itself, and the sandbox's own count says what was refused.
    assert_eq!(refused(&scene.stage, "direct", Window::Second), 2);
    assert_eq!(refused(&scene.stage, "gateway", Window::Second), 2);
    let order = scene.stage.ask(post("/order/express", &bodies::order(1)).by("shop"));
    assert_eq!((order.status, order.outcome(), order.sent()), (429, "throttled", "yes"), "nothing was executed");
    assert_eq!(order.header("retry-after"), Some("1"));
    assert_eq!(scene.stage.sandbox.counters().orders.express, 1, "the scene's own");
    scene.stage.sandbox.advance(Duration::from_secs(1));
    assert_eq!((statuses(&scene, 1), outcomes(&scene, 1)), (vec![200], vec!["ok".to_owned()]));
}

#[test]
fn so_many_in_a_day_of_jakarta_and_no_more() {
    let scene = Scene::new();
    scene.stage.sandbox.limit(vec![Limit { per_day: Some(4), ..Limit::default() }]);
    assert_eq!(statuses(&scene, 2), [200, 200]);
    assert_eq!(outcomes(&scene, 3), ["ok", "ok", "throttled"], "both keys are one account");
    assert_eq!(statuses(&scene, 1), [429]);
    scene.stage.sandbox.advance(TO_MIDNIGHT - Duration::from_millis(1));
    assert_eq!((statuses(&scene, 1), outcomes(&scene, 1)), (vec![429], vec!["throttled".to_owned()]));
    scene.stage.sandbox.advance(Duration::from_millis(1));
    assert_eq!((statuses(&scene, 2), outcomes(&scene, 3)[2].as_str()), (vec![200, 200], "throttled"));
    assert_eq!(refused(&scene.stage, "gateway", Window::Day), 3);
    assert_eq!(refused(&scene.stage, "direct", Window::Day), 2);
}

#[test]
fn a_refusal_may_look_like_anything() {
    let limit = |status, message: &str| Limit {
        per_second: Some(0),
        by: CountedBy::Key,
        status,
        message: message.to_owned(),
        ..Limit::default()
    };
    let sandbox = Options { ..shared() };
    let stage = Setup { sandbox, ..Setup::default() }.start();
    for (status, message, outcome) in [
        (200, "Rate limit exceeded", "throttled"),
        (403, "too many requests ", "throttled"),
        (503, "Try later", "upstream_error"),
        (400, "Quota", "rejected"),
    ] {
        stage.sandbox.limit(vec![limit(status, message)]);
        let asked = post("/item/multi-items", bodies::MULTI_ITEMS);
        let seen = plain::ask(stage.sandbox.addr(), &asked.clone().pair(TWIN.0, TWIN.1));
        assert_eq!((seen.status, seen.json()["message"].as_str()), (status, Some(message)));
        let answer = stage.ask(asked.by("shop"));
        assert_eq!((answer.status, answer.outcome(), answer.sent()), (status, outcome, "yes"), "{message}");
        assert_eq!(answer.header("retry-after").is_some(), outcome == "throttled");
    }
}
