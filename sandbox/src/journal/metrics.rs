//! The counters in Prometheus' text format.
//!
//! What always holds: the numbers are those of the JSON; label values are operation names, paths of the route table,
//! labels of key pairs and closed lists. Built anew for each scrape.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use super::{Counters, Journal};

/// A metric family; samples are label values and a count.
pub(crate) struct MetricFamily {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) labels: &'static [&'static str],
    pub(crate) samples: Vec<(Vec<String>, u64)>,
}

impl Journal {
    /// All counters, and the account's balance in IDR.
    pub(crate) fn metrics(&self, balance: u64) -> Vec<MetricFamily> {
        let (kept, dropped) = self.kept();
        let gauges = vec![
            one("fastrac_sandbox_balance_idr", "The account's balance.", balance),
            one("fastrac_sandbox_journal_entries", "Requests stored in the journal.", kept),
            one("fastrac_sandbox_journal_dropped", "Requests dropped from the journal.", dropped),
        ];
        [totals(&self.counters), by_operation(&self.counters), gauges].into_iter().flatten().collect()
    }
}

/// Encodes families, sorted by name.
pub(crate) fn text(families: Vec<MetricFamily>) -> String {
    let registry = Registry::new();
    for family in families {
        // Names and labels are constants of this crate: valid and unique.
        let _ = family.register(&registry);
    }
    TextEncoder::new().encode_to_string(&registry.gather()).unwrap_or_default()
}

impl MetricFamily {
    /// `_total` marks a counter; anything else is a gauge.
    fn register(self, registry: &Registry) -> prometheus::Result<()> {
        let samples = self.samples.iter().map(|(labels, count)| (labels.iter().map(String::as_str).collect(), *count));
        let samples: Vec<(Vec<&str>, u64)> = samples.collect();
        if self.name.ends_with("_total") {
            let counter = IntCounterVec::new(Opts::new(self.name, self.help), self.labels)?;
            for (labels, count) in samples {
                counter.get_metric_with_label_values(&labels)?.inc_by(count);
            }
            return registry.register(Box::new(counter));
        }
        let gauge = IntGaugeVec::new(Opts::new(self.name, self.help), self.labels)?;
        for (labels, count) in samples {
            gauge.get_metric_with_label_values(&labels)?.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        registry.register(Box::new(gauge))
    }
}

/// A family without labels.
fn one(name: &'static str, help: &'static str, count: u64) -> MetricFamily {
    MetricFamily { name, help, labels: &[], samples: vec![(Vec::new(), count)] }
}

fn totals(c: &Counters) -> Vec<MetricFamily> {
    let orders = [("express", c.orders.express), ("instant", c.orders.instant), ("cancel", c.orders.cancelled)];
    let met = c.acts.iter().map(|(act, count)| (vec![(*act).to_owned()], *count));
    let limited = c.limited.iter().map(|((key, window), n)| (vec![key.to_string(), window.name().to_owned()], *n));
    vec![
        one("fastrac_sandbox_connections_total", "Connections accepted.", c.connections),
        one("fastrac_sandbox_unauthenticated_total", "Requests without a valid key pair.", c.unauthenticated),
        one("fastrac_sandbox_mixed_keys_total", "Requests that mixed parts of two key pairs.", c.mixed),
        one("fastrac_sandbox_unlisted_total", "Requests to unknown paths.", c.unlisted),
        one("fastrac_sandbox_broken_total", "Requests whose body ended early.", c.broken),
        one(
            "fastrac_sandbox_orders_duplicate_total",
            "Orders executed again with the same content.",
            c.orders.duplicates,
        ),
        MetricFamily {
            name: "fastrac_sandbox_orders_executed_total",
            help: "Orders placed or cancelled.",
            labels: &["kind"],
            samples: orders.map(|(kind, count)| (vec![kind.to_owned()], count)).to_vec(),
        },
        MetricFamily {
            name: "fastrac_sandbox_limit_refusals_total",
            help: "Requests refused by a limit.",
            labels: &["key", "window"],
            samples: limited.collect(),
        },
        MetricFamily {
            name: "fastrac_sandbox_faults_met_total",
            help: "Requests and connections that a fault was applied to.",
            labels: &["act"],
            samples: met.collect(),
        },
    ]
}

fn by_operation(c: &Counters) -> Vec<MetricFamily> {
    let of = |operation: &str, key: &str| vec![operation.to_owned(), key.to_owned()];
    let requests = c.operations.iter().map(|((operation, key), tally)| (of(operation, key), tally.requests));
    let answers = c.operations.iter().flat_map(|((operation, key), tally)| {
        tally.statuses.iter().map(move |(status, n)| ([of(operation, key), vec![status.to_string()]].concat(), *n))
    });
    vec![
        MetricFamily {
            name: "fastrac_sandbox_requests_total",
            help: "Requests received completely.",
            labels: &["operation", "key"],
            samples: requests.collect(),
        },
        MetricFamily {
            name: "fastrac_sandbox_answers_total",
            help: "Responses, including lost ones.",
            labels: &["operation", "key", "status"],
            samples: answers.collect(),
        },
        MetricFamily {
            name: "fastrac_sandbox_path_requests_total",
            help: "Requests by path.",
            labels: &["path"],
            samples: c.paths.iter().map(|(path, count)| (vec![(*path).to_owned()], *count)).collect(),
        },
    ]
}
