//! The remembered orders, in memory, and the journal changes that follow from each step.
//!
//! Pure: time comes in as a parameter, changes go out as a [`WriteBatch`]. Never fails; recalling is
//! refused with [`OrderRefusal`](super::OrderRefusal).
//!
//! Always holds: `by_key` contains exactly the orders that have a key; `by_content` exactly those that an equal order
//! has to do with: under way, unknown, or with an answer that has reached nobody; `unknown` exactly the unknown ones,
//! which `unknown_by_account` counts; `ends` contains exactly the orders that are no longer in flight; `ended` exactly
//! those that only their key has to do with; `stored` exactly those with a stored answer; `by_service` counts all of them. A
//! service has as many as it leaves free at most, so that the next one always finds room.

mod answers;
mod archive;
mod ends;
mod entry;
mod recall;
mod unknown;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, atomic::Ordering::Relaxed},
};

pub(super) use self::archive::ArchivedOrder;
pub(super) use self::entry::{DeliveryProgress, OrderCaller};
pub(super) use self::recall::{FoundAnswer, IndexMatch, OrderIdentity};
pub use self::unknown::{UnderWayOrder, UnknownOrder};
use self::{
    answers::StoredAnswers,
    entry::{AnswerLocation, OrderCount, OrderEntry},
};
use super::{
    fingerprint::OrderDigest,
    journal::{ANSWERS, AnswerResult, AnswerRow, ORDERS, OrderPhase, OrderRow, StoredAnswer},
    limits::OrderLimits,
};
use crate::store::WriteBatch;

/// The end of an order.
pub(super) struct OrderEnd {
    phase: OrderPhase,
    answer: Option<StoredAnswer>,
    /// Milliseconds since 1970.
    now: i64,
}

impl OrderEnd {
    /// It may have been executed. `answer` is what its caller was told, if anything.
    pub(super) fn unknown(answer: Option<StoredAnswer>, now: i64) -> Self {
        OrderEnd { phase: OrderPhase::Unknown, answer, now }
    }
}

#[derive(Debug, Default)]
pub(super) struct Index {
    next_number: u64,
    next_caller: u64,
    orders: HashMap<u64, OrderEntry>,
    by_service: HashMap<String, OrderCount>,
    all: OrderCount,
    by_key: HashMap<OrderDigest, u64>,
    /// Oldest first.
    by_content: HashMap<OrderDigest, Vec<u64>>,
    unknown: BTreeSet<u64>,
    unknown_by_account: HashMap<String, u64>,
    /// Time at which it is forgotten, and number.
    ends: BTreeSet<(i64, u64)>,
    /// Those that the archive is to take.
    ended: BTreeSet<u64>,
    /// How often orders have left because the archive has them.
    moves: u64,
    stored: StoredAnswers,
    /// Answers that were written and may be undecided, oldest first: when, the order and its caller.
    written: VecDeque<(i64, u64, u64)>,
    limits: OrderLimits,
}

impl Index {
    pub(super) fn new(limits: OrderLimits) -> Self {
        Index { limits, ..Index::default() }
    }

    /// The numbers before this one were given in an earlier life of the process.
    pub(super) fn continue_from(&mut self, number: u64) {
        self.next_number = self.next_number.max(number);
    }

    /// Adds a row of the journal at start, before any other step. An order that was open when the
    /// process ended becomes unknown. Times in the future (the clock was set back) become `now`.
    pub(super) fn restore(&mut self, number: u64, mut row: OrderRow, now: i64, batch: &mut WriteBatch) {
        self.next_number = self.next_number.max(number + 1);
        if row.phase == OrderPhase::Ended && row.key.is_none() {
            // Its answer was written to its caller.
            batch.remove(&ORDERS, &number.to_be_bytes());
            batch.remove(&ANSWERS, &number.to_be_bytes());
            return;
        }
        if row.phase == OrderPhase::Open || row.since > now {
            row.since = now;
            if row.phase == OrderPhase::Open {
                row.phase = OrderPhase::Unknown;
            }
            batch.put(&ORDERS, &number.to_be_bytes(), &row);
        }
        if let Some(key) = row.key {
            self.by_key.insert(key, number);
        }
        let bytes = row.answer_bytes;
        let answer = if bytes.is_some() { AnswerLocation::Disk } else { AnswerLocation::None };
        if row.phase != OrderPhase::Ended {
            self.by_content.entry(row.content).or_default().push(number);
        }
        self.insert(number, OrderEntry { answer, ..OrderEntry::new(row, false) });
        self.insert_end(number);
        if let Some(bytes) = bytes {
            self.insert_stored(number, bytes);
        }
    }

    /// Step 8: the row that must be on disk before the order is sent.
    pub(super) fn write(&mut self, number: u64, now: i64) -> WriteBatch {
        let mut batch = WriteBatch::default();
        if let Some(order) = self.orders.get_mut(&number) {
            order.row.since = now;
            batch.put(&ORDERS, &number.to_be_bytes(), &order.row);
        }
        batch
    }

    /// Removes an order that was not sent.
    pub(super) fn free(&mut self, number: u64) -> WriteBatch {
        let mut batch = WriteBatch::default();
        self.remove(number, &mut batch);
        batch
    }

    pub(super) fn end(&mut self, number: u64, end: OrderEnd) -> WriteBatch {
        let mut batch = WriteBatch::default();
        self.apply_end(number, end, &mut batch);
        self.enforce_answer_limit(&mut batch);
        batch
    }

    /// Ends an order whose outcome is known, and settles the unknown orders that it was confirmed
    /// against.
    pub(super) fn end_known(&mut self, number: u64, settles: &[u64], answer: StoredAnswer, now: i64) -> WriteBatch {
        let mut batch = WriteBatch::default();
        for unknown in settles {
            self.settle(*unknown, now, &mut batch);
        }
        self.apply_end(number, OrderEnd { phase: OrderPhase::Ended, answer: Some(answer), now }, &mut batch);
        self.enforce_answer_limit(&mut batch);
        batch
    }

    /// What must be on disk of an order.
    pub(super) fn present(&self, number: u64) -> WriteBatch {
        let mut batch = WriteBatch::default();
        match self.orders.get(&number) {
            Some(order) => batch.put(&ORDERS, &number.to_be_bytes(), &order.row),
            None => {
                batch.remove(&ORDERS, &number.to_be_bytes());
                batch.remove(&ANSWERS, &number.to_be_bytes());
            }
        }
        batch
    }

    fn apply_end(&mut self, number: u64, end: OrderEnd, batch: &mut WriteBatch) {
        self.remove_end(number);
        let keeps_undelivered = self.limits.undelivered > 0;
        let Some(order) = self.orders.get_mut(&number) else { return };
        let known = end.phase == OrderPhase::Ended;
        let is_undelivered = known && (keeps_undelivered || order.caller.is_some());
        if known && order.row.key.is_none() && !is_undelivered {
            self.remove(number, batch);
            return;
        }
        order.row.phase = if is_undelivered { OrderPhase::Undelivered } else { end.phase };
        order.row.since = end.now;
        order.in_flight = false;
        order.was_sent.store(true, Relaxed);
        if known {
            order.row.description.known();
        }
        order.changed();
        order.row.result =
            end.answer.as_ref().map(|answer| AnswerResult { outcome: answer.outcome, sent: answer.sent });
        // Nothing repeats the answer of an unknown order without a key.
        if let Some(answer) = end.answer.filter(|_| order.row.phase != OrderPhase::Unknown || order.row.key.is_some()) {
            let bytes = answer.size();
            let answer = Arc::new(answer);
            batch.put_long(&ANSWERS, &number.to_be_bytes(), AnswerRow(answer.clone()), bytes as usize);
            order.answer = AnswerLocation::Memory(answer);
            self.insert_stored(number, bytes);
        }
        if let Some(order) = self.orders.get(&number) {
            batch.put(&ORDERS, &number.to_be_bytes(), &order.row);
            if order.row.phase == OrderPhase::Ended {
                self.remove_content(number);
            }
        }
        self.insert_end(number);
    }

    /// Changes who waits for the answer of an order, or is being given it.
    fn change_caller(&mut self, number: u64, change: impl FnOnce(&mut Option<OrderCaller>)) {
        self.remove_end(number);
        let Some(order) = self.orders.get_mut(&number) else { return };
        change(&mut order.caller);
        if !order.in_flight {
            self.insert_end(number);
        }
    }

    /// The row of an order.
    pub(super) fn row(&self, number: u64) -> Option<&OrderRow> {
        Some(&self.orders.get(&number)?.row)
    }

    /// The row of an order, if its outcome is unknown.
    pub(super) fn unknown_row(&self, number: u64) -> Option<&OrderRow> {
        self.row(number).filter(|_| self.unknown.contains(&number))
    }

    pub(super) fn unknown_count(&self, account: &str) -> u64 {
        self.unknown_by_account.get(account).copied().unwrap_or(0)
    }

    fn request_id(&self, number: u64) -> String {
        self.orders.get(&number).map(|order| order.row.request_id.clone()).unwrap_or_default()
    }

    /// An equal order has nothing to do with it any more.
    fn remove_content(&mut self, number: u64) {
        let Some(OrderEntry { row, .. }) = self.orders.get(&number) else { return };
        if let Some(equal) = self.by_content.get_mut(&row.content) {
            equal.retain(|other| *other != number);
            if equal.is_empty() {
                self.by_content.remove(&row.content);
            }
        }
    }

    fn insert(&mut self, number: u64, order: OrderEntry) {
        self.by_service.entry(order.row.description.service.clone()).or_default().add(&order);
        self.all.add(&order);
        self.orders.insert(number, order);
    }

    /// Whether these orders of a service leave no room for another one of it.
    fn is_full_for(&self, own: OrderCount) -> bool {
        own.orders + self.all.orders >= self.limits.orders || own.bytes + self.all.bytes >= self.limits.memory
    }

    /// Services that have as many orders as they may, with their number.
    pub(super) fn full_services(&self) -> Vec<(String, usize)> {
        let full = self.by_service.iter().filter(|(_, own)| self.is_full_for(**own));
        full.map(|(service, own)| (service.clone(), own.orders)).collect()
    }

    fn remove(&mut self, number: u64, batch: &mut WriteBatch) {
        self.remove_end(number);
        self.remove_stored(number);
        self.remove_content(number);
        let Some(mut order) = self.orders.remove(&number) else { return };
        self.all.subtract(&order);
        if let Some(own) = self.by_service.get_mut(&order.row.description.service) {
            own.subtract(&order);
            if own.orders == 0 {
                self.by_service.remove(&order.row.description.service);
            }
        }
        order.changed();
        if let Some(key) = order.row.key {
            self.by_key.remove(&key);
        }
        batch.remove(&ORDERS, &number.to_be_bytes());
        if !matches!(order.answer, AnswerLocation::None) {
            batch.remove(&ANSWERS, &number.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Index {
        pub(in crate::orders) fn len(&self) -> usize {
            self.orders.len()
        }

        /// Asserts what the module documentation says always holds.
        pub(in crate::orders) fn check(&self) {
            let (mut by_service, mut all) = (HashMap::<_, OrderCount>::new(), OrderCount::default());
            for order in self.orders.values() {
                by_service.entry(order.row.description.service.clone()).or_default().add(order);
                all.add(order);
            }
            assert_eq!((&self.by_service, self.all), (&by_service, all));
            let counts = |order: &OrderEntry| order.in_flight || order.row.phase != OrderPhase::Ended;
            let keys: HashMap<_, _> = self.orders.iter().filter_map(|(n, order)| Some((order.row.key?, *n))).collect();
            assert_eq!(self.by_key, keys);
            let by_content = self.by_content.iter();
            let mut indexed: Vec<_> =
                by_content.flat_map(|(content, all)| all.iter().map(|n| (*n, *content))).collect();
            let counting = self.orders.iter().filter(|(_, order)| counts(order));
            let mut expected: Vec<_> = counting.map(|(n, order)| (*n, order.row.content)).collect();
            indexed.sort_unstable_by_key(|(n, _)| *n);
            expected.sort_unstable_by_key(|(n, _)| *n);
            assert_eq!(indexed, expected);
            assert!(self.by_content.values().all(|all| !all.is_empty()));
            let unknown: BTreeSet<_> = self.orders.iter().filter(|(_, it)| it.is_unknown()).map(|(n, _)| *n).collect();
            assert_eq!(self.unknown, unknown);
            assert_eq!(self.unknown_by_account.values().sum::<u64>(), unknown.len() as u64);
            let over = self.orders.iter().filter(|(_, order)| !order.in_flight);
            assert_eq!(self.ends, over.map(|(n, order)| (order.ends_at(self.limits), *n)).collect());
            let known = self.orders.iter().filter(|(_, order)| !counts(order));
            assert_eq!(self.ended, known.map(|(n, _)| *n).collect());
            assert_eq!(self.stored.bytes, self.orders.values().filter_map(|order| order.row.answer_bytes).sum::<u64>());
            assert!(self.stored.each().all(|(position, n)| self.orders[&n].stored_at == position));
            assert_eq!(
                self.stored.each().count(),
                self.orders.values().filter(|order| order.row.answer_bytes.is_some()).count()
            );
            let located = self.orders.values().filter(|order| !matches!(order.answer, AnswerLocation::None));
            assert_eq!(self.stored.each().count(), located.count());
        }
    }
}
