//! Whether anybody waits for a call, and what that decides: its circuit breaker, and where its budget may come from.
//!
//! A refresh or a walk begins a call that nobody waits for; it is a caller's as long as a request waits that has joined it.
//! So is a fill, which goes on when its callers have left. What always holds: without one, it is sent from spare budget
//! only, whichever attempt it is, and by leave of a breaker of its own; who waits is asked when an attempt is admitted, and
//! decides whose breaker learns of its result. Must not know how a request is sent. Fails with [`NotSpare`], which as a
//! refusal concerns nobody who joins too late, and with the refusal of the breaker.

use super::{CallPriority, UpstreamCall};
use crate::{
    refusal::Refusal,
    spare::{self, NotSpare},
    upstream::breaker::BreakerPermit,
};

impl UpstreamCall {
    /// Whether a caller waits for it now.
    pub(super) fn is_awaited(&self) -> bool {
        match &self.priority {
            CallPriority::OfService(_) => true,
            CallPriority::OfWaiters(bids) | CallPriority::Spare(bids) => !bids.borrow().is_empty(),
        }
    }

    /// Whether it could be sent although nobody waits for it.
    ///
    /// # Errors
    /// [`NotSpare`].
    pub(crate) fn check_surplus(&self) -> Result<(), NotSpare> {
        spare::check_surplus(&self.account)?;
        let permitted = self.account.breakers.permits_unawaited(self.operation.class);
        if permitted { Ok(()) } else { Err(NotSpare::ClassFailing) }
    }

    /// Before a further attempt: one that nobody waits for needs spare budget as the first did.
    ///
    /// # Errors
    /// The refusal of an attempt for which there is none.
    pub(super) fn check_further_attempt(&self) -> Result<(), Refusal> {
        match self.is_awaited() {
            true => Ok(()),
            false => self.check_surplus().map_err(|_| self.not_spare()),
        }
    }

    /// Whether its breaker would permit an attempt now. Takes no probe.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn check_breaker(&self) -> Result<(), Refusal> {
        let (breakers, class) = (&self.account.breakers, self.operation.class);
        match self.is_awaited() {
            true => Ok(breakers.of(class).check(self.is_conclusive())?),
            false if breakers.permits_unawaited(class) => Ok(()),
            false => Err(self.not_spare()),
        }
    }

    /// The permission of its breaker for an attempt that is to be sent at once.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn breaker_permit(&self) -> Result<BreakerPermit, Refusal> {
        let (breakers, class) = (&self.account.breakers, self.operation.class);
        match self.is_awaited() {
            true => Ok(breakers.of(class).admit(self.is_conclusive())?),
            false => breakers.admit_unawaited(class).ok_or_else(|| self.not_spare()),
        }
    }

    fn not_spare(&self) -> Refusal {
        Refusal::not_spare(&self.account.name)
    }
}
