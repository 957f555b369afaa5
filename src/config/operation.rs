//! Rows of the operation table, checked.
//!
//! Plain values; see [`Config`](super::Config) for what always holds.

use std::time::Duration;

use super::{Api, Class};

/// One row of the operation table. No two rows match the same request.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationConfig {
    /// Such as `v2.city`; never the name of a class.
    pub name: String,
    /// Selects the account's address and auth style; `None`: the account's own.
    pub api: Option<Api>,
    /// Upper case.
    pub method: String,
    /// Path pattern: literal segments, and `{name}` for any one segment.
    pub path: String,
    /// Further paths of the same operation.
    pub aliases: Vec<String>,
    pub class: Class,
    /// Whether and how long responses are stored; `None`: never.
    pub cache: Option<CachePolicy>,
    /// Maximum duration of one attempt.
    pub timeout: Duration,
    /// Units of the account's budget that one request takes, at least 1.
    pub cost: u32,
    /// Whether requests come before others of their priority in the wait queue. Orders always do.
    pub urgent: bool,
    /// Lower-case names of request headers that are passed on and are part of the cache key.
    pub vary: Vec<String>,
}

/// How long responses of an operation are stored.
#[derive(Clone, Debug, PartialEq)]
pub struct CachePolicy {
    /// A stored response is used without asking Fastrac for this long; above zero.
    pub fresh: Duration,
    /// Age up to which a stored response may be used after `fresh`: while it is refreshed, or when Fastrac fails; zero:
    /// never.
    pub stale_if_error: Duration,
    /// Fraction of `fresh` after which a used entry is refreshed, above 0, at most 1; 1: never early.
    pub refresh_ahead: f64,
    /// How long a `not_found` response is stored; zero: never.
    pub not_found: Duration,
}
