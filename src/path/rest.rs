//! The attempts that are made when the line of their request is written already, because its caller has left: the fetch of a
//! fill and an order go on.
//!
//! What always holds: they get a line of their own, which begins at that one, also if what makes them is dropped, so that
//! each attempt is in exactly one.
//! Must not know what they are for. Never fails.

use tokio::time::Instant;

use super::{Exchange, UpstreamCall};
use crate::{attempts::Attempts, refusal::Refusal, reply::Reply};

pub(super) struct RestOfAttempts<'a> {
    call: &'a UpstreamCall,
    attempts: Attempts,
}

impl<'a> RestOfAttempts<'a> {
    /// Those of a call, once there are any.
    pub(super) fn of(call: &'a UpstreamCall, attempts: &Attempts) -> Self {
        RestOfAttempts { call, attempts: attempts.clone() }
    }

    /// Their exchange, if there are any.
    pub(super) fn exchange(&self) -> Option<Exchange> {
        let ago = self.attempts.unlogged(Instant::now())?;
        Some(self.call.own_exchange().of_attempts(self.attempts.clone(), ago))
    }

    /// They are over, with this result.
    pub(super) fn finish(self, outcome: &Result<Reply, Refusal>) {
        if let Some(mut x) = self.exchange() {
            x.finish(outcome, Instant::now());
        }
    }
}

impl Drop for RestOfAttempts<'_> {
    fn drop(&mut self) {
        drop(self.exchange());
    }
}
