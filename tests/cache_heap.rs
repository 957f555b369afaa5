//! `cache.memory` is what the stored responses really take, with the program's own allocator.
//!
//! A binary of its own, because the memory of the whole process is measured.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cap::Cap;
use fastrac_gateway::{
    cache::{Cache, Key, KeyParts, Lifetimes, NewEntry, OperationLifetimes, ReceivedAt},
    memory::Memory,
    outcome::Outcome,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use mimalloc::MiMalloc;

#[global_allocator]
static HEAP: Cap<MiMalloc> = Cap::new(MiMalloc, usize::MAX);

/// Bytes of the process that are in memory.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// With a query that has about this many bytes more.
fn key(number: usize, more: usize) -> Key {
    let query = format!("province_id=31&city_id={number}&more={}", "x".repeat(more));
    Key::new(KeyParts {
        account: "main",
        address: "https://b2b-api-stg.fastrac.id",
        operation: "v2.district",
        service: None,
        method: "GET",
        path: "/region/district",
        query: Some(&query),
        vary: &[],
        body: b"",
    })
    .unwrap()
}

/// A response as Fastrac's, with a body of this many bytes.
fn response(size: usize, operation: &Arc<OperationLifetimes>) -> NewEntry {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    headers.insert(header::DATE, HeaderValue::from_static("Sun, 29 Nov 2026 10:22:00 GMT"));
    headers.insert(header::SERVER, HeaderValue::from_static("nginx/1.27.3"));
    headers.insert("x-powered-by", HeaderValue::from_static("Express"));
    NewEntry {
        status: StatusCode::OK,
        headers,
        body: Bytes::from(vec![b'x'; size]),
        outcome: Outcome::Ok,
        operation: operation.clone(),
        stored_from: HeaderValue::from_static("0193aaaa-1111-7222-8333-444455556666"),
        received: ReceivedAt::now(),
    }
}

fn counted(cache: &Cache) -> usize {
    cache.usage().values().map(|usage| usage.bytes as usize).sum()
}

/// Stores responses of a size between half of `size` and one and a half.
fn fill(cache: &Cache, memory: &Arc<Memory>, count: usize, size: usize) {
    let mut random = fastrand::Rng::with_seed(17);
    let operation = OperationLifetimes::fixed("v2.district", Lifetimes::only_fresh(Duration::from_secs(3600)));
    for number in 0..count {
        let entry =
            Arc::new(cache.pack(response(random.usize(size / 2..size * 3 / 2), &operation), &memory.share(None)));
        cache.keep(key(number, 0), entry, cache.generation());
    }
}

fn assert_near(what: &str, bytes: usize, expected: usize) {
    let ratio = bytes as f64 / expected as f64;
    println!("{what}: {bytes} bytes, {ratio:.3} of {expected}");
    assert!((0.9..=1.1).contains(&ratio), "{what}: {bytes} bytes, {ratio:.3} of {expected}");
}

/// One test, because tests of one process may run at the same time.
#[test]
fn the_setting_is_the_memory_that_is_used() {
    let buffers = Memory::new(1 << 30);
    // Small, medium and large ones, none evicted.
    for (count, size) in [(30_000, 200), (12_000, 1_500), (1_000, 30_000), (200, 500_000)] {
        let (before, resident_before) = (HEAP.allocated(), resident());
        let cache = Cache::new(1 << 30);
        fill(&cache, &buffers, count, size);
        cache.tidy();
        let (heap, counted) = (HEAP.allocated() - before, counted(&cache));
        let what = format!("{count} of {size} bytes");
        // Blocks are up to a quarter larger than what was asked for.
        assert!((counted * 4 / 5..=counted).contains(&heap), "{what}: {heap} allocated, {counted} counted");
        assert_near(&what, resident() - resident_before, counted);
        std::mem::forget(cache);
    }
    // Each is replaced once; keys are larger than responses.
    let operation = OperationLifetimes::fixed("v2.district", Lifetimes::only_fresh(Duration::from_secs(3600)));
    let (before, cache) = (HEAP.allocated(), Cache::new(1 << 30));
    for number in (0..2_000).chain(0..2_000) {
        let entry = Arc::new(cache.pack(response(200, &operation), &buffers.share(None)));
        assert!(cache.keep(key(number, 8_000), entry, cache.generation()));
    }
    cache.tidy();
    let (heap, counted) = (HEAP.allocated() - before, counted(&cache));
    assert!((counted * 4 / 5..=counted).contains(&heap), "long keys, replaced: {heap} allocated, {counted} counted");
    drop(cache);
    // Several times as many as there is room for.
    for (count, size) in [(60_000, 200), (30_000, 1_500), (2_000, 30_000), (250, 300_000)] {
        const MEMORY: usize = 16 << 20;
        let before = HEAP.allocated();
        let cache = Cache::new(MEMORY as u64);
        fill(&cache, &buffers, count, size);
        let most = HEAP.allocated() - before;
        cache.tidy();
        let rest = HEAP.allocated() - before;
        let what = format!("{count} of {size} bytes: {most} at the end of the burst, {rest} after it");
        println!("{what}");
        assert!(most <= MEMORY * 11 / 10 && (MEMORY * 4 / 5..=MEMORY).contains(&rest), "{what}");
    }
}
