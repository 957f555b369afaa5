//! The wall clock of the day counters.
//!
//! [`WallClock::system`] reads the system clock at each call, so corrections and suspends are
//! followed. [`WallClock::anchored`] runs with tokio's clock, so tests can pause it and cross
//! midnight. [`WallClock::stepped`] reads what a test has set. Never fails.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use crate::clock_jumps::settled_time;

/// A source of wall time.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    source: TimeSource,
}

#[derive(Clone, Copy, Debug)]
enum TimeSource {
    System,
    Anchored(Anchor),
    Stepped(&'static AtomicI64),
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
        Self { source: TimeSource::System }
    }

    /// A clock that reads `now` at this moment and runs with tokio's clock.
    pub fn anchored(now: jiff::Timestamp) -> Self {
        Self { source: TimeSource::Anchored(Anchor { millis: now.as_millisecond(), at: Instant::now() }) }
    }

    /// A clock that reads these milliseconds since 1970 (UTC).
    pub fn stepped(millis: &'static AtomicI64) -> Self {
        Self { source: TimeSource::Stepped(millis) }
    }

    /// Milliseconds since 1970 (UTC) for the end of overrides: the system clock without its momentary jumps.
    pub(super) fn settled_millis(&self) -> i64 {
        if matches!(self.source, TimeSource::System) { since_1970(settled_time()) } else { self.millis() }
    }

    /// Milliseconds since 1970 (UTC); 0 if the system clock is before that.
    pub(super) fn millis(&self) -> i64 {
        match self.source {
            TimeSource::System => since_1970(SystemTime::now()),
            TimeSource::Stepped(millis) => millis.load(Ordering::Relaxed),
            TimeSource::Anchored(anchor) => anchor.millis + anchor.at.elapsed().as_millis() as i64,
        }
    }
}

fn since_1970(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
