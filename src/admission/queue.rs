//! The line: who waits for an account's turn, and who goes next.
//!
//! A turn is a place in flight, the day's units and the second's tokens, taken together or not at
//! all: place first, because it can be put back. Higher priority goes first, then who
//! came first; whoever is first and can't go holds the line. One who could not go before his limit is
//! refused at once. What always holds: a turn that nobody took goes to the next; no lock is held over
//! an await; an idle line costs one load. It must not know services or requests.

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
    day::{DayCounter, Reserved},
};
use crate::config::{Priority, Rate};

/// The three limits of an account, and who waits for them.
#[derive(Debug)]
pub(super) struct WaitQueue {
    second: ArcSwapOption<TokenBucket>,
    pub(super) day: Arc<DayCounter>,
    /// Requests at the same time.
    cap: AtomicUsize,
    in_flight: AtomicUsize,
    waiting: AtomicUsize,
    queue: Mutex<WaitQueueState>,
}

#[derive(Debug, Default)]
struct WaitQueueState {
    seats: BTreeMap<QueuePosition, QueuedWaiter>,
    came: u64,
}

/// Where in the line: higher priority first, then who came first.
type QueuePosition = (Reverse<Priority>, u64);

#[derive(Debug)]
struct QueuedWaiter {
    cost: u32,
    turn: Arc<Notify>,
    granted: Option<Permit>,
}

/// A place in flight, held until it is dropped, and units of the day.
#[derive(Debug)]
pub(super) struct Permit {
    line: Arc<WaitQueue>,
    pub(super) day: Option<Reserved>,
}

/// How long a request may wait: so long, and never beyond its deadline.
#[derive(Clone, Copy, Debug)]
pub(super) struct WaitLimit {
    pub(super) at_most: Duration,
    pub(super) deadline: Instant,
}

/// What is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exhausted {
    /// Everything in flight is taken.
    InFlight,
    /// Tokens of the second; there is one again after this time.
    Second(InsufficientTokens),
    /// Units of the day.
    Day,
}

impl WaitQueue {
    pub(super) fn new(second: Option<Rate>, day: Arc<DayCounter>, cap: usize) -> Self {
        Self {
            second: ArcSwapOption::from(second.map(|rate| Arc::new(TokenBucket::full(rate)))),
            day,
            cap: AtomicUsize::new(cap),
            in_flight: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            queue: Mutex::new(WaitQueueState::default()),
        }
    }

    /// Changes the limits under those that are in flight or wait. A changed rate starts empty.
    pub(super) fn resize(self: &Arc<Self>, second: Option<Rate>, cap: usize) {
        if self.second().map(|bucket| bucket.rate()) != second {
            self.second.store(second.map(|rate| Arc::new(TokenBucket::empty(rate))));
        }
        self.cap.store(cap, SeqCst);
        self.call();
    }

    /// The bucket of the second, if there is a limit.
    pub(super) fn second(&self) -> Option<Arc<TokenBucket>> {
        self.second.load_full()
    }

    pub(super) fn cap(&self) -> usize {
        self.cap.load(SeqCst)
    }

    /// Requests in flight, and requests that wait.
    pub(super) fn load(&self) -> (usize, usize) {
        (self.in_flight.load(SeqCst), self.waiting.load(SeqCst))
    }

    /// Takes a turn, waiting for it no longer than `patience`.
    ///
    /// # Errors
    /// [`Exhausted`] says what was missing, at once if the wait would be in vain.
    pub(super) async fn turn(
        self: &Arc<Self>,
        cost: u32,
        priority: Priority,
        patience: WaitLimit,
    ) -> Result<Permit, Exhausted> {
        if self.waiting.load(SeqCst) == 0 {
            match self.take(cost) {
                Ok(turn) => return Ok(turn),
                Err(short) if short.is_final() => {
                    // For a moment it held a place that somebody may have missed.
                    self.call();
                    return Err(short);
                }
                Err(_) => {}
            }
        }
        // The clock is read only by those who have to wait; they are few, so what they need is on the heap.
        Box::pin(self.wait(cost, priority, patience.deadline.min(Instant::now() + patience.at_most))).await
    }

    async fn wait(self: &Arc<Self>, cost: u32, priority: Priority, until: Instant) -> Result<Permit, Exhausted> {
        let waiter = self.join(cost, priority);
        loop {
            self.serve();
            let short = match waiter.look() {
                Ok(turn) => return Ok(turn),
                Err(short) => short,
            };
            let now = Instant::now();
            let wake = match short {
                Exhausted::InFlight => until,
                Exhausted::Second(InsufficientTokens::Until(due)) if now + due <= until => now + due,
                _ => return Err(short),
            };
            if now >= until {
                return Err(short);
            }
            tokio::select! {
                () = waiter.turn.notified() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Takes a turn now, or nothing.
    fn take(self: &Arc<Self>, cost: u32) -> Result<Permit, Exhausted> {
        let place = self.in_flight.fetch_update(SeqCst, SeqCst, |taken| (taken < self.cap()).then_some(taken + 1));
        place.map_err(|_| Exhausted::InFlight)?;
        // The second has no refund, so the day is looked at before and charged after it: a day that
        // is used up drains nothing, and one that isn't is never charged for a moment in vain.
        let second = || self.second.load().as_ref().map_or(Ok(()), |second| second.take(cost));
        match self.day.reserve_after(cost, second) {
            Ok(day) => Ok(Permit { line: self.clone(), day: Some(day) }),
            Err(short) => {
                self.in_flight.fetch_sub(1, SeqCst);
                Err(short.map_or(Exhausted::Day, Exhausted::Second))
            }
        }
    }

    fn join(self: &Arc<Self>, cost: u32, priority: Priority) -> Waiter {
        let mut queue = self.queue.lock();
        queue.came += 1;
        let place = (Reverse(priority), queue.came);
        let turn = Arc::new(Notify::new());
        queue.seats.insert(place, QueuedWaiter { cost, turn: turn.clone(), granted: None });
        self.waiting.store(queue.seats.len(), SeqCst);
        Waiter { line: self.clone(), place, turn }
    }

    /// Gives turns to those in front, if there is anybody.
    fn call(self: &Arc<Self>) {
        if self.waiting.load(SeqCst) > 0 {
            self.serve();
        }
    }

    fn serve(self: &Arc<Self>) {
        let mut queue = self.queue.lock();
        for seat in queue.seats.values_mut().filter(|seat| seat.granted.is_none()) {
            match self.take(seat.cost) {
                Ok(turn) => seat.granted = Some(turn),
                // This one can never go, and shall find out; it doesn't hold up the others.
                Err(short) if short.is_final() => {}
                Err(_) => break,
            }
            seat.turn.notify_one();
        }
    }
}

impl Exhausted {
    /// Whether waiting is of no use.
    fn is_final(self) -> bool {
        matches!(self, Exhausted::Day | Exhausted::Second(InsufficientTokens::Never))
    }
}

/// Somebody in the line; leaves it when dropped.
struct Waiter {
    line: Arc<WaitQueue>,
    place: QueuePosition,
    turn: Arc<Notify>,
}

impl Waiter {
    /// The turn if it was granted, else what is short for it.
    fn look(&self) -> Result<Permit, Exhausted> {
        let line = &self.line;
        let mut queue = line.queue.lock();
        let Some(seat) = queue.seats.get_mut(&self.place) else { return Err(Exhausted::InFlight) };
        if let Some(turn) = seat.granted.take() {
            return Ok(turn);
        }
        if !line.day.covers(seat.cost) {
            return Err(Exhausted::Day);
        }
        let cost = seat.cost;
        match line.second() {
            Some(second) if cost > second.rate().burst => Err(Exhausted::Second(InsufficientTokens::Never)),
            Some(second) if line.in_flight.load(SeqCst) < line.cap() => {
                let ahead = queue.seats.range(..=self.place).filter(|(_, seat)| seat.granted.is_none());
                let due = second.due_in(ahead.map(|(_, seat)| u64::from(seat.cost)).sum());
                Err(Exhausted::Second(InsufficientTokens::Until(due.max(Duration::from_nanos(1)))))
            }
            _ => Err(Exhausted::InFlight),
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut queue = self.line.queue.lock();
        let seat = queue.seats.remove(&self.place);
        self.line.waiting.store(queue.seats.len(), SeqCst);
        // Whoever came behind is nearer now.
        for (_, behind) in queue.seats.range(self.place..) {
            behind.turn.notify_one();
        }
        drop(queue);
        // A turn that was granted and not taken goes to the next, which takes the lock again.
        drop(seat);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.line.in_flight.fetch_sub(1, SeqCst);
        // Units of the day go back before somebody else looks for some.
        self.day = None;
        self.line.call();
    }
}
