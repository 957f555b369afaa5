//! Never sends an order twice: `Idempotency-Key`, equal orders, and the journal of orders.
//!
//! Step 4 ([`Orders::recall`]) answers a repeated key, gives an answer that has reached nobody to an
//! equal order without a key, lets it wait for an order whose caller has left, holds it if that is
//! unknown, or issues a [`Ticket`] and the [`CallerPresence`] of its caller. Step 8 ([`Orders::write`])
//! makes the order durable before it is sent. Step 14 ([`Written::end`]) records its outcome.
//!
//! Always holds: an order is on disk before it is sent, so after `kill -9` every order that may have
//! been sent is known as unknown; while a key is remembered, at most one order with it is sent; while
//! an order without a key is under way, unknown, or its answer has reached nobody, no equal one is sent
//! without confirmation; an order that was never sent leaves no trace. A step that is dropped halfway
//! leaves the journal correct (see [`Ticket`]).
//!
//! Ended orders with a key are remembered for `orders.remember`, answers that reached nobody for
//! `orders.undelivered`, unknown orders until they are settled; at most [`MAX_ORDERS`] of them (beyond
//! that those that ended first are forgotten, but never unknown orders). Answers are kept up to [`MAX_ANSWERS`] bytes (beyond that the oldest are dropped, and a
//! repeat of their key is refused rather than sent).
//!
//! The room does not know how a request is sent or what a refusal looks like. Recalling fails with
//! [`OrderRefusal`], writing with [`JournalError`]: an order that cannot be written is not sent.

mod clock;
mod fingerprint;
mod index;
mod journal;
mod key;
mod limits;
mod placed;
mod presence;
mod refusal;
mod shared;
#[cfg(test)]
mod tests;
mod ticket;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method};
use jiff::Timestamp;
use serde_json::Value;

use self::{
    clock::{CLOCK, CLOCK_KEY, ClockRow, OrderClock},
    fingerprint::OrderDigest,
    index::{FoundAnswer, Index, IndexMatch, OrderIdentity},
    journal::{ANSWERS, AnswerRow, ORDERS},
    limits::OrderLimits,
    placed::PlacedOrders,
    shared::SharedOrders,
};
pub use self::{
    fingerprint::Parties,
    index::{UnderWayOrder, UnknownOrder},
    journal::{FirstSent, OrderDescription, StoredAnswer},
    key::IdempotencyKeyError,
    limits::{MAX_ANSWERS, MAX_ORDERS},
    placed::{OrderKind, PlacedOrder},
    presence::{CallerPresence, OccupiedOrder, OrderUnderWay},
    refusal::OrderRefusal,
    shared::JournalError,
    ticket::{Ticket, Written},
};
use crate::{
    body::CallerLink,
    config::{Class, OrdersConfig},
    memory::MemoryAllowance,
    store::{Store, StoreError, WriteBatch},
};

/// The header that lets an order pass although an equal one may have been sent.
const RESEND: &str = "x-gateway-resend";

/// The only value of [`RESEND`].
const CONFIRMED: &str = "confirmed";

/// How often the clock is written. After a crash, ages are short by at most this.
const KEEP_TIME: Duration = Duration::from_secs(60);

/// Maximum length of the path that operators are shown, characters.
const MAX_PATH: usize = 200;

/// Maximum length of the masked body that operators are shown, bytes.
const MAX_REQUEST: usize = 4 * 1024;

/// Maximum length of a body that is searched for the parties, bytes.
const MAX_PARSED: usize = 64 * 1024;

/// The order as step 4 sees it.
#[derive(Clone, Copy, Debug)]
pub struct OrderRequest<'a> {
    /// Name of the service. Keys and equal orders are separate for each service.
    pub service: &'a str,
    /// Name of the account; unknown orders are counted by account.
    pub account: &'a str,
    /// Name of the operation.
    pub operation: &'a str,
    /// The request's method.
    pub method: &'a Method,
    /// Path and query as received.
    pub target: &'a str,
    /// The caller's headers.
    pub headers: &'a HeaderMap,
    /// The raw body.
    pub body: &'a [u8],
    /// The body as operators may see it; `None`: it cannot be masked.
    pub masked: Option<&'a str>,
    /// The id that later refusals name.
    pub request_id: &'a str,
    /// The connection of its caller, for equal orders that come while it is under way.
    pub connection: Option<&'a CallerLink>,
    /// For the first response, if it is read again.
    pub memory: &'a MemoryAllowance,
}

/// Result of step 4.
#[derive(Debug)]
pub enum Recall {
    /// The order may go on; the request is its caller.
    New(Ticket, CallerPresence),
    /// The order has ended with this answer. With a presence if it has reached nobody so far.
    Repeat(Arc<StoredAnswer>, Option<CallerPresence>),
    /// The order is under way and its caller has left: the request waits for its end, and asks again.
    UnderWay(OrderUnderWay),
    /// An equal order, or the key's, is under way or its answer is being given, and its caller is there: the request waits
    /// for a moment in case that changes, and asks again.
    Occupied(OccupiedOrder),
}

/// The orders of all services; clones share them.
#[derive(Clone, Debug)]
pub struct Orders {
    inner: Arc<SharedOrders>,
}

/// Whether a request is protected against being sent twice: orders, and unlisted requests with an
/// unsafe method.
pub fn applies_to(class: Class, method: &Method) -> bool {
    class == Class::Order || (class == Class::Unlisted && !method.is_safe())
}

/// Whether a request has an `Idempotency-Key`.
pub fn has_key(headers: &HeaderMap) -> bool {
    matches!(key::parse(headers), Ok(Some(_)))
}

impl Orders {
    /// Reads the journal. Orders that were in flight when the process ended become unknown. `now` is
    /// the wall time; it counts only if nothing was ever remembered (`clock`).
    ///
    /// # Errors
    /// [`StoreError`] if the journal cannot be read or written.
    pub async fn open(store: Store, now: Timestamp, config: &OrdersConfig) -> Result<Orders, StoreError> {
        Orders::open_within(store, now, OrderLimits::of(config)).await
    }

    async fn open_within(store: Store, now: Timestamp, limits: OrderLimits) -> Result<Orders, StoreError> {
        let mut index = Index::new(limits);
        let mut loaded = store.load(&ORDERS).await?;
        // Rows of earlier versions show a wall clock, which must not go back.
        let newest = loaded.rows.iter().map(|loaded| loaded.row.since).max();
        let last = store.get(&CLOCK, CLOCK_KEY).await?.map(|last| last.0).max(newest);
        let clock = OrderClock::new(last.map(ClockRow), now);
        if loaded.unreadable > 0 {
            tracing::error!(rows = loaded.unreadable, "rows of the order journal cannot be read and are ignored");
        }
        // Oldest first, so that the oldest answers are dropped first later on.
        loaded.rows.sort_by_key(|loaded| loaded.row.since);
        let mut batch = WriteBatch::default();
        for loaded in loaded.rows {
            if let Ok(number) = <[u8; 8]>::try_from(loaded.key.as_slice()) {
                index.restore(u64::from_be_bytes(number), loaded.row, clock.now(), &mut batch);
            }
        }
        if !batch.is_empty() {
            store.write(batch).await?;
        }
        let began = if last.is_some() { now.as_millisecond() } else { 0 };
        let placed = PlacedOrders::open(&store, began).await?;
        Ok(Orders { inner: Arc::new(SharedOrders::new(store, clock, index, placed)) })
    }

    /// Step 4. Call it only if [`applies_to`]. Waits only for an answer that is on disk. `waited_for`: the order whose end
    /// the request has waited for.
    ///
    /// # Errors
    /// [`OrderRefusal`]; a refused order costs nothing and leaves no trace.
    pub async fn recall(
        &self,
        request: &OrderRequest<'_>,
        mut waited_for: Option<CallerPresence>,
    ) -> Result<Recall, OrderRefusal> {
        let identity = OrderIdentity { waited_as: waited_for.as_ref().map(CallerPresence::id), ..identity(request)? };
        let mut presence = |number, caller| match waited_for.take() {
            Some(presence) if presence.is_of(number) => presence,
            _ => CallerPresence::new(Arc::clone(&self.inner), number, caller),
        };
        match self.find(&identity)? {
            IndexMatch::New { number, caller, settles } => {
                Ok(Recall::New(Ticket::new(Arc::clone(&self.inner), number, settles), presence(number, caller)))
            }
            IndexMatch::UnderWay { number, first, caller, ended } => {
                Ok(Recall::UnderWay(OrderUnderWay::new(presence(number, caller), first, ended)))
            }
            IndexMatch::Occupied { number, first, caller, in_flight, changed } => {
                let orders = Arc::clone(&self.inner);
                Ok(Recall::Occupied(OccupiedOrder { orders, number, first, caller, in_flight, changed }))
            }
            IndexMatch::Ended { number, first, result, answer, caller } => {
                let caller = caller.map(|caller| presence(number, caller));
                let bytes = match answer {
                    FoundAnswer::InMemory(answer) => return Ok(Recall::Repeat(answer, caller)),
                    FoundAnswer::OnDisk { bytes } => bytes,
                };
                let claim = request.memory.claim(bytes)?;
                match self.inner.store().get(&ANSWERS, &number.to_be_bytes()).await {
                    Ok(Some(AnswerRow(answer))) => {
                        let body = claim.hold(answer.body);
                        Ok(Recall::Repeat(Arc::new(StoredAnswer { body, ..answer }), caller))
                    }
                    Ok(None) => Err(OrderRefusal::answer_gone(first, result)),
                    Err(error) => {
                        tracing::error!(%error, "a stored answer cannot be read");
                        Err(OrderRefusal::Unreadable { first })
                    }
                }
            }
        }
    }

    /// What the order has to do with the remembered ones, after a look at whether their callers are still there.
    fn find(&self, identity: &OrderIdentity) -> Result<IndexMatch, OrderRefusal> {
        loop {
            let found = self.inner.change(|index, now| {
                let expired = index.expire(now);
                (expired, index.recall(identity.clone(), now))
            })?;
            match &found {
                IndexMatch::Occupied { number, caller, .. } if self.inner.check_caller(*number, caller) => {}
                _ => return Ok(found),
            }
        }
    }

    /// Step 8: completes when the order is on disk.
    ///
    /// # Errors
    /// [`JournalError`]: the order must not be sent; its key is free again.
    pub async fn write(&self, ticket: Ticket) -> Result<Written, JournalError> {
        ticket.write().await
    }

    /// Writes from time to time what the clock shows, so that a restart goes on from there. Ends with its runtime.
    pub async fn keep_time(self) {
        loop {
            tokio::time::sleep(KEEP_TIME).await;
            self.write_time();
        }
    }

    /// Writes what the clock shows.
    pub fn write_time(&self) {
        let mut batch = WriteBatch::default();
        batch.put(&CLOCK, CLOCK_KEY, &ClockRow(self.inner.now()));
        self.inner.store().submit(batch, |_| {});
    }

    /// Changes how long orders are remembered.
    pub fn reconfigure(&self, config: &OrdersConfig) {
        self.inner.index.lock().set_limits(OrderLimits::of(config));
    }

    /// The unknown orders that are not settled, oldest first.
    pub fn unknown(&self) -> Vec<UnknownOrder> {
        self.inner.change(|index, now| (index.expire(now), index.unknown_orders(now)))
    }

    /// The orders that are under way.
    pub fn under_way(&self) -> Vec<UnderWayOrder> {
        self.inner.index.lock().under_way()
    }

    /// The orders of an account that have bought a shipment lately, or may have and were settled.
    pub fn placed(&self, account: &str) -> Vec<PlacedOrder> {
        self.inner.placed.lock().of_account(account)
    }

    /// An unknown order has bought the shipment of these ids, which was paid for at `paid`.
    pub fn was_placed(&self, order: &UnknownOrder, ids: Vec<String>, paid: Timestamp) {
        let OrderDescription { at, parties, .. } = order.description.clone();
        let (account, ended) = (order.account.clone(), paid.as_millisecond());
        let placed = PlacedOrder { account, came: at, ended, ids, parties };
        let mut batch = WriteBatch::default();
        self.inner.placed.lock().add(order.number, placed, &mut batch);
        self.inner.store().submit_until_written(batch, || {});
    }

    /// From when on [`Orders::placed`] lacks none, milliseconds since 1970.
    pub fn placed_since(&self) -> i64 {
        self.inner.placed.lock().complete_since()
    }

    /// An operator has found out whether an unknown order was executed. Completes when that is on disk. Equal orders are
    /// held no longer; if it was not executed, its key is free. Of an order that is no longer unknown, nothing changes.
    ///
    /// # Errors
    /// [`JournalError`]: it is in force, but not on disk yet; writing it is tried again until it is.
    pub fn settle(
        &self,
        order: &UnknownOrder,
        executed: bool,
    ) -> impl Future<Output = Result<(), JournalError>> + Send + use<> {
        self.inner.settle(order.number, executed)
    }

    /// Number of an account's unknown orders that are not settled.
    pub fn unknown_count(&self, account: &str) -> u64 {
        self.inner.change(|index, now| (index.expire(now), index.unknown_count(account)))
    }
}

fn identity(request: &OrderRequest<'_>) -> Result<OrderIdentity, IdempotencyKeyError> {
    let key = key::parse(request.headers)?;
    let mut resend = request.headers.get_all(RESEND).iter();
    Ok(OrderIdentity {
        request_id: request.request_id.to_owned(),
        account: request.account.to_owned(),
        description: OrderDescription {
            service: request.service.to_owned(),
            method: request.method.as_str().to_owned(),
            path: request.target.split('?').next().unwrap_or_default().chars().take(MAX_PATH).collect(),
            at: Timestamp::now().as_millisecond(),
            operation: request.operation.to_owned(),
            request: request.masked.filter(|masked| masked.len() <= MAX_REQUEST).map(str::to_owned),
            parties: parties(request.body),
        },
        key: key.map(|key| OrderDigest::key(request.service, &key)),
        fingerprint: OrderDigest::fingerprint(request.method.as_str(), request.target, request.body),
        content: OrderDigest::content(request.service, request.target, request.body),
        confirmed: resend.next().is_some_and(|value| value == CONFIRMED) && resend.next().is_none(),
        waited_as: None,
        connection: request.connection.cloned(),
    })
}

/// Digest of the parties that an order names; not of bodies that are longer than any real order.
fn parties(body: &[u8]) -> Option<String> {
    let body = Some(body).filter(|body| body.len() <= MAX_PARSED)?;
    let order: Value = serde_json::from_slice(body).ok()?;
    Parties::of_order(&order).map(|parties| parties.digest())
}
