//! Calendar days of a time zone, as spans of the wall clock.
//!
//! Pure: computes with jiff's time zones. What always holds: a day contains the instant that it was computed for, and its
//! end is the first instant of the next day, also where clocks are put forward or back. Never fails.

use std::fmt;

use jiff::{Timestamp, ZonedDateTime, civil::Date, tz::TimeZone};

/// A calendar day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CalendarDay {
    /// Days since 1970-01-01, in the zone.
    pub date: i32,
    /// First millisecond since 1970 (UTC).
    pub starts: i64,
    /// First millisecond of the next day.
    pub ends: i64,
}

impl CalendarDay {
    /// A day that contains no instant.
    pub(super) const NEVER: CalendarDay = CalendarDay { date: i32::MIN, starts: 0, ends: 0 };

    /// The day that contains `millis` (since 1970, UTC) in `zone`.
    pub(super) fn at(millis: i64, zone: &TimeZone) -> Self {
        let at = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned_datetime(zone.clone());
        let since = at.date().duration_since(Date::constant(1970, 1, 1)).as_hours() / 24;
        let starts = at.start_of_day().map_or(millis, |start| start.timestamp().as_millisecond());
        // The millisecond of midnight belongs to the new day.
        let next = at.tomorrow().and_then(|next| next.start_of_day());
        let ends = next.map_or(i64::MAX, |next| next.timestamp().as_millisecond());
        CalendarDay { date: since as i32, starts: starts.min(millis), ends: ends.max(millis + 1) }
    }

    /// Whether `millis` is in it.
    pub fn contains(&self, millis: i64) -> bool {
        (self.starts..self.ends).contains(&millis)
    }

    /// Whole seconds from `millis` until it ends, rounded up, at least 1.
    pub(super) fn seconds_left(&self, millis: i64) -> u64 {
        self.ends.saturating_sub(millis).max(1).unsigned_abs().div_ceil(1000)
    }

    /// Start of the next day.
    pub(super) fn end(&self, zone: &TimeZone) -> LocalTime {
        LocalTime::of(self.ends, zone)
    }
}

/// An instant in the zone of a counter; displayed as `2026-11-25T00:00:00+07:00`.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalTime(ZonedDateTime);

impl LocalTime {
    /// The instant `millis` (since 1970, UTC) in `zone`; whole seconds, rounded up.
    pub(crate) fn of(millis: i64, zone: &TimeZone) -> Self {
        let second = millis.saturating_add(999).div_euclid(1000);
        LocalTime(Timestamp::from_second(second).unwrap_or(Timestamp::MAX).to_zoned_datetime(zone.clone()))
    }
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // jiff's own form appends the name of the zone, which few clients can parse.
        self.0.timestamp().display_with_offset(self.0.offset()).fmt(f)
    }
}
