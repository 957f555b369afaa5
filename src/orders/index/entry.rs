//! One remembered order. Pure; never fails.

use std::sync::{Arc, atomic::AtomicBool};

use tokio_util::sync::CancellationToken;

use crate::{
    body::CallerLink,
    orders::{
        journal::{OrderPhase, OrderRow, StoredAnswer},
        limits::OrderLimits,
    },
};

#[derive(Debug)]
pub(super) struct OrderEntry {
    /// As it is on disk, or will be soon.
    pub(super) row: OrderRow,
    pub(super) in_flight: bool,
    /// What it takes of the memory, without its answer; what of the row is forgotten stays counted.
    pub(super) bytes: usize,
    /// Whether it has ended as one that was or may have been sent. Also for those who have waited for it and find it gone.
    pub(super) was_sent: Arc<AtomicBool>,
    /// Equal orders that it has held since the process started.
    pub(super) held: u64,
    /// Who waits for its answer, or is being given it.
    pub(super) caller: Option<OrderCaller>,
    /// Cancelled when its caller has left, when it ends, and when its answer has reached its caller or has not; made for
    /// the first that waits for it.
    pub(super) next: Option<CancellationToken>,
    pub(super) answer: AnswerLocation,
    /// Its position in `stored` of [`super::Index`], while `row.answer_bytes` is present.
    pub(super) stored_at: u64,
}

/// What an order takes of the memory at least, in bytes, with its rows in the store's own memory.
const LEAST: usize = 1536;

/// How many orders there are, and the bytes of memory that they take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OrderCount {
    pub(super) orders: usize,
    pub(super) bytes: usize,
}

impl OrderCount {
    pub(super) fn add(&mut self, order: &OrderEntry) {
        self.orders += 1;
        self.bytes += order.bytes;
    }

    /// What was added before.
    pub(super) fn subtract(&mut self, order: &OrderEntry) {
        self.orders -= 1;
        self.bytes -= order.bytes;
    }
}

impl OrderEntry {
    pub(super) fn new(row: OrderRow, in_flight: bool) -> Self {
        let shown = &row.description;
        let bytes = LEAST + shown.path.len() + shown.request.as_ref().map_or(0, String::len);
        OrderEntry {
            row,
            in_flight,
            bytes,
            was_sent: Arc::new(AtomicBool::new(!in_flight)),
            held: 0,
            caller: None,
            next: None,
            answer: AnswerLocation::None,
            stored_at: 0,
        }
    }

    /// Whether a request may become its caller. `waited_as`: the caller that it has been.
    pub(super) fn is_free_for(&self, waited_as: Option<u64>) -> bool {
        self.caller.as_ref().is_none_or(|caller| waited_as == Some(caller.id))
    }

    pub(super) fn is_caller(&self, id: u64) -> bool {
        self.caller.as_ref().is_some_and(|caller| caller.id == id)
    }

    /// What was waited for has come.
    pub(super) fn changed(&mut self) {
        if let Some(next) = self.next.take() {
            next.cancel();
        }
    }

    /// When its phase ends, if it is not in flight.
    pub(super) fn ends_at(&self, limits: OrderLimits) -> i64 {
        limits.ends_at(&self.row, self.caller.is_some())
    }

    pub(super) fn is_unknown(&self) -> bool {
        !self.in_flight && self.row.phase == OrderPhase::Unknown
    }
}

/// A request that waits for the answer of an order, or is being given it.
#[derive(Clone, Debug)]
pub(in crate::orders) struct OrderCaller {
    pub(in crate::orders) id: u64,
    /// `None`: not known; it counts as open.
    pub(in crate::orders) connection: Option<CallerLink>,
    pub(in crate::orders) progress: DeliveryProgress,
    /// Set if it has left with its answer unread. Also for those who have waited for that to be decided.
    pub(in crate::orders) left_unread: Arc<AtomicBool>,
}

/// How far an answer is on its way to a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::orders) enum DeliveryProgress {
    /// It has not begun: if the caller closes its connection, it has left.
    Awaited,
    /// It is being written to the caller's connection.
    Begun,
    /// It was written.
    Written {
        /// When, milliseconds.
        at: i64,
    },
}

#[derive(Clone, Debug)]
pub(super) enum AnswerLocation {
    /// There is none, or it was dropped.
    None,
    /// Until it is on disk.
    Memory(Arc<StoredAnswer>),
    Disk,
}
