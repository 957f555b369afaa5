//! Never sends an order twice: `Idempotency-Key`, equal orders, and the journal of orders.
//!
//! Step 4 ([`Orders::recall`]) answers a repeated key, gives an answer that has reached nobody to an
//! equal order without a key, lets it wait for an order whose caller has left, or until it is decided
//! whether an answer of a moment ago has been read, holds it if the order is unknown, or issues a
//! [`Ticket`] and the [`CallerPresence`] of its caller. Step 8 ([`Orders::write`]) makes the order
//! durable before it is sent. Step 14 ([`Written::end`]) records its outcome.
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
mod recall;
mod refusal;
mod request;
mod shared;
#[cfg(test)]
mod tests;
mod ticket;
mod withdrawn;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

pub use self::{
    archive::{Archive, StoreSummaries, forget_archive, inspect},
    fingerprint::Parties,
    index::{UnderWayOrder, UnknownOrder},
    journal::{FirstSent, OrderDescription, StoredAnswer},
    key::IdempotencyKeyError,
    limits::{LONGEST_WAIT, MAX_ANSWERS, MAX_ARCHIVED_ANSWERS, MAX_ORDERS},
    open_error::OrdersOpenError,
    placed::{OrderKind, PlacedOrder},
    presence::{CallerPresence, OccupiedOrder, OrderUnderWay, OrderWait},
    recall::Recall,
    refusal::OrderRefusal,
    request::{OrderRequest, OrderToShow, applies_to, has_key},
    shared::{JournalError, OrderStores},
    ticket::{Ticket, Written},
};
use self::{
    clock::{CLOCK, CLOCK_KEY, ClockRow, OrderClock},
    index::Index,
    journal::{ARCHIVED, ARCHIVED_KEY, ORDERS},
    limits::OrderLimits,
    placed::PlacedOrders,
    presence::HAND_OVER,
    shared::{LoadedOrders, SharedOrders},
    withdrawn::FormerlyWithdrawn,
};
use crate::{body::RESET_WITHIN, config::OrdersConfig, store::WriteBatch};

/// How often the clock is written. After a crash, ages are short by at most this.
const KEEP_TIME: Duration = Duration::from_secs(60);

/// The orders of all services; clones share them.
#[derive(Clone, Debug)]
pub struct Orders {
    inner: Arc<SharedOrders>,
}

impl Orders {
    /// Reads the journal. Orders that were in flight when the process ended become unknown. `now` is
    /// the wall time; it counts only if nothing was ever remembered (`clock`). `memory`: `limits.memory`.
    ///
    /// # Errors
    /// [`OrdersOpenError`] if journal or archive cannot be read or written, or do not belong together.
    pub async fn open(
        stores: OrderStores,
        now: Timestamp,
        config: &OrdersConfig,
        memory: usize,
    ) -> Result<Orders, OrdersOpenError> {
        Orders::open_within(stores, now, OrderLimits::of(config, memory)).await
    }

    async fn open_within(stores: OrderStores, now: Timestamp, limits: OrderLimits) -> Result<Orders, OrdersOpenError> {
        let store = &stores.journal;
        let archived = match stores.archive.totals().await? {
            new if new.batches == 0 => stores.archive.create().await?,
            known => known,
        };
        let moved = store.get(&ARCHIVED, ARCHIVED_KEY).await?;
        if moved.is_some_and(|moved| !moved.is_in(archived.id, archived.batches)) {
            return Err(OrdersOpenError::ArchiveLost);
        }
        let withdrawn = FormerlyWithdrawn::read(&stores.dir, store).await?;
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
        if moved.is_none_or(|moved| moved.archive != archived.id) {
            batch.put(&ARCHIVED, ARCHIVED_KEY, &archived.archived());
        }
        for loaded in loaded.rows {
            if let Ok(number) = <[u8; 8]>::try_from(loaded.key.as_slice()) {
                let number = u64::from_be_bytes(number);
                if !withdrawn.remove(number, &loaded.row, &mut batch) {
                    index.restore(number, loaded.row, clock.now(), &mut batch);
                }
            }
        }
        let withdrawn = withdrawn.end(&stores.dir, &mut batch);
        store.write(batch).await?;
        withdrawn.begun();
        let began = if last.is_some() { now.as_millisecond() } else { 0 };
        let placed = PlacedOrders::open(store, began).await?;
        index.continue_from(placed.next_number());
        let loaded = LoadedOrders { clock, index, placed, withdrawn };
        Ok(Orders { inner: Arc::new(SharedOrders::new(stores, loaded)) })
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

    /// Notes which answers have reached their callers, also where nothing else tells. Ends with its runtime.
    pub async fn decide_deliveries(self) {
        loop {
            tokio::time::sleep(RESET_WITHIN).await;
            let written = self.inner.quiet_callers();
            if !written.is_empty() {
                // Their connections may just have read that it has not reached them.
                tokio::time::sleep(HAND_OVER).await;
                self.inner.decide_callers(written);
            }
        }
    }

    /// Writes what the clock shows.
    pub fn write_time(&self) {
        let mut batch = WriteBatch::default();
        batch.put(&CLOCK, CLOCK_KEY, &ClockRow(self.inner.now()));
        self.inner.store().submit(batch, |_| {});
    }

    /// Notes in `state.dir` which orders were not sent, if the journal may still say that they may have been: for the next
    /// start, if the disk does not let the journal be written before the process ends. Blocks.
    pub fn note_withdrawn(&self) {
        self.inner.withdrawn.write();
    }

    /// Changes how long orders are remembered, and how many.
    pub fn reconfigure(&self, config: &OrdersConfig, memory: usize) {
        self.inner.index.lock().set_limits(OrderLimits::of(config, memory));
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

    /// Services that have as many orders that are not over as they may, with their number.
    pub fn full_services(&self) -> Vec<(String, usize)> {
        self.inner.change(|index, now| (index.expire(now), index.full_services()))
    }

    /// Number of an account's unknown orders that are not settled.
    pub fn unknown_count(&self, account: &str) -> u64 {
        self.inner.change(|index, now| (index.expire(now), index.unknown_count(account)))
    }
}
