//! `[services.NAME]`, checked: one internal caller.
//!
//! Plain values; see [`Config`](super::Config) for what always holds.

use super::{Class, Priority, Rate};

/// `[services.NAME]`: one internal caller.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    pub name: String,
    /// Index into `Config::accounts`.
    pub account: usize,
    pub priority: Priority,
    pub quota: QuotaConfig,
    /// Guaranteed fraction of the account's budget, 0 to 1.
    pub share: f64,
    /// Classes that it may call.
    pub allow_classes: Vec<Class>,
    /// Names of further operations that it may call.
    pub allow_operations: Vec<String>,
    pub credentials: Vec<CredentialConfig>,
    /// Subject alternative names of client certificates that identify it; DNS names are lower case.
    pub identities: Vec<String>,
    /// Whether cache hits and joined calls count against the per-second quota.
    pub charge_hits_second: bool,
    /// Whether cache hits and joined calls count against the per-day quota.
    pub charge_hits_day: bool,
    /// Whether its `cache-control: no-cache` may cause a request to Fastrac.
    pub force_refresh: bool,
}

/// How much a service may ask of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaConfig {
    /// Requests per second with a burst; `None`: not limited.
    pub second: Option<Rate>,
    /// Requests per calendar day; `None`: not limited.
    pub day: Option<u64>,
    /// Whether what is beyond the limits is refused; if not, it is only reported.
    pub enforce: bool,
}

/// An access key and the digest of its secret.
#[derive(Clone)]
pub struct CredentialConfig {
    /// 1 to 64 characters of `[A-Za-z0-9_-]`, unique in the file.
    pub access_key: String,
    pub secret_sha256: [u8; 32],
    pub expires: Option<CredentialExpiry>,
}

/// When a credential ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CredentialExpiry {
    /// The last day on which it is valid.
    pub last_day: jiff::civil::Date,
    /// The end of that day in the account's `day_zone`: from then on it is refused.
    pub ends: jiff::Timestamp,
}

impl std::fmt::Debug for CredentialConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CredentialConfig").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}
