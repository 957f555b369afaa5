//! Quotas and budgets by name, with what was used of them.
//!
//! What always holds: what a service or an account has used today is counted until its day ends, whatever a reload does
//! in the meantime: removes it and adds it again, changes its limits, its account or its time zone. In memory only: a
//! restart begins with empty counts. Never fails.

use std::{collections::BTreeMap, sync::Arc};

use jiff::tz::TimeZone;
use parking_lot::Mutex;

use crate::{
    admission::{Budget, Quota, WallClock},
    config::{AccountConfig, Config, QuotaConfig, ServiceConfig},
};

/// The quotas of all services, and the budgets of all accounts.
#[derive(Debug, Default)]
pub(super) struct Counts {
    quotas: Mutex<BTreeMap<String, KnownQuota>>,
    budgets: Mutex<BTreeMap<String, Arc<Budget>>>,
}

#[derive(Debug)]
struct KnownQuota {
    settings: QuotaConfig,
    quota: Arc<Quota>,
}

impl Counts {
    /// A service's quota under its present settings. The day is that of its account's zone.
    pub(super) fn quota(&self, service: &ServiceConfig, zone: &TimeZone) -> Arc<Quota> {
        let mut quotas = self.quotas.lock();
        let quota = match quotas.get(&service.name) {
            Some(known) if known.settings == service.quota => known.quota.clone(),
            Some(known) => {
                known.quota.reconfigure(&service.quota);
                known.quota.clone()
            }
            None => Arc::new(Quota::new(&service.quota, zone, WallClock::system())),
        };
        quota.set_zone(zone);
        quotas.insert(service.name.clone(), KnownQuota { settings: service.quota.clone(), quota: quota.clone() });
        quota
    }

    /// An account's budget; a known one still has its previous settings.
    pub(super) fn budget(&self, account: &AccountConfig) -> Arc<Budget> {
        let mut budgets = self.budgets.lock();
        let new = || Arc::new(Budget::new(&account.budget, &account.day_zone, WallClock::system()));
        budgets.entry(account.name.clone()).or_insert_with(new).clone()
    }

    /// Forgets services and accounts that are not in the configuration and have used nothing today.
    pub(super) fn forget_unused(&self, config: &Config) {
        let mut quotas = self.quotas.lock();
        let by_name = |name: &String| config.services.binary_search_by(|service| service.name.cmp(name)).is_ok();
        quotas.retain(|name, known| by_name(name) || known.quota.used_today() > 0);
        let by_name = |name: &String| config.accounts.binary_search_by(|account| account.name.cmp(name)).is_ok();
        self.budgets.lock().retain(|name, budget| by_name(name) || budget.usage().used_today > 0);
    }
}
