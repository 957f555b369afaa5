//! Gauges whose values belong to other rooms: set for each scrape.
//!
//! Always holds: a scrape starts with these gauges empty, so what no longer exists is no longer
//! shown; there is one scrape at a time. Never fails.

use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::MutexGuard;
use prometheus::core::Collector as _;

use super::registry::Metrics;
use crate::record::program::lines_dropped;

/// One scrape.
#[must_use = "set the gauges, then take the text"]
pub struct Scrape<'a> {
    metrics: &'a Metrics,
    _one_at_a_time: MutexGuard<'a, ()>,
}

/// A loaded key pair.
#[derive(Clone, Copy, Debug)]
pub struct KeyInfo<'a> {
    /// The version: a short opaque digest.
    pub version: &'a str,
    /// `current`, `previous` or `candidate`.
    pub state: &'static str,
    /// When it was first read.
    pub loaded: SystemTime,
}

/// A state of a breaker.
#[derive(Clone, Copy, Debug)]
pub struct BreakerStateInfo {
    pub state: &'static str,
    /// Whether the breaker is in it.
    pub current: bool,
    /// How often it has entered it.
    pub entered: u64,
}

impl Metrics {
    /// Begins a scrape: empties the gauges that are set for each scrape. Waits for another scrape to
    /// end.
    pub fn scrape(&self) -> Scrape<'_> {
        let one_at_a_time = self.scraping.lock();
        for family in self.families.at_scrape() {
            family.reset();
        }
        self.count_program_log();
        Scrape { metrics: self, _one_at_a_time: one_at_a_time }
    }

    /// Brings `program_log_lines_dropped_total` up to date: that log belongs to the process, not to these metrics.
    fn count_program_log(&self) {
        let dropped = lines_dropped();
        if dropped > 0 {
            let counter = self.families.program_log_dropped.with_label_values::<&str>(&[]);
            counter.inc_by(dropped.saturating_sub(counter.get()));
        }
    }
}

impl Scrape<'_> {
    /// A service's quota of one window (`second`, `day`).
    pub fn quota(&self, service: &str, window: &'static str, limit: f64, used: f64) {
        let labels = [service, window];
        self.metrics.families.quota_limit.with_label_values(&labels).set(limit);
        self.metrics.families.quota_used.with_label_values(&labels).set(used);
    }

    /// How far a service's daily quota is used, and when it is used up.
    pub fn quota_outlook(&self, service: &str, warning: u8, runs_out: Option<SystemTime>) {
        let families = &self.metrics.families;
        families.quota_warning.with_label_values(&[service]).set(f64::from(warning));
        if let Some(at) = runs_out {
            families.quota_runs_out.with_label_values(&[service]).set(seconds(at));
        }
    }

    /// How far an account's daily budget is used, and when it is used up.
    pub fn budget_outlook(&self, account: &str, warning: u8, runs_out: Option<SystemTime>) {
        let families = &self.metrics.families;
        families.budget_warning.with_label_values(&[account]).set(f64::from(warning));
        if let Some(at) = runs_out {
            families.budget_runs_out.with_label_values(&[account]).set(seconds(at));
        }
    }

    /// Requests of one window that a service's quota would have refused so far, if it were enforced.
    pub fn would_refuse(&self, service: &str, window: &'static str, requests: u64) {
        if requests > 0 {
            let counter = self.metrics.families.quota_would_refuse.with_label_values(&[service, window]);
            counter.inc_by(requests.saturating_sub(counter.get()));
        }
    }

    /// When a credential was last used, in seconds since 1970.
    pub fn credential(&self, service: &str, access_key: &str, last_used: u64) {
        self.metrics.families.credential_last_used.with_label_values(&[service, access_key]).set(last_used as f64);
    }

    /// An account's budget of one window (`second`, `day`, `in_flight`).
    pub fn budget(&self, account: &str, window: &'static str, limit: f64, used: f64) {
        let labels = [account, window];
        self.metrics.families.budget_limit.with_label_values(&labels).set(limit);
        self.metrics.families.budget_used.with_label_values(&labels).set(used);
    }

    /// Rate of an account's budget at present, requests per second.
    pub fn budget_learned_limit(&self, account: &str, rate: f64) {
        self.metrics.families.budget_learned_limit.with_label_values(&[account]).set(rate);
    }

    /// Number of requests that wait for an account's budget in one window.
    pub fn budget_waiting(&self, account: &str, window: &'static str, waiting: usize) {
        self.metrics.families.budget_waiting.with_label_values(&[account, window]).set(waiting as f64);
    }

    /// Stored answers of an operation.
    pub fn cache(&self, operation: &str, entries: u64, bytes: u64) {
        self.metrics.families.cache_entries.with_label_values(&[operation]).set(entries as f64);
        self.metrics.families.cache_bytes.with_label_values(&[operation]).set(bytes as f64);
    }

    /// Bytes of requests and responses in memory, and their limit.
    pub fn memory(&self, used: usize, limit: usize) {
        let none: [&str; 0] = [];
        self.metrics.families.buffered_bytes.with_label_values(&none).set(used as f64);
        self.metrics.families.buffered_bytes_limit.with_label_values(&none).set(limit as f64);
    }

    /// A loaded key pair.
    pub fn key(&self, account: &str, key: KeyInfo<'_>) {
        self.metrics.families.key_info.with_label_values(&[account, key.version, key.state]).set(1.0);
        self.metrics.families.key_loaded.with_label_values(&[account, key.version]).set(seconds(key.loaded));
    }

    /// An account's key source: whether its last read succeeded, and when one last did.
    pub fn key_source(&self, account: &str, up: bool, last_success: Option<SystemTime>) {
        self.metrics.families.key_source_up.with_label_values(&[account]).set(f64::from(u8::from(up)));
        if let Some(at) = last_success {
            self.metrics.families.key_source_last_success.with_label_values(&[account]).set(seconds(at));
        }
    }

    /// The states of the breaker of one class of an account.
    pub fn breaker(&self, account: &str, class: &'static str, states: impl IntoIterator<Item = BreakerStateInfo>) {
        let families = &self.metrics.families;
        for BreakerStateInfo { state, current, entered } in states {
            let labels = [account, class, state];
            families.breaker_state.with_label_values(&labels).set(f64::from(u8::from(current)));
            if entered > 0 {
                let counter = families.breaker_transitions.with_label_values(&labels);
                counter.inc_by(entered.saturating_sub(counter.get()));
            }
        }
    }

    /// Number of an account's orders whose outcome is unknown.
    pub fn orders_unknown(&self, account: &str, orders: usize) {
        self.metrics.families.orders_unknown.with_label_values(&[account]).set(orders as f64);
    }

    /// The configuration in force: its hash, whether the last load succeeded, and when one last did.
    pub fn config(&self, hash: &str, last_successful: bool, last_success: SystemTime) {
        let none: [&str; 0] = [];
        let families = &self.metrics.families;
        families.config_info.with_label_values(&[hash]).set(1.0);
        families.config_last_reload_successful.with_label_values(&none).set(f64::from(u8::from(last_successful)));
        families.config_last_reload_success.with_label_values(&none).set(seconds(last_success));
    }

    /// The reasons that hold for which the gateway is degraded; reasons of earlier scrapes become 0.
    pub fn degraded(&self, holding: impl IntoIterator<Item = &'static str>) {
        let family = &self.metrics.families.degraded;
        let earlier = family.collect();
        let earlier = earlier.iter().flat_map(|family| family.get_metric()).flat_map(|metric| metric.get_label());
        earlier.for_each(|label| family.with_label_values(&[label.value()]).set(0.0));
        holding.into_iter().for_each(|reason| family.with_label_values(&[reason]).set(1.0));
    }

    /// When the certificate of a listener (`data`, `admin`) expires.
    pub fn certificate(&self, listener: &'static str, ends: SystemTime) {
        self.metrics.families.certificate_expiry.with_label_values(&[listener]).set(seconds(ends));
    }

    /// The program's version and the commit it was built from.
    pub fn build(&self, version: &str, revision: &str) {
        self.metrics.families.build_info.with_label_values(&[version, revision]).set(1.0);
    }

    /// Prometheus text format 0.0.4.
    pub fn text(self) -> String {
        self.metrics.text()
    }

    /// OpenMetrics 1.0.
    pub fn openmetrics(self) -> String {
        self.metrics.openmetrics()
    }
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
