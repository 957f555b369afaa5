//! The rows of a day counter: what was used of each of the last days, and what the ledger has granted.
//!
//! What always holds: there is a current row; a date has one row; a row with reserved units is never removed, so that they
//! can be given back; a change of zone or a restart leaves at least the count of every row whose day is still going on.
//! The rows know neither clocks nor who uses them. Never fails.

use jiff::tz::TimeZone;

use super::{
    calendar_day::CalendarDay,
    lease::{Granted, Level, RestoredDay},
};

/// Rows that a counter keeps: those that were current last.
const ROWS: usize = 8;

/// Smallest block of a lease, units.
const LEASE_BLOCK: u64 = 100;

/// Units of a limit that are lost at most if the process is killed: 0.5 % of it, at least 1.
fn slack(limit: u64) -> u64 {
    (limit / 200).max(1)
}

/// Units that may be used in a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DayLimit {
    /// `None` is unlimited.
    pub(super) units: Option<u64>,
    /// What the counter usually comes to: blocks of leases and marks are a part of it.
    pub(super) part: Option<u64>,
}

impl From<Option<u64>> for DayLimit {
    fn from(units: Option<u64>) -> Self {
        DayLimit { units, part: units }
    }
}

/// The rows of a counter.
#[derive(Debug)]
pub(super) struct DayRows {
    /// The current one first; never empty.
    rows: Vec<DayRow>,
    /// Number of the last row.
    last: u64,
    /// What a new row may use before anything is granted.
    granted: u64,
}

/// The count of one day.
#[derive(Debug)]
pub(super) struct DayRow {
    /// Its own in the counter.
    pub(super) number: u64,
    pub(super) day: CalendarDay,
    /// Units that a restart counts: they were sent, or are about to be.
    pub(super) recorded: u64,
    /// Units reserved and not recorded.
    pub(super) reserved: u64,
    pub(super) lease: Granted,
    pub(super) mark: Granted,
    /// Units that a take lacks of the lease.
    pub(super) needs_lease: u64,
    /// Units that a reservation lacks of the mark.
    pub(super) needs_mark: u64,
    /// Units were reserved since the process started. Before that no mark is asked for, so that a process that is killed
    /// without having done anything costs nothing.
    pub(super) is_active: bool,
    /// Something has changed since the ledger was last asked.
    pub(super) changed: bool,
    /// The mark may be too high: units came back, or the limit has changed.
    pub(super) lower: bool,
}

impl DayRows {
    /// The rows of a new counter. `restored`: the days that its ledger knows; `None` without a ledger.
    pub(super) fn new(restored: Option<Vec<RestoredDay>>, now: i64, zone: &TimeZone) -> Self {
        let granted = if restored.is_some() { 0 } else { u64::MAX };
        let mut rows = DayRows { rows: Vec::new(), last: 0, granted };
        for RestoredDay { day, used, leased } in restored.unwrap_or_default() {
            let row = rows.new_row(day);
            rows.rows.push(DayRow { recorded: used, lease: Granted::new(leased), mark: Granted::new(used), ..row });
        }
        rows.set_current(CalendarDay::at(now, zone), now);
        rows
    }

    fn new_row(&mut self, day: CalendarDay) -> DayRow {
        self.last += 1;
        DayRow {
            number: self.last,
            day,
            recorded: 0,
            reserved: 0,
            lease: Granted::new(self.granted),
            mark: Granted::new(self.granted),
            needs_lease: 0,
            needs_mark: 0,
            is_active: false,
            changed: true,
            lower: false,
        }
    }

    /// The row of the day that contains `now`.
    pub(super) fn current(&mut self, now: i64, zone: &TimeZone) -> &mut DayRow {
        if !self.rows[0].day.contains(now) {
            self.set_current(CalendarDay::at(now, zone), now);
        }
        &mut self.rows[0]
    }

    /// Makes `day`, which contains `now`, the current one. Rows of another zone whose day is still going on keep their dates;
    /// the largest of their counts applies.
    fn set_current(&mut self, day: CalendarDay, now: i64) {
        let mut current = self.take(day.date).unwrap_or_else(|| self.new_row(day));
        let others_used = self.rows.iter().filter(|row| row.day.contains(now)).map(DayRow::used).max();
        current.recorded = current.recorded.max(others_used.unwrap_or(0));
        current.day = day;
        current.changed = true;
        self.rows.insert(0, current);
        self.forget_old();
    }

    /// Moves the current row to `day` of another zone: the larger of the counts of its old and its new date applies.
    pub(super) fn change_zone(&mut self, day: CalendarDay) {
        let mut current = self.rows.remove(0);
        if current.day.date != day.date {
            let same_date = self.take(day.date);
            let grants = same_date.as_ref().map(|row| [row.lease, row.mark]);
            [current.lease, current.mark] = grants.unwrap_or([self.granted; 2].map(Granted::new));
            if let Some(mut row) = same_date {
                current.recorded = current.recorded.max(row.used());
                if row.reserved > 0 {
                    // Kept only for what is given back.
                    row.day = CalendarDay::NEVER;
                    self.rows.insert(0, row);
                }
            }
        }
        current.day = day;
        current.changed = true;
        self.rows.insert(0, current);
    }

    fn take(&mut self, date: i32) -> Option<DayRow> {
        let position = self.rows.iter().position(|row| row.day.date == date)?;
        Some(self.rows.remove(position))
    }

    /// Adds a row for a day that has none.
    pub(super) fn add(&mut self, day: CalendarDay) {
        if self.rows.iter().all(|row| row.day.date != day.date) {
            let row = self.new_row(day);
            self.rows.insert(1, row);
            self.forget_old();
        }
    }

    /// Asks for a lease of a day that may become the current one with `units` used. Returns whether it is granted.
    pub(super) fn lease_ahead(&mut self, day: CalendarDay, units: u64, limit: DayLimit) -> bool {
        self.add(day);
        let Some(row) = self.rows.iter_mut().find(|row| row.day.date == day.date) else { return false };
        let Reach { base, ahead, .. } = row.reach(Level::Lease, limit);
        let units = units.max(base);
        let at_most = limit.units.unwrap_or(u64::MAX).max(units);
        let enough = (units + ahead / 2).min(at_most);
        if row.lease.target().units < enough {
            row.needs_lease = (units + ahead).min(at_most) - base;
            row.changed = true;
        }
        row.lease.units >= enough
    }

    fn forget_old(&mut self) {
        let mut position = 0;
        self.rows.retain(|row| {
            position += 1;
            position <= ROWS || row.reserved > 0
        });
    }

    pub(super) fn numbered(&mut self, number: u64) -> Option<&mut DayRow> {
        self.rows.iter_mut().find(|row| row.number == number)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &DayRow> {
        self.rows.iter().filter(|row| row.day != CalendarDay::NEVER)
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut DayRow> {
        self.rows.iter_mut().filter(|row| row.day != CalendarDay::NEVER)
    }
}

/// How far one level should reach.
struct Reach {
    /// Units that it must cover now.
    base: u64,
    /// Units beyond `base` that are needed at once.
    needed: u64,
    /// Units beyond `base` that are asked for.
    ahead: u64,
}

impl DayRow {
    pub(super) fn used(&self) -> u64 {
        self.recorded + self.reserved
    }

    pub(super) fn level_mut(&mut self, level: Level) -> &mut Granted {
        match level {
            Level::Lease => &mut self.lease,
            Level::Mark => &mut self.mark,
        }
    }

    pub(super) fn level(&self, level: Level) -> &Granted {
        match level {
            Level::Lease => &self.lease,
            Level::Mark => &self.mark,
        }
    }

    fn reach(&self, level: Level, DayLimit { part, .. }: DayLimit) -> Reach {
        match level {
            Level::Lease => {
                let base = self.used();
                Reach { base, needed: self.needs_lease, ahead: (part.unwrap_or(base) / 10).max(LEASE_BLOCK) }
            }
            Level::Mark => {
                let base = self.recorded;
                // The other half is for units that were recorded and are not sent yet.
                Reach { base, needed: self.needs_mark, ahead: slack(part.unwrap_or(base)) / 2 }
            }
        }
    }

    /// The value to request of the ledger, if it is not requested already: more once half of what is ahead is used up, less
    /// if the mark is further ahead than it may be.
    pub(super) fn next_request(&self, level: Level, limit: DayLimit) -> Option<u64> {
        if level == Level::Mark && !self.is_active {
            return None;
        }
        let Reach { base, needed, ahead } = self.reach(level, limit);
        let at_most = limit.units.unwrap_or(u64::MAX).max(base + needed);
        let enough = (base + needed.max(ahead.div_ceil(2))).min(at_most);
        let target = (base + needed.max(ahead)).min(at_most);
        let expected = self.level(level).target().units;
        let too_high = level == Level::Mark && self.lower && expected > base + ahead;
        (expected < enough || too_high).then_some(target)
    }

    /// What was needed is requested.
    pub(super) fn settle_requests(&mut self) {
        (self.needs_lease, self.needs_mark, self.changed, self.lower) = (0, 0, false, false);
    }

    /// Whether a request to the ledger is not answered yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.lease.is_asked() || self.mark.is_asked()
    }
}
