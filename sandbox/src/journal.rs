//! What the sandbox received and what it executed.
//!
//! What always holds: counters are exact since the start (or the last reset); the journal keeps the newest requests
//! within two bounds, number and bytes. A request is in the journal as soon as it is complete, before it is answered.
//! Headers and bodies are kept unmasked, secrets included, so that tests can prove that a caller's secret was not
//! forwarded. They never appear in `Debug` output.
//!
//! A duplicate is an order that was executed although one with the same operation and content had been executed
//! before. Content is compared as JSON, regardless of spacing and the order of members. The newest million different
//! orders are remembered for that.

mod fingerprint;
pub(super) mod metrics;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::Arc,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use serde_json::{Value, json};

use super::{
    limits::Window,
    route::{Operation, OperationKind, Routes},
};
use fingerprint::{ExecutedOrders, REMEMBERED, fingerprint};

/// Bounds of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalBounds {
    /// Maximum number of requests.
    pub entries: usize,
    /// Maximum bytes of bodies, targets and headers together.
    pub bytes: usize,
}

/// A request.
#[derive(Clone)]
pub struct Entry {
    /// Sequence number, from 1, without gaps.
    pub seq: u64,
    /// When it was complete, Unix milliseconds of the sandbox's clock.
    pub at: i64,
    /// Number of its connection, from 1.
    pub connection: u64,
    /// Method.
    pub method: Method,
    /// Target as received; see [`Entry::target`].
    pub uri: Uri,
    /// Headers; names in lower case, values as received.
    pub headers: HeaderMap,
    /// Body as received.
    pub body: Bytes,
    /// Position in the route table; absent: unknown path.
    pub row: Option<usize>,
    /// Label of its key pair; absent: no valid pair.
    pub key: Option<Arc<str>>,
    /// Status of the response (of a lost response, the status it would have had); absent while in progress.
    pub status: Option<u16>,
    /// Whether it placed or cancelled an order.
    pub executed: bool,
    /// Whether an order with the same content had been executed before.
    pub duplicate: bool,
    /// Number of the fault that was applied.
    pub fault: Option<u64>,
    /// Effect of that fault.
    pub act: Option<&'static str>,
    /// The limit that it exceeded.
    pub limited: Option<Window>,
}

/// Counts for one operation and one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperationCounts {
    /// Requests received.
    pub requests: u64,
    /// Responses by status.
    pub statuses: BTreeMap<u16, u64>,
}

/// Counts of orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrderCounts {
    /// Express orders placed.
    pub express: u64,
    /// Instant orders placed.
    pub instant: u64,
    /// Orders cancelled.
    pub cancelled: u64,
    /// Orders executed again with the same content.
    pub duplicates: u64,
}

/// Counters since the start or the last reset.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Requests received completely.
    pub requests: u64,
    /// Requests without a valid key pair.
    pub unauthenticated: u64,
    /// Requests that mixed parts of two pairs.
    pub mixed: u64,
    /// Requests to unknown paths.
    pub unlisted: u64,
    /// Requests that a fault was applied to.
    pub faults: u64,
    /// Requests and connections that a fault was applied to, by its effect.
    pub acts: BTreeMap<&'static str, u64>,
    /// Requests refused by a limit, by label of the key and window.
    pub limited: BTreeMap<(Arc<str>, Window), u64>,
    /// Requests whose body ended early, also because of a fault.
    pub broken: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Orders placed and cancelled.
    pub orders: OrderCounts,
    /// By operation name and key label; `-`: none.
    pub operations: BTreeMap<(&'static str, Arc<str>), OperationCounts>,
    /// Requests by path; shows which aliases are used.
    pub paths: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
pub(crate) struct Journal {
    bounds: JournalBounds,
    entries: VecDeque<Entry>,
    bytes: usize,
    next: u64,
    counters: Counters,
    no_key: Arc<str>,
    executed_orders: ExecutedOrders,
}

impl Journal {
    pub(crate) fn new(bounds: JournalBounds) -> Self {
        Journal {
            bounds,
            entries: VecDeque::new(),
            bytes: 0,
            next: 1,
            counters: Counters::default(),
            no_key: "-".into(),
            executed_orders: ExecutedOrders::new(REMEMBERED),
        }
    }

    /// Records and counts a request; returns its number. `seq` of the entry is overwritten.
    pub(crate) fn receive(&mut self, mut entry: Entry) -> u64 {
        let seq = self.next;
        self.next += 1;
        entry.seq = seq;
        let row = entry.row.map(|position| &Routes::get().rows()[position]);
        let counters = &mut self.counters;
        counters.requests += 1;
        counters.unauthenticated += u64::from(entry.key.is_none());
        counters.faults += u64::from(entry.fault.is_some());
        if let Some(act) = entry.act {
            *counters.acts.entry(act).or_default() += 1;
        }
        if let (Some(key), Some(window)) = (&entry.key, entry.limited) {
            *counters.limited.entry((Arc::clone(key), window)).or_default() += 1;
        }
        match row {
            Some(row) => *counters.paths.entry(row.path).or_default() += 1,
            None => counters.unlisted += 1,
        }
        self.tally(row.map(|row| row.operation), entry.key.as_ref()).requests += 1;
        self.bytes += entry.weight();
        self.entries.push_back(entry);
        self.trim();
        seq
    }

    /// Records the response to request `seq`.
    pub(crate) fn answer(&mut self, seq: u64, row: Option<usize>, key: Option<&Arc<str>>, status: u16) {
        let operation = row.map(|position| Routes::get().rows()[position].operation);
        *self.tally(operation, key).statuses.entry(status).or_default() += 1;
        if let Some(entry) = self.entry(seq) {
            entry.status = Some(status);
        }
    }

    /// Records that request `seq` placed or cancelled an order.
    pub(crate) fn execute(&mut self, seq: u64, operation: Operation, content: &Value) {
        let orders = &mut self.counters.orders;
        let mut duplicate = false;
        match operation.kind {
            OperationKind::OrderCancel => orders.cancelled += 1,
            kind => {
                let count = if kind == OperationKind::OrderExpress { &mut orders.express } else { &mut orders.instant };
                *count += 1;
                duplicate = self.executed_orders.again(fingerprint(operation, content)) > 1;
                orders.duplicates += u64::from(duplicate);
            }
        }
        if let Some(entry) = self.entry(seq) {
            (entry.executed, entry.duplicate) = (true, duplicate);
        }
    }

    /// How many orders with this operation (of either version) and content were executed.
    #[cfg(test)]
    pub(crate) fn executed(&self, operation: Operation, body: &[u8]) -> u64 {
        serde_json::from_slice(body).map_or(0, |content| self.executed_orders.times(&fingerprint(operation, &content)))
    }

    /// Counts a connection; returns its number.
    pub(crate) fn connect(&mut self) -> u64 {
        self.counters.connections += 1;
        self.counters.connections
    }

    /// Counts a connection that a fault was applied to.
    pub(crate) fn count_connection_fault(&mut self, act: &'static str) {
        *self.counters.acts.entry(act).or_default() += 1;
    }

    /// Counts a request that mixes parts of two pairs.
    pub(crate) fn mixed(&mut self) {
        self.counters.mixed += 1;
    }

    /// How many requests are kept, and how many were dropped.
    fn kept(&self) -> (u64, u64) {
        let kept = self.entries.len() as u64;
        (kept, self.next - 1 - kept)
    }

    /// Counts a request whose body ended early; it has no entry.
    pub(crate) fn broken(&mut self) {
        self.counters.broken += 1;
    }

    /// Counts a request that a fault was applied to while its body was being received.
    pub(crate) fn interrupted(&mut self, act: &'static str) {
        self.counters.faults += 1;
        self.count_connection_fault(act);
        self.broken();
    }

    /// The requests kept, oldest first.
    pub(crate) fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter()
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The counters as JSON.
    pub(crate) fn counters_json(&self) -> Value {
        let c = &self.counters;
        let operations: Vec<Value> = c
            .operations
            .iter()
            .map(|((operation, key), tally)| {
                let statuses: BTreeMap<String, u64> = tally.statuses.iter().map(|(s, n)| (s.to_string(), *n)).collect();
                json!({"operation": operation, "key": &**key, "requests": tally.requests, "statuses": statuses})
            })
            .collect();
        let mut keys: BTreeMap<&str, u64> = BTreeMap::new();
        for ((_, key), tally) in &c.operations {
            *keys.entry(key).or_default() += tally.requests;
        }
        let line = |((key, window), count): (&(Arc<str>, Window), &u64)| json!({"key": &**key, "window": window.name(), "refusals": count});
        let limited: Vec<Value> = c.limited.iter().map(line).collect();
        let (kept, dropped) = self.kept();
        json!({
            "requests": c.requests, "unauthenticated": c.unauthenticated, "mixed": c.mixed, "unlisted": c.unlisted,
            "faults": c.faults, "broken": c.broken, "connections": c.connections,
            "orders": {"express": c.orders.express, "instant": c.orders.instant,
                       "cancelled": c.orders.cancelled, "duplicates": c.orders.duplicates},
            "keys": keys, "operations": operations, "paths": c.paths, "limited": limited, "acts": c.acts,
            "journal": {"kept": kept, "dropped": dropped},
        })
    }

    fn tally(&mut self, operation: Option<Operation>, key: Option<&Arc<str>>) -> &mut OperationCounts {
        let name = operation.map_or("-", Operation::name);
        self.counters.operations.entry((name, Arc::clone(key.unwrap_or(&self.no_key)))).or_default()
    }

    fn entry(&mut self, seq: u64) -> Option<&mut Entry> {
        let first = self.entries.front()?.seq;
        self.entries.get_mut(usize::try_from(seq.checked_sub(first)?).ok()?)
    }

    fn trim(&mut self) {
        while self.entries.len() > self.bounds.entries || self.bytes > self.bounds.bytes {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes -= oldest.weight();
        }
    }
}

impl Entry {
    /// The operation, if the path is known.
    pub fn operation(&self) -> Option<Operation> {
        self.row.map(|position| Routes::get().rows()[position].operation)
    }

    /// Path and query as received, or an absolute form.
    pub fn target(&self) -> String {
        self.uri.to_string()
    }

    /// The request as JSON: bytes as text if they are UTF-8, else `{"base64": …}`.
    pub fn json(&self) -> Value {
        let headers: Vec<Value> =
            self.headers.iter().map(|(name, value)| json!([name.as_str(), text(value.as_bytes())])).collect();
        json!({
            "seq": self.seq, "at": super::clock::utc(self.at), "connection": self.connection,
            "method": self.method.as_str(), "target": self.target(), "headers": headers, "body": text(&self.body),
            "operation": self.operation().map(Operation::name),
            "path": self.row.map(|position| Routes::get().rows()[position].path),
            "key": self.key.as_deref(), "status": self.status, "executed": self.executed,
            "duplicate": self.duplicate, "fault": self.fault, "act": self.act,
            "limited": self.limited.map(Window::name),
        })
    }

    fn weight(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        self.body.len() + self.uri.path().len() + self.uri.query().map_or(0, str::len) + headers
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("seq", &self.seq)
            .field("method", &self.method)
            .field("operation", &self.operation().map(Operation::name))
            .field("key", &self.key)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

fn text(bytes: &[u8]) -> Value {
    use base64::Engine;
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({"base64": base64::engine::general_purpose::STANDARD.encode(bytes)}),
    }
}

#[cfg(test)]
mod tests;
