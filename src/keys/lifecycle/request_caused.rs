//! Which requests cause their own 401s: a canary has shown that the pair was good.
//!
//! Remembered for a service (or the gateway itself) and an operation, never for the pair, so that a service that keeps
//! causing 401s costs neither readings nor canaries while other requests show that the pair is good, and every other
//! service gets a decision of its own. Forgotten after a while, and when the pair changes or is refused. Pure; never fails.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

/// How long it is remembered: so often a service may cause a reading and a canary.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Maximum number of pairs of service and operation; further ones are not remembered.
const MAX_ORIGINS: usize = 4096;

/// Who sent a request, and which operation it asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RequestOrigin {
    /// `None`: the gateway itself, for a refresh, a walk or a read about an order.
    pub(crate) service: Option<Arc<str>>,
    pub(crate) operation: Arc<str>,
}

/// The origins whose 401s are their own, and until when that is remembered.
#[derive(Default)]
pub(super) struct RequestCaused(HashMap<RequestOrigin, Instant>);

impl RequestCaused {
    pub(super) fn remember(&mut self, origin: &RequestOrigin, now: Instant) {
        if self.0.len() >= MAX_ORIGINS {
            self.0.retain(|_, until| *until > now);
        }
        if self.0.len() < MAX_ORIGINS || self.0.contains_key(origin) {
            self.0.insert(origin.clone(), now + REMEMBERED);
        }
    }

    pub(super) fn contains(&self, origin: &RequestOrigin, now: Instant) -> bool {
        self.0.get(origin).is_some_and(|until| now < *until)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
