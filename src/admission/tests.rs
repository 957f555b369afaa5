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

fn budget(rate: Option<(u32, u32)>, day: Option<u64>, in_flight: usize, max_wait: u64) -> Budget {
    let second = rate.map(|(per_second, burst)| Rate { per_second, burst });
    let budget = config::BudgetConfig { second, day, in_flight, max_wait: Duration::from_millis(max_wait) };
    Budget::new(&budget, &zone("Asia/Jakarta"), wall("2026-11-24T02:00:00Z"))
}

/// Takes one request of the second and of the day.
fn use_one(quota: &Quota) {
    let mut claim = Claim::default();
    quota.claim_second(&mut claim).unwrap();
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

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

mod bucket {
    use crate::admission::bucket::{InsufficientTokens, TokenReservation};

    use super::*;

    /// What may be taken at `now`, of a bucket that was full at 0, after these takes: tokens that come back one by one,
    /// computed from the start each time.
    fn free(rate: Rate, taken: &[(Duration, u32)], now: Duration) -> u32 {
        let period = 1_000_000_000_u128.div_ceil(u128::from(rate.per_second));
        let (mut level, mut at) = (u128::from(rate.burst) * period, 0);
        for (then, tokens) in taken.iter().chain([&(now, 0)]) {
            level =
                (level + (then.as_nanos() - at)).min(u128::from(rate.burst) * period) - u128::from(*tokens) * period;
            at = then.as_nanos();
        }
        (level / period) as u32
    }

    proptest! {
        /// In every window of length T at most burst + T × rate are kept, what is given back is as if it had never been
        /// taken, and what is refused would have been too much or goes through after exactly the wait that was said.
        #[test]
        fn never_over_admits_in_any_window(
            per_second in 1_u32..200,
            burst in 1_u32..100,
            steps in prop::collection::vec((0_u64..200_000, 1_u32..4, 0_u8..4, 0_usize..16), 1..200),
        ) {
            paused().block_on(async {
                let rate = Rate { per_second, burst };
                let bucket = Arc::new(TokenBucket::full(rate));
                let start = Instant::now();
                let mut taken: Vec<(Duration, u32)> = Vec::new();
                let mut undecided = Vec::new();
                for (micros, tokens, fate, decide) in steps {
                    advance(Duration::from_micros(micros)).await;
                    if decide < undecided.len() {
                        let (index, reservation): (usize, TokenReservation) = undecided.swap_remove(decide);
                        if decide % 2 == 0 { reservation.keep() } else {
                            drop(reservation);
                            taken[index].1 = 0;
                        }
                    }
                    let left = bucket.left();
                    assert_eq!(left, free(rate, &taken, start.elapsed()));
                    match bucket.take(tokens) {
                        Ok(reservation) => {
                            assert!(left >= tokens, "took {tokens} of {left}");
                            taken.push((start.elapsed(), tokens));
                            match fate {
                                0 => reservation.keep(),
                                1 => {
                                    drop(reservation);
                                    taken.pop();
                                }
                                _ => undecided.push((taken.len() - 1, reservation)),
                            }
                        }
                        Err(InsufficientTokens::Never) => assert!(tokens > burst),
                        Err(InsufficientTokens::Until(wait)) => {
                            assert!(left < tokens, "refused {tokens} of {left}");
                            assert_eq!(wait, bucket.due_in(u64::from(tokens)));
                        }
                    }
                }
                for (i, (from, _)) in taken.iter().enumerate() {
                    let mut sum = 0_f64;
                    for (until, tokens) in &taken[i..] {
                        sum += f64::from(*tokens);
                        let window = (*until - *from).as_secs_f64();
                        assert!(sum <= f64::from(burst) + window * f64::from(per_second) + 1e-6);
                    }
                }
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_that_is_said_is_enough_and_not_too_long() {
        let bucket = Arc::new(TokenBucket::full(Rate { per_second: 3, burst: 2 }));
        bucket.take(2).unwrap().keep();
        let Err(InsufficientTokens::Until(wait)) = bucket.take(1) else { panic!("took a third") };
        advance(wait - Duration::from_nanos(1)).await;
        assert!(bucket.take(1).is_err());
        advance(Duration::from_nanos(1)).await;
        assert!(bucket.take(1).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_is_never_zero() {
        let quota = Quota::new(&quota(Some((1000, 1)), None), &zone("UTC"), WallClock::system());
        let mut claim = Claim::default();
        quota.claim_second(&mut claim).unwrap();
        let exceeded = quota.claim_second(&mut Claim::default()).unwrap_err();
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
        assert_eq!(other.usage().second.unwrap().left, 0);
        assert!(claim_day(&other, &mut Claim::default()).is_err());
        advance(Duration::from_secs(1)).await;
        assert_eq!(other.usage().second.unwrap().left, 20);
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
                        Err(DayShortage::NotLeased) => panic!("there is no ledger"),
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
        assert_eq!(quota.policy_header().unwrap(), "\"second\";q=50;w=1, \"day\";q=40000;w=86400");
        use_one(&quota);
        claim_day(&quota, &mut Claim::default()).unwrap();
        assert_eq!(quota.limit_header().unwrap(), "\"second\";r=49;t=1, \"day\";r=39999;t=51234");
    }

    #[tokio::test(start_paused = true)]
    async fn are_absent_without_a_limit() {
        let quota = Quota::new(&quota(None, None), &zone("UTC"), WallClock::system());
        use_one(&quota);
        assert_eq!((quota.policy_header(), quota.limit_header(), quota.used_today()), (None, None, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn hold_the_largest_numbers() {
        let quota = Quota::new(&quota(Some((u32::MAX, u32::MAX)), Some(1 << 43)), &zone("UTC"), WallClock::system());
        assert!(quota.policy_header().unwrap().to_str().unwrap().ends_with("q=8796093022208;w=86400"));
    }
}

mod budget {
    use super::*;

    const NORMAL: Priority = Priority::Normal;

    /// One call that is sent and answered at once.
    async fn send(budget: &Budget, priority: Priority) -> Result<(), OverBudget> {
        budget.spend(1, priority, far()).await.map(|mut spent| spent.sent())
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_in_flight_is_held_until_the_answer_ends() {
        let budget = budget(None, None, 1, 0);
        let mut spent = budget.spend(1, NORMAL, far()).await.unwrap();
        spent.sent();
        assert!(matches!(budget.spend(1, NORMAL, far()).await, Err(OverBudget::InFlight { .. })));
        drop(spent);
        assert!(budget.spend(1, NORMAL, far()).await.is_ok());
        assert_eq!(budget.usage().in_flight.left, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_sent_goes_back_to_the_day() {
        let budget = budget(None, Some(3), 8, 0);
        drop(budget.spend(3, NORMAL, far()).await.unwrap());
        let mut spent = budget.spend(2, NORMAL, far()).await.unwrap();
        spent.sent();
        drop(spent);
        assert_eq!(budget.usage().used_today, 2);
        let Err(OverBudget::Day { retry_after, resets_at }) = budget.spend(2, NORMAL, far()).await else {
            panic!("spent too much")
        };
        assert_eq!(retry_after, Duration::from_secs(15 * 3600));
        assert_eq!(resets_at.to_string(), "2026-11-25T00:00:00+07:00");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_sent_goes_back_to_the_second_and_to_a_waiter() {
        let budget = budget(Some((1, 1)), None, 8, 10_000);
        let unsent = budget.spend(1, NORMAL, far()).await.unwrap();
        let start = Instant::now();
        let (waiter, ()) = tokio::join!(send(&budget, NORMAL), async {
            tokio::task::yield_now().await;
            drop(unsent);
        });
        assert!(waiter.is_ok() && start.elapsed() == Duration::ZERO, "{:?}", start.elapsed());
        assert_eq!(budget.usage().windows.second.unwrap().left, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_call_drains_nothing() {
        let budget = budget(Some((10, 10)), Some(2), 8, 0);
        let mut spent = budget.spend(2, NORMAL, far()).await.unwrap();
        spent.sent();
        for _ in 0..20 {
            assert!(matches!(budget.spend(1, NORMAL, far()).await, Err(OverBudget::Day { .. })));
        }
        assert_eq!(budget.usage().windows.second.unwrap().left, 8);
        assert_eq!(budget.usage().in_flight.left, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_in_the_queue_but_not_in_vain() {
        let budget = budget(Some((10, 1)), None, 8, 250);
        let start = Instant::now();
        send(&budget, NORMAL).await.unwrap();
        let (a, b, c) = tokio::join!(send(&budget, NORMAL), send(&budget, NORMAL), async {
            let refused = send(&budget, NORMAL).await;
            assert_eq!(start.elapsed(), Duration::ZERO, "refused at once: it would be served after 300 ms");
            refused
        });
        assert!(a.is_ok() && b.is_ok());
        assert_eq!(c.unwrap_err(), OverBudget::Second { retry_after: Duration::from_secs(1) });
        assert!((200..=203).contains(&(start.elapsed().as_millis() as u64)), "{:?}", start.elapsed());
        assert_eq!(budget.usage().waiting, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_of_the_request_bounds_the_wait() {
        let budget = budget(Some((1, 1)), None, 8, 60_000);
        send(&budget, NORMAL).await.unwrap();
        let soon = Instant::now() + Duration::from_millis(500);
        assert!(budget.spend(1, NORMAL, soon).await.is_err());
        assert!(budget.spend(1, NORMAL, far()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn higher_priority_goes_first_and_equals_in_order() {
        let budget = Arc::new(budget(Some((10, 1)), None, 8, 10_000));
        send(&budget, NORMAL).await.unwrap();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        for (name, priority) in
            [("low", Priority::Low), ("n1", NORMAL), ("n2", NORMAL), ("h1", Priority::High), ("h2", Priority::High)]
        {
            let (budget, tell) = (budget.clone(), tell.clone());
            tokio::spawn(async move {
                send(&budget, priority).await.unwrap();
                tell.send(name).unwrap();
            });
            tokio::task::yield_now().await;
        }
        drop(tell);
        let mut order = Vec::new();
        while let Some(name) = told.recv().await {
            order.push(name);
        }
        assert_eq!(order, ["h1", "h2", "n1", "n2", "low"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_freed_place_goes_to_a_waiter() {
        let budget = Arc::new(budget(None, None, 1, 10_000));
        let spent = budget.spend(1, NORMAL, far()).await.unwrap();
        let waiter = tokio::spawn({
            let budget = budget.clone();
            async move { budget.spend(1, NORMAL, far()).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert_eq!(budget.usage().waiting, 1);
        let start = Instant::now();
        drop(spent);
        waiter.await.unwrap().unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_leaves_blocks_nobody() {
        let budget = Arc::new(budget(Some((10, 1)), None, 1, 10_000));
        let spent = budget.spend(1, NORMAL, far()).await.unwrap();
        let gone = tokio::time::timeout(Duration::from_millis(10), budget.spend(1, NORMAL, far())).await;
        assert!(gone.is_err());
        assert_eq!(budget.usage().waiting, 0);
        drop(spent);
        let start = Instant::now();
        send(&budget, NORMAL).await.unwrap();
        assert!(start.elapsed() <= Duration::from_millis(92), "{:?}", start.elapsed());
        assert_eq!(budget.usage().in_flight.left, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_the_burst_is_refused_at_once() {
        let budget = budget(Some((10, 5)), None, 1, 10_000);
        assert!(matches!(budget.spend(6, NORMAL, far()).await, Err(OverBudget::Second { .. })));
        assert_eq!(budget.usage().in_flight.left, 1);
    }

    /// Once, no waiter was woken when a place became free before the next token was due, and six of eight were refused.
    #[tokio::test(start_paused = true)]
    async fn a_token_that_is_due_after_the_place_is_free_is_used() {
        let budget = Arc::new(budget(Some((10, 1)), None, 1, 3_000));
        let start = Instant::now();
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let budget = budget.clone();
                tokio::spawn(async move {
                    let mut spent = budget.spend(1, NORMAL, far()).await?;
                    spent.sent();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    drop(spent);
                    Ok::<_, OverBudget>(())
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap().unwrap();
        }
        assert!(start.elapsed() <= Duration::from_millis(750), "{:?}", start.elapsed());
    }

    /// Random arrivals, service times, deadlines and cancellations. After every millisecond: if there is a waiter, then
    /// all places are taken, or there are fewer tokens than the largest cost.
    #[test]
    fn no_request_waits_while_place_and_tokens_are_free() {
        const LARGEST: u64 = 3;
        for seed in 0..200_u64 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (rate, burst) = (random.u32(5..400), random.u32(LARGEST as u32..12));
            let (places, max_wait) = (random.usize(1..6), random.u64(1..3_000));
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let budget = Arc::new(budget(Some((rate, burst)), None, places, max_wait));
                let (mut callers, mut served) = (Vec::new(), 0_u32);
                for millis in 0..600_u64 {
                    while millis < 400 && random.u8(..) < 80 {
                        let (budget, cost) = (budget.clone(), random.u32(1..=LARGEST as u32));
                        let priority = [Priority::Low, NORMAL, Priority::High][random.usize(..3)];
                        let (service, patience) = (random.u64(0..60), random.u64(1..900));
                        let leaves = (random.u8(..) < 60).then(|| random.u64(0..200));
                        callers.push(tokio::spawn(async move {
                            let deadline = Instant::now() + Duration::from_millis(patience);
                            let call = async {
                                let mut spent = budget.spend(cost, priority, deadline).await.ok()?;
                                if service % 4 > 0 {
                                    spent.sent();
                                }
                                tokio::time::sleep(Duration::from_millis(service)).await;
                                drop(spent);
                                Some(())
                            };
                            match leaves {
                                Some(after) => tokio::time::timeout(Duration::from_millis(after), call).await.ok()?,
                                None => call.await,
                            }
                        }));
                    }
                    // Every task that is ready runs before time advances.
                    for _ in 0..8 {
                        tokio::task::yield_now().await;
                    }
                    let usage = budget.usage();
                    let tokens = usage.windows.second.unwrap().left;
                    assert!(
                        usage.waiting == 0 || usage.in_flight.left == 0 || tokens < LARGEST,
                        "seed {seed}, {millis} ms: {usage:?}"
                    );
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                for caller in callers {
                    served += u32::from(caller.await.unwrap().is_some());
                }
                assert!(served > 0, "seed {seed}");
                let usage = budget.usage();
                assert_eq!((usage.waiting, usage.in_flight.left), (0, places as u64), "seed {seed}");
            });
        }
    }

    /// Real threads, real time: nothing is lost and no waiter is forgotten.
    #[test]
    fn a_crowd_on_many_threads_leaves_nothing_behind() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
        runtime.block_on(async {
            let budget = Arc::new(budget(Some((20_000, 50)), Some(2_000), 3, 60_000));
            let tasks: Vec<_> = (0..2_200_u64)
                .map(|n| {
                    let budget = budget.clone();
                    tokio::spawn(async move {
                        let priority = [Priority::Low, NORMAL, Priority::High][n as usize % 3];
                        match budget.spend(1, priority, far()).await {
                            Ok(mut spent) => {
                                tokio::task::yield_now().await;
                                spent.sent();
                                true
                            }
                            Err(OverBudget::Day { .. }) => false,
                            Err(other) => panic!("{other}"),
                        }
                    })
                })
                .collect();
            let mut sent = 0;
            for task in tasks {
                sent += usize::from(tokio::time::timeout(Duration::from_secs(30), task).await.unwrap().unwrap());
            }
            let usage = budget.usage();
            assert_eq!((sent, usage.used_today, usage.in_flight.left, usage.waiting), (2_000, 2_000, 3, 0));
        });
    }
}

#[test]
fn futures_and_values_may_cross_threads() {
    fn crosses<T: Send + Sync>(_: &T) {}
    let budget = budget(None, None, 1, 0);
    crosses(&budget);
    crosses(&Quota::new(&quota(None, None), &TimeZone::UTC, WallClock::system()));
    fn sends<T: Send>(_: T) {}
    sends(budget.spend(1, Priority::Low, far()));
}
