//! The wall clock, if it can be relied on for removing old files.
//!
//! A clock that jumps ahead by a month for a few seconds must not remove what is kept for a month. What always holds: a time
//! is given only if the wall clock has not jumped against the monotonic one for an hour, or has not jumped since the start
//! and was plausible then. Never fails.

use std::time::{Duration, Instant, SystemTime};

/// How long the clock must not have jumped.
const STEADY: Duration = Duration::from_secs(3600);

/// A larger difference is a jump.
const JUMP: Duration = Duration::from_secs(60);

/// Compares the wall clock with the monotonic one, each time that it is asked.
#[derive(Debug)]
pub(super) struct SteadyClock {
    wall: SystemTime,
    at: Instant,
    /// Since when there was no jump; `None`: since the start, and it was plausible.
    steady_since: Option<Instant>,
}

impl SteadyClock {
    /// A clock that starts now. `plausible`: nothing speaks against what the wall clock says.
    pub(super) fn start(plausible: bool) -> Self {
        let at = Instant::now();
        SteadyClock { wall: SystemTime::now(), at, steady_since: (!plausible).then_some(at) }
    }

    /// The time; `None` if it may be wrong.
    pub(super) fn now(&mut self) -> Option<SystemTime> {
        self.observe(SystemTime::now(), Instant::now())
    }

    fn observe(&mut self, wall: SystemTime, at: Instant) -> Option<SystemTime> {
        let expected = self.wall + at.saturating_duration_since(self.at);
        let difference = wall.duration_since(expected).unwrap_or_else(|before| before.duration());
        (self.wall, self.at) = (wall, at);
        if difference > JUMP {
            self.steady_since = Some(at);
        }
        self.steady_since.is_none_or(|since| at.saturating_duration_since(since) >= STEADY).then_some(wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumped_is_not_relied_on_for_an_hour() {
        let seconds = Duration::from_secs;
        let mut clock = SteadyClock::start(true);
        let (wall, at) = (clock.wall, clock.at);
        let month = seconds(31 * 86_400);
        assert!(clock.observe(wall + seconds(10), at + seconds(10)).is_some());
        assert_eq!(clock.observe(wall + month + seconds(11), at + seconds(11)), None);
        assert_eq!(clock.observe(wall + seconds(14), at + seconds(14)), None);
        assert_eq!(clock.observe(wall + seconds(3_613), at + seconds(3_613)), None);
        assert!(clock.observe(wall + seconds(3_614), at + seconds(3_614)).is_some());
        // The process slept through a week, and the monotonic clock knows it.
        assert!(clock.observe(wall + seconds(608_414), at + seconds(608_414)).is_some());
        assert_eq!(SteadyClock::start(false).now(), None);
    }
}
