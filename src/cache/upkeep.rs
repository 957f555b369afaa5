//! When the cache's maintenance is due.
//!
//! moka evicts some time after an entry was stored, and frees what it evicted some rounds of maintenance later. What
//! always holds: what is stored between two rounds is a small part of the cache, so that a burst of large responses does
//! not exceed it; after the last one [`Upkeep::rounds`] asks for those that free everything. A hit takes no part in it.
//! Must not know entries. Never fails.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Part of the cache that may be stored before maintenance is due.
const PART: u64 = 64;

/// Rounds of maintenance after which evicted entries are freed: the first evicts them, and `crossbeam-epoch` frees what was
/// removed two epochs ago, of which each round ends at most one.
const ROUNDS: u32 = 4;

/// Rounds after a purge: moka ends each after 100 ms.
const ROUNDS_OF_PURGE: u32 = 40;

#[derive(Debug)]
pub(super) struct Upkeep {
    /// Of the cache, bytes.
    memory: u64,
    /// Bytes stored since maintenance was last due.
    unsettled: AtomicU64,
    /// Rounds that are still needed.
    rounds: AtomicU32,
}

impl Upkeep {
    /// For a cache of `memory` bytes.
    pub(super) fn new(memory: u64) -> Self {
        Upkeep { memory, unsettled: AtomicU64::new(0), rounds: AtomicU32::new(0) }
    }

    /// An entry of `weight` bytes was stored.
    pub(super) fn stored(&self, weight: u64) {
        self.unsettled.fetch_add(weight, Relaxed);
        self.rounds.fetch_max(ROUNDS, Relaxed);
    }

    /// Whether maintenance is due now, before more is stored.
    pub(super) fn is_due(&self) -> bool {
        let is_due = self.unsettled.load(Relaxed) > self.memory / PART;
        if is_due {
            self.unsettled.store(0, Relaxed);
        }
        is_due
    }

    /// Everything was removed.
    pub(super) fn purged(&self) {
        self.rounds.fetch_max(ROUNDS_OF_PURGE, Relaxed);
    }

    /// How many rounds of maintenance to run now, when nobody waits.
    pub(super) fn rounds(&self) -> u32 {
        let rounds = self.rounds.load(Relaxed).min(ROUNDS);
        self.rounds.fetch_sub(rounds, Relaxed);
        rounds
    }
}
