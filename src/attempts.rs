//! What asking Fastrac came to, as it is shared by all that waited for it.
//!
//! Stands below `snapshot`, which holds the flights, and below `path`, which makes them land: each
//! needs these types and neither may import the other. Holds no logic but the reply that each waiter
//! gets for itself.

use std::{sync::Arc, time::Duration};

use crate::{
    cache::Entry,
    outcome::{Code, Sent},
    refusal::Refusal,
};

/// What the attempts of one request came to, for its record.
#[derive(Clone, Debug, Default)]
pub struct Attempts {
    /// How often it was sent.
    pub count: u32,
    /// Whether Fastrac saw it.
    pub sent: Sent,
    /// The pair of the last attempt.
    pub key_version: Option<Arc<str>>,
    /// Time spent waiting for Fastrac.
    pub upstream: Duration,
    /// Time spent waiting for the budget.
    pub waited: Duration,
}

/// What a flight brought, shared by all that waited.
pub type Shared = Arc<FetchResult>;

/// What a flight brought.
pub struct FetchResult {
    /// The answer, or why there is none.
    pub result: Result<Fetched, Refusal>,
    /// What the attempts came to.
    pub attempts: Attempts,
}

/// An answer that a flight brought.
pub struct Fetched {
    /// The whole reply, of which each waiter gets its own.
    pub entry: Arc<Entry>,
    /// Whether it was stored.
    pub stored: bool,
    /// Why, if a limit of Fastrac's decided.
    pub code: Option<Code>,
    /// How long to wait before trying again.
    pub retry_after: Option<Duration>,
}
