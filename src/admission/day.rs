//! The day counter: units used in one calendar day of one time zone.
//!
//! Always holds: never more than the limit is reserved in a day; a reservation is given back to the
//! day it was taken from, or not at all if that day is over; the count restarts at midnight of the
//! zone, also where clocks are put forward or back. A clock that is set back does not bring an
//! earlier day back. A reservation is one atomic exchange; only the first call after midnight takes a
//! lock. The counter does not know who reserves. It fails with [`DayExhausted`].

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use jiff::{Timestamp, ZonedDateTime, tz::TimeZone};
use parking_lot::Mutex;

use super::wall_clock::WallClock;

/// Low bits of [`DayCounter::count`] that hold the units used; the bits above hold the day.
const USED_BITS: u32 = 44;
const USED_MASK: u64 = (1 << USED_BITS) - 1;
/// The stored limit of a counter without one.
const UNLIMITED: u64 = USED_MASK;

#[derive(Debug)]
pub(super) struct DayCounter {
    /// Day (since 1970, in the zone) and units used in it, in one word so that both change together.
    count: AtomicU64,
    /// End of the day, milliseconds since 1970 (UTC).
    ends: AtomicI64,
    limit: AtomicU64,
    /// Locked while a new day begins.
    zone: Mutex<TimeZone>,
    clock: WallClock,
}

/// The current day of a counter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Today {
    /// Units used, reserved ones included.
    pub(super) used: u64,
    /// Whole seconds until the day ends, rounded up, at least 1.
    pub(super) ends_in: u64,
}

/// Start of a day; displayed as `2026-11-25T00:00:00+07:00`.
#[derive(Clone, Debug, PartialEq)]
pub struct Midnight(ZonedDateTime);

impl fmt::Display for Midnight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // jiff's own form appends the name of the zone, which few clients can parse.
        self.0.timestamp().display_with_offset(self.0.offset()).fmt(f)
    }
}

/// Fewer units are left of the day than requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DayExhausted;

impl DayCounter {
    /// A counter of today with nothing used. `None` counts without a limit.
    pub(super) fn new(limit: Option<u64>, zone: &TimeZone, clock: WallClock) -> Self {
        let counter = Self {
            count: AtomicU64::new(0),
            ends: AtomicI64::new(i64::MIN),
            limit: AtomicU64::new(UNLIMITED),
            zone: Mutex::new(zone.clone()),
            clock,
        };
        counter.set_limit(limit);
        counter.roll_over(clock.millis());
        counter
    }

    /// Changes the limit; the count stays.
    pub(super) fn set_limit(&self, limit: Option<u64>) {
        self.limit.store(limit.map_or(UNLIMITED, |limit| limit.min(UNLIMITED)), Ordering::Relaxed);
    }

    /// Changes the zone in which days begin; what was used counts until the next midnight there.
    pub(super) fn set_zone(&self, zone: &TimeZone) {
        let mut known = self.zone.lock();
        if *known == *zone {
            return;
        }
        known.clone_from(zone);
        let (day, ends) = day_of(self.clock.millis(), zone);
        let move_to = |count: u64| Some(day << USED_BITS | count & USED_MASK);
        let _ = self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, move_to);
        self.ends.store(ends, Ordering::Release);
    }

    /// Units per day; `None` is unlimited.
    pub(super) fn limit(&self) -> Option<u64> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| *limit != UNLIMITED)
    }

    /// Reserves `units` of today.
    ///
    /// # Errors
    /// [`DayExhausted`] when fewer are left; nothing is taken then.
    pub(super) fn reserve(self: &Arc<Self>, units: u32) -> Result<DayReservation, DayExhausted> {
        self.roll_over(self.clock.millis());
        let limit = self.limit.load(Ordering::Relaxed);
        let take = |count: u64| ((count & USED_MASK) + u64::from(units) <= limit).then(|| count + u64::from(units));
        let before = self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).map_err(|_| DayExhausted)?;
        Ok(DayReservation { counter: self.clone(), day: before >> USED_BITS, units })
    }

    /// Whether `units` could be reserved now.
    pub(super) fn has(&self, units: u32) -> bool {
        self.today().used + u64::from(units) <= self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn today(&self) -> Today {
        let now = self.clock.millis();
        self.roll_over(now);
        let left = self.ends.load(Ordering::Acquire).saturating_sub(now);
        Today {
            used: self.count.load(Ordering::Acquire) & USED_MASK,
            ends_in: left.max(1).unsigned_abs().div_ceil(1000),
        }
    }

    /// End of the day, in the counter's zone.
    pub(super) fn ends_at(&self) -> Midnight {
        let at = Timestamp::from_millisecond(self.ends.load(Ordering::Acquire)).unwrap_or(Timestamp::MAX);
        Midnight(at.to_zoned_datetime(self.zone.lock().clone()))
    }

    fn give_back(&self, day: u64, units: u32) {
        let _ = self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
            (count >> USED_BITS == day).then(|| count - u64::from(units))
        });
    }

    /// Starts a new day if the current one is over.
    fn roll_over(&self, now: i64) {
        if now < self.ends.load(Ordering::Acquire) {
            return;
        }
        let zone = self.zone.lock();
        if now < self.ends.load(Ordering::Acquire) {
            return;
        }
        let (day, ends) = day_of(now, &zone);
        // The count first: a thread that sees the new end also sees the new count.
        if day > self.count.load(Ordering::Acquire) >> USED_BITS {
            self.count.store(day << USED_BITS, Ordering::Release);
        }
        self.ends.store(ends, Ordering::Release);
    }
}

/// The day (since 1970) that contains `millis` in `zone`, and its end in milliseconds.
fn day_of(millis: i64, zone: &TimeZone) -> (u64, i64) {
    let at = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned_datetime(zone.clone());
    let since = at.date().duration_since(jiff::civil::Date::constant(1970, 1, 1)).as_hours() / 24;
    let ends = at.tomorrow().and_then(|next| next.start_of_day()).map_or(i64::MAX, |next| {
        // The millisecond of midnight belongs to the new day.
        next.timestamp().as_millisecond()
    });
    (since.max(0).unsigned_abs(), ends.max(millis + 1))
}

/// Units reserved of a day; given back when dropped unless kept.
#[derive(Debug)]
#[must_use = "dropping it gives back what was reserved"]
pub(super) struct DayReservation {
    counter: Arc<DayCounter>,
    day: u64,
    units: u32,
}

impl DayReservation {
    /// Counts the units as used.
    pub(super) fn keep(mut self) {
        self.units = 0;
    }
}

impl Drop for DayReservation {
    fn drop(&mut self) {
        if self.units > 0 {
            self.counter.give_back(self.day, self.units);
        }
    }
}
