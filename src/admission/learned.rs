//! What Fastrac's limit responses teach: a pause for the whole account, and a lower rate.
//!
//! A limit response (429, or a limit message) pauses the account until the time that it names, and halves its rate, once
//! for each pause: responses to requests that were sent before the rate fell say nothing new. The rate climbs back by a
//! tenth of the configured one each [`CLIMB_EVERY`] without a limit response.
//!
//! Pure: times are nanoseconds that only grow. Knows neither requests nor buckets. Never fails.

use std::time::Duration;

use super::tokens::FillRate;

/// All of the configured rate. A millionth is fine enough for rates of a million a second.
pub(super) const ALL: u32 = 1_000_000;
/// The rate never falls below this part of the configured one, or one a second if that is more.
const LEAST: u32 = ALL / 20;
/// How much the rate climbs at once.
const CLIMB: u32 = ALL / 10;
/// Time without a limit response after which the rate climbs, nanoseconds.
const CLIMB_EVERY: u64 = 10 * SECOND;
/// Pause after a limit response that names no time: what the caller of that response is told too.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause. Fastrac may say "tomorrow"; one request an hour finds out whether that is still true.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

const SECOND: u64 = 1_000_000_000;

#[derive(Debug)]
pub(super) struct Learned {
    /// Of [`ALL`].
    part: u32,
    paused_until: u64,
    /// When the rate fell last.
    fell_at: Option<u64>,
    climbs_at: u64,
}

impl Default for Learned {
    fn default() -> Self {
        Learned { part: ALL, paused_until: 0, fell_at: None, climbs_at: u64::MAX }
    }
}

impl Learned {
    /// A request that was sent at `sent` got a limit response, which names a time to wait or none. `configured`: how the
    /// bucket fills; `None` without a limit. Returns whether the rate fell.
    pub(super) fn throttled(&mut self, now: u64, sent: u64, wait: Option<Duration>) -> bool {
        let pause = wait.unwrap_or(PAUSE).min(LONGEST_PAUSE).as_nanos() as u64;
        self.paused_until = self.paused_until.max(now.saturating_add(pause));
        self.climbs_at = self.paused_until + CLIMB_EVERY;
        if self.fell_at.is_some_and(|fell| sent <= fell) {
            return false;
        }
        self.fell_at = Some(now);
        self.part = (self.part / 2).max(LEAST);
        true
    }

    /// What a process before this one had learned: a part of [`ALL`], and the end of a pause. Called at time 0.
    pub(super) fn restore(&mut self, part: u32, paused_until: u64) {
        let paused_until = paused_until.min(LONGEST_PAUSE.as_nanos() as u64);
        self.part = part.clamp(LEAST, ALL);
        self.paused_until = paused_until;
        self.climbs_at = if self.part == ALL { u64::MAX } else { paused_until + CLIMB_EVERY };
    }

    /// The part of the configured rate at present, of [`ALL`].
    pub(super) fn part(&self) -> u32 {
        self.part
    }

    /// Raises the rate if it is time. Returns whether it rose.
    pub(super) fn climb(&mut self, now: u64) -> bool {
        let before = self.part;
        while now >= self.climbs_at {
            self.part = (self.part + CLIMB).min(ALL);
            self.climbs_at = if self.part == ALL { u64::MAX } else { self.climbs_at + CLIMB_EVERY };
        }
        self.part != before
    }

    /// When the rate rises next, if there is no limit response until then; the end of time if it is not low.
    pub(super) fn climbs_at(&self) -> u64 {
        self.climbs_at
    }

    /// When the account's pause ends; in the past if there is none.
    pub(super) fn paused_until(&self) -> u64 {
        self.paused_until
    }

    /// How a bucket fills that would fill like `configured`: never less than one token a second. The burst falls with the
    /// rate, but holds `largest` tokens.
    pub(super) fn apply(&self, configured: FillRate, largest: u64) -> FillRate {
        if self.part == ALL {
            return configured;
        }
        let slower = (u128::from(configured.period) * u128::from(ALL)).div_ceil(u128::from(self.part)) as u64;
        let period = slower.min(SECOND).max(configured.period);
        let burst = configured.capacity / configured.period;
        let lower = (u128::from(burst) * u128::from(configured.period)).div_ceil(u128::from(period)) as u64;
        FillRate { period, capacity: period * lower.max(largest).min(burst) }
    }
}

/// What a part of the configured rate has climbed to after this time without a pause or a limit response.
pub(super) fn climbed(part: u32, time: Duration) -> u32 {
    let steps = u32::try_from(time.as_nanos() / u128::from(CLIMB_EVERY)).unwrap_or(u32::MAX);
    part.saturating_add(CLIMB.saturating_mul(steps)).clamp(LEAST, ALL)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIGURED: FillRate = FillRate { period: SECOND / 20, capacity: SECOND };

    fn per_second(learned: &Learned) -> u64 {
        // Periods are rounded up.
        (SECOND + 10) / learned.apply(CONFIGURED, 1).period
    }

    #[test]
    fn the_rate_falls_once_for_each_pause_and_climbs_back() {
        let mut learned = Learned::default();
        assert!(learned.throttled(SECOND, 0, Some(Duration::from_secs(5))));
        // Sent before the rate fell.
        assert!(!learned.throttled(SECOND + 1, SECOND / 2, None));
        assert_eq!((per_second(&learned), learned.paused_until()), (10, 6 * SECOND));
        assert!(learned.throttled(7 * SECOND, 6 * SECOND, None));
        assert_eq!((per_second(&learned), learned.paused_until()), (5, 8 * SECOND));
        assert!(!learned.climb(18 * SECOND - 1) && learned.climb(18 * SECOND));
        assert_eq!(per_second(&learned), 7);
        assert!(learned.climb(8 * SECOND + 80 * SECOND));
        assert_eq!(learned.apply(CONFIGURED, 1), CONFIGURED);
        assert!(!learned.climb(u64::MAX - 1));
    }

    #[test]
    fn the_rate_and_the_pause_have_bounds() {
        let mut learned = Learned::default();
        for second in 0..20 {
            learned.throttled(second * SECOND, second * SECOND, Some(Duration::MAX));
        }
        assert_eq!(learned.apply(CONFIGURED, 3), FillRate { period: SECOND, capacity: 3 * SECOND });
        let fast = FillRate { period: 1_000, capacity: 10_000 };
        assert_eq!(learned.apply(fast, 1).period, 20_000);
        assert_eq!(learned.paused_until(), (19 + 3600) * SECOND);
    }
}
