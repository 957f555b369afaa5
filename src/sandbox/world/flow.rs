//! What the flows count: steps by status, webhooks by what became of them.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};
use serde_json::{Value, json};

use super::World;

impl World {
    /// Counts of steps and webhooks, and bytes that orders and history take, as JSON.
    pub fn flow_json(&mut self) -> Value {
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

    /// Everything that is counted, in Prometheus' text format.
    pub fn metrics(&mut self) -> String {
        self.journal.metrics(self.balance()) + &self.flow_metrics()
    }

    fn flow_metrics(&mut self) -> String {
        self.catch_up();
        let registry = Registry::new();
        // Names and labels are our own constants: they fit, and none comes twice.
        let steps = Opts::new("fastrac_sandbox_order_steps_total", "Steps that orders made.");
        if let Ok(family) = IntCounterVec::new(steps, &["kind", "status"]) {
            for (kind, status, count) in self.orders.counts() {
                family.with_label_values(&[kind, status]).inc_by(count);
            }
            let _ = registry.register(Box::new(family));
        }
        let webhooks = Opts::new("fastrac_sandbox_webhooks_total", "Webhooks by what became of them.");
        if let Ok(family) = IntCounterVec::new(webhooks, &["result"]) {
            for (result, count) in self.outbox.counts().named() {
                family.with_label_values(&[result]).inc_by(count);
            }
            let _ = registry.register(Box::new(family));
        }
        let bytes = Opts::new("fastrac_sandbox_bytes", "Memory that orders and balance history take.");
        if let Ok(family) = IntGaugeVec::new(bytes, &["of"]) {
            for (of, size) in [("orders", self.orders.memory()), ("history", self.wallet.memory())] {
                family.with_label_values(&[of]).set(i64::try_from(size).unwrap_or(i64::MAX));
            }
            let _ = registry.register(Box::new(family));
        }
        TextEncoder::new().encode_to_string(&registry.gather()).unwrap_or_default()
    }
}
