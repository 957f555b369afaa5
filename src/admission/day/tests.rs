//! Promises of the counter towards those that wait for its ledger, on tokio's paused clock.
#![allow(clippy::disallowed_methods, reason = "tests have no drain to join")]

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::tz::TimeZone;
use tokio::time::Instant;

use super::*;
use crate::{
    admission::{
        BucketMark, BucketStart, Budget, BudgetMember, BudgetRequest, Claim, CounterId, DayLedger, Exceeded, NotSpent,
        Quota, RestoredDay, Urgency, WallClock,
    },
    config::{BudgetConfig, Priority, QuotaConfig},
};

/// A ledger that grants when the test says so.
#[derive(Debug, Default)]
struct ManualLedger {
    requests: Mutex<Vec<LeaseRequest>>,
    failing: AtomicBool,
}

impl DayLedger for ManualLedger {
    fn restore(&self, _: &CounterId) -> Vec<RestoredDay> {
        Vec::new()
    }

    fn bucket(&self, _: &CounterId) -> BucketStart {
        BucketStart::Unused
    }

    fn request(&self, request: LeaseRequest) {
        self.requests.lock().push(request);
    }

    fn throttled(&self, _: &CounterId, _: BucketMark) {}

    fn is_failing(&self, _: Level) -> bool {
        self.failing.load(Ordering::Relaxed)
    }
}

impl ManualLedger {
    /// Grants what was requested last of each level. Returns whether there was something.
    fn grant(&self) -> bool {
        let requests = std::mem::take(&mut *self.requests.lock());
        for LeaseRequest { holder, day, lease, mark, .. } in &requests {
            for (level, target) in [(Level::Mark, *mark), (Level::Lease, *lease)] {
                holder.granted(Grant { date: day.date, level, target });
            }
        }
        !requests.is_empty()
    }
}

fn context(ledger: &Arc<ManualLedger>) -> CounterContext {
    let ledger = Some(ledger.clone() as Arc<dyn DayLedger>);
    CounterContext { id: CounterId::Service("shop".into()), clock: WallClock::system(), ledger }
}

/// The ledger of a counter of `per_day` in Asia/Jakarta, which is used up by `used`, at an instant of 2026-11-30 there.
fn in_jakarta(time: &str, per_day: u64, used: u32) -> (Arc<ManualLedger>, Arc<DayCounter>, &'static AtomicI64) {
    let at: jiff::Timestamp = format!("2026-11-30T{time}+07:00").parse().unwrap();
    let millis: &'static AtomicI64 = Box::leak(Box::new(AtomicI64::new(at.as_millisecond())));
    let ledger = Arc::<ManualLedger>::default();
    let context = CounterContext { clock: WallClock::stepped(millis), ..context(&ledger) };
    let counter = DayCounter::new(Some(per_day), &TimeZone::get("Asia/Jakarta").unwrap(), context);
    for _ in 0..used {
        while ledger.grant() {}
        counter.reserve(1).unwrap().keep();
    }
    while ledger.grant() {}
    (ledger, counter, millis)
}

/// Issue: at each midnight, and at a change of the zone, requests waited for the disk, or were refused.
#[test]
fn no_request_waits_for_the_disk_because_another_day_begins() {
    // Created right before midnight, or running until then.
    for (time, step) in [("23:59:56", 4_000), ("23:00:00", 3_600_000)] {
        let (ledger, counter, millis) = in_jakarta(time, 1_000, 3);
        counter.prepare_tomorrow();
        assert!(!ledger.grant(), "nothing is asked for an hour before");
        millis.fetch_add(step - 1_000, Ordering::Relaxed);
        counter.prepare_tomorrow();
        while ledger.grant() {}
        millis.fetch_add(1_000, Ordering::Relaxed);
        assert_eq!(counter.today().used, 0);
        let taken: Vec<_> = (0..40).map(|_| counter.reserve(1).unwrap()).collect();
        assert_eq!(counter.close().iter().map(|count| count.used).sum::<u64>(), 3, "what is not used is given back");
        drop(taken);
    }
    // It is still the day before in New York; nearly everything is used, or hardly anything.
    let new_york = TimeZone::get("America/New_York").unwrap();
    for used in [3, 700, 998, 1_000] {
        let (ledger, counter, _) = in_jakarta("08:00:00", 1_000, used);
        while !counter.prepare_zone(&new_york) {
            assert!(ledger.grant(), "it asks for what it needs");
        }
        counter.set_zone(&new_york);
        let left = 1_000 - used;
        for _ in 0..left.min(40) {
            counter.reserve(1).unwrap().keep();
        }
        assert_eq!(counter.today().used, u64::from(used + left.min(40)));
    }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// With a limit of 300 each grant is good for one unit.
#[tokio::test(start_paused = true)]
async fn a_grant_wakes_one_of_those_that_wait() {
    const WAITERS: usize = 300;
    let ledger = Arc::<ManualLedger>::default();
    let counter = DayCounter::new(Some(WAITERS as u64), &TimeZone::UTC, context(&ledger));
    while ledger.grant() || counter.reserve(WAITERS as u32).is_err() {}
    let polls = Arc::<AtomicUsize>::default();
    let waiters: Vec<_> = (0..WAITERS)
        .map(|number| {
            let (mut unit, polls) = (counter.reserve(1).unwrap(), polls.clone());
            tokio::spawn(async move {
                let left = {
                    let mut recorded = pin!(unit.record(far()));
                    let recorded = poll_fn(|context| {
                        polls.fetch_add(1, Ordering::Relaxed);
                        recorded.as_mut().poll(context)
                    });
                    // Some of them leave.
                    tokio::time::timeout(Duration::from_millis(1 + number as u64 % 30), recorded).await
                };
                if matches!(left, Ok(Ok(()))) {
                    unit.keep();
                }
            })
        })
        .collect();
    tokio::task::yield_now().await;
    while waiters.iter().any(|waiter| !waiter.is_finished()) {
        // One grant after another, as long as there is something to grant.
        if !ledger.grant() {
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
        tokio::task::yield_now().await;
    }
    let polls = polls.load(Ordering::Relaxed);
    assert!(polls <= 6 * WAITERS, "{polls} polls of {WAITERS} waiters");
    assert_eq!(counter.today().used, counter.state.lock().today(&counter.context.clock).recorded);
    assert!(counter.state.lock().lines.is_empty(Level::Mark), "nobody is left in the line");
}

/// How long each way of taking a unit waits before it says that it cannot be recorded.
async fn refused_after(quota: &Quota, budget: &Budget) -> Vec<Duration> {
    let began = Instant::now();
    let refused = quota.claim_day(&mut Claim::default(), far()).await;
    assert!(matches!(refused, Err(Exceeded::Unrecorded(_))), "{refused:?}");
    let first = began.elapsed();
    let (priority, urgency) = (Priority::Low, Urgency::Usual);
    let request = BudgetRequest { member: BudgetMember::GATEWAY, cost: 1, priority, urgency, deadline: far() };
    let refused = budget.spend(request, &Claim::default()).await;
    assert!(matches!(refused, Err(NotSpent::Unrecorded(_))), "{refused:?}");
    vec![first, began.elapsed() - first]
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_fails_or_does_not_answer_costs_nobody_a_wait() {
    let ledger = Arc::<ManualLedger>::default();
    let max_wait = Duration::from_secs(60);
    let budget = BudgetConfig { second: None, day: Some(100), in_flight: 8, max_wait, pace: None };
    let budget = Budget::new(&budget, &TimeZone::UTC, context(&ledger));
    let quota = QuotaConfig { second: None, day: Some(100), enforce: true };
    let quota = Quota::new(&quota, &TimeZone::UTC, context(&ledger));
    // It fails at once.
    ledger.failing.store(true, Ordering::Relaxed);
    assert_eq!(refused_after(&quota, &budget).await, [Duration::ZERO; 2]);
    // It does not answer: only the first ones find out.
    ledger.failing.store(false, Ordering::Relaxed);
    let longest = refused_after(&quota, &budget).await.into_iter().max().unwrap();
    assert!(longest <= LEDGER_WAIT + Duration::from_millis(2), "{longest:?}");
    assert_eq!(refused_after(&quota, &budget).await, [Duration::ZERO; 2]);
    // It has recovered, and nobody had to wait for that.
    while ledger.grant() {}
    let mut claim = Claim::default();
    quota.claim_day(&mut claim, Instant::now()).await.unwrap();
    // Reserved, and not recorded.
    ledger.failing.store(true, Ordering::Relaxed);
    let began = Instant::now();
    assert!(claim.record(far()).await.is_err());
    assert_eq!(began.elapsed(), Duration::ZERO);
    ledger.failing.store(false, Ordering::Relaxed);
    while ledger.grant() {}
    claim.record(Instant::now()).await.unwrap();
}
