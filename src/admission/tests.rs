//! Promises of admission, on tokio's paused clock.
#![allow(clippy::disallowed_methods, reason = "tests have no drain to join")]

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use jiff::tz::TimeZone;
use proptest::prelude::*;
use tokio::time::{Instant, advance};

use super::{
    bucket::TokenBucket,
    day::{DayCounter, DayReservation, DayShortage},
    *,
};
use crate::config::{self, Priority, Rate};

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn wall(at: &str) -> WallClock {
    WallClock::anchored(at.parse().unwrap())
}

fn quota(rate: Option<(u32, u32)>, day: Option<u64>) -> config::QuotaConfig {
    config::QuotaConfig { second: rate.map(|(per_second, burst)| Rate { per_second, burst }), day, enforce: true }
}

/// Takes one request of the second and of the day.
fn use_one(quota: &Quota) {
    let mut claim = Claim::default();
    quota.claim_second(&mut claim, Instant::now()).unwrap();
    claim_day(quota, &mut claim).unwrap();
    claim.keep();
}

/// Takes one request of the day. Without a ledger, nothing is waited for.
fn claim_day(quota: &Quota, claim: &mut Claim) -> Result<(), Exceeded> {
    let taken = std::pin::pin!(quota.claim_day(claim, Instant::now()));
    match taken.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(taken) => taken,
        Poll::Pending => panic!("waits"),
    }
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

mod bucket {
    use crate::admission::tokens::InsufficientTokens;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_wait_that_is_said_is_enough_and_not_too_long() {
        let bucket = Arc::new(TokenBucket::new(Rate { per_second: 3, burst: 2 }, BucketStart::Unused));
        bucket.take(2, Instant::now()).unwrap().keep();
        let Err(InsufficientTokens::Until(wait)) = bucket.take(1, Instant::now()) else { panic!("took a third") };
        advance(wait - Duration::from_nanos(1)).await;
        assert!(bucket.take(1, Instant::now()).is_err());
        advance(Duration::from_nanos(1)).await;
        assert!(bucket.take(1, Instant::now()).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_is_never_zero() {
        let quota = Quota::new(&quota(Some((1000, 1)), None), &zone("UTC"), WallClock::system());
        let mut claim = Claim::default();
        quota.claim_second(&mut claim, Instant::now()).unwrap();
        let exceeded = quota.claim_second(&mut Claim::default(), Instant::now()).unwrap_err();
        assert_eq!(exceeded, Exceeded::Second { retry_after: Duration::from_secs(1), notice: None });
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_gives_no_burst_and_forgets_no_day() {
        let before = Quota::new(&quota(Some((10, 10)), Some(5)), &zone("UTC"), wall("2026-11-24T02:00:00Z"));
        use_one(&before);
        let used = before.usage();
        before.reconfigure(&quota(Some((10, 10)), Some(5)));
        assert_eq!(before.usage(), used);
        before.reconfigure(&quota(Some((20, 20)), Some(1)));
        let other = before;
        assert_eq!(other.usage().second.unwrap().left, 9, "what was left, and no burst");
        assert!(claim_day(&other, &mut Claim::default()).is_err());
        advance(Duration::from_secs(1)).await;
        assert_eq!(other.usage().second.unwrap().left, 20);
        other.reconfigure(&quota(Some((5, 2)), None));
        assert_eq!(other.usage().second.unwrap().left, 2);
        other.reconfigure(&quota(None, None));
        other.reconfigure(&quota(Some((20, 20)), None));
        assert_eq!(other.usage().second.unwrap().left, 0, "a limit that is new");
    }
}

mod day {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn restarts_at_midnight_of_the_zone() {
        let counter = DayCounter::new(Some(1), &zone("Asia/Jakarta"), wall("2026-11-24T16:59:59Z"));
        let held = counter.reserve(1).unwrap();
        assert!(counter.reserve(1).is_err());
        assert_eq!(counter.today().ends_in, 1);
        assert_eq!(counter.ends_at().to_string(), "2026-11-25T00:00:00+07:00");
        advance(Duration::from_millis(999)).await;
        assert!(counter.reserve(1).is_err());
        advance(Duration::from_millis(1)).await;
        counter.reserve(1).unwrap().keep();
        drop(held);
        assert_eq!(counter.today().used, 1, "yesterday's reservation is not given back to today");
        assert_eq!(counter.today().ends_in, 86_400);
    }

    #[tokio::test(start_paused = true)]
    async fn follows_days_of_23_and_25_hours_and_midnights_that_do_not_exist() {
        for (name, start, hours) in [
            ("Europe/Berlin", "2026-03-28T23:00:00Z", 23),
            ("Europe/Berlin", "2026-10-24T22:00:00Z", 25),
            // Chile's clocks go forward at midnight: the day begins at 01:00.
            ("America/Santiago", "2026-09-05T04:00:00Z", 24),
            ("America/Santiago", "2026-09-06T04:00:00Z", 23),
        ] {
            let counter = DayCounter::new(Some(10), &zone(name), wall(start));
            assert_eq!(counter.today().ends_in, hours * 3600, "{name} {start}");
            counter.reserve(10).unwrap().keep();
            advance(Duration::from_secs(hours * 3600 - 1)).await;
            assert!(counter.reserve(1).is_err(), "{name} {start}");
            advance(Duration::from_secs(1)).await;
            assert!(counter.reserve(1).is_ok(), "{name} {start}");
        }
    }

    #[test]
    fn concurrent_takers_get_exactly_the_limit() {
        let counter = DayCounter::new(Some(1000), &zone("UTC"), WallClock::system());
        let got: usize = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut got = 0;
                        for n in 0..1000 {
                            match counter.reserve(1) {
                                // Every third one is given back.
                                Ok(reserved) if n % 3 == 0 => drop(reserved),
                                Ok(reserved) => {
                                    reserved.keep();
                                    got += 1;
                                }
                                Err(_) => {}
                            }
                        }
                        got
                    })
                })
                .collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).sum()
        });
        // One that was given back at the very end may be left over.
        let rest = std::iter::from_fn(|| counter.reserve(1).ok().map(DayReservation::keep)).count();
        assert_eq!(got + rest, 1000);
        assert_eq!(counter.today().used, 1000);
    }

    proptest! {
        /// Compares the counter with a simple model, for reservations over several days that are kept or given back.
        #[test]
        fn counts_like_a_plain_model(
            limit in 1_u64..20,
            steps in prop::collection::vec((0_u64..20, 1_u32..4, any::<bool>(), 0_usize..8), 1..100),
        ) {
            paused().block_on(async {
                let counter = DayCounter::new(Some(limit), &zone("Asia/Jakarta"), wall("2026-01-01T00:00:00Z"));
                let (mut hours, mut day, mut used) = (7_u64, 0_u64, 0_u64);
                let mut held = Vec::new();
                for (hours_later, units, keep, drop_at) in steps {
                    advance(Duration::from_secs(hours_later * 3600)).await;
                    hours += hours_later;
                    if hours / 24 != day {
                        (day, used) = (hours / 24, 0);
                    }
                    match counter.reserve(units) {
                        Ok(reserved) => {
                            used += u64::from(units);
                            assert!(used <= limit);
                            if keep { reserved.keep() } else { held.push((day, units, reserved)) }
                        }
                        Err(DayShortage::NotLeased | DayShortage::Stalled) => panic!("there is no ledger"),
                        Err(DayShortage::Exhausted) => assert!(used + u64::from(units) > limit),
                    }
                    if drop_at < held.len() {
                        let (taken_on, units, reserved) = held.swap_remove(drop_at);
                        drop(reserved);
                        if taken_on == day { used -= u64::from(units) }
                    }
                    assert_eq!(counter.today().used, used);
                }
            });
        }
    }
}

mod headers {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn say_policy_and_what_is_left() {
        let quota =
            Quota::new(&quota(Some((50, 50)), Some(40_000)), &zone("Asia/Jakarta"), wall("2026-11-24T02:46:06Z"));
        assert_eq!(quota.headers(Instant::now()).0.unwrap(), "\"second\";q=50;w=1, \"day\";q=40000;w=86400");
        use_one(&quota);
        claim_day(&quota, &mut Claim::default()).unwrap();
        assert_eq!(quota.headers(Instant::now()).1.unwrap(), "\"second\";r=49;t=1, \"day\";r=39999;t=51234");
    }

    #[tokio::test(start_paused = true)]
    async fn are_absent_without_a_limit() {
        let quota = Quota::new(&quota(None, None), &zone("UTC"), WallClock::system());
        use_one(&quota);
        assert_eq!(
            (quota.headers(Instant::now()).0, quota.headers(Instant::now()).1, quota.used_today()),
            (None, None, 1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn hold_the_largest_numbers() {
        let quota = Quota::new(&quota(Some((u32::MAX, u32::MAX)), Some(u64::MAX)), &zone("UTC"), WallClock::system());
        assert!(quota.headers(Instant::now()).0.unwrap().to_str().unwrap().ends_with("q=999999999999999;w=86400"));
    }
}

mod crowd {
    use tokio::sync::Barrier;

    use super::*;

    const CALLERS: usize = 10_000;
    const LIMIT: u32 = 1_000;

    /// How many of the callers get something, all at once, on four threads.
    fn granted<F: Future<Output = bool> + Send + 'static>(take: impl Fn() -> F) -> u64 {
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
        threads.block_on(async {
            let all_there = Arc::new(Barrier::new(CALLERS));
            let callers: Vec<_> = (0..CALLERS)
                .map(|_| {
                    let (all_there, take) = (all_there.clone(), take());
                    tokio::spawn(async move {
                        all_there.wait().await;
                        take.await
                    })
                })
                .collect();
            let mut granted = 0;
            for caller in callers {
                granted += u64::from(caller.await.unwrap());
            }
            granted
        })
    }

    fn by_quota(second: Option<(u32, u32)>, day: Option<u64>) -> u64 {
        let quota = Arc::new(Quota::new(&quota(second, day), &zone("Asia/Jakarta"), WallClock::system()));
        granted(move || {
            let quota = quota.clone();
            async move {
                let mut claim = Claim::default();
                let taken = quota.claim_second(&mut claim, Instant::now()).is_ok()
                    && quota.claim_day(&mut claim, Instant::now() + Duration::from_secs(30)).await.is_ok();
                if taken {
                    claim.keep();
                }
                taken
            }
        })
    }

    fn by_budget(second: Option<Rate>, day: Option<u64>) -> u64 {
        let budget = config::BudgetConfig { second, day, in_flight: CALLERS, max_wait: Duration::ZERO, pace: None };
        let budget = Arc::new(Budget::new(&budget, &zone("Asia/Jakarta"), WallClock::system()));
        granted(move || {
            let budget = budget.clone();
            async move {
                let deadline = Instant::now() + Duration::from_secs(30);
                let (member, priority, urgency) = (BudgetMember::GATEWAY, Priority::Normal, Urgency::Usual);
                let request = BudgetRequest { member, cost: 1, priority, urgency, deadline };
                let spent = budget.spend(request, &Claim::default()).await;
                spent.map(|mut spent| spent.sent()).is_ok()
            }
        })
    }

    #[test]
    fn ten_thousand_callers_at_once_get_exactly_each_limit() {
        let limit = u64::from(LIMIT);
        assert_eq!((by_quota(None, Some(limit)), by_budget(None, Some(limit))), (limit, limit));
        // A token comes back each second.
        let exactly = |granted: u64, began: std::time::Instant| {
            let most = limit + began.elapsed().as_secs() + 1;
            assert!((limit..most).contains(&granted), "{granted} of {limit} to {most}");
        };
        let began = std::time::Instant::now();
        exactly(by_quota(Some((1, LIMIT)), None), began);
        let began = std::time::Instant::now();
        exactly(by_budget(Some(Rate { per_second: 1, burst: LIMIT }), None), began);
    }
}

#[test]
fn futures_and_values_may_cross_threads() {
    fn crosses<T: Send + Sync>(_: &T) {}
    let budget = config::BudgetConfig { second: None, day: None, in_flight: 1, max_wait: Duration::ZERO, pace: None };
    let budget = Budget::new(&budget, &TimeZone::UTC, WallClock::system());
    crosses(&budget);
    crosses(&Quota::new(&quota(None, None), &TimeZone::UTC, WallClock::system()));
    fn sends<T: Send>(_: T) {}
    let claim = Claim::default();
    let request = BudgetRequest {
        member: BudgetMember::GATEWAY,
        cost: 1,
        priority: Priority::Low,
        urgency: Urgency::Usual,
        deadline: Instant::now(),
    };
    sends(budget.spend(request, &claim));
}
