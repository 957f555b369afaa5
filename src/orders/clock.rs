//! The clock that the ages of orders are measured by: it counts only while the gateway runs.
//!
//! A wall clock may be wrong at a start and be corrected later, in both directions: ages by it would forget unknown
//! orders too early. So this clock goes on after a restart where it was last seen, and shows wall time only at its very
//! first start. What was remembered is then remembered for longer, by the time in which the gateway did not run. It runs
//! with tokio's clock, so that tests can pause it.
//!
//! Always holds: it never goes back. Never fails.

use jiff::Timestamp;
use tokio::time::Instant;

use crate::store::{StoreTable, StoredRow};

/// What the clock showed, under [`CLOCK_KEY`].
pub(super) const CLOCK: StoreTable<ClockRow> = StoreTable::new("orders.clock");
pub(super) const CLOCK_KEY: &[u8] = b"";

#[derive(Clone, Copy, Debug)]
pub(super) struct OrderClock {
    started: Instant,
    /// What it showed at `started`, milliseconds.
    started_at: i64,
}

impl OrderClock {
    /// A clock that goes on from `last`; at the very first start, from the wall clock.
    pub(super) fn new(last: Option<ClockRow>, wall: Timestamp) -> Self {
        let started_at = last.map_or_else(|| wall.as_millisecond(), |last| last.0);
        OrderClock { started: Instant::now(), started_at }
    }

    /// Milliseconds.
    pub(super) fn now(&self) -> i64 {
        let elapsed = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.started_at.saturating_add(elapsed)
    }
}

/// What the clock showed, milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClockRow(pub(super) i64);

impl StoredRow for ClockRow {
    fn encode(&self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(ClockRow(i64::from_be_bytes(bytes.try_into().ok()?)))
    }
}
