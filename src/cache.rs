//! Stored responses, and single flight for those being fetched.
//!
//! What may be stored is decided by `cache/rules`, for how long by `cache/lifetimes`. What always holds: the entries
//! take at most `cache.memory` bytes of heap, with everything that belongs to them (see `popularity`), and one of them
//! at most an eighth of that; an entry past its last permitted use is not given out; what was requested before a purge
//! that covers it is not stored after it. Freshness is kept in the entry, because moka's clock is private. Must not
//! know Fastrac, callers or requests. Never fails: what is not stored is fetched again.

mod canonical;
pub mod directives;
pub mod entry;
pub mod flight;
mod heap;
pub mod key;
mod lifetimes;
mod packed;
mod popularity;
mod purges;
pub mod refreshes;
pub mod rules;
pub mod snapshot;
pub mod snapshot_file;
mod upkeep;
pub(crate) mod validator;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{config::CachePolicy, memory::Memory, outcome::Outcome};
pub(crate) use directives::Acceptance;
pub use directives::RequestDirectives;
pub(crate) use entry::STALE_WAIT;
pub use entry::{CacheEntry, NewEntry, ReceivedAt, RestoredDetails};
pub(crate) use flight::JoinRequest;
pub use flight::{Flight, Flights, Follower, Leader};
pub use key::{Key, KeyParts, KeyRequest, PurgeScope, VaryValues};
pub use lifetimes::{Lifetimes, OperationLifetimes};
use moka::policy::EvictionPolicy;
use packed::NameLists;
use popularity::Popularity;
use purges::Purges;
pub use refreshes::{DueRefresh, RefreshQueue};
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
    entries: moka::sync::Cache<Arc<Key>, Arc<CacheEntry>>,
    /// Bytes that the entries may take.
    memory: u64,
    names: Arc<NameLists>,
    /// By name of the operation. Locked for one look-up, and for none of a stored response.
    operations: Arc<Mutex<HashMap<Arc<str>, Arc<OperationLifetimes>>>>,
    upkeep: Arc<Upkeep>,
    popularity: Arc<Popularity>,
    purges: Arc<Purges>,
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
            .build();
        let (names, operations, upkeep) = (Arc::default(), Arc::default(), Arc::new(Upkeep::new(memory)));
        Cache {
            entries,
            memory,
            names,
            operations,
            upkeep,
            popularity,
            purges: Arc::default(),
            moves: Arc::default(),
            made_at: 0,
        }
    }

    /// A response in the form in which it may be stored. `memory` accounts for what left the cache while it is read.
    pub fn pack(&self, response: NewEntry, memory: &Arc<Memory>) -> CacheEntry {
        CacheEntry::packed(response.with_etag(), &self.names, memory)
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
    /// too large, or less in use than what it would evict. Returns whether it did.
    pub fn keep(&self, key: Key, entry: Arc<CacheEntry>, generation: Generation) -> bool {
        let weight = u64::from(weight(&key, &entry));
        let is_cached = !entry.lifetimes().fresh.is_zero();
        if !is_cached || !self.admits(&key, generation) || weight > self.largest() {
            return false;
        }
        let key = Arc::new(key);
        let stored = self.upkeep.store(weight, || self.place(key.clone(), entry));
        if self.upkeep.is_due() {
            self.entries.run_pending_tasks();
        }
        // A purge may have begun in between, and may have removed the other entries before this one was stored.
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

    /// Stores a response of an earlier process, as [`Cache::keep`] does, but replaces and evicts nothing. Returns whether it
    /// did.
    pub(crate) fn restore(&self, key: Key, entry: CacheEntry, generation: Generation) -> bool {
        let weight = u64::from(weight(&key, &entry));
        if !self.admits(&key, generation) || weight > self.largest() {
            return false;
        }
        let key = Arc::new(key);
        let stored = self.upkeep.store(weight, || {
            let stores = self.used() + weight <= self.memory && !self.entries.contains_key(&*key);
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

    /// The entry that another process has packed; `None`: it cannot be one.
    pub(crate) fn unpack(
        &self,
        packed: SnapshotEntry<'_>,
        details: RestoredDetails,
        memory: &Arc<Memory>,
    ) -> Option<CacheEntry> {
        CacheEntry::restored(packed, details, &self.names, memory)
    }

    /// All entries with their keys. Walks the cache without holding it up.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Arc<Key>, Arc<CacheEntry>)> + '_ {
        self.entries.iter().map(|(key, entry)| ((*key).clone(), entry))
    }

    /// Differs from an earlier value if anything was stored or purged since.
    pub(crate) fn changes(&self) -> u64 {
        self.upkeep.changes()
    }

    /// Bytes that the entries may take.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
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

    /// Removes the entries of operations that are no longer cached, and those of which `is_used` says that no request has
    /// their account and address any more. Walks all.
    pub(crate) fn forget_unused(&self, is_used: impl Fn(&str, &str) -> bool) {
        for (key, entry) in &self.entries {
            let is_cached = !entry.lifetimes().usable.is_zero();
            if !is_cached || !key.address().is_some_and(|(name, url)| is_used(name, url)) {
                self.entries.invalidate(&**key);
            }
        }
        self.upkeep.purged();
    }

    /// Removes an entry.
    pub(crate) fn remove(&self, key: &Key) {
        self.entries.invalidate(key);
        self.upkeep.purged();
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{key::key_of_path as key, test_entry as entry, *};
    use crate::memory::Memory;

    const MINUTE: Duration = Duration::from_secs(60);

    fn response(size: usize, lifetimes: Lifetimes) -> NewEntry {
        NewEntry { operation: OperationLifetimes::fixed("v2.city", lifetimes), ..test_response(size) }
    }

    fn is_fresh(cache: &Cache, path: &str) -> bool {
        matches!(cache.lookup(&key(path), Instant::now()), Lookup::Fresh(_))
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_is_fresh_then_stale_then_gone() {
        let cache = Cache::new(1 << 20);
        let stale = Lifetimes { fresh: MINUTE, usable: 3 * MINUTE, refresh: MINUTE };
        cache.keep(key("/a"), Arc::new(CacheEntry::shared(response(10, stale))), cache.generation());
        cache.keep(key("/b"), entry(10), cache.generation());
        let found = |path| match cache.lookup(&key(path), Instant::now()) {
            Lookup::Fresh(_) => "fresh",
            Lookup::Stale(_) => "stale",
            Lookup::Miss => "miss",
        };
        let mut seen = Vec::new();
        for wait in [0, 59, 1, 119, 1] {
            tokio::time::advance(Duration::from_secs(wait)).await;
            seen.push((found("/a"), found("/b")));
        }
        let (fresh, stale, miss) = ("fresh", "stale", "miss");
        assert_eq!(seen, [(fresh, fresh), (fresh, fresh), (stale, miss), (stale, miss), (miss, miss)]);
        assert!(cache.usage().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_week_without_fastrac_is_answered_and_costs_a_call_a_minute_for_each_entry() {
        const STEP: Duration = Duration::from_secs(10);
        let (cache, day) = (Cache::new(1 << 20), 24 * 60 * MINUTE);
        let lifetimes = Lifetimes { fresh: day, usable: 7 * day, refresh: day };
        cache.keep(key("/a"), Arc::new(CacheEntry::shared(response(10, lifetimes))), cache.generation());
        let began = Instant::now();
        let mut fetches = 0;
        while began.elapsed() < 7 * day {
            let now = Instant::now();
            match cache.lookup(&key("/a"), now) {
                Lookup::Fresh(entry) => assert!(entry.age(now) < day),
                Lookup::Stale(entry) => {
                    assert!((day..7 * day).contains(&entry.age(now)));
                    if entry.may_be_fetched(entry.age(now)) {
                        entry.fetch_failed(now);
                        fetches += 1;
                    }
                }
                Lookup::Miss => panic!("gone after {:?}", began.elapsed()),
            }
            tokio::time::advance(STEP).await;
        }
        assert!((6 * 24 * 60..=6 * 24 * 60 * 60 / 45 + 5).contains(&fetches), "{fetches}");
        assert!(matches!(cache.lookup(&key("/a"), Instant::now()), Lookup::Miss), "older than its bound");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_stored_and_what_is_being_fetched_have_the_lifetimes_in_force() {
        let (cache, name) = (Cache::new(1 << 20), Arc::<str>::from("v2.city"));
        let policy = |minutes: u32| CachePolicy {
            fresh: minutes * MINUTE,
            stale_if_error: 2 * minutes * MINUTE,
            refresh_ahead: 1.0,
            not_found: MINUTE,
        };
        let apply = |policy: Option<&CachePolicy>| cache.set_policies(policy.map(|it| (&name, Some(it))).into_iter());
        let fetched = || NewEntry { operation: cache.operation(&name), ..test_response(10) };
        let store =
            |path: &str, response| cache.keep(key(path), Arc::new(CacheEntry::shared(response)), cache.generation());
        let found = |path: &str| match cache.lookup(&key(path), Instant::now()) {
            Lookup::Fresh(_) => "fresh",
            Lookup::Stale(_) => "stale",
            Lookup::Miss => "miss",
        };
        apply(Some(&policy(60)));
        assert!(store("/a", fetched()) && store("/b", fetched()));
        let under_way = fetched();
        tokio::time::advance(5 * MINUTE).await;
        apply(Some(&policy(4)));
        assert!(store("/c", under_way));
        assert_eq!((found("/a"), found("/c")), ("stale", "stale"));
        apply(Some(&policy(1)));
        assert_eq!((found("/a"), found("/c")), ("miss", "miss"));
        apply(Some(&policy(60)));
        assert_eq!((found("/a"), found("/b")), ("miss", "fresh"), "what was dropped stays so");
        let under_way = fetched();
        apply(None);
        assert_eq!((found("/b"), store("/d", under_way)), ("miss", false), "the operation is gone");
    }

    #[test]
    fn stores_nothing_that_was_requested_before_a_purge() {
        let cache = Cache::new(1 << 20);
        let before = cache.generation();
        assert!(cache.keep(key("/a"), entry(10), before));
        cache.purge();
        assert!(!is_fresh(&cache, "/a"));
        assert!(!cache.keep(key("/a"), entry(10), before));
        assert!(!is_fresh(&cache, "/a"));
        assert!(cache.keep(key("/a"), entry(10), cache.generation()));
        assert!(is_fresh(&cache, "/a"));
    }

    #[test]
    fn a_purge_of_a_part_keeps_out_only_what_it_covers() {
        let cache = Cache::new(1 << 20);
        let before = cache.generation();
        let scope = PurgeScope { path_prefix: Some("/a".to_owned()), ..PurgeScope::default() };
        cache.purge_within(&scope);
        let restored = |path| cache.restore(key(path), CacheEntry::shared(test_response(10)), before);
        assert_eq!(["/a/1", "/b/1"].map(restored), [false, true]);
        assert_eq!(["/a/2", "/b/2"].map(|path| cache.keep(key(path), entry(10), before)), [false, true]);
        assert_eq!(["/a", "/b"].map(|path| cache.shares(&key(path), before)), [false, true]);
        assert!(!is_fresh(&cache, "/a/1") && is_fresh(&cache, "/b/1") && is_fresh(&cache, "/b/2"));
    }

    #[test]
    fn entries_of_addresses_that_are_no_longer_used_are_removed() {
        let cache = Cache::new(1 << 20);
        assert!(cache.keep(key("/a"), entry(10), cache.generation()));
        cache.forget_unused(|account, address| account == "main" && address == "https://b2b.example");
        assert!(is_fresh(&cache, "/a"));
        cache.forget_unused(|_, address| address == "https://other.example");
        assert!(!is_fresh(&cache, "/a") && cache.usage().is_empty());
        let operation = OperationLifetimes::fixed("v2.city", Lifetimes::only_fresh(MINUTE));
        let response = NewEntry { operation: operation.clone(), ..test_response(10) };
        assert!(cache.keep(key("/a"), Arc::new(CacheEntry::shared(response)), cache.generation()));
        operation.apply(None);
        cache.forget_unused(|_, _| true);
        assert!(cache.usage().is_empty(), "its operation is not cached any more");
    }

    #[test]
    fn a_purge_of_a_part_leaves_the_rest_and_keeps_out_what_was_requested_before() {
        let cache = Cache::new(1 << 20);
        let store = |path: &str| cache.keep(key(path), entry(10), cache.generation());
        assert!(["/region/city", "/region/city?x", "/region/district", "/courier/all"].into_iter().all(store));
        let before = cache.generation();
        let within = |path_prefix: Option<&str>, operation: Option<&str>, account: Option<&str>| {
            let own = |text: Option<&str>| text.map(str::to_owned);
            let scope = PurgeScope { path_prefix: own(path_prefix), operation: own(operation), account: own(account) };
            cache.purge_within(&scope).values().sum::<u64>()
        };
        assert_eq!(within(Some("/region/city"), None, Some("other")), 0);
        assert_eq!(within(Some("/region/city"), Some("v1.city"), None), 0);
        assert_eq!(within(Some("/region/city"), Some("v2.city"), Some("main")), 2);
        assert!(!is_fresh(&cache, "/region/city") && is_fresh(&cache, "/region/district"));
        assert!(!cache.keep(key("/region/city"), entry(10), before), "requested before the purge");
        assert!(store("/region/city"));
        assert_eq!((within(None, Some("v2.city"), None), cache.usage().len()), (3, 0));
    }

    #[test]
    fn what_has_left_it_counts_until_its_readers_are_done() {
        let memory = Memory::new(1 << 20);
        let cache = Cache::new(400_000);
        let detached = |size| Arc::new(cache.pack(response(size, Lifetimes::only_fresh(MINUTE)), &memory));
        // Stores a response and reads it.
        let store = |name: &str, size| {
            let entry = detached(size);
            assert_eq!(cache.keep(key(name), entry.clone(), cache.generation()), size < 500_000);
            entry.body()
        };
        let entries = || cache.usage().values().map(|usage| usage.entries).sum::<u64>();
        let (first, purged) = (store("/a", 20_000), store("/b", 30_000));
        assert_eq!((entries(), memory.used()), (2, 0));
        // Replaced, and too large to be stored, while callers read them.
        let (replacing, large) = (store("/a", 40_000), store("/c", 500_000));
        assert_eq!((entries(), memory.used()), (2, 520_000));
        drop((first, large));
        assert_eq!(memory.used(), 0);
        cache.purge();
        assert_eq!((entries(), memory.used()), (0, 70_000));
        let (late, generation) = (detached(50_000), cache.generation());
        cache.purge();
        let body = late.body();
        assert!(!cache.keep(key("/a"), late, generation));
        assert_eq!(memory.used(), 120_000);
        drop((replacing, purged, body));
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_large_response_does_not_evict_many_small_ones() {
        let cache = Cache::new(90_000);
        let store = |name: &str, size| cache.keep(key(name), entry(size), cache.generation());
        assert!((0..40).all(|number| store(&format!("/{number}"), 1000)));
        assert!(!store("/large", 11_000) && store("/smaller", 9_000));
        assert!((20..=41).contains(&cache.usage()["v2.city"].entries));
        // Nor the good one that it would have replaced.
        assert!(!store("/1", 11_000) && is_fresh(&cache, "/1"));
    }

    #[test]
    fn what_is_restored_replaces_and_evicts_nothing() {
        let cache = Cache::new(40_000);
        let restore = |name: &str, size, generation| {
            let entry = CacheEntry::shared(response(size, Lifetimes::only_fresh(MINUTE)));
            cache.restore(key(name), entry, generation)
        };
        let generation = cache.generation();
        assert!(cache.keep(key("/fetched"), entry(10), generation));
        assert!(!restore("/fetched", 20, generation) && restore("/a", 20, generation));
        let Lookup::Fresh(fetched) = cache.lookup(&key("/fetched"), Instant::now()) else { panic!("stored") };
        assert_eq!(fetched.body().len(), 10);
        let restored = (0..100).filter(|number| restore(&format!("/{number}"), 1000, generation)).count();
        cache.tidy();
        assert!((10..30).contains(&restored), "{restored}");
        assert_eq!(cache.usage()["v2.city"].entries, 2 + restored as u64);
        cache.purge();
        assert!(!restore("/b", 20, generation) && restore("/b", 20, cache.generation()));
    }

    #[test]
    fn what_is_stored_while_there_is_room_evicts_nothing() {
        for size in [1000, 4000] {
            let cache = Cache::new(40_000);
            let stored = (0..100)
                .take_while(|number| {
                    cache.has_room(Instant::now())
                        && cache.keep(key(&format!("/{number}")), entry(size), cache.generation())
                })
                .count();
            let usage = cache.usage()["v2.city"];
            assert_eq!(usage.entries, stored as u64, "{size}");
            assert!((30_000..=40_000).contains(&usage.bytes) && !cache.has_room(Instant::now()), "{usage:?}");
            cache.purge();
            cache.tidy();
            assert!(cache.has_room(Instant::now()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_expired_takes_no_room() {
        let cache = Cache::new(40_000);
        let has_room = || cache.has_room(Instant::now());
        let fill = || {
            let mut number = 0..100;
            while has_room() {
                cache.keep(key(&format!("/{}", number.next().unwrap())), entry(1000), cache.generation());
            }
        };
        fill();
        tokio::time::advance(MINUTE).await;
        assert!(has_room() && cache.usage().is_empty());
        fill();
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(!has_room(), "nothing has expired");
    }

    #[test]
    fn stores_nothing_that_was_requested_before_an_address_changed() {
        let cache = Cache::new(1 << 20);
        let before = cache.generation();
        let moved = cache.moved().moved();
        assert!(!cache.keep(key("/a"), entry(10), before));
        assert!(!cache.keep(key("/a"), entry(10), cache.generation()), "the handle is an old one");
        assert!(moved.keep(key("/a"), entry(10), moved.generation()));
    }

    #[test]
    fn stays_within_its_memory() {
        let cache = Cache::new(100_000);
        for i in 0..1000 {
            cache.keep(key(&format!("/{i}")), entry(1000), cache.generation());
        }
        let usage = cache.usage();
        let bytes: u64 = usage.values().map(|usage| usage.bytes).sum();
        assert!(bytes <= 100_000 && usage["v2.city"].entries > 10, "{usage:?}");
    }
}
