//! The calendar's clock: where the day ledger learns what time it is.
//!
//! [`WallClock::system`] reads the machine's clock at each call, so a corrected or woken clock is
//! followed. [`WallClock::anchored`] follows tokio's clock instead, so a test can pause it and walk
//! over midnight. Never fails.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A source of wall time.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    anchor: Option<(i64, Instant)>,
}

impl WallClock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self { anchor: None }
    }

    /// A clock that shows `now` at this moment and goes on with tokio's clock.
    pub fn anchored(now: jiff::Timestamp) -> Self {
        Self { anchor: Some((now.as_millisecond(), Instant::now())) }
    }

    /// Milliseconds since 1970 (UTC).
    pub fn millis(&self) -> i64 {
        match self.anchor {
            None => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64),
            Some((start, at)) => start + at.elapsed().as_millis() as i64,
        }
    }
}
