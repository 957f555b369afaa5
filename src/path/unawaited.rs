//! Whether anybody waits for a call, and what is held back from one that nobody waits for.
//!
//! A refresh or a walk begins a call that nobody waits for; it is a caller's as soon as a request has joined it. What always
//! holds: without one, it is sent from spare budget only, whichever attempt it is. Must not know how a request is sent.
//! Fails with [`NotSpare`], which as a refusal concerns nobody who joins too late.

use super::{CallPriority, UpstreamCall};
use crate::{
    refusal::Refusal,
    spare::{self, NotSpare},
};

impl UpstreamCall {
    /// Whether a caller waits for it, or did: not if a refresh or a walk has begun it and no request has joined it.
    pub(super) fn is_awaited(&self) -> bool {
        match &self.priority {
            CallPriority::OfService(_) | CallPriority::OfWaiters(_) => true,
            CallPriority::Spare(bids) => bids.borrow().list().iter().any(|bid| bid.service.is_some()),
        }
    }

    /// Whether it could be sent although nobody waits for it.
    ///
    /// # Errors
    /// [`NotSpare`].
    pub(crate) fn check_surplus(&self) -> Result<(), NotSpare> {
        spare::check_surplus(&self.account)
    }

    /// Before a further attempt: one that nobody waits for needs spare budget as the first did.
    ///
    /// # Errors
    /// The refusal of an attempt for which there is none.
    pub(super) fn check_further_attempt(&self) -> Result<(), Refusal> {
        match self.is_awaited() {
            true => Ok(()),
            false => self.check_surplus().map_err(|_| Refusal::not_spare(&self.account.name)),
        }
    }
}
