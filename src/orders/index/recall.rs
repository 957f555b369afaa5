//! What an order has to do with the remembered ones: a repeat of a key, an equal order, or a new one.
//!
//! Always holds: an order has one caller at a time; while an order is under way, unknown, or its answer has reached
//! nobody, an equal one without a key is new only if it is confirmed. Pure; fails with [`OrderRefusal`].

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use tokio_util::sync::CancellationToken;

use super::{
    Index,
    entry::{AnswerLocation, DeliveryProgress, OrderCaller, OrderCount, OrderEntry},
};
use crate::{
    body::CallerLink,
    orders::{
        fingerprint::OrderDigest,
        journal::{OrderDescription, OrderPhase, OrderRow, StoredAnswer},
        limits::{HELD, RESET_WITHIN},
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
    /// The caller as which this request has waited for the end of an order.
    pub(in crate::orders) waited_as: Option<u64>,
    /// Id of the request of an order that was sent while this one waited.
    pub(in crate::orders) sent_meanwhile: Option<String>,
    /// How many moves to the archive there had been when it was searched for the key in vain; `None`: it was not.
    pub(in crate::orders) absent_at: Option<u64>,
    /// The connection of this request's caller.
    pub(in crate::orders) connection: Option<CallerLink>,
}

/// Result of [`Index::recall`].
#[derive(Debug)]
pub(in crate::orders) enum IndexMatch {
    /// A new order, in flight from now on.
    New {
        number: u64,
        /// Id of this request as its caller.
        caller: u64,
        /// The unknown orders that it settles once its own outcome is known.
        settles: Vec<u64>,
    },
    /// None of them has its key. The archive may have it: after a search in vain, ask again with `absent_at`.
    NotLive {
        /// See [`OrderIdentity::absent_at`].
        moves: u64,
    },
    /// It has ended.
    Ended {
        number: u64,
        answer: FoundAnswer,
        /// Id of this request as its caller, if the answer has reached nobody so far.
        caller: Option<u64>,
    },
    /// It is under way and its caller has left: this request is its caller from now on.
    UnderWay {
        number: u64,
        first: String,
        /// Id of this request as its caller.
        caller: u64,
        /// Cancelled at its end.
        ended: CancellationToken,
        /// Set if it has ended as one that was or may have been sent.
        was_sent: Arc<AtomicBool>,
    },
    /// It is under way, or its answer is being given, and its caller is there.
    Occupied {
        number: u64,
        first: String,
        caller: OrderCaller,
        /// Cancelled when its caller has left, when it ends, and when its answer has reached its caller or has not.
        changed: CancellationToken,
        /// Set if this request waits for an answer that is to reach a caller: it has ended as above, or its caller leaves
        /// with the answer unread.
        awaited: Arc<AtomicBool>,
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
            && let Some(found) = self.equal(&equal, &identity, now)
        {
            return found;
        }
        // An order with the key may have left for the archive since that was searched.
        if identity.key.is_some() && identity.absent_at != Some(self.moves) {
            return Ok(IndexMatch::NotLive { moves: self.moves });
        }
        // It is equal to one that was sent while it waited, and whose answer another caller has got.
        if let Some(first) = identity.sent_meanwhile {
            return Err(OrderRefusal::InFlight { first });
        }
        if self.is_full_for(OrderCount::default()) {
            return Err(OrderRefusal::TooMany);
        }
        let own = self.by_service.get(&identity.description.service).copied().unwrap_or_default();
        if self.is_full_for(own) {
            return Err(OrderRefusal::TooManyOfService { own: own.orders });
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
        self.insert(number, OrderEntry::new(row, true));
        let caller = self.set_caller(number, identity.waited_as, identity.connection);
        let settles = if identity.confirmed { self.unknown(&equal, i64::MIN) } else { Vec::new() };
        Ok(IndexMatch::New { number, caller, settles })
    }

    /// What an order without a key has to do with the equal ones before it. `None`: nothing.
    fn equal(&mut self, equal: &[u64], identity: &OrderIdentity, now: i64) -> Option<Result<IndexMatch, OrderRefusal>> {
        if let Some(unknown) = self.unknown(equal, now - HELD).first() {
            if let Some(order) = self.orders.get_mut(unknown) {
                order.held += 1;
            }
            return Some(Err(OrderRefusal::Held { first: self.request_id(*unknown) }));
        }
        let is_known = |number: &&u64| self.orders.get(number).is_some_and(|order| !order.is_unknown());
        let known: Vec<_> = equal.iter().copied().filter(|number| is_known(&number)).collect();
        // The one without a caller first; of several, the oldest.
        let is_free = |number: &u64| self.orders.get(number).is_some_and(|order| order.is_free_for(identity.waited_as));
        let number = *known.iter().find(|number| is_free(number)).or(known.first())?;
        Some(self.join(number, identity))
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
        let is_undelivered = order.row.phase == OrderPhase::Undelivered && order.is_free_for(identity.waited_as);
        if order.in_flight || is_undelivered {
            return self.join(number, identity);
        }
        if order.row.result.is_none() {
            return Err(OrderRefusal::Interrupted { first });
        }
        self.ended(number, None)
    }

    /// An order that is under way, or whose answer has reached nobody: it has one caller at a time.
    fn join(&mut self, number: u64, identity: &OrderIdentity) -> Result<IndexMatch, OrderRefusal> {
        let first = self.request_id(number);
        let Some(order) = self.orders.get_mut(&number) else { return Err(OrderRefusal::InFlight { first }) };
        let changed = order.next.get_or_insert_default().clone();
        let (in_flight, was_sent) = (order.in_flight, Arc::clone(&order.was_sent));
        if let Some(caller) = order.caller.clone().filter(|_| !order.is_free_for(identity.waited_as)) {
            let is_awaited = caller.progress == DeliveryProgress::Awaited;
            // It is not for one that came before the answer was written to say that the answer has been read since.
            if !is_awaited && let Some(first) = identity.sent_meanwhile.clone() {
                return Err(OrderRefusal::InFlight { first });
            }
            let awaited = if is_awaited { was_sent } else { Arc::clone(&caller.left_unread) };
            return Ok(IndexMatch::Occupied { number, first, caller, changed, awaited });
        }
        let caller = self.set_caller(number, identity.waited_as, identity.connection.clone());
        if in_flight {
            return Ok(IndexMatch::UnderWay { number, first, caller, ended: changed, was_sent });
        }
        let found = self.ended(number, Some(caller));
        if found.is_err() {
            self.change_caller(number, |caller| *caller = None);
        }
        found
    }

    /// Makes a request the caller of an order, and returns its id as such.
    fn set_caller(&mut self, number: u64, waited_as: Option<u64>, connection: Option<CallerLink>) -> u64 {
        let id = waited_as.unwrap_or(self.next_caller);
        self.next_caller = self.next_caller.max(id + 1);
        self.change_caller(number, |caller| {
            let (progress, left_unread) = (DeliveryProgress::Awaited, Arc::default());
            *caller = Some(OrderCaller { id, connection, progress, left_unread });
        });
        id
    }

    fn ended(&self, number: u64, caller: Option<u64>) -> Result<IndexMatch, OrderRefusal> {
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
        Ok(IndexMatch::Ended { number, answer, caller })
    }

    /// The caller of an order has left, or was told something else. If the answer was written to it, it has reset its
    /// connection without reading it.
    pub(in crate::orders) fn caller_left(&mut self, number: u64, caller: u64) {
        if !self.orders.get(&number).is_some_and(|order| order.is_caller(caller)) {
            return;
        }
        let mut left = None;
        self.change_caller(number, |caller| left = caller.take());
        if let Some(caller) = left.filter(|caller| caller.progress != DeliveryProgress::Awaited) {
            caller.left_unread.store(true, Relaxed);
        }
        if let Some(order) = self.orders.get_mut(&number) {
            order.changed();
        }
    }

    /// Another request has seen that the caller of an order has closed its connection. That means nothing once its answer
    /// was begun.
    pub(in crate::orders) fn caller_seen_gone(&mut self, number: u64, caller: u64) {
        let waits = |it: &mut OrderCaller| it.id == caller && it.progress == DeliveryProgress::Awaited;
        let mut gone = None;
        self.change_caller(number, |caller| gone = caller.take_if(waits));
        if let Some(order) = self.orders.get_mut(&number).filter(|_| gone.is_some()) {
            order.changed();
        }
    }

    /// The answer of an order is being written to its caller's connection.
    pub(in crate::orders) fn begun(&mut self, number: u64, caller: u64) {
        if let Some(order) = self.orders.get_mut(&number).filter(|order| order.is_caller(caller)) {
            order.caller.iter_mut().for_each(|caller| caller.progress = DeliveryProgress::Begun);
        }
    }

    /// Whether the caller of an order that is under way, or whose answer has reached nobody, has left.
    pub(in crate::orders) fn is_left(&self, number: u64) -> bool {
        self.orders.get(&number).is_some_and(|order| order.caller.is_none())
    }

    /// The answer of an order was written to its caller's connection. Until that is decided, it counts as undelivered after
    /// a crash.
    pub(in crate::orders) fn written(&mut self, number: u64, caller: u64, now: i64) {
        let Some(order) = self.orders.get_mut(&number).filter(|order| order.is_caller(caller)) else { return };
        if order.row.phase == OrderPhase::Undelivered {
            order.caller.iter_mut().for_each(|caller| caller.progress = DeliveryProgress::Written { at: now });
            order.changed();
            self.written.push_back((now, number, caller));
        }
    }

    /// The orders whose answers were written so long ago that they are to be decided, and their callers.
    pub(in crate::orders) fn written_long_ago(&mut self, now: i64) -> Vec<(u64, OrderCaller)> {
        let orders = &self.orders;
        self.written.retain(|(_, number, caller)| orders.get(number).is_some_and(|order| order.is_caller(*caller)));
        let due = self.written.iter().take_while(|(at, ..)| now - at >= RESET_WITHIN);
        due.filter_map(|(_, number, _)| Some((*number, orders.get(number)?.caller.clone()?))).collect()
    }

    /// The answer of an order has reached its caller: the next equal order without a key is a new one.
    pub(in crate::orders) fn reached(&mut self, number: u64, caller: u64) -> WriteBatch {
        let mut batch = WriteBatch::default();
        match self.orders.get(&number).filter(|order| order.is_caller(caller)).map(|order| order.row.phase) {
            Some(OrderPhase::Undelivered) => self.end_delivery(number, &mut batch),
            Some(_) => self.change_caller(number, |caller| *caller = None),
            None => {}
        }
        batch
    }
}
