//! What belongs to the addresses of an account, and not to the account itself.
//!
//! All snapshots in which an account is called at the same addresses share one [`AddressState`]. A reload that gives
//! it others, or removes it, leaves that value; requests that began before go on with it. What always holds: once
//! [`Account::leave`] has returned, nothing that such a request brings decides anything about later ones: not the
//! breakers and second attempts, which are the value's own, nor the account's pauses, rate and pairs, which are told
//! nothing. Must not know requests. [`Account::check_pair`] fails with [`NoKey::Moved`].

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Account;
use crate::{
    admission::{BudgetRequest, LimitResponse},
    config::AccountConfig,
    keys::{Lease, NoKey, PairVersion, RefusedRequest, Remedy, SourceId, TriedPair},
    upstream::{Breakers, RetryBudget},
};

/// The state of an account's addresses.
pub struct AddressState {
    pub breakers: Breakers,
    pub retries: Arc<RetryBudget>,
    /// The account's key source when it began to be called at these addresses.
    source: SourceId,
    /// When the account began to be called elsewhere, or nowhere.
    left: OnceLock<Instant>,
    /// Held while the account is told what these addresses say, so that nothing is being told once they are left.
    telling: Mutex<()>,
}

impl AddressState {
    pub(crate) fn new(account: &AccountConfig, source: SourceId) -> Self {
        AddressState::with(Breakers::new(&account.name, &account.breaker), account, source)
    }

    /// That of the account's next addresses.
    pub(crate) fn elsewhere(&self, account: &AccountConfig, source: SourceId) -> Self {
        AddressState::with(self.breakers.elsewhere(&account.breaker), account, source)
    }

    fn with(breakers: Breakers, account: &AccountConfig, source: SourceId) -> Self {
        let retries = Arc::new(RetryBudget::new(account.retries));
        AddressState { breakers, retries, source, left: OnceLock::new(), telling: Mutex::new(()) }
    }

    /// Whether the account is not called at these addresses any more.
    pub(crate) fn is_left(&self) -> bool {
        self.left.get().is_some()
    }

    fn leave(&self) {
        let _telling = self.telling.lock();
        self.left.get_or_init(Instant::now);
        self.breakers.leave();
    }

    /// Tells the account something that these addresses have said; `None` if they are left.
    fn tell<T>(&self, tell: impl FnOnce() -> T) -> Option<T> {
        let _telling = self.telling.lock();
        (!self.is_left()).then(tell)
    }
}

impl Account {
    /// The account is not called at these addresses any more. To be called before requests begin that go to others.
    pub(crate) fn leave(&self) {
        self.address.leave();
    }

    /// Whether the pair may be sent to these addresses: not if it was read for those that the account has now, nor if only
    /// sources before theirs have returned it. (The rotation task may not know of the reload yet, which gives up such a
    /// pair, or its canary may be late.)
    ///
    /// # Errors
    /// [`NoKey::Moved`].
    pub(crate) fn check_pair(&self, pair: &Lease) -> Result<(), NoKey> {
        let is_early = || self.address.left.get().is_none_or(|left| pair.was_read_before(*left));
        (pair.source() >= self.address.source && is_early()).then_some(()).ok_or(NoKey::Moved)
    }

    /// Fastrac has refused a request because there were too many. Returns how long the same request has to wait.
    pub(crate) fn throttled(&self, limit: LimitResponse, again: BudgetRequest) -> Duration {
        self.address.tell(|| self.budget.throttled(limit, again)).unwrap_or_default()
    }

    /// Fastrac has accepted a request that was signed with the pair and sent at `sent`. No lock: each request says so.
    pub(crate) fn accepted(&self, pair: &Lease, sent: Instant) {
        if !self.address.is_left() {
            pair.note_accepted(sent);
        }
    }

    /// Fastrac has accepted a request with this pair that it had refused with others.
    pub(crate) fn accepted_instead(&self, pair: PairVersion, tried: &[TriedPair]) {
        self.address.tell(|| self.keys.accepted(pair, tried));
    }

    /// Fastrac has refused a request's key pair. Says what to do. About addresses that are left, nothing is found out.
    pub(crate) async fn refused(&self, request: RefusedRequest) -> Remedy {
        if self.address.is_left() {
            return Remedy::Undecided;
        }
        let remedy = self.keys.refused(request).await;
        // What was found out meanwhile may be what the new address says.
        if self.address.is_left() { Remedy::Undecided } else { remedy }
    }
}
