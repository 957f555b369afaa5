//! When the cache's maintenance is due.
//!
//! moka evicts some time after an entry was stored, and frees what it evicted some rounds of maintenance later. What
//! always holds: what is stored between two rounds is a small part of the cache, so that a burst of large responses does
//! not exceed it; after the last one [`Upkeep::rounds`] asks for those that free everything. A hit takes no part in it.
//! Must not know entries. Never fails.

use std::{
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Part of the cache that may be stored before maintenance is due.
const PART: u64 = 64;

/// Rounds of maintenance after which evicted entries are freed: the first evicts them, and `crossbeam-epoch` frees what was
/// removed two epochs ago, of which each round ends at most one.
const ROUNDS: u32 = 4;

/// Rounds after a purge: moka ends each after 100 ms.
const ROUNDS_OF_PURGE: u32 = 40;

/// Time between two walks that remove what has expired.
const SWEEPS: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Upkeep {
    /// Of the cache, bytes.
    memory: u64,
    /// Bytes stored since maintenance was last due.
    unsettled: AtomicU64,
    /// Rounds that are still needed.
    rounds: AtomicU32,
    /// Entries stored or removed, and purges, so far; not what expires or is evicted.
    changes: AtomicU64,
    /// When expired entries may be removed again.
    next_sweep: Mutex<Option<Instant>>,
    /// Held while an entry is stored.
    storing: Mutex<()>,
}

impl Upkeep {
    /// For a cache of `memory` bytes.
    pub(super) fn new(memory: u64) -> Self {
        let (unsettled, rounds, changes) = Default::default();
        let (next_sweep, storing) = Default::default();
        Upkeep { memory, unsettled, rounds, changes, next_sweep, storing }
    }

    /// Stores an entry of `weight` bytes, or removes one, if `store` does. No other is stored meanwhile. Returns what
    /// `store` returns.
    pub(super) fn store(&self, weight: u64, store: impl FnOnce() -> bool) -> bool {
        let storing = self.storing.lock();
        let stored = store();
        if stored {
            self.unsettled.fetch_add(weight, Relaxed);
        }
        drop(storing);
        if stored {
            self.changes.fetch_add(1, SeqCst);
            self.rounds.fetch_max(ROUNDS, Relaxed);
        }
        stored
    }

    /// Waits for the entry that is being stored, if there is one.
    pub(super) fn await_store(&self) {
        drop(self.storing.lock());
    }

    /// Whether maintenance is due now, before more is stored.
    pub(super) fn is_due(&self) -> bool {
        let is_due = self.unsettled.load(Relaxed) > self.memory / PART;
        if is_due {
            self.unsettled.store(0, Relaxed);
        }
        is_due
    }

    /// Whether expired entries may be removed now. They are then not for a while, because that walks all entries.
    pub(super) fn may_sweep(&self, now: Instant) -> bool {
        let mut next = self.next_sweep.lock();
        let may = next.is_none_or(|next| now >= next);
        if may {
            *next = Some(now + SWEEPS);
        }
        may
    }

    /// Entries were removed: one, or many at once.
    pub(super) fn purged(&self) {
        self.changes.fetch_add(1, SeqCst);
        self.rounds.fetch_max(ROUNDS_OF_PURGE, Relaxed);
    }

    /// How many rounds of maintenance to run now, when nobody waits.
    pub(super) fn rounds(&self) -> u32 {
        let rounds = self.rounds.load(Relaxed).min(ROUNDS);
        self.rounds.fetch_sub(rounds, Relaxed);
        rounds
    }

    /// Differs from an earlier value if anything was stored, removed or purged since.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(SeqCst)
    }
}
