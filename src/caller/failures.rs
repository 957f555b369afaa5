//! Failed proofs of identity, counted by peer: guesses are slowed down, correct proofs never are.
//!
//! Counts the failed proofs of about the last minute in a table of fixed size, by [`PeerSlots`]. Peers that share a slot share
//! a count; this concerns only proofs that fail. Never fails.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::peer::{PeerSlots, SLOTS};

/// Failed proof within a minute from which on a peer is slowed down.
const LIMIT: u32 = 300;
/// A minute is counted in parts of this length.
const PART: Duration = Duration::from_secs(5);
/// Parts of a minute, and the one that is in progress.
const PARTS: usize = 13;

/// The table.
pub(super) struct FailedProofs {
    slots: PeerSlots,
    since: Instant,
    counts: Box<[Mutex<FailureCount>]>,
}

/// The count of one slot.
#[derive(Default)]
struct FailureCount {
    /// The part in which the last proof failed.
    last: u64,
    /// By part, modulo their number.
    parts: [u16; PARTS],
}

impl Default for FailedProofs {
    fn default() -> Self {
        let counts = (0..SLOTS).map(|_| Mutex::default()).collect();
        FailedProofs { slots: PeerSlots::default(), since: Instant::now(), counts }
    }
}

impl FailedProofs {
    /// Counts a failed proof. Returns how long the peer is to wait if there were too many.
    pub(super) fn count(&self, peer: IpAddr) -> Option<Duration> {
        let slot = usize::from(self.slots.slot(peer));
        self.counts.get(slot)?.lock().add(self.since.elapsed())
    }
}

impl FailureCount {
    /// Counts one at a time since the beginning.
    fn add(&mut self, at: Duration) -> Option<Duration> {
        let part = u64::try_from(at.as_millis() / PART.as_millis()).unwrap_or(u64::MAX);
        let part = part.max(self.last);
        // The parts since the last failure had none.
        for empty in (self.last + 1..=part).rev().take(PARTS) {
            self.parts[index(empty)] = 0;
        }
        self.last = part;
        let count = &mut self.parts[index(part)];
        *count = count.saturating_add(1);
        let mut left: u32 = self.parts.iter().map(|count| u32::from(*count)).sum();
        if left < LIMIT {
            return None;
        }
        // Parts are forgotten from the oldest on, until fewer are left.
        let oldest = (part + 1).saturating_sub(PARTS as u64);
        let mut forgotten = oldest;
        for old in oldest..=part {
            left -= u32::from(self.parts[index(old)]);
            forgotten = old;
            if left < LIMIT {
                break;
            }
        }
        let ends = PART * u32::try_from(forgotten + PARTS as u64).unwrap_or(u32::MAX);
        Some(ends.saturating_sub(at))
    }
}

fn index(part: u64) -> usize {
    usize::try_from(part % PARTS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_300th_within_a_minute_is_slowed_until_it_is_a_minute_old() {
        let mut count = FailureCount::default();
        for failed in 1..300 {
            assert_eq!(count.add(at(0)), None, "{failed}");
        }
        assert_eq!(count.add(at(59)), Some(at(6)));
        assert_eq!(count.add(at(64)), Some(at(1)));
        assert_eq!(count.add(at(65)), None);
        assert_eq!(count.add(at(100_000)), None);
    }

    #[test]
    fn fewer_than_300_a_minute_are_never_slowed_and_more_are_whenever_they_come() {
        let mut count = FailureCount::default();
        let slowed = |count: &mut FailureCount, from: u64, times: u64, per_second: u64| {
            (0..times).filter(|index| count.add(at(from) + at(*index) / per_second as u32).is_some()).count()
        };
        assert_eq!(slowed(&mut count, 7, 4 * 600, 4), 0);
        assert!(slowed(&mut count, 10_003, 6 * 600, 6) >= 6 * 600 - 300);
    }

    #[test]
    fn a_table_counts_peers_apart() {
        let failed = FailedProofs::default();
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        for _ in 1..LIMIT {
            assert_eq!(failed.count(one), None);
        }
        assert!(failed.count(one).is_some());
        let together = failed.slots.slot(one) == failed.slots.slot(other);
        assert_eq!(failed.count(other).is_some(), together);
    }
}
