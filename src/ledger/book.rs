//! What the ledger has to write, and what of it applies at a start.
//!
//! A day of a counter is in two places. Its slot in the file of day marks holds the mark, which survives the end of the
//! process, and the lease; the state store holds the lease too, which survives the end of the machine. A request is done in
//! this order: slot, mark granted, store, lease granted.
//!
//! What always holds: nothing is granted that is not written; at a start the larger of what is recorded applies, unless the
//! slot was written by the same run of the system and no older than the store's row: then its mark is exact. Dates are
//! forgotten by the newest dates recorded, so that no clock makes the ledger forget a recent one. The book does no I/O of its
//! own; [`MarkStorage`] and the caller do. Fails with the storage's error.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    sync::Arc,
};

use super::{
    marks_file::{LoadedMarks, MarkStorage},
    slot::{CounterHash, Slot, SlotKey, counter_hash},
    stored_lease::{LEASES, LeaseRow, StoredLease, row_key},
};
use crate::{
    admission::{CalendarDay, CounterId, DayCount, Grant, LeaseRequest, Level, RestoredDay},
    store::WriteBatch,
};

/// Dates that are kept.
const DATES: usize = 8;

/// The state of the ledger's thread.
#[derive(Debug)]
pub(super) struct Book {
    /// This run of the system.
    boot: u64,
    entries: HashMap<SlotKey, BookEntry>,
    dates: BTreeSet<i32>,
    /// Records of the file without a slot.
    free: BTreeSet<u32>,
    /// Records of the file, empty ones included.
    records: u32,
    /// Entries whose slot has to be written.
    unwritten: BTreeSet<SlotKey>,
    /// Entries whose lease has to be stored.
    unstored: BTreeSet<SlotKey>,
    /// Records that have to be cleared, and rows that have to be removed.
    forgotten: Forgotten,
}

#[derive(Debug, Default)]
struct Forgotten {
    records: Vec<u32>,
    rows: Vec<(CounterId, i32)>,
}

/// One day of a counter.
#[derive(Debug)]
struct BookEntry {
    /// `None` if only the file names it.
    id: Option<CounterId>,
    day: CalendarDay,
    /// Of the file; `None` if it has none yet.
    record: Option<u32>,
    mark: u64,
    lease: u64,
    /// The last request of this process.
    latest: Option<LeaseRequest>,
    /// Number of the lease that was submitted to the store last.
    submitted: Option<u64>,
}

/// A lease that is being stored.
#[derive(Clone, Debug)]
pub(super) struct SubmittedLease {
    key: SlotKey,
    request: LeaseRequest,
}

impl SubmittedLease {
    /// Tells the counter that it is stored.
    pub(super) fn grant(&self) {
        self.request.holder.granted(Grant { date: self.key.date, level: Level::Lease, target: self.request.lease });
    }
}

/// Recorded days by counter.
pub(super) type RestoredDays = HashMap<CounterHash, Vec<RestoredDay>>;

/// What the two records hold of one day of a counter: its slots with their numbers, and the stored lease.
type FoundDay = (Vec<(u32, Slot)>, Option<StoredLease>);

impl Book {
    /// What is recorded. `today`: the date in some zone, by the wall clock.
    pub(super) fn recover(marks: LoadedMarks, stored: Vec<StoredLease>, boot: u64, today: i32) -> (Self, RestoredDays) {
        let mut found: BTreeMap<SlotKey, FoundDay> = BTreeMap::new();
        for (record, slot) in marks.slots {
            found.entry(slot.key()).or_default().0.push((record, slot));
        }
        for lease in stored {
            let key = SlotKey::new(&lease.id, lease.day.date);
            found.entry(key).or_default().1 = Some(lease);
        }
        let mut book = Book {
            boot,
            entries: HashMap::new(),
            dates: BTreeSet::new(),
            free: (0..marks.records).collect(),
            records: marks.records,
            unwritten: BTreeSet::new(),
            unstored: BTreeSet::new(),
            forgotten: Forgotten::default(),
        };
        let mut restored = RestoredDays::new();
        for (key, (mut slots, stored)) in found {
            slots.sort_by_key(|(_, slot)| std::cmp::Reverse((slot.mark, slot.lease)));
            let Some(recorded) = Recorded::of(&slots, stored.as_ref(), boot) else { continue };
            for (record, _) in &slots {
                book.free.remove(record);
            }
            // There is one, except where an old one could not be cleared.
            book.forgotten.records.extend(slots.iter().skip(1).map(|(record, _)| *record));
            let Recorded { day, used, lease, leased } = recorded;
            restored.entry(key.counter).or_default().push(RestoredDay { day, used, leased });
            book.dates.insert(key.date);
            if slots.is_empty() {
                // It was lost.
                book.unwritten.insert(key);
            }
            let entry = BookEntry {
                id: stored.map(|stored| stored.id),
                day,
                record: slots.first().map(|(record, _)| *record),
                mark: used,
                lease,
                latest: None,
                submitted: None,
            };
            book.entries.insert(key, entry);
        }
        book.forget_old(today);
        for days in restored.values_mut() {
            days.retain(|restored| book.dates.contains(&restored.day.date));
        }
        restored.retain(|_, days| !days.is_empty());
        (book, restored)
    }

    /// This run of the system.
    pub(super) fn boot(&self) -> u64 {
        self.boot
    }

    /// Takes a request; it replaces the one before.
    pub(super) fn take(&mut self, request: LeaseRequest) {
        let key = SlotKey::new(&request.id, request.day.date);
        self.add_date(key.date);
        let entry = self.entries.entry(key).or_insert_with(|| BookEntry::new(&request.id, request.day));
        // The numbers of another counter of the same name have nothing to do with those of this one.
        let same = entry.latest.as_ref().is_some_and(|latest| Arc::ptr_eq(&latest.holder, &request.holder));
        if !same {
            entry.submitted = None;
        }
        entry.id = Some(request.id.clone());
        entry.day = request.day;
        (entry.mark, entry.lease) = (request.mark.units, request.lease.units);
        entry.latest = Some(request);
        self.unwritten.insert(key);
    }

    fn add_date(&mut self, date: i32) {
        if self.dates.insert(date) {
            self.forget_old(date);
        }
    }

    /// Forgets all but the newest dates.
    fn forget_old(&mut self, today: i32) {
        let kept = kept_dates(&self.dates, today);
        if kept.len() == self.dates.len() {
            return;
        }
        let Forgotten { records, rows } = &mut self.forgotten;
        self.entries.retain(|key, entry| {
            let keep = kept.contains(&key.date);
            if !keep {
                records.extend(entry.record);
                rows.extend(entry.id.take().map(|id| (id, key.date)));
                self.unwritten.remove(key);
                self.unstored.remove(key);
            }
            keep
        });
        self.dates = kept;
    }

    /// Writes the slots of what was requested, and grants their marks.
    ///
    /// # Errors
    /// The first error; what is not written is written by the next call.
    pub(super) fn write_slots(&mut self, marks: &mut impl MarkStorage) -> io::Result<()> {
        for record in std::mem::take(&mut self.forgotten.records) {
            // If it cannot be cleared, it is forgotten again at the next start, or written before.
            let _ = marks.write(record, None);
            self.free.insert(record);
        }
        while let Some(key) = self.unwritten.first().copied() {
            self.write_slot(key, marks)?;
            self.unwritten.remove(&key);
            let Some(entry) = self.entries.get(&key) else { continue };
            let Some(request) = &entry.latest else { continue };
            request.holder.granted(Grant { date: key.date, level: Level::Mark, target: request.mark });
            if entry.submitted != Some(request.lease.number) {
                self.unstored.insert(key);
            }
        }
        Ok(())
    }

    /// The file is new and has no records: all of them have to be written.
    pub(super) fn rewrite_slots(&mut self) {
        (self.records, self.free) = (0, BTreeSet::new());
        self.forgotten.records.clear();
        self.entries.values_mut().for_each(|entry| entry.record = None);
        self.unwritten.extend(self.entries.keys());
    }

    fn write_slot(&mut self, key: SlotKey, marks: &mut impl MarkStorage) -> io::Result<()> {
        let Some(entry) = self.entries.get_mut(&key) else { return Ok(()) };
        let record = entry.record.or_else(|| self.free.first().copied()).unwrap_or(self.records);
        let BookEntry { day, mark, lease, .. } = *entry;
        marks.write(record, Some(&Slot { counter: key.counter, day, mark, lease, boot: self.boot }))?;
        entry.record = Some(record);
        self.free.remove(&record);
        self.records = self.records.max(record + 1);
        Ok(())
    }

    /// The leases to be stored now, with the rows to be removed. Empty if there is nothing to do.
    pub(super) fn next_batch(&mut self) -> (WriteBatch, Vec<SubmittedLease>) {
        let (mut batch, mut submitted) = (WriteBatch::default(), Vec::new());
        for (id, date) in std::mem::take(&mut self.forgotten.rows) {
            batch.remove(&LEASES, &row_key(&id, date));
        }
        for key in std::mem::take(&mut self.unstored) {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let Some(request) = entry.latest.clone() else { continue };
            entry.submitted = Some(request.lease.number);
            put(&mut batch, &request.id, DayCount { day: request.day, used: request.lease.units });
            submitted.push(SubmittedLease { key, request });
        }
        (batch, submitted)
    }

    /// Takes leases back that could not be stored.
    pub(super) fn not_stored(&mut self, leases: Vec<SubmittedLease>) {
        for SubmittedLease { key, request } in leases {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if entry.submitted == Some(request.lease.number) {
                entry.submitted = None;
                self.unstored.insert(key);
            }
        }
    }

    /// The batch that stores the last counts.
    pub(super) fn closing_batch(&mut self, counts: &[(CounterId, DayCount)]) -> WriteBatch {
        let (mut batch, _) = self.next_batch();
        for (id, count) in counts.iter().filter(|(id, count)| self.is_known(id, *count)) {
            match count.used {
                0 => batch.remove(&LEASES, &row_key(id, count.day.date)),
                _ => put(&mut batch, id, *count),
            }
        }
        batch
    }

    /// Writes the last counts. `stored`: the closing batch was.
    ///
    /// # Errors
    /// The first error.
    pub(super) fn write_closing_slots(
        &mut self,
        counts: &[(CounterId, DayCount)],
        stored: bool,
        marks: &mut impl MarkStorage,
    ) -> io::Result<()> {
        for (id, count) in counts.iter().filter(|(id, count)| self.is_known(id, *count)).cloned().collect::<Vec<_>>() {
            let key = SlotKey::new(&id, count.day.date);
            let entry = self.entries.entry(key).or_insert_with(|| BookEntry::new(&id, count.day));
            entry.day = count.day;
            entry.mark = count.used;
            // If not, the slot's lease must not be below the store's.
            entry.lease = if stored { count.used } else { entry.lease.max(count.used) };
            match entry.record {
                // Its row was removed. A row without a slot would count as used.
                Some(record) if stored && count.used == 0 => marks.write(record, None)?,
                _ => self.write_slot(key, marks)?,
            }
        }
        Ok(())
    }

    /// Whether there is something to write of a count. Days of which nothing is used are removed: a clock may have been
    /// ahead when they were prepared.
    fn is_known(&self, id: &CounterId, DayCount { day, used }: DayCount) -> bool {
        let entry = self.entries.get(&SlotKey::new(id, day.date));
        entry.map_or(used > 0, |entry| entry.latest.is_some() || entry.mark != used || used == 0)
    }
}

impl BookEntry {
    fn new(id: &CounterId, day: CalendarDay) -> Self {
        BookEntry { id: Some(id.clone()), day, record: None, mark: 0, lease: 0, latest: None, submitted: None }
    }
}

fn put(batch: &mut WriteBatch, id: &CounterId, DayCount { day, used }: DayCount) {
    let row = LeaseRow { units: used, starts: day.starts, ends: day.ends };
    batch.put(&LEASES, &row_key(id, day.date), &row);
}

/// What the two records of a day come to.
struct Recorded {
    day: CalendarDay,
    /// Units used, at most.
    used: u64,
    /// The largest lease of either.
    lease: u64,
    /// Units that may be used: those of the store, which may have lost them.
    leased: u64,
}

impl Recorded {
    fn of(slots: &[(u32, Slot)], stored: Option<&StoredLease>, boot: u64) -> Option<Self> {
        let in_store = stored.map_or(0, |stored| stored.units);
        let used_by = |slot: &Slot| {
            let is_exact = slot.boot == boot && slot.lease >= in_store;
            if is_exact { slot.mark } else { slot.mark.max(slot.lease).max(in_store) }
        };
        let used = slots.iter().map(|(_, slot)| used_by(slot)).max().unwrap_or(in_store);
        let lease = slots.iter().map(|(_, slot)| slot.lease).max().unwrap_or(0).max(in_store);
        let day = slots.first().map(|(_, slot)| slot.day).or(stored.map(|stored| stored.day))?;
        Some(Recorded { day, used, lease: lease.max(used), leased: in_store })
    }
}

/// The dates to keep: the newest ones up to `today`, and the newest ones of all. The clock may have been wrong when they were
/// recorded, and may be wrong now.
fn kept_dates(dates: &BTreeSet<i32>, today: i32) -> BTreeSet<i32> {
    let newest = dates.iter().rev().take(DATES);
    // A day ahead of the clock's: of a zone further east.
    newest.chain(dates.range(..=today.saturating_add(1)).rev().take(DATES)).copied().collect()
}

/// The recorded days of a counter.
pub(super) fn days_of(restored: &mut RestoredDays, id: &CounterId) -> Vec<RestoredDay> {
    restored.remove(&counter_hash(id)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_clock_makes_recent_dates_forgotten() {
        let usual: BTreeSet<i32> = (100..120).collect();
        assert_eq!(kept_dates(&usual, 119), (112..120).collect());
        // Ten years ahead: the recent dates stay, and so does the one ahead.
        let mut ahead = usual.clone();
        ahead.insert(3770);
        let kept = kept_dates(&ahead, 3770);
        assert!((113..120).all(|date| kept.contains(&date)), "{kept:?}");
        // Back again.
        assert!((112..120).all(|date| kept_dates(&ahead, 119).contains(&date)));
        // A month behind.
        assert!((112..120).all(|date| kept_dates(&usual, 80).contains(&date)));
    }

    #[test]
    fn the_larger_record_applies_unless_the_mark_is_exact() {
        let day = CalendarDay { date: 1, starts: 0, ends: 10 };
        let slot = |mark, lease, boot| (0, Slot { counter: [0; 16], day, mark, lease, boot });
        let stored = |units| StoredLease { id: CounterId::Account("a".into()), day, units };
        for (slot, store, used, leased) in [
            // The same run of the system.
            (Some(slot(7, 100, 1)), Some(100), 7, 100),
            // The lease is announced and not stored.
            (Some(slot(7, 200, 1)), Some(100), 7, 100),
            // The store is lost, or older.
            (Some(slot(7, 200, 1)), None, 7, 0),
            // The file is older than the store.
            (Some(slot(7, 100, 1)), Some(200), 200, 200),
            // The system was restarted.
            (Some(slot(7, 100, 2)), Some(100), 100, 100),
            (Some(slot(7, 200, 2)), Some(100), 200, 100),
            (Some(slot(7, 100, 2)), None, 100, 0),
            // The file is lost.
            (None, Some(100), 100, 100),
        ] {
            let slots: Vec<_> = slot.into_iter().collect();
            let recorded = Recorded::of(&slots, store.map(stored).as_ref(), 1).unwrap();
            assert_eq!((recorded.used, recorded.leased), (used, leased), "{slots:?} {store:?}");
        }
        assert!(Recorded::of(&[], None, 1).is_none());
    }
}
