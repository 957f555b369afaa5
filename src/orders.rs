//! Was this order sent before, and how did that end: `Idempotency-Key`, and the journal of orders.
//!
//! Step 4 ([`Orders::recall`]) answers a repeat of a key, holds a twin of an order whose outcome is
//! unknown, or gives out a [`Ticket`]. Step 12 ([`Orders::write`]) makes the order durable before it
//! is sent. Step 15 ([`Written::end`]) says how it ended.
//!
//! Always holds: an order is on the disk before it is sent, so after `kill -9` whatever may have been
//! sent is unknown; a key is sent at most once while it is remembered; what was never sent leaves no
//! trace. A step that is dropped in the middle leaves the truth behind it (see [`Ticket`]).
//!
//! Remembered are: ended orders with a key and unknown orders for [`REMEMBERED`], at most
//! [`MAX_ORDERS`] (then the keys that ended first are forgotten, never unknown ones); answers up to
//! [`MAX_ANSWERS`] bytes (then the oldest answers are dropped, and a repeat is refused instead of sent).
//!
//! It must not know how a request is sent, what an answer means, or what a refusal looks like. It
//! fails by [`JournalError`] at step 12: an order that cannot be written is not sent.

mod clock;
mod fingerprint;
mod index;
mod journal;
mod key;
mod refusal;
#[cfg(test)]
mod tests;
mod ticket;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::config::Class;
use crate::outcome::Sent;
use crate::store::{Store, StoreError, WriteBatch};
use clock::OrderClock;
use fingerprint::OrderDigest;
use index::{Index, IndexMatch, OrderIdentity};
pub use journal::StoredAnswer;
use journal::{ANSWERS, ORDERS};
pub use key::IdempotencyKeyError;
pub use refusal::OrderRefusal;
pub use ticket::{Ticket, Written};

/// How long an ended key and an unknown order are remembered, from their end; the contract's 24 hours.
pub const REMEMBERED: Duration = Duration::from_hours(24);

/// Orders remembered; some 300 bytes of memory each.
pub const MAX_ORDERS: usize = 200_000;

/// Bytes of answers on the disk.
pub const MAX_ANSWERS: u64 = 256 << 20;

/// The header that lets a twin of an unknown order through, and its only value.
const RESEND: (&str, &str) = ("x-gateway-resend", "confirmed");

/// Bounds of what is remembered.
#[derive(Clone, Copy, Debug)]
struct OrderLimits {
    /// Milliseconds.
    remembered: i64,
    orders: usize,
    bytes: u64,
}

impl Default for OrderLimits {
    fn default() -> Self {
        OrderLimits { remembered: REMEMBERED.as_millis() as i64, orders: MAX_ORDERS, bytes: MAX_ANSWERS }
    }
}

/// What is asked at step 4.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the request's own parts")]
pub struct OrderRequest<'a> {
    /// Name of the service; keys and twins belong to it.
    pub service: &'a str,
    /// Name of the account, for the count of unknown orders.
    pub account: &'a str,
    pub method: &'a Method,
    /// Path and query as they were sent.
    pub target: &'a str,
    /// The caller's own headers.
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
    pub request_id: &'a str,
}

/// What step 4 found.
#[derive(Debug)]
pub enum Recall {
    /// Nothing stands against it.
    New(Ticket),
    /// The key's order has ended; this was its answer.
    Repeat(Arc<StoredAnswer>),
}

/// Whether the first request with an `Idempotency-Key` was sent. Not what became of the repeat: only this room can make
/// one, and the attempts of a request never become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstSent(Sent);

impl FirstSent {
    /// Whether Fastrac may have received the first request.
    pub fn get(self) -> Sent {
        self.0
    }
}

/// The order could not be written, so it must not be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the order journal cannot be written: {0}")]
pub struct JournalError(#[from] pub StoreError);

/// The room; clones share it.
#[derive(Clone, Debug)]
pub struct Orders {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    clock: OrderClock,
    /// Batches are handed to the store under this lock, so that the disk sees the steps of an order
    /// in their true order. The store's thread takes it only for a moment.
    index: Mutex<Index>,
}

/// Whether this room is asked about a request: orders, and unlisted ones with an unsafe method.
pub fn applies_to(class: Class, method: &Method) -> bool {
    class == Class::Order || (class == Class::Unlisted && !method.is_safe())
}

impl Orders {
    /// Reads the journal. What was in flight when the process ended is unknown from now on. `now` is
    /// the wall time; from here on tokio's clock counts.
    ///
    /// # Errors
    /// [`StoreError`] if the journal cannot be read or written.
    pub async fn open(store: Store, now: Timestamp) -> Result<Orders, StoreError> {
        Orders::open_within(store, now, OrderLimits::default()).await
    }

    async fn open_within(store: Store, now: Timestamp, limits: OrderLimits) -> Result<Orders, StoreError> {
        let clock = OrderClock::new(now);
        let mut index = Index::new(limits);
        let mut loaded = store.load(&ORDERS).await?;
        if loaded.unreadable > 0 {
            tracing::error!(rows = loaded.unreadable, "rows of the order journal cannot be read and are ignored");
        }
        // Oldest first, so that the oldest answers are dropped first later on.
        loaded.rows.sort_by_key(|(_, row)| row.since);
        let mut changes = WriteBatch::default();
        for (key, row) in loaded.rows {
            if let Ok(number) = <[u8; 8]>::try_from(key.as_slice()) {
                index.restore(u64::from_be_bytes(number), row, clock.now(), &mut changes);
            }
        }
        if !changes.is_empty() {
            store.write(changes).await?;
        }
        Ok(Orders { inner: Arc::new(Inner { store, clock, index: Mutex::new(index) }) })
    }

    /// Step 4. Waits only for a repeat whose answer is on the disk. Ask only where [`applies_to`].
    ///
    /// # Errors
    /// [`OrderRefusal`]; costs nothing and leaves no trace.
    pub async fn recall(&self, asked: &OrderRequest<'_>) -> Result<Recall, OrderRefusal> {
        let claim = claim(asked)?;
        let known = self.inner.change(|index, now| {
            let swept = index.sweep(now);
            (swept, index.recall(claim))
        })?;
        match known {
            IndexMatch::New(number, settles) => Ok(Recall::New(Ticket::new(Arc::clone(&self.inner), number, settles))),
            IndexMatch::Answer(answer) => Ok(Recall::Repeat(answer)),
            IndexMatch::OnDisk(number, gone) => match self.inner.store.get(&ANSWERS, &number.to_be_bytes()).await {
                Ok(Some(row)) => Ok(Recall::Repeat(Arc::new(row.0))),
                Ok(None) => Err(gone),
                Err(fault) => {
                    tracing::error!(%fault, "a stored answer cannot be read");
                    Err(gone)
                }
            },
        }
    }

    /// Step 12: done when the order is on the disk.
    ///
    /// # Errors
    /// [`JournalError`]: it must not be sent; its key is free again.
    pub async fn write(&self, ticket: Ticket) -> Result<Written, JournalError> {
        ticket.write().await
    }

    /// Orders of an account whose outcome is unknown and not settled, for the gauge.
    pub fn unknown_count(&self, account: &str) -> u64 {
        self.inner.change(|index, now| (index.sweep(now), index.unknown_count(account)))
    }
}

impl Inner {
    /// Changes the index, and hands the changes of the journal to the store.
    fn change<T>(&self, step: impl FnOnce(&mut Index, i64) -> (WriteBatch, T)) -> T {
        let mut index = self.index.lock();
        let (batch, result) = step(&mut index, self.clock.now());
        if !batch.is_empty() {
            self.store.submit(batch, |_| {});
        }
        result
    }

    fn write(&self, number: u64) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let mut index = self.index.lock();
        let batch = index.write(number, self.clock.now());
        self.store.write(batch)
    }

    fn free(&self, number: u64, journaled: bool) {
        self.change(|index, _| {
            let batch = index.free(number);
            (if journaled { batch } else { WriteBatch::default() }, ())
        });
    }

    fn answered(self: &Arc<Self>, number: u64, settles: &[u64], answer: StoredAnswer) {
        let mut index = self.index.lock();
        let batch = index.answered(number, settles, answer, self.clock.now());
        self.conclude(&index, batch, number);
    }

    fn unknown(self: &Arc<Self>, number: u64, answer: Option<StoredAnswer>) {
        let mut index = self.index.lock();
        let batch = index.unknown(number, answer, self.clock.now());
        self.conclude(&index, batch, number);
    }

    /// Writes how an order ended; its answer leaves the memory when it is on the disk, and stays there
    /// if it cannot be written.
    fn conclude(self: &Arc<Self>, index: &Index, batch: WriteBatch, number: u64) {
        let answer = index.in_memory(number);
        let room = Arc::clone(self);
        self.store.submit(batch, move |result| {
            if let (Ok(()), Some(answer)) = (result, answer) {
                room.index.lock().landed(number, &answer);
            }
        });
    }
}

fn claim(asked: &OrderRequest<'_>) -> Result<OrderIdentity, IdempotencyKeyError> {
    let key = key::parse(asked.headers)?;
    let mut resend = asked.headers.get_all(RESEND.0).iter();
    Ok(OrderIdentity {
        request_id: asked.request_id.to_owned(),
        account: asked.account.to_owned(),
        key: key.map(|key| OrderDigest::key(asked.service, &key)),
        fingerprint: OrderDigest::fingerprint(asked.method.as_str(), asked.target, asked.body),
        twin: OrderDigest::twin(asked.service, asked.target, asked.body),
        confirmed: resend.next().is_some_and(|value| value == RESEND.1) && resend.next().is_none(),
    })
}
