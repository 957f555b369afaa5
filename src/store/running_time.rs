//! The time in which this process ran, to measure what has to be done meanwhile: how long a disk takes to respond.
//!
//! After a pause of the process (SIGSTOP, a frozen container) the monotonic clock has gone on, but nothing that the process
//! waits for could be taken. What always holds: this clock never goes back, goes as the monotonic one does while the process
//! runs, and counts each pause as [`LONGEST_STEP`] at most. A thread of its own advances it. Must not know what is measured.
//! Never fails: if there is no thread for it, pauses count.

use std::{
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// How often the clock is advanced.
const TICK: Duration = Duration::from_millis(250);

/// What it is advanced by at most. More than [`TICK`], so that a busy machine does not slow it down.
const LONGEST_STEP: Duration = Duration::from_millis(500);

static CLOCK: LazyLock<Mutex<RunningClock>> = LazyLock::new(|| {
    let advance = || {
        loop {
            thread::sleep(TICK);
            CLOCK.lock().advance(Instant::now());
        }
    };
    let ticks = thread::Builder::new().name("running-time".to_owned()).spawn(advance).is_ok();
    let longest_step = if ticks { LONGEST_STEP } else { Duration::MAX };
    Mutex::new(RunningClock { ran: Duration::ZERO, advanced: Instant::now(), longest_step })
});

/// A point in the time in which this process ran.
#[derive(Clone, Copy, Debug)]
pub struct RunningInstant(Duration);

impl RunningInstant {
    pub fn now() -> Self {
        let clock = CLOCK.lock();
        RunningInstant(clock.at(Instant::now()))
    }

    /// How long the process has run since then.
    pub fn elapsed(self) -> Duration {
        RunningInstant::now().0.saturating_sub(self.0)
    }
}

#[derive(Debug)]
struct RunningClock {
    /// What it showed at `advanced`.
    ran: Duration,
    advanced: Instant,
    longest_step: Duration,
}

impl RunningClock {
    fn at(&self, now: Instant) -> Duration {
        self.ran + now.saturating_duration_since(self.advanced).min(self.longest_step)
    }

    fn advance(&mut self, now: Instant) {
        (self.ran, self.advanced) = (self.at(now), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_counts_as_one_step() {
        let began = Instant::now();
        let mut clock = RunningClock { ran: Duration::ZERO, advanced: began, longest_step: LONGEST_STEP };
        for tick in 1..=8 {
            clock.advance(began + TICK * tick);
        }
        assert_eq!(clock.at(began + TICK * 8 + TICK / 2), TICK * 8 + TICK / 2);
        let after = began + TICK * 8 + Duration::from_hours(1);
        // Asked before it is advanced, and after.
        assert_eq!(clock.at(after), TICK * 8 + LONGEST_STEP);
        clock.advance(after);
        assert_eq!(clock.at(after), TICK * 8 + LONGEST_STEP);
        assert_eq!(clock.at(after + TICK), TICK * 9 + LONGEST_STEP);
    }

    #[test]
    fn it_goes_on_by_itself() {
        let began = RunningInstant::now();
        while began.elapsed() <= 2 * LONGEST_STEP {
            thread::sleep(TICK);
        }
    }
}
