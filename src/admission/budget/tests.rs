//! Promises of an account's budget, on tokio's paused clock.
#![allow(clippy::disallowed_methods, reason = "tests have no drain to join")]

use std::{sync::Arc, time::Duration};

use jiff::tz::TimeZone;
use tokio::time::Instant;

use super::*;
use crate::admission::WallClock;
use crate::config::{self, Priority, Rate};

fn jakarta() -> TimeZone {
    TimeZone::get("Asia/Jakarta").unwrap()
}

fn budget(rate: Option<(u32, u32)>, day: Option<u64>, in_flight: usize, max_wait: u64) -> Budget {
    let second = rate.map(|(per_second, burst)| Rate { per_second, burst });
    let budget = config::BudgetConfig { second, day, in_flight, max_wait: Duration::from_millis(max_wait), pace: None };
    Budget::new(&budget, &jakarta(), WallClock::anchored("2026-11-24T02:00:00Z".parse().unwrap()))
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

const NORMAL: Priority = Priority::Normal;

/// One call that is sent and answered at once.
async fn send(budget: &Budget, priority: Priority) -> Result<(), OverBudget> {
    spend(budget, 1, priority, far()).await.map(|mut spent| spent.sent())
}

async fn spend(budget: &Budget, cost: u32, priority: Priority, deadline: Instant) -> Result<Spent, OverBudget> {
    // Without a share, and not the gateway's own.
    let [member] = budget.share_among(&[Sharer { name: "shop", share: 0.0, most_per_day: None, orders: false }])[..]
    else {
        panic!("one service")
    };
    budget
        .spend(BudgetRequest { member, cost, priority, urgency: Urgency::Usual, deadline }, &Claim::default())
        .await
        .map_err(over)
}

fn over(not_spent: NotSpent) -> OverBudget {
    let NotSpent::Budget(over) = not_spent else { panic!("{not_spent}") };
    over
}

#[tokio::test(start_paused = true)]
async fn a_place_in_flight_is_held_until_the_answer_ends() {
    let budget = budget(None, None, 1, 0);
    let mut spent = spend(&budget, 1, NORMAL, far()).await.unwrap();
    spent.sent();
    assert!(matches!(spend(&budget, 1, NORMAL, far()).await, Err(OverBudget { what: BudgetLimit::InFlight, .. })));
    drop(spent);
    assert!(spend(&budget, 1, NORMAL, far()).await.is_ok());
    assert_eq!(budget.usage().in_flight.left, 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_goes_back_to_the_day() {
    let budget = budget(None, Some(3), 8, 0);
    drop(spend(&budget, 3, NORMAL, far()).await.unwrap());
    let mut spent = spend(&budget, 2, NORMAL, far()).await.unwrap();
    spent.sent();
    drop(spent);
    assert_eq!(budget.usage().used_today, 2);
    let Err(OverBudget { what: BudgetLimit::Day { resets_at }, retry_after, .. }) =
        spend(&budget, 2, NORMAL, far()).await
    else {
        panic!("spent too much")
    };
    assert_eq!(retry_after, Duration::from_secs(15 * 3600));
    assert_eq!(resets_at.to_string(), "2026-11-25T00:00:00+07:00");
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_goes_back_to_the_second_and_to_a_waiter() {
    let budget = budget(Some((1, 1)), None, 8, 10_000);
    let unsent = spend(&budget, 1, NORMAL, far()).await.unwrap();
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
    let mut spent = spend(&budget, 2, NORMAL, far()).await.unwrap();
    spent.sent();
    for _ in 0..20 {
        assert!(matches!(
            spend(&budget, 1, NORMAL, far()).await,
            Err(OverBudget { what: BudgetLimit::Day { .. }, .. })
        ));
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
    assert_eq!(
        c.unwrap_err(),
        OverBudget { what: BudgetLimit::Second, retry_after: Duration::from_secs(1), own_share_used: false }
    );
    assert!((200..=203).contains(&(start.elapsed().as_millis() as u64)), "{:?}", start.elapsed());
    assert_eq!(budget.usage().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_the_request_bounds_the_wait() {
    let budget = budget(Some((1, 1)), None, 8, 60_000);
    send(&budget, NORMAL).await.unwrap();
    let soon = Instant::now() + Duration::from_millis(500);
    assert!(spend(&budget, 1, NORMAL, soon).await.is_err());
    assert!(spend(&budget, 1, NORMAL, far()).await.is_ok());
}

/// A call that waits for the tokens of the second.
#[derive(Clone, Copy)]
struct Waiter {
    name: &'static str,
    priority: Priority,
    /// Seconds until its deadline.
    seconds: u64,
}

/// The names of waiters that come in this order, in the order in which they are served.
async fn served(waiters: &[Waiter]) -> Vec<&'static str> {
    let budget = Arc::new(budget(Some((10, 1)), None, 8, 10_000));
    send(&budget, NORMAL).await.unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    for Waiter { name, priority, seconds } in waiters.iter().copied() {
        let (budget, tell) = (budget.clone(), tell.clone());
        tokio::spawn(async move {
            let deadline = Instant::now() + Duration::from_secs(seconds);
            spend(&budget, 1, priority, deadline).await.unwrap().sent();
            tell.send(name).unwrap();
        });
        tokio::task::yield_now().await;
    }
    drop(tell);
    let mut order = Vec::new();
    while let Some(name) = told.recv().await {
        order.push(name);
    }
    order
}

#[tokio::test(start_paused = true)]
async fn higher_priority_goes_first_and_equals_in_order() {
    let waiters =
        [("low", Priority::Low), ("n1", NORMAL), ("n2", NORMAL), ("h1", Priority::High), ("h2", Priority::High)];
    let waiters = waiters.map(|(name, priority)| Waiter { name, priority, seconds: 3600 });
    assert_eq!(served(&waiters).await, ["h1", "h2", "n1", "n2", "low"]);
}

#[tokio::test(start_paused = true)]
async fn within_a_priority_the_earliest_deadline_goes_first() {
    let waiters = [("9 s", 9), ("3 s", 3), ("6 s", 6), ("1 s", 1)];
    let waiters = waiters.map(|(name, seconds)| Waiter { name, priority: NORMAL, seconds });
    assert_eq!(served(&waiters).await, ["1 s", "3 s", "6 s", "9 s"]);
}

#[tokio::test(start_paused = true)]
async fn a_freed_place_goes_to_a_waiter() {
    let budget = Arc::new(budget(None, None, 1, 10_000));
    let spent = spend(&budget, 1, NORMAL, far()).await.unwrap();
    let waiter = tokio::spawn({
        let budget = budget.clone();
        async move { spend(&budget, 1, NORMAL, far()).await.map(drop) }
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
    let spent = spend(&budget, 1, NORMAL, far()).await.unwrap();
    let gone = tokio::time::timeout(Duration::from_millis(10), spend(&budget, 1, NORMAL, far())).await;
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
    assert!(matches!(spend(&budget, 6, NORMAL, far()).await, Err(OverBudget { what: BudgetLimit::Second, .. })));
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
                let mut spent = spend(&budget, 1, NORMAL, far()).await?;
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
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
                            let mut spent = spend(&budget, cost, priority, deadline).await.ok()?;
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
                    match spend(&budget, 1, priority, far()).await {
                        Ok(mut spent) => {
                            tokio::task::yield_now().await;
                            spent.sent();
                            true
                        }
                        Err(OverBudget { what: BudgetLimit::Day { .. }, .. }) => false,
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

/// With second and day used up, the day is told, and nobody waits for a token that would be of no use.
#[tokio::test(start_paused = true)]
async fn a_call_whose_day_is_used_up_never_waits() {
    let budget = budget(Some((1, 3)), Some(3), 8, 10_000);
    let begin = Instant::now();
    for _ in 0..3 {
        send(&budget, NORMAL).await.unwrap();
    }
    let refused = send(&budget, NORMAL).await.unwrap_err();
    assert!(matches!(refused.what, BudgetLimit::Day { .. }), "{refused:?}");
    assert_eq!((refused.retry_after.as_secs(), begin.elapsed()), (15 * 3_600, Duration::ZERO));
}

/// Five wait for tokens when the last unit of the day goes: four are refused then, and not each at its own turn.
#[tokio::test(start_paused = true)]
async fn waiters_are_refused_when_the_day_is_used_up() {
    let budget = Arc::new(budget(Some((1, 3)), Some(4), 8, 10_000));
    let begin = Instant::now();
    for _ in 0..3 {
        send(&budget, NORMAL).await.unwrap();
    }
    let waiters: Vec<_> = (0..5)
        .map(|_| {
            let budget = budget.clone();
            tokio::spawn(async move { (send(&budget, NORMAL).await.is_ok(), Instant::now()) })
        })
        .collect();
    let mut sent = 0;
    for waiter in waiters {
        let (is_ok, at) = waiter.await.unwrap();
        assert!(at - begin <= Duration::from_millis(1_001), "{:?}", at - begin);
        sent += usize::from(is_ok);
    }
    assert_eq!((sent, budget.usage().used_today), (1, 4));
}

/// It is five minutes to midnight: of a pause and the end of the day, the later one is told.
#[tokio::test(start_paused = true)]
async fn of_a_pause_and_the_day_the_longer_one_is_told() {
    for (pause, minutes) in [(1_800, 30), (60, 5)] {
        let budget = budget(Some((10, 10)), Some(1), 8, 0);
        tokio::time::advance(Duration::from_secs(15 * 3_600 - 300)).await;
        send(&budget, NORMAL).await.unwrap();
        let limit = LimitResponse { sent: Instant::now(), wait: Some(Duration::from_secs(pause)) };
        let priority = NORMAL;
        let again =
            BudgetRequest { member: BudgetMember(1), cost: 1, priority, urgency: Urgency::Usual, deadline: far() };
        assert_eq!(budget.throttled(limit, again).as_secs(), pause);
        let refused = send(&budget, NORMAL).await.unwrap_err();
        assert_eq!(refused.retry_after.as_secs(), minutes * 60, "{refused:?}");
        let closed = budget.closed(again).unwrap();
        assert_eq!(closed, refused);
        tokio::time::advance(refused.retry_after).await;
        assert!(budget.closed(again).is_none());
        send(&budget, NORMAL).await.unwrap();
    }
}

/// Whoever waits as long as it was told is admitted, at any rate and with any cost.
#[tokio::test(start_paused = true)]
async fn a_pause_ends_when_callers_were_told() {
    for (rate, burst, cost, wait) in
        [(100, 100, 1, 2_000), (1, 1, 1, 2_000), (2, 5, 3, 1_500), (1, 4, 4, 250), (20, 20, 1, 0), (20, 20, 5, 0)]
    {
        let budget = budget(Some((rate, burst)), None, 8, 0);
        for _ in 0..burst / cost {
            spend(&budget, cost, NORMAL, far()).await.unwrap().sent();
        }
        let limit = LimitResponse { sent: Instant::now(), wait: Some(Duration::from_millis(wait)) };
        let priority = NORMAL;
        let again = BudgetRequest { member: BudgetMember(1), cost, priority, urgency: Urgency::Usual, deadline: far() };
        let due = budget.throttled(limit, again);
        assert!(due >= Duration::from_millis(wait), "{due:?}");
        if due > Duration::ZERO {
            let refused = spend(&budget, cost, NORMAL, far()).await.unwrap_err();
            assert_eq!(refused.retry_after, whole_seconds(due), "{rate} {burst} {cost} {wait}");
            tokio::time::advance(due - Duration::from_nanos(1)).await;
            assert!(spend(&budget, cost, NORMAL, far()).await.is_err(), "{rate} {burst} {cost} {wait}");
        }
        tokio::time::advance(Duration::from_nanos(1)).await;
        spend(&budget, cost, NORMAL, far()).await.unwrap().sent();
    }
}

/// A change of the zone keeps the account's count; so does that of each service's share.
#[tokio::test(start_paused = true)]
async fn a_change_of_the_zone_gives_no_service_its_share_anew() {
    let budget = budget(None, Some(10), 8, 0);
    let sharer = |name| Sharer { name, share: 0.5, most_per_day: None, orders: false };
    let members = budget.share_among(&[sharer("shop"), sharer("web")]);
    let send = async |member: usize| {
        let (priority, urgency) = (NORMAL, Urgency::Usual);
        let request = BudgetRequest { member: members[member], cost: 1, priority, urgency, deadline: far() };
        budget.spend(request, &Claim::default()).await.map(|mut spent| spent.sent()).is_ok()
    };
    for _ in 0..5 {
        assert!(send(0).await);
    }
    // It is the 24th in Jakarta, and the 23rd there.
    for zone in ["Pacific/Honolulu", "Asia/Jakarta"] {
        budget.set_zone(&TimeZone::get(zone).unwrap());
        assert_eq!(budget.usage().used_today, 5, "{zone}");
        assert!(!send(0).await, "{zone}");
    }
    for _ in 0..5 {
        assert!(send(1).await);
    }
}

/// Services with and without shares have used the bucket in any way, and Fastrac may have demanded a pause. One of them is
/// refused, and nobody asks before it comes again: it is admitted then, and the time was not much too long. (What the others
/// lend because they have not asked for a while comes earlier.)
#[tokio::test(start_paused = true)]
async fn whoever_is_refused_and_comes_when_told_is_admitted() {
    let mut checked = 0;
    for seed in 0..400 {
        let mut random = fastrand::Rng::with_seed(seed);
        let rate = random.u32(1..20);
        let budget = budget(Some((rate, rate * random.u32(1..5))), None, 64, 0);
        let shares = [0.0, random.f64() * 0.5, random.f64() * 0.5];
        let sharer = |(name, share)| Sharer { name, share, most_per_day: None, orders: false };
        let sharers: Vec<_> = ["none", "one", "two"].into_iter().zip(shares).map(sharer).collect();
        let members = budget.share_among(&sharers);
        let request = |member: usize, cost| {
            let (priority, urgency) = (NORMAL, Urgency::Usual);
            BudgetRequest { member: members[member], cost, priority, urgency, deadline: far() }
        };
        let send = async |request| {
            let spent = budget.spend(request, &Claim::default()).await;
            spent.map(|mut spent| spent.sent()).map_err(over)
        };
        let asks = random.usize(0..3);
        let cost = random.u32(1..=rate.min(3));
        for _ in 0..random.usize(0..60) {
            let _ = send(request(random.usize(0..3), random.u32(1..=cost))).await;
            tokio::time::advance(Duration::from_millis(random.u64(0..100))).await;
        }
        if random.bool() {
            let wait = Some(Duration::from_millis(random.u64(0..3_000)));
            let _ = budget.throttled(LimitResponse { sent: Instant::now(), wait }, request(asks, cost));
        }
        let Err(refused) = send(request(asks, cost)).await else { continue };
        let early = refused.retry_after.saturating_sub(Duration::from_millis(4_001));
        tokio::time::advance(early).await;
        if !early.is_zero() {
            assert!(send(request(asks, cost)).await.is_err(), "seed {seed}: four seconds early, of {refused:?}");
        }
        tokio::time::advance(refused.retry_after - early).await;
        assert_eq!(send(request(asks, cost)).await, Ok(()), "seed {seed}: {refused:?} for {asks}");
        checked += 1;
    }
    assert!(checked > 100, "{checked}");
}

/// Whether callers are served that ask at these times (milliseconds), and when `walk` has taken a token: it takes what is
/// spare of a full bucket.
async fn beside_a_walk(rate: (u32, u32), max_wait: u64, arrivals: &[u64], walk: bool) -> (Vec<bool>, Vec<u64>) {
    let budget = Arc::new(budget(Some(rate), None, 64, max_wait));
    let begun = Instant::now();
    let callers: Vec<_> = arrivals
        .iter()
        .map(|at| {
            let (at, budget) = (begun + Duration::from_millis(*at), budget.clone());
            tokio::spawn(async move {
                tokio::time::sleep_until(at).await;
                send(&budget, NORMAL).await.is_ok()
            })
        })
        .collect();
    let end = begun + Duration::from_millis(arrivals.last().unwrap() + 10_000);
    let mut walked = Vec::new();
    tokio::time::sleep_until(begun + Duration::from_millis(arrivals[0] + 1)).await;
    let request = |deadline| {
        let (member, priority, urgency) = (BudgetMember::GATEWAY, Priority::Low, Urgency::Usual);
        BudgetRequest { member, cost: 1, priority, urgency, deadline }
    };
    while walk && Instant::now() < end {
        let usage = budget.usage();
        let is_full = usage.waiting == 0 && usage.bucket.is_some_and(|bucket| bucket.left == bucket.burst);
        if is_full && budget.may_spare(1) {
            budget.spend(request(Instant::now()), &Claim::default()).await.unwrap().sent();
            walked.push(begun.elapsed().as_millis() as u64);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut served = Vec::new();
    for caller in callers {
        served.push(caller.await.unwrap());
    }
    (served, walked)
}

/// With a budget of one token, a walk took each token as it came, and 9 of 10 callers got 503.
#[tokio::test(start_paused = true)]
async fn calls_that_nobody_waits_for_take_nothing_that_a_caller_within_the_budget_lacks() {
    let (mut checked, mut walked) = (0, 0);
    for seed in 0..600 {
        let mut random = fastrand::Rng::with_seed(seed);
        let per_second = random.u32(1..5);
        let rate = (per_second, random.u32(1..=per_second + 1));
        let period = 1_000 / u64::from(per_second);
        let mut at = 0;
        let arrivals: Vec<u64> = (0..20)
            .map(|_| {
                let together = rate.1 > 1 && random.bool();
                at += if together { random.u64(0..50) } else { random.u64(0..=period * 8) };
                at
            })
            .collect();
        let (alone, _) = beside_a_walk(rate, 250, &arrivals, false).await;
        if alone.contains(&false) {
            continue;
        }
        let (beside, tokens) = beside_a_walk(rate, 250, &arrivals, true).await;
        assert!(!beside.contains(&false), "seed {seed}: {rate:?} {arrivals:?}: {beside:?}, walked at {tokens:?}");
        checked += 1;
        walked += tokens.iter().filter(|token| **token < at).count();
    }
    assert!(checked > 100 && walked > 1_000, "{checked} {walked}");
}

/// Where requests may not wait, too.
#[tokio::test(start_paused = true)]
async fn callers_that_keep_asking_are_left_alone_and_those_that_stop_leave_everything() {
    for (rate, every, together) in [((1, 1), 3_900, 1), ((2, 2), 1_900, 2), ((3, 3), 1_250, 3), ((2, 1), 1_900, 1)] {
        let arrivals: Vec<u64> = (0..20 * together).map(|number| number / together * every).collect();
        let (served, walked) = beside_a_walk(rate, 0, &arrivals, true).await;
        let last = *arrivals.last().unwrap();
        let case = format!("{rate:?}, {together} each {every} ms: {walked:?}");
        assert!(!served.contains(&false) && walked.iter().all(|at| *at > last), "{case}");
        // Once the memory of them has gone, everything.
        let idle = 10 - 4 * u64::from(rate.1) / u64::from(rate.0);
        assert!(walked.len() as u64 >= (idle - 1) * u64::from(rate.0) * 9 / 10, "{case}");
    }
}

/// Of a larger bucket they leave what callers use at a time.
#[tokio::test(start_paused = true)]
async fn callers_that_leave_tokens_do_not_keep_the_gateway_from_using_them() {
    let arrivals: Vec<u64> = (0..50).map(|number| number * 2_000).collect();
    let (served, walked) = beside_a_walk((1, 3), 250, &arrivals, true).await;
    assert!(!served.contains(&false) && walked.len() > 40, "{walked:?}");
}

/// After a throttle, what waited for a full bucket waited until a caller asked.
#[tokio::test(start_paused = true)]
async fn the_rate_climbs_back_though_nobody_asks() {
    let budget = budget(Some((4, 4)), None, 64, 250);
    let (member, priority, urgency) = (BudgetMember::GATEWAY, NORMAL, Urgency::Usual);
    let again = BudgetRequest { member, cost: 1, priority, urgency, deadline: far() };
    budget.throttled(LimitResponse { sent: Instant::now(), wait: None }, again);
    for _ in 0..120 {
        budget.usage();
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    let usage = budget.usage();
    assert_eq!((usage.bucket, usage.learned), (Some(BucketUsage { burst: 4, left: 4 }), Some(4.0)));
}
