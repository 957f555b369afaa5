//! Whether anybody waits for a call, and what that decides: its circuit breaker, and where its budget may come from.
//!
//! A refresh or a walk begins a call that nobody waits for; it is a caller's as long as a request waits that has joined it.
//! So is a fill, which goes on when its callers have left. What always holds: without one, it is sent from spare budget
//! only, whichever attempt it is, not again after a failure, and by leave of a breaker of its own; who waits is asked when an
//! attempt is admitted, and decides whose breaker learns of its result. Must not know how a request is sent. Fails with [`NotSpare`], which as a
//! refusal concerns nobody who joins too late, and with the refusal of the breaker.

use std::future::Future;

use super::{CallPriority, UpstreamCall};
use crate::{
    cache::Bids,
    outcome::RetryReason,
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
        spare::check_surplus(&self.account, self.operation.cost)?;
        let permitted = self.account.address.breakers.permits_unawaited(self.operation.class);
        if permitted { Ok(()) } else { Err(NotSpare::ClassFailing) }
    }

    /// Before a further attempt: nobody's is sent again after a failure, and with another pair only if there is spare budget,
    /// as for the first.
    ///
    /// # Errors
    /// The refusal of one that is not to be sent.
    pub(super) fn check_further_attempt(&self, reason: RetryReason) -> Result<(), Refusal> {
        match reason {
            _ if self.is_awaited() => Ok(()),
            RetryReason::Key => self.check_surplus().map_err(|_| self.not_spare()),
            _ => Err(self.not_spare()),
        }
    }

    /// The output of a future; the refusal of the call as soon as nobody waits for it any more.
    pub(super) async fn while_awaited<F: Future>(&self, future: F) -> Result<F::Output, Refusal> {
        let (CallPriority::OfWaiters(bids) | CallPriority::Spare(bids)) = &self.priority else {
            return Ok(future.await);
        };
        let mut bids = bids.clone();
        tokio::select! {
            biased;
            _ = bids.wait_for(Bids::is_empty) => Err(self.not_spare()),
            output = future => Ok(output),
        }
    }

    /// Whether its breaker would permit an attempt now. Takes no probe.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn check_breaker(&self) -> Result<(), Refusal> {
        let (breakers, class) = (&self.account.address.breakers, self.operation.class);
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
        let (breakers, class) = (&self.account.address.breakers, self.operation.class);
        match self.is_awaited() {
            true => Ok(breakers.of(class).admit(self.is_conclusive())?),
            false => breakers.admit_unawaited(class).ok_or_else(|| self.not_spare()),
        }
    }

    fn not_spare(&self) -> Refusal {
        Refusal::not_spare(&self.account.name)
    }
}
