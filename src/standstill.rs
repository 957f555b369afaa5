//! The time that the monotonic clock has not counted since the start: the machine was suspended, or paused as a virtual one.
//!
//! A suspend is known a second after its end. A pause is known from the wall clock, ten minutes after it has jumped ahead;
//! one that was only corrected, and not paused, looks the same. What always holds: it only grows; no suspend is missed, so
//! an age that counts it is rather too high than too low. Never fails.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    clock_jumps,
    uptime::{self, STEP, millis},
};

/// Milliseconds.
static TOTAL: AtomicU64 = AtomicU64::new(0);

/// The clocks at the first look.
static START: LazyLock<Clocks> = LazyLock::new(Clocks::now);

/// All of it so far.
pub(crate) fn total() -> Duration {
    Duration::from_millis(TOTAL.load(Relaxed))
}

/// To be called at the start, and once a second.
pub(crate) fn look() {
    let suspended = START.suspended_until(Clocks::now());
    TOTAL.fetch_max(millis(suspended.max(clock_jumps::followed_ahead())), Relaxed);
}

/// A clock that runs while the machine is suspended, and one that does not.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    uptime: Option<Duration>,
    /// Read after the other, so that a pause of the process in between is no suspend.
    at: Instant,
}

impl Clocks {
    fn now() -> Self {
        let uptime = uptime::since_boot();
        Clocks { uptime, at: Instant::now() }
    }

    fn suspended_until(self, now: Clocks) -> Duration {
        let Some((start, end)) = self.uptime.zip(now.uptime) else { return Duration::ZERO };
        let counted = now.at.saturating_duration_since(self.at);
        // The first uptime was rounded down.
        end.saturating_sub(start).saturating_sub(counted + STEP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_the_uptime_counts_was_a_suspend() {
        let millis = Duration::from_millis;
        let start = Clocks { uptime: Some(millis(5_000)), at: Instant::now() };
        let after = |uptime, at| Clocks { uptime: Some(millis(uptime)), at: start.at + millis(at) };
        assert_eq!(start.suspended_until(after(6_010, 1_000)), Duration::ZERO);
        assert_eq!(start.suspended_until(after(6_000, 9_000)), Duration::ZERO, "paused between two looks");
        assert_eq!(start.suspended_until(after(3_606_010, 1_000)), millis(3_600_000));
        assert_eq!(start.suspended_until(Clocks { uptime: None, ..start }), Duration::ZERO);
        look();
        assert_eq!(total(), Duration::ZERO);
    }
}
