//! Stored responses, and single flight for those being fetched.
//!
//! What may be stored, and for how long, is decided by `cache/rules` alone. What always holds: the entries take at most
//! `cache.memory` bytes (moka evicts); only a fresh entry is given out; what was requested before a purge is not stored
//! after it. Freshness is kept in the entry, because moka's
//! clock is private. Must not know Fastrac, callers or requests. Never fails: what is not stored is fetched again.

pub mod flight;
pub mod key;
pub mod rules;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::Instant;

use crate::{
    memory::{Memory, Readers},
    outcome::Outcome,
};
pub(crate) use flight::JoinRequest;
pub use flight::{Flight, Flights, Follower, Leader};
pub use key::{Key, KeyParts};
pub use rules::RequestDirectives;

/// Estimated bytes that an entry takes beside its content: moka's node, maps, allocations.
const ENTRY_OVERHEAD: usize = 512;

/// A response of Fastrac, stored or about to be.
#[derive(Debug)]
pub struct CacheEntry {
    pub status: StatusCode,
    /// Cleaned: without hop-by-hop headers and those that concern one key.
    pub headers: HeaderMap,
    pub body: Bytes,
    /// If it is stored: `Ok` or `NotFound`.
    pub outcome: Outcome,
    /// Name of the operation, as in metrics.
    pub operation: Arc<str>,
    /// Id of the request that fetched it.
    pub stored_from: HeaderValue,
    /// When it was received.
    pub stored: Instant,
    /// How long it is fresh; zero: it is not stored.
    pub lifetime: Duration,
    /// Who reads `body`, if it may be stored.
    pub readers: Option<Readers>,
}

impl CacheEntry {
    /// Time since it was received.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.stored)
    }

    /// How long it stays fresh; `None` once it is stale.
    pub(crate) fn ttl(&self, now: Instant) -> Option<Duration> {
        self.lifetime.checked_sub(self.age(now)).filter(|left| !left.is_zero())
    }

    /// A copy with bytes of its own: slices would keep the buffers of the connection alive, uncounted, as long as the
    /// entry lives. Leaves room for `more` headers, so that a copy of the map need not be rehashed for them.
    pub(crate) fn detached(self, more: usize, memory: &Arc<Memory>) -> Self {
        let own = |value: HeaderValue| HeaderValue::from_bytes(value.as_bytes()).unwrap_or(value);
        let mut headers = HeaderMap::with_capacity(self.headers.len() + more);
        for (name, value) in &self.headers {
            headers.append(name, own(value.clone()));
        }
        let readers = Some(Readers::new(memory));
        CacheEntry { headers, body: Bytes::copy_from_slice(&self.body), readers, ..self }
    }

    /// The body for one more caller.
    pub(crate) fn body(&self) -> Bytes {
        self.readers.as_ref().map_or_else(|| self.body.clone(), |readers| readers.read(&self.body))
    }

    fn set_stored(&self, stored: bool) {
        self.readers.iter().for_each(|readers| readers.set_stored(stored));
    }

    fn weight(&self, key: &Key) -> u32 {
        let headers: usize = self.headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 64).sum();
        u32::try_from(key.size() + self.body.len() + headers + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
    }
}

/// The stored responses. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub struct Cache {
    entries: moka::sync::Cache<Key, Arc<CacheEntry>>,
    /// Number of purges so far.
    purges: Arc<AtomicU64>,
    /// Number of changes of an account's address so far.
    moves: Arc<AtomicU64>,
    /// The same when this handle was made.
    made_at: u64,
}

/// A time between two purges, and between two changes of an account's address. What is requested in one is not stored
/// in a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    purges: u64,
    moves: u64,
}

/// How much of the cache one operation uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUsage {
    pub entries: u64,
    /// Estimated.
    pub bytes: u64,
}

impl Cache {
    /// An empty cache of at most `memory` bytes.
    pub fn new(memory: u64) -> Self {
        let entries = moka::sync::Cache::builder()
            .max_capacity(memory)
            .weigher(|key: &Key, entry: &Arc<CacheEntry>| entry.weight(key))
            // Callers may still be reading it.
            .eviction_listener(|_, entry: Arc<CacheEntry>, _| entry.set_stored(false))
            .build();
        Cache { entries, purges: Arc::default(), moves: Arc::default(), made_at: 0 }
    }

    /// The stored response, if it is fresh and the directives accept its age.
    pub(crate) fn fresh(&self, key: &Key, directives: RequestDirectives, now: Instant) -> Option<Arc<CacheEntry>> {
        let entry = self.entries.get(key)?;
        if entry.ttl(now).is_none() {
            self.entries.invalidate(key);
            return None;
        }
        directives.accepts(entry.age(now)).then_some(entry)
    }

    /// A handle for requests that may be sent to other addresses than those of earlier handles, whose responses are no
    /// longer stored: an account's address has changed.
    pub fn moved(&self) -> Cache {
        let made_at = self.moves.fetch_add(1, SeqCst) + 1;
        Cache { made_at, ..self.clone() }
    }

    /// The generation of a request that is made now with this handle.
    pub fn generation(&self) -> Generation {
        Generation { purges: self.purges.load(SeqCst), moves: self.made_at }
    }

    fn current(&self) -> Generation {
        Generation { purges: self.purges.load(SeqCst), moves: self.moves.load(SeqCst) }
    }

    /// Stores a response that was requested in `generation`, unless the cache was purged or an address has changed since.
    /// Returns whether it did.
    pub fn keep(&self, key: Key, entry: Arc<CacheEntry>, generation: Generation) -> bool {
        if generation != self.current() {
            return false;
        }
        entry.set_stored(true);
        self.entries.insert(key.clone(), entry);
        // A purge may have begun in between, and may have removed the other entries before this one was stored.
        let kept = generation == self.current();
        if !kept {
            self.entries.invalidate(&key);
        }
        kept
    }

    /// Removes all entries, and keeps out the responses to requests that have been made already.
    pub fn purge(&self) {
        self.purges.fetch_add(1, SeqCst);
        self.entries.invalidate_all();
    }

    /// Usage by operation. Walks all entries: for scrapes, not for the path.
    pub fn usage(&self) -> BTreeMap<Arc<str>, CacheUsage> {
        self.entries.run_pending_tasks();
        let mut by_operation = BTreeMap::<Arc<str>, CacheUsage>::new();
        for (key, entry) in &self.entries {
            let usage = by_operation.entry(entry.operation.clone()).or_default();
            usage.entries += 1;
            usage.bytes += u64::from(entry.weight(&key));
        }
        by_operation
    }
}

#[cfg(test)]
mod tests {
    use super::{key::key_of_path as key, *};

    fn entry(size: usize) -> Arc<CacheEntry> {
        Arc::new(CacheEntry {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: vec![b'x'; size].into(),
            outcome: Outcome::Ok,
            operation: "v2.city".into(),
            stored_from: HeaderValue::from_static("r1"),
            stored: Instant::now(),
            lifetime: Duration::from_secs(60),
            readers: None,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn gives_out_only_fresh_entries() {
        let cache = Cache::new(1 << 20);
        cache.keep(key("/a"), entry(10), cache.generation());
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(cache.fresh(&key("/a"), RequestDirectives::default(), Instant::now()).is_some());
        let young = RequestDirectives { max_age: Some(Duration::from_secs(30)), only_if_cached: false };
        assert!(cache.fresh(&key("/a"), young, Instant::now()).is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(cache.fresh(&key("/a"), RequestDirectives::default(), Instant::now()).is_none());
        assert!(cache.usage().is_empty());
    }

    #[test]
    fn stores_nothing_that_was_requested_before_a_purge() {
        let cache = Cache::new(1 << 20);
        let before = cache.generation();
        assert!(cache.keep(key("/a"), entry(10), before));
        cache.purge();
        assert!(cache.fresh(&key("/a"), RequestDirectives::default(), Instant::now()).is_none());
        assert!(!cache.keep(key("/a"), entry(10), before));
        assert!(cache.fresh(&key("/a"), RequestDirectives::default(), Instant::now()).is_none());
        assert!(cache.keep(key("/a"), entry(10), cache.generation()));
        assert!(cache.fresh(&key("/a"), RequestDirectives::default(), Instant::now()).is_some());
    }

    #[test]
    fn what_has_left_it_counts_until_its_readers_are_done() {
        let memory = Memory::new(1 << 20);
        let cache = Cache::new(200_000);
        let detached = |size| Arc::new(Arc::into_inner(entry(size)).unwrap().detached(0, &memory));
        // Stores a response and reads it.
        let store = |name: &str, size| {
            let entry = detached(size);
            assert!(cache.keep(key(name), entry.clone(), cache.generation()));
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
