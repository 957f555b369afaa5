//! Whether the gateway has been ready since its start: then it stays ready, because hits and clear refusals are useful
//! whatever is lost. Never fails.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

use crate::snapshot::Account;

/// What has been ready so far.
#[derive(Debug, Default)]
pub(super) struct ReadySoFar {
    gateway: AtomicBool,
    /// Names of accounts.
    accounts: Mutex<BTreeSet<String>>,
}

impl ReadySoFar {
    /// Whether at some time every account's source had been read and at least one account had a usable pair.
    pub(super) fn gateway<'a>(&self, mut accounts: impl Iterator<Item = &'a Account> + Clone) -> bool {
        if !self.gateway.load(Ordering::Relaxed)
            && accounts.clone().all(|account| account.keys.status().source.was_read())
            && accounts.any(|account| account.keys.lease().is_ok())
        {
            self.gateway.store(true, Ordering::Relaxed);
        }
        self.gateway.load(Ordering::Relaxed)
    }

    /// Whether at some time the account had a usable pair.
    pub(super) fn account(&self, account: &Account) -> bool {
        let mut ready = self.accounts.lock();
        if !ready.contains(&account.name) && account.keys.lease().is_ok() {
            ready.insert(account.name.clone());
        }
        ready.contains(&account.name)
    }
}
