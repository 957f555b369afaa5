//! Overrides and shadow mode, on simulated time.

use std::sync::atomic::AtomicI64;

use tokio::time::advance;

use super::*;
use crate::config::{QuotaConfig, Rate};

fn configured(per_second: u32, day: u64, enforce: bool) -> QuotaConfig {
    let second = Some(Rate { per_second, burst: per_second });
    QuotaConfig { second, day: Some(day), enforce }
}

fn clock() -> WallClock {
    WallClock::anchored("2026-11-24T02:00:00Z".parse().unwrap())
}

fn overridden(second: Option<u32>, day: Option<u64>, block: bool) -> Option<QuotaOverride> {
    let until = "2026-11-24T04:00:00Z".parse().unwrap();
    Some(QuotaOverride { second, day, block, until, reason: "sale".into() })
}

async fn use_one(quota: &Quota) -> Result<Option<LimitWindow>, Exceeded> {
    let mut claim = Claim::default();
    quota.check_block()?;
    quota.claim_second(&mut claim, Instant::now())?;
    quota.claim_day(&mut claim, Instant::now() + Duration::from_secs(1)).await?;
    claim.keep();
    Ok(claim.would_refuse())
}

fn limits(quota: &Quota) -> [Option<u64>; 2] {
    let usage = quota.usage();
    [usage.second, usage.day].map(|window| window.map(|window| window.limit))
}

#[tokio::test(start_paused = true)]
async fn an_override_ends_at_its_instant_and_survives_a_reload() {
    let quota = Quota::new(&configured(10, 5, true), &TimeZone::get("Asia/Jakarta").unwrap(), clock());
    use_one(&quota).await.unwrap();
    quota.set_override(overridden(Some(3), Some(1), false));
    assert_eq!(limits(&quota), [Some(3), Some(1)]);
    assert_eq!(quota.headers(Instant::now()).0.unwrap(), "\"second\";q=3;w=1, \"day\";q=1;w=86400");
    advance(Duration::from_secs(1)).await;
    let refused = use_one(&quota).await.unwrap_err();
    let Exceeded::Day { notice: Some(notice), .. } = refused else { panic!("{refused:?}") };
    assert_eq!(notice.to_string(), "set by the operators until 2026-11-24T11:00:00+07:00: sale");
    quota.reconfigure(&configured(20, 9, true));
    assert_eq!(limits(&quota), [Some(3), Some(1)]);
    advance(Duration::from_millis(2 * 3_600_000 - 1_001)).await;
    assert!(use_one(&quota).await.is_err(), "a millisecond before its end");
    advance(Duration::from_millis(1)).await;
    assert_eq!(limits(&quota), [Some(20), Some(9)]);
    assert_eq!(quota.usage().day.unwrap().left, 8, "the count is kept");
    advance(Duration::from_secs(1)).await;
    use_one(&quota).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_block_refuses_everything_until_it_ends() {
    for enforce in [true, false] {
        let quota = Quota::new(&configured(10, 5, enforce), &TimeZone::UTC, clock());
        quota.set_override(overridden(None, None, true));
        let refused = use_one(&quota).await.unwrap_err();
        let Exceeded::Blocked { retry_after, .. } = refused else { panic!("{refused:?}") };
        assert_eq!(retry_after, Duration::from_secs(7200));
        assert_eq!(quota.headers(Instant::now()).1.unwrap(), "\"day\";r=0;t=7200");
        quota.set_override(None);
        use_one(&quota).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn without_enforcement_everything_is_counted_and_nothing_refused() {
    let quota = Quota::new(&configured(2, 3, false), &TimeZone::UTC, clock());
    let mut used = Vec::new();
    for _ in 0..5 {
        used.push(use_one(&quota).await.unwrap());
    }
    let (second, day) = (Some(LimitWindow::Second), Some(LimitWindow::Day));
    assert_eq!(used, [None, None, second, second, second]);
    assert_eq!((quota.would_refuse(LimitWindow::Second), quota.would_refuse(LimitWindow::Day)), (3, 2));
    assert_eq!((quota.used_today(), quota.usage().day.unwrap().left), (5, 0));
    advance(Duration::from_secs(1)).await;
    assert_eq!(use_one(&quota).await, Ok(day));
    quota.reconfigure(&configured(2, 3, true));
    assert!(matches!(use_one(&quota).await, Err(Exceeded::Day { .. })), "what was counted counts");
}

/// The clock is ahead for a while: the override is over by it, and in force again when the clock has come back.
#[tokio::test(start_paused = true)]
async fn a_clock_that_was_ahead_ends_no_override_for_good() {
    let millis: &'static AtomicI64 = Box::leak(Box::default());
    let set = overridden(None, None, true).unwrap();
    let before = set.until.as_millisecond() - 1;
    millis.store(before, Ordering::Relaxed);
    let quota = Quota::new(&configured(10, 5, true), &TimeZone::UTC, WallClock::stepped(millis));
    quota.set_override(Some(set));
    assert!(quota.check_block().is_err());
    millis.fetch_add(3_600_000, Ordering::Relaxed);
    quota.check_block().unwrap();
    quota.reconfigure(&configured(20, 5, true));
    assert_eq!(limits(&quota), [Some(20), Some(5)]);
    millis.store(before, Ordering::Relaxed);
    assert!(quota.check_block().is_err());
}

/// With the day of a lowered quota used up, refusal, `RateLimit` and message name the end of the override, unless the
/// configured limit is used up too, or midnight is earlier.
#[tokio::test(start_paused = true)]
async fn a_lowered_day_frees_up_when_the_override_ends_or_at_midnight() {
    // It is 09:00 in Jakarta; the override ends at 11:00.
    let (two_hours, midnight) = (7_200, 54_000);
    for (configured_day, day, used, until, expected) in [
        (5, Some(1), 1, "2026-11-24T04:00:00Z", (two_hours, "2026-11-24T11:00:00+07:00")),
        (5, Some(2), 4, "2026-11-24T04:00:00Z", (two_hours, "2026-11-24T11:00:00+07:00")),
        (5, Some(2), 5, "2026-11-24T04:00:00Z", (midnight, "2026-11-25T00:00:00+07:00")),
        (3, Some(5), 5, "2026-11-24T04:00:00Z", (midnight, "2026-11-25T00:00:00+07:00")),
        (5, Some(1), 1, "2026-11-24T18:00:00Z", (midnight, "2026-11-25T00:00:00+07:00")),
        (1, None, 1, "2026-11-24T04:00:00Z", (midnight, "2026-11-25T00:00:00+07:00")),
        (5, Some(1), 1, "2026-11-24T02:00:00.4Z", (1, "2026-11-24T09:00:01+07:00")),
    ] {
        let quota = Quota::new(&configured(10, 9, true), &TimeZone::get("Asia/Jakarta").unwrap(), clock());
        for _ in 0..used {
            use_one(&quota).await.unwrap();
        }
        quota.reconfigure(&configured(10, configured_day, true));
        let set = QuotaOverride { until: until.parse().unwrap(), ..overridden(Some(10), day, false).unwrap() };
        quota.set_override(Some(set));
        let (wait, at) = expected;
        for refused in [quota.owe_day(&mut Claim::default()).unwrap_err(), quota.check_day().unwrap_err()] {
            let Exceeded::Day { retry_after, resets_at, .. } = refused else { panic!("{refused:?}") };
            assert_eq!((retry_after.as_secs(), resets_at.to_string().as_str()), expected, "{day:?} {used} {until}");
        }
        let field = quota.headers(Instant::now()).1.unwrap();
        assert!(field.to_str().unwrap().ends_with(&format!("\"day\";r=0;t={wait}")), "{field:?} {at}");
        // Who waits so long is admitted, and was not a moment before.
        let wait = Duration::from_secs(wait).min(Duration::from_millis(if wait == 1 { 400 } else { u64::MAX }));
        advance(wait - Duration::from_millis(1)).await;
        assert!(quota.check_day().is_err(), "{day:?} {used} {until}");
        advance(Duration::from_millis(1)).await;
        quota.check_day().unwrap();
    }
}

/// A block that ends while the configured day is used up.
#[tokio::test(start_paused = true)]
async fn a_block_with_the_day_used_up_ends_at_midnight() {
    for (day, used, until, wait, at) in [
        (2, 1, "2026-11-24T04:00:00Z", 7_200, "2026-11-24T11:00:00+07:00"),
        (2, 2, "2026-11-24T04:00:00Z", 54_000, "2026-11-25T00:00:00+07:00"),
        (2, 2, "2026-11-25T02:00:00Z", 86_400, "2026-11-25T09:00:00+07:00"),
    ] {
        let quota = Quota::new(&configured(10, day, true), &TimeZone::get("Asia/Jakarta").unwrap(), clock());
        for _ in 0..used {
            use_one(&quota).await.unwrap();
        }
        let set = QuotaOverride { until: until.parse().unwrap(), ..overridden(None, None, true).unwrap() };
        quota.set_override(Some(set));
        let Exceeded::Blocked { retry_after, frees_at, .. } = quota.check_block().unwrap_err() else { panic!() };
        assert_eq!((retry_after.as_secs(), frees_at.to_string().as_str()), (wait, at));
        assert_eq!(quota.headers(Instant::now()).1.unwrap(), format!("\"day\";r=0;t={wait}").as_str());
        advance(Duration::from_secs(wait)).await;
        quota.check_block().unwrap();
        quota.check_day().unwrap();
    }
}

/// What was short may be there again when the refusal is written.
#[tokio::test(start_paused = true)]
async fn a_refusal_that_midnight_overtakes_names_no_other_day() {
    let quota = Quota::new(&configured(10, 1, true), &TimeZone::get("Asia/Jakarta").unwrap(), clock());
    use_one(&quota).await.unwrap();
    advance(Duration::from_secs(15 * 3_600)).await;
    let Exceeded::Day { retry_after, resets_at, .. } = quota.day_exceeded() else { panic!() };
    assert_eq!((retry_after.as_secs(), resets_at.to_string().as_str()), (1, "2026-11-25T00:00:00+07:00"));
}
