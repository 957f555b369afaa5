//! Stored answers, and single flight for those that are on their way.
//!
//! Only good answers are stored (`outcome::Reading::storable`), never an order's. moka bounds the
//! bytes; freshness is ours, because its clock is private. Knows no Fastrac and no caller; never
//! fails: what can't be stored is simply asked for again.

pub mod flight;
pub mod key;
pub mod rules;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::Instant;

use crate::outcome::Outcome;
pub use flight::{Flights, Follower, Leader, Seat};
pub use key::Key;
pub use rules::RequestDirectives;

/// A stored answer.
#[derive(Debug)]
pub struct Entry {
    /// Fastrac's status.
    pub status: StatusCode,
    /// Fastrac's headers, cleaned.
    pub headers: HeaderMap,
    /// Fastrac's body.
    pub body: Bytes,
    /// `Ok` or `NotFound`.
    pub outcome: Outcome,
    /// Name of the operation.
    pub operation: Arc<str>,
    /// Id of the request that brought it.
    pub stored_from: HeaderValue,
    /// When it came.
    pub stored: Instant,
    /// How long it is fresh.
    pub lifetime: Duration,
}

impl Entry {
    /// How long ago it came.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.stored)
    }

    /// How long it stays fresh; `None` once it is stale.
    pub fn ttl(&self, now: Instant) -> Option<Duration> {
        self.lifetime.checked_sub(self.age(now)).filter(|left| !left.is_zero())
    }

    /// With bytes of its own: slices would hold all of the connection's buffers for as long as the
    /// entry lives, uncounted. There is room for `more` headers, so that no copy has to be hashed anew for them.
    pub fn detached(self, more: usize) -> Self {
        let own = |value: HeaderValue| HeaderValue::from_bytes(value.as_bytes()).unwrap_or(value);
        let mut headers = HeaderMap::with_capacity(self.headers.len() + more);
        for (name, value) in &self.headers {
            headers.append(name, own(value.clone()));
        }
        Entry { headers, body: Bytes::copy_from_slice(&self.body), ..self }
    }

    fn weight(&self, key: &Key) -> u32 {
        let headers: usize = self.headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 64).sum();
        u32::try_from(key.size() + self.body.len() + headers + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
    }
}

/// What an entry costs beside its bytes: moka's node, the maps, the allocations. Estimated.
const ENTRY_OVERHEAD: usize = 512;

/// Stored answers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cache {
    entries: moka::sync::Cache<Key, Arc<Entry>>,
}

/// What is stored of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Answers.
    pub entries: u64,
    /// Bytes, estimated.
    pub bytes: u64,
}

impl Cache {
    /// An empty cache of at most `memory` bytes.
    pub fn new(memory: u64) -> Self {
        let entries = moka::sync::Cache::builder()
            .max_capacity(memory)
            .weigher(|key: &Key, entry: &Arc<Entry>| entry.weight(key))
            .build();
        Cache { entries }
    }

    /// The stored answer, if it is fresh and the caller accepts its age.
    pub fn fresh(&self, key: &Key, wish: RequestDirectives, now: Instant) -> Option<Arc<Entry>> {
        let entry = self.entries.get(key)?;
        if entry.ttl(now).is_none() {
            self.entries.invalidate(key);
            return None;
        }
        wish.accepts(entry.age(now)).then_some(entry)
    }

    /// Stores an answer.
    pub fn keep(&self, key: Key, entry: Arc<Entry>) {
        self.entries.insert(key, entry);
    }

    /// Forgets everything.
    pub fn purge(&self) {
        self.entries.invalidate_all();
    }

    /// What is stored, by operation. Walks all entries: for scrapes, not for the path.
    pub fn held(&self) -> BTreeMap<Arc<str>, Held> {
        self.entries.run_pending_tasks();
        let mut by_operation = BTreeMap::<Arc<str>, Held>::new();
        for (key, entry) in &self.entries {
            let held = by_operation.entry(entry.operation.clone()).or_default();
            held.entries += 1;
            held.bytes += u64::from(entry.weight(&key));
        }
        by_operation
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::Parts;

    fn key(path: &str) -> Key {
        Key::new(Parts { account: "a", service: None, method: "GET", path, query: None, vary: &[], body: b"" })
    }

    fn entry(size: usize) -> Arc<Entry> {
        Arc::new(Entry {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: vec![b'x'; size].into(),
            outcome: Outcome::Ok,
            operation: "v2.city".into(),
            stored_from: HeaderValue::from_static("r1"),
            stored: Instant::now(),
            lifetime: Duration::from_secs(60),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn gives_out_only_what_is_fresh() {
        let cache = Cache::new(1 << 20);
        cache.keep(key("/a"), entry(10));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(cache.fresh(&key("/a"), RequestDirectives::default(), Instant::now()).is_some());
        let young = RequestDirectives { max_age: Some(Duration::from_secs(30)), only_if_cached: false };
        assert!(cache.fresh(&key("/a"), young, Instant::now()).is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(cache.fresh(&key("/a"), RequestDirectives::default(), Instant::now()).is_none());
        assert!(cache.held().is_empty());
    }

    #[test]
    fn stays_within_its_memory() {
        let cache = Cache::new(100_000);
        for i in 0..1000 {
            cache.keep(key(&format!("/{i}")), entry(1000));
        }
        let held = cache.held();
        let bytes: u64 = held.values().map(|h| h.bytes).sum();
        assert!(bytes <= 100_000 && held["v2.city"].entries > 10, "{held:?}");
    }
}
