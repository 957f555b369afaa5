//! The day counter: units used in one calendar day of one time zone.
//!
//! Units are reserved, then recorded, then sent; a [`DayReservation`] that is dropped unsent gives them back to the day that
//! they were taken from. With a ledger, units are reserved up to a lease and recorded up to a mark that outlives the process
//! (`lease`), so that a restart grants no unit twice.
//!
//! What always holds: never more than the limit is reserved in a day. Each date has a row of its own, and the clock decides
//! at each call which one is current: a clock that jumps ahead and back finds the count again. A change of the zone keeps
//! the count. A mark is at most 0.25 % of the limit above what is recorded, and no unit is recorded above it. A take is one lock, never
//! held across an await. Who needs units that are not granted yet waits in a line, as long as the ledger answers; while it
//! fails or does not answer, they are refused at once. The counter does not know who reserves, nor where its marks are kept.
//! It fails with [`DayShortage`] and [`Unrecorded`].

#[cfg(test)]
mod tests;

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use jiff::tz::TimeZone;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    bucket_start::BucketMark,
    calendar_day::{CalendarDay, LocalTime},
    day_row::{DayLimit, DayRow, DayRows},
    day_share::DayView,
    lease::{CounterContext, CounterId, Grant, LeaseHolder, LeaseRequest, LeaseTarget, Level},
    lease_line::{LeaseLines, LinePlace},
    outlook::DayUse,
    wall_clock::WallClock,
};
use crate::deadline;

/// A ledger that has not answered for so long is stalled, and nothing waits for it.
const LEDGER_WAIT: Duration = Duration::from_secs(1);

/// How long before the end of a day the next one is prepared.
const PREPARE: Duration = Duration::from_secs(120);

/// Units used today, and how many may be.
#[derive(Debug)]
pub struct DayCounter {
    context: CounterContext,
    state: Mutex<CounterState>,
}

#[derive(Debug)]
struct CounterState {
    limit: DayLimit,
    zone: TimeZone,
    rows: DayRows,
    /// Number of the last value requested of the ledger.
    requests: u64,
    /// Woken by any grant.
    wakers: Vec<Waker>,
    lines: LeaseLines,
    /// No units are reserved or recorded any more: the process ends.
    closed: bool,
}

/// The current day of a counter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Today {
    /// Units used, reserved ones included.
    pub(super) used: u64,
    /// Whole seconds until the day ends, rounded up, at least 1.
    pub(super) ends_in: u64,
}

/// Why no units were reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DayShortage {
    /// Fewer are left of the day.
    Exhausted,
    /// They are left, but the ledger has not granted them yet. Helps: [`DayCounter::wake_when_granted`], then another try.
    NotLeased,
    /// They are left, but the ledger grants nothing at present: it fails, or does not answer.
    Stalled,
}

/// The ledger has not granted the units in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the day's count cannot be stored at the moment")]
pub struct Unrecorded;

/// What was used of a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayCount {
    pub day: CalendarDay,
    pub used: u64,
}

/// What was used at the end of the process.
#[derive(Debug, Default)]
pub struct LastCounts {
    pub days: Vec<(CounterId, DayCount)>,
    pub buckets: Vec<(CounterId, BucketMark)>,
}

impl DayCounter {
    /// A counter with the days that its ledger knows. It asks for the first lease of today, and of tomorrow if that is
    /// near. `None` counts without a limit.
    pub(super) fn new(limit: impl Into<DayLimit>, zone: &TimeZone, context: impl Into<CounterContext>) -> Arc<Self> {
        let context = context.into();
        let restored = context.ledger.as_ref().map(|ledger| ledger.restore(&context.id));
        let rows = DayRows::new(restored, context.clock.millis(), zone);
        let state = CounterState {
            limit: limit.into(),
            zone: zone.clone(),
            rows,
            requests: 0,
            wakers: Vec::new(),
            lines: LeaseLines::default(),
            closed: false,
        };
        let counter = Arc::new(Self { context, state: Mutex::new(state) });
        counter.prepare_tomorrow();
        counter
    }

    /// Whose units it counts.
    pub fn id(&self) -> &CounterId {
        &self.context.id
    }

    /// Changes the limit; the count stays.
    pub(super) fn set_limit(self: &Arc<Self>, limit: impl Into<DayLimit>) {
        let limit = limit.into();
        self.change(|state| {
            if std::mem::replace(&mut state.limit, limit) == limit {
                return;
            }
            for row in state.rows.all_mut() {
                (row.changed, row.lower) = (true, true);
            }
        });
    }

    /// Changes the zone in which days begin; what was used counts until the next midnight there.
    pub(super) fn set_zone(self: &Arc<Self>, zone: &TimeZone) {
        self.change(|state| {
            if state.zone != *zone {
                let now = self.context.clock.millis();
                state.rows.current(now, &state.zone);
                state.zone.clone_from(zone);
                state.rows.change_zone(CalendarDay::at(now, zone));
            }
        });
    }

    /// Units per day; `None` is unlimited.
    pub(super) fn limit(&self) -> Option<u64> {
        self.state.lock().limit.units
    }

    /// Reserves `units` of today.
    ///
    /// # Errors
    /// [`DayShortage`]; nothing is taken then.
    pub(super) fn reserve(self: &Arc<Self>, units: u32) -> Result<DayReservation, DayShortage> {
        self.reserve_at(self.millis(), units)
    }

    /// The present time of its clock.
    pub(super) fn millis(&self) -> i64 {
        self.context.clock.millis()
    }

    /// The same at `now`, the present time.
    pub(super) fn reserve_at(self: &Arc<Self>, now: i64, units: u32) -> Result<DayReservation, DayShortage> {
        let needed = u64::from(units);
        let (row, date, limited) = self.change(|state| {
            let (limit, closed) = (state.limit.units, state.closed);
            let row = state.rows.current(now, &state.zone);
            if limit.is_some_and(|limit| row.used() + needed > limit) {
                return Err(DayShortage::Exhausted);
            }
            row.changed = true;
            if closed {
                return Err(DayShortage::Stalled);
            }
            if limit.is_some() {
                self.check_lease(row, needed)?;
            }
            row.reserved += needed;
            row.is_active = true;
            Ok((row.number, row.day.date, limit.is_some()))
        })?;
        Ok(DayReservation { counter: self.clone(), row, date, units, limited, recorded: false })
    }

    /// Checks that the ledger lets `units` more be reserved. Not if they could not be recorded for now.
    fn check_lease(&self, row: &mut DayRow, units: u64) -> Result<(), DayShortage> {
        let needed = row.used() + units;
        if needed > row.lease.units {
            row.needs_lease = units;
            return Err(if self.is_stalled(row, Level::Lease) { DayShortage::Stalled } else { DayShortage::NotLeased });
        }
        if needed > row.mark.units && self.is_stalled(row, Level::Mark) {
            return Err(DayShortage::Stalled);
        }
        Ok(())
    }

    /// Whether the ledger grants nothing of a level at present.
    fn is_stalled(&self, row: &DayRow, level: Level) -> bool {
        let ledger = self.context.ledger.as_ref();
        row.level(level).is_stalled(LEDGER_WAIT) || ledger.is_some_and(|ledger| ledger.is_failing(level))
    }

    /// Reserves units as [`Self::reserve`] does, but waits for the ledger, at most until `until`.
    ///
    /// # Errors
    /// [`DayShortage`]; [`DayShortage::NotLeased`] if the ledger has not granted the units by then.
    pub(super) async fn reserve_by(
        self: &Arc<Self>,
        units: u32,
        until: Instant,
    ) -> Result<DayReservation, DayShortage> {
        match self.reserve(units) {
            Err(DayShortage::NotLeased) => {}
            decided => return decided,
        }
        // On the heap: it is rare.
        let wait = Box::pin(self.wait(Level::Lease, until, || match self.reserve(units) {
            Err(DayShortage::NotLeased) => None,
            decided => Some(decided),
        }));
        wait.await.unwrap_or(Err(DayShortage::NotLeased))
    }

    /// Tries until it is decided: when those that came before have left, and after each grant. `None`: not in time.
    async fn wait<T>(
        self: &Arc<Self>,
        level: Level,
        until: Instant,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let waiter = LeaseWaiter { counter: self, place: self.state.lock().lines.enter(level) };
        let mut is_overdue = false;
        loop {
            let tried = poll_fn(|context| {
                // First, so that no grant is missed.
                if waiter.is_first(context.waker()) || is_overdue {
                    attempt().map_or(Poll::Pending, Poll::Ready)
                } else {
                    Poll::Pending
                }
            });
            // From time to time nobody has to be first, so that each finds out when the ledger has stalled.
            match deadline::until(until.min(Instant::now() + LEDGER_WAIT), tried).await {
                Some(decided) => return Some(decided),
                None if Instant::now() >= until => return None,
                None => is_overdue = true,
            }
        }
    }

    /// Wakes once when the ledger has granted something; it may wake for nothing. To be called before another
    /// [`Self::reserve`], which may find the units granted meanwhile.
    pub(super) fn wake_when_granted(&self, waker: &Waker) {
        let mut state = self.state.lock();
        if !state.wakers.iter().any(|known| known.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
    }

    /// Counts at least so many units as used today, even beyond the limit. [`Self::is_leased`] says when that is recorded.
    /// Returns how many were used before.
    pub fn raise_to(self: &Arc<Self>, units: u64) -> u64 {
        self.change(|state| {
            let row = state.today(&self.context.clock);
            let before = row.used();
            row.recorded += units.saturating_sub(before);
            (row.changed, row.is_active) = (true, true);
            before
        })
    }

    /// Whether `units` are left today.
    pub(super) fn has(&self, units: u32) -> bool {
        self.look(|row, _, limit| limit.is_none_or(|limit| row.used() + u64::from(units) <= limit))
    }

    /// The day at this instant.
    pub(super) fn view(&self) -> DayView {
        self.look(|row, now, limit| {
            let CalendarDay { date, starts, ends } = row.day;
            DayView { date, starts, ends, now, used: row.used(), limit }
        })
    }

    /// Looks at the current row, with the time in milliseconds and the limit.
    fn look<T>(&self, look: impl FnOnce(&DayRow, i64, Option<u64>) -> T) -> T {
        let mut state = self.state.lock();
        let CounterState { limit, zone, rows, .. } = &mut *state;
        let now = self.context.clock.millis();
        look(rows.current(now, zone), now, limit.units)
    }

    /// An instant (milliseconds since 1970) in the counter's zone.
    pub(super) fn local(&self, millis: i64) -> LocalTime {
        LocalTime::of(millis, &self.state.lock().zone)
    }

    pub(super) fn today(&self) -> Today {
        self.look(|row, now, _| Today { used: row.used(), ends_in: row.day.seconds_left(now) })
    }

    /// How much of `limit` is used today, without what is only reserved: it may come back.
    pub(super) fn day_use(&self, limit: Option<u64>) -> DayUse {
        self.look(|row, now, _| DayUse { limit, used: row.recorded, ends_in: row.day.seconds_left(now) })
    }

    /// End of the day, in the counter's zone.
    pub(super) fn ends_at(&self) -> LocalTime {
        let mut state = self.state.lock();
        let day = state.today(&self.context.clock).day;
        day.end(&state.zone)
    }

    /// Asks for the first lease of tomorrow if today ends soon, so that no request waits for it. To be called at least once a
    /// minute.
    pub fn prepare_tomorrow(self: &Arc<Self>) {
        self.change(|state| {
            let ends = state.today(&self.context.clock).day.ends;
            let is_due = ends.saturating_sub(self.context.clock.millis()) <= PREPARE.as_millis() as i64;
            if is_due && state.rows.all().all(|row| row.day.starts != ends) {
                state.rows.add(CalendarDay::at(ends, &state.zone));
            }
        });
    }

    /// Before [`Self::set_zone`]: asks for the lease of the date there, which has to cover what is used of today. Returns
    /// whether it is granted; more calls are needed until then.
    pub(super) fn prepare_zone(self: &Arc<Self>, zone: &TimeZone) -> bool {
        self.change(|state| {
            let CalendarDay { date, .. } = state.today(&self.context.clock).day;
            let day = CalendarDay::at(self.context.clock.millis(), zone);
            let used = state.today(&self.context.clock).used();
            day.date == date || state.rows.lease_ahead(day, used, state.limit)
        })
    }

    /// Whether it counts nothing, of any day.
    pub fn is_unused(&self) -> bool {
        self.state.lock().rows.all().all(|row| row.used() == 0)
    }

    /// Whether what was requested last is granted: the counter can be used without waiting.
    pub fn is_leased(&self) -> bool {
        self.state.lock().rows.all().all(|row| !row.is_waiting())
    }

    /// Ends the counting: the counts of all days. Units reserved and not recorded count as unused.
    pub fn close(&self) -> Vec<DayCount> {
        let mut state = self.state.lock();
        state.closed = true;
        state.rows.all().map(|row| DayCount { day: row.day, used: row.recorded }).collect()
    }

    /// Changes the state, then requests what the change needs of the ledger.
    fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut CounterState) -> T) -> T {
        let Some(ledger) = &self.context.ledger else { return change(&mut self.state.lock()) };
        let mut state = self.state.lock();
        let result = change(&mut state);
        let holder = || self.clone() as Arc<dyn LeaseHolder>;
        state.request(|day, [lease, mark]| {
            ledger.request(LeaseRequest { id: self.context.id.clone(), holder: holder(), day, lease, mark });
        });
        result
    }
}

impl CounterState {
    fn today(&mut self, clock: &WallClock) -> &mut DayRow {
        self.rows.current(clock.millis(), &self.zone)
    }

    /// Requests what the rows need; usually nothing.
    fn request(&mut self, request: impl Fn(CalendarDay, [LeaseTarget; 2])) {
        if self.closed {
            return;
        }
        for row in self.rows.all_mut().filter(|row| row.changed) {
            let mut needs = false;
            for level in [Level::Lease, Level::Mark] {
                if let Some(units) = row.next_request(level, self.limit) {
                    self.requests += 1;
                    row.level_mut(level).ask(LeaseTarget { units, number: self.requests });
                    needs = true;
                }
            }
            row.settle_requests();
            if needs {
                request(row.day, [row.lease.target(), row.mark.target()]);
            }
        }
    }
}

impl LeaseHolder for DayCounter {
    fn granted(&self, grant: Grant) {
        let (wakers, first) = {
            let mut state = self.state.lock();
            if let Some(row) = state.rows.all_mut().find(|row| row.day.date == grant.date) {
                row.level_mut(grant.level).granted(grant.target);
            }
            (std::mem::take(&mut state.wakers), state.lines.first(grant.level))
        };
        wakers.into_iter().chain(first).for_each(Waker::wake);
    }
}

/// A place in a line of the counter; left when dropped.
struct LeaseWaiter<'a> {
    counter: &'a DayCounter,
    place: LinePlace,
}

impl LeaseWaiter<'_> {
    fn is_first(&self, waker: &Waker) -> bool {
        self.counter.state.lock().lines.is_first(self.place, waker)
    }
}

impl Drop for LeaseWaiter<'_> {
    fn drop(&mut self) {
        let next = self.counter.state.lock().lines.leave(self.place);
        next.into_iter().for_each(Waker::wake);
    }
}

/// Units reserved of a day; given back when dropped unless kept.
#[derive(Debug)]
#[must_use = "dropping it gives back what was reserved"]
pub(super) struct DayReservation {
    counter: Arc<DayCounter>,
    /// Number of the row.
    row: u64,
    date: i32,
    units: u32,
    /// The counter had a limit.
    limited: bool,
    recorded: bool,
}

impl DayReservation {
    /// Whether the counter had a limit.
    pub(super) fn is_limited(&self) -> bool {
        self.limited
    }

    /// Of the day: days since 1970.
    pub(super) fn date(&self) -> i32 {
        self.date
    }

    /// Records the units, so that a restart counts them; needed before they are sent. Waits for the ledger, at most until
    /// `until`. Cancel safe.
    ///
    /// # Errors
    /// [`Unrecorded`]; the units are still reserved.
    pub(super) async fn record(&mut self, until: Instant) -> Result<(), Unrecorded> {
        if let Some(decided) = self.try_record(false) {
            return decided;
        }
        let counter = self.counter.clone();
        // On the heap: it is rare.
        let wait = Box::pin(counter.wait(Level::Mark, until, || self.try_record(true)));
        wait.await.unwrap_or(Err(Unrecorded))
    }

    /// Records the units if the mark covers them; `None`: not yet. `in_line`: it is its turn.
    fn try_record(&mut self, in_line: bool) -> Option<Result<(), Unrecorded>> {
        // A second attempt, or another connection, records the same units.
        if self.recorded {
            return Some(Ok(()));
        }
        let units = u64::from(self.units);
        let decided = self.counter.change(|state| {
            let (limited, closed) = (state.limit.units.is_some(), state.closed);
            let waits = limited && !in_line && !state.lines.is_empty(Level::Mark);
            let Some(row) = state.rows.numbered(self.row) else { return Some(Ok(())) };
            row.changed = true;
            if closed {
                return Some(Err(Unrecorded));
            }
            if limited && row.recorded + units > row.mark.units {
                row.needs_mark = units;
                return self.counter.is_stalled(row, Level::Mark).then_some(Err(Unrecorded));
            }
            if waits {
                return None;
            }
            row.reserved -= units;
            row.recorded += units;
            Some(Ok(()))
        });
        self.recorded = decided == Some(Ok(()));
        decided
    }

    /// Counts the units as used.
    pub(super) fn keep(mut self) {
        if !self.recorded {
            self.counter.change(|state| {
                if let Some(row) = state.rows.numbered(self.row) {
                    row.reserved -= u64::from(self.units);
                    row.recorded += u64::from(self.units);
                    row.changed = true;
                }
            });
        }
        self.units = 0;
    }
}

impl Drop for DayReservation {
    fn drop(&mut self) {
        if self.units == 0 {
            return;
        }
        self.counter.change(|state| {
            if let Some(row) = state.rows.numbered(self.row) {
                let taken = if self.recorded { &mut row.recorded } else { &mut row.reserved };
                *taken -= u64::from(self.units);
                (row.changed, row.lower) = (true, true);
            }
        });
    }
}
