//! How far a day's limit is used, and when it will be used up at the pace of the last hour.
//!
//! Pure: it is told the time and the counts. Never fails.

use std::{collections::VecDeque, time::Duration};

/// Parts of a day's limit at whose use operators are warned, percent.
pub const WARNINGS: [u8; 3] = [50, 80, 95];

/// How often a sample is kept.
const SAMPLE_EVERY: Duration = Duration::from_secs(5 * 60);
/// Samples that are kept: one more than an hour has.
const SAMPLES: usize = 13;
/// A clock that is set by less is still in the same day.
const JUMP: u64 = 60;

/// The use of a limit of one calendar day, at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayUse {
    /// Units per day; `None` is unlimited.
    pub limit: Option<u64>,
    /// Units used.
    pub used: u64,
    /// Seconds until the day ends.
    pub ends_in: u64,
}

impl DayUse {
    /// The highest of [`WARNINGS`] that is reached; 0 if none is.
    pub fn warning(&self) -> u8 {
        let Some(limit) = self.limit else { return 0 };
        let reached = |percent: &u8| u128::from(self.used) * 100 >= u128::from(limit) * u128::from(*percent);
        WARNINGS.into_iter().rev().find(reached).unwrap_or(0)
    }

    fn left(&self) -> Option<u64> {
        self.limit.map(|limit| limit.saturating_sub(self.used))
    }
}

/// What was used in the last hour, or since the first observation.
#[derive(Debug, Default)]
pub struct UseHistory {
    /// The oldest first; about an hour of them.
    samples: VecDeque<Sample>,
    /// Units used since the first observation, over all days.
    total: u64,
    last: Option<Observation>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    total: u64,
}

#[derive(Clone, Copy, Debug)]
struct Observation {
    at: Duration,
    day: DayUse,
}

/// What has happened since the last observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DayProgress {
    /// Time has passed.
    SameDay,
    /// Another day has begun, with counts of its own.
    NewDay,
    /// The clock or the zone was changed, or this is the first observation: the counts may be of any day.
    Jumped,
}

impl UseHistory {
    /// Takes note of what is used at `at`, a monotonic time.
    pub fn observe(&mut self, at: Duration, day: DayUse) -> DayProgress {
        let progress = self.progress(at, day);
        let before = self.last.map_or(0, |last| last.day.used);
        self.total += match progress {
            DayProgress::SameDay => day.used.saturating_sub(before),
            DayProgress::NewDay => day.used,
            DayProgress::Jumped => 0,
        };
        self.last = Some(Observation { at, day });
        if self.samples.back().is_none_or(|sample| at.saturating_sub(sample.at) >= SAMPLE_EVERY) {
            self.samples.push_back(Sample { at, total: self.total });
            if self.samples.len() > SAMPLES {
                self.samples.pop_front();
            }
        }
        progress
    }

    fn progress(&self, at: Duration, day: DayUse) -> DayProgress {
        let Some(last) = self.last else { return DayProgress::Jumped };
        let passed = at.saturating_sub(last.at).as_secs();
        let expected = last.day.ends_in.saturating_sub(passed);
        if expected.abs_diff(day.ends_in) <= JUMP {
            return DayProgress::SameDay;
        }
        let is_over = last.day.ends_in <= passed + JUMP;
        if is_over && day.used < last.day.used { DayProgress::NewDay } else { DayProgress::Jumped }
    }

    /// How long what is left lasts at the pace of the last hour; zero if nothing is left. `None`: until the end of the
    /// day, or there is no limit.
    pub fn runs_out_in(&self) -> Option<Duration> {
        let Observation { at, day } = self.last?;
        let left = day.left()?;
        if left == 0 {
            return Some(Duration::ZERO);
        }
        let oldest = self.samples.front()?;
        let (used, time) = (self.total - oldest.total, at.saturating_sub(oldest.at).as_secs_f64().max(1.0));
        let seconds = left as f64 * time / used as f64;
        (used > 0 && seconds < day.ends_in as f64).then(|| Duration::from_secs_f64(seconds))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3600;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn day(limit: u64, used: u64, ends_in: u64) -> DayUse {
        DayUse { limit: Some(limit), used, ends_in }
    }

    #[test]
    fn a_warning_is_exact_to_the_unit() {
        for (limit, half, four_fifths, most) in [(100, 50, 80, 95), (101, 51, 81, 96), (1, 1, 1, 1), (7, 4, 6, 7)] {
            for used in 0..=limit {
                let expected = match used {
                    _ if used >= most => 95,
                    _ if used >= four_fifths => 80,
                    _ if used >= half => 50,
                    _ => 0,
                };
                assert_eq!(day(limit, used, 9).warning(), expected, "{used} of {limit}");
            }
        }
        assert_eq!(day(u64::MAX, u64::MAX / 2, 9).warning(), 0);
        assert_eq!(DayUse { limit: None, used: 9, ends_in: 9 }.warning(), 0);
    }

    #[test]
    fn the_pace_is_that_of_the_last_hour() {
        let mut history = UseHistory::default();
        assert_eq!(history.observe(at(0), day(10_000, 0, 20 * HOUR)), DayProgress::Jumped);
        // Two hours of one a second, then two of nothing but one in ten seconds.
        let mut used = 0;
        for second in 1..=4 * HOUR {
            used += if second <= 2 * HOUR { 1 } else { u64::from(second % 10 == 0) };
            assert_eq!(history.observe(at(second), day(10_000, used, 20 * HOUR - second)), DayProgress::SameDay);
        }
        let left = 10_000 - used;
        let runs_out = history.runs_out_in().unwrap().as_secs();
        assert!(runs_out.abs_diff(left * 10) <= left / 10, "{runs_out} s for {left} units");
    }

    #[test]
    fn what_lasts_until_midnight_does_not_run_out() {
        let mut history = UseHistory::default();
        history.observe(at(0), day(100, 0, 1000));
        history.observe(at(100), day(100, 10, 900));
        assert_eq!(history.runs_out_in(), None, "90 units last for exactly as long as the day");
        history.observe(at(100), day(100, 11, 900));
        assert_eq!(history.runs_out_in().map(|time| time.as_secs()), Some(809));
        history.observe(at(101), day(100, 100, 899));
        assert_eq!(history.runs_out_in(), Some(Duration::ZERO));
        history.observe(at(102), DayUse { limit: None, used: 200, ends_in: 898 });
        assert_eq!(history.runs_out_in(), None);
    }

    #[test]
    fn midnight_a_changed_zone_and_a_clock_that_jumps_are_no_use() {
        let mut history = UseHistory::default();
        history.observe(at(0), day(1000, 500, 10));
        assert_eq!(history.observe(at(10), day(1000, 0, 86_400)), DayProgress::NewDay);
        assert_eq!(history.observe(at(20), day(1000, 20, 86_390)), DayProgress::SameDay);
        // The zone, with the same count; then the clock, three days ahead and back.
        assert_eq!(history.observe(at(21), day(1000, 20, 3600)), DayProgress::Jumped);
        assert_eq!(history.observe(at(22), day(1000, 0, 40_000)), DayProgress::Jumped);
        assert_eq!(history.observe(at(23), day(1000, 20, 3598)), DayProgress::Jumped);
        assert_eq!(history.total, 20);
    }

    proptest! {
        /// At a constant pace the forecast is right to a second, whatever the hour.
        #[test]
        fn a_constant_pace_is_foreseen(pace in 1_u64..50, start in 0_u64..1000, ends_in in 2 * HOUR..20 * HOUR, hours in 1_u64..90) {
            let observed = hours * 60;
            let limit = start + pace * ends_in / 2;
            let mut history = UseHistory::default();
            for second in 0..=observed.min(ends_in / 4) {
                history.observe(at(second), day(limit, start + pace * second, ends_in - second));
            }
            let last = observed.min(ends_in / 4);
            let runs_out = history.runs_out_in().unwrap().as_secs_f64();
            let expected = (limit - start) as f64 / pace as f64 - last as f64;
            prop_assert!((runs_out - expected).abs() <= 1.0, "{} {}", runs_out, expected);
        }
    }
}
