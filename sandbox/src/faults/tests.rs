//! Which requests a fault applies to, how often, and which faults are rejected.

use bytes::Bytes;

use super::*;
use crate::route::{ApiVersion, OperationKind};

const TRACK: Option<Operation> = Some(Operation { version: ApiVersion::V2, kind: OperationKind::Track });

fn asked<'a>(operation: Option<Operation>, path: &'a str, key: Option<&'a str>) -> RequestSummary<'a> {
    RequestSummary { operation, path, key, at: 0 }
}

fn track() -> RequestSummary<'static> {
    asked(TRACK, "/order/track", None)
}

/// Which of 200 requests are met, one each second of the clock.
fn pattern(fault: Fault, seed: u64) -> Vec<bool> {
    let mut faults = Faults::new(seed);
    faults.add(fault, 0);
    (0..200).map(|second| faults.apply(&RequestSummary { at: second * 1_000, ..track() }).is_some()).collect()
}

#[test]
fn a_fault_meets_as_many_requests_as_it_says_in_order_of_adding() {
    let mut faults = Faults::default();
    let first = faults.add(Fault::on("v2.track", Act::Reset).times(2), 0);
    let second = faults.add(Fault::everywhere(Act::Close), 0);
    let numbers: Vec<u64> = (0..3).filter_map(|_| faults.apply(&track())).map(|met| met.number).collect();
    assert_eq!(numbers, [first, first, second]);
    assert_eq!(faults.apply(&asked(None, "/nowhere", None)).map(|met| met.number), Some(second));
    assert_eq!(
        (faults.times_applied(first), faults.times_applied(second), faults.times_applied(9)),
        (Some(2), Some(2), None)
    );
    let shown = faults.json();
    assert_eq!((&shown["faults"][0]["met"], &shown["spent"][0]["met"]), (&json!(2), &json!(2)));
    assert!(faults.remove(second) && !faults.remove(second) && !faults.remove(first));
    assert!(faults.apply(&track()).is_none());
}

#[test]
fn operation_path_and_key_must_all_match() {
    let mut faults = Faults::default();
    faults.add(Fault { path: Some("/order/track".into()), ..Fault::on("v2.track", Act::Reset) }.key("one"), 0);
    assert!(faults.apply(&track()).is_none());
    assert!(faults.apply(&asked(TRACK, "/apiOrder/trackingOrder", Some("one"))).is_none());
    assert!(faults.apply(&asked(None, "/order/track", Some("one"))).is_none());
    assert!(faults.apply(&asked(TRACK, "/order/track", Some("one"))).is_some());
}

#[test]
fn chance_meets_its_part_and_the_same_ones_for_the_same_seed() {
    let fault = || Fault { chance: Some(0.3), ..Fault::everywhere(Act::Reset) };
    let met = pattern(fault(), 1);
    let count = met.iter().filter(|met| **met).count();
    assert!((40..80).contains(&count), "{count} of 200");
    assert_eq!(met, pattern(fault(), 1));
    assert_ne!(met, pattern(fault(), 2));
    for (chance, all) in [(0.0, false), (1.0, true)] {
        let met = pattern(Fault { chance: Some(chance), ..Fault::everywhere(Act::Reset) }, 1);
        assert!(met.iter().all(|met| *met == all));
    }
}

#[test]
fn who_chance_spares_may_meet_the_next_fault() {
    let mut faults = Faults::new(1);
    faults.add(Fault { chance: Some(0.5), ..Fault::everywhere(Act::Reset) }, 0);
    faults.add(Fault::everywhere(Act::Close), 0);
    let numbers: Vec<u64> = (0..50).filter_map(|_| faults.apply(&track())).map(|met| met.number).collect();
    assert_eq!(numbers.len(), 50);
    assert!(numbers.contains(&1) && numbers.contains(&2));
}

#[test]
fn every_nth_and_a_time_of_the_clock_are_schedules() {
    let met = pattern(Fault { every: Some(3), ..Fault::everywhere(Act::Reset) }, 1);
    assert!(met.iter().enumerate().all(|(position, met)| *met == (position % 3 == 2)));
    let (from, until) = (Some(When::In(50_000)), Some("1970-01-01T00:01:40Z".parse().unwrap()));
    let met = pattern(Fault { from, until, ..Fault::everywhere(Act::Reset) }, 1);
    assert!(met.iter().enumerate().all(|(second, met)| *met == (50..100).contains(&second)));
    let met = pattern(Fault { from, until, every: Some(2), times: Some(3), ..Fault::everywhere(Act::Reset) }, 1);
    let seconds: Vec<usize> = (0..200).filter(|second| met[*second]).collect();
    assert_eq!(seconds, [51, 53, 55]);
}

#[test]
fn waits_are_drawn_anew_for_each_request_and_the_same_in_each_run() {
    let waits = || {
        let mut faults = Faults::new(7);
        let delay = Some(DelayDistribution::Uniform { least: 10, most: 1_000 });
        faults.add(Fault { delay, delay_ms: 5, wait_ms: 2, ..Fault::default() }, 0);
        (0..20).map(|_| faults.apply(&track()).unwrap()).map(|met| (met.wait, met.delay)).collect::<Vec<_>>()
    };
    let drawn = waits();
    assert_eq!(drawn, waits());
    assert!(drawn.iter().all(|(wait, delay)| *wait == 2 && (15..=1_005).contains(delay)));
    assert!(drawn.windows(2).any(|two| two[0] != two[1]));
}

#[test]
fn a_fault_of_tls_meets_connections_and_no_request() {
    let mut faults = Faults::default();
    faults.add(Fault::everywhere(Act::Tls(TlsFailure::Refuse)).times(1), 0);
    assert!(faults.apply(&track()).is_none());
    assert!(faults.apply_to_connection(0).is_some() && faults.apply_to_connection(0).is_none());
    faults.add(Fault::everywhere(Act::Reset), 0);
    assert!(faults.apply_to_connection(0).is_none());
}

#[test]
fn a_fault_of_the_upload_meets_a_head_where_it_is_the_first_one_due() {
    let reset = || Fault::everywhere(Act::ResetUpload { after: None });
    let mut faults = Faults::default();
    assert!(!faults.watches_uploads() && faults.apply_to_upload(&track()).is_none());
    let first = faults.add(Fault::everywhere(Act::Close).times(1), 0);
    let second = faults.add(Fault { every: Some(2), ..reset() }, 0);
    assert!(faults.watches_uploads());
    // Another fault comes before it; nothing is counted until the request is whole.
    assert!(faults.apply_to_upload(&track()).is_none() && faults.apply_to_upload(&track()).is_none());
    assert_eq!(faults.apply(&track()).map(|met| met.number), Some(first));
    // Its turn is the second: the first is looked at by its head, and counted when it is whole.
    assert!(faults.apply_to_upload(&track()).is_none());
    assert!(faults.apply(&track()).is_none());
    assert_eq!(faults.apply_to_upload(&track()).map(|met| met.number), Some(second));
    assert_eq!((faults.times_applied(first), faults.times_applied(second)), (Some(1), Some(1)));
}

#[test]
fn looking_at_heads_changes_nothing_of_who_is_met() {
    let faults = || {
        let mut faults = Faults::new(3);
        faults.add(Fault { chance: Some(0.3), ..Fault::everywhere(Act::Close) }, 0);
        faults.add(Fault { chance: Some(0.5), ..Fault::everywhere(Act::ResetUpload { after: None }) }, 0);
        faults.add(Fault { every: Some(3), ..Fault::everywhere(Act::Reset) }, 0);
        faults
    };
    let (mut whole, mut uploaded) = (faults(), faults());
    for _ in 0..200 {
        let by_head = uploaded.apply_to_upload(&track()).or_else(|| uploaded.apply(&track()));
        assert_eq!(by_head.map(|met| met.number), whole.apply(&track()).map(|met| met.number));
    }
    assert_eq!(uploaded.json(), whole.json());
}

#[test]
fn every_act_can_be_written_as_json_and_read_again() {
    for text in [
        r#"{"act": "lose"}"#,
        r#"{"act": "reset", "chance": 0.1}"#,
        r#"{"act": {"reset_upload": {}}}"#,
        r#"{"act": {"reset_upload": {"after": 0}}, "every": 2}"#,
        r#"{"act": "close", "every": 10}"#,
        r#"{"act": "lose_reset", "from": "+1m", "until": "2030-01-01T00:00:00Z"}"#,
        r#"{"act": "pass", "skew_ms": -3600000}"#,
        r#"{"act": {"answer": {"status": 429, "headers": [["retry-after", "3"]], "body": "x"}}}"#,
        r#"{"act": {"answer": {"status": 200, "body": "/w==", "base64": true}}}"#,
        r#"{"act": {"envelope": {"status": 200, "message": "Unauthorized"}}}"#,
        r#"{"act": {"html": 503}}"#,
        r#"{"act": {"throttle": {"retry_after": 7}}}"#,
        r#"{"act": {"throttle": {}}}"#,
        r#"{"act": {"revoke": {"execute": true}}}"#,
        r#"{"act": {"cut": {"after": 10}}, "times": 1, "operation": "v2.city"}"#,
        r#"{"act": {"truncate": {"after": 10}}}"#,
        r#"{"act": {"wrong_length": {"by": -3}}, "key": "k", "path": "/x"}"#,
        r#"{"act": {"drip": {"bytes": 1, "every_ms": 5}}, "delay_ms": 2, "wait_ms": 1}"#,
        r#"{"act": {"long": {"bytes": 100000}}}"#,
        r#"{"act": {"tls": "wrong_certificate"}, "times": 3}"#,
        r#"{"delay": {"uniform": {"least": 1, "most": 9}}}"#,
        r#"{"wait": {"exponential": {"mean": 20, "most": 100}}}"#,
        r#"{"delay": {"percentiles": [[50, 20], [99, 400]]}}"#,
    ] {
        let fault: Fault = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(check(&fault), Ok(()), "{text}");
        let again: Fault = serde_json::from_value(serde_json::to_value(&fault).unwrap()).unwrap();
        assert_eq!(again.act.name(), fault.act.name());
        assert_eq!(serde_json::to_value(&again).unwrap(), serde_json::to_value(&fault).unwrap());
    }
}

#[test]
fn what_could_never_be_is_refused() {
    for text in [
        r#"{"operation": "v2.nothing"}"#,
        r#"{"chance": 1.5}"#,
        r#"{"every": 0}"#,
        r#"{"times": 0}"#,
        r#"{"delay": {"uniform": {"least": 3, "most": 1}}}"#,
        r#"{"wait": {"percentiles": []}}"#,
        r#"{"act": {"answer": {"status": 99}}}"#,
        r#"{"act": {"answer": {"status": 200, "body": "!", "base64": true}}}"#,
        r#"{"act": {"answer": {"status": 200, "headers": [["a b", "c"]]}}}"#,
        r#"{"act": {"envelope": {"status": 600}}}"#,
        r#"{"act": {"html": 100}}"#,
        r#"{"act": {"drip": {"bytes": 0, "every_ms": 5}}}"#,
        r#"{"act": {"reset_upload": {"after": 16777217}}}"#,
        r#"{"act": {"tls": "refuse"}, "operation": "v2.city"}"#,
        r#"{"act": {"tls": "refuse"}, "delay_ms": 5}"#,
    ] {
        assert!(check(&serde_json::from_str(text).unwrap()).is_err(), "{text}");
    }
    for text in [
        r#"{"from": "soon"}"#,
        r#"{"acts": "lose"}"#,
        r#"{"act": "explode"}"#,
        r#"{"act": "reset_upload"}"#,
        r#"{"act": {"reset_upload": {"after": -1}}}"#,
    ] {
        assert!(serde_json::from_str::<Fault>(text).is_err(), "{text}");
    }
}

#[test]
fn a_padded_body_is_the_same_envelope_and_exactly_as_much_longer() {
    let body = Bytes::from_static(br#"{"success":true,"message":"","data":[1]}"#);
    let long = pad(&body, 1_000);
    assert_eq!(long.len(), body.len() + 1_000);
    let value: Value = serde_json::from_slice(&long).unwrap();
    assert_eq!(value["success"], true);
    assert_eq!(value["data"][0], 1);
}
