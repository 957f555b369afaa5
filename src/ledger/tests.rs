//! Random histories of counters on the real book, over a simulated disk, against a model that shares no code with them.
//!
//! A history has calls that are claimed, recorded, sent and given back at every point; writes that are late or fail; kills,
//! power losses and clean restarts; a lost file or store; clocks that jump both ways; midnights in Asia/Jakarta and
//! Europe/Berlin; overrides; reloads with other limits and zones. The model keeps the units sent of each date, and what each fault may
//! cost. No limit is ever exceeded, no more is lost than stated, and what is given back can be used again.
//!
//! `FASTRAC_HISTORIES=100000` for another number of histories, `FASTRAC_HISTORY=7` for one of them, step by step.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use fastrand::Rng;
use jiff::{Timestamp, tz::TimeZone};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    book::{Book, RestoredDays, SubmittedLease, days_of},
    marks_file::{LoadedMarks, MarkStorage},
    slot::{SIZE, Slot},
    stored_lease::{LeaseRow, StoredLease},
};
use crate::{
    admission::{
        BucketMark, BucketStart, Claim, CounterContext, CounterId, DayLedger, Exceeded, LeaseRequest, Level, Quota,
        QuotaOverride, RestoredDay, WallClock,
    },
    config::QuotaConfig,
    store::{StoredRow as _, WriteBatch},
};

/// Histories; `FASTRAC_HISTORIES` for another number.
const HISTORIES: u64 = 10_000;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// 2026-10-24T12:00:00Z: half a day before the clocks of Europe/Berlin go back.
const START: i64 = 1_792_843_200_000;

/// The ledger of a history: requests wait until the history lets them be done.
#[derive(Debug, Default)]
struct QueuedLedger {
    requests: Mutex<VecDeque<LeaseRequest>>,
    restored: Mutex<RestoredDays>,
}

impl DayLedger for QueuedLedger {
    fn restore(&self, counter: &CounterId) -> Vec<RestoredDay> {
        days_of(&mut self.restored.lock(), counter)
    }

    fn bucket(&self, _: &CounterId) -> BucketStart {
        BucketStart::Unused
    }

    fn request(&self, request: LeaseRequest) {
        self.requests.lock().push_back(request);
    }

    fn throttled(&self, _: &CounterId, _: BucketMark) {}

    fn is_failing(&self, _: Level) -> bool {
        false
    }
}

/// The file of day marks: what a killed process leaves, and what is left if the power fails.
#[derive(Clone, Default)]
struct Marks {
    cached: BTreeMap<u32, [u8; SIZE]>,
    on_disk: BTreeMap<u32, [u8; SIZE]>,
    fails: bool,
}

impl MarkStorage for Marks {
    fn write(&mut self, number: u32, slot: Option<&Slot>) -> io::Result<()> {
        if self.fails {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.cached.insert(number, slot.map_or([0; SIZE], Slot::encode));
        Ok(())
    }
}

impl Marks {
    fn load(&self) -> LoadedMarks {
        let slots = self.cached.iter().filter_map(|(number, bytes)| Some((*number, Slot::decode(bytes)?))).collect();
        LoadedMarks { slots, records: self.cached.keys().last().map_or(0, |last| last + 1), ..LoadedMarks::default() }
    }
}

/// A batch on its way to the disk.
struct Submitted {
    batch: WriteBatch,
    leases: Vec<SubmittedLease>,
}

#[derive(Default)]
struct Rows(BTreeMap<Vec<u8>, Vec<u8>>);

impl Rows {
    fn apply(&mut self, batch: &WriteBatch) {
        for (key, row) in batch.changes() {
            match row {
                Some(row) => drop(self.0.insert(key.to_owned(), row.into_owned())),
                None => drop(self.0.remove(key)),
            }
        }
    }

    fn load(&self) -> Vec<StoredLease> {
        self.0.iter().filter_map(|(key, row)| StoredLease::new(key, LeaseRow::decode(row)?)).collect()
    }
}

/// The zones, and what the model knows of them.
#[derive(Clone, Copy, PartialEq)]
enum Zone {
    Jakarta,
    Berlin,
}

impl Zone {
    fn name(self) -> &'static str {
        match self {
            Zone::Jakarta => "Asia/Jakarta",
            Zone::Berlin => "Europe/Berlin",
        }
    }

    /// The number of the day.
    fn date(self, millis: i64) -> i64 {
        // 2026-10-25T01:00:00Z, 2027-03-28T01:00:00Z, 2036-10-26T01:00:00Z.
        let hours = match self {
            Zone::Jakarta => 7,
            Zone::Berlin if millis < 1_792_890_000_000 => 2,
            Zone::Berlin if millis < 1_806_195_600_000 => 1,
            Zone::Berlin => {
                // Only used ten years ahead: between 2036-03-30 and 2036-10-26 it is summer.
                let summer = (2_090_451_600_000..2_108_595_600_000).contains(&millis);
                1 + i64::from(summer)
            }
        };
        (millis + hours * HOUR).div_euclid(DAY)
    }
}

/// What must be true.
struct Model {
    zone: Zone,
    limit: u64,
    /// Units sent, by date.
    sent: BTreeMap<i64, u64>,
    /// Units that faults may have cost, by date.
    lost: BTreeMap<i64, u64>,
    /// Dates of which this process has claimed units.
    active: BTreeSet<i64>,
    /// Largest limit since everything requested was written.
    largest: u64,
    /// Units recorded and given back since then.
    unsent: u64,
    /// A power loss, a lost file or a zone that changed before a restart may cost more: only the limit holds.
    only_the_limit: bool,
    zone_changed: bool,
    jumped: bool,
    lost_a_record: bool,
}

impl Model {
    fn slack(&self) -> u64 {
        (self.largest / 200).max(1) + self.unsent
    }

    fn lose(&mut self) {
        let slack = self.slack();
        for date in std::mem::take(&mut self.active) {
            *self.lost.entry(date).or_default() += slack;
        }
        self.only_the_limit |= self.zone_changed;
    }
}

/// A call on its way.
struct OpenCall {
    claim: Claim,
    recorded: bool,
    date: i64,
}

struct History {
    random: Rng,
    clock: &'static AtomicI64,
    marks: Marks,
    rows: Rows,
    submitted: VecDeque<Submitted>,
    ledger: Arc<QueuedLedger>,
    book: Book,
    boot: u64,
    quota: Quota,
    calls: Vec<OpenCall>,
    model: Model,
    trace: bool,
}

fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

fn settings(limit: u64) -> QuotaConfig {
    QuotaConfig { second: None, day: Some(limit), enforce: true }
}

impl History {
    fn new(seed: u64, clock: &'static AtomicI64) -> Self {
        let mut random = Rng::with_seed(seed);
        clock.store(START + random.i64(-2 * DAY..2 * DAY), Ordering::Relaxed);
        let zone = if random.bool() { Zone::Jakarta } else { Zone::Berlin };
        let limit = [1, 2, 7, 40, 250, 900][random.usize(..6)];
        let model = Model {
            zone,
            limit,
            sent: BTreeMap::new(),
            lost: BTreeMap::new(),
            active: BTreeSet::new(),
            largest: limit,
            unsent: 0,
            only_the_limit: false,
            zone_changed: false,
            jumped: false,
            lost_a_record: false,
        };
        let ledger = Arc::<QueuedLedger>::default();
        let (book, _) = Book::recover(LoadedMarks::default(), Vec::new(), 1, 0);
        let quota = quota(&ledger, &model, clock);
        let (marks, rows, submitted) = Default::default();
        History {
            random,
            clock,
            marks,
            rows,
            submitted,
            ledger,
            book,
            boot: 1,
            quota,
            calls: Vec::new(),
            model,
            trace: false,
        }
    }

    fn now(&self) -> i64 {
        self.clock.load(Ordering::Relaxed)
    }

    fn today(&self) -> i64 {
        self.model.zone.date(self.now())
    }

    fn open_today(&self) -> u64 {
        self.calls.iter().filter(|call| call.date == self.today()).count() as u64
    }

    /// Takes one unit, and compares the decision with the model.
    fn call(&mut self) -> bool {
        let mut claim = Claim::default();
        let mut decision = poll_once(self.quota.claim_day(&mut claim, Instant::now()));
        if !matches!(decision, Some(Ok(()) | Err(Exceeded::Day { .. }))) {
            // The ledger had something to do first.
            self.settle();
            decision = poll_once(self.quota.claim_day(&mut claim, Instant::now()));
        }
        let (today, open) = (self.today(), self.open_today());
        let used = *self.model.sent.entry(today).or_default() + open;
        let lost = self.model.lost.get(&today).copied().unwrap_or(0);
        match decision {
            Some(Ok(())) => {
                assert!(used < self.model.limit, "{used} of {} are used, and one more is granted", self.model.limit);
                self.model.active.insert(today);
                self.calls.push(OpenCall { claim, recorded: false, date: today });
                true
            }
            Some(Err(Exceeded::Day { .. })) => {
                let enough = used + lost >= self.model.limit;
                assert!(enough || self.model.only_the_limit, "{used} of {} are used, {lost} lost", self.model.limit);
                false
            }
            other => panic!("with a healthy ledger: {other:?}"),
        }
    }

    /// Brings a call forward: recorded, then sent; or it leaves.
    fn advance(&mut self) {
        if self.calls.is_empty() {
            return;
        }
        let mut call = self.calls.swap_remove(self.random.usize(..self.calls.len()));
        if self.random.u8(..) < 40 {
            self.model.unsent += u64::from(call.recorded);
            return;
        }
        if !call.recorded {
            call.recorded = matches!(poll_once(call.claim.record(Instant::now())), Some(Ok(())));
            self.calls.push(call);
            return;
        }
        call.claim.keep();
        *self.model.sent.entry(call.date).or_default() += 1;
    }

    /// Lets the ledger work. `all`: until nothing is left to do.
    fn work(&mut self, all: bool) {
        loop {
            let requests = std::mem::take(&mut *self.ledger.requests.lock());
            let idle = requests.is_empty();
            requests.into_iter().for_each(|request| self.book.take(request));
            let written = self.book.write_slots(&mut self.marks).is_ok();
            if written {
                let (batch, leases) = self.book.next_batch();
                if !batch.is_empty() {
                    self.submitted.push_back(Submitted { batch, leases });
                }
            }
            if !all {
                return;
            }
            if idle && self.submitted.is_empty() {
                break;
            }
            while !self.submitted.is_empty() {
                self.commit(true);
            }
        }
        (self.model.largest, self.model.unsent) = (self.model.limit, 0);
    }

    fn settle(&mut self) {
        self.marks.fails = false;
        self.work(true);
    }

    /// The store finishes a batch, or fails.
    fn commit(&mut self, succeeds: bool) {
        let Some(Submitted { batch, leases }) = self.submitted.pop_front() else { return };
        if succeeds {
            self.rows.apply(&batch);
            leases.iter().for_each(SubmittedLease::grant);
        } else {
            // It may be on the disk all the same.
            if self.random.bool() {
                self.rows.apply(&batch);
            }
            self.book.not_stored(leases);
        }
    }

    /// The process ends without a word; what is in the page cache stays.
    fn kill(&mut self) {
        self.model.lose();
        for call in self.calls.iter().filter(|call| call.recorded) {
            *self.model.lost.entry(call.date).or_default() += 1;
        }
        if self.random.bool()
            && let Some(Submitted { batch, .. }) = self.submitted.pop_front()
        {
            self.rows.apply(&batch);
        }
        self.start();
    }

    /// The machine ends: of each record, either the last synchronised version or a later one is left.
    fn lose_power(&mut self) {
        // If the store's record is lost, only that of the page cache is left until the next one is stored.
        if std::mem::replace(&mut self.model.lost_a_record, true) {
            return;
        }
        self.model.only_the_limit = true;
        for (number, bytes) in &mut self.marks.cached {
            if self.random.bool() {
                *bytes = self.marks.on_disk.get(number).copied().unwrap_or([0; SIZE]);
            }
        }
        self.boot += 1;
        self.kill();
    }

    /// Everything is written, and nothing is lost.
    fn restart(&mut self) {
        // Calls end before the process does.
        self.calls.clear();
        self.model.only_the_limit |= self.model.zone_changed;
        let id = CounterId::Service("s".into());
        let counts: Vec<_> = self.quota.day().close().into_iter().map(|count| (id.clone(), count)).collect();
        while !self.submitted.is_empty() {
            self.commit(true);
        }
        let stored = self.random.u8(..) > 20;
        let batch = self.book.closing_batch(&counts);
        if stored {
            self.rows.apply(&batch);
        }
        self.marks.fails = false;
        self.book.write_closing_slots(&counts, stored, &mut self.marks).unwrap();
        self.marks.on_disk = self.marks.cached.clone();
        self.model.active.clear();
        self.start();
    }

    /// One of the two records is lost while the process does not run.
    fn lose_a_record(&mut self) {
        // If both are lost, nothing can be known. Of days before today, one record may be all there is.
        if self.model.jumped || std::mem::replace(&mut self.model.lost_a_record, true) {
            return;
        }
        self.settle();
        if self.random.bool() {
            self.rows.0.clear();
            self.kill();
        } else {
            self.model.only_the_limit = true;
            self.marks.cached.clear();
            self.kill();
        }
        // The start records again what was lost, before it accepts connections.
        self.settle();
    }

    fn start(&mut self) {
        self.calls.clear();
        self.submitted.clear();
        self.marks.fails = false;
        self.ledger = Arc::default();
        let today = self.now().div_euclid(DAY) as i32;
        let (book, restored) = Book::recover(self.marks.load(), self.rows.load(), self.boot, today);
        *self.ledger.restored.lock() = restored;
        self.book = book;
        self.quota = quota(&self.ledger, &self.model, self.clock);
        (self.model.largest, self.model.unsent) = (self.model.limit, 0);
    }

    /// By a reload, or by an override, which a restart or the next change ends.
    fn change_limit(&mut self) {
        self.model.limit = [1, 2, 7, 40, 250, 900][self.random.usize(..6)];
        self.model.largest = self.model.largest.max(self.model.limit);
        let overridden = self.random.bool().then(|| QuotaOverride {
            second: None,
            day: Some(self.model.limit),
            block: false,
            until: Timestamp::MAX,
            reason: "sale".into(),
        });
        if overridden.is_none() {
            self.quota.reconfigure(&settings(self.model.limit));
        }
        self.quota.set_override(overridden);
    }

    fn change_zone(&mut self) {
        // A call that is on its way is counted for the day in which it ends up.
        self.model.unsent += self.calls.drain(..).filter(|call| call.recorded).count() as u64;
        let before = self.today();
        self.model.zone = if self.model.zone == Zone::Jakarta { Zone::Berlin } else { Zone::Jakarta };
        let after = self.today();
        self.quota.set_zone(&TimeZone::get(self.model.zone.name()).unwrap());
        for counts in [&mut self.model.sent, &mut self.model.lost] {
            let (old, new) = (counts.remove(&before).unwrap_or(0), counts.get(&after).copied().unwrap_or(0));
            counts.insert(after, if before == after { old } else { old.max(new) });
        }
        if self.model.active.remove(&before) {
            self.model.active.insert(after);
        }
        self.model.zone_changed = true;
        // The rows of other days are still those of the other zone.
        self.model.only_the_limit |= self.model.jumped;
    }

    fn step(&mut self) {
        let kind = self.random.u8(..100);
        if self.trace {
            eprintln!(
                "{kind}: {} in {:?}, limit {}, {:?}",
                self.today(),
                self.model.zone.name(),
                self.model.limit,
                self.model.sent
            );
            eprintln!("    lost {:?}, {} calls, {:?}", self.model.lost, self.calls.len(), self.quota.day());
        }
        match kind {
            0..40 => {
                self.call();
            }
            40..70 => self.advance(),
            70..82 => self.work(false),
            82..88 => {
                let succeeds = self.random.u8(..4) > 0;
                self.commit(succeeds);
            }
            88 => self.marks.fails = true,
            89 => self.settle(),
            90..92 => self.kill(),
            92 => self.restart(),
            93 => self.change_limit(),
            94 if self.random.u8(..4) == 0 => self.change_zone(),
            95 if self.random.u8(..6) == 0 => self.lose_power(),
            96 if self.random.u8(..6) == 0 => self.lose_a_record(),
            97 => self.jump(),
            _ => drop(self.clock.fetch_add(self.random.i64(0..2 * HOUR), Ordering::Relaxed)),
        }
    }

    /// The clock is wrong for a while, and somebody calls.
    fn jump(&mut self) {
        if self.model.lost_a_record {
            return;
        }
        self.model.jumped = true;
        self.model.only_the_limit |= self.model.zone_changed;
        let by = [3 * DAY, -2 * DAY, 31 * DAY, 3_652 * DAY, HOUR, -HOUR][self.random.usize(..6)];
        self.clock.fetch_add(by, Ordering::Relaxed);
        for _ in 0..self.random.u8(..4) {
            self.call();
            self.advance();
        }
        if self.random.u8(..3) > 0 {
            self.clock.fetch_sub(by, Ordering::Relaxed);
        }
    }
}

fn quota(ledger: &Arc<QueuedLedger>, model: &Model, clock: &'static AtomicI64) -> Quota {
    let context = CounterContext {
        id: CounterId::Service("s".into()),
        clock: WallClock::stepped(clock),
        ledger: Some(ledger.clone()),
    };
    Quota::new(&settings(model.limit), &TimeZone::get(model.zone.name()).unwrap(), context)
}

#[test]
fn no_history_exceeds_a_limit_or_loses_more_than_stated() {
    let number = |name| std::env::var(name).ok().map(|number| number.parse::<u64>().unwrap());
    let one = number("FASTRAC_HISTORY");
    let histories = one.map_or(0..number("FASTRAC_HISTORIES").unwrap_or(HISTORIES), |one| one..one + 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let _entered = runtime.enter();
    let clock: &'static AtomicI64 = Box::leak(Box::default());
    for seed in histories {
        let history = std::panic::catch_unwind(|| {
            let mut history = History::new(seed, clock);
            history.trace = one.is_some();
            for _ in 0..120 {
                history.step();
            }
            // What is left can be used up, exactly.
            history.settle();
            while history.call() {}
        });
        assert!(history.is_ok(), "seed {seed}");
    }
}

/// First the store is lost, later the power: the start has put into the store what only the file had.
#[test]
fn what_only_the_file_had_is_in_the_store_after_a_start() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let _entered = runtime.enter();
    for number in [1, 30] {
        let mut history = History::new(3, Box::leak(Box::default()));
        history.model.limit = 40;
        history.quota.reconfigure(&settings(40));
        history.settle();
        for _ in 0..number {
            assert!(history.call());
            let mut call = history.calls.pop().unwrap();
            while poll_once(call.claim.record(Instant::now())) != Some(Ok(())) {
                history.settle();
            }
            call.claim.keep();
        }
        history.rows.0.clear();
        history.start();
        assert_eq!(history.quota.used_today(), number);
        history.settle();
        history.marks.cached.clear();
        history.boot += 1;
        history.start();
        assert!(history.quota.used_today() >= number, "{} of {number}", history.quota.used_today());
    }
}
