//! The wall clock, if it can be relied on for removing old files.
//!
//! A clock that jumps ahead by a month for a few seconds must not remove what is kept for a month. What always holds: a time
//! is given only if the wall clock has not jumped against the monotonic one for an hour, or has not jumped since the start
//! and was plausible then. Never fails.

use std::time::{Duration, Instant, SystemTime};

use crate::clock_jumps::ClockJumps;

/// How long the clock must not have jumped.
const STEADY: Duration = Duration::from_secs(3600);

/// Compares the wall clock with the monotonic one, each time that it is asked.
#[derive(Debug)]
pub(super) struct SteadyClock {
    jumps: ClockJumps,
    /// Since when there was no jump; `None`: since the start, and it was plausible.
    steady_since: Option<Instant>,
}

impl SteadyClock {
    /// A clock that starts now. `plausible`: nothing speaks against what the wall clock says.
    pub(super) fn start(plausible: bool) -> Self {
        let jumps = ClockJumps::now();
        SteadyClock { jumps, steady_since: (!plausible).then_some(jumps.at) }
    }

    /// The time; `None` if it may be wrong.
    pub(super) fn now(&mut self) -> Option<SystemTime> {
        self.observe(ClockJumps::now())
    }

    fn observe(&mut self, now: ClockJumps) -> Option<SystemTime> {
        let ClockJumps { wall, at } = now;
        if self.jumps.look(now).is_some() {
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
        let ClockJumps { wall, at } = clock.jumps;
        let after = |by, elapsed| ClockJumps { wall: wall + by, at: at + elapsed };
        let month = seconds(31 * 86_400);
        assert!(clock.observe(after(seconds(10), seconds(10))).is_some());
        assert_eq!(clock.observe(after(month + seconds(11), seconds(11))), None);
        assert_eq!(clock.observe(after(seconds(14), seconds(14))), None);
        assert_eq!(clock.observe(after(seconds(3_613), seconds(3_613))), None);
        assert!(clock.observe(after(seconds(3_614), seconds(3_614))).is_some());
        // The process slept through a week, and the monotonic clock knows it.
        assert!(clock.observe(after(seconds(608_414), seconds(608_414))).is_some());
        assert_eq!(SteadyClock::start(false).now(), None);
    }
}
