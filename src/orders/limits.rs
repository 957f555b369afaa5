//! Limits on what the orders room remembers. Data only.

use std::time::Duration;

/// How long ended keys and unknown orders are remembered after their end (contract section 6).
pub const REMEMBERED: Duration = Duration::from_hours(24);

/// Maximum number of remembered orders; each takes about 300 bytes of memory.
pub const MAX_ORDERS: usize = 200_000;

/// Maximum size of all stored answers, bytes.
pub const MAX_ANSWERS: u64 = 256 << 20;

/// Limits on what is remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct OrderLimits {
    /// Milliseconds.
    pub(super) remembered: i64,
    pub(super) orders: usize,
    /// Bytes of stored answers.
    pub(super) bytes: u64,
}

impl Default for OrderLimits {
    fn default() -> Self {
        OrderLimits { remembered: REMEMBERED.as_millis() as i64, orders: MAX_ORDERS, bytes: MAX_ANSWERS }
    }
}
