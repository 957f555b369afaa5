//! The sandbox's time.
//!
//! It follows the machine's clock, runs faster by a factor, or is stepped: it moves only when told to. With a stepped
//! clock the same requests and steps give the same responses to the byte.
//!
//! What always holds: local times are Jakarta time (UTC+7, no daylight saving time) as `YYYY-MM-DD HH:MM:SS`; UTC
//! times are `YYYY-MM-DDTHH:MM:SS.mmmZ`. Time never goes back, unless the machine's clock does.

use std::time::Duration;

use jiff::{Timestamp, civil::Date, civil::DateTime, tz};

/// Jakarta's offset from UTC in hours.
const JAKARTA: i8 = 7;

/// Start of a stepped clock unless configured, Unix milliseconds: 2026-01-01 08:00:00 in Jakarta.
pub(crate) const STEPPED_START: i64 = 1_767_229_200_000;

/// How time passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As fast as the machine's clock.
    Real,
    /// Faster by a factor above 0 and at most 1,000,000.
    Accelerated(f64),
    /// Only by [`Clock::advance`] or the control address.
    Stepped,
}

/// The sandbox's clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pace: Pace,
    /// The machine's time when the pace was set, Unix milliseconds.
    since: i64,
    /// The sandbox's time at that moment, plus everything it was advanced by since, Unix milliseconds.
    from: i64,
}

impl Default for Clock {
    /// Real time.
    fn default() -> Self {
        let now = machine();
        Clock { pace: Pace::Real, since: now, from: now }
    }
}

fn machine() -> i64 {
    Timestamp::now().as_millisecond()
}

impl Clock {
    /// A stepped clock at `millis` (Unix time).
    pub fn stepped_at(millis: i64) -> Self {
        Clock { pace: Pace::Stepped, since: 0, from: millis }
    }

    /// A clock of this pace that starts at `millis` (Unix time).
    pub fn starting(pace: Pace, millis: i64) -> Self {
        Clock { pace, since: machine(), from: millis }
    }

    /// The current time, Unix milliseconds.
    pub fn now(&self) -> i64 {
        let passed = match self.pace {
            Pace::Stepped => 0,
            Pace::Real => machine().saturating_sub(self.since),
            // Casts saturate.
            Pace::Accelerated(factor) => (machine().saturating_sub(self.since) as f64 * factor) as i64,
        };
        self.from.saturating_add(passed)
    }

    /// Moves the clock forward.
    pub fn advance(&mut self, by: Duration) {
        self.from = self.from.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX));
    }

    /// Moves the clock forward to a time; does nothing if that time has passed.
    pub fn advance_to(&mut self, millis: i64) {
        let missing = millis.saturating_sub(self.now()).max(0);
        self.from = self.from.saturating_add(missing);
    }

    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// Continues from now at another pace.
    pub fn set_pace(&mut self, pace: Pace) {
        *self = Clock { pace, since: machine(), from: self.now() };
    }

    /// How long it takes, on the machine's clock, until a time is reached; `None` on a stepped clock, unless it has
    /// passed.
    pub fn time_until(&self, millis: i64) -> Option<Duration> {
        let left = millis.saturating_sub(self.now()).max(0) as u64;
        match self.pace {
            _ if left == 0 => Some(Duration::ZERO),
            Pace::Stepped => None,
            Pace::Real => Some(Duration::from_millis(left)),
            // Rounded up to a millisecond, so that the time has been reached afterwards.
            Pace::Accelerated(factor) => Some(Duration::from_millis((left as f64 / factor) as u64 + 1)),
        }
    }
}

/// The date and time in Jakarta at `millis`.
pub(crate) fn jakarta(millis: i64) -> DateTime {
    tz::offset(JAKARTA).to_datetime(Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX))
}

/// The day in Jakarta, counted from 1970-01-01, and the milliseconds until it ends.
pub(crate) fn day(millis: i64) -> (i64, i64) {
    const HOUR: i64 = 3_600_000;
    let local = millis.saturating_add(i64::from(JAKARTA) * HOUR);
    (local.div_euclid(24 * HOUR), 24 * HOUR - local.rem_euclid(24 * HOUR))
}

/// The beginning of a day in Jakarta, Unix milliseconds.
pub(crate) fn midnight(day: Date) -> i64 {
    tz::offset(JAKARTA)
        .to_timestamp(day.to_datetime(jiff::civil::Time::midnight()))
        .map_or(i64::MAX, Timestamp::as_millisecond)
}

/// `2026-01-02 03:04:05`, in Jakarta.
pub(crate) fn local(millis: i64) -> String {
    let at = jakarta(millis);
    let mut text = String::with_capacity(19);
    digits(&mut text, i64::from(at.year()), 4, '-');
    digits(&mut text, i64::from(at.month()), 2, '-');
    digits(&mut text, i64::from(at.day()), 2, ' ');
    digits(&mut text, i64::from(at.hour()), 2, ':');
    digits(&mut text, i64::from(at.minute()), 2, ':');
    digits(&mut text, i64::from(at.second()), 2, ' ');
    text.pop();
    text
}

/// `2026-01-02T03:04:05.678Z`.
pub(crate) fn utc(millis: i64) -> String {
    let at = tz::Offset::UTC.to_datetime(Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX));
    let mut text = String::with_capacity(24);
    digits(&mut text, i64::from(at.year()), 4, '-');
    digits(&mut text, i64::from(at.month()), 2, '-');
    digits(&mut text, i64::from(at.day()), 2, 'T');
    digits(&mut text, i64::from(at.hour()), 2, ':');
    digits(&mut text, i64::from(at.minute()), 2, ':');
    digits(&mut text, i64::from(at.second()), 2, '.');
    digits(&mut text, i64::from(at.millisecond()), 3, 'Z');
    text
}

fn digits(text: &mut String, number: i64, width: u32, after: char) {
    for place in (0..width).rev() {
        text.push(char::from(b'0' + (number / 10_i64.pow(place) % 10).unsigned_abs() as u8));
    }
    text.push(after);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_those_of_the_api() {
        let at = 1_767_323_045_678;
        assert_eq!(utc(at), "2026-01-02T03:04:05.678Z");
        assert_eq!(local(at), "2026-01-02 10:04:05");
    }

    #[test]
    fn a_standing_clock_moves_only_when_told() {
        let mut clock = Clock::stepped_at(1_000);
        assert_eq!(clock.now(), 1_000);
        clock.advance(Duration::from_secs(300));
        assert_eq!(clock.now(), 301_000);
    }

    #[test]
    fn a_change_of_pace_goes_on_from_now() {
        let mut clock = Clock::stepped_at(5_000);
        clock.set_pace(Pace::Accelerated(1e6));
        assert!(clock.now() >= 5_000 && clock.time_until(i64::MAX / 2).is_some());
        clock.set_pace(Pace::Stepped);
        let stood = clock.now();
        assert_eq!((clock.time_until(stood + 1), clock.time_until(stood)), (None, Some(Duration::ZERO)));
        clock.advance_to(stood - 1);
        assert_eq!(clock.now(), stood);
        clock.advance_to(stood + 7);
        assert_eq!(clock.now(), stood + 7);
    }

    #[test]
    fn a_faster_clock_runs_faster_and_says_how_long_to_wait() {
        let mut clock = Clock::stepped_at(0);
        clock.set_pace(Pace::Accelerated(1_000.0));
        let wait = clock.time_until(60_000_000).unwrap();
        assert!(wait <= Duration::from_millis(60_001) && wait > Duration::from_secs(50), "{wait:?}");
        while clock.now() < 1_000 {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn a_day_begins_at_midnight_in_jakarta() {
        assert_eq!(local(midnight(jiff::civil::date(2026, 1, 2))), "2026-01-02 00:00:00");
        assert_eq!(local(STEPPED_START), "2026-01-01 08:00:00");
    }

    #[test]
    fn absurd_times_do_not_panic() {
        for at in [i64::MIN, i64::MAX] {
            let _ = (utc(at), local(at));
        }
    }
}
