//! The names that become labels: those of one configuration snapshot, and the results of the cache.
//!
//! Pure. An index that is absent or out of range has the name [`NONE`]; nothing here panics.

use crate::config::Class;

/// Label of an unknown service, operation or account.
pub(super) const NONE: &str = "-";

/// Names of one configuration snapshot. Records carry their indices.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Accounts.
    pub accounts: Vec<String>,
    /// Services, each with the index of its account.
    pub services: Vec<(String, usize)>,
    /// Operations with their class, `unlisted` included.
    pub operations: Vec<(String, Class)>,
}

impl Names {
    pub(super) fn account(&self, index: Option<usize>) -> &str {
        index.and_then(|index| self.accounts.get(index)).map_or(NONE, String::as_str)
    }

    pub(super) fn account_of(&self, service: Option<usize>) -> &str {
        self.account(service.and_then(|index| self.services.get(index)).map(|(_, account)| *account))
    }

    pub(super) fn service(&self, index: Option<usize>) -> &str {
        index.and_then(|index| self.services.get(index)).map_or(NONE, |(name, _)| name)
    }

    pub(super) fn operation(&self, index: Option<usize>) -> &str {
        index.and_then(|index| self.operations.get(index)).map_or(NONE, |(name, _)| name)
    }

    pub(super) fn class(&self, index: Option<usize>) -> Option<Class> {
        index.and_then(|index| self.operations.get(index)).map(|(_, class)| *class)
    }
}

/// What the cache did for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumCount, strum::VariantArray, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum CacheResult {
    /// Answered from a fresh entry.
    Hit,
    /// Fastrac was called.
    Miss,
    /// Answered from an entry past its freshness.
    Stale,
    /// Shared the answer of a request that was already in flight.
    Joined,
    /// The cache was bypassed.
    Bypass,
}

impl CacheResult {
    /// Its word in metrics and log.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}
