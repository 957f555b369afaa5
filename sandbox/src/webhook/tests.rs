//! Webhooks: when they are sent and retried by the sandbox's clock, and the effects of rules.

use super::*;
use crate::couriers;

const NOW: i64 = 1_767_323_045_678;

fn outbox(settings: WebhookSettings) -> Outbox {
    let url = Some("http://127.0.0.1:1/hook".to_owned());
    Outbox::new(Arc::new(WebhookSettings { url, ..settings }), 1, 0)
}

/// An event of order `number`, so many seconds later.
/// An event of an order, so many seconds after `NOW`.
fn record_step(outbox: &mut Outbox, number: u64, seconds: i64, step: Step) {
    let ids = OrderIds { number, at: NOW, instant: false };
    let courier = couriers::find("idx").unwrap();
    outbox.record(&OrderEvent { ids, courier, step, at: NOW + seconds * 1_000 });
}

/// Sends everything until `now`, each answered with a status; gives the bodies' statuses and times.
fn drain(outbox: &mut Outbox, now: i64, mut answer: impl FnMut(u64) -> u16) -> Vec<(String, i64)> {
    let mut sent = Vec::new();
    while let Some(job) = outbox.start_next(now, false) {
        let body: Value = serde_json::from_slice(&job.body).unwrap();
        sent.push((body["status"].as_str().unwrap().to_owned(), (job.at - NOW) / 1_000));
        let status = answer(job.id);
        outbox.finish(&job, AttemptResult::Answered(status, String::new()), None);
    }
    sent
}

fn rule(act: RuleAct) -> Rule {
    Rule { act, status: None, awb: None, times: Some(1), chance: None }
}

fn sent_under(act: RuleAct) -> Vec<(String, i64)> {
    let mut outbox = outbox(WebhookSettings::default());
    outbox.add_rule(rule(act));
    for (seconds, step) in [(0, Step::PendingPickup), (60, Step::Picked), (120, Step::Departed)] {
        record_step(&mut outbox, 1, seconds, step);
    }
    drain(&mut outbox, i64::MAX, |_| 200)
}

fn list(all: &[(&str, i64)]) -> Vec<(String, i64)> {
    all.iter().map(|(status, at)| ((*status).to_owned(), *at)).collect()
}

#[test]
fn the_last_address_wins_and_nonsense_changes_nothing() {
    let mut outbox = Outbox::new(Arc::default(), 1, 0);
    for url in ["http://a.test/x", "https://b.test/y"] {
        outbox.set(&Fields::of(&json!({"url": url})).unwrap()).unwrap();
    }
    for wrong in [
        json!({}),
        json!({"url": 1}),
        json!({"url": "ftp://c"}),
        json!({"url": "http://a b"}),
        json!({"url": "http://"}),
    ] {
        assert!(outbox.set(&Fields::of(&wrong).unwrap()).is_err(), "{wrong}");
    }
    assert_eq!(&outbox.get().data[..], br#"{"url":"https://b.test/y"}"#);
}

#[test]
fn without_an_address_nothing_is_kept() {
    let mut outbox = Outbox::new(Arc::default(), 1, 0);
    record_step(&mut outbox, 1, 0, Step::Picked);
    assert_eq!((outbox.counts().events, outbox.next_due()), (0, None));
}

#[test]
fn events_are_sent_in_order_at_their_times() {
    let mut outbox = outbox(WebhookSettings::default());
    record_step(&mut outbox, 1, 0, Step::PendingPickup);
    record_step(&mut outbox, 2, 5, Step::PendingPickup);
    record_step(&mut outbox, 1, 60, Step::Picked);
    assert!(!outbox.is_idle(NOW) && outbox.is_idle(NOW - 1));
    assert_eq!(drain(&mut outbox, NOW + 5_000, |_| 204), list(&[("PENDING_PICKUP", 0), ("PENDING_PICKUP", 5)]));
    assert_eq!(drain(&mut outbox, NOW + 60_000, |_| 200), list(&[("PICKED", 60)]));
    assert_eq!(outbox.counts().delivered, 3);
}

#[test]
fn on_request_events_are_lost_doubled_late_or_out_of_order() {
    assert_eq!(sent_under(RuleAct::Lose), list(&[("PICKED", 60), ("IN_TRANSIT", 120)]));
    let doubled = list(&[("PENDING_PICKUP", 0), ("PENDING_PICKUP", 0), ("PICKED", 60), ("IN_TRANSIT", 120)]);
    assert_eq!(sent_under(RuleAct::Duplicate), doubled);
    let late = list(&[("PICKED", 60), ("PENDING_PICKUP", 90), ("IN_TRANSIT", 120)]);
    assert_eq!(sent_under(RuleAct::Delay { by_ms: 90_000 }), late);
    let swapped = list(&[("PICKED", 60), ("PENDING_PICKUP", 60), ("IN_TRANSIT", 120)]);
    assert_eq!(sent_under(RuleAct::Reorder), swapped);
}

#[test]
fn a_reordered_event_that_nothing_follows_goes_after_an_hour() {
    let mut outbox = outbox(WebhookSettings::default());
    outbox.add_rule(rule(RuleAct::Reorder));
    record_step(&mut outbox, 1, 0, Step::Delivered);
    assert_eq!(drain(&mut outbox, i64::MAX, |_| 200), list(&[("DELIVERED", 3_600)]));
    record_step(&mut outbox, 1, 7_200, Step::Returned);
    assert_eq!(drain(&mut outbox, i64::MAX, |_| 200), list(&[("RETURNED", 7_200)]));
}

#[test]
fn rules_meet_what_they_name_and_are_used_up() {
    let mut outbox = outbox(WebhookSettings::default());
    let awb = OrderIds { number: 2, at: NOW, instant: false }.awb(1);
    outbox.add_rule(Rule { awb: Some(awb), status: Some("PICKED".into()), ..rule(RuleAct::Lose) });
    for (number, step) in [(1, Step::Picked), (2, Step::Departed), (2, Step::Picked), (2, Step::Picked)] {
        record_step(&mut outbox, number, 0, step);
    }
    assert_eq!(outbox.counts().lost, 1);
    assert_eq!(outbox.page(0, 10, None)["deliveries"][2]["state"], "lost");
    assert!(!outbox.end_rule(Some(1)) && outbox.end_rule(None));
}

#[test]
fn a_chance_is_met_by_the_seed() {
    let lost = |seed: u64| {
        let mut outbox = Outbox::new(
            Arc::new(WebhookSettings { url: Some("http://127.0.0.1:1".into()), ..WebhookSettings::default() }),
            seed,
            0,
        );
        outbox.add_rule(Rule { times: None, chance: Some(0.3), ..rule(RuleAct::Lose) });
        (0..1_000).for_each(|number| record_step(&mut outbox, number, 0, Step::Picked));
        outbox.counts().lost
    };
    assert!((200..400).contains(&lost(1)));
    assert_eq!(lost(1), lost(1));
    assert_ne!(lost(1), lost(2));
}

#[test]
fn what_is_refused_is_tried_again_and_then_given_up() {
    let mut outbox = outbox(WebhookSettings::default());
    record_step(&mut outbox, 1, 0, Step::Picked);
    let times: Vec<i64> = drain(&mut outbox, i64::MAX, |_| 500).into_iter().map(|(_, at)| at).collect();
    assert_eq!(times, [0, 10, 70, 670, 4_270]);
    assert_eq!((outbox.counts().failed, outbox.counts().attempts), (1, 5));
    let shown = outbox.page(0, 10, None)["deliveries"][0].clone();
    assert_eq!((&shown["state"], &shown["attempts"][4]["status"]), (&json!("failed"), &json!(500)));
    assert!(outbox.resend(1, NOW) && !outbox.resend(2, NOW));
    assert_eq!(drain(&mut outbox, NOW, |_| 200).len(), 1);
    assert_eq!(outbox.page(0, 10, None)["deliveries"][0]["state"], "delivered");
}

#[test]
fn what_cannot_be_sent_is_not_tried_again() {
    let mut outbox = outbox(WebhookSettings::default());
    record_step(&mut outbox, 1, 0, Step::Picked);
    let job = outbox.start_next(NOW, false).unwrap();
    assert!(!outbox.is_idle(NOW));
    outbox.finish(&job, AttemptResult::Undeliverable("no"), None);
    assert!(outbox.is_idle(i64::MAX) && outbox.counts().failed == 1);
}

#[test]
fn the_newest_are_kept_and_pushed_out_ones_are_counted() {
    let mut outbox = outbox(WebhookSettings { kept: 3, ..WebhookSettings::default() });
    outbox.add_rule(rule(RuleAct::Reorder));
    (0..10).for_each(|number| record_step(&mut outbox, number, 0, Step::Picked));
    assert_eq!((outbox.counts().dropped, outbox.queue.len(), outbox.held.len()), (7, 3, 0));
    assert_eq!(drain(&mut outbox, i64::MAX, |_| 200).len(), 3);
}

#[test]
fn an_attempt_from_before_a_reset_settles_nothing_after_it() {
    let mut old = outbox(WebhookSettings::default());
    record_step(&mut old, 1, 0, Step::Picked);
    let job = old.start_next(NOW, false).unwrap();
    let mut new = old.restarted();
    record_step(&mut new, 1, 0, Step::Picked);
    new.finish(&job, AttemptResult::Answered(200, String::new()), None);
    assert_eq!((new.counts().delivered, new.page(0, 1, None)["deliveries"][0]["state"].clone()), (0, json!("waiting")));
}
