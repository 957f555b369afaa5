//! An order on its way: claimed (step 4), written (step 12), ended (step 15).
//!
//! Whatever happens to the task that holds it, `Drop` leaves the journal true: a [`Ticket`] that was
//! never written frees its key, a [`Written`] that nobody ended is unknown.

use std::sync::Arc;

use super::journal::StoredAnswer;
use super::{Inner, JournalError};
use crate::outcome::Sent;

/// An order that may be sent once it is written: it holds its key.
#[derive(Debug)]
#[must_use = "dropping it frees the key"]
pub struct Ticket {
    order: Option<OrderHandle>,
}

/// An order that stands in the journal, and so may be sent.
#[derive(Debug)]
#[must_use = "dropping it leaves the order unknown"]
pub struct Written {
    order: Option<OrderHandle>,
}

#[derive(Debug)]
struct OrderHandle {
    room: Arc<Inner>,
    number: u64,
    /// Unknown orders like it that were there when it was confirmed.
    settles: Vec<u64>,
    /// Whether the disk may know of it.
    journaled: bool,
}

impl Ticket {
    pub(super) fn new(room: Arc<Inner>, number: u64, settles: Vec<u64>) -> Self {
        Ticket { order: Some(OrderHandle { room, number, settles, journaled: false }) }
    }

    pub(super) async fn write(mut self) -> Result<Written, JournalError> {
        if let Some(order) = &mut self.order {
            order.journaled = true;
            // If this future is dropped here, so is the ticket: the row is removed after it was written.
            order.room.write(order.number).await?;
        }
        Ok(Written { order: self.order.take() })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(order) = self.order.take() {
            order.room.free(order.number, order.journaled);
        }
    }
}

impl Written {
    /// How it ended, as `answer.sent` says: `Yes` ends it, and settles the unknown orders that it was
    /// confirmed against (they hold nothing back any more; their keys keep their own answers); `Unknown` leaves it unknown, with what its caller was told; `No` frees its
    /// key. Repeats of its key get this answer. Does not wait for the disk: until it is written, a
    /// crash leaves the order unknown.
    pub fn end(mut self, answer: StoredAnswer) {
        let Some(order) = self.order.take() else { return };
        match answer.sent {
            Sent::Yes => order.room.answered(order.number, &order.settles, answer),
            Sent::Unknown => order.room.unknown(order.number, Some(answer)),
            Sent::No => order.room.free(order.number, true),
        }
    }

    /// It was provably not sent: frees its key.
    pub fn unsent(mut self) {
        if let Some(order) = self.order.take() {
            order.room.free(order.number, true);
        }
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if let Some(order) = self.order.take() {
            order.room.unknown(order.number, None);
        }
    }
}
