//! The orders that are remembered, in memory, and the changes of the journal that follow from each
//! step. Pure: the time comes in, the changes go out as a [`WriteBatch`].
//!
//! Always holds: `keys` names exactly the orders that have a key; `twins` exactly the unknown ones;
//! `unknown` counts those for each account; `ends` exactly those that are no longer in flight;
//! `kept` exactly those with a stored answer, whose bytes are `kept_bytes`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::fingerprint::OrderDigest;
use super::journal::{ANSWERS, AnswerRow, ORDERS, OrderPhase, OrderRow, StoredAnswer};
use super::{OrderLimits, OrderRefusal};
use crate::store::WriteBatch;

/// What an order is compared by.
#[derive(Clone, Debug)]
pub(super) struct OrderIdentity {
    pub(super) request_id: String,
    pub(super) account: String,
    pub(super) key: Option<OrderDigest>,
    pub(super) fingerprint: OrderDigest,
    pub(super) twin: OrderDigest,
    /// The service says that it may be sent although one like it is unknown.
    pub(super) confirmed: bool,
}

/// What is known of a claim.
#[derive(Debug)]
pub(super) enum IndexMatch {
    /// Nothing: it is in flight from now on, under this number. The orders that it settles when its
    /// own outcome becomes known.
    New(u64, Vec<u64>),
    /// The key's order has ended; its answer is in memory.
    Answer(Arc<StoredAnswer>),
    /// The key's order has ended; its answer is on the disk under this number. If it turns out to
    /// be missing there, this is the refusal.
    OnDisk(u64, OrderRefusal),
}

#[derive(Debug)]
struct OrderEntry {
    /// As it stands on the disk, or will soon.
    row: OrderRow,
    in_flight: bool,
    answer: AnswerLocation,
    /// Its place in `Index::kept`, while `row.answer` is present.
    kept: u64,
}

/// How an order came to its end.
struct OrderEnd {
    phase: OrderPhase,
    answer: Option<StoredAnswer>,
    now: i64,
}

#[derive(Clone, Debug)]
enum AnswerLocation {
    /// There is none, or it is kept no longer.
    Nowhere,
    /// Until it is on the disk.
    Memory(Arc<StoredAnswer>),
    Disk,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    next: u64,
    orders: HashMap<u64, OrderEntry>,
    keys: HashMap<OrderDigest, u64>,
    /// Oldest first.
    twins: HashMap<OrderDigest, Vec<u64>>,
    unknown: HashMap<String, u64>,
    /// By the time of their end.
    ends: BTreeSet<(i64, u64)>,
    /// Orders whose answer is kept, in the order in which it came.
    kept: BTreeMap<u64, u64>,
    next_kept: u64,
    kept_bytes: u64,
    limits: OrderLimits,
}

impl Index {
    pub(super) fn new(limits: OrderLimits) -> Self {
        Index { limits, ..Index::default() }
    }

    /// Takes in a row of the journal at the start, before anything else. One that was open when the
    /// process ended is unknown from now on; times after now (the clock was set back) become now.
    pub(super) fn restore(&mut self, number: u64, mut row: OrderRow, now: i64, batch: &mut WriteBatch) {
        if row.phase == OrderPhase::Open || row.since > now {
            row.since = now;
            if row.phase == OrderPhase::Open {
                row.phase = OrderPhase::Unknown;
            }
            batch.put(&ORDERS, &number.to_be_bytes(), &row);
        }
        self.next = self.next.max(number + 1);
        if let Some(key) = row.key {
            self.keys.insert(key, number);
        }
        let bytes = row.answer;
        let answer = if bytes.is_some() { AnswerLocation::Disk } else { AnswerLocation::Nowhere };
        self.orders.insert(number, OrderEntry { row, in_flight: false, answer, kept: 0 });
        self.enter(number);
        if let Some(bytes) = bytes {
            self.keep(number, bytes);
        }
    }

    /// Step 4: is it a repeat, is it held, or is it new?
    pub(super) fn recall(&mut self, claim: OrderIdentity) -> Result<IndexMatch, OrderRefusal> {
        if let Some(number) = claim.key.and_then(|key| self.keys.get(&key).copied()) {
            return self.repeat(number, &claim);
        }
        let twins = self.twins.get(&claim.twin).cloned().unwrap_or_default();
        if let (Some(first), None, false) = (twins.first(), claim.key, claim.confirmed) {
            return Err(OrderRefusal::Held { first: self.request_id(*first) });
        }
        let number = self.next;
        self.next += 1;
        if let Some(key) = claim.key {
            self.keys.insert(key, number);
        }
        let row = OrderRow {
            phase: OrderPhase::Open,
            since: 0,
            request_id: claim.request_id,
            account: claim.account,
            key: claim.key,
            fingerprint: claim.fingerprint,
            twin: claim.twin,
            verdict: None,
            answer: None,
        };
        self.orders.insert(number, OrderEntry { row, in_flight: true, answer: AnswerLocation::Nowhere, kept: 0 });
        Ok(IndexMatch::New(number, if claim.confirmed { twins } else { Vec::new() }))
    }

    fn repeat(&self, number: u64, claim: &OrderIdentity) -> Result<IndexMatch, OrderRefusal> {
        let first = self.request_id(number);
        let Some(order) = self.orders.get(&number) else { return Err(OrderRefusal::InFlight { first }) };
        if order.row.fingerprint != claim.fingerprint {
            return Err(OrderRefusal::OtherRequest { first });
        }
        if order.in_flight {
            return Err(OrderRefusal::InFlight { first });
        }
        let Some((outcome, sent)) = order.row.verdict else { return Err(OrderRefusal::Interrupted { first }) };
        let gone = OrderRefusal::AnswerGone { first, outcome, sent };
        match &order.answer {
            AnswerLocation::Memory(answer) => Ok(IndexMatch::Answer(Arc::clone(answer))),
            AnswerLocation::Disk => Ok(IndexMatch::OnDisk(number, gone)),
            AnswerLocation::Nowhere => Err(gone),
        }
    }

    /// Step 12: what has to be on the disk before it is sent.
    pub(super) fn write(&mut self, number: u64, now: i64) -> WriteBatch {
        let mut batch = WriteBatch::default();
        if let Some(order) = self.orders.get_mut(&number) {
            order.row.since = now;
            batch.put(&ORDERS, &number.to_be_bytes(), &order.row);
        }
        batch
    }

    /// It was never sent: as if it had never been asked.
    pub(super) fn free(&mut self, number: u64) -> WriteBatch {
        let mut batch = WriteBatch::default();
        self.forget(number, &mut batch);
        batch
    }

    /// It was sent, and may have been executed. `answer` is what its caller was told, if anything.
    pub(super) fn unknown(&mut self, number: u64, answer: Option<StoredAnswer>, now: i64) -> WriteBatch {
        let mut batch = WriteBatch::default();
        self.conclude(number, OrderEnd { phase: OrderPhase::Unknown, answer, now }, &mut batch);
        self.bound(&mut batch);
        batch
    }

    /// Its answer is known, and the orders that it was confirmed against are unknown no longer.
    pub(super) fn answered(&mut self, number: u64, settles: &[u64], answer: StoredAnswer, now: i64) -> WriteBatch {
        let mut batch = WriteBatch::default();
        for first in settles {
            self.settle(*first, now, &mut batch);
        }
        self.conclude(number, OrderEnd { phase: OrderPhase::Ended, answer: Some(answer), now }, &mut batch);
        self.bound(&mut batch);
        batch
    }

    /// Holds nothing back any more. Its key keeps its own answer: the answer of the one that settled
    /// it may say that nothing was executed, which nobody knows of this one.
    fn settle(&mut self, number: u64, now: i64, batch: &mut WriteBatch) {
        // One that somebody else settled, or that is too old, is unknown no longer.
        if !self.orders.get(&number).is_some_and(|order| order.row.phase == OrderPhase::Unknown) {
            return;
        }
        self.leave(number);
        let Some(order) = self.orders.get_mut(&number) else { return };
        if order.row.key.is_none() {
            self.forget(number, batch);
            return;
        }
        order.row.phase = OrderPhase::Ended;
        order.row.since = now;
        batch.put(&ORDERS, &number.to_be_bytes(), &order.row);
        self.enter(number);
    }

    fn conclude(&mut self, number: u64, end: OrderEnd, batch: &mut WriteBatch) {
        self.leave(number);
        let Some(order) = self.orders.get_mut(&number) else { return };
        // Only a key can ask for an answer again.
        let answer = end.answer.filter(|_| order.row.key.is_some());
        if end.phase == OrderPhase::Ended && order.row.key.is_none() {
            self.forget(number, batch);
            return;
        }
        order.in_flight = false;
        order.row.phase = end.phase;
        order.row.since = end.now;
        if let Some(answer) = answer {
            let size = answer.size();
            let row = AnswerRow(answer);
            batch.put(&ANSWERS, &number.to_be_bytes(), &row);
            order.row.verdict = Some((row.0.outcome, row.0.sent));
            order.answer = AnswerLocation::Memory(Arc::new(row.0));
            self.keep(number, size);
        }
        if let Some(order) = self.orders.get(&number) {
            batch.put(&ORDERS, &number.to_be_bytes(), &order.row);
        }
        self.enter(number);
    }

    /// The answer of this order is on the disk, if it is still the same.
    pub(super) fn landed(&mut self, number: u64, answer: &Arc<StoredAnswer>) {
        if let Some(order) = self.orders.get_mut(&number)
            && matches!(&order.answer, AnswerLocation::Memory(held) if Arc::ptr_eq(held, answer))
        {
            order.answer = AnswerLocation::Disk;
        }
    }

    /// The answer of an order, while it is in memory.
    pub(super) fn in_memory(&self, number: u64) -> Option<Arc<StoredAnswer>> {
        match &self.orders.get(&number)?.answer {
            AnswerLocation::Memory(answer) => Some(Arc::clone(answer)),
            AnswerLocation::Disk | AnswerLocation::Nowhere => None,
        }
    }

    /// Forgets what has been remembered long enough.
    pub(super) fn sweep(&mut self, now: i64) -> WriteBatch {
        let mut batch = WriteBatch::default();
        while let Some((since, number)) = self.ends.first().copied()
            && now.saturating_sub(since) >= self.limits.remembered
        {
            self.forget(number, &mut batch);
        }
        batch
    }

    /// Orders of an account whose outcome is unknown.
    pub(super) fn unknown_count(&self, account: &str) -> u64 {
        self.unknown.get(account).copied().unwrap_or(0)
    }

    fn request_id(&self, number: u64) -> String {
        self.orders.get(&number).map(|order| order.row.request_id.clone()).unwrap_or_default()
    }

    fn keep(&mut self, number: u64, bytes: u64) {
        self.let_go(number);
        let Some(order) = self.orders.get_mut(&number) else { return };
        order.row.answer = Some(bytes);
        order.kept = self.next_kept;
        self.kept.insert(self.next_kept, number);
        self.next_kept += 1;
        self.kept_bytes += bytes;
    }

    /// Takes back what [`Index::keep`] noted, if it did.
    fn let_go(&mut self, number: u64) {
        let Some(order) = self.orders.get_mut(&number) else { return };
        if self.kept.get(&order.kept) == Some(&number) {
            self.kept.remove(&order.kept);
            self.kept_bytes -= order.row.answer.take().unwrap_or(0);
        }
    }

    /// Holds the bounds: of the bytes by dropping the oldest answers (their keys stay), of the count
    /// by forgetting the keys that ended first (never one whose outcome is unknown).
    fn bound(&mut self, batch: &mut WriteBatch) {
        while self.kept_bytes > self.limits.bytes {
            let Some(number) = self.kept.first_key_value().map(|(_, number)| *number) else { break };
            self.let_go(number);
            if let Some(order) = self.orders.get_mut(&number) {
                order.answer = AnswerLocation::Nowhere;
                batch.put(&ORDERS, &number.to_be_bytes(), &order.row);
                batch.remove(&ANSWERS, &number.to_be_bytes());
            }
        }
        while self.ends.len() > self.limits.orders {
            let ended = |(_, number): &&(i64, u64)| {
                self.orders.get(number).is_some_and(|order| order.row.phase == OrderPhase::Ended)
            };
            let Some((_, number)) = self.ends.iter().find(ended).copied() else { break };
            self.forget(number, batch);
        }
    }

    /// Notes an order that is in flight no longer.
    fn enter(&mut self, number: u64) {
        let Some(OrderEntry { row, .. }) = self.orders.get(&number) else { return };
        self.ends.insert((row.since, number));
        if row.phase == OrderPhase::Unknown {
            self.twins.entry(row.twin).or_default().push(number);
            *self.unknown.entry(row.account.clone()).or_default() += 1;
        }
    }

    /// Takes back what [`Index::enter`] noted, if it did.
    fn leave(&mut self, number: u64) {
        let Some(OrderEntry { row, .. }) = self.orders.get(&number) else { return };
        if !self.ends.remove(&(row.since, number)) || row.phase != OrderPhase::Unknown {
            return;
        }
        if let Some(twins) = self.twins.get_mut(&row.twin) {
            twins.retain(|twin| *twin != number);
            if twins.is_empty() {
                self.twins.remove(&row.twin);
            }
        }
        if let Some(count) = self.unknown.get_mut(&row.account) {
            *count -= 1;
        }
    }

    fn forget(&mut self, number: u64, batch: &mut WriteBatch) {
        self.leave(number);
        self.let_go(number);
        let Some(order) = self.orders.remove(&number) else { return };
        if let Some(key) = order.row.key {
            self.keys.remove(&key);
        }
        batch.remove(&ORDERS, &number.to_be_bytes());
        if !matches!(order.answer, AnswerLocation::Nowhere) {
            batch.remove(&ANSWERS, &number.to_be_bytes());
        }
    }
    /// What the room's description says always holds.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let is_unknown = |order: &OrderEntry| !order.in_flight && order.row.phase == OrderPhase::Unknown;
        let keys: HashMap<_, _> = self.orders.iter().filter_map(|(n, order)| Some((order.row.key?, *n))).collect();
        assert_eq!(self.keys, keys);
        let mut twins: Vec<_> = self.twins.iter().flat_map(|(twin, all)| all.iter().map(|n| (*n, *twin))).collect();
        let unknown = self.orders.iter().filter(|(_, order)| is_unknown(order));
        let mut expected: Vec<_> = unknown.map(|(n, order)| (*n, order.row.twin)).collect();
        twins.sort_unstable_by_key(|(n, _)| *n);
        expected.sort_unstable_by_key(|(n, _)| *n);
        assert_eq!(twins, expected);
        assert!(self.twins.values().all(|all| !all.is_empty()));
        assert_eq!(self.unknown.values().sum::<u64>(), expected.len() as u64);
        let over = self.orders.iter().filter(|(_, order)| !order.in_flight);
        assert_eq!(self.ends, over.map(|(n, order)| (order.row.since, *n)).collect());
        assert_eq!(self.kept_bytes, self.orders.values().filter_map(|order| order.row.answer).sum::<u64>());
        assert!(self.kept.iter().all(|(place, n)| self.orders[n].kept == *place));
        assert_eq!(self.kept.len(), self.orders.values().filter(|order| order.row.answer.is_some()).count());
        let stored = self.orders.values().filter(|order| !matches!(order.answer, AnswerLocation::Nowhere));
        assert_eq!(self.kept.len(), stored.count());
    }
}
