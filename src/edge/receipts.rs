//! The receipts of a connection's responses: whether each has reached its caller.
//!
//! A response goes through three steps. *Taken*: hyper holds its last byte, which may still be in a buffer. *Written*:
//! the buffers are flushed. *Decided*: over HTTP/1.1 when the client has sent something else after that, otherwise after
//! [`RESET_WITHIN`]; if the client has reset the connection by then, or over HTTP/2 the stream of one of these responses,
//! they have reached nobody. What always holds: a response is written only if its client was seen to be there before its
//! last bytes were, because afterwards one that has left before cannot be told from one that has read it and closed. Must
//! not know requests. Never fails.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::body::{CallerLink, RESET_WITHIN, Receipt};

#[derive(Default)]
pub(super) struct Receipts {
    taken: ReceiptList<Box<dyn Receipt>>,
    written: ReceiptList<WrittenReceipt>,
    connection: OnceLock<CallerLink>,
}

struct WrittenReceipt {
    receipt: Box<dyn Receipt>,
    /// When a reset says nothing any more.
    until: Instant,
    /// The next bytes from the client may have come before the response was written.
    has_earlier: bool,
}

struct ReceiptList<T> {
    list: Mutex<Vec<T>>,
    /// Whether there are any.
    any: AtomicBool,
}

impl<T> Default for ReceiptList<T> {
    fn default() -> Self {
        ReceiptList { list: Mutex::default(), any: AtomicBool::default() }
    }
}

impl<T> ReceiptList<T> {
    fn push(&self, receipt: T) {
        self.list.lock().push(receipt);
        self.any.store(true, Relaxed);
    }

    fn any(&self) -> bool {
        self.any.load(Relaxed)
    }

    fn take(&self) -> Vec<T> {
        if self.any.swap(false, Relaxed) { std::mem::take(&mut *self.list.lock()) } else { Vec::new() }
    }
}

impl Receipts {
    /// They are those of this connection.
    pub(super) fn are_of(&self, connection: CallerLink) {
        // Only a second call could fail.
        let _ = self.connection.set(connection);
    }

    fn has_unread(&self) -> bool {
        self.connection.get().is_some_and(CallerLink::has_unread)
    }

    fn has_unacknowledged(&self) -> bool {
        self.connection.get().is_some_and(CallerLink::has_unacknowledged)
    }

    /// The last byte of a response was taken: it is written with the next flush. hyper and h2 flush a connection only
    /// after they have written everything that they hold.
    pub(super) fn taken(&self, receipt: Option<Box<dyn Receipt>>) {
        if let Some(receipt) = receipt {
            self.taken.push(receipt);
        }
    }

    /// Everything that was taken is written.
    pub(super) fn flushed(&self) {
        if !self.taken.any() {
            return;
        }
        let has_earlier = self.has_unread();
        for mut receipt in self.taken.take() {
            receipt.written();
            self.written.push(WrittenReceipt { receipt, until: Instant::now() + RESET_WITHIN, has_earlier });
        }
    }

    /// The client has sent something, over HTTP/1.1: it has read on, if that came after what was written, and if everything
    /// that was is acknowledged.
    pub(super) fn read_on(&self) {
        if !self.written.any() {
            return;
        }
        let mut written = self.written.list.lock();
        if written.iter().any(|written| written.has_earlier) {
            let has_earlier = self.has_unread();
            written.iter_mut().for_each(|written| written.has_earlier = has_earlier);
            return;
        }
        drop(written);
        if !self.has_unacknowledged() {
            self.decide(|| false);
        }
    }

    /// When the last of the responses that are written and not decided is to be; `None`: there are none.
    pub(super) fn undecided_until(&self) -> Option<Instant> {
        if !self.written.any() {
            return None;
        }
        self.written.list.lock().last().map(|written| written.until)
    }

    /// Before more is written.
    pub(super) fn before_write(&self, has_left: impl FnOnce() -> bool) {
        if !self.taken.any() {
            return;
        }
        if has_left() {
            drop(self.taken.take());
        } else {
            self.taken.list.lock().iter_mut().for_each(|receipt| receipt.begun());
        }
    }

    /// The responses of which the last byte was taken, written or not, have reached nobody.
    pub(super) fn give_up(&self) {
        drop((self.taken.take(), self.written.take()));
    }

    /// Whether there are none.
    pub(super) fn are_none(&self) -> bool {
        !self.taken.any() && !self.written.any()
    }

    /// The responses that were written have reached their caller, unless the client has reset the connection.
    pub(super) fn decide(&self, was_reset: impl FnOnce() -> bool) {
        if !self.written.any() {
            return;
        }
        let written = self.written.take();
        if !was_reset() {
            written.into_iter().for_each(|written| written.receipt.reached());
        }
    }

    /// Those that were written long enough ago have reached their caller, if everything is acknowledged, and all that the client
    /// has sent was read.
    pub(super) fn decide_late(&self) {
        if !self.written.any() {
            return;
        }
        let now = Instant::now();
        let is_late = |written: &WrittenReceipt| written.until <= now;
        if !self.written.list.lock().iter().any(is_late) || self.has_unread() || self.has_unacknowledged() {
            return;
        }
        let (late, rest): (Vec<_>, _) = self.written.take().into_iter().partition(is_late);
        rest.into_iter().for_each(|written| self.written.push(written));
        late.into_iter().for_each(|written| written.receipt.reached());
    }
}
