//! The token bucket (GCRA): the only place that turns a [`Rate`] into times.
//!
//! Always holds: of what is kept, in any window of length T at most `burst + T × per_second` tokens are taken (the period
//! of a token is rounded up); a refused take changes nothing; what is given back is as if it had never been taken, also
//! when other takes followed. For that, the takes that are not decided yet are remembered, in order: simply adding
//! tokens back would admit too much once the bucket has refilled meanwhile. Time is tokio's, so tests can pause it. The
//! bucket does not know who takes or why. It fails with [`InsufficientTokens`].

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::Rate;

const SECOND: u64 = 1_000_000_000;

#[derive(Debug)]
pub(super) struct TokenBucket {
    takes: Mutex<Takes>,
    /// Times are nanoseconds since then.
    start: Instant,
    rate: Rate,
    /// Nanoseconds between two tokens.
    period: u64,
    /// Nanoseconds that a full bucket is worth.
    capacity: u64,
}

#[derive(Debug, Default)]
struct Takes {
    /// GCRA's theoretical arrival time: when the bucket will be full again.
    full_at: u64,
    /// The takes from the first undecided one on.
    open: VecDeque<Take>,
    /// Number of the first of `open`.
    first: u64,
}

#[derive(Debug)]
struct Take {
    at: u64,
    /// 0 if they were given back.
    tokens: u32,
    /// `full_at` before this take.
    before: u64,
    decided: bool,
}

/// Why no tokens were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InsufficientTokens {
    /// After this time (above zero) there are enough tokens, unless other requests take some before.
    Until(Duration),
    /// The request is larger than the burst.
    Never,
}

impl TokenBucket {
    pub(super) fn full(rate: Rate) -> Self {
        let period = SECOND.div_ceil(u64::from(rate.per_second.max(1)));
        let capacity = period * u64::from(rate.burst.max(1));
        Self { takes: Mutex::default(), start: Instant::now(), rate, period, capacity }
    }

    /// An empty bucket. A reload starts with one, so that it never grants a burst.
    pub(super) fn empty(rate: Rate) -> Self {
        let bucket = Self::full(rate);
        bucket.takes.lock().full_at = bucket.capacity;
        bucket
    }

    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes all of `tokens`, or none.
    ///
    /// # Errors
    /// [`InsufficientTokens`]; nothing is taken then.
    pub(super) fn take(self: &Arc<Self>, tokens: u32) -> Result<TokenReservation, InsufficientTokens> {
        let worth = self.period * u64::from(tokens);
        if worth > self.capacity {
            return Err(InsufficientTokens::Never);
        }
        let now = self.now();
        let mut takes = self.takes.lock();
        takes.forget_if_full(now);
        let before = takes.full_at;
        let full_at = before.max(now) + worth;
        if full_at > now + self.capacity {
            return Err(InsufficientTokens::Until(Duration::from_nanos(full_at - self.capacity - now)));
        }
        takes.full_at = full_at;
        takes.open.push_back(Take { at: now, tokens, before, decided: false });
        let number = takes.first + takes.open.len() as u64 - 1;
        Ok(TokenReservation { bucket: self.clone(), number: Some(number) })
    }

    /// Time until `tokens` in total could have been taken, one after the other. `tokens` may exceed
    /// the burst, unlike in [`TokenBucket::take`].
    pub(super) fn due_in(&self, tokens: u64) -> Duration {
        let (full_at, now) = (self.takes.lock().full_at, self.now());
        let due = full_at.max(now).saturating_add(tokens.saturating_mul(self.period)).saturating_sub(self.capacity);
        Duration::from_nanos(due.saturating_sub(now))
    }

    /// Tokens that could be taken now.
    pub(super) fn left(&self) -> u32 {
        let (full_at, now) = (self.takes.lock().full_at, self.now());
        let free = self.capacity.saturating_sub(full_at.saturating_sub(now));
        (free / self.period).min(u64::from(self.rate.burst)) as u32
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Takes {
    /// Once the bucket is full, it makes no difference what became of earlier takes.
    fn forget_if_full(&mut self, now: u64) {
        if self.full_at <= now {
            self.first += self.open.len() as u64;
            self.open.clear();
        }
    }

    fn decide(&mut self, number: u64, kept: bool, period: u64) {
        let Some(index) = number.checked_sub(self.first).map(|index| index as usize) else { return };
        let Some(take) = self.open.get_mut(index) else { return };
        take.decided = true;
        if !kept {
            take.tokens = 0;
            let mut full_at = take.before;
            for take in self.open.range_mut(index..) {
                take.before = full_at;
                if take.tokens > 0 {
                    full_at = full_at.max(take.at) + period * u64::from(take.tokens);
                }
            }
            self.full_at = full_at;
        }
        while self.open.front().is_some_and(|take| take.decided) {
            self.open.pop_front();
            self.first += 1;
        }
    }
}

/// Tokens of a bucket; given back when dropped unless kept.
#[derive(Debug)]
#[must_use = "dropping it gives the tokens back"]
pub(super) struct TokenReservation {
    bucket: Arc<TokenBucket>,
    /// `None` once it is decided.
    number: Option<u64>,
}

impl TokenReservation {
    /// Counts the tokens as used.
    pub(super) fn keep(mut self) {
        self.decide(true);
    }

    fn decide(&mut self, kept: bool) {
        if let Some(number) = self.number.take() {
            self.bucket.takes.lock().decide(number, kept, self.bucket.period);
        }
    }
}

impl Drop for TokenReservation {
    fn drop(&mut self) {
        self.decide(false);
    }
}
