//! Which entries stay where there is no room for all, also after a restart.
//!
//! moka stores a new entry in a full cache only if it was asked for more often, of late, than those together that it would
//! evict. So a scan of responses that are asked for once evicts little. moka does not tell what it has counted: an entry counts
//! its own uses for the snapshot, and a restored cache repeats them to moka. Never fails.

use super::Cache;

/// Uses of one entry that are repeated at most: moka counts up to 15 and halves the counts now and then.
const REPEATED: u32 = 4;

impl Cache {
    /// Tells moka of the uses of restored entries, the least used first, so that it is the first to be evicted. Walks all
    /// entries.
    pub(crate) fn recall_uses(&self) {
        // It counts only in a cache that is half full, which it finds out now.
        self.entries.run_pending_tasks();
        let mut used: Vec<_> = self.entries.iter().map(|(key, entry)| (entry.uses(), key)).collect();
        used.sort_by_key(|(uses, _)| *uses);
        for (uses, key) in used {
            // By magnitude.
            for _ in 0..(uses + 1).ilog2().min(REPEATED) {
                self.entries.get(&*key);
            }
        }
        self.entries.run_pending_tasks();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::{
        super::{CacheEntry, Lookup, key::key_of_path as key, test_entry, test_response},
        *,
    };

    const MEMORY: u64 = 500_000;
    const IN_USE: usize = 180;

    /// A request as the path makes it. Returns whether it was a hit.
    fn request(cache: &Cache, path: &str, size: usize) -> bool {
        let (key, now) = (key(path), Instant::now());
        if let Lookup::Fresh(entry) = cache.lookup(&key, now) {
            entry.count_use();
            return true;
        }
        // To join a fetch, and to see what that replaces.
        assert!((0..2).all(|_| matches!(cache.peek(&key, now), Lookup::Miss)));
        cache.keep(key, test_entry(size), cache.generation());
        false
    }

    /// Uses small entries in turn, with one new response of this size for each; returns the part of hits.
    fn hits_in_a_scan(cache: &Cache, size: usize) -> f64 {
        const ROUNDS: usize = 10;
        let mut hits = 0;
        for number in 0..ROUNDS * IN_USE {
            hits += usize::from(request(cache, &format!("/{}", number % IN_USE), 1000));
            request(cache, &format!("/scan/{size}/{number}"), size);
        }
        hits as f64 / (ROUNDS * IN_USE) as f64
    }

    #[test]
    fn what_is_asked_for_once_does_not_evict_what_is_in_use() {
        for size in [1000, 5000, 50_000] {
            let cache = Cache::new(MEMORY);
            for number in 0..3 * IN_USE {
                request(&cache, &format!("/{}", number % IN_USE), 1000);
            }
            let hits = hits_in_a_scan(&cache, size);
            assert!(hits > 0.95, "{hits} with {size} bytes");
        }
    }

    #[test]
    fn what_was_in_use_before_a_restart_is_not_evicted_after_it() {
        let cache = Cache::new(MEMORY);
        for number in 0..IN_USE {
            let entry = CacheEntry::shared(test_response(1000));
            (0..20).for_each(|_| entry.count_use());
            assert!(cache.restore(key(&format!("/{number}")), entry, cache.generation()));
        }
        cache.recall_uses();
        // Nothing is in use yet.
        for number in 0..20 * IN_USE {
            request(&cache, &format!("/scan/{number}"), 5000);
        }
        let kept = (0..IN_USE)
            .filter(|number| matches!(cache.peek(&key(&format!("/{number}")), Instant::now()), Lookup::Fresh(_)));
        let kept = kept.count();
        assert!(kept > IN_USE * 9 / 10, "{kept} of {IN_USE}");
    }

    #[test]
    fn a_new_response_inherits_half_the_uses() {
        let old = Arc::new(CacheEntry::shared(test_response(10)));
        (0..9).for_each(|_| old.count_use());
        let new = CacheEntry::shared(test_response(10)).replacing(&old);
        assert_eq!((old.uses(), new.uses()), (9, 4));
    }
}
