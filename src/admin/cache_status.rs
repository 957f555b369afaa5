//! The cache in `/status`: what it holds and did, by operation and service, and the walks that fill it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Admin;
use crate::{
    cache::CacheUsage,
    record::{CacheResult, CacheTally, ServiceOperation},
    snapshot::Snapshot,
    warm::{WalkCounts, WalkProgress, Warmer},
};

#[derive(Serialize)]
pub(super) struct CacheStatus {
    entries: u64,
    bytes: u64,
    operations: BTreeMap<String, CachedOperation>,
    /// By service, then operation; since the start.
    services: BTreeMap<String, BTreeMap<String, CacheUseStatus>>,
    /// Walks of the region tree since the start, by account.
    walks: BTreeMap<String, WalkStatus>,
    /// Time until walks begin by `cache.warm`; `null`: they do not.
    next_walk_seconds: Option<u64>,
}

/// How far the last walk of an account is.
#[derive(Serialize)]
pub(super) struct WalkStatus {
    /// `running`, or how it ended.
    state: &'static str,
    /// Operation of the level that is being walked.
    level: &'static str,
    #[serde(flatten)]
    counts: WalkCounts,
    took_seconds: u64,
    /// For what is known so far, at the pace so far, or as far as the day's budget spares it; `null`: not known, or ended.
    left_seconds: Option<u64>,
}

pub(super) fn walks(warmer: &Warmer) -> BTreeMap<String, WalkStatus> {
    let status = |walk: WalkProgress| WalkStatus {
        state: walk.ended.map_or("running", Into::into),
        level: walk.level,
        counts: walk.counts,
        took_seconds: walk.took.as_secs(),
        left_seconds: walk.left.map(|left| left.as_secs()),
    };
    warmer.progress().into_iter().map(|(account, walk)| (account, status(walk))).collect()
}

#[derive(Serialize, Default)]
struct CachedOperation {
    entries: u64,
    bytes: u64,
    /// Of all services, since the start.
    #[serde(flatten)]
    used: CacheUseStatus,
    drift: DriftStatus,
}

/// How often stored responses had changed when they were fetched again, since the start.
#[derive(Default, Serialize)]
struct DriftStatus {
    compared: u64,
    changed: u64,
    /// With this `fresh`, one response in a hundred has changed at its end; `null`: none has changed yet.
    suggested_fresh_seconds: Option<u64>,
}

/// What the cache did for requests.
#[derive(Clone, Copy, Default, Serialize)]
struct CacheUseStatus {
    hits: u64,
    stale: u64,
    joined: u64,
    misses: u64,
    bypassed: u64,
    /// Requests answered without a call to Fastrac of their own.
    calls_saved: u64,
    /// What those calls would have cost of the account's budget, at the operation's present cost.
    units_saved: u64,
}

impl CacheStatus {
    pub(super) fn of(snapshot: &Snapshot, admin: &Admin) -> Self {
        let held = snapshot.cache.usage();
        let mut operations: BTreeMap<String, CachedOperation> = held
            .iter()
            .map(|(name, held)| {
                let CacheUsage { entries, bytes } = *held;
                (name.to_string(), CachedOperation { entries, bytes, ..CachedOperation::default() })
            })
            .collect();
        for (operation, tally) in admin.gateway.live.metrics.drift_tallies() {
            operations.entry(operation).or_default().drift = DriftStatus {
                compared: tally.compared,
                changed: tally.changed,
                suggested_fresh_seconds: tally.suggested_lifetime().map(|fresh| fresh.as_secs()),
            };
        }
        let mut services = BTreeMap::<String, BTreeMap<String, CacheUseStatus>>::new();
        for tally in &admin.gateway.live.metrics.cache_tallies() {
            let ServiceOperation { service, operation } = &tally.of;
            let row = snapshot.catalog.operations.iter().find(|row| row.name == *operation);
            let used = CacheUseStatus::of(tally, row.map_or(1, |row| row.cost));
            operations.entry(operation.clone()).or_default().used.add(used);
            services.entry(service.clone()).or_default().insert(operation.clone(), used);
        }
        CacheStatus {
            entries: held.values().map(|held| held.entries).sum(),
            bytes: held.values().map(|held| held.bytes).sum(),
            operations,
            services,
            walks: walks(&admin.warmer),
            next_walk_seconds: admin.warmer.next_in().map(|time| time.as_secs()),
        }
    }
}

impl CacheUseStatus {
    fn of(tally: &CacheTally, cost: u32) -> Self {
        CacheUseStatus {
            hits: tally.count(CacheResult::Hit),
            stale: tally.count(CacheResult::Stale),
            joined: tally.count(CacheResult::Joined),
            misses: tally.count(CacheResult::Miss),
            bypassed: tally.count(CacheResult::Bypass),
            calls_saved: tally.calls_saved,
            units_saved: tally.calls_saved * u64::from(cost),
        }
    }

    fn add(&mut self, other: CacheUseStatus) {
        self.hits += other.hits;
        self.stale += other.stale;
        self.joined += other.joined;
        self.misses += other.misses;
        self.bypassed += other.bypassed;
        self.calls_saved += other.calls_saved;
        self.units_saved += other.units_saved;
    }
}
