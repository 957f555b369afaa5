//! The result of one fetch from Fastrac that all requests for the same cache key share.
//!
//! Below `snapshot`, which holds the flights, and `path`, which completes them: both need these types. What always
//! holds: a result is immutable once it is shared; each waiting request makes a reply of its own from it. No logic.

use std::{sync::Arc, time::Duration};

use crate::{cache::CacheEntry, outcome::Code, refusal::Refusal};

/// A result as the waiting requests share it.
pub type SharedFetch = Arc<FetchResult>;

/// What the leader's fetch came to.
pub type FetchResult = Result<Fetched, FetchRefused>;

/// A fetch that brought nothing.
pub struct FetchRefused {
    pub refusal: Refusal,
    /// Name of the service that began it; `None`: the gateway itself.
    pub service: Option<String>,
    /// Status of a response of Fastrac's that may not be passed on.
    pub status: Option<u16>,
    /// How long it was tried.
    pub after: Duration,
}

/// The response to a shared fetch.
pub struct Fetched {
    /// The whole response; not necessarily stored.
    pub entry: Arc<CacheEntry>,
    /// Whether it answers the request: callers get it rather than a stale response, whether it may be stored or not.
    pub is_answer: bool,
    /// Whether the cache keeps it.
    pub stored: bool,
    /// Set if a limit of Fastrac's decided.
    pub code: Option<Code>,
    /// How long to wait before trying again.
    pub retry_after: Option<Duration>,
}
