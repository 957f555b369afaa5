//! Checks across sections: shares and quotas of services against the budgets of accounts, identities against TLS, costs
//! against bursts.

use std::collections::BTreeSet;

use super::{Diagnostics, KeyPath};
use crate::config::{AccountConfig, ClientAuth, Config, KeySource, OperationConfig, ServiceConfig};

/// Sums of decimal fractions differ from 1 by less than this.
const ROUNDING: f64 = 1e-9;

/// Runs after the checks of each section. An account is `None` if it has an error of its own.
pub(super) fn check(accounts: &[Option<AccountConfig>], config: &Config, diagnostics: &mut Diagnostics) {
    for (index, account) in accounts.iter().enumerate() {
        let services: Vec<&ServiceConfig> = config.services.iter().filter(|service| service.account == index).collect();
        shares(&services, diagnostics);
        if let Some(account) = account {
            quotas(account, &services, diagnostics);
            costs(account, &config.operations, diagnostics);
        }
    }
    copies(config, diagnostics);
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

/// An operation that costs more than the bucket holds could never be sent.
fn costs(account: &AccountConfig, operations: &[OperationConfig], diagnostics: &mut Diagnostics) {
    let second = account.budget.second.map_or(u64::MAX, |rate| u64::from(rate.burst));
    let most = second.min(account.budget.day.unwrap_or(u64::MAX));
    for operation in operations.iter().filter(|operation| u64::from(operation.cost) > most) {
        let message = format!("must be at most {most}, the budget that account {} has at once", account.name);
        diagnostics.error(&KeyPath::at(["operations", &operation.name, "cost"]), message);
    }
}
