//! The wall clock of the day counters.
//!
//! [`WallClock::system`] reads the system clock at each call, so corrections and suspends are
//! followed. [`WallClock::anchored`] runs with tokio's clock, so tests can pause it and cross
//! midnight. Never fails.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A source of wall time.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    anchor: Option<Anchor>,
}

#[derive(Clone, Copy, Debug)]
struct Anchor {
    /// Milliseconds since 1970 (UTC) at `at`.
    millis: i64,
    at: Instant,
}

impl WallClock {
    /// The system clock.
    pub fn system() -> Self {
        Self { anchor: None }
    }

    /// A clock that reads `now` at this moment and runs with tokio's clock.
    pub fn anchored(now: jiff::Timestamp) -> Self {
        Self { anchor: Some(Anchor { millis: now.as_millisecond(), at: Instant::now() }) }
    }

    /// Milliseconds since 1970 (UTC); 0 if the system clock is before that.
    pub(super) fn millis(&self) -> i64 {
        match self.anchor {
            None => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64),
            Some(anchor) => anchor.millis + anchor.at.elapsed().as_millis() as i64,
        }
    }
}
