//! The wait queue of an account: who waits for its budget, and who is served next.
//!
//! A [`Permit`] is a place in flight, units of the day and tokens of the second, taken together or
//! not at all. Higher priority is served first, then first come, first served. A waiter at the front
//! that cannot be served yet blocks those behind it. A waiter that cannot be served within its
//! [`WaitLimit`] is refused at once.
//!
//! Always holds: a permit that was granted and not taken goes to the next waiter; no lock is held
//! across an await; without waiters, entering costs one atomic load. The queue knows neither services
//! nor requests. It fails with [`Exhausted`].

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
    day::{DayCounter, DayReservation},
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
    waiters: BTreeMap<QueuePosition, QueuedWaiter>,
    /// Waiters so far: numbers the next one.
    arrivals: u64,
}

/// Order of service: higher priority first, then first come, first served.
type QueuePosition = (Reverse<Priority>, u64);

#[derive(Debug)]
struct QueuedWaiter {
    cost: u32,
    wakeup: Arc<Notify>,
    granted: Option<Permit>,
}

/// A place in flight, occupied until this is dropped, and units of the day.
#[derive(Debug)]
pub(super) struct Permit {
    queue: Arc<WaitQueue>,
    /// `None` once the units are used.
    pub(super) day: Option<DayReservation>,
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
        let waiter = self.enqueue(cost, priority);
        loop {
            self.serve();
            let exhausted = match waiter.take_permit() {
                Ok(permit) => return Ok(permit),
                Err(exhausted) => exhausted,
            };
            let now = Instant::now();
            let wake_at = match exhausted {
                Exhausted::InFlight => until,
                Exhausted::Second(InsufficientTokens::Until(due)) if now + due <= until => now + due,
                _ => return Err(exhausted),
            };
            if now >= until {
                return Err(exhausted);
            }
            tokio::select! {
                () = waiter.wakeup.notified() => {}
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
    }

    /// Takes a permit now, or nothing.
    fn try_acquire(self: &Arc<Self>, cost: u32) -> Result<Permit, Exhausted> {
        let free = |occupied: usize| (occupied < self.max_in_flight()).then_some(occupied + 1);
        self.in_flight.fetch_update(SeqCst, SeqCst, free).map_err(|_| Exhausted::InFlight)?;
        // Tokens of the second cannot be given back. So the day is checked before they are taken (a
        // day that is used up costs no tokens) and charged after (a missing token costs no units).
        let second = || self.second.load().as_ref().map_or(Ok(()), |second| second.take(cost));
        match self.day.reserve_after(cost, second) {
            Ok(day) => Ok(Permit { queue: self.clone(), day: Some(day) }),
            Err(insufficient) => {
                self.in_flight.fetch_sub(1, SeqCst);
                Err(insufficient.map_or(Exhausted::Day, Exhausted::Second))
            }
        }
    }

    fn enqueue(self: &Arc<Self>, cost: u32, priority: Priority) -> Waiter {
        let mut state = self.state.lock();
        state.arrivals += 1;
        let position = (Reverse(priority), state.arrivals);
        let wakeup = Arc::new(Notify::new());
        state.waiters.insert(position, QueuedWaiter { cost, wakeup: wakeup.clone(), granted: None });
        self.waiting.store(state.waiters.len(), SeqCst);
        Waiter { queue: self.clone(), position, wakeup }
    }

    /// Grants permits to the waiters at the front, if there are any.
    fn serve_waiters(self: &Arc<Self>) {
        if self.waiting() > 0 {
            self.serve();
        }
    }

    fn serve(self: &Arc<Self>) {
        let mut state = self.state.lock();
        for waiter in state.waiters.values_mut().filter(|waiter| waiter.granted.is_none()) {
            match self.try_acquire(waiter.cost) {
                Ok(permit) => waiter.granted = Some(permit),
                // It can never be served: wake it so that it gives up, and go on with the next.
                Err(exhausted) if exhausted.is_final() => {}
                Err(_) => break,
            }
            waiter.wakeup.notify_one();
        }
    }
}

impl Exhausted {
    /// Whether waiting cannot help.
    fn is_final(self) -> bool {
        matches!(self, Exhausted::Day | Exhausted::Second(InsufficientTokens::Never))
    }
}

/// A request in the queue; leaves it when dropped.
struct Waiter {
    queue: Arc<WaitQueue>,
    position: QueuePosition,
    wakeup: Arc<Notify>,
}

impl Waiter {
    /// The permit if it was granted, else the limit that is short.
    fn take_permit(&self) -> Result<Permit, Exhausted> {
        let queue = &self.queue;
        let mut state = queue.state.lock();
        let Some(own) = state.waiters.get_mut(&self.position) else { return Err(Exhausted::InFlight) };
        if let Some(permit) = own.granted.take() {
            return Ok(permit);
        }
        if !queue.day.has(own.cost) {
            return Err(Exhausted::Day);
        }
        let cost = own.cost;
        match queue.second() {
            Some(second) if cost > second.rate().burst => Err(Exhausted::Second(InsufficientTokens::Never)),
            Some(second) if queue.in_flight() < queue.max_in_flight() => {
                let ahead = state.waiters.range(..=self.position).filter(|(_, waiter)| waiter.granted.is_none());
                let due = second.due_in(ahead.map(|(_, waiter)| u64::from(waiter.cost)).sum());
                Err(Exhausted::Second(InsufficientTokens::Until(due.max(Duration::from_nanos(1)))))
            }
            _ => Err(Exhausted::InFlight),
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        let own = state.waiters.remove(&self.position);
        self.queue.waiting.store(state.waiters.len(), SeqCst);
        // Those behind may be served earlier now.
        for (_, behind) in state.waiters.range(self.position..) {
            behind.wakeup.notify_one();
        }
        drop(state);
        // A permit that was granted and not taken goes to the next waiter; that takes the lock again.
        drop(own);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.queue.in_flight.fetch_sub(1, SeqCst);
        // Units of the day are given back before a waiter is served, which may need them.
        self.day = None;
        self.queue.serve_waiters();
    }
}
