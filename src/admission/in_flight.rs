//! How many requests the process serves at the same time. Beyond that its memory could run out.
//!
//! What always holds: never more than [`LIMIT`] permits exist; a dropped permit is free again. Must not know requests.
//! Fails with `None`, without waiting.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Requests that one process serves at the same time, at most.
const LIMIT: usize = 20_000;

/// Counts the requests being served. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct InFlightLimit {
    now: Arc<AtomicUsize>,
}

/// A request being served; counted until it is dropped.
#[must_use = "the request counts until it is dropped"]
pub struct InFlightPermit {
    now: Arc<AtomicUsize>,
}

impl InFlightLimit {
    /// A permit for one more request; `None` if [`LIMIT`] requests are in flight.
    pub fn enter(&self) -> Option<InFlightPermit> {
        let before = self.now.fetch_add(1, Ordering::Relaxed);
        let permit = InFlightPermit { now: self.now.clone() };
        (before < LIMIT).then_some(permit)
    }
}

impl Drop for InFlightPermit {
    fn drop(&mut self) {
        self.now.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_every_permit_comes_back() {
        let limit = InFlightLimit::default();
        let permits: Vec<_> = (0..LIMIT).map_while(|_| limit.enter()).collect();
        assert_eq!((permits.len(), limit.enter().is_none()), (LIMIT, true));
        drop(permits);
        assert!(limit.enter().is_some());
    }
}
