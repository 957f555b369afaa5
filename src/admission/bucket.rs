//! The token bucket: the only place that turns a [`Rate`] into a governor quota.
//!
//! Always holds: in any window of length T at most `burst + T × per_second` tokens are taken (the
//! period of a token is rounded up), and a refused take changes nothing. A take is one atomic
//! exchange. Time is tokio's, so tests can pause it. The bucket does not know who takes or why. It
//! fails with [`InsufficientTokens`].

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

#[derive(Debug)]
pub(super) struct TokenBucket {
    limiter: RateLimiter<NotKeyed, ArrivalTime, BucketClock, NoOpMiddleware<Nanos>>,
    arrival: ArrivalTime,
    clock: BucketClock,
    rate: Rate,
    /// Nanoseconds between two tokens.
    period: u64,
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
        Self::with(rate, 0)
    }

    /// An empty bucket. A reload starts with one, so that it never grants a burst.
    pub(super) fn empty(rate: Rate) -> Self {
        Self::with(rate, period(rate) * u64::from(rate.burst.max(1)))
    }

    fn with(rate: Rate, arrival: u64) -> Self {
        let burst = NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN);
        let period = period(rate);
        // `Quota::per_second` rounds the period down and so admits too much.
        let quota = governor::Quota::with_period(Duration::from_nanos(period))
            .unwrap_or_else(|| governor::Quota::per_second(NonZeroU32::MIN))
            .allow_burst(burst);
        let arrival = ArrivalTime(Arc::new(AtomicU64::new(arrival)));
        let clock = BucketClock(Instant::now());
        Self { limiter: RateLimiter::new(quota, arrival.clone(), clock), arrival, clock, rate, period }
    }

    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes all of `tokens`, or none.
    ///
    /// # Errors
    /// [`InsufficientTokens`]; nothing is taken then.
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
        Err(InsufficientTokens::Until(not_until.wait_time_from(self.clock.now()).max(Duration::from_nanos(1))))
    }

    /// Time until `tokens` in total could have been taken, one after the other. `tokens` may exceed
    /// the burst, unlike in [`TokenBucket::take`].
    pub(super) fn due_in(&self, tokens: u64) -> Duration {
        let (arrival, now) = (self.arrival.load(), self.clock.ticks());
        let due = (arrival.max(now) + tokens.saturating_mul(self.period)).saturating_sub(self.capacity());
        Duration::from_nanos(due.saturating_sub(now))
    }

    /// Tokens that could be taken now.
    pub(super) fn left(&self) -> u32 {
        let (arrival, now) = (self.arrival.load(), self.clock.ticks());
        let free = self.capacity().saturating_sub(arrival.saturating_sub(now));
        (free / self.period).min(u64::from(self.rate.burst)) as u32
    }

    /// Nanoseconds that a full bucket is worth.
    fn capacity(&self) -> u64 {
        self.period * u64::from(self.rate.burst.max(1))
    }
}

/// Nanoseconds between two tokens, rounded up.
fn period(rate: Rate) -> u64 {
    SECOND.div_ceil(u64::from(rate.per_second.max(1)))
}

/// Nanoseconds of tokio's clock since the bucket was created. The limiter reads its own start from
/// this a few nanoseconds later; [`TokenBucket::left`] is off by that much.
#[derive(Clone, Copy, Debug)]
struct BucketClock(Instant);

impl BucketClock {
    fn ticks(&self) -> u64 {
        self.now().as_u64()
    }
}

impl Clock for BucketClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.0.elapsed())
    }
}

/// GCRA's theoretical arrival time, in nanoseconds of [`BucketClock`]. governor's own store cannot be
/// read without taking a token.
#[derive(Clone, Debug)]
struct ArrivalTime(Arc<AtomicU64>);

impl ArrivalTime {
    fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl StateStore for ArrivalTime {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut current = self.0.load(Ordering::Acquire);
        loop {
            let (result, next) = decide(Some(Nanos::new(current)))?;
            match self.0.compare_exchange_weak(current, next.into(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(result),
                Err(changed) => current = changed,
            }
        }
    }
}
