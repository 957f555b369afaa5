//! Random callers of a fetch that waits for the budget, on paused time: it is sent when the first of those that wait would
//! have been sent alone.
#![allow(clippy::disallowed_methods, reason = "tests have no drain to join")]

use std::time::Duration;

use fastrand::Rng;
use jiff::tz::TimeZone;
use tokio::{task::JoinHandle, time::sleep_until};

use super::*;
use crate::{
    admission::{Budget, BudgetMember, Sharer, Urgency, WallClock},
    cache::{Cache, Flight, Flights, JoinRequest, key::key_of_path},
    config::{BudgetConfig, Rate},
};

const SERVICES: [&str; 4] = ["a", "b", "c", "crowd"];

const PRIORITIES: [Priority; 3] = [Priority::Low, Priority::Normal, Priority::High];

/// The whole of a round.
const ROUND: Duration = Duration::from_secs(60);

/// One who waits for the fetch, or some of one service of which always one does. Times since the beginning.
#[derive(Clone, Copy, Debug)]
struct Waiter {
    service: usize,
    priority: Priority,
    comes: Duration,
    leaves: Duration,
}

/// An account of which others want something too.
struct Busy {
    budget: Arc<Budget>,
    members: Vec<BudgetMember>,
    began: Instant,
}

impl Busy {
    /// One token a second, none of them left, and normal requests that come at these times.
    async fn begin(crowd: &[Duration]) -> Self {
        let second = Some(Rate { per_second: 1, burst: 1 });
        let config = BudgetConfig { second, day: None, in_flight: 64, max_wait: ROUND, pace: None };
        let now = WallClock::anchored("2026-11-24T02:00:00Z".parse().unwrap());
        let budget = Arc::new(Budget::new(&config, &TimeZone::UTC, now));
        let services = SERVICES.map(|name| Sharer { name, share: 0.0, most_per_day: None, orders: false });
        let members = budget.share_among(&services);
        let busy = Busy { budget, members, began: Instant::now() };
        busy.send(3, Priority::Normal).await;
        for comes in crowd {
            let sent = busy.send(3, Priority::Normal);
            let comes = busy.began + *comes;
            tokio::spawn(async move {
                sleep_until(comes).await;
                sent.await;
            });
        }
        busy
    }

    fn spend(&self, service: usize, priority: Priority) -> impl Future<Output = SpendResult> + Send + use<> {
        let (budget, member) = (self.budget.clone(), self.members[service]);
        let deadline = self.began + 2 * ROUND;
        let request = BudgetRequest { member, cost: 1, priority, urgency: Urgency::Usual, deadline };
        async move { budget.spend(request, &Claim::default()).await }
    }

    fn send(&self, service: usize, priority: Priority) -> impl Future<Output = ()> + Send + use<> {
        let spent = self.spend(service, priority);
        async move { spent.await.unwrap().sent() }
    }

    fn is_spare(&self) -> bool {
        let usage = self.budget.usage();
        usage.waiting == 0 && usage.bucket.unwrap().left == 1
    }
}

/// Those of one service wait in the place of the first of them.
fn together(waiters: &[Waiter]) -> Vec<Waiter> {
    let mut groups: Vec<Waiter> = Vec::new();
    for waiter in waiters {
        let joins = |group: &&mut Waiter| group.service == waiter.service && group.leaves > waiter.comes;
        match groups.iter_mut().find(joins) {
            Some(group) => group.leaves = group.leaves.max(waiter.leaves),
            None => groups.push(*waiter),
        }
    }
    groups
}

/// When a request like this is sent that is no part of a fetch; `None`: it leaves before.
async fn sent_alone(waiter: Waiter, crowd: &[Duration]) -> Option<Duration> {
    let busy = Busy::begin(crowd).await;
    sleep_until(busy.began + waiter.comes).await;
    let spent = busy.spend(waiter.service, waiter.priority);
    let spent = tokio::time::timeout_at(busy.began + waiter.leaves, spent).await.ok()?;
    spent.unwrap().sent();
    Some(busy.began.elapsed())
}

/// When the fetch for all of them is sent, and whether that was spare.
async fn sent_for_all(waiters: &[Waiter], crowd: &[Duration]) -> (Duration, bool) {
    let busy = Arc::new(Busy::begin(crowd).await);
    let flights = Arc::new(Flights::<u32>::default());
    let mut fetch = None::<JoinHandle<_>>;
    for waiter in waiters {
        sleep_until(busy.began + waiter.comes).await;
        if fetch.as_ref().is_some_and(JoinHandle::is_finished) {
            break;
        }
        let request = JoinRequest {
            cache: &Cache::new(0),
            service: Some(SERVICES[waiter.service]),
            priority: waiter.priority,
            only_unsent: false,
        };
        let follower = match flights.join(&key_of_path("/a"), request, || None) {
            Flight::Leader(mut leader) => {
                let (follower, busy) = (leader.follow(), busy.clone());
                fetch = Some(tokio::spawn(async move {
                    let sent = fetch_with(&busy, leader.bids()).await;
                    leader.complete(0);
                    sent
                }));
                follower
            }
            Flight::Follower(follower) => follower,
            Flight::Stored(_) => unreachable!(),
        };
        let leaves = busy.began + waiter.leaves;
        tokio::spawn(async move { tokio::time::timeout_at(leaves, follower.result()).await });
    }
    fetch.unwrap().await.unwrap()
}

async fn fetch_with(busy: &Busy, bids: watch::Receiver<Bids>) -> (Duration, bool) {
    let is_spare = std::sync::atomic::AtomicBool::new(false);
    let wait = |bid: &Bid| {
        let service = SERVICES.iter().position(|name| **name == *bid.service).unwrap();
        busy.spend(service, bid.priority)
    };
    let unawaited = || async {
        while !busy.is_spare() {
            sleep(Duration::from_millis(50)).await;
        }
        is_spare.store(true, std::sync::atomic::Ordering::SeqCst);
        busy.spend(0, Priority::Low).await
    };
    wait_with(bids, wait, unawaited).await.unwrap().sent();
    (busy.began.elapsed(), is_spare.into_inner())
}

/// At most one event in a millisecond.
fn times(random: &mut Rng, count: usize, offset: u64) -> Vec<Duration> {
    let mut times: Vec<_> = (0..count).map(|_| random.u64(0..800)).collect();
    times.sort_unstable();
    times.dedup();
    times.into_iter().map(|time| Duration::from_millis(time * 10 + offset)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_fetch_is_sent_when_one_who_waits_for_it_would_be() {
    let (mut random, mut spare, mut kept) = (Rng::with_seed(7), 0, 0);
    for round in 0..400 {
        let count = random.usize(0..8);
        let crowd = times(&mut random, count, 1);
        let count = random.usize(1..6);
        let waiters = times(&mut random, count, 3);
        // A service has one priority.
        let priorities = [(); 3].map(|()| PRIORITIES[random.usize(0..3)]);
        let mut waiter = |comes| {
            let (service, stays) = (random.usize(0..3), Duration::from_millis(random.u64(1..250) * 10 + 4));
            Waiter { service, priority: priorities[service], comes, leaves: comes + stays }
        };
        let waiters: Vec<_> = waiters.into_iter().map(&mut waiter).collect();
        let mut alone = Vec::new();
        for waiter in together(&waiters) {
            alone.extend(sent_alone(waiter, &crowd).await);
        }
        let (sent, was_spare) = sent_for_all(&waiters, &crowd).await;
        let told = format!("round {round}: {waiters:?} {crowd:?} alone {alone:?}, sent {sent:?} {was_spare}");
        if was_spare {
            spare += 1;
            assert!(waiters.iter().all(|waiter| !(waiter.comes..waiter.leaves).contains(&sent)), "{told}");
            assert!(alone.iter().all(|alone| *alone > sent), "{told}");
        } else {
            kept += 1;
            assert_eq!(alone.iter().min(), Some(&sent), "{told}");
        }
    }
    assert!(spare > 40 && kept > 100, "{spare} {kept}");
}

/// The waits themselves, beyond what a budget can show.
#[tokio::test]
async fn the_first_refusal_is_the_result_once_all_who_wait_are_refused() {
    let (flights, cache) = (Arc::new(Flights::<u32>::default()), Cache::new(0));
    let join = |service, priority| {
        let request = JoinRequest { cache: &cache, service: Some(service), priority, only_unsent: false };
        flights.join(&key_of_path("/a"), request, || None)
    };
    let Flight::Leader(mut leader) = join("a", Priority::High) else { panic!("first leads") };
    let high = leader.follow();
    let Flight::Follower(_low) = join("b", Priority::Low) else { panic!("second waits") };
    // The urgent one is refused at once and leaves: its refusal is not that of the other one.
    let wait = |bid: &Bid| {
        let is_high = bid.priority == Priority::High;
        async move {
            if !is_high {
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
            }
            Err(if is_high { NotSpent::ServiceDay } else { NotSpent::NothingSpare })
        }
    };
    let waits = wait_with(leader.bids(), wait, std::future::pending);
    let (refused, ()) = tokio::join!(waits, async { drop(high) });
    assert_eq!(refused.err(), Some(NotSpent::NothingSpare));
}

/// Another bid keeps the fetch waiting meanwhile.
#[tokio::test(start_paused = true)]
async fn one_who_comes_later_is_not_refused_with_the_first_of_its_service() {
    // Before the first one is refused, and after.
    for comes in [200, 300] {
        let (flights, cache) = (Arc::new(Flights::<u32>::default()), Cache::new(0));
        let join = |service, priority| {
            let request = JoinRequest { cache: &cache, service: Some(service), priority, only_unsent: false };
            flights.join(&key_of_path("/a"), request, || None)
        };
        let Flight::Leader(mut leader) = join("a", Priority::High) else { panic!("first leads") };
        let _first = leader.follow();
        let Flight::Follower(_low) = join("b", Priority::Low) else { panic!("second waits") };
        let (began, refused_after) = (Instant::now(), Duration::from_millis(250));
        let waits = std::sync::Mutex::new(Vec::new());
        let wait = |bid: &Bid| {
            let is_high = bid.priority == Priority::High;
            if is_high {
                waits.lock().unwrap().push(began.elapsed());
            }
            async move {
                sleep(if is_high { refused_after } else { ROUND }).await;
                Err(NotSpent::NothingSpare)
            }
        };
        let later = async {
            sleep(Duration::from_millis(comes)).await;
            let Flight::Follower(late) = join("a", Priority::High) else { panic!("one flight") };
            sleep(ROUND / 2).await;
            drop(late);
        };
        tokio::select! { _ = wait_with(leader.bids(), wait, std::future::pending) => {}, () = later => {} }
        let again = refused_after.max(Duration::from_millis(comes));
        assert_eq!(waits.into_inner().unwrap(), [Duration::ZERO, again], "and it is refused but once more");
    }
}
