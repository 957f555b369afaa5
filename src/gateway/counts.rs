//! Quotas and budgets by name, with what was used of them.
//!
//! What always holds: what a service or an account has used today is counted until its day ends, whatever a reload does
//! in the meantime: removes it and adds it again, changes its limits, its account or its time zone. With a ledger the counts
//! outlive the process too. Never fails.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::tz::TimeZone;
use parking_lot::Mutex;

use crate::{
    admission::{Budget, CounterContext, CounterId, DayCounter, DayLedger, LastCounts, Quota, WallClock},
    config::{AccountConfig, Config, ServiceConfig},
};

/// How long a change of a zone waits for the ledger. After that the first requests wait for it.
const ZONE_WAIT: Duration = Duration::from_secs(1);

/// What days are counted with.
#[derive(Clone, Debug)]
pub struct Counting {
    pub clock: WallClock,
    /// `None`: the counts end with the process.
    pub ledger: Option<Arc<dyn DayLedger>>,
}

/// By the system clock, until the process ends.
impl Default for Counting {
    fn default() -> Self {
        Counting { clock: WallClock::system(), ledger: None }
    }
}

/// The quotas of all services, and the budgets of all accounts.
#[derive(Debug)]
pub(super) struct Counts {
    counting: Counting,
    quotas: Mutex<BTreeMap<String, Arc<Quota>>>,
    budgets: Mutex<BTreeMap<String, Arc<Budget>>>,
}

impl Counts {
    pub(super) fn new(counting: Counting) -> Self {
        Counts { counting, quotas: Mutex::default(), budgets: Mutex::default() }
    }

    /// A service's quota under its present settings. The day is that of its account's zone.
    pub(super) fn quota(&self, service: &ServiceConfig, zone: &TimeZone) -> Arc<Quota> {
        let mut quotas = self.quotas.lock();
        let new = || {
            let context = self.context(CounterId::Service(service.name.as_str().into()));
            Arc::new(Quota::new(&service.quota, zone, context))
        };
        let quota = quotas.entry(service.name.clone()).or_insert_with(new).clone();
        quota.reconfigure(&service.quota);
        quota.set_zone(zone);
        quota
    }

    /// An account's budget; a known one still has its previous settings.
    pub(super) fn budget(&self, account: &AccountConfig) -> Arc<Budget> {
        let mut budgets = self.budgets.lock();
        let new = || {
            let context = self.context(CounterId::Account(account.name.as_str().into()));
            Arc::new(Budget::new(&account.budget, &account.day_zone, context))
        };
        budgets.entry(account.name.clone()).or_insert_with(new).clone()
    }

    fn context(&self, id: CounterId) -> CounterContext {
        CounterContext { id, clock: self.counting.clock, ledger: self.counting.ledger.clone() }
    }

    /// Forgets services and accounts that are not in the configuration and have used nothing.
    pub(super) fn forget_unused(&self, config: &Config) {
        let mut quotas = self.quotas.lock();
        let by_name = |name: &String| config.services.binary_search_by(|service| service.name.cmp(name)).is_ok();
        quotas.retain(|name, quota| by_name(name) || !quota.day().is_unused());
        let by_name = |name: &String| config.accounts.binary_search_by(|account| account.name.cmp(name)).is_ok();
        self.budgets.lock().retain(|name, budget| by_name(name) || !budget.day().is_unused());
    }

    fn each(&self, mut visit: impl FnMut(CounterId, &Arc<DayCounter>)) {
        for (name, quota) in &*self.quotas.lock() {
            visit(CounterId::Service(name.as_str().into()), quota.day());
        }
        for (name, budget) in &*self.budgets.lock() {
            visit(CounterId::Account(name.as_str().into()), budget.day());
            budget.parts().iter().for_each(|part| visit(part.id().clone(), part));
        }
    }

    /// Leases the first units of tomorrow where today ends soon.
    pub(super) fn prepare_tomorrow(&self) {
        self.each(|_, day| day.prepare_tomorrow());
    }

    /// Leases units of the dates in the zones of a configuration that is to be put in force, so that no request waits for
    /// that. Blocks, but not for long.
    pub(super) fn prepare_zones(&self, config: &Config) {
        const PAUSE: Duration = Duration::from_millis(2);
        let end = Instant::now() + ZONE_WAIT;
        while !self.zones_are_prepared(config) && Instant::now() < end {
            std::thread::sleep(PAUSE);
        }
    }

    fn zones_are_prepared(&self, config: &Config) -> bool {
        let (quotas, budgets) = (self.quotas.lock(), self.budgets.lock());
        let services = config.services.iter().filter_map(|service| {
            Some(quotas.get(&service.name)?.prepare_zone(&config.accounts[service.account].day_zone))
        });
        let accounts = config.accounts.iter();
        let accounts = accounts.filter_map(|account| Some(budgets.get(&account.name)?.prepare_zone(&account.day_zone)));
        // All of them are asked for at once.
        services.chain(accounts).fold(true, |all, is_prepared| all & is_prepared)
    }

    /// Whether the ledger has granted everything that was requested so far.
    pub(super) fn are_leased(&self) -> bool {
        let mut all = true;
        self.each(|_, day| all = all && day.is_leased());
        all
    }

    /// Ends all counting: the last counts.
    pub(super) fn close(&self) -> LastCounts {
        let mut last = LastCounts::default();
        self.each(|id, day| last.days.extend(day.close().into_iter().map(|count| (id.clone(), count))));
        let quotas = self.quotas.lock();
        let budgets = self.budgets.lock();
        let services =
            quotas.iter().map(|(name, quota)| (CounterId::Service(name.as_str().into()), quota.bucket_mark()));
        let accounts =
            budgets.iter().map(|(name, budget)| (CounterId::Account(name.as_str().into()), budget.bucket_mark()));
        last.buckets = services.chain(accounts).collect();
        last
    }
}
