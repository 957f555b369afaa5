//! The cache as a whole: what it keeps, for how long, and what a purge or a reload takes along. The rooms below it have tests
//! of their own.

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
    cache.begin_restore();
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
    let changes = cache.changes();
    assert!(!cache.forget_unused(|key| key.request().unwrap().address == "https://b2b.example"));
    assert!(is_fresh(&cache, "/a") && cache.changes() == changes);
    assert!(cache.forget_unused(|key| key.request().unwrap().address == "https://other.example"));
    assert!(cache.changes() != changes && !is_fresh(&cache, "/a") && cache.usage().is_empty());
    let operation = OperationLifetimes::fixed("v2.city", Lifetimes::only_fresh(MINUTE));
    let response = NewEntry { operation: operation.clone(), ..test_response(10) };
    assert!(cache.keep(key("/a"), Arc::new(CacheEntry::shared(response)), cache.generation()));
    operation.apply(None);
    assert!(cache.forget_unused(|_| true));
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
    let detached = |size| Arc::new(cache.pack(response(size, Lifetimes::only_fresh(MINUTE)), &memory.share(None)));
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
    cache.begin_restore();
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
fn a_restore_leaves_out_what_is_outdated_since_it_began_and_ends() {
    let cache = Cache::new(1 << 20);
    let generation = cache.generation();
    assert!(cache.keep(key("/before"), entry(10), generation));
    cache.remove(&key("/before"));
    cache.begin_restore();
    assert!(cache.keep(key("/stored"), entry(10), generation));
    cache.remove(&key("/stored"));
    cache.give_up(&key("/gone"), &entry(10), generation);
    assert_eq!(["/before", "/stored", "/gone"].map(|path| cache.may_restore(&key(path))), [true, false, false]);
    let restore = |path: &str| cache.restore(key(path), CacheEntry::shared(test_response(10)), generation);
    assert_eq!(["/before", "/stored", "/gone"].map(restore), [true, false, false]);
    cache.end_restore();
    assert!(!cache.may_restore(&key("/late")) && !restore("/late"));
}

#[tokio::test(start_paused = true)]
async fn what_was_requested_later_is_not_given_up() {
    let cache = Cache::new(1 << 20);
    let older = entry(10);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(cache.keep(key("/a"), entry(10), cache.generation()));
    cache.give_up(&key("/a"), &older, cache.generation());
    assert!(is_fresh(&cache, "/a"));
    tokio::time::advance(Duration::from_millis(1)).await;
    cache.give_up(&key("/a"), &entry(10), cache.generation());
    assert!(!is_fresh(&cache, "/a"));
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
