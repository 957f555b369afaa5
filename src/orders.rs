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
//! `orders.undelivered`, unknown orders until they are settled. The ended ones with a key move to the [`Archive`] on disk
//! within seconds, and their number has no limit but the disk; of the others there are at most [`MAX_ORDERS`] (beyond that
//! new orders are refused). Answers are kept up to [`MAX_ANSWERS`] bytes, in the archive up to [`MAX_ARCHIVED_ANSWERS`]
//! (beyond that the oldest are dropped, and a repeat of their key is refused rather than sent).
//!
//! A key that no order in memory has is looked up in the archive before a ticket is issued. The lookup holds nothing: the
//! index counts the moves to the archive, and a recall that has searched in vain is repeated if there was one meanwhile. So
//! there is no moment at which a remembered key is found neither here nor there. While the archive cannot be read or written,
//! orders with a new key are refused.
//!
//! The room does not know how a request is sent or what a refusal looks like. Recalling fails with
//! [`OrderRefusal`], writing with [`JournalError`]: an order that cannot be written is not sent.

mod archive;
mod archiver;
mod clock;
mod fingerprint;
mod index;
mod journal;
mod key;
mod limits;
mod open_error;
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
    archive::EndedOrder,
    clock::{CLOCK, CLOCK_KEY, ClockRow, OrderClock},
    fingerprint::OrderDigest,
    index::{FoundAnswer, Index, IndexMatch, OrderIdentity},
    journal::{ANSWERS, ARCHIVED, ARCHIVED_KEY, AnswerRow, ORDERS, OrderRow},
    limits::OrderLimits,
    placed::PlacedOrders,
    shared::SharedOrders,
};
pub use self::{
    archive::{Archive, StoreSummaries, forget_archive, inspect},
    fingerprint::Parties,
    index::{UnderWayOrder, UnknownOrder},
    journal::{FirstSent, OrderDescription, StoredAnswer},
    key::IdempotencyKeyError,
    limits::{LONGEST_WAIT, MAX_ANSWERS, MAX_ARCHIVED_ANSWERS, MAX_ORDERS},
    open_error::OrdersOpenError,
    placed::{OrderKind, PlacedOrder},
    presence::{CallerPresence, OccupiedOrder, OrderUnderWay},
    refusal::OrderRefusal,
    shared::{JournalError, OrderStores},
    ticket::{Ticket, Written},
};
use crate::{
    body::CallerLink,
    config::{Class, OrdersConfig},
    memory::{MemoryAllowance, MemoryClaim},
    store::{StoreError, WriteBatch},
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
    /// [`OrdersOpenError`] if journal or archive cannot be read or written, or do not belong together.
    pub async fn open(stores: OrderStores, now: Timestamp, config: &OrdersConfig) -> Result<Orders, OrdersOpenError> {
        Orders::open_within(stores, now, OrderLimits::of(config)).await
    }

    async fn open_within(stores: OrderStores, now: Timestamp, limits: OrderLimits) -> Result<Orders, OrdersOpenError> {
        let store = &stores.journal;
        let archived = stores.archive.totals().await?;
        if store.get(&ARCHIVED, ARCHIVED_KEY).await?.is_some_and(|moved| moved.0 > archived.batches) {
            return Err(OrdersOpenError::ArchiveLost);
        }
        if archived.batches == 0 {
            stores.archive.create().await?;
        }
        let mut index = Index::new(limits);
        let mut loaded = store.load(&ORDERS).await?;
        // Rows of earlier versions show a wall clock, which must not go back.
        let newest = loaded.rows.iter().map(|loaded| loaded.row.since).max();
        let newest = newest.max(Some(archived.newest).filter(|newest| *newest > 0));
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
        let placed = PlacedOrders::open(store, began).await?;
        index.continue_from(placed.next_number());
        Ok(Orders { inner: Arc::new(SharedOrders::new(stores, clock, index, placed)) })
    }

    /// Step 4. Call it only if [`applies_to`]. Waits for what is on disk: an answer, and whether the archive has the key.
    /// `waited_for`: the order whose end the request has waited for.
    ///
    /// # Errors
    /// [`OrderRefusal`]; a refused order costs nothing and leaves no trace.
    pub async fn recall(
        &self,
        request: &OrderRequest<'_>,
        mut waited_for: Option<CallerPresence>,
    ) -> Result<Recall, OrderRefusal> {
        let mut identity =
            OrderIdentity { waited_as: waited_for.as_ref().map(CallerPresence::id), ..identity(request)? };
        let mut presence = |number, caller| match waited_for.take() {
            Some(presence) if presence.is_of(number) => presence,
            _ => CallerPresence::new(Arc::clone(&self.inner), number, caller),
        };
        loop {
            let (number, bytes, caller) = match self.find(&identity)? {
                IndexMatch::NotLive { moves } => match self.repeat_archived(&identity, request).await? {
                    Some(answer) => return Ok(Recall::Repeat(answer, None)),
                    None => {
                        identity.absent_at = Some(moves);
                        continue;
                    }
                },
                IndexMatch::New { number, caller, settles } => {
                    let ticket = Ticket::new(Arc::clone(&self.inner), number, settles);
                    return Ok(Recall::New(ticket, presence(number, caller)));
                }
                IndexMatch::UnderWay { number, first, caller, ended } => {
                    return Ok(Recall::UnderWay(OrderUnderWay::new(presence(number, caller), first, ended)));
                }
                IndexMatch::Occupied { number, first, caller, in_flight, changed } => {
                    let orders = Arc::clone(&self.inner);
                    return Ok(Recall::Occupied(OccupiedOrder { orders, number, first, caller, in_flight, changed }));
                }
                IndexMatch::Ended { number, answer, caller } => match answer {
                    FoundAnswer::InMemory(answer) => {
                        return Ok(Recall::Repeat(answer, caller.map(|caller| presence(number, caller))));
                    }
                    FoundAnswer::OnDisk { bytes } => (number, bytes, caller),
                },
            };
            let caller = caller.map(|caller| presence(number, caller));
            if let Some(answer) = self.journaled_answer(number, request.memory.claim(bytes)?).await? {
                return Ok(Recall::Repeat(answer, caller));
            }
        }
    }

    /// The answer of an ended order; `None`: the order has left for the archive meanwhile.
    async fn journaled_answer(
        &self,
        number: u64,
        memory: MemoryClaim,
    ) -> Result<Option<Arc<StoredAnswer>>, OrderRefusal> {
        let row = self.inner.index.lock().row(number).cloned();
        let read = self.inner.store().get(&ANSWERS, &number.to_be_bytes()).await;
        let Some(OrderRow { request_id: first, result, .. }) = row else { return Ok(None) };
        match read {
            Ok(Some(AnswerRow(answer))) => {
                let body = memory.hold(answer.body);
                Ok(Some(Arc::new(StoredAnswer { body, ..answer })))
            }
            Ok(None) if self.inner.index.lock().row(number).is_none() => Ok(None),
            Ok(None) => Err(result.map_or(OrderRefusal::Interrupted { first: first.clone() }, |result| {
                OrderRefusal::answer_gone(first, result)
            })),
            Err(error) => {
                tracing::error!(%error, "a stored answer cannot be read");
                Err(OrderRefusal::Unreadable { first })
            }
        }
    }

    /// The answer of the archived order with this key; `None`: there is no such order, so one may be sent.
    async fn repeat_archived(
        &self,
        identity: &OrderIdentity,
        request: &OrderRequest<'_>,
    ) -> Result<Option<Arc<StoredAnswer>>, OrderRefusal> {
        let Some(key) = identity.key else { return Ok(None) };
        let archive = self.inner.archive();
        let failed = |_: StoreError| OrderRefusal::NoArchive;
        let remembered = self.inner.index.lock().limits().remembered;
        let found = archive.find(key).await.map_err(failed)?;
        let found = found.filter(|order| self.inner.now() < order.ended.saturating_add(remembered));
        let Some(order) = found else {
            // What could not be moved to the archive would fill the memory.
            return if archive.is_healthy() { Ok(None) } else { Err(OrderRefusal::NoArchive) };
        };
        let EndedOrder { request_id: first, fingerprint, result, answer_bytes, .. } = order.clone();
        if fingerprint != identity.fingerprint {
            return Err(OrderRefusal::OtherRequest { first });
        }
        let result = result.ok_or_else(|| OrderRefusal::Interrupted { first: first.clone() })?;
        let claim = request.memory.claim(usize::try_from(answer_bytes).unwrap_or(usize::MAX))?;
        let answer = archive.answer(key, &order).await.map_err(failed)?;
        let answer = answer.ok_or_else(|| OrderRefusal::answer_gone(first, result))?;
        let body = claim.hold(answer.body);
        Ok(Some(Arc::new(StoredAnswer { body, ..answer })))
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

    /// The ended orders with a key.
    pub fn archive(&self) -> &Archive {
        self.inner.archive()
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
        absent_at: None,
        connection: request.connection.cloned(),
    })
}

/// Digest of the parties that an order names; not of bodies that are longer than any real order.
fn parties(body: &[u8]) -> Option<String> {
    let body = Some(body).filter(|body| body.len() <= MAX_PARSED)?;
    let order: Value = serde_json::from_slice(body).ok()?;
    Parties::of_order(&order).map(|parties| parties.digest())
}
