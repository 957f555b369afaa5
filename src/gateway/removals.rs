//! What a reload would remove, and whether that must be confirmed. Pure.
//!
//! An emptied, truncated or half written file is a valid configuration that lacks accounts or services. Their callers
//! would be refused at once, so that much is removed only on an operator's word.

use std::collections::BTreeSet;

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

impl Removals {
    /// What `new` would remove from the configuration in force, if that must be confirmed. The fraction is that of the
    /// configuration in force, because the new one may have lost it.
    pub fn to_confirm(in_force: &Config, new: &Config) -> Option<Removals> {
        let accounts: BTreeSet<&str> = new.accounts.iter().map(|account| account.name.as_str()).collect();
        let services: BTreeSet<&str> = new.services.iter().map(|service| service.name.as_str()).collect();
        let used: BTreeSet<usize> = in_force.services.iter().map(|service| service.account).collect();
        let used = used.into_iter().filter_map(|index| Some(in_force.accounts.get(index)?.name.as_str()));
        let removed = Removals {
            accounts: used.filter(|name| !accounts.contains(name)).map(str::to_owned).collect(),
            services: in_force
                .services
                .iter()
                .map(|service| service.name.as_str())
                .filter(|name| !services.contains(name))
                .map(str::to_owned)
                .collect(),
            of: in_force.services.len(),
        };
        let allowed = in_force.reload.removals * removed.of as f64;
        let many = removed.services.len() > 1 && removed.services.len() as f64 > allowed;
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
    use std::path::Path;

    use super::*;
    use crate::config::check::{Environment, check};

    fn config(services: &[(&str, &str)], removals: &str) -> Config {
        let mut text = removals.to_owned();
        let accounts: BTreeSet<&str> = services.iter().map(|(_, account)| *account).chain(["spare"]).collect();
        for account in accounts {
            text.push_str(&format!("[accounts.{account}]\nbase_url = \"https://f.example\"\n"));
            text.push_str("keys = { source = \"file\", path = \"keys.toml\" }\n");
        }
        for (name, account) in services {
            let credential = format!("{{ access_key = \"{name}\", secret_sha256 = \"{}\" }}", "1".repeat(64));
            text.push_str(&format!("[services.{name}]\naccount = \"{account}\"\ncredentials = [{credential}]\n"));
        }
        let checked = check(&text, Path::new("/"), &Environment::default());
        checked.config.unwrap_or_else(|| panic!("{:?}", checked.errors))
    }

    fn services(count: usize) -> Vec<(&'static str, &'static str)> {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        names[..count].iter().map(|name| (*name, "main")).collect()
    }

    #[test]
    fn an_account_in_use_or_too_many_services() {
        for (before, after, removals, to_confirm) in [
            (10, 8, "", false),
            (10, 7, "", true),
            // One service is never too many.
            (2, 1, "", false),
            (4, 2, "", true),
            (10, 1, "[reload]\nremovals = 1\n", false),
            (10, 9, "[reload]\nremovals = 0\n", false),
            (10, 8, "[reload]\nremovals = 0\n", true),
        ] {
            // The fraction in force counts, not that of the new file.
            let found = Removals::to_confirm(&config(&services(before), removals), &config(&services(after), ""));
            assert_eq!(found.is_some(), to_confirm, "{before} to {after}, {removals}: {found:?}");
        }
        let (two, one) = ([("a", "main"), ("b", "other")], [("a", "main"), ("b", "main")]);
        let removed = Removals::to_confirm(&config(&two, ""), &config(&one, "")).unwrap();
        assert_eq!((removed.accounts, removed.services), (vec!["other".to_owned()], vec![]));
        // `spare` serves nobody.
        let mut without = config(&two, "");
        without.accounts.retain(|account| account.name != "spare");
        assert_eq!(Removals::to_confirm(&config(&two, ""), &without), None);
        assert_eq!(Removals::to_confirm(&config(&one, ""), &config(&two, "")), None);
    }
}
