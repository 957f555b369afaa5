//! Stored responses, and single flight for those being fetched.
//!
//! What may be stored is decided by `cache/rules`, for how long by `cache/lifetimes`. What always holds: the entries
//! take at most `cache.memory` bytes of heap, with everything that belongs to them (see `popularity`), and one of them
//! at most an eighth of that; an entry past its last permitted use is not given out; what was requested before a purge
//! that covers it is not stored after it. Freshness is kept in the entry, because moka's clock is private. Must not
//! know Fastrac, callers or requests. Never fails: what is not stored is fetched again.

mod canonical;
mod comparison;
pub mod directives;
pub mod entry;
pub mod flight;
mod heap;
pub mod key;
mod lifetimes;
mod packed;
mod popularity;
mod purge_records;
mod purges;
pub mod refreshes;
mod restoring;
pub mod rules;
pub mod snapshot;
pub mod snapshot_file;
#[cfg(test)]
mod tests;
mod upkeep;
pub(crate) mod validator;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{config::CachePolicy, memory::MemoryShare, outcome::Outcome, standstill};
pub(crate) use comparison::same_data;
pub(crate) use directives::Acceptance;
pub use directives::RequestDirectives;
pub(crate) use entry::STALE_WAIT;
pub use entry::{CacheEntry, NewEntry, ReceivedAt, RestoredDetails};
pub(crate) use flight::{Bid, Bids, JoinRequest};
pub use flight::{Flight, Flights, Follower, Leader};
pub use key::{Key, KeyParts, KeyRequest, PurgeScope, VaryValues};
pub use lifetimes::{Lifetimes, OperationLifetimes};
use moka::policy::EvictionPolicy;
use packed::NameLists;
use popularity::Popularity;
use purges::Purges;
pub use refreshes::{DueRefresh, RefreshQueue};
use restoring::Restoring;
use snapshot::SnapshotEntry;
use upkeep::Upkeep;

/// Bytes of heap that an entry takes beside its key and its content: moka's nodes and maps and the list of all entries,
/// measured with mimalloc.
const NODE: usize = 410;

/// An entry takes at most this part of the cache, so that a few large ones do not evict the many small ones.
const LARGEST: u64 = 8;

/// What the cache has for a key.
#[derive(Debug)]
pub enum Lookup {
    /// May be used without asking Fastrac.
    Fresh(Arc<CacheEntry>),
    /// May be used while Fastrac is asked, or if it fails.
    Stale(Arc<CacheEntry>),
    Miss,
}

/// The stored responses. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Callers choose keys, so the hash of a key is random; it takes a third of what the standard library's does.
    entries: moka::sync::Cache<Arc<Key>, Arc<CacheEntry>, RandomState>,
    /// Bytes that the entries may take.
    memory: u64,
    names: Arc<NameLists>,
    /// By name of the operation. Locked for one look-up, and for none of a stored response.
    operations: Arc<Mutex<HashMap<Arc<str>, Arc<OperationLifetimes>>>>,
    upkeep: Arc<Upkeep>,
    popularity: Arc<Popularity>,
    purges: Arc<Purges>,
    restoring: Arc<Restoring>,
    /// Number of changes of an account's address so far.
    moves: Arc<AtomicU64>,
    /// The same when this handle was made.
    made_at: u64,
}

/// A time between two purges, and between two changes of an account's address. What is requested in one is not stored after
/// a change, nor after a purge that covers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    purges: u64,
    moves: u64,
}

/// How much of the cache one operation uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUsage {
    pub entries: u64,
    /// Of the heap.
    pub bytes: u64,
}

impl Cache {
    /// An empty cache of at most `memory` bytes.
    pub fn new(memory: u64) -> Self {
        let popularity = Arc::new(Popularity::new(memory));
        let stored = popularity.clone();
        let entries = moka::sync::Cache::builder()
            // What it would keep out is known only later: `popularity` decides, so that this bound is never reached.
            .max_capacity(memory)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|key: &Arc<Key>, entry: &Arc<CacheEntry>| weight(key, entry))
            .eviction_listener(move |_, entry: Arc<CacheEntry>, _| {
                stored.remove(&entry);
                // Callers may still be reading it.
                entry.set_stored(false);
            })
            .build_with_hasher(RandomState::default());
        let (names, operations, upkeep) = (Arc::default(), Arc::default(), Arc::new(Upkeep::new(memory)));
        Cache {
            entries,
            memory,
            names,
            operations,
            upkeep,
            popularity,
            purges: Arc::default(),
            restoring: Arc::default(),
            moves: Arc::default(),
            made_at: 0,
        }
    }

    /// A response in the form in which it may be stored. `memory` accounts for what left the cache while it is read.
    pub fn pack(&self, response: NewEntry, memory: &Arc<MemoryShare>) -> CacheEntry {
        CacheEntry::packed(response.completed(), &self.names, memory)
    }

    /// Puts the lifetimes of all operations in force, also for what is stored and for what is being fetched.
    pub(crate) fn set_policies<'a>(&self, policies: impl Iterator<Item = (&'a Arc<str>, Option<&'a CachePolicy>)>) {
        let policies: HashMap<_, _> = policies.collect();
        for (operation, policy) in &policies {
            self.operation(operation).apply(*policy);
        }
        let known = self.operations.lock();
        known.iter().filter(|(name, _)| !policies.contains_key(name)).for_each(|(_, gone)| gone.apply(None));
    }

    /// The lifetimes in force of an operation.
    pub(crate) fn operation(&self, name: &Arc<str>) -> Arc<OperationLifetimes> {
        let none = || Arc::new(OperationLifetimes::none(name.clone()));
        self.operations.lock().entry(name.clone()).or_insert_with(none).clone()
    }

    /// What is stored under a key at `now`.
    pub fn lookup(&self, key: &Key, now: Instant) -> Lookup {
        standstill::look_after_jump();
        let Some(entry) = self.entries.get(key) else { return Lookup::Miss };
        let (age, lifetimes) = (entry.age(now), entry.lifetimes());
        if age < lifetimes.fresh {
            return Lookup::Fresh(entry);
        }
        if age < lifetimes.usable {
            return Lookup::Stale(entry);
        }
        self.entries.invalidate(key);
        Lookup::Miss
    }

    /// A handle for requests that may be sent to other addresses than those of earlier handles, whose responses are no
    /// longer stored: an account's address has changed.
    pub fn moved(&self) -> Cache {
        let made_at = self.moves.fetch_add(1, SeqCst) + 1;
        Cache { made_at, ..self.clone() }
    }

    /// The generation of a request that is made now with this handle.
    pub fn generation(&self) -> Generation {
        Generation { purges: self.purges.count(), moves: self.made_at }
    }

    /// The same for what was read before the purges since an earlier generation, and is checked with this handle.
    pub(crate) fn generation_since(&self, earlier: Generation) -> Generation {
        Generation { purges: earlier.purges, moves: self.made_at }
    }

    /// Whether what was requested in `generation` may be stored now.
    fn admits(&self, key: &Key, generation: Generation) -> bool {
        generation.moves == self.moves.load(SeqCst) && !self.purges.have_covered(key, generation.purges)
    }

    /// Whether a request that is made now with this handle may use the result of one of `generation`.
    pub(crate) fn shares(&self, key: &Key, generation: Generation) -> bool {
        generation.moves == self.made_at && !self.purges.have_covered(key, generation.purges)
    }

    /// Stores a response that was requested in `generation`, unless it was purged or an address has changed since, or it is
    /// too large, or less in use than what it would evict, or what is stored was requested later. Returns whether it did.
    pub fn keep(&self, key: Key, entry: Arc<CacheEntry>, generation: Generation) -> bool {
        let weight = u64::from(weight(&key, &entry));
        let is_cached = !entry.lifetimes().fresh.is_zero();
        if !is_cached || !self.admits(&key, generation) || weight > self.largest() {
            return false;
        }
        let key = Arc::new(key);
        let stored = self.upkeep.store(weight, || {
            let is_admitted = self.admits(&key, generation);
            if is_admitted {
                self.restoring.outdate(&key);
            }
            is_admitted && self.place(key.clone(), entry)
        });
        if self.upkeep.is_due() {
            self.entries.run_pending_tasks();
        }
        // A purge may have begun in between, and an address may have changed.
        let kept = self.admits(&key, generation);
        if !kept {
            self.entries.invalidate(&*key);
        }
        stored && kept
    }

    /// Stores an entry. To be called while no other is stored.
    fn insert(&self, key: Arc<Key>, entry: Arc<CacheEntry>) {
        entry.set_stored(true);
        self.popularity.add(key.clone(), entry.clone());
        self.entries.insert(key, entry);
    }

    /// The entry that another process has packed; `None`: it cannot be one.
    pub(crate) fn unpack(
        &self,
        packed: SnapshotEntry<'_>,
        details: RestoredDetails,
        memory: &Arc<MemoryShare>,
    ) -> Option<CacheEntry> {
        CacheEntry::restored(packed, details, &self.names, memory)
    }

    /// All entries with their keys. Walks the cache without holding it up.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Arc<Key>, Arc<CacheEntry>)> + '_ {
        self.entries.iter().map(|(key, entry)| ((*key).clone(), entry))
    }

    /// Differs from an earlier value if anything was stored, removed or purged since.
    pub(crate) fn changes(&self) -> u64 {
        self.upkeep.changes()
    }

    /// Bytes that the entries take.
    fn used(&self) -> u64 {
        self.popularity.bytes()
    }

    /// Whether a response of any size that may be stored can be, without evicting others. What has expired takes no room: it
    /// is removed, in a walk of all entries now and then.
    pub(crate) fn has_room(&self, now: Instant) -> bool {
        let has_room = || self.used() + self.largest() < self.memory;
        if !has_room() && self.upkeep.may_sweep(now) {
            self.remove_expired(now);
        }
        has_room()
    }

    /// Removes the entries past their last permitted use. Walks all entries.
    fn remove_expired(&self, now: Instant) {
        for (key, entry) in &self.entries {
            if !entry.is_usable(now) {
                self.entries.invalidate(&**key);
            }
        }
        self.entries.run_pending_tasks();
    }

    /// Bytes that one entry may take.
    pub(crate) fn largest(&self) -> u64 {
        self.memory / LARGEST
    }

    /// Removes all entries, and keeps out the responses to requests that have been made already.
    pub fn purge(&self) {
        self.purge_within(&PurgeScope::default());
    }

    /// Keeps out the responses within a scope to requests that have been made already.
    pub(crate) fn begin_purge(&self, scope: PurgeScope) {
        self.purges.begin(scope);
        // One that was let in before is stored by now, and removed with the others: it is never there after the purge, not
        // for the moment in which a snapshot could take it up.
        self.upkeep.await_store();
    }

    /// Removes the entries within a scope, keeps out the responses to requests that have been made already, and returns their
    /// number by operation. Walks all entries.
    pub fn purge_within(&self, scope: &PurgeScope) -> BTreeMap<Arc<str>, u64> {
        self.begin_purge(scope.clone());
        let mut purged = BTreeMap::<Arc<str>, u64>::new();
        for (key, entry) in self.entries.iter().filter(|(key, _)| key.is_within(scope)) {
            self.entries.invalidate(&**key);
            *purged.entry(entry.operation().clone()).or_default() += 1;
        }
        self.upkeep.purged();
        purged
    }

    /// Removes the entries of operations that are no longer cached, and those of which `is_used` says that no request can
    /// have their key any more. Returns whether there were any. Walks all.
    pub(crate) fn forget_unused(&self, is_used: impl Fn(&Key) -> bool) -> bool {
        let mut removed = false;
        for (key, entry) in &self.entries {
            let is_cached = !entry.lifetimes().usable.is_zero();
            if !is_cached || !is_used(&key) {
                self.entries.invalidate(&**key);
                removed = true;
            }
        }
        if removed {
            self.upkeep.purged();
        }
        removed
    }

    /// Removes an entry.
    pub(crate) fn remove(&self, key: &Key) {
        self.entries.invalidate(key);
        self.upkeep.purged();
    }

    /// Removes what is stored, or is yet to be restored, under the key of `newer`, a response of `generation` that says that
    /// there is no such thing; not what was requested later.
    pub(crate) fn give_up(&self, key: &Key, newer: &CacheEntry, generation: Generation) {
        self.upkeep.store(0, || {
            if !self.admits(key, generation) {
                return false;
            }
            self.restoring.outdate(key);
            let now = Instant::now();
            let is_outdated = self.entries.get(key).is_some_and(|stored| !stored.is_newer_than(newer, now));
            if is_outdated {
                self.entries.invalidate(key);
            }
            is_outdated
        });
    }

    /// Frees the memory of entries that have left. To be called about once a second; does nothing if nothing has changed.
    pub fn tidy(&self) {
        for _ in 0..self.upkeep.rounds() {
            self.entries.run_pending_tasks();
        }
    }

    /// One of the entries of an account that may be fetched again, by a random number of 0 to 1. Walks all entries.
    pub(crate) fn sample(&self, account: &str, random: impl Fn() -> f64) -> Option<(Key, Arc<CacheEntry>)> {
        let scope = PurgeScope { account: Some(account.to_owned()), ..PurgeScope::default() };
        let mut chosen = None;
        let entries =
            self.entries.iter().filter(|(key, entry)| entry.outcome() == Outcome::Ok && key.is_within(&scope));
        for (seen, (key, entry)) in entries.enumerate() {
            if random() * (seen as f64 + 1.0) < 1.0 {
                chosen = Some(((**key).clone(), entry));
            }
        }
        chosen
    }

    /// Usage by operation. Walks all entries: for scrapes, not for the path.
    pub fn usage(&self) -> BTreeMap<Arc<str>, CacheUsage> {
        self.entries.run_pending_tasks();
        let mut by_operation = BTreeMap::<Arc<str>, CacheUsage>::new();
        for (key, entry) in &self.entries {
            let usage = by_operation.entry(entry.operation().clone()).or_default();
            usage.entries += 1;
            usage.bytes += u64::from(weight(&key, &entry));
        }
        by_operation
    }
}

/// Bytes of heap.
fn weight(key: &Key, entry: &CacheEntry) -> u32 {
    u32::try_from(heap::block(key.size()) + entry.size() + NODE).unwrap_or(u32::MAX)
}

/// A response that is fresh for a minute.
#[cfg(test)]
fn test_response(size: usize) -> NewEntry {
    NewEntry {
        status: http::StatusCode::OK,
        headers: http::HeaderMap::new(),
        body: vec![b'x'; size].into(),
        outcome: crate::outcome::Outcome::Ok,
        operation: OperationLifetimes::fixed("v2.city", Lifetimes::only_fresh(std::time::Duration::from_secs(60))),
        stored_from: http::HeaderValue::from_static("r1"),
        received: ReceivedAt::now(),
    }
}

#[cfg(test)]
pub(crate) fn test_entry(size: usize) -> Arc<CacheEntry> {
    Arc::new(CacheEntry::shared(test_response(size)))
}
