//! The receipts of a connection's responses: whether each has reached its caller.
//!
//! A response goes through three steps. *Taken*: hyper holds its last byte, which may still be in a buffer. *Written*:
//! the buffers are flushed. *Decided*: the client has sent something else, or the connection ends; if the client has
//! reset the connection by then, or over HTTP/2 the stream of one of these responses, they have reached nobody. What
//! always holds: a response is written only if its client was seen to be there before its last bytes were, because
//! afterwards one that has left before cannot be told from one that has read it and closed. Must not know requests.
//! Never fails.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::body::Receipt;

#[derive(Default)]
pub(super) struct Receipts {
    taken: ReceiptList,
    written: ReceiptList,
}

#[derive(Default)]
struct ReceiptList {
    list: Mutex<Vec<Box<dyn Receipt>>>,
    /// Whether there are any.
    any: AtomicBool,
}

impl ReceiptList {
    fn push(&self, receipt: Box<dyn Receipt>) {
        self.list.lock().push(receipt);
        self.any.store(true, Relaxed);
    }

    fn any(&self) -> bool {
        self.any.load(Relaxed)
    }

    fn take(&self) -> Vec<Box<dyn Receipt>> {
        if self.any.swap(false, Relaxed) { std::mem::take(&mut *self.list.lock()) } else { Vec::new() }
    }
}

impl Receipts {
    /// The last byte of a response was taken: it is written with the next flush. hyper and h2 flush a connection only
    /// after they have written everything that they hold.
    pub(super) fn taken(&self, receipt: Option<Box<dyn Receipt>>) {
        if let Some(receipt) = receipt {
            self.taken.push(receipt);
        }
    }

    /// Everything that was taken is written.
    pub(super) fn flushed(&self) {
        for mut receipt in self.taken.take() {
            receipt.written();
            self.written.push(receipt);
        }
    }

    /// Whether responses are written and not decided.
    pub(super) fn are_undecided(&self) -> bool {
        self.written.any()
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

    /// The responses that were written have reached their caller, unless the client has reset the connection.
    pub(super) fn decide(&self, was_reset: impl FnOnce() -> bool) {
        if !self.written.any() {
            return;
        }
        let written = self.written.take();
        if !was_reset() {
            written.into_iter().for_each(|receipt| receipt.reached());
        }
    }
}
