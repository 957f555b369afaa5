//! What the cache did for each service and operation since the start, for `/status`.
//!
//! Series by service, operation and result would be many, so these are no metrics. What always holds: a request counts
//! once; the counts survive reloads. Never fails.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use strum::EnumCount as _;

use super::names::CacheResult;

/// The counts of all services and operations.
#[derive(Debug, Default)]
pub(super) struct CacheCounts(Mutex<BTreeMap<ServiceOperation, Arc<CacheCount>>>);

/// Names of a service and an operation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceOperation {
    pub service: String,
    pub operation: String,
}

/// The counts of one service and operation.
#[derive(Debug, Default)]
pub(super) struct CacheCount {
    /// Indexed by result.
    results: [AtomicU64; CacheResult::COUNT],
    calls_saved: AtomicU64,
}

/// The counts of one service and operation at this time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheTally {
    pub of: ServiceOperation,
    /// Indexed by result.
    results: [u64; CacheResult::COUNT],
    /// Requests answered without a call to Fastrac of their own.
    pub calls_saved: u64,
}

impl CacheCounts {
    pub(super) fn of(&self, service: &str, operation: &str) -> Arc<CacheCount> {
        let of = ServiceOperation { service: service.to_owned(), operation: operation.to_owned() };
        self.0.lock().entry(of).or_default().clone()
    }

    pub(super) fn tallies(&self) -> Vec<CacheTally> {
        let tally = |(of, count): (&ServiceOperation, &Arc<CacheCount>)| CacheTally {
            of: of.clone(),
            results: std::array::from_fn(|result| count.results[result].load(Relaxed)),
            calls_saved: count.calls_saved.load(Relaxed),
        };
        self.0.lock().iter().map(tally).collect()
    }
}

impl CacheCount {
    /// Counts a request. `saved`: it was answered without a call of its own.
    pub(super) fn add(&self, result: CacheResult, saved: bool) {
        self.results[result as usize].fetch_add(1, Relaxed);
        self.calls_saved.fetch_add(u64::from(saved), Relaxed);
    }
}

impl CacheTally {
    /// Requests with this result.
    pub fn count(&self, result: CacheResult) -> u64 {
        self.results[result as usize]
    }
}
