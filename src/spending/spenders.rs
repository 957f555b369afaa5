//! The counters of one configuration snapshot, found by index, and one such counter.

use std::sync::{Arc, OnceLock};

use jiff::civil::Date;
use parking_lot::Mutex;

use super::{Spending, day::AccountDay};

/// Days of a counter in memory. More than two are needed only if the clock jumps.
const DAYS: usize = 3;

/// Name of the gateway's own calls, such as canaries.
const OWN_CALLS: &str = "-";

/// Whose units are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpenderKey {
    pub account: String,
    /// `-`: the gateway itself.
    pub service: String,
    pub operation: String,
}

impl SpenderKey {
    /// `service`: absent for the gateway's own calls.
    pub fn new(account: &str, service: Option<&str>, operation: &str) -> Self {
        let service = service.unwrap_or(OWN_CALLS).to_owned();
        SpenderKey { account: account.to_owned(), service, operation: operation.to_owned() }
    }
}

/// The units that one service has spent with one operation.
#[derive(Debug)]
pub struct Spender {
    account: Arc<AccountDay>,
    /// The day that was counted last comes first.
    days: Mutex<Vec<SpentDay>>,
}

#[derive(Debug)]
struct SpentDay {
    date: Date,
    units: u64,
    /// Units that the store has.
    written: u64,
}

impl Spender {
    pub(super) fn new(account: Arc<AccountDay>) -> Self {
        Spender { account, days: Mutex::default() }
    }

    /// Counts units that were sent now.
    pub fn add(&self, units: u32) {
        let today = self.account.today();
        day(&mut self.days.lock(), today).units += u64::from(units);
    }

    pub(super) fn today(&self) -> u64 {
        let today = self.account.today();
        self.days.lock().iter().find(|day| day.date == today).map_or(0, |day| day.units)
    }

    pub(super) fn restore(&self, date: Date, units: u64) {
        let mut days = self.days.lock();
        let restored = day(&mut days, date);
        (restored.units, restored.written) = (units, units);
    }

    pub(super) fn carry_over(&self, from: Date, to: Date) {
        let mut days = self.days.lock();
        let Some(units) = days.iter().find(|day| day.date == from).map(|day| day.units) else { return };
        let day = day(&mut days, to);
        day.units = day.units.max(units);
    }

    /// The days to be written, which then count as written.
    pub(super) fn unwritten(&self, all: bool) -> Vec<(Date, u64)> {
        let mut days = self.days.lock();
        let changed = days.iter_mut().filter(|day| all || day.written != day.units);
        changed
            .map(|day| {
                day.written = day.units;
                (day.date, day.units)
            })
            .collect()
    }
}

/// The day of this date, moved to the front.
fn day(days: &mut Vec<SpentDay>, date: Date) -> &mut SpentDay {
    let day = match days.iter().position(|day| day.date == date) {
        Some(0) => return &mut days[0],
        Some(at) => days.remove(at),
        None => SpentDay { date, units: 0, written: 0 },
    };
    days.insert(0, day);
    days.truncate(DAYS);
    &mut days[0]
}

/// A counter by index: of the service, or of the account for the gateway's own calls.
#[derive(Clone, Copy, Debug)]
pub struct SpenderIndex {
    /// Absent: the gateway's own call.
    pub service: Option<usize>,
    pub account: usize,
    pub operation: usize,
}

type SpenderRow = OnceLock<Box<[OnceLock<Arc<Spender>>]>>;

/// The counters of one snapshot, resolved on first use.
#[derive(Debug)]
pub struct Spenders {
    spending: Arc<Spending>,
    /// By service, then by account; each by operation.
    rows: Box<[SpenderRow]>,
    services: usize,
    operations: usize,
}

impl Spenders {
    /// No counter yet. `services`, `accounts` and `operations`: how many there are.
    pub fn new(spending: Arc<Spending>, services: usize, accounts: usize, operations: usize) -> Self {
        let rows = (0..services + accounts).map(|_| OnceLock::new()).collect();
        Spenders { spending, rows, services, operations }
    }

    /// Counts units that were sent now. `key` names the counter when it is first used.
    pub fn add(&self, index: SpenderIndex, units: u32, key: impl FnOnce() -> SpenderKey) {
        let row = index.service.unwrap_or(self.services + index.account);
        let empty = || (0..self.operations).map(|_| OnceLock::new()).collect();
        let slot = self.rows.get(row).and_then(|row| row.get_or_init(empty).get(index.operation));
        if let Some(slot) = slot {
            slot.get_or_init(|| self.spending.spender(&key())).add(units);
        }
    }
}
