//! How the calls of the last time ended, in a rolling window.
//!
//! What always holds: what is older than the window does not count; the window is exact to a tenth of its length. Must
//! not know what a call is. Never fails.

use std::time::Duration;

use tokio::time::Instant;

/// Parts of the window. The oldest part is forgotten at once.
const PARTS: usize = 10;

/// Counts of a window, or of a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Calls {
    /// All of them.
    pub(super) total: u32,
    pub(super) failed: u32,
    /// Those that did not fail, but took longer than they should.
    pub(super) slow: u32,
}

impl Calls {
    fn add(self, other: Calls) -> Calls {
        Calls {
            total: self.total.saturating_add(other.total),
            failed: self.failed.saturating_add(other.failed),
            slow: self.slow.saturating_add(other.slow),
        }
    }
}

#[derive(Debug)]
pub(super) struct Window {
    parts: [Calls; PARTS],
    /// Number, since `start`, of the part that is being counted in.
    part: u64,
    start: Instant,
}

impl Window {
    pub(super) fn new(now: Instant) -> Self {
        Window { parts: Default::default(), part: 0, start: now }
    }

    /// Adds calls that end at `now`, and returns what a window of this length contains.
    pub(super) fn add(&mut self, calls: Calls, length: Duration, now: Instant) -> Calls {
        let length = (length / PARTS as u32).max(Duration::from_millis(1));
        let part = (now.saturating_duration_since(self.start).as_nanos() / length.as_nanos()) as u64;
        for expired in (self.part + 1..=part).take(PARTS) {
            self.parts[(expired % PARTS as u64) as usize] = Calls::default();
        }
        self.part = part.max(self.part);
        let current = &mut self.parts[(self.part % PARTS as u64) as usize];
        *current = current.add(calls);
        self.parts.iter().fold(Calls::default(), |sum, part| sum.add(*part))
    }
}
