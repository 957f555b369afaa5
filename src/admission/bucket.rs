//! The token bucket: the one place that turns [`Rate`] into a governor quota.
//!
//! What always holds: in any window of length T at most `burst + T × per_second` tokens are taken
//! (the period of a token is rounded up), one atomic exchange a take, and a refused take changes
//! nothing. Time is tokio's, so a paused clock works. It must not know who takes, or why. It fails
//! only with the time to wait.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use governor::{
    RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{NotKeyed, StateStore},
};
use tokio::time::Instant;

use crate::config::Rate;

const SECOND: u64 = 1_000_000_000;

/// A token bucket.
#[derive(Debug)]
pub(super) struct TokenBucket {
    limiter: RateLimiter<NotKeyed, ArrivalTime, BucketClock, NoOpMiddleware<Nanos>>,
    arrival: ArrivalTime,
    ticks: BucketClock,
    rate: Rate,
    /// Nanoseconds between two tokens.
    period: u64,
}

/// Why a bucket gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InsufficientTokens {
    /// There will be enough after this time, if nobody else takes; above zero.
    Until(Duration),
    /// More than the bucket can ever hold.
    Never,
}

impl TokenBucket {
    /// A full bucket.
    pub(super) fn full(rate: Rate) -> Self {
        Self::with(rate, 0)
    }

    /// An empty bucket: what takes the place of another, so that a reload never hands out a burst.
    pub(super) fn empty(rate: Rate) -> Self {
        Self::with(rate, period(rate) * u64::from(rate.burst.max(1)))
    }

    fn with(rate: Rate, arrival: u64) -> Self {
        let burst = NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN);
        let period = period(rate);
        // `Quota::per_second` would round the period down, and so give too much.
        let quota = governor::Quota::with_period(Duration::from_nanos(period))
            .unwrap_or_else(|| governor::Quota::per_second(NonZeroU32::MIN))
            .allow_burst(burst);
        let arrival = ArrivalTime(Arc::new(AtomicU64::new(arrival)));
        let ticks = BucketClock(Instant::now());
        Self { limiter: RateLimiter::new(quota, arrival.clone(), ticks), arrival, ticks, rate, period }
    }

    /// What it was made of.
    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes `tokens` at once, or none.
    ///
    /// # Errors
    /// [`InsufficientTokens`] when there are not enough.
    pub(super) fn take(&self, tokens: u32) -> Result<(), InsufficientTokens> {
        let not_until = match tokens {
            0 => return Ok(()),
            1 => match self.limiter.check() {
                Ok(()) => return Ok(()),
                Err(not_until) => not_until,
            },
            _ => match self.limiter.check_n(NonZeroU32::MIN.saturating_add(tokens - 1)) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(not_until)) => not_until,
                Err(_) => return Err(InsufficientTokens::Never),
            },
        };
        Err(InsufficientTokens::Until(not_until.wait_time_from(self.ticks.now()).max(Duration::from_nanos(1))))
    }

    /// How long until `tokens` in all could have been taken, one after the other, from now on.
    /// Unlike [`TokenBucket::take`] it may be asked for more than the bucket holds at once.
    pub(super) fn due_in(&self, tokens: u64) -> Duration {
        let (arrival, now) = self.look();
        let due = (arrival.max(now) + tokens.saturating_mul(self.period)).saturating_sub(self.capacity());
        Duration::from_nanos(due.saturating_sub(now))
    }

    /// Tokens that could be taken at this moment.
    pub(super) fn left(&self) -> u32 {
        let (arrival, now) = self.look();
        let free = self.capacity().saturating_sub(arrival.saturating_sub(now));
        (free / self.period).min(u64::from(self.rate.burst)) as u32
    }

    fn look(&self) -> (u64, u64) {
        (self.arrival.0.load(Ordering::Relaxed), self.ticks.now().as_u64())
    }

    fn capacity(&self) -> u64 {
        self.period * u64::from(self.rate.burst.max(1))
    }
}

fn period(rate: Rate) -> u64 {
    SECOND.div_ceil(u64::from(rate.per_second.max(1)))
}

/// Nanoseconds of tokio's clock since the bucket was made. (The limiter reads its own start from this
/// some nanoseconds later; what [`TokenBucket::left`] says is off by that much.)
#[derive(Clone, Copy, Debug)]
struct BucketClock(Instant);

impl Clock for BucketClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.0.elapsed())
    }
}

/// GCRA's theoretical arrival time, in ticks. governor's own store can't be read without taking.
#[derive(Clone, Debug)]
struct ArrivalTime(Arc<AtomicU64>);

impl StateStore for ArrivalTime {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut seen = self.0.load(Ordering::Acquire);
        loop {
            let (answer, next) = decide(Some(Nanos::new(seen)))?;
            match self.0.compare_exchange_weak(seen, next.into(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(answer),
                Err(now) => seen = now,
            }
        }
    }
}
