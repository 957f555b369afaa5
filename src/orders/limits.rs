//! Limits on what the orders room remembers. Data only.

use std::time::Duration;

use super::journal::{OrderPhase, OrderRow};
use crate::{body, config::OrdersConfig, store};

/// How long an order holds equal ones after its outcome has become unknown, milliseconds (contract section 6).
pub(super) const HELD: i64 = Duration::from_hours(24).as_millis() as i64;

/// How long an order waits for the journal or the archive, at most: a disk that does not respond is found out by then.
/// Pauses of the process do not count.
pub const LONGEST_WAIT: Duration = store::SLOW;

/// [`body::RESET_WITHIN`] in milliseconds.
pub(super) const RESET_WITHIN: i64 = body::RESET_WITHIN.as_millis() as i64;

/// Maximum number of orders in memory: under way, unknown, undelivered, or not in the archive yet. While there are so many, or
/// as many as fit in their memory, new ones are refused; those of a service, while it has as many as it leaves free.
pub const MAX_ORDERS: usize = 200_000;

/// Maximum size of the stored answers of these orders, bytes.
pub const MAX_ANSWERS: u64 = 256 << 20;

/// Maximum size of the answers in the archive, bytes: those of a week at ten orders a second with 1.4 KB each.
pub const MAX_ARCHIVED_ANSWERS: u64 = 8 << 30;

/// Limits on what is remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OrderLimits {
    /// How long a key is remembered after the end of its order, milliseconds; at least [`HELD`].
    pub(super) remembered: i64,
    /// How long an answer is kept that has reached nobody, milliseconds; 0: it is not.
    pub(super) undelivered: i64,
    pub(super) orders: usize,
    /// Bytes of memory that they take, without their answers.
    pub(super) memory: usize,
    /// Bytes of stored answers.
    pub(super) bytes: u64,
    /// Bytes of answers in the archive.
    pub(super) archived_bytes: u64,
}

impl OrderLimits {
    /// `memory`: `limits.memory`, a quarter of which they may take beside it.
    pub(super) fn of(config: &OrdersConfig, memory: usize) -> Self {
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        OrderLimits {
            remembered: millis(config.remember),
            undelivered: millis(config.undelivered),
            orders: MAX_ORDERS,
            memory: memory / 4,
            bytes: MAX_ANSWERS,
            archived_bytes: MAX_ARCHIVED_ANSWERS,
        }
    }

    /// When the phase of an order that is not in flight ends. That of an unknown one does not: it must be settled.
    /// `has_caller`: a request is given its answer, or has waited for it and is about to be.
    pub(super) fn ends_at(&self, row: &OrderRow, has_caller: bool) -> i64 {
        let lifetime = match row.phase {
            OrderPhase::Undelivered if !has_caller => self.undelivered,
            OrderPhase::Undelivered => self.remembered,
            OrderPhase::Open | OrderPhase::Unknown => return i64::MAX,
            OrderPhase::Ended => self.remembered,
        };
        row.since.saturating_add(lifetime)
    }
}
