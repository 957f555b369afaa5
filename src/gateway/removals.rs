//! What a reload would remove, and whether that must be confirmed. Pure.
//!
//! An emptied, truncated or half written file is a valid configuration that lacks accounts or services. Their callers
//! would be refused at once, so that much is removed only on an operator's word.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::Config;

/// Accounts and services that a configuration lacks; displayed as what would be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removals {
    /// Accounts that a service uses.
    pub accounts: Vec<String>,
    pub services: Vec<String>,
    /// Services in force.
    pub of: usize,
}

/// Names in a message.
const NAMED: usize = 10;

/// The accounts and services of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    pub accounts: BTreeSet<String>,
    /// With the account that each uses.
    pub services: BTreeMap<String, String>,
}

impl Inventory {
    pub fn of(config: &Config) -> Self {
        let account = |index: usize| config.accounts.get(index).map(|account| account.name.clone()).unwrap_or_default();
        Inventory {
            accounts: config.accounts.iter().map(|account| account.name.clone()).collect(),
            services: config.services.iter().map(|it| (it.name.clone(), account(it.account))).collect(),
        }
    }
}

impl Removals {
    /// What `new` would remove of what is in force, if that must be confirmed. `fraction` is `reload.removals` of the
    /// configuration in force, because the new one may have lost it.
    pub fn to_confirm(in_force: &Inventory, new: &Inventory, fraction: f64) -> Option<Removals> {
        let used: BTreeSet<&String> = in_force.services.values().collect();
        let services = in_force.services.keys().filter(|name| !new.services.contains_key(*name));
        let removed = Removals {
            accounts: used.into_iter().filter(|name| !new.accounts.contains(*name)).cloned().collect(),
            services: services.cloned().collect(),
            of: in_force.services.len(),
        };
        let count = removed.services.len();
        let many = count > 1 && count as f64 > fraction * removed.of as f64;
        (many || !removed.accounts.is_empty()).then_some(removed)
    }
}

impl std::fmt::Display for Removals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it would remove ")?;
        if !self.accounts.is_empty() {
            write!(f, "accounts in use ({}) and ", named(&self.accounts))?;
        }
        write!(f, "{} of {} services", self.services.len(), self.of)?;
        if !self.services.is_empty() {
            write!(f, " ({})", named(&self.services))?;
        }
        f.write_str("; confirm that with `fastrac-gateway reload --confirm-removals`")
    }
}

fn named(names: &[String]) -> String {
    let more = if names.len() > NAMED { ", …" } else { "" };
    format!("{}{more}", names[..names.len().min(NAMED)].join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(services: &[(&str, &str)]) -> Inventory {
        let owned = |(name, account): &(&str, &str)| (name.to_string(), account.to_string());
        let services: BTreeMap<String, String> = services.iter().map(owned).collect();
        Inventory { accounts: services.values().cloned().chain(["spare".to_owned()]).collect(), services }
    }

    fn services(count: usize) -> Inventory {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        inventory(&names[..count].iter().map(|name| (*name, "main")).collect::<Vec<_>>())
    }

    #[test]
    fn an_account_in_use_or_too_many_services() {
        for (before, after, fraction, to_confirm) in [
            (10, 8, 0.2, false),
            (10, 7, 0.2, true),
            // One service is never too many.
            (2, 1, 0.2, false),
            (4, 2, 0.2, true),
            (10, 1, 1.0, false),
            (10, 9, 0.0, false),
            (10, 8, 0.0, true),
        ] {
            let found = Removals::to_confirm(&services(before), &services(after), fraction);
            assert_eq!(found.is_some(), to_confirm, "{before} to {after}, {fraction}: {found:?}");
        }
        let (two, one) = (inventory(&[("a", "main"), ("b", "other")]), inventory(&[("a", "main"), ("b", "main")]));
        let removed = Removals::to_confirm(&two, &one, 0.2).unwrap();
        assert_eq!((removed.accounts, removed.services), (vec!["other".to_owned()], vec![]));
        // `spare` serves nobody.
        let mut without = two.clone();
        without.accounts.remove("spare");
        assert_eq!(Removals::to_confirm(&two, &without, 0.2), None);
        assert_eq!(Removals::to_confirm(&one, &two, 0.2), None);
    }
}
