//! Wall time in milliseconds that runs with tokio's clock, so that tests can pause it.
//!
//! Always holds: it never goes back. Never fails.

use jiff::Timestamp;
use tokio::time::Instant;

#[derive(Clone, Copy, Debug)]
pub(super) struct OrderClock {
    started: Instant,
    /// Milliseconds since 1970 at `started`.
    started_at: i64,
}

impl OrderClock {
    /// A clock that shows `now` at this moment.
    pub(super) fn new(now: Timestamp) -> Self {
        OrderClock { started: Instant::now(), started_at: now.as_millisecond() }
    }

    /// Milliseconds since 1970.
    pub(super) fn now(&self) -> i64 {
        let elapsed = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.started_at.saturating_add(elapsed)
    }
}
