//! Milliseconds since 1970, running with tokio's clock so that paused time works.

use jiff::Timestamp;
use tokio::time::Instant;

/// A wall time that was true once, and how long ago that was.
#[derive(Clone, Copy, Debug)]
pub(super) struct OrderClock {
    started: Instant,
    wall: i64,
}

impl OrderClock {
    /// A clock that shows `wall` now.
    pub(super) fn new(wall: Timestamp) -> Self {
        OrderClock { started: Instant::now(), wall: wall.as_millisecond() }
    }

    /// Milliseconds since 1970; never goes back.
    pub(super) fn now(&self) -> i64 {
        let run = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.wall.saturating_add(run)
    }
}
