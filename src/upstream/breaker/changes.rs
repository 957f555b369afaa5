//! Changes of a breaker's state: each is counted and is a line in the program's log. Never fails.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use strum::EnumCount as _;

use super::{State, window::Calls};
use crate::config::Class;

/// Counts and logs the changes of a breaker, and of those that take its place at other addresses of the account.
#[derive(Debug)]
pub(super) struct StateChanges {
    account: Box<str>,
    pub(super) class: Class,
    name: &'static str,
    /// How often each state was entered.
    counts: [AtomicU64; State::COUNT],
}

impl StateChanges {
    pub(super) fn new(name: &'static str, account: &str, class: Class) -> Self {
        StateChanges { account: account.into(), class, name, counts: Default::default() }
    }

    pub(super) fn count(&self, state: State) -> u64 {
        self.counts[state as usize].load(Ordering::Relaxed)
    }

    pub(super) fn opened(&self, open: Duration, because: Calls) {
        let (account, class, name) = self.labels();
        let Calls { total, failed, slow } = because;
        tracing::warn!(account, class, ?open, calls = total, failed, slow, "{name} open: Fastrac is failing");
        self.entered(State::Open);
    }

    pub(super) fn half_opened(&self, probes: u32) {
        let (account, class, name) = self.labels();
        tracing::info!(account, class, probes, "{name} half-open: probes may be sent");
        self.entered(State::HalfOpen);
    }

    pub(super) fn recovered(&self) {
        let (account, class, name) = self.labels();
        tracing::info!(account, class, "{name} closed: Fastrac has recovered");
        self.entered(State::Closed);
    }

    /// The account is called at other addresses, or not at all.
    pub(super) fn left(&self) {
        let (account, class, name) = self.labels();
        tracing::info!(account, class, "{name} closed: the account has left the address");
        self.entered(State::Closed);
    }

    /// Account, class and name, for the log.
    fn labels(&self) -> (&str, &'static str, &'static str) {
        (&self.account, self.class.as_str(), self.name)
    }

    fn entered(&self, state: State) {
        self.counts[state as usize].fetch_add(1, Ordering::Relaxed);
    }
}
