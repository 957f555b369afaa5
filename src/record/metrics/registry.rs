//! The registry: resolves the handles of label sets, and limits their number.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use prometheus::{Encoder, Histogram, IntCounter, IntGauge, Registry, TextEncoder};

use super::{
    families::{self, Families},
    openmetrics,
};
use crate::record::{
    cache_counts::{CacheCount, CacheCounts, CacheTally},
    drift::{DriftCounts, DriftTally, ResponseComparison},
};

/// Maximum number of samples of all families with the label `service` that requests fill. A hundred services that use
/// thirty operations stay below it. Other families are bounded by the accounts, the operations and closed lists, and have
/// no limit: an alert on them must not go blind because there are many services.
pub const SERIES_LIMIT: usize = 50_000;

/// Label value of everything beyond the limit.
const OVERFLOW: &str = "overflow";

/// `Content-Type` of [`Metrics::text`].
pub const TEXT_CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Every family, in a registry of its own: two of them in one process are independent.
pub struct Metrics {
    registry: Registry,
    pub(super) families: Families,
    series: Mutex<KnownSeries>,
    cache_counts: CacheCounts,
    drift: DriftCounts,
    /// Held during a scrape.
    pub(super) scraping: Mutex<()>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("samples", &self.series.lock().samples).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct KnownSeries {
    /// Family and label values of every resolved series.
    sets: HashSet<String>,
    samples: usize,
}

/// `request_duration_seconds` and `overhead_duration_seconds` of one label set.
pub(in crate::record) struct DurationHandles {
    pub(in crate::record) total: Histogram,
    pub(in crate::record) overhead: Histogram,
}

/// `upstream_requests_total` and `upstream_duration_seconds` of one label set.
pub(in crate::record) struct UpstreamHandles {
    pub(in crate::record) requests: IntCounter,
    pub(in crate::record) duration: Histogram,
}

impl Metrics {
    /// All families, empty, and those of the process.
    ///
    /// # Errors
    /// Only if the name of a family is invalid or used twice; a test registers all of them.
    pub fn new() -> Result<Arc<Metrics>, prometheus::Error> {
        let registry = Registry::new();
        let families = Families::register(&registry)?;
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Arc::new(Metrics {
            registry,
            families,
            series: Mutex::default(),
            cache_counts: CacheCounts::default(),
            drift: DriftCounts::default(),
            scraping: Mutex::default(),
        }))
    }

    /// Prometheus text format 0.0.4.
    pub fn text(&self) -> String {
        let mut text = Vec::with_capacity(16 * 1024);
        // Fails only for an empty family, and `gather` omits those.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8(text).unwrap_or_default()
    }

    /// OpenMetrics 1.0.
    pub fn openmetrics(&self) -> String {
        openmetrics::encode(&self.registry.gather())
    }

    /// Counts an event of an account's keys: `seen`, `verified`, `promoted`, … `event` must come from a
    /// closed list.
    pub fn key_event(&self, account: &str, event: &'static str) {
        self.families.key_events.with_label_values(&[account, event]).inc();
    }

    /// Counts a request of the admin port. Both words must come from closed lists.
    pub fn admin_request(&self, action: &'static str, result: &'static str) {
        self.families.admin_requests.with_label_values(&[action, result]).inc();
    }

    /// Resolves `requests_total` of one label set.
    pub(in crate::record) fn requests(&self, service: &str, operation: &str, outcome: &'static str) -> IntCounter {
        if self.admit("requests", &[service, operation, outcome], 1) {
            self.families.requests.with_label_values(&[service, operation, outcome])
        } else {
            self.families.requests.with_label_values(&[OVERFLOW, OVERFLOW, outcome])
        }
    }

    /// Resolves `request_duration_seconds` and `overhead_duration_seconds` of one label set.
    pub(in crate::record) fn durations(&self, operation: &str, outcome: &'static str) -> DurationHandles {
        DurationHandles {
            total: self.families.request_duration.with_label_values(&[operation, outcome]),
            overhead: self.families.overhead_duration.with_label_values(&[operation, outcome]),
        }
    }

    /// Resolves `service_request_duration_seconds` of one service.
    pub(in crate::record) fn service_duration(&self, service: &str) -> Histogram {
        let admitted = self.admit("service_duration", &[service], families::DURATION_BUCKETS.len() + 3);
        self.families.service_request_duration.with_label_values(&[if admitted { service } else { OVERFLOW }])
    }

    /// Resolves `in_flight_requests` of one service.
    pub(in crate::record) fn in_flight(&self, service: &str) -> IntGauge {
        let admitted = self.admit("in_flight", &[service], 1);
        self.families.in_flight_requests.with_label_values(&[if admitted { service } else { OVERFLOW }])
    }

    /// Resolves `upstream_requests_total` and `upstream_duration_seconds` of one label set.
    pub(in crate::record) fn upstream(&self, account: &str, operation: &str, status: &'static str) -> UpstreamHandles {
        let labels = [account, operation, status];
        UpstreamHandles {
            requests: self.families.upstream_requests.with_label_values(&labels),
            duration: self.families.upstream_duration.with_label_values(&labels),
        }
    }

    /// Resolves `service_upstream_requests_total` of one service.
    pub(in crate::record) fn service_upstream(&self, service: &str, account: &str) -> IntCounter {
        let admitted = self.admit("service_upstream", &[service, account], 1);
        let service = if admitted { service } else { OVERFLOW };
        self.families.service_upstream_requests.with_label_values(&[service, account])
    }

    /// What the cache did since the start, by service and operation.
    pub fn cache_tallies(&self) -> Vec<CacheTally> {
        self.cache_counts.tallies()
    }

    /// Counts a stored response of an operation that was compared with the one that replaced it.
    pub(in crate::record) fn compared(&self, operation: &str, comparison: ResponseComparison) {
        let result = if comparison.changed { "changed" } else { "same" };
        self.families.cache_comparisons.with_label_values(&[operation, result]).inc();
        self.drift.add(operation, comparison);
    }

    /// How often stored responses had changed, by operation.
    pub fn drift_tallies(&self) -> BTreeMap<String, DriftTally> {
        self.drift.tallies()
    }

    /// Resolves the counts of the cache of one service and operation.
    pub(in crate::record) fn cache_count(&self, service: &str, operation: &str) -> Arc<CacheCount> {
        self.cache_counts.of(service, operation)
    }

    /// Resolves `cache_requests_total` of one label set.
    pub(in crate::record) fn cache_requests(&self, operation: &str, result: &'static str) -> IntCounter {
        self.families.cache_requests.with_label_values(&[operation, result])
    }

    /// Resolves `upstream_calls_saved_total` of one operation.
    pub(in crate::record) fn calls_saved(&self, operation: &str) -> IntCounter {
        self.families.upstream_calls_saved.with_label_values(&[operation])
    }

    /// Resolves `retries_total` of one label set.
    pub(in crate::record) fn retries(&self, account: &str, class: &'static str, reason: &'static str) -> IntCounter {
        self.families.retries.with_label_values(&[account, class, reason])
    }

    /// Counts in `orders_replayed_total`.
    pub(in crate::record) fn order_replayed(&self, account: &str) {
        self.families.orders_replayed.with_label_values(&[account]).inc();
    }

    /// Resolves `log_records_total` of one result.
    pub(in crate::record) fn log_records(&self, result: &'static str) -> IntCounter {
        self.families.log_records.with_label_values(&[result])
    }

    /// Counts a line of the exchange log that is written without its bodies.
    pub(in crate::record) fn log_bodies_dropped(&self) {
        self.families.log_bodies_dropped.with_label_values::<&str>(&[]).inc();
    }

    /// Whether this label set may have a series: it has one already, or `weight` more samples fit.
    fn admit(&self, family: &str, labels: &[&str], weight: usize) -> bool {
        let mut known = self.series.lock();
        let mut set = String::from(family);
        for label in labels {
            set.push('\0');
            set.push_str(label);
        }
        if known.sets.contains(&set) {
            return true;
        }
        if known.samples + weight > SERIES_LIMIT {
            self.families.series_overflow.with_label_values::<&str>(&[]).inc();
            return false;
        }
        known.samples += weight;
        known.sets.insert(set);
        true
    }
}
