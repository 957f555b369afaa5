//! The time that the monotonic clock has not counted since the start: the machine was suspended, or paused as a virtual one.
//!
//! A suspend is known when it is asked for, from the uptime, which is read when the wall clock has jumped. A pause is known
//! from the wall clock, ten minutes after it has jumped ahead; one that was only corrected, and not paused, looks the same.
//! What always holds: it only grows; no suspend is missed, so an age that counts it is rather too high than too low. Never
//! fails.

use std::{
    sync::{
        LazyLock,
        atomic::{
            AtomicI64, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    clock_jumps,
    uptime::{self, STEP, millis},
};

/// A suspend by less is known within a second only. A process that is interrupted between the readings of two clocks sees
/// one, too, which costs a look.
const JUMP: Duration = Duration::from_millis(100);

/// Milliseconds.
static TOTAL: AtomicU64 = AtomicU64::new(0);

/// The clocks at the first look.
static START: LazyLock<Clocks> = LazyLock::new(Clocks::now);

/// Milliseconds by which the wall clock was ahead of the monotonic one, counted from the start, at the last look.
static AHEAD: AtomicI64 = AtomicI64::new(0);

/// All of it so far, as of the last look.
pub(crate) fn total() -> Duration {
    Duration::from_millis(TOTAL.load(Relaxed))
}

/// Looks if the machine may have been suspended since the last look: the wall clock then counts what the monotonic one does
/// not. To be called before ages decide about a request. That reads two clocks, without a system call; only a look reads
/// the uptime, from the memory of the kernel.
pub(crate) fn look_after_jump() {
    if u128::from(ahead().abs_diff(AHEAD.load(Acquire))) > JUMP.as_millis() {
        look();
    }
}

fn ahead() -> i64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis);
    wall.cast_signed().saturating_sub_unsigned(millis(START.at.elapsed()))
}

/// To be called at the start, and once a second.
pub(crate) fn look() {
    // Before the uptime is read, so that a suspend in between makes another look due.
    let ahead = ahead();
    let suspended = START.suspended_until(Clocks::now());
    TOTAL.fetch_max(millis(suspended.max(clock_jumps::followed_ahead())), Relaxed);
    // Afterwards, so that a thread that sees no jump sees the total.
    AHEAD.store(ahead, Release);
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
