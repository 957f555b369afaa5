//! Promises of the metrics.

use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::record::ResponseComparison;

/// Every family of contract section 7, used once.
fn filled() -> std::sync::Arc<Metrics> {
    let metrics = Metrics::new().unwrap();
    metrics.requests("check\"out\\", "v2.city", "ok").inc();
    let durations = metrics.durations("v2.city", "ok");
    durations.total.observe(0.02);
    durations.overhead.observe(0.000_04);
    metrics.service_duration("checkout").observe(40.0);
    metrics.in_flight("checkout").inc();
    let upstream = metrics.upstream("main", "v2.city", "200");
    upstream.requests.inc();
    upstream.duration.observe(0.5);
    metrics.service_upstream("checkout", "main").inc();
    metrics.cache_requests("v2.city", "hit").inc();
    metrics.calls_saved("v2.city").inc();
    metrics.compared("v2.city", ResponseComparison { changed: true, age: Duration::from_secs(60) });
    metrics.retries("main", "read", "connect").inc();
    metrics.order_replayed("main");
    metrics.log_records("written").inc();
    metrics.key_event("main", "promoted");
    metrics.admin_request("reload", "done");
    metrics.handshakes("data").count(Handshake::Failed);
    std::mem::forget((metrics.client_connection(), metrics.upstream_connections("main").opened()));
    metrics.log_bodies_dropped();
    metrics.families.program_log_dropped.with_label_values::<&str>(&[]).inc();
    metrics.families.series_overflow.with_label_values::<&str>(&[]).inc();
    metrics
}

fn set(scrape: &Scrape<'_>) {
    scrape.quota("checkout", "day", 40_000.0, 1.0);
    scrape.quota_outlook("checkout", 80, Some(UNIX_EPOCH));
    scrape.budget_outlook("main", 50, Some(UNIX_EPOCH));
    scrape.would_refuse("checkout", "second", 3);
    scrape.budget("main", "second", 20.0, 0.5);
    scrape.budget_waiting("main", "second", 2);
    scrape.budget_learned_limit("main", 10.0);
    scrape.cache("v2.city", 3, 4096);
    scrape.memory(4096, 1 << 20);
    scrape.key("main", KeyInfo { version: "ab12", state: "current", loaded: UNIX_EPOCH + Duration::from_millis(1500) });
    scrape.key_source("main", true, Some(UNIX_EPOCH));
    let state = |state, current| BreakerStateInfo { state, current, entered: u64::from(current) };
    scrape.breaker("main", "order", [state("closed", false), state("half_open", true), state("open", false)]);
    scrape.orders_unknown("main", 1);
    scrape.config("abcd", true, UNIX_EPOCH);
    scrape.certificate("data", UNIX_EPOCH + Duration::from_secs(1));
    scrape.degraded(["reload_refused"]);
    scrape.credential("checkout", "svc-1", 7);
    scrape.build("0.1.0", "b932f6a");
}

#[rustfmt::skip]
const FAMILIES: &[&str] = &[
    "requests_total", "request_duration_seconds", "overhead_duration_seconds", "service_request_duration_seconds",
    "upstream_requests_total", "upstream_duration_seconds", "in_flight_requests", "client_connections",
    "service_upstream_requests_total", "quota_would_refuse_total",
    "quota_warning_percent", "quota_runs_out_timestamp_seconds", "budget_warning_percent", "budget_runs_out_timestamp_seconds",
    "upstream_connections", "quota_limit", "quota_used", "budget_limit", "budget_used", "budget_waiting", "budget_learned_limit",
    "cache_requests_total", "cache_entries", "cache_bytes", "buffered_bytes", "buffered_bytes_limit", "upstream_calls_saved_total", "cache_comparisons_total", "key_info",
    "key_loaded_timestamp_seconds", "key_events_total", "key_source_up", "key_source_last_success_timestamp_seconds",
    "breaker_state", "breaker_transitions_total", "retries_total", "orders_unknown", "orders_replayed_total", "log_records_total", "log_bodies_dropped_total", "program_log_lines_dropped_total", "config_info",
    "config_last_reload_successful", "config_last_reload_success_timestamp_seconds",
    "certificate_expiry_timestamp_seconds", "build_info", "degraded", "credential_last_used_timestamp_seconds", "series_overflow_total", "tls_handshakes_total", "admin_requests_total",
];

/// Families of a text, without the process's own.
fn families(text: &str) -> Vec<String> {
    let own = |line: &str| line.strip_prefix("# TYPE fastrac_gateway_")?.split(' ').next().map(str::to_owned);
    text.lines().filter_map(own).collect()
}

#[test]
fn every_family_of_the_contract_has_its_name() {
    let metrics = filled();
    let scrape = metrics.scrape();
    set(&scrape);
    let text = scrape.text();
    let mut expected: Vec<_> = FAMILIES.iter().map(|family| (*family).to_owned()).collect();
    expected.sort();
    assert_eq!(families(&text), expected);
    assert!(text.contains("process_resident_memory_bytes"));
    assert!(text.contains(r#"breaker_state{account="main",class="order",state="half_open"} 1"#), "{text}");
    assert!(text.contains(r#"breaker_state{account="main",class="order",state="open"} 0"#));
    assert!(text.contains(r#"key_loaded_timestamp_seconds{account="main",version="ab12"} 1.5"#));
}

#[test]
fn a_series_appears_when_it_is_first_used() {
    let text = Metrics::new().unwrap().text();
    assert_eq!(families(&text), Vec::<String>::new(), "{text}");
}

#[test]
fn a_scrape_forgets_what_is_gone() {
    let metrics = filled();
    let scrape = metrics.scrape();
    set(&scrape);
    assert!(scrape.text().contains("quota_used"));
    let text = metrics.scrape().text();
    assert!(!text.contains("quota_used") && !text.contains("key_info") && text.contains("requests_total"));
}

#[test]
fn a_reason_that_no_longer_holds_is_zero() {
    let metrics = Metrics::new().unwrap();
    let scraped = |holding: &[&'static str]| {
        let scrape = metrics.scrape();
        scrape.degraded(holding.iter().copied());
        scrape.text()
    };
    assert!(!scraped(&[]).contains("degraded"));
    assert!(scraped(&["restart_pending", "restart_pending"]).contains("degraded{reason=\"restart_pending\"} 1\n"));
    let text = scraped(&["reload_refused"]);
    assert!(text.contains("degraded{reason=\"restart_pending\"} 0\n"), "{text}");
    assert!(text.contains("degraded{reason=\"reload_refused\"} 1\n"), "{text}");
}

#[test]
fn openmetrics_names_counters_without_total_and_ends_in_eof() {
    let metrics = filled();
    let scrape = metrics.scrape();
    set(&scrape);
    let text = scrape.openmetrics();
    assert!(text.ends_with("\n# EOF\n"));
    assert!(text.contains("# TYPE fastrac_gateway_requests counter\n"));
    assert!(text.contains(
        "fastrac_gateway_requests_total{operation=\"v2.city\",outcome=\"ok\",service=\"check\\\"out\\\\\"} 1.0\n"
    ));
    assert!(text.contains("_bucket{service=\"checkout\",le=\"30.0\"} 0\n"));
    assert!(text.contains("_bucket{service=\"checkout\",le=\"+Inf\"} 1\n"));
    assert!(text.contains("service_request_duration_seconds_sum{service=\"checkout\"} 40.0\n"));
}

#[test]
fn past_the_limit_series_are_folded_counted_and_sums_stay_true() {
    let metrics = Metrics::new().unwrap();
    for index in 0..SERIES_LIMIT + 10 {
        metrics.requests(&format!("s{index}"), "v2.city", "ok").inc();
    }
    // One that has its series keeps it.
    metrics.requests("s0", "v2.city", "ok").inc();
    let text = metrics.text();
    assert!(text.contains(r#"requests_total{operation="overflow",outcome="ok",service="overflow"} 10"#));
    assert!(text.contains(r#"requests_total{operation="v2.city",outcome="ok",service="s0"} 2"#));
    assert!(text.contains("fastrac_gateway_series_overflow_total 10"));
}

/// A bug: beyond the limit, families that alerts read were folded too.
#[test]
fn only_families_with_a_service_are_folded() {
    let metrics = Metrics::new().unwrap();
    for index in 0..SERIES_LIMIT + 10 {
        metrics.requests(&format!("s{index}"), "v2.city", "ok").inc();
    }
    metrics.key_event("main", "refused");
    metrics.retries("main", "read", "connect").inc();
    metrics.log_records("dropped").inc();
    metrics.cache_requests("v2.city", "hit").inc();
    metrics.calls_saved("v2.city").inc();
    metrics.durations("v2.city", "ok").total.observe(1.0);
    metrics.upstream("main", "v2.city", "200").requests.inc();
    metrics.service_duration("late").observe(1.0);
    let text = metrics.text();
    let folded: std::collections::BTreeSet<&str> =
        text.lines().filter(|line| line.contains("overflow\"")).filter_map(|line| line.split('{').next()).collect();
    let service =
        ["bucket", "count", "sum"].map(|part| format!("fastrac_gateway_service_request_duration_seconds_{part}"));
    let expected = service.iter().map(String::as_str).chain(["fastrac_gateway_requests_total"]).collect();
    assert_eq!(folded, expected);
}

#[test]
fn gauges_of_connections_follow_their_guards() {
    let metrics = Metrics::new().unwrap();
    let connections = metrics.upstream_connections("main");
    let (guard, mut upstream) = (metrics.client_connection(), connections.opened());
    upstream.set_state(ConnectionState::Idle);
    let text = metrics.text();
    assert!(text.contains("client_connections 1"));
    assert!(text.contains(r#"upstream_connections{account="main",state="idle"} 1"#));
    assert!(text.contains(r#"upstream_connections{account="main",state="active"} 0"#));
    drop((guard, upstream));
    let text = metrics.text();
    assert!(text.contains("client_connections 0") && text.contains(r#"state="idle"} 0"#));
}

/// Texts for the checks against real parsers in `tests/real/metrics.py`: written where it says so, else nothing.
#[test]
fn writes_its_texts_for_other_parsers() {
    let Some(folder) = std::env::var_os("FASTRAC_GATEWAY_METRICS_OUT") else { return };
    let metrics = filled();
    for (name, open) in [("metrics.txt", false), ("metrics.om", true)] {
        let scrape = metrics.scrape();
        set(&scrape);
        let text = if open { scrape.openmetrics() } else { scrape.text() };
        std::fs::write(std::path::Path::new(&folder).join(name), text).unwrap();
    }
}
