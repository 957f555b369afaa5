//! What calls that nobody waits for may take of the bucket, and what they delay.
//!
//! They take tokens of a full bucket only, which it could not hold anyway; but the bucket lacks them until it is full again.
//! So either that is over within the time that a request may wait, or what callers have used at a time of late is left all the
//! same. Where the bucket holds one token, the latter is only true once nobody has asked for a while. The first caller after
//! that may have to wait for a token that is missing.
//!
//! Always holds: the delay is never overstated where callers keep what they take; what they give back counts as used. A value;
//! times are nanoseconds that only grow. Must not know who asks. Never fails.

/// What callers have used at a time counts for a while: less and less, over the time in which the bucket could have filled
/// with it so many times. (With 4, who uses a quarter of a budget of one token is delayed by nothing, and four tokens after the
/// last caller the gateway may have the next one.)
const MEMORY: u64 = 4;

#[derive(Debug, Default)]
pub(super) struct SpareTokens {
    /// When the bucket would be full if only callers used it.
    full_without: u64,
    /// When the most that callers have used at a time is forgotten.
    forgotten_at: u64,
}

impl SpareTokens {
    /// A caller asks for so much.
    pub(super) fn caller_asks(&mut self, worth: u64, capacity: u64, now: u64) {
        let used = self.full_without.saturating_sub(now).saturating_add(worth).min(capacity);
        self.forgotten_at = self.forgotten_at.max(now.saturating_add(used.saturating_mul(MEMORY)));
    }

    /// It gets that, now or later.
    pub(super) fn caller_admitted(&mut self, worth: u64, now: u64) {
        self.full_without = self.full_without.max(now).saturating_add(worth);
    }

    /// The bucket has changed otherwise, and will be full then.
    pub(super) fn changed(&mut self, full_at: u64) {
        self.full_without = full_at;
    }

    /// When there would be so much for the next caller.
    pub(super) fn due_in_without(&self, worth: u64, capacity: u64, now: u64) -> u64 {
        self.full_without.max(now).saturating_add(worth).saturating_sub(capacity).saturating_sub(now)
    }

    /// Whether one of these calls may take so much of a full bucket.
    pub(super) fn may_be_taken(&self, worth: u64, capacity: u64, max_wait: u64, now: u64) -> bool {
        let used = self.forgotten_at.saturating_sub(now).div_ceil(MEMORY);
        worth <= max_wait || used.saturating_add(worth) <= capacity
    }
}
