//! Counters of order steps and webhooks.

use serde_json::{Value, json};

use super::Simulation;
use crate::journal::metrics::{self, MetricFamily};

impl Simulation {
    /// Counts of steps and webhooks, and the memory of orders and history in bytes, as JSON.
    pub(crate) fn flow_json(&mut self) -> Value {
        self.catch_up();
        let steps = self.orders.counts();
        let kind = |wanted: &str| -> Value {
            let mut all = serde_json::Map::new();
            for (kind, status, count) in &steps {
                if *kind == wanted {
                    all.insert((*status).to_owned(), json!(count));
                }
            }
            all.into()
        };
        json!({"steps": {"express": kind("express"), "instant": kind("instant")},
               "webhooks": self.outbox.counts().json(),
               "bytes": {"orders": self.orders.memory(), "history": self.wallet.memory()}})
    }

    /// All counters in Prometheus' text format.
    pub(crate) fn metrics(&mut self) -> String {
        self.catch_up();
        let steps = self.orders.counts().into_iter();
        let webhooks = self.outbox.counts().named();
        let bytes = [("orders", self.orders.memory()), ("history", self.wallet.memory())];
        let own = [
            MetricFamily {
                name: "fastrac_sandbox_order_steps_total",
                help: "Steps of orders.",
                labels: &["kind", "status"],
                samples: steps.map(|(kind, status, n)| (vec![kind.to_owned(), status.to_owned()], n)).collect(),
            },
            MetricFamily {
                name: "fastrac_sandbox_webhooks_total",
                help: "Webhooks by result.",
                labels: &["result"],
                samples: webhooks.map(|(result, n)| (vec![result.to_owned()], n)).to_vec(),
            },
            MetricFamily {
                name: "fastrac_sandbox_bytes",
                help: "Memory of orders and balance history.",
                labels: &["of"],
                samples: bytes.map(|(of, size)| (vec![of.to_owned()], size as u64)).to_vec(),
            },
        ];
        metrics::text(self.journal.metrics(self.balance()).into_iter().chain(own).collect())
    }
}
