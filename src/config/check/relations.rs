//! Checks across sections: shares and quotas of services against the budgets of accounts, identities against TLS, costs
//! against bursts.

use std::collections::{BTreeMap, BTreeSet};

use super::{Diagnostics, KeyPath};
use crate::config::{AccountConfig, ClientAuth, Config, KeySource, OperationConfig, ServiceConfig};

/// Sums of decimal fractions differ from 1 by less than this.
const ROUNDING: f64 = 1e-9;

/// Runs after the checks of each section. An account is `None` if it has an error of its own.
pub(super) fn check(accounts: &[Option<AccountConfig>], config: &Config, diagnostics: &mut Diagnostics) {
    let mut services_of: Vec<Vec<&ServiceConfig>> = vec![Vec::new(); accounts.len()];
    for service in &config.services {
        if let Some(services) = services_of.get_mut(service.account) {
            services.push(service);
        }
    }
    for (account, services) in accounts.iter().zip(&services_of) {
        shares(services, diagnostics);
        if let Some(account) = account {
            quotas(account, services, diagnostics);
        }
    }
    costs(accounts, &config.operations, diagnostics);
    copies(config, diagnostics);
    shared_sources(config, diagnostics);
    let asked_for = config.listen.tls.as_ref().is_some_and(|tls| tls.client_auth != ClientAuth::None);
    for service in config.services.iter().filter(|service| !service.identities.is_empty() && !asked_for) {
        let place = KeyPath::at(["services", &service.name, "identities"]);
        diagnostics.warn(&place, "has no effect: listen.tls requests no client certificate (set client_auth)");
    }
    let accounts = (accounts.is_empty(), "accounts", "a configuration needs an account of Fastrac");
    let services = (config.services.is_empty(), "services", "a configuration needs a service that may call");
    for (_, table, remedy) in [accounts, services].into_iter().filter(|(empty, ..)| *empty) {
        // a table with an error is left out, but exists
        if !diagnostics.lines().contains_below(&KeyPath::at([table])) {
            diagnostics.missing(&KeyPath::at([table]), remedy);
        }
    }
}

/// Two accounts with the same sealed copy would overwrite each other's.
fn copies(config: &Config, diagnostics: &mut Diagnostics) {
    let mut seen = BTreeSet::new();
    for account in &config.accounts {
        if let KeySource::Vault { sealed_copy: Some(copy), .. } = &account.keys
            && !seen.insert(&copy.path)
        {
            let place = KeyPath::at(["accounts", &account.name, "keys", "sealed_copy", "path"]);
            diagnostics.error(&place, "is also the copy of another account: give each account its own path");
        }
    }
}

/// The shares of an account's services may add up to at most 1.
fn shares(services: &[&ServiceConfig], diagnostics: &mut Diagnostics) {
    let mut sum = 0.0;
    for service in services {
        sum += service.share;
        if sum > 1.0 + ROUNDING {
            let message = "makes the shares of the services of its account add up to more than 1";
            diagnostics.error(&KeyPath::at(["services", &service.name, "share"]), message);
            return;
        }
    }
}

/// Quotas may exceed the budget, but that is worth a warning.
fn quotas(account: &AccountConfig, services: &[&ServiceConfig], diagnostics: &mut Diagnostics) {
    let place = KeyPath::at(["accounts", &account.name, "budget"]);
    let asked: u64 = services.iter().filter_map(|s| s.quota.second).map(|rate| u64::from(rate.per_second)).sum();
    if let Some(rate) = account.budget.second
        && asked > u64::from(rate.per_second)
    {
        let message = format!("the quotas of its services add up to {asked} a second, which is more than the budget");
        diagnostics.warn(&place.key("per_second"), message);
    }
    let asked = services.iter().filter_map(|service| service.quota.day).fold(0, u64::saturating_add);
    if let Some(day) = account.budget.day
        && asked > day
    {
        let message = format!("the quotas of its services add up to {asked} a day, which is more than the budget");
        diagnostics.warn(&place.key("per_day"), message);
    }
}

/// An operation that costs more than the bucket of an account holds could never be sent.
fn costs(accounts: &[Option<AccountConfig>], operations: &[OperationConfig], diagnostics: &mut Diagnostics) {
    let budget = |account: &AccountConfig| {
        let second = account.budget.second.map_or(u64::MAX, |rate| u64::from(rate.burst));
        second.min(account.budget.day.unwrap_or(u64::MAX))
    };
    let Some((most, account)) = accounts.iter().flatten().map(|account| (budget(account), account)).min_by_key(|a| a.0)
    else {
        return;
    };
    for operation in operations.iter().filter(|operation| u64::from(operation.cost) > most) {
        let message = format!("must be at most {most}, the budget that account {} has at once", account.name);
        diagnostics.error(&KeyPath::at(["operations", &operation.name, "cost"]), message);
    }
}

/// Warns of two accounts whose pair comes from the same place. (Accounts in one key file have tables of their own.)
fn shared_sources(config: &Config, diagnostics: &mut Diagnostics) {
    let mut seen: BTreeMap<[&str; 3], &str> = BTreeMap::new();
    for account in &config.accounts {
        let place = match &account.keys {
            KeySource::File { .. } => continue,
            KeySource::Directory { path } => ["directory", path.to_str().unwrap_or_default(), ""],
            KeySource::Vault { mount, path, .. } => ["vault", mount, path],
            KeySource::Env { access_key, secret_key } => ["env", access_key, secret_key],
        };
        match seen.get(&place) {
            Some(first) => {
                let key = KeyPath::at(["accounts", &account.name, "keys"]);
                diagnostics.warn(&key, same_pair(first));
            }
            None => drop(seen.insert(place, &account.name)),
        }
    }
}

/// What is said of an account with the key pair of another one.
pub(crate) fn same_pair(other: &str) -> String {
    format!("is the key pair of account {other:?} too: each counts a budget of its own for what Fastrac counts once")
}
