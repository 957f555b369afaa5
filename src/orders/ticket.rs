//! An order in progress: claimed (step 4, [`Ticket`]), written (step 8, [`Written`]), ended (step 14).
//!
//! Always holds: dropping a value leaves the journal correct, whatever happened to the task that held
//! it. A dropped [`Ticket`] frees its key; a dropped [`Written`] leaves its order unknown.

use std::sync::Arc;

use super::{
    journal::StoredAnswer,
    shared::{JournalError, SharedOrders},
};
use crate::{outcome::Sent, store::StoreError};

/// An order that may be sent once it is written. It holds its key.
#[derive(Debug)]
#[must_use = "dropping it frees the key"]
pub struct Ticket {
    order: Option<OrderHandle>,
}

/// An order that is in the journal and so may be sent.
#[derive(Debug)]
#[must_use = "dropping it leaves the order unknown"]
pub struct Written {
    order: Option<OrderHandle>,
}

#[derive(Debug)]
struct OrderHandle {
    orders: Arc<SharedOrders>,
    number: u64,
    /// Unknown orders equal to this one when it was confirmed.
    settles: Vec<u64>,
    /// A row of it may be on disk.
    journaled: bool,
}

impl Ticket {
    pub(super) fn new(orders: Arc<SharedOrders>, number: u64, settles: Vec<u64>) -> Self {
        Ticket { order: Some(OrderHandle { orders, number, settles, journaled: false }) }
    }

    pub(super) async fn write(mut self) -> Result<Written, JournalError> {
        if let Some(order) = &mut self.order {
            if order.orders.store().is_slow() {
                return Err(JournalError(StoreError::Slow));
            }
            order.journaled = true;
            // If this future is dropped here, the ticket is too, and removes the row after its write.
            order.orders.write(order.number).await?;
        }
        Ok(Written { order: self.order.take() })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(order) = self.order.take() {
            order.orders.free(order.number, order.journaled);
        }
    }
}

impl Written {
    /// Records the outcome, by `answer.sent`:
    ///
    /// * `Yes`: the order has ended. The unknown orders that it was confirmed against are settled:
    ///   they hold no equal order any more, and their keys keep their own answers.
    /// * `Unknown`: the order is unknown; `answer` is what its caller was told.
    /// * `No`: its key is free again.
    ///
    /// Repeats of its key get `answer`. Does not wait for the disk: if the process crashes before the
    /// write, the order is unknown.
    pub fn end(mut self, answer: StoredAnswer) {
        let Some(order) = self.order.take() else { return };
        match answer.sent {
            Sent::Yes => order.orders.end_known(order.number, &order.settles, answer),
            Sent::Unknown => order.orders.end_unknown(order.number, Some(answer)),
            Sent::No => order.orders.free(order.number, true),
        }
    }

    /// Frees its key: the order was provably not sent.
    pub fn unsent(mut self) {
        if let Some(order) = self.order.take() {
            order.orders.free(order.number, true);
        }
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if let Some(order) = self.order.take() {
            order.orders.end_unknown(order.number, None);
        }
    }
}
