//! What the sandbox received, and what it did.
//!
//! What always holds: counters are exact from the start (or the last reset) whatever happens; the
//! journal itself keeps the newest requests within two bounds, number and bytes. A
//! request stands in the journal as soon as it is whole, before it is answered. Headers and bodies
//! are kept as bytes, secrets included: that a caller's secret never came here is what tests prove
//! with it. They appear in no `Debug` text.
//!
//! A duplicate is an order that was executed although one with the same operation and content had
//! been executed before: the same JSON, however it is spaced and its members are ordered. The newest
//! million of different orders are remembered for that.

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

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalBounds {
    /// Requests.
    pub entries: usize,
    /// Bytes of bodies, targets and headers together.
    pub bytes: usize,
}

/// One request.
#[derive(Clone)]
pub struct Entry {
    /// Counts from 1, without gaps.
    pub seq: u64,
    /// When it was whole; Unix milliseconds of the sandbox's clock.
    pub at: i64,
    /// The connection it came on, counted from 1.
    pub connection: u64,
    /// Its method.
    pub method: Method,
    /// Its target as received; see [`Entry::target`].
    pub uri: Uri,
    /// Its headers; names in lower case, values as received.
    pub headers: HeaderMap,
    /// Its body as received.
    pub body: Bytes,
    /// The position of its row in the sandbox's own table, if it is served.
    pub row: Option<usize>,
    /// The label of the key pair it carried, if a good one.
    pub key: Option<Arc<str>>,
    /// The status answered (of an answer that was lost: that of the lost one); absent while under way.
    pub status: Option<u16>,
    /// Whether it placed or cancelled an order.
    pub executed: bool,
    /// Whether an order with the same content had been executed before.
    pub duplicate: bool,
    /// The fault that met it.
    pub fault: Option<u64>,
    /// What that fault does.
    pub act: Option<&'static str>,
    /// The limit that was used up.
    pub limited: Option<Window>,
}

/// Counts of one operation under one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperationCounts {
    /// Requests received.
    pub requests: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
}

/// Counts of orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrderCounts {
    /// Express orders placed.
    pub express: u64,
    /// Instant orders placed.
    pub instant: u64,
    /// OrderCounts cancelled.
    pub cancelled: u64,
    /// OrderCounts placed again with the same content.
    pub duplicates: u64,
}

/// All counts.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Requests received whole.
    pub requests: u64,
    /// Requests without a good key pair.
    pub unauthenticated: u64,
    /// Those that carried parts of two different pairs.
    pub mixed: u64,
    /// Requests to no served path.
    pub unlisted: u64,
    /// Requests met by a fault.
    pub faults: u64,
    /// Requests and connections met, by what the fault does.
    pub acts: BTreeMap<&'static str, u64>,
    /// Requests that a limit refused, by label of key and what was used up.
    pub limited: BTreeMap<(Arc<str>, Window), u64>,
    /// Requests whose body broke off, by a fault too.
    pub broken: u64,
    /// Connections accepted.
    pub connections: u64,
    /// OrderCounts.
    pub orders: OrderCounts,
    /// CountedBy name of operation (`-`: none) and label of key (`-`: none).
    pub operations: BTreeMap<(&'static str, Arc<str>), OperationCounts>,
    /// Requests by served path: tells which alias is used.
    pub paths: BTreeMap<&'static str, u64>,
}

/// The journal and the counters.
#[derive(Debug)]
pub(crate) struct Journal {
    bounds: JournalBounds,
    entries: VecDeque<Entry>,
    bytes: usize,
    next: u64,
    counters: Counters,
    nobody: Arc<str>,
    executed_orders: ExecutedOrders,
}

impl Journal {
    /// An empty journal.
    pub(crate) fn new(bounds: JournalBounds) -> Self {
        Journal {
            bounds,
            entries: VecDeque::new(),
            bytes: 0,
            next: 1,
            counters: Counters::default(),
            nobody: "-".into(),
            executed_orders: ExecutedOrders::new(REMEMBERED),
        }
    }

    /// Writes a request down and counts it; gives its number. `seq` of the entry is overwritten.
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

    /// Notes how request `seq` was answered.
    pub(crate) fn answer(&mut self, seq: u64, row: Option<usize>, key: Option<&Arc<str>>, status: u16) {
        let operation = row.map(|position| Routes::get().rows()[position].operation);
        *self.tally(operation, key).statuses.entry(status).or_default() += 1;
        if let Some(entry) = self.entry(seq) {
            entry.status = Some(status);
        }
    }

    /// Notes that request `seq` placed or cancelled an order.
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

    /// How many orders with this operation and content were executed.
    #[cfg(test)]
    pub(crate) fn executed(&self, operation: Operation, body: &[u8]) -> u64 {
        serde_json::from_slice(body).map_or(0, |content| self.executed_orders.times(&fingerprint(operation, &content)))
    }

    /// Counts a connection; gives its number.
    pub(crate) fn connect(&mut self) -> u64 {
        self.counters.connections += 1;
        self.counters.connections
    }

    /// Counts a connection that a fault met.
    pub(crate) fn meet(&mut self, act: &'static str) {
        *self.counters.acts.entry(act).or_default() += 1;
    }

    /// Counts a request that carries parts of two different pairs.
    pub(crate) fn mixed(&mut self) {
        self.counters.mixed += 1;
    }

    /// How many requests are kept, and how many no longer.
    fn kept(&self) -> (u64, u64) {
        let kept = self.entries.len() as u64;
        (kept, self.next - 1 - kept)
    }

    /// Counts a request whose body broke off: it was not received whole and has no entry.
    pub(crate) fn broken(&mut self) {
        self.counters.broken += 1;
    }

    /// Counts a request that a fault met while its body was on its way.
    pub(crate) fn interrupted(&mut self, act: &'static str) {
        self.counters.faults += 1;
        self.meet(act);
        self.broken();
    }

    /// The requests kept, oldest first.
    pub(crate) fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The counts.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The counts as JSON.
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
        self.counters.operations.entry((name, Arc::clone(key.unwrap_or(&self.nobody)))).or_default()
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
    /// The operation asked for.
    pub fn operation(&self) -> Option<Operation> {
        self.row.map(|position| Routes::get().rows()[position].operation)
    }

    /// Path and query as received, or the whole of an absolute form.
    pub fn target(&self) -> String {
        self.uri.to_string()
    }

    /// The request as JSON: bytes as text where they are UTF-8, else `{"base64": …}`.
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
