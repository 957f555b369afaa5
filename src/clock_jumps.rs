//! Finds jumps of the wall clock against the monotonic one, and knows a time that does not follow them at once.
//!
//! Slow corrections and pauses of the process are none. Never fails.

use std::{
    sync::LazyLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

/// A larger difference between two looks is a jump.
const JUMP: Duration = Duration::from_secs(60);

/// How long a jump must last until it counts as a correction.
const SETTLED: Duration = Duration::from_secs(600);

/// Of the process.
static CLOCK: LazyLock<Mutex<SettledClock>> = LazyLock::new(|| Mutex::new(SettledClock::start(ClockJumps::now())));

/// The wall time, for what a momentary jump must neither end nor prolong: it follows a jump of more than a minute ten
/// minutes late, and not at all if the clock has come back by then.
pub(crate) fn settled_time() -> SystemTime {
    CLOCK.lock().look(ClockJumps::now())
}

/// The sum of all jumps ahead that were followed.
pub(crate) fn followed_ahead() -> Duration {
    CLOCK.lock().followed_ahead
}

/// What the clocks show now, according to a process before this one: a wall clock that is further off has jumped.
pub(crate) fn expect(clocks: ClockJumps) {
    *CLOCK.lock() = SettledClock::start(clocks);
}

/// By how much the wall clock, in milliseconds since 1970, is ahead of `uptime`; `None` while a jump is not followed yet.
pub(crate) fn agreed_offset(uptime: Option<Duration>) -> Option<i64> {
    let (now, uptime) = (ClockJumps::now(), uptime?);
    let mut clock = CLOCK.lock();
    clock.look(now);
    let wall = now.wall.duration_since(UNIX_EPOCH).ok().filter(|_| clock.jumped.is_none())?;
    Some(i64::try_from(wall.as_millis()).ok()? - i64::try_from(uptime.as_millis()).ok()?)
}

/// Both clocks at the last look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClockJumps {
    pub(crate) wall: SystemTime,
    pub(crate) at: Instant,
}

/// By how far the wall clock has jumped, in whole seconds; negative: back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClockJump(pub(crate) i64);

impl ClockJumps {
    pub(crate) fn now() -> Self {
        ClockJumps { wall: SystemTime::now(), at: Instant::now() }
    }

    /// The jump since the last look, if there was one.
    pub(crate) fn look(&mut self, now: ClockJumps) -> Option<ClockJump> {
        let expected = self.wall + now.at.saturating_duration_since(self.at);
        *self = now;
        let (ahead, difference) = match now.wall.duration_since(expected) {
            Ok(ahead) => (1, ahead),
            Err(behind) => (-1, behind.duration()),
        };
        (difference > JUMP).then(|| ClockJump(ahead * i64::try_from(difference.as_secs()).unwrap_or(i64::MAX)))
    }
}

/// The wall clock without its momentary jumps.
#[derive(Debug)]
struct SettledClock {
    /// The clocks when they last agreed.
    agreed: ClockJumps,
    /// The clocks after the jump that is not followed yet, if there is one.
    jumped: Option<ClockJumps>,
    followed_ahead: Duration,
}

impl SettledClock {
    fn start(now: ClockJumps) -> Self {
        SettledClock { agreed: now, jumped: None, followed_ahead: Duration::ZERO }
    }

    fn look(&mut self, now: ClockJumps) -> SystemTime {
        let expected = self.agreed.wall + now.at.saturating_duration_since(self.agreed.at);
        if { self.agreed }.look(now).is_none() {
            (self.agreed, self.jumped) = (now, None);
            return now.wall;
        }
        // Another jump begins the wait anew.
        let jumped = self.jumped.filter(|jumped| { *jumped }.look(now).is_none()).unwrap_or(now);
        self.jumped = Some(jumped);
        if now.at.saturating_duration_since(jumped.at) < SETTLED {
            return expected;
        }
        let ahead = now.wall.duration_since(expected).unwrap_or_default();
        *self = SettledClock { agreed: now, jumped: None, followed_ahead: self.followed_ahead + ahead };
        now.wall
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_followed_only_if_it_lasts() {
        let start = ClockJumps { wall: SystemTime::now(), at: Instant::now() };
        let mut clock = SettledClock::start(start);
        // Seconds that the wall clock is off, and seconds since the start.
        let mut shows = |off: i64, at: u64| {
            let by = Duration::from_secs(off.unsigned_abs());
            let wall = start.wall + Duration::from_secs(at);
            let wall = if off < 0 { wall - by } else { wall + by };
            let shown = clock.look(ClockJumps { wall, at: start.at + Duration::from_secs(at) });
            let right = start.wall + Duration::from_secs(at);
            shown.duration_since(right).map_or_else(|late| -late.duration().as_secs_f64(), |early| early.as_secs_f64())
        };
        let (hour, decade) = (3_600, 315_360_000);
        assert_eq!(shows(0, 10), 0.0);
        assert_eq!(shows(decade, 20), 0.0);
        assert_eq!(shows(decade, 619), 0.0);
        assert_eq!(shows(0, 620), 0.0);
        // Slow corrections are followed; each jump waits anew.
        assert_eq!(shows(-30, 700), -30.0);
        assert_eq!(shows(0, 800), 0.0);
        assert_eq!(shows(-hour, 900), 0.0);
        assert_eq!(shows(2 * hour, 1_499), 0.0);
        assert_eq!(shows(2 * hour, 2_098), 0.0);
        assert_eq!(shows(2 * hour, 2_099), 7_200.0);
        assert_eq!(shows(2 * hour, 2_200), 7_200.0);
        // It was corrected: the old time applies again, as late.
        assert_eq!(shows(0, 3_000), 7_200.0);
        assert_eq!(shows(0, 3_600), 0.0);
        assert_eq!(clock.followed_ahead, Duration::from_secs(7_200), "once, and never less");
    }
}
