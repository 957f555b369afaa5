//! Which entries stay where there is no room for all, also after a restart.
//!
//! In a full cache, a new response is stored only if it was asked for more often, of late, than those together that it would
//! evict. Those are, of some that are chosen at random, the ones with the fewest uses for their size; those past their last
//! permitted use come first and count for nothing. What always holds: this is decided before a response is stored; a scan of
//! responses that are asked for once evicts none that was used of late; a response that is asked for often is stored sooner
//! or later, whatever its size; the stored entries take at most `cache.memory`. "Of late": all counts are halved now and
//! then. A hit only counts. Never fails.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Cache, CacheEntry, Key, weight};

/// Entries of which those with the fewest uses for their size are evicted.
const SAMPLE: usize = 32;

/// Number of these that are evicted at most, before others are chosen.
const TAKEN: usize = 8;

/// Time after which counts are halved.
const HALF_LIFE: Duration = Duration::from_secs(3600);

/// Counters for each stored entry. Counts are halved after as many fetches as there could be entries, too: so few counters
/// are shared that two in a hundred counts are too high at most.
const SPREAD: usize = 8;

/// Smallest number of counters.
const FEWEST: usize = 1 << 12;

/// Counters of one key. The lowest counts.
const PROBES: u64 = 4;

#[derive(Debug)]
pub(super) struct Popularity {
    /// Of the cache, bytes.
    memory: u64,
    stored: Mutex<StoredEntries>,
    fetches: Mutex<Fetches>,
}

/// All entries, in no order.
#[derive(Debug, Default)]
struct StoredEntries {
    entries: Vec<(Arc<Key>, Arc<CacheEntry>)>,
    /// Of the heap.
    bytes: u64,
}

/// How often each response was fetched of late: a count-min sketch.
#[derive(Debug)]
struct Fetches {
    /// None until the cache is half full: what is fetched is stored then.
    counters: Box<[u16]>,
    hasher: RandomState,
    /// Since the counts were halved.
    count: usize,
    halved: Option<Instant>,
}

/// A response for which there is no room.
#[derive(Clone, Copy, Debug)]
struct Newcomer<'a> {
    /// Bytes that it lacks.
    needed: u64,
    uses: u32,
    replaces: Option<&'a Arc<CacheEntry>>,
}

/// An entry that may be evicted.
#[derive(Clone, Copy, Debug)]
struct Evictable {
    place: usize,
    uses: u32,
    /// Of the heap, bytes.
    size: u64,
}

impl Popularity {
    /// For a cache of `memory` bytes.
    pub(super) fn new(memory: u64) -> Self {
        let fetches = Fetches { counters: Box::default(), hasher: RandomState::new(), count: 0, halved: None };
        Popularity { memory, stored: Mutex::default(), fetches: Mutex::new(fetches) }
    }

    /// Bytes that the stored entries take.
    pub(super) fn bytes(&self) -> u64 {
        self.stored.lock().bytes
    }

    /// An entry is about to be stored.
    pub(super) fn add(&self, key: Arc<Key>, entry: Arc<CacheEntry>) {
        let mut stored = self.stored.lock();
        stored.bytes += u64::from(weight(&key, &entry));
        entry.set_place(stored.entries.len());
        stored.entries.push((key, entry));
    }

    /// The key under which an entry is stored.
    fn key_of(&self, entry: &Arc<CacheEntry>) -> Option<Arc<Key>> {
        let stored = self.stored.lock();
        let (key, found) = stored.entries.get(entry.place())?;
        Arc::ptr_eq(found, entry).then(|| key.clone())
    }

    /// An entry is stored no longer.
    pub(super) fn remove(&self, entry: &Arc<CacheEntry>) {
        let mut stored = self.stored.lock();
        let place = entry.place();
        if !stored.entries.get(place).is_some_and(|(_, found)| Arc::ptr_eq(found, entry)) {
            return;
        }
        let (key, entry) = stored.entries.swap_remove(place);
        stored.bytes -= u64::from(weight(&key, &entry));
        if let Some((_, moved)) = stored.entries.get(place) {
            moved.set_place(place);
        }
        if stored.entries.len() < stored.entries.capacity() / 4 {
            let length = stored.entries.len();
            stored.entries.shrink_to(2 * length);
        }
        // Freed after the lock.
        drop(stored);
    }

    /// Counts a fetch of a response. Returns how often it was fetched of late.
    fn count(&self, key: &Key, now: Instant) -> u32 {
        let mut fetches = self.fetches.lock();
        let (bytes, entries) = {
            let stored = self.stored.lock();
            (stored.bytes, stored.entries.len())
        };
        if bytes < self.memory / 2 {
            return 1;
        }
        if fetches.counters.len() < entries * SPREAD {
            let counters = (2 * entries * SPREAD).next_power_of_two().max(FEWEST);
            (fetches.counters, fetches.count) = (vec![0; counters].into_boxed_slice(), 0);
        }
        let passed = now.saturating_duration_since(*fetches.halved.get_or_insert(now));
        let by_time = passed.as_secs() / HALF_LIFE.as_secs();
        let by_count = u64::from(fetches.count * SPREAD >= fetches.counters.len().max(FEWEST));
        let halvings = by_time.max(by_count).min(15) as u32;
        if halvings > 0 {
            (fetches.count, fetches.halved) = (0, Some(now));
            fetches.counters.iter_mut().for_each(|counter| *counter >>= halvings);
            self.stored.lock().entries.iter().for_each(|(_, entry)| entry.halve_uses(halvings));
        }
        fetches.count += 1;
        if fetches.counters.is_empty() {
            return 1;
        }
        let hash = fetches.hasher.hash_one(key);
        let mask = fetches.counters.len() as u64 - 1;
        let probes = (0..PROBES).map(|probe| hash.wrapping_add(probe * ((hash >> 32) | 1)) & mask);
        let lowest = probes.clone().map(|probe| fetches.counters[probe as usize]).min().unwrap_or_default();
        let count = lowest.saturating_add(1);
        for probe in probes {
            let counter = &mut fetches.counters[probe as usize];
            *counter = count.max(*counter);
        }
        count.into()
    }

    /// The entries to be evicted for another one. `None`: they were used as often as that one, or more often.
    fn victims(&self, newcomer: Newcomer<'_>, now: Instant) -> Option<Vec<Arc<Key>>> {
        let stored = self.stored.lock();
        let (mut places, mut freed, mut uses) = (Vec::new(), 0, 0);
        while freed < newcomer.needed {
            let sample = stored.sample(&places, newcomer.replaces, now);
            if sample.is_empty() && places.len() + SAMPLE >= stored.entries.len() {
                return None;
            }
            for evictable in sample.into_iter().take(TAKEN) {
                uses += u64::from(evictable.uses);
                if uses >= newcomer.uses.into() {
                    return None;
                }
                places.push(evictable.place);
                freed += evictable.size;
                if freed >= newcomer.needed {
                    break;
                }
            }
        }
        Some(places.into_iter().map(|place| stored.entries[place].0.clone()).collect())
    }
}

impl StoredEntries {
    /// Entries that are chosen at random, except those at these places and the one that is replaced; those with the fewest
    /// uses for their size come first.
    fn sample(&self, except: &[usize], replaced: Option<&Arc<CacheEntry>>, now: Instant) -> Vec<Evictable> {
        let all = self.entries.len();
        // In a small cache this is all of them.
        let mut places: Vec<usize> =
            if all <= SAMPLE { (0..all).collect() } else { (0..SAMPLE).map(|_| fastrand::usize(..all)).collect() };
        places.sort_unstable();
        places.dedup();
        let evictable = |place: usize| {
            let (key, entry) = &self.entries[place];
            let is_replaced = replaced.is_some_and(|replaced| Arc::ptr_eq(replaced, entry));
            let uses = if entry.is_usable(now) { entry.uses() } else { 0 };
            (!is_replaced).then(|| Evictable { place, uses, size: u64::from(weight(key, entry)) })
        };
        let mut sample: Vec<_> =
            places.into_iter().filter(|place| !except.contains(place)).filter_map(evictable).collect();
        sample.sort_by(|a, b| (u64::from(a.uses) * b.size).cmp(&(u64::from(b.uses) * a.size)));
        sample
    }
}

impl Cache {
    /// Stores an entry, in place of others if need be, unless they are used more than it, or what is stored under the key was
    /// requested later. To be called while no other is stored. Returns whether it did.
    pub(super) fn place(&self, key: Arc<Key>, entry: Arc<CacheEntry>) -> bool {
        let now = Instant::now();
        let uses = self.popularity.count(&key, now).max(entry.uses());
        let replaced = self.entries.get(&*key);
        if replaced.as_ref().is_some_and(|replaced| Arc::ptr_eq(replaced, &entry)) {
            return true;
        }
        // Of a fetch that began later and ended sooner.
        if replaced.as_ref().is_some_and(|replaced| replaced.is_newer_than(&entry, now)) {
            return false;
        }
        let freed = replaced.as_ref().map_or(0, |replaced| u64::from(weight(&key, replaced)));
        let taken = self.popularity.bytes().saturating_sub(freed) + u64::from(weight(&key, &entry));
        let needed = taken.saturating_sub(self.memory);
        if needed > 0 {
            let newcomer = Newcomer { needed, uses, replaces: replaced.as_ref() };
            let Some(victims) = self.popularity.victims(newcomer, now) else {
                // What it should have replaced is no longer what Fastrac says.
                if replaced.is_some() {
                    self.entries.invalidate(&*key);
                }
                return false;
            };
            victims.iter().for_each(|victim| self.entries.invalidate(&**victim));
        }
        entry.raise_uses(uses);
        // moka keeps the key that it has, so another one would be a second copy, which nothing counts.
        let key = replaced.and_then(|replaced| self.popularity.key_of(&replaced)).unwrap_or(key);
        self.insert(key, entry);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Lifetimes, Lookup, NewEntry, OperationLifetimes, key::key_of_path as key, test_entry, test_response},
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
        let stored = cache.keep(key.clone(), test_entry(size), cache.generation());
        assert_eq!(stored, is_stored(cache, path), "keep says what is so");
        false
    }

    /// Requests so many small responses, each once.
    fn request_small(cache: &Cache, count: usize) {
        (0..count).for_each(|number| {
            request(cache, &format!("/{number}"), 1000);
        });
    }

    fn is_stored(cache: &Cache, path: &str) -> bool {
        matches!(cache.lookup(&key(path), Instant::now()), Lookup::Fresh(_))
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
        cache.begin_restore();
        for number in 0..IN_USE {
            let entry = CacheEntry::shared(test_response(1000));
            (0..20).for_each(|_| entry.count_use());
            assert!(cache.restore(key(&format!("/{number}")), entry, cache.generation()));
        }
        // Nothing is in use yet.
        for number in 0..5 * IN_USE {
            request(&cache, &format!("/scan/{number}"), 5000);
        }
        let kept = (0..IN_USE).filter(|number| is_stored(&cache, &format!("/{number}"))).count();
        assert!(kept > IN_USE * 9 / 10, "{kept} of {IN_USE}");
    }

    #[test]
    fn a_large_response_that_is_asked_for_often_is_stored_beside_small_ones_in_use() {
        for (size, uses) in [(1000, 3), (20_000, 1), (20_000, 3), (60_000, 2)] {
            let cache = Cache::new(MEMORY);
            (0..uses).for_each(|_| request_small(&cache, 400));
            let small = || (0..400).filter(|number| is_stored(&cache, &format!("/{number}"))).count();
            let before = small();
            let asked = (1..10_000).find(|_| request(&cache, "/large", size)).expect("stored");
            // One for each use of those that it evicts, and no more.
            let evicted = size / 1250 + 2;
            assert!(asked <= evicted * uses + 2, "{size} bytes beside small ones used {uses}x: asked {asked}x");
            assert!(before - small() <= evicted, "{before} -> {}", small());
            // It stays while it is used.
            for number in 0..1000 {
                assert!(request(&cache, "/large", size));
                request(&cache, &format!("/scan/{number}"), 5000);
            }
        }
    }

    /// Requests for responses of mixed sizes, some of which are asked for much more often than others.
    #[test]
    fn the_most_popular_ones_are_stored_whatever_their_size() {
        let cache = Cache::new(MEMORY);
        let mut random = fastrand::Rng::with_seed(17);
        let size = |number: usize| [300, 1000, 3000, 10_000, 30_000][number % 5];
        let (mut hits, mut popular) = (0, 0);
        for round in 0..40_000 {
            // By Zipf's law, nearly: half of the requests are for the first 45 of 2,000.
            let number = 2000_f64.powf(random.f64()) as usize - 1;
            let hit = request(&cache, &format!("/{number}"), size(number));
            if round >= 20_000 && number < 20 {
                (hits, popular) = (hits + usize::from(hit), popular + 1);
            }
        }
        let part = f64::from(hits as u32) / f64::from(popular);
        assert!(part > 0.95, "{part} of {popular}");
        let bytes: u64 = cache.usage().values().map(|usage| usage.bytes).sum();
        assert!((MEMORY * 4 / 5..=MEMORY).contains(&bytes) && bytes == cache.popularity.bytes(), "{bytes}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_may_be_given_any_more_keeps_nothing_out() {
        let cache = Cache::new(MEMORY);
        let short = OperationLifetimes::fixed("v2.short", Lifetimes::only_fresh(Duration::from_secs(2)));
        let dead = |number: usize| {
            let response = NewEntry { operation: short.clone(), ..test_response(1000) };
            let path = format!("/short/{number}");
            cache.keep(key(&path), Arc::new(CacheEntry::shared(response)), cache.generation());
            let Lookup::Fresh(entry) = cache.lookup(&key(&path), Instant::now()) else { return };
            (0..100).for_each(|_| entry.count_use());
        };
        (0..4).for_each(|_| request_small(&cache, 150));
        (0..300).for_each(dead);
        tokio::time::advance(Duration::from_secs(3)).await;
        let stored = (0..60).filter(|number| {
            request(&cache, &format!("/new/{number}"), 1000);
            is_stored(&cache, &format!("/new/{number}"))
        });
        assert!(stored.count() >= 59);
        assert_eq!((0..150).filter(|number| is_stored(&cache, &format!("/{number}"))).count(), 150);
    }

    #[tokio::test(start_paused = true)]
    async fn old_uses_count_less() {
        let cache = Cache::new(MEMORY);
        (0..4).for_each(|_| request_small(&cache, 400));
        let asked = |path: &str| (1..10_000).find(|_| request(&cache, path, 20_000)).expect("stored");
        let at_once = asked("/first");
        tokio::time::advance(3 * HALF_LIFE).await;
        (0..3).for_each(|number| {
            request(&cache, &format!("/other/{number}"), 100);
        });
        assert!(asked("/second") < at_once);
    }

    #[test]
    fn a_new_response_inherits_the_uses() {
        let old = Arc::new(CacheEntry::shared(test_response(10)));
        (0..9).for_each(|_| old.count_use());
        let new = CacheEntry::shared(test_response(10)).replacing(&old);
        assert_eq!((old.uses(), new.uses()), (9, 9));
    }
}
