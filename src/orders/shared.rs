//! Index, clock and store together: each change of the index is submitted to the store in the same
//! step.
//!
//! Always holds: batches are submitted under the lock of the index, so the disk sees the steps of an
//! order in the order in which they happened. Fails with [`JournalError`].

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;

use super::{
    archive::Archive,
    clock::OrderClock,
    index::{DeliveryProgress, Index, OrderCaller, OrderEnd},
    journal::StoredAnswer,
    limits::RESET_WITHIN,
    placed::{self, PlacedOrder, PlacedOrders},
    withdrawn::WithdrawnOrders,
};
use crate::{
    body::CallerLink,
    store::{Store, StoreError, WriteBatch},
};

/// The order could not be written, so it must not be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the order journal cannot be written: {0}")]
pub struct JournalError(#[from] pub StoreError);

/// Where orders are remembered.
#[derive(Clone, Debug)]
pub struct OrderStores {
    /// The state store, whose tables hold the orders that are also in memory.
    pub journal: Store,
    /// The ended ones with a key.
    pub archive: Archive,
    /// The folder of both.
    pub dir: PathBuf,
}

/// What is remembered at a start.
pub(super) struct LoadedOrders {
    pub(super) clock: OrderClock,
    pub(super) index: Index,
    pub(super) placed: PlacedOrders,
    pub(super) withdrawn: WithdrawnOrders,
}

/// What the handles and tickets share.
#[derive(Debug)]
pub(super) struct SharedOrders {
    store: Store,
    archive: Archive,
    clock: OrderClock,
    /// Also locked by the store's thread, briefly, when an answer is on disk.
    pub(super) index: Mutex<Index>,
    /// Locked after `index` where both are.
    pub(super) placed: Mutex<PlacedOrders>,
    pub(super) withdrawn: WithdrawnOrders,
}

impl SharedOrders {
    pub(super) fn new(stores: OrderStores, loaded: LoadedOrders) -> Self {
        let OrderStores { journal: store, archive, .. } = stores;
        let LoadedOrders { clock, index, placed, withdrawn } = loaded;
        SharedOrders { store, archive, clock, index: Mutex::new(index), placed: Mutex::new(placed), withdrawn }
    }

    pub(super) fn archive(&self) -> &Archive {
        &self.archive
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// What the clock shows, milliseconds.
    pub(super) fn now(&self) -> i64 {
        self.clock.now()
    }

    /// Changes the index and submits the resulting batch. `change` gets the time in milliseconds.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Index, i64) -> (WriteBatch, T)) -> T {
        let mut index = self.index.lock();
        let (batch, result) = change(&mut index, self.clock.now());
        if !batch.is_empty() {
            self.store.submit_until_written(batch, || {});
        }
        result
    }

    /// Writes an order before it is sent. The call submits it, not the first poll.
    pub(super) fn write(&self, number: u64) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let mut index = self.index.lock();
        let batch = index.write(number, self.clock.now());
        self.store.write(batch)
    }

    /// Removes an order that was not sent. `journaled`: a row of it may be on disk.
    pub(super) fn free(self: &Arc<Self>, number: u64, journaled: bool) {
        let mut index = self.index.lock();
        let since = index.row(number).map(|row| row.since);
        let batch = index.free(number);
        let Some(since) = since.filter(|_| journaled) else { return };
        self.withdrawn.add(number, since);
        let orders = Arc::clone(self);
        self.store.submit_until_written(batch, move || orders.withdrawn.removed(number));
    }

    /// The caller of an order has left.
    pub(super) fn caller_left(&self, number: u64, caller: u64) {
        self.index.lock().caller_left(number, caller);
    }

    /// The answer of an order is being written to its caller.
    pub(super) fn begun(&self, number: u64, caller: u64) {
        self.index.lock().begun(number, caller);
    }

    /// The answer of an order was written to its caller.
    pub(super) fn written(&self, number: u64, caller: u64) {
        self.index.lock().written(number, caller, self.clock.now());
    }

    /// Whether the caller of an order that is under way, or whose answer has reached nobody, has left.
    pub(super) fn is_left(&self, number: u64) -> bool {
        self.index.lock().is_left(number)
    }

    /// The answer of an order has reached its caller.
    pub(super) fn reached(&self, number: u64, caller: u64) {
        self.change(|index, _| (index.reached(number, caller), ()));
    }

    /// For how long it is still open whether an answer that was written has reached its caller, for an equal order that
    /// comes by the connection `by`.
    pub(super) fn undecided(&self, caller: &OrderCaller, by: Option<&CallerLink>) -> Duration {
        match caller.progress {
            DeliveryProgress::Written { at } if !self.is_decided_at_once(caller, by) => {
                Duration::from_millis(u64::try_from(at + RESET_WITHIN - self.now()).unwrap_or(0))
            }
            _ => Duration::ZERO,
        }
    }

    /// Whether what is known of an order's caller decides an equal order that comes by the connection `by`. A client that sends
    /// another order by the connection of its answer has read on.
    pub(super) fn is_decided_at_once(&self, caller: &OrderCaller, by: Option<&CallerLink>) -> bool {
        let connection = caller.connection.as_ref();
        let has_read_on = connection.zip(by).is_some_and(|(connection, by)| connection.is(by));
        !matches!(caller.progress, DeliveryProgress::Written { .. })
            || has_read_on
            || connection.is_some_and(CallerLink::was_reset)
    }

    /// Whether nothing more is to be learned of an answer that was written: what its caller has sent has been read.
    pub(super) fn is_quiet(&self, caller: &OrderCaller) -> bool {
        matches!(caller.progress, DeliveryProgress::Written { .. })
            && !caller.connection.as_ref().is_some_and(CallerLink::has_unread)
    }

    /// Whether an answer that was written has not reached the caller's machine.
    pub(super) fn is_on_its_way(&self, caller: &OrderCaller) -> bool {
        matches!(caller.progress, DeliveryProgress::Written { .. })
            && caller.connection.as_ref().is_some_and(CallerLink::has_unacknowledged)
    }

    /// Looks at the connection of an order's caller, because the connection's own task may see late, or not at all, that
    /// the caller has left. Returns whether to look again.
    pub(super) fn check_caller(&self, number: u64, caller: &OrderCaller) -> bool {
        // What it has sent may give the response up: its connection is about to read that.
        let about_to_tell = matches!(caller.progress, DeliveryProgress::Written { .. }) && !self.is_quiet(caller);
        !about_to_tell && !self.is_on_its_way(caller) && self.decide_caller(number, caller)
    }

    /// The same, once its connection has had the time to read what the caller has sent.
    pub(super) fn decide_caller(&self, number: u64, caller: &OrderCaller) -> bool {
        let connection = caller.connection.as_ref();
        match caller.progress {
            DeliveryProgress::Awaited => {
                let has_left = connection.is_some_and(CallerLink::has_left);
                if has_left {
                    self.index.lock().caller_seen_gone(number, caller.id);
                }
                return has_left;
            }
            DeliveryProgress::Begun => return false,
            DeliveryProgress::Written { .. }
                if connection.is_some_and(|caller| caller.was_reset() || caller.has_unacknowledged()) =>
            {
                self.caller_left(number, caller.id);
            }
            DeliveryProgress::Written { .. } => self.reached(number, caller.id),
        }
        true
    }

    /// The callers whose answers were written [`RESET_WITHIN`](crate::body::RESET_WITHIN) ago, and of whom nothing more is to be
    /// learned.
    pub(super) fn quiet_callers(&self) -> Vec<(u64, OrderCaller)> {
        let mut written = self.index.lock().written_long_ago(self.clock.now());
        written.retain(|(_, caller)| self.is_quiet(caller));
        written
    }

    /// Decides whether answers have reached these callers.
    pub(super) fn decide_callers(&self, callers: Vec<(u64, OrderCaller)>) {
        for (number, caller) in callers {
            self.check_caller(number, &caller);
        }
    }

    /// Settles an unknown order. Completes when that is on disk.
    pub(super) fn settle(
        self: &Arc<Self>,
        number: u64,
        executed: bool,
    ) -> impl Future<Output = Result<(), JournalError>> + Send + use<> {
        let mut index = self.index.lock();
        let settled = index.unknown_row(number).cloned();
        let mut batch = index.settle_as(number, executed, self.clock.now());
        if let Some(row) = settled {
            self.placed.lock().add_settled(number, &row, Timestamp::now().as_millisecond(), &mut batch);
        }
        let written = self.store.write(batch);
        let orders = Arc::clone(self);
        drop(index);
        async move {
            written.await.map_err(|error| {
                orders.rewrite(number);
                JournalError(error)
            })
        }
    }

    /// Writes an order's row again, or that there is none, until that is on disk.
    fn rewrite(&self, number: u64) {
        let index = self.index.lock();
        self.store.submit_until_written(index.present(number), || {});
    }

    /// Ends an order whose outcome is known, and settles the unknown orders `settles`.
    pub(super) fn end_known(self: &Arc<Self>, number: u64, settles: &[u64], answer: StoredAnswer) {
        // Before the lock: the response may be long.
        let ids = placed::ids_in(&answer.body);
        let mut index = self.index.lock();
        let now = Timestamp::now().as_millisecond();
        let placed = index.row(number).and_then(|row| PlacedOrder::of(row, answer.outcome, ids, now));
        let settled = settles.iter().filter_map(|number| Some((*number, index.unknown_row(*number)?.clone())));
        let settled: Vec<_> = settled.collect();
        let mut batch = index.end_known(number, settles, answer, self.clock.now());
        let mut known = self.placed.lock();
        settled.iter().for_each(|(number, row)| known.add_settled(*number, row, now, &mut batch));
        if let Some(placed) = placed {
            known.add(number, placed, &mut batch);
        }
        drop(known);
        self.submit_end(&index, batch, number);
    }

    /// Ends an order that may have been executed.
    pub(super) fn end_unknown(self: &Arc<Self>, number: u64, answer: Option<StoredAnswer>) {
        let mut index = self.index.lock();
        let batch = index.end(number, OrderEnd::unknown(answer, self.clock.now()));
        self.submit_end(&index, batch, number);
    }

    /// Submits the end of an order, which is tried again until it is written. The answer is kept in memory until then.
    fn submit_end(self: &Arc<Self>, index: &Index, batch: WriteBatch, number: u64) {
        let answer = index.answer_in_memory(number);
        let orders = Arc::clone(self);
        self.store.submit_until_written(batch, move || {
            if let Some(answer) = answer {
                orders.index.lock().answer_written(number, &answer);
            }
        });
    }
}
