//! The token bucket of a service's quota: [`Tokens`] behind a lock, on tokio's clock, so that tests can pause it.
//!
//! Always holds: what [`Tokens`] promises; what is not kept goes back. It fails with [`InsufficientTokens`].

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    bucket_start::BucketStart,
    tokens::{FillRate, InsufficientTokens, Tokens},
};
use crate::config::Rate;

#[derive(Debug)]
pub(super) struct TokenBucket {
    tokens: Mutex<Tokens>,
    /// Times are nanoseconds since then.
    start: Instant,
}

impl TokenBucket {
    pub(super) fn new(rate: Rate, begins: BucketStart) -> Self {
        let fill = FillRate::of(rate);
        let mut tokens = Tokens::full(fill);
        tokens.fill_until(begins.full_in(fill));
        Self { tokens: Mutex::new(tokens), start: Instant::now() }
    }

    /// An empty bucket: a limit that is set while the gateway runs grants no burst.
    pub(super) fn empty(rate: Rate) -> Self {
        Self::new(rate, BucketStart::Unknown { age: Duration::ZERO })
    }

    /// Changes the rate. The tokens in the bucket stay, as far as it holds them: a change grants no burst, and a raised
    /// limit refuses nothing that the previous one did not.
    pub(super) fn set_rate(&self, rate: Rate) {
        self.tokens.lock().refill(FillRate::of(rate), self.nanos(Instant::now()));
    }

    /// Takes all of `tokens`, or none. `now`: the present time.
    ///
    /// # Errors
    /// [`InsufficientTokens`]; nothing is taken then.
    pub(super) fn take(self: &Arc<Self>, tokens: u32, now: Instant) -> Result<TokenReservation, InsufficientTokens> {
        let number = self.tokens.lock().take(tokens, self.nanos(now))?;
        Ok(TokenReservation { bucket: self.clone(), number: Some(number) })
    }

    /// Tokens that could be taken at `now`, the present time.
    pub(super) fn left(&self, now: Instant) -> u64 {
        self.tokens.lock().left(self.nanos(now))
    }

    fn nanos(&self, now: Instant) -> u64 {
        nanos_between(self.start, now)
    }
}

/// Nanoseconds since `start`; 584 years at most.
pub(super) fn nanos_since(start: Instant) -> u64 {
    nanos_between(start, Instant::now())
}

fn nanos_between(start: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(start).as_nanos()).unwrap_or(u64::MAX)
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
            self.bucket.tokens.lock().decide(number, kept);
        }
    }
}

impl Drop for TokenReservation {
    fn drop(&mut self) {
        self.decide(false);
    }
}
