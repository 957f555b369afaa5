//! The sandbox's time.
//!
//! What always holds: business times are Jakarta time (UTC+7, no summer time) as
//! `YYYY-MM-DD HH:MM:SS`; envelope times are UTC as `YYYY-MM-DDTHH:MM:SS.mmmZ`. Time runs with the
//! machine's clock, moved ahead by [`Clock::advance`], or stands at an instant and only moves when
//! told to, so that a test can let a tariff die without waiting.

use std::time::Duration;

use jiff::{Timestamp, civil::DateTime, tz};

/// Jakarta's offset from UTC in hours.
const JAKARTA: i8 = 7;

/// Where "now" comes from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    stands_at: Option<i64>,
    ahead: i64,
}

impl Clock {
    /// A clock that stands at `millis` (Unix time) until it is advanced.
    pub fn standing(millis: i64) -> Self {
        Clock { stands_at: Some(millis), ahead: 0 }
    }

    /// Unix time in milliseconds.
    pub fn now(&self) -> i64 {
        self.stands_at.unwrap_or_else(|| Timestamp::now().as_millisecond()).saturating_add(self.ahead)
    }

    /// Moves time ahead.
    pub fn advance(&mut self, by: Duration) {
        self.ahead = self.ahead.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX));
    }
}

/// The date and time in Jakarta at `millis`.
pub fn jakarta(millis: i64) -> DateTime {
    tz::offset(JAKARTA).to_datetime(Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX))
}

/// `2026-01-02 03:04:05`, in Jakarta.
pub fn business(millis: i64) -> String {
    jakarta(millis).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// `2026-01-02T03:04:05.678Z`.
pub fn envelope(millis: i64) -> String {
    let at = tz::Offset::UTC.to_datetime(Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX));
    let mut text = String::with_capacity(24);
    let parts = [
        (i64::from(at.year()), 4, '-'),
        (i64::from(at.month()), 2, '-'),
        (i64::from(at.day()), 2, 'T'),
        (i64::from(at.hour()), 2, ':'),
        (i64::from(at.minute()), 2, ':'),
        (i64::from(at.second()), 2, '.'),
        (i64::from(at.millisecond()), 3, 'Z'),
    ];
    for (number, width, after) in parts {
        for place in (0..width).rev() {
            text.push(char::from(b'0' + (number / 10_i64.pow(place) % 10) as u8));
        }
        text.push(after);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_those_of_the_api() {
        let at = 1_767_323_045_678;
        assert_eq!(envelope(at), "2026-01-02T03:04:05.678Z");
        assert_eq!(business(at), "2026-01-02 10:04:05");
    }

    #[test]
    fn a_standing_clock_moves_only_when_told() {
        let mut clock = Clock::standing(1_000);
        assert_eq!(clock.now(), 1_000);
        clock.advance(Duration::from_secs(300));
        assert_eq!(clock.now(), 301_000);
    }

    #[test]
    fn absurd_times_do_not_panic() {
        for at in [i64::MIN, i64::MAX] {
            let _ = (envelope(at), business(at));
        }
    }
}
