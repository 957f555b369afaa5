//! The day ledger: what was used in one calendar day of one zone.
//!
//! What always holds: never more than the limit is reserved in a day; what is given back goes to the
//! day that it was taken from, or nowhere; the count starts again at midnight of the zone, also where
//! clocks are put forward or back. One atomic exchange a reservation; only the first call after
//! midnight takes a lock. A clock that is put back does not bring an old day back. It must not know
//! who reserves. It fails with [`DayExhausted`].

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

/// Bits of [`DayCounter::book`] that hold what was used; the bits above hold the day.
const USED_BITS: u32 = 44;
const USED_MASK: u64 = (1 << USED_BITS) - 1;
/// The limit of a ledger that only counts.
const UNLIMITED: u64 = USED_MASK;

/// What was used in a calendar day.
#[derive(Debug)]
pub(super) struct DayCounter {
    /// Day (since 1970, in the zone) and units used in it, in one word so that neither goes alone.
    book: AtomicU64,
    /// Milliseconds since 1970 at which the day ends.
    ends: AtomicI64,
    limit: AtomicU64,
    turning: Mutex<()>,
    zone: TimeZone,
    wall: WallClock,
}

/// When a day starts again; shown as `2026-11-25T00:00:00+07:00`.
#[derive(Clone, Debug, PartialEq)]
pub struct Midnight(ZonedDateTime);

impl fmt::Display for Midnight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // jiff's own form ends with the name of the zone, which few clients read.
        self.0.timestamp().display_with_offset(self.0.offset()).fmt(f)
    }
}

/// The day's units are used up, or not enough are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DayExhausted;

impl DayCounter {
    /// A ledger of today with nothing used. `None` counts without a limit.
    pub(super) fn new(limit: Option<u64>, zone: &TimeZone, wall: WallClock) -> Self {
        let ledger = Self {
            book: AtomicU64::new(0),
            ends: AtomicI64::new(i64::MIN),
            limit: AtomicU64::new(UNLIMITED),
            turning: Mutex::new(()),
            zone: zone.clone(),
            wall,
        };
        ledger.set_limit(limit);
        ledger.turn(wall.millis());
        ledger
    }

    /// Changes the limit; what was used stays used.
    pub(super) fn set_limit(&self, limit: Option<u64>) {
        self.limit.store(limit.map_or(UNLIMITED, |limit| limit.min(UNLIMITED)), Ordering::Relaxed);
    }

    /// Units a day; `None` is unlimited.
    pub(super) fn limit(&self) -> Option<u64> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| *limit != UNLIMITED)
    }

    /// Reserves `units` of today.
    ///
    /// # Errors
    /// [`DayExhausted`] when fewer are left; then nothing is taken.
    pub(super) fn reserve(self: &Arc<Self>, units: u32) -> Result<Reserved, DayExhausted> {
        self.reserve_after(units, || Ok(())).map_err(|_: Option<()>| DayExhausted)
    }

    /// Reserves `units` of today if they are there and `meanwhile` succeeds, which is not tried when
    /// they aren't. Reads the clock once.
    ///
    /// # Errors
    /// The error of `meanwhile`, or `None` when fewer units are left.
    pub(super) fn reserve_after<E>(
        self: &Arc<Self>,
        units: u32,
        meanwhile: impl FnOnce() -> Result<(), E>,
    ) -> Result<Reserved, Option<E>> {
        self.turn(self.wall.millis());
        let limit = self.limit.load(Ordering::Relaxed);
        let covers = |book: u64| (book & USED_MASK) + u64::from(units) <= limit;
        if !covers(self.book.load(Ordering::Acquire)) {
            return Err(None);
        }
        meanwhile().map_err(Some)?;
        let take = |book: u64| covers(book).then(|| book + u64::from(units));
        let before = self.book.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).map_err(|_| None)?;
        Ok(Reserved { ledger: self.clone(), day: before >> USED_BITS, units })
    }

    /// Whether `units` could be reserved at this moment.
    pub(super) fn covers(&self, units: u32) -> bool {
        self.used() + u64::from(units) <= self.limit.load(Ordering::Relaxed)
    }

    /// Units used today, those reserved and not yet settled included.
    pub(super) fn used(&self) -> u64 {
        self.look().0
    }

    /// Units used today, and whole seconds until the day ends, rounded up, at least 1.
    pub(super) fn look(&self) -> (u64, u64) {
        let now = self.wall.millis();
        self.turn(now);
        let left = self.ends.load(Ordering::Acquire).saturating_sub(now);
        (self.book.load(Ordering::Acquire) & USED_MASK, left.max(1).unsigned_abs().div_ceil(1000))
    }

    /// Whole seconds until the day ends, rounded up, at least 1.
    pub(super) fn ends_in(&self) -> u64 {
        self.look().1
    }

    /// When the day ends, in the ledger's zone.
    pub(super) fn ends_at(&self) -> Midnight {
        let at = Timestamp::from_millisecond(self.ends.load(Ordering::Acquire)).unwrap_or(Timestamp::MAX);
        Midnight(at.to_zoned_datetime(self.zone.clone()))
    }

    fn give_back(&self, day: u64, units: u32) {
        let _ = self.book.fetch_update(Ordering::AcqRel, Ordering::Acquire, |book| {
            (book >> USED_BITS == day).then(|| book - u64::from(units))
        });
    }

    /// Begins a new day if the old one is over.
    fn turn(&self, now: i64) {
        if now < self.ends.load(Ordering::Acquire) {
            return;
        }
        let _turning = self.turning.lock();
        if now < self.ends.load(Ordering::Acquire) {
            return;
        }
        let (day, ends) = day_of(now, &self.zone);
        // The book first: whoever sees the new end sees the new book.
        if day > self.book.load(Ordering::Acquire) >> USED_BITS {
            self.book.store(day << USED_BITS, Ordering::Release);
        }
        self.ends.store(ends, Ordering::Release);
    }
}

/// The day since 1970 that `millis` falls on in `zone`, and when it ends, in milliseconds.
fn day_of(millis: i64, zone: &TimeZone) -> (u64, i64) {
    let at = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned_datetime(zone.clone());
    let since = at.date().duration_since(jiff::civil::Date::constant(1970, 1, 1)).as_hours() / 24;
    let ends = at.tomorrow().and_then(|next| next.start_of_day()).map_or(i64::MAX, |next| {
        // The tick that midnight falls in belongs to the new day.
        next.timestamp().as_millisecond()
    });
    (since.max(0).unsigned_abs(), ends.max(millis + 1))
}

/// Units of a day, given back when dropped unless kept.
#[derive(Debug)]
#[must_use = "dropped, it gives back what was reserved"]
pub(super) struct Reserved {
    ledger: Arc<DayCounter>,
    day: u64,
    units: u32,
}

impl Reserved {
    /// What was reserved stays used.
    pub(super) fn keep(mut self) {
        self.units = 0;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.units > 0 {
            self.ledger.give_back(self.day, self.units);
        }
    }
}
