//! The metric families of contract section 7: names, labels, help texts, buckets. The only place that
//! has them. Fails only if a name is invalid or used twice.

use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// Seconds. A hit takes tens of microseconds, a lookup that misses tens of milliseconds, the longest
/// request 30 s.
pub(super) const DURATION_BUCKETS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Seconds. The gateway's own part, including the wait for the budget (250 ms by default).
pub(super) const OVERHEAD_BUCKETS: &[f64] =
    &[0.000_05, 0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0];

const PREFIX: &str = "fastrac_gateway";

/// Every family that the gateway fills. [`Families::at_scrape`] lists those set for each scrape.
pub(super) struct Families {
    pub(super) requests: IntCounterVec,
    pub(super) request_duration: HistogramVec,
    pub(super) overhead_duration: HistogramVec,
    pub(super) service_request_duration: HistogramVec,
    pub(super) upstream_requests: IntCounterVec,
    pub(super) upstream_duration: HistogramVec,
    pub(super) service_upstream_requests: IntCounterVec,
    pub(super) in_flight_requests: IntGaugeVec,
    pub(super) client_connections: IntGaugeVec,
    pub(super) upstream_connections: IntGaugeVec,
    pub(super) cache_requests: IntCounterVec,
    pub(super) upstream_calls_saved: IntCounterVec,
    pub(super) cache_comparisons: IntCounterVec,
    pub(super) key_events: IntCounterVec,
    pub(super) breaker_transitions: IntCounterVec,
    pub(super) retries: IntCounterVec,
    pub(super) orders_replayed: IntCounterVec,
    pub(super) log_records: IntCounterVec,
    pub(super) log_bodies_dropped: IntCounterVec,
    pub(super) program_log_dropped: IntCounterVec,
    pub(super) series_overflow: IntCounterVec,
    pub(super) tls_handshakes: IntCounterVec,
    pub(super) admin_requests: IntCounterVec,
    pub(super) quota_would_refuse: IntCounterVec,
    pub(super) quota_limit: GaugeVec,
    pub(super) quota_used: GaugeVec,
    pub(super) quota_warning: GaugeVec,
    pub(super) quota_runs_out: GaugeVec,
    pub(super) budget_warning: GaugeVec,
    pub(super) budget_runs_out: GaugeVec,
    pub(super) credential_last_used: GaugeVec,
    pub(super) budget_limit: GaugeVec,
    pub(super) budget_used: GaugeVec,
    pub(super) budget_waiting: GaugeVec,
    pub(super) budget_learned_limit: GaugeVec,
    pub(super) cache_entries: GaugeVec,
    pub(super) cache_bytes: GaugeVec,
    pub(super) buffered_bytes: GaugeVec,
    pub(super) buffered_bytes_limit: GaugeVec,
    pub(super) key_info: GaugeVec,
    pub(super) key_loaded: GaugeVec,
    pub(super) key_source_up: GaugeVec,
    pub(super) key_source_last_success: GaugeVec,
    pub(super) breaker_state: GaugeVec,
    pub(super) orders_unknown: GaugeVec,
    pub(super) config_info: GaugeVec,
    pub(super) config_last_reload_successful: GaugeVec,
    pub(super) config_last_reload_success: GaugeVec,
    pub(super) certificate_expiry: GaugeVec,
    pub(super) build_info: GaugeVec,
    /// Set for each scrape, but not emptied: a reason that no longer holds is 0.
    pub(super) degraded: GaugeVec,
}

impl Families {
    #[rustfmt::skip]
    pub(super) fn register(registry: &Registry) -> Result<Families, prometheus::Error> {
        let make = FamilyBuilder { registry };
        let (service, account, operation) = ("service", "account", "operation");
        Ok(Families {
            requests: make.counter("requests_total", "Requests, including those refused early.", &[service, operation, "outcome"])?,
            request_duration: make.histogram("request_duration_seconds", "Time from the first byte of a request to the last byte of its response.", &[operation, "outcome"], DURATION_BUCKETS)?,
            overhead_duration: make.histogram("overhead_duration_seconds", "The gateway's own part of a request's duration, without waits: for Fastrac, the caller, the budget, the log, and between attempts.", &[operation, "outcome"], OVERHEAD_BUCKETS)?,
            service_request_duration: make.histogram("service_request_duration_seconds", "Time from the first byte of a request to the last byte of its response, by service.", &[service], DURATION_BUCKETS)?,
            upstream_requests: make.counter("upstream_requests_total", "Requests sent to Fastrac, by the status of its response; failed: no response.", &[account, operation, "status"])?,
            upstream_duration: make.histogram("upstream_duration_seconds", "Time from sending a request to Fastrac to the end of what was read of its response.", &[account, operation, "status"], DURATION_BUCKETS)?,
            service_upstream_requests: make.counter("service_upstream_requests_total", "Requests that may have been sent to Fastrac, by the service that they are for; -: the gateway itself.", &[service, account])?,
            in_flight_requests: make.int_gauge("in_flight_requests", "Requests of an identified service in progress.", &[service])?,
            client_connections: make.int_gauge("client_connections", "Open connections of callers.", &[])?,
            upstream_connections: make.int_gauge("upstream_connections", "Open connections to Fastrac.", &[account, "state"])?,
            cache_requests: make.counter("cache_requests_total", "Requests of cached operations, by what the cache did.", &[operation, "result"])?,
            upstream_calls_saved: make.counter("upstream_calls_saved_total", "Requests answered without a call to Fastrac of their own.", &[operation])?,
            cache_comparisons: make.counter("cache_comparisons_total", "Stored responses that were fetched again and compared; changed: with other data.", &[operation, "result"])?,
            key_events: make.counter("key_events_total", "Events in the life of key pairs.", &[account, "event"])?,
            breaker_transitions: make.counter("breaker_transitions_total", "Changes of a circuit breaker's state, by the new state.", &[account, "class", "state"])?,
            retries: make.counter("retries_total", "Requests that were sent again, by the reason.", &[account, "class", "reason"])?,
            orders_replayed: make.counter("orders_replayed_total", "Orders answered with the stored response to the first one that they repeat.", &[account])?,
            log_records: make.counter("log_records_total", "Lines of the exchange log.", &["result"])?,
            log_bodies_dropped: make.counter("log_bodies_dropped_total", "Lines of the exchange log that were written without their bodies, because the queue was full or the gateway was stopping.", &[])?,
            program_log_dropped: make.counter("program_log_lines_dropped_total", "Lines of the program's own log that were dropped because their reader did not take them.", &[])?,
            series_overflow: make.counter("series_overflow_total", "Label sets beyond the limit, counted in the series overflow.", &[])?,
            tls_handshakes: make.counter("tls_handshakes_total", "TLS handshakes on the gateway's own ports.", &["listener", "result"])?,
            admin_requests: make.counter("admin_requests_total", "Requests of the admin port, except health and metrics.", &["action", "result"])?,
            quota_would_refuse: make.counter("quota_would_refuse_total", "Requests that were served although a quota would have refused them (enforce = false).", &[service, "window"])?,
            quota_limit: make.gauge("quota_limit", "Limit of a service's quota, by window.", &[service, "window"])?,
            quota_used: make.gauge("quota_used", "Used units of a service's quota, by window.", &[service, "window"])?,
            quota_warning: make.gauge("quota_warning_percent", "The highest of 50, 80 and 95 percent of a service's daily quota that is used; 0: less.", &[service])?,
            quota_runs_out: make.gauge("quota_runs_out_timestamp_seconds", "When a service's daily quota is used up at the pace of the last hour; absent: it lasts until the end of the day.", &[service])?,
            budget_warning: make.gauge("budget_warning_percent", "The highest of 50, 80 and 95 percent of an account's daily budget that is used; 0: less.", &[account])?,
            budget_runs_out: make.gauge("budget_runs_out_timestamp_seconds", "When an account's daily budget is used up at the pace of the last hour; absent: it lasts until the end of the day.", &[account])?,
            credential_last_used: make.gauge("credential_last_used_timestamp_seconds", "When a credential was last used, in whole seconds; absent: not since the start.", &[service, "access_key"])?,
            budget_limit: make.gauge("budget_limit", "Limit of an account's budget, by window.", &[account, "window"])?,
            budget_used: make.gauge("budget_used", "Used units of an account's budget, by window.", &[account, "window"])?,
            budget_waiting: make.gauge("budget_waiting", "Requests in the wait queue of an account's budget.", &[account, "window"])?,
            budget_learned_limit: make.gauge("budget_learned_limit", "Requests per second to Fastrac at present: less than budget_limit after Fastrac has throttled.", &[account])?,
            cache_entries: make.gauge("cache_entries", "Stored responses.", &[operation])?,
            cache_bytes: make.gauge("cache_bytes", "Bytes of stored responses.", &[operation])?,
            buffered_bytes: make.gauge("buffered_bytes", "Bytes of requests and responses in memory.", &[])?,
            buffered_bytes_limit: make.gauge("buffered_bytes_limit", "limits.memory in force.", &[])?,
            key_info: make.gauge("key_info", "Known key pairs; the version is an opaque digest.", &[account, "version", "state"])?,
            key_loaded: make.gauge("key_loaded_timestamp_seconds", "When a key pair was first read.", &[account, "version"])?,
            key_source_up: make.gauge("key_source_up", "Whether the last read of the key source succeeded.", &[account])?,
            key_source_last_success: make.gauge("key_source_last_success_timestamp_seconds", "When the key source was last read.", &[account])?,
            breaker_state: make.gauge("breaker_state", "1 for the state that the circuit breaker of a class is in.", &[account, "class", "state"])?,
            orders_unknown: make.gauge("orders_unknown", "Orders whose outcome is unknown.", &[account])?,
            config_info: make.gauge("config_info", "The configuration in force.", &["hash"])?,
            config_last_reload_successful: make.gauge("config_last_reload_successful", "Whether the last load of the configuration succeeded.", &[])?,
            config_last_reload_success: make.gauge("config_last_reload_success_timestamp_seconds", "When the configuration was last loaded.", &[])?,
            certificate_expiry: make.gauge("certificate_expiry_timestamp_seconds", "When the first certificate in a listener's chain expires.", &["listener"])?,
            degraded: make.gauge("degraded", "1 while a reason holds for which the gateway is degraded.", &["reason"])?,
            build_info: make.gauge("build_info", "The program.", &["version", "revision"])?,
        })
    }

    /// Families that are emptied and set again for each scrape.
    pub(super) fn at_scrape(&self) -> [&GaugeVec; 26] {
        [
            &self.quota_limit,
            &self.quota_used,
            &self.quota_warning,
            &self.quota_runs_out,
            &self.budget_warning,
            &self.budget_runs_out,
            &self.credential_last_used,
            &self.budget_limit,
            &self.budget_used,
            &self.budget_waiting,
            &self.budget_learned_limit,
            &self.cache_entries,
            &self.cache_bytes,
            &self.buffered_bytes,
            &self.buffered_bytes_limit,
            &self.key_info,
            &self.key_loaded,
            &self.key_source_up,
            &self.key_source_last_success,
            &self.breaker_state,
            &self.orders_unknown,
            &self.config_info,
            &self.config_last_reload_successful,
            &self.config_last_reload_success,
            &self.certificate_expiry,
            &self.build_info,
        ]
    }
}

/// Creates and registers families. A family without labels is a vector too, so that it appears when
/// it is first used.
struct FamilyBuilder<'a> {
    registry: &'a Registry,
}

impl FamilyBuilder<'_> {
    fn counter(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.register(IntCounterVec::new(Opts::new(name, help).namespace(PREFIX), labels)?)
    }

    fn int_gauge(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.register(IntGaugeVec::new(Opts::new(name, help).namespace(PREFIX), labels)?)
    }

    fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
        self.register(GaugeVec::new(Opts::new(name, help).namespace(PREFIX), labels)?)
    }

    fn histogram(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, prometheus::Error> {
        let opts = HistogramOpts::new(name, help).namespace(PREFIX).buckets(buckets.to_vec());
        self.register(HistogramVec::new(opts, labels)?)
    }

    fn register<C: prometheus::core::Collector + Clone + 'static>(&self, family: C) -> Result<C, prometheus::Error> {
        self.registry.register(Box::new(family.clone()))?;
        Ok(family)
    }
}
