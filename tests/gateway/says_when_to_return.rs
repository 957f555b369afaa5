//! `Retry-After` is the truth, to a second: a second earlier is too early, and then is not (contract, section 5).

use std::{
    thread,
    time::{Duration, Instant},
};

use fastrac_sandbox::{Act, Fault};
use jiff::{Timestamp, tz::TimeZone};

use crate::{
    bodies,
    client::{Request, Response, get, post},
    test_gateway::{Setup, TestGateway, until},
};

fn send(gateway: &TestGateway, service: &str) -> Response {
    gateway.send(post("/tariff/express", bodies::TARIFF).by(service))
}

fn retry_after(response: &Response) -> u64 {
    let seconds = response.header("retry-after").unwrap_or_else(|| panic!("{response:?}"));
    let seconds = seconds.parse().expect("whole seconds");
    let error = &response.json()["error"];
    assert_eq!(
        (error["retry"].as_str(), error["retry_after"].as_u64()),
        (Some("after"), Some(seconds)),
        "{response:?}"
    );
    seconds
}

/// Seconds until the next day begins in a zone.
fn until_midnight(zone: &str) -> u64 {
    let now = Timestamp::now().to_zoned_datetime(TimeZone::get(zone).expect("a zone"));
    let midnight = now.tomorrow().and_then(|day| day.start_of_day()).expect("a day");
    (midnight.timestamp() - now.timestamp()).as_secs_f64().ceil() as u64
}

#[test]
fn a_refusal_for_the_second_ends_when_it_says() {
    const POOR: &str = "quota = { per_second = 1, burst = 1 }\nallow = [\"quote\"]";
    const RICH: &str = "allow = [\"quote\"]";
    // Three tokens, one a second: what costs three is affordable again after three seconds.
    const DEAR: &str = "[operations.\"v2.tariff_express\"]\ncost = 3\n";
    let plenty = Setup::default().budget;
    let tight = "per_second = 1, burst = 3, in_flight = 8, max_wait = \"0s\"";
    let cases = [("quota.second", plenty, POOR, "", 1), ("budget.second", tight, RICH, DEAR, 3)];
    thread::scope(|scope| {
        for (code, budget, service, more, wait) in cases {
            scope.spawn(move || {
                let services: &'static _ = Box::leak(Box::new([("other", service)]));
                let gateway = Setup { budget, services, more, ..Setup::default() }.start();
                // The canary has used one token.
                thread::sleep(Duration::from_secs(1));
                assert_eq!(send(&gateway, "other").status, 200, "{code}");
                let began = Instant::now();
                let refused = send(&gateway, "other");
                assert_eq!((refused.code().as_str(), refused.sent()), (code, "no"), "{refused:?}");
                assert_eq!(retry_after(&refused), wait, "{code}");
                thread::sleep(Duration::from_millis(wait * 1_000 - 900).saturating_sub(began.elapsed()));
                if began.elapsed() < Duration::from_millis(wait * 1_000 - 300) {
                    assert_eq!(send(&gateway, "other").code(), code, "too early");
                }
                thread::sleep(Duration::from_secs(wait).saturating_sub(began.elapsed()));
                assert_eq!(send(&gateway, "other").status, 200, "{code}, {:?} later", began.elapsed());
            });
        }
    });
}

#[test]
fn a_refusal_for_the_day_ends_at_midnight() {
    const POOR: &str = "quota = { per_day = 1 }\nallow = [\"quote\"]";
    let services = &[("other", POOR)];
    let mut gateway = Setup { account: "day_zone = \"Asia/Jakarta\"", services, ..Setup::default() }.start();
    let check = |gateway: &TestGateway, code: &str| {
        let before = until_midnight("Asia/Jakarta");
        let refused = send(gateway, "other");
        let after = until_midnight("Asia/Jakarta");
        assert_eq!((refused.code().as_str(), refused.sent()), (code, "no"), "{refused:?}");
        // Unless midnight has just been.
        if after <= before {
            assert!((after..=before + 1).contains(&retry_after(&refused)), "{refused:?}, {before} s before midnight");
        }
    };
    assert_eq!(send(&gateway, "other").status, 200);
    check(&gateway, "quota.day");
    // The canary and that request.
    gateway.reload("per_day = 10000000", "per_day = 2");
    gateway.reload(POOR, "allow = [\"quote\"]");
    check(&gateway, "budget.day");
}

/// The clock releases the day's budget bit by bit: at two in the morning, a batch job gets what the clock has released
/// and the part that it may run ahead, and is told when the next unit comes.
#[test]
fn pacing_releases_the_day_bit_by_bit() {
    const PER_DAY: f64 = 864.0;
    const AHEAD: f64 = 0.01;
    let hour = i64::from(Timestamp::now().to_zoned_datetime(TimeZone::UTC).hour());
    // POSIX names have the opposite sign. Between -12 and 14 hours, one is at two o'clock.
    let offset = if 2 - hour < -12 { 26 - hour } else { 2 - hour };
    let zone = format!("Etc/GMT{}{}", if offset > 0 { '-' } else { '+' }, offset.abs());
    let account: &'static str = format!("day_zone = \"{zone}\"").leak();
    let budget = "per_second = 100000, burst = 100000, per_day = 864, in_flight = 8, max_wait = \"0s\", pace = 0.01";
    let services = &[("other", "allow = [\"quote\"]")];
    let gateway = Setup { account, budget, services, ..Setup::default() }.start();
    let released = || {
        let gone = 86_400.0 - until_midnight(&zone) as f64;
        (PER_DAY * (gone / 86_400.0 + AHEAD)).floor()
    };
    let before = released();
    let refused = (0..200).map(|_| send(&gateway, "other")).find(|response| response.status != 200).expect("a refusal");
    assert_eq!((refused.code().as_str(), refused.sent()), ("budget.day", "no"), "{refused:?}");
    assert!((1..=101).contains(&retry_after(&refused)), "one unit in 100 s: {refused:?}");
    let used = gateway.admin("/status").json()["accounts"]["main"]["budget"]["used_today"].as_f64().expect("a number");
    assert!(used >= before - 1.0 && used <= released() + 1.0, "{before} released, {used} used");
}

/// The day is used up and so is the second, of the service, of the account, or of both: the day is told, and nobody waits for
/// a token. A stored response needs no day, so it is the second that refuses it.
#[test]
fn of_several_limits_the_one_that_lasts_longest_is_told() {
    const PLENTY: &str = "per_second = 100000, burst = 100000, per_day = 100000, in_flight = 64, max_wait = \"20s\"";
    let zone = "Asia/Jakarta";
    let city = |number: u32| get(&format!("/region/city?province_id={number}"));
    let quote = |_| post("/tariff/express", bodies::TARIFF);
    type Asked<'a> = &'a dyn Fn(u32) -> Request;
    let cases: [(&str, &str, &str, Asked<'_>); 5] = [
        ("quota.day", "quota = { per_second = 1, burst = 2, per_day = 2 }", PLENTY, &quote),
        ("quota.day", "quota = { per_second = 1, burst = 2, per_day = 2 }", PLENTY, &city),
        (
            "quota.day",
            "quota = { per_second = 1, burst = 2, per_day = 2 }\ncharge_hits = { second = false, day = true }",
            PLENTY,
            &city,
        ),
        // One is the canary's.
        ("budget.day", "", "per_second = 1, burst = 3, per_day = 3, in_flight = 64, max_wait = \"20s\"", &quote),
        (
            "budget.day",
            "quota = { per_second = 1, burst = 2 }",
            "per_second = 100, burst = 100, per_day = 3, in_flight = 64",
            &quote,
        ),
    ];
    for (code, quota, budget, request) in cases {
        let services: &'static _ = Box::leak(Box::new([("other", quota)]));
        let account = "day_zone = \"Asia/Jakarta\"";
        let gateway = Setup { account, budget, services, ..Setup::default() }.start();
        for number in 11..13 {
            assert_eq!(gateway.send(request(number).by("other")).status, 200, "{code} {quota}");
        }
        let before = until_midnight(zone);
        let refused = gateway.send(request(13).by("other"));
        let after = until_midnight(zone);
        assert_eq!((refused.code().as_str(), refused.sent()), (code, "no"), "{quota}: {refused:?}");
        if after <= before {
            assert!((after..=before + 1).contains(&retry_after(&refused)), "{refused:?}, {before} s before midnight");
        }
        let line = gateway.line(refused.header("x-request-id").expect("an id"));
        assert_eq!(line["waited_ms"].as_u64().unwrap_or(0), 0, "{line}");
    }
    let services = &[("other", "quota = { per_second = 1, burst = 2, per_day = 1 }")];
    let gateway = Setup { services, ..Setup::default() }.start();
    for outcome in ["ok", "hit"] {
        assert_eq!(gateway.send(city(11).by("other")).outcome(), outcome);
    }
    let refused = (0..50).map(|_| gateway.send(city(11).by("other"))).find(|response| response.status != 200);
    assert_eq!(refused.map(|refused| (refused.code(), retry_after(&refused))), Some(("quota.second".to_owned(), 1)));
}

/// Whatever Fastrac's limit response names, its caller and all others are told when the account's pause ends, to a second, and
/// who comes then is admitted.
#[test]
fn a_pause_ends_when_it_was_told_to() {
    let budget = "per_second = 2, burst = 4, in_flight = 8, max_wait = \"0s\"";
    let services = &[("other", "allow = [\"quote\"]")];
    for named in [None, Some(0), Some(2)] {
        let gateway = Setup { budget, services, ..Setup::default() }.start();
        gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::throttle(named)).times(1));
        let throttled = send(&gateway, "other");
        let came = Instant::now();
        let wait: u64 = throttled.header("retry-after").and_then(|wait| wait.parse().ok()).expect("seconds");
        assert_eq!((throttled.outcome(), wait), ("throttled", named.unwrap_or(1).max(1)), "{throttled:?}");
        if named != Some(0) {
            let refused = send(&gateway, "other");
            assert_eq!((refused.code().as_str(), retry_after(&refused)), ("budget.second", wait), "{refused:?}");
        }
        thread::sleep(Duration::from_secs(wait).saturating_sub(came.elapsed()));
        assert_eq!(send(&gateway, "other").status, 200, "{named:?}: {:?} later", came.elapsed());
    }
}

/// The response to a request that was under way says that Fastrac may be called at once, but another one has demanded a pause.
#[test]
fn a_limit_response_in_a_pause_names_the_end_of_the_pause() {
    let budget = "per_second = 100, burst = 100, in_flight = 8, max_wait = \"0s\"";
    let gateway = Setup { budget, services: &[("other", "allow = [\"quote\"]")], ..Setup::default() }.start();
    let slow = Fault::on("v2.tariff_instant", Act::throttle(Some(0))).wait(Duration::from_secs(5));
    gateway.sandbox.fault(slow.times(1));
    gateway.sandbox.fault(Fault::on("v2.tariff_express", Act::throttle(Some(40))).times(1));
    thread::scope(|scope| {
        let slow = scope.spawn(|| gateway.send(post("/tariff/instant", bodies::TARIFF).by("other")));
        let in_flight = || gateway.admin("/status").json()["accounts"]["main"]["budget"]["in_flight"]["left"].clone();
        until("it is under way", || in_flight() == 7);
        assert_eq!(send(&gateway, "other").outcome(), "throttled");
        let slow = slow.join().expect("a response");
        let wait: u64 = slow.header("retry-after").and_then(|wait| wait.parse().ok()).expect("seconds");
        assert_eq!(slow.outcome(), "throttled");
        assert!((1..=40).contains(&wait) && wait > 1, "{slow:?}");
    });
}
