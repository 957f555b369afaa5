//! How long a refused caller is told to wait: the only place where a wait becomes whole seconds.
//!
//! `Retry-After`, `error.retry_after` and the messages of refusals all say the same number (contract, section 5). Pure;
//! imports nothing, so that the rooms that refuse (`admission`, the breaker) and those that phrase refusals may use it.

use std::time::Duration;

/// Whole seconds, rounded up, at least 1: a client that waits this long is never too early.
pub fn whole_seconds(wait: Duration) -> Duration {
    let rounded_up = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
    Duration::from_secs(rounded_up.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_never_zero_and_never_too_short() {
        let waits = [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(2), Duration::from_millis(2001)];
        assert_eq!(waits.map(|wait| whole_seconds(wait).as_secs()), [1, 1, 2, 3]);
    }
}
