//! One remembered order. Pure; never fails.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::orders::journal::{OrderPhase, OrderRow, StoredAnswer};

#[derive(Debug)]
pub(super) struct OrderEntry {
    /// As it is on disk, or will be soon.
    pub(super) row: OrderRow,
    pub(super) in_flight: bool,
    /// Equal orders that it has held since the process started.
    pub(super) held: u64,
    /// Somebody waits for its answer, or is being given it.
    pub(super) has_caller: bool,
    /// Cancelled when its caller has left, when it ends, and when its answer has reached its caller or has not; made for
    /// the first that waits for it.
    pub(super) next: Option<CancellationToken>,
    pub(super) answer: AnswerLocation,
    /// Its position in `stored` of [`super::Index`], while `row.answer_bytes` is present.
    pub(super) stored_at: u64,
}

impl OrderEntry {
    pub(super) fn new(row: OrderRow, in_flight: bool) -> Self {
        OrderEntry {
            row,
            in_flight,
            held: 0,
            has_caller: false,
            next: None,
            answer: AnswerLocation::None,
            stored_at: 0,
        }
    }

    /// Whether a request may become its caller. `waited_for`: the order whose caller it has been.
    pub(super) fn is_free_for(&self, waited_for: Option<u64>, number: u64) -> bool {
        !self.has_caller || waited_for == Some(number)
    }

    /// What was waited for has come.
    pub(super) fn changed(&mut self) {
        if let Some(next) = self.next.take() {
            next.cancel();
        }
    }

    pub(super) fn is_unknown(&self) -> bool {
        !self.in_flight && self.row.phase == OrderPhase::Unknown
    }
}

#[derive(Clone, Debug)]
pub(super) enum AnswerLocation {
    /// There is none, or it was dropped.
    None,
    /// Until it is on disk.
    Memory(Arc<StoredAnswer>),
    Disk,
}
