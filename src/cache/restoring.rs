//! Stores responses of an earlier process while requests are being answered.
//!
//! What always holds: a restore replaces and evicts nothing; it brings back no response that a fetch since its beginning
//! has replaced or taken away, also if what replaced it has left the cache since; it stores nothing after its end. Must not
//! know where the responses come from. Never fails.

use std::{collections::HashSet, hash::BuildHasher as _, sync::Arc};

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use super::{Cache, CacheEntry, Generation, Key, weight};

/// What a restore that is under way must leave out.
#[derive(Debug, Default)]
pub(super) struct Restoring {
    /// Callers choose keys, so their hashes are random. Two keys that have the same one cost an entry.
    hasher: RandomState,
    /// Hashes of the keys of which something newer is known; `None`: no restore is under way.
    outdated: Mutex<Option<HashSet<u64>>>,
}

impl Restoring {
    /// What an earlier process has stored under a key is outdated. To be called while nothing is stored.
    pub(super) fn outdate(&self, key: &Key) {
        if let Some(outdated) = &mut *self.outdated.lock() {
            outdated.insert(self.hasher.hash_one(key));
        }
    }

    fn may_restore(&self, key: &Key) -> bool {
        self.outdated.lock().as_ref().is_some_and(|outdated| !outdated.contains(&self.hasher.hash_one(key)))
    }
}

impl Cache {
    /// A restore begins.
    pub(crate) fn begin_restore(&self) {
        *self.restoring.outdated.lock() = Some(HashSet::new());
    }

    /// The restore is over, or given up.
    pub(crate) fn end_restore(&self) {
        *self.restoring.outdated.lock() = None;
    }

    /// Whether a response of an earlier process may yet be stored under a key.
    pub(crate) fn may_restore(&self, key: &Key) -> bool {
        self.restoring.may_restore(key)
    }

    /// Stores a response of an earlier process, as [`Cache::keep`] does, but replaces and evicts nothing. Returns whether it
    /// did.
    pub(crate) fn restore(&self, key: Key, entry: CacheEntry, generation: Generation) -> bool {
        let weight = u64::from(weight(&key, &entry));
        if !self.admits(&key, generation) || weight > self.largest() {
            return false;
        }
        let key = Arc::new(key);
        let stored = self.upkeep.store(weight, || {
            let has_room = self.used() + weight <= self.memory && !self.entries.contains_key(&*key);
            let stores = has_room && self.may_restore(&key) && self.admits(&key, generation);
            if stores {
                self.insert(key.clone(), Arc::new(entry));
            }
            stores
        });
        if self.upkeep.is_due() {
            self.entries.run_pending_tasks();
        }
        let kept = self.admits(&key, generation);
        if stored && !kept {
            self.entries.invalidate(&*key);
        }
        stored && kept
    }
}
