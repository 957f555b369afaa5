//! The wait queue of an account: which requests wait for its budget, and which is served next.
//!
//! A [`Permit`] is a place in flight, units of the day and tokens of the second, taken together or not at all.
//! Higher priority is served first, then first come, first served. The waiter at the head that cannot be served
//! yet blocks those behind it, and only it has a timer: for the instant at which its tokens are due. A waiter
//! that cannot be served within its [`WaitLimit`] is refused when it arrives, before it is queued.
//!
//! Always holds: no request waits while a place and the tokens for it are free; a permit that was granted and
//! not taken goes to the next waiter; no lock is held across an await; without waiters, entering costs one
//! atomic load; an event wakes only the waiters that it grants or refuses, and the head. The queue knows
//! neither services nor requests. It fails with [`Exhausted`].

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{
    bucket::{InsufficientTokens, TokenBucket},
    claim::Claim,
    day::{DayCounter, DayShortage},
};
use crate::config::{Priority, Rate};

/// The three limits of an account and the requests that wait for them.
#[derive(Debug)]
pub(super) struct WaitQueue {
    second: ArcSwapOption<TokenBucket>,
    pub(super) day: Arc<DayCounter>,
    max_in_flight: AtomicUsize,
    in_flight: AtomicUsize,
    /// Length of `state.waiters`, readable without the lock.
    waiting: AtomicUsize,
    state: Mutex<WaitQueueState>,
}

#[derive(Debug, Default)]
struct WaitQueueState {
    /// The undecided waiters, in the order of service.
    waiters: BTreeMap<QueuePosition, QueuedWaiter>,
    /// Waiters so far: numbers the next one.
    arrivals: u64,
    /// Sum of the costs of `waiters`, by priority.
    queued_cost: BTreeMap<Reverse<Priority>, u64>,
    head: Option<Head>,
}

/// Order of service: higher priority first, then first come, first served.
type QueuePosition = (Reverse<Priority>, u64);

#[derive(Debug)]
struct QueuedWaiter {
    cost: u32,
    outcome: Arc<WaitOutcome>,
}

/// The first undecided waiter, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Head {
    position: QueuePosition,
    /// When its tokens are due; `None` while it waits for a place in flight.
    due: Option<Instant>,
}

/// What the queue tells one waiter.
#[derive(Debug, Default)]
struct WaitOutcome {
    decision: Mutex<Option<Result<Permit, Exhausted>>>,
    /// A decision was made, or the waiter has become the head or got another due time.
    changed: Notify,
}

/// A place in flight, occupied until this is dropped, and what was taken of the windows.
#[derive(Debug)]
pub(super) struct Permit {
    queue: Arc<WaitQueue>,
    pub(super) claim: Claim,
}

/// How long a request may wait: `at_most` from now, and never beyond `deadline`.
#[derive(Clone, Copy, Debug)]
pub(super) struct WaitLimit {
    pub(super) at_most: Duration,
    pub(super) deadline: Instant,
}

/// The limit that is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exhausted {
    /// All places in flight are occupied.
    InFlight,
    Second(InsufficientTokens),
    Day,
    /// The ledger has not granted the units of the day yet.
    NotLeased,
}

impl From<DayShortage> for Exhausted {
    fn from(shortage: DayShortage) -> Self {
        match shortage {
            DayShortage::Exhausted => Exhausted::Day,
            DayShortage::NotLeased => Exhausted::NotLeased,
        }
    }
}

impl WaitQueue {
    pub(super) fn new(second: Option<Rate>, day: Arc<DayCounter>, max_in_flight: usize) -> Self {
        Self {
            second: ArcSwapOption::from(second.map(|rate| Arc::new(TokenBucket::full(rate)))),
            day,
            max_in_flight: AtomicUsize::new(max_in_flight),
            in_flight: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            state: Mutex::new(WaitQueueState::default()),
        }
    }

    /// Changes the limits while requests are in flight or wait. A changed rate starts with an empty
    /// bucket.
    pub(super) fn resize(self: &Arc<Self>, second: Option<Rate>, max_in_flight: usize) {
        if self.second().map(|bucket| bucket.rate()) != second {
            self.second.store(second.map(|rate| Arc::new(TokenBucket::empty(rate))));
        }
        self.max_in_flight.store(max_in_flight, SeqCst);
        self.serve_waiters();
    }

    /// The bucket of the second; `None` if unlimited.
    pub(super) fn second(&self) -> Option<Arc<TokenBucket>> {
        self.second.load_full()
    }

    pub(super) fn max_in_flight(&self) -> usize {
        self.max_in_flight.load(SeqCst)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(SeqCst)
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// Takes a permit, waiting for it within `limit`.
    ///
    /// # Errors
    /// [`Exhausted`] names the limit that was short; at once if waiting cannot help.
    pub(super) async fn acquire(
        self: &Arc<Self>,
        cost: u32,
        priority: Priority,
        limit: WaitLimit,
    ) -> Result<Permit, Exhausted> {
        if self.waiting() == 0 {
            match self.try_acquire(cost) {
                Ok(permit) => return Ok(permit),
                Err(exhausted) if exhausted.is_final() => {
                    // It held a place for a moment, and another request may have found none.
                    self.serve_waiters();
                    return Err(exhausted);
                }
                Err(_) => {}
            }
        }
        // Only waiting requests read the clock. They are few, so their state is on the heap.
        Box::pin(self.wait(cost, priority, limit.deadline.min(Instant::now() + limit.at_most))).await
    }

    async fn wait(self: &Arc<Self>, cost: u32, priority: Priority, until: Instant) -> Result<Permit, Exhausted> {
        let waiter = self.enqueue(cost, priority, until)?;
        loop {
            if let Some(decision) = waiter.outcome.decision.lock().take() {
                return decision;
            }
            if Instant::now() >= until {
                return Err(self.shortage(cost));
            }
            let wake_at = waiter.due().map_or(until, |due| due.min(until));
            tokio::select! {
                () = waiter.outcome.changed.notified() => {}
                () = tokio::time::sleep_until(wake_at) => self.serve(&mut self.state.lock()),
            }
        }
    }

    /// Takes a permit now, or nothing.
    fn try_acquire(self: &Arc<Self>, cost: u32) -> Result<Permit, Exhausted> {
        let free = |occupied: usize| (occupied < self.max_in_flight()).then_some(occupied + 1);
        self.in_flight.fetch_update(SeqCst, SeqCst, free).map_err(|_| Exhausted::InFlight)?;
        let claim = || {
            let day = Some(self.day.reserve(cost)?);
            let second = self.second.load().as_ref().map(|second| second.take(cost)).transpose();
            Ok(Claim { second: second.map_err(Exhausted::Second)?, day, ..Claim::default() })
        };
        match claim() {
            Ok(claim) => Ok(Permit { queue: self.clone(), claim }),
            Err(exhausted) => {
                self.in_flight.fetch_sub(1, SeqCst);
                Err(exhausted)
            }
        }
    }

    /// Queues a waiter that can be served by `until`, and serves the queue.
    fn enqueue(self: &Arc<Self>, cost: u32, priority: Priority, until: Instant) -> Result<Waiter, Exhausted> {
        if !self.day.has(cost) {
            return Err(Exhausted::Day);
        }
        let mut state = self.state.lock();
        if let Some(second) = self.second() {
            if cost > second.rate().burst {
                return Err(Exhausted::Second(InsufficientTokens::Never));
            }
            let ahead: u64 = state.queued_cost.range(..=Reverse(priority)).map(|(_, cost)| cost).sum();
            let due = second.due_in(ahead + u64::from(cost));
            if Instant::now() + due > until {
                return Err(Exhausted::Second(InsufficientTokens::Until(due)));
            }
        }
        state.arrivals += 1;
        let position = (Reverse(priority), state.arrivals);
        let outcome = Arc::new(WaitOutcome::default());
        *state.queued_cost.entry(position.0).or_default() += u64::from(cost);
        state.waiters.insert(position, QueuedWaiter { cost, outcome: outcome.clone() });
        self.serve(&mut state);
        Ok(Waiter { queue: self.clone(), position, outcome })
    }

    /// Serves the queue, if anybody waits.
    fn serve_waiters(self: &Arc<Self>) {
        if self.waiting() > 0 {
            self.serve(&mut self.state.lock());
        }
    }

    /// Decides as many waiters as can be decided now, and tells the head when its tokens are due.
    fn serve(self: &Arc<Self>, state: &mut WaitQueueState) {
        let mut head = None;
        while let Some((&position, waiter)) = state.waiters.first_key_value() {
            let decision = match self.try_acquire(waiter.cost) {
                Ok(permit) => Ok(permit),
                Err(exhausted) if exhausted.is_final() => Err(exhausted),
                Err(exhausted) => {
                    let due = match exhausted {
                        Exhausted::Second(InsufficientTokens::Until(due)) => Some(Instant::now() + due),
                        _ => None,
                    };
                    head = Some(Head { position, due });
                    if state.head != head {
                        waiter.outcome.changed.notify_one();
                    }
                    break;
                }
            };
            if let Some(waiter) = state.remove(position) {
                *waiter.outcome.decision.lock() = Some(decision);
                waiter.outcome.changed.notify_one();
            }
        }
        state.head = head;
        self.waiting.store(state.waiters.len(), SeqCst);
    }

    /// The limit that a waiter lacks when its time is up.
    fn shortage(&self, cost: u32) -> Exhausted {
        match self.second() {
            Some(second) if self.in_flight() < self.max_in_flight() => {
                Exhausted::Second(InsufficientTokens::Until(second.due_in(u64::from(cost))))
            }
            _ => Exhausted::InFlight,
        }
    }
}

impl WaitQueueState {
    fn remove(&mut self, position: QueuePosition) -> Option<QueuedWaiter> {
        let waiter = self.waiters.remove(&position)?;
        if let Some(cost) = self.queued_cost.get_mut(&position.0) {
            *cost -= u64::from(waiter.cost);
        }
        Some(waiter)
    }
}

impl Exhausted {
    /// Whether waiting cannot help.
    fn is_final(self) -> bool {
        matches!(self, Exhausted::Day | Exhausted::NotLeased | Exhausted::Second(InsufficientTokens::Never))
    }
}

/// A request in the queue; leaves it when dropped.
struct Waiter {
    queue: Arc<WaitQueue>,
    position: QueuePosition,
    outcome: Arc<WaitOutcome>,
}

impl Waiter {
    /// When the tokens for this waiter are due, if it is the head of the queue and waits for tokens.
    fn due(&self) -> Option<Instant> {
        let state = self.queue.state.lock();
        state.head.filter(|head| head.position == self.position)?.due
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        if state.remove(self.position).is_some() {
            // The next one may cost less, or needs the timer.
            self.queue.serve(&mut state);
        }
        drop(state);
        // A permit that was granted and not taken goes to the next waiter; that takes the lock again.
        let decision = self.outcome.decision.lock().take();
        drop(decision);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.queue.in_flight.fetch_sub(1, SeqCst);
        // Given back before a waiter is served, which may need them.
        self.claim = Claim::default();
        self.queue.serve_waiters();
    }
}
