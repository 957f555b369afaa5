//! What an order has to do with the remembered ones: a repeat of a key, an equal order, or a new one.
//!
//! Always holds: an order has one caller at a time; while an order without a key is under way, unknown, or its answer has
//! reached nobody, an equal one without a key is new only if it is confirmed. Pure; fails with [`OrderRefusal`].

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    Index,
    entry::{AnswerLocation, OrderEntry},
};
use crate::{
    orders::{
        fingerprint::OrderDigest,
        journal::{AnswerResult, OrderDescription, OrderPhase, OrderRow, StoredAnswer},
        limits::HELD,
        refusal::OrderRefusal,
    },
    store::WriteBatch,
};

/// What an order is compared by.
#[derive(Clone, Debug)]
pub(in crate::orders) struct OrderIdentity {
    pub(in crate::orders) request_id: String,
    pub(in crate::orders) account: String,
    pub(in crate::orders) description: OrderDescription,
    pub(in crate::orders) key: Option<OrderDigest>,
    pub(in crate::orders) fingerprint: OrderDigest,
    pub(in crate::orders) content: OrderDigest,
    /// The caller confirmed that it may be sent although an equal order may have been sent.
    pub(in crate::orders) confirmed: bool,
    /// The order whose end this request has waited for, as its caller.
    pub(in crate::orders) waited_for: Option<u64>,
}

/// Result of [`Index::recall`].
#[derive(Debug)]
pub(in crate::orders) enum IndexMatch {
    /// A new order, in flight from now on.
    New {
        number: u64,
        /// The unknown orders that it settles once its own outcome is known.
        settles: Vec<u64>,
    },
    /// It has ended.
    Ended {
        number: u64,
        /// Id of the first request.
        first: String,
        result: AnswerResult,
        answer: FoundAnswer,
        /// The answer has reached nobody so far: this request is its caller from now on.
        undelivered: bool,
    },
    /// It is under way and its caller has left: this request is its caller from now on.
    UnderWay {
        number: u64,
        first: String,
        /// Cancelled at its end.
        ended: CancellationToken,
    },
    /// It is under way, or its answer is being given, and its caller is there.
    Occupied {
        number: u64,
        first: String,
        in_flight: bool,
        /// Cancelled when its caller has left, when it ends, and when its answer has reached its caller or has not.
        changed: CancellationToken,
    },
}

/// Where the answer of an ended order is.
#[derive(Debug)]
pub(in crate::orders) enum FoundAnswer {
    InMemory(Arc<StoredAnswer>),
    OnDisk {
        /// Its size.
        bytes: usize,
    },
}

impl Index {
    /// Step 4: a repeat, an equal order, a held order, or a new one.
    pub(in crate::orders) fn recall(&mut self, identity: OrderIdentity, now: i64) -> Result<IndexMatch, OrderRefusal> {
        if let Some(number) = identity.key.and_then(|key| self.by_key.get(&key).copied()) {
            return self.repeat(number, &identity);
        }
        let equal = self.by_content.get(&identity.content).cloned().unwrap_or_default();
        if identity.key.is_none()
            && !identity.confirmed
            && let Some(found) = self.equal(&equal, identity.waited_for, now)
        {
            return found;
        }
        let number = self.next_number;
        self.next_number += 1;
        if let Some(key) = identity.key {
            self.by_key.insert(key, number);
        }
        self.by_content.entry(identity.content).or_default().push(number);
        let row = OrderRow {
            phase: OrderPhase::Open,
            since: 0,
            request_id: identity.request_id,
            account: identity.account,
            key: identity.key,
            fingerprint: identity.fingerprint,
            content: identity.content,
            result: None,
            answer_bytes: None,
            description: identity.description,
        };
        self.orders.insert(number, OrderEntry { has_caller: true, ..OrderEntry::new(row, true) });
        let settles = if identity.confirmed { self.unknown(&equal, i64::MIN) } else { Vec::new() };
        Ok(IndexMatch::New { number, settles })
    }

    /// What an order without a key has to do with the equal ones before it. `None`: nothing.
    fn equal(&mut self, equal: &[u64], waited_for: Option<u64>, now: i64) -> Option<Result<IndexMatch, OrderRefusal>> {
        if let Some(unknown) = self.unknown(equal, now - HELD).first() {
            if let Some(order) = self.orders.get_mut(unknown) {
                order.held += 1;
            }
            return Some(Err(OrderRefusal::Held { first: self.request_id(*unknown) }));
        }
        let is_known = |number: &&u64| self.orders.get(number).is_some_and(|order| !order.is_unknown());
        let known: Vec<_> = equal.iter().copied().filter(|number| is_known(&number)).collect();
        // The one without a caller first; of several, the oldest.
        let is_free =
            |number: &u64| self.orders.get(number).is_some_and(|order| order.is_free_for(waited_for, *number));
        let number = *known.iter().find(|number| is_free(number)).or(known.first())?;
        Some(self.join(number, waited_for))
    }

    /// Those of these orders that have been unknown after this time.
    fn unknown(&self, orders: &[u64], after: i64) -> Vec<u64> {
        let is_unknown =
            |number: &u64| self.orders.get(number).is_some_and(|order| order.is_unknown() && order.row.since > after);
        orders.iter().copied().filter(is_unknown).collect()
    }

    fn repeat(&mut self, number: u64, identity: &OrderIdentity) -> Result<IndexMatch, OrderRefusal> {
        let first = self.request_id(number);
        let Some(order) = self.orders.get(&number) else { return Err(OrderRefusal::InFlight { first }) };
        if order.row.fingerprint != identity.fingerprint {
            return Err(OrderRefusal::OtherRequest { first });
        }
        if order.in_flight {
            return self.join(number, identity.waited_for);
        }
        if order.row.result.is_none() {
            return Err(OrderRefusal::Interrupted { first });
        }
        self.ended(number, false)
    }

    /// An order that is under way, or whose answer has reached nobody: it has one caller at a time.
    fn join(&mut self, number: u64, waited_for: Option<u64>) -> Result<IndexMatch, OrderRefusal> {
        let first = self.request_id(number);
        let Some(order) = self.orders.get_mut(&number) else { return Err(OrderRefusal::InFlight { first }) };
        if !order.is_free_for(waited_for, number) {
            let (in_flight, changed) = (order.in_flight, order.next.get_or_insert_default().clone());
            return Ok(IndexMatch::Occupied { number, first, in_flight, changed });
        }
        let found = if order.in_flight {
            IndexMatch::UnderWay { number, first, ended: order.next.get_or_insert_default().clone() }
        } else {
            self.ended(number, true)?
        };
        if let Some(order) = self.orders.get_mut(&number) {
            order.has_caller = true;
        }
        Ok(found)
    }

    fn ended(&self, number: u64, undelivered: bool) -> Result<IndexMatch, OrderRefusal> {
        let first = self.request_id(number);
        let Some((order, result)) = self.orders.get(&number).and_then(|order| Some((order, order.row.result?))) else {
            return Err(OrderRefusal::Interrupted { first });
        };
        let answer = match &order.answer {
            AnswerLocation::Memory(answer) => FoundAnswer::InMemory(Arc::clone(answer)),
            AnswerLocation::Disk => FoundAnswer::OnDisk {
                bytes: usize::try_from(order.row.answer_bytes.unwrap_or(0)).unwrap_or(usize::MAX),
            },
            AnswerLocation::None => return Err(OrderRefusal::answer_gone(first, result)),
        };
        Ok(IndexMatch::Ended { number, first, result, answer, undelivered })
    }

    /// The caller of an order has left, or was told something else.
    pub(in crate::orders) fn caller_left(&mut self, number: u64) {
        if let Some(order) = self.orders.get_mut(&number) {
            order.has_caller = false;
            order.changed();
        }
    }

    /// Whether an order is under way and its caller has left.
    pub(in crate::orders) fn is_left(&self, number: u64) -> bool {
        self.orders.get(&number).is_some_and(|order| order.in_flight && !order.has_caller)
    }

    /// The answer of an order has reached its caller: the next equal order is a new one.
    pub(in crate::orders) fn reached(&mut self, number: u64) -> WriteBatch {
        let mut batch = WriteBatch::default();
        match self.orders.get_mut(&number) {
            Some(order) if order.row.phase == OrderPhase::Undelivered => self.remove(number, &mut batch),
            Some(order) => order.has_caller = false,
            None => {}
        }
        batch
    }
}
