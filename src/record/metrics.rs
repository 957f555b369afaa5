//! The metric families, in one registry.
//!
//! Names, labels and help stand in `families` alone. Label values come from the configuration and
//! from closed lists, never from a request; a series appears when it is first used. Handles are
//! resolved once and kept by whoever counts ([`super::slots`], [`connections`]); resolving is
//! counted, and past [`SERIES_LIMIT`] label sets are folded into `overflow`, so sums stay true.
//! Gauges whose truth lives in other rooms are set by a [`Scrape`], which forgets what they said
//! before. Knows no request. Can't fail once made.

mod connections;
mod families;
mod openmetrics;
mod scrape;
#[cfg(test)]
mod tests;

use std::{collections::HashSet, sync::Arc};

use parking_lot::{Mutex, MutexGuard};
use prometheus::{Encoder, Histogram, IntCounter, IntGauge, Registry, TextEncoder};

use self::families::Families;
pub use self::{
    connections::{ConnectionGuard, ConnectionState, CountedConnection, Handshake, Handshakes, UpstreamConnections},
    openmetrics::CONTENT_TYPE as OPENMETRICS_CONTENT_TYPE,
    scrape::{KeyInfo, Scrape},
};

/// Samples that all request-driven series may have together. A hundred services that use thirty operations stay below.
pub const SERIES_LIMIT: usize = 50_000;

/// Label value of everything past the limit.
const OVERFLOW: &str = "overflow";

/// `Content-Type` of [`Metrics::text`].
pub const TEXT_CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Every family, in its own registry: two in one process don't meet.
pub struct Metrics {
    registry: Registry,
    families: Families,
    seen: Mutex<KnownSeries>,
    scraping: Mutex<()>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("samples", &self.seen.lock().samples).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct KnownSeries {
    /// Family and label values of every series resolved.
    sets: HashSet<String>,
    samples: usize,
}

impl Metrics {
    /// All families, empty, and the process's own figures.
    ///
    /// # Errors
    /// Only if a family is named wrongly, which the tests exclude.
    pub fn new() -> Result<Arc<Metrics>, prometheus::Error> {
        let registry = Registry::new();
        let families = Families::register(&registry)?;
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Arc::new(Metrics { registry, families, seen: Mutex::default(), scraping: Mutex::default() }))
    }

    /// Prometheus text format 0.0.4.
    pub fn text(&self) -> String {
        let mut text = Vec::with_capacity(16 * 1024);
        // Fails only on an empty family, which `gather` leaves out.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8(text).unwrap_or_default()
    }

    /// OpenMetrics 1.0.
    pub fn openmetrics(&self) -> String {
        openmetrics::encode(&self.registry.gather())
    }

    /// Begins a scrape: forgets the gauges that are set at each scrape, and lets them be set. One at a time.
    pub fn scrape(&self) -> Scrape<'_> {
        Scrape::begin(self, self.scraping.lock())
    }

    /// Counts what happened to an account's keys: `seen`, `verified`, `promoted`, … (a closed list of the caller's).
    pub fn key_event(&self, account: &str, event: &'static str) {
        self.counter(&self.families.key_events, "key_events", &[account, event]).inc();
    }

    /// Resolves `requests_total` of one label set.
    pub(super) fn requests(&self, service: &str, operation: &str, outcome: &'static str) -> IntCounter {
        if self.admit("requests", &[service, operation, outcome], 1) {
            self.families.requests.with_label_values(&[service, operation, outcome])
        } else {
            self.families.requests.with_label_values(&[OVERFLOW, OVERFLOW, outcome])
        }
    }

    /// Resolves `request_duration_seconds` and `overhead_duration_seconds` of one label set.
    pub(super) fn durations(&self, operation: &str, outcome: &'static str) -> (Histogram, Histogram) {
        let weight = families::DURATION_BUCKETS.len() + families::OVERHEAD_BUCKETS.len() + 6;
        let admitted = self.admit("durations", &[operation, outcome], weight);
        let labels = [if admitted { operation } else { OVERFLOW }, outcome];
        (
            self.families.request_duration.with_label_values(&labels),
            self.families.overhead_duration.with_label_values(&labels),
        )
    }

    /// Resolves `service_request_duration_seconds` of one service.
    pub(super) fn service_duration(&self, service: &str) -> Histogram {
        let admitted = self.admit("service_duration", &[service], families::DURATION_BUCKETS.len() + 3);
        self.families.service_request_duration.with_label_values(&[if admitted { service } else { OVERFLOW }])
    }

    /// Resolves `in_flight_requests` of one service.
    pub(super) fn in_flight(&self, service: &str) -> IntGauge {
        let admitted = self.admit("in_flight", &[service], 1);
        self.families.in_flight_requests.with_label_values(&[if admitted { service } else { OVERFLOW }])
    }

    /// Resolves `upstream_requests_total` and `upstream_duration_seconds` of one label set.
    pub(super) fn upstream(&self, account: &str, operation: &str, status: &'static str) -> (IntCounter, Histogram) {
        let admitted = self.admit("upstream", &[account, operation, status], families::DURATION_BUCKETS.len() + 4);
        let labels = if admitted { [account, operation, status] } else { [OVERFLOW, OVERFLOW, status] };
        (
            self.families.upstream_requests.with_label_values(&labels),
            self.families.upstream_duration.with_label_values(&labels),
        )
    }

    /// Resolves `cache_requests_total` of one label set.
    pub(super) fn cache_requests(&self, operation: &str, result: &'static str) -> IntCounter {
        self.counter(&self.families.cache_requests, "cache_requests", &[operation, result])
    }

    /// Resolves `upstream_calls_saved_total` of one operation.
    pub(super) fn calls_saved(&self, operation: &str) -> IntCounter {
        self.counter(&self.families.upstream_calls_saved, "calls_saved", &[operation])
    }

    /// Resolves `retries_total` of one account.
    pub(super) fn retries(&self, account: &str) -> IntCounter {
        self.counter(&self.families.retries, "retries", &[account])
    }

    /// Resolves `log_records_total` of one result.
    pub(super) fn log_records(&self, result: &'static str) -> IntCounter {
        self.counter(&self.families.log_records, "log_records", &[result])
    }

    /// A counter whose first label is from the configuration and the rest from closed lists.
    fn counter(&self, family: &prometheus::IntCounterVec, name: &str, labels: &[&str]) -> IntCounter {
        if self.admit(name, labels, 1) {
            return family.with_label_values(labels);
        }
        let mut folded = labels.to_vec();
        if let Some(first) = folded.first_mut() {
            *first = OVERFLOW;
        }
        family.with_label_values(&folded)
    }

    /// Whether this label set may have a series: it has one already, or there is room for `weight` samples.
    fn admit(&self, family: &str, labels: &[&str], weight: usize) -> bool {
        let mut seen: MutexGuard<'_, KnownSeries> = self.seen.lock();
        let mut set = String::from(family);
        for label in labels {
            set.push('\0');
            set.push_str(label);
        }
        if seen.sets.contains(&set) {
            return true;
        }
        if seen.samples + weight > SERIES_LIMIT {
            self.families.series_overflow.with_label_values::<&str>(&[]).inc();
            return false;
        }
        seen.samples += weight;
        seen.sets.insert(set);
        true
    }
}
