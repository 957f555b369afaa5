//! Who spends the accounts' budgets: units sent to Fastrac, by service, operation and day.
//!
//! For reports only: nothing is limited by these counts. What always holds: a request is counted once it may have been sent,
//! in the day of its account's zone; counts are kept by name, so a reload keeps them, and so does a restart. They are
//! written to the store every [`WRITE_INTERVAL`] and at a clean stop, so `kill -9` loses what came after the last write. A request costs
//! an index and a short lock that only requests of the same service and operation share. The room knows no requests. A
//! write that fails is repeated with the next one.

mod day;
mod row;
mod spenders;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::{civil::Date, tz::TimeZone};
use parking_lot::Mutex;

use crate::store::{Store, StoreError, WriteBatch};
use day::AccountDay;
use row::{SPENT, SpentRow};
pub use spenders::{Spender, SpenderIndex, SpenderKey, Spenders};

/// How often the counts are written.
pub const WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// Dates whose rows are kept in the store: the newest ones. Not an age, so that a clock that is ahead removes nothing of
/// the days before.
const KEPT_DATES: usize = 9;

/// The counts of all services and accounts.
#[derive(Debug)]
pub struct Spending {
    store: Store,
    state: Mutex<SpendingState>,
    /// The last write failed: the next one repeats everything.
    rewrite: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct SpendingState {
    accounts: BTreeMap<String, Arc<AccountDay>>,
    spenders: BTreeMap<SpenderKey, Arc<Spender>>,
    /// Keys of the rows in the store, by date.
    stored: BTreeMap<Date, BTreeSet<Vec<u8>>>,
}

/// Units that a service has spent today with one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpentToday {
    pub key: SpenderKey,
    pub units: u64,
}

impl Spending {
    /// Loads the counts of the newest days.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read.
    pub async fn open(store: Store) -> Result<Arc<Self>, StoreError> {
        let loaded = store.load(&SPENT).await?;
        let mut state = SpendingState::default();
        for row in loaded.rows {
            let Some((date, key)) = row::decode_key(&row.key) else { continue };
            state.stored.entry(date).or_default().insert(row.key);
            state.spender(&key).restore(date, row.row.units);
        }
        Ok(Arc::new(Spending { store, state: Mutex::new(state), rewrite: Arc::default() }))
    }

    /// Sets the zone in which the account's days begin. A change carries today's counts over.
    pub fn set_zone(&self, account: &str, zone: &TimeZone) {
        let mut state = self.state.lock();
        let Some(moved) = state.account(account).set_zone(zone) else { return };
        for (_, spender) in state.spenders.iter().filter(|(key, _)| key.account == account) {
            spender.carry_over(moved.from, moved.to);
        }
    }

    /// The spender of this name, for good.
    fn spender(&self, key: &SpenderKey) -> Arc<Spender> {
        self.state.lock().spender(key)
    }

    /// What was spent today, by name; without those that have spent nothing.
    pub fn today(&self) -> Vec<SpentToday> {
        let state = self.state.lock();
        let spent = state.spenders.iter().map(|(key, spender)| SpentToday { key: key.clone(), units: spender.today() });
        spent.filter(|spent| spent.units > 0).collect()
    }

    /// The services that have spent most of an account's budget today, at most `count`, and how many units. `-` is the
    /// gateway itself.
    pub fn top_services(&self, account: &str, count: usize) -> Vec<(String, u64)> {
        let mut services: BTreeMap<String, u64> = BTreeMap::new();
        for spent in self.today().into_iter().filter(|spent| spent.key.account == account) {
            *services.entry(spent.key.service).or_default() += spent.units;
        }
        let mut services: Vec<_> = services.into_iter().collect();
        services.sort_by(|(_, a), (_, b)| b.cmp(a));
        services.truncate(count);
        services
    }

    /// Submits what has changed since the last call to the store, and removes the rows of old days.
    pub fn write(&self) {
        let batch = self.state.lock().changes(self.rewrite.swap(false, Ordering::Relaxed));
        if batch.is_empty() {
            return;
        }
        let rewrite = self.rewrite.clone();
        self.store.submit(batch, move |written| {
            if written.is_err() {
                rewrite.store(true, Ordering::Relaxed);
            }
        });
    }
}

impl SpendingState {
    fn account(&mut self, name: &str) -> Arc<AccountDay> {
        self.accounts.entry(name.to_owned()).or_default().clone()
    }

    fn spender(&mut self, key: &SpenderKey) -> Arc<Spender> {
        if let Some(known) = self.spenders.get(key) {
            return known.clone();
        }
        let spender = Arc::new(Spender::new(self.account(&key.account)));
        self.spenders.insert(key.clone(), spender.clone());
        spender
    }

    /// The rows to write: those that have changed, or all that are in memory.
    fn changes(&mut self, all: bool) -> WriteBatch {
        let mut batch = WriteBatch::default();
        for (key, spender) in &self.spenders {
            for (date, units) in spender.unwritten(all) {
                let row_key = row::encode_key(date, key);
                batch.put(&SPENT, &row_key, &SpentRow { units });
                self.stored.entry(date).or_default().insert(row_key);
            }
        }
        while self.stored.len() > KEPT_DATES
            && let Some((_, old)) = self.stored.pop_first()
        {
            old.iter().for_each(|key| batch.remove(&SPENT, key));
        }
        // Those of removed services and operations; a snapshot holds the others.
        self.spenders.retain(|_, spender| Arc::strong_count(spender) > 1 || spender.today() > 0);
        batch
    }
}
