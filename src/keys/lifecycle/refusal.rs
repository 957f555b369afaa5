//! What a request does next that Fastrac answered with 401.
//!
//! A reading or a verdict decides only requests that were refused before it began: then it shows what Fastrac and the
//! source say after the refusal. (That a request was sent before is not enough: while it was on its way, the pair may
//! have been revoked after a canary was accepted.) So a refused request carries the instants of its refusals. Pure; never
//! fails.

use std::sync::Arc;

use tokio::time::Instant;

use super::{KeyLifecycle, RequestOrigin};
use crate::keys::{
    pair::LoadedPair,
    tracked_pair::{EVIDENCE, TrackedPair, Verdict},
    version::PairVersion,
};

/// A request that Fastrac answered with 401, or with a key message.
#[derive(Clone, Debug)]
pub(crate) struct RefusedRequest {
    /// The pairs that it was signed with, one after the other. Not empty.
    pub(crate) tried: Vec<TriedPair>,
    /// `None`: it is an order. What is known of earlier requests does not decide it.
    pub(crate) origin: Option<RequestOrigin>,
    /// Whether it may be sent again with another pair.
    pub(crate) may_resend: bool,
}

/// A pair that Fastrac refused a request with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TriedPair {
    pub(crate) version: PairVersion,
    /// When Fastrac's response had arrived.
    pub(crate) refused: Instant,
}

/// What a refused request does next.
pub(crate) enum RefusalAction {
    /// Is sent again with this pair.
    Resend(Arc<LoadedPair>),
    /// Waits for a reading of the source that begins after this instant.
    Read { after: Instant },
    /// Waits for a canary, or for the reading that a lock-out waits for.
    Wait,
    /// The pair is good: the request itself was refused.
    Own,
    /// Fastrac refuses the account's pairs, as far as they may be used.
    Rejected,
    /// Which pair Fastrac accepts is not found out in time, or the request may not be sent again with it.
    Undecided,
}

impl RefusedRequest {
    /// The pair that was refused last.
    pub(crate) fn version(&self) -> Option<PairVersion> {
        self.tried.last().map(|tried| tried.version)
    }

    fn tried(&self, version: PairVersion) -> Option<&TriedPair> {
        self.tried.iter().rev().find(|tried| tried.version == version)
    }

    /// When it was refused with a pair, if it was.
    pub(super) fn refused_with(&self, version: PairVersion) -> Option<Instant> {
        self.tried(version).map(|tried| tried.refused)
    }

    pub(crate) fn has_tried(&self, version: PairVersion) -> bool {
        self.tried(version).is_some()
    }

    /// When it was refused the last time.
    pub(super) fn last_refused(&self) -> Option<Instant> {
        self.tried.last().map(|tried| tried.refused)
    }
}

impl KeyLifecycle {
    /// What a refused request does next. `patient`: it may still wait for the source to be read.
    pub(crate) fn remedy(&mut self, request: &RefusedRequest, patient: bool, now: Instant) -> RefusalAction {
        if self.left.is_some_and(|left| request.last_refused().is_some_and(|refused| refused < left)) {
            return RefusalAction::Undecided;
        }
        if let Some(other) = self.newer(request, now) {
            return self.resend(request, other, now);
        }
        if self.is_own(request, now) {
            return RefusalAction::Own;
        }
        if let Some(after) = request.last_refused().filter(|refused| patient && !is_after(self.reading_began, *refused))
        {
            return RefusalAction::Read { after };
        }
        if self.confirm.is_some() {
            return RefusalAction::Wait;
        }
        let fresh = self.fresh(now);
        let Some(current) = self.current.as_mut().filter(|slot| slot.serves() && fresh) else {
            return RefusalAction::Rejected;
        };
        // Without, it is not the pair in use that was refused, and there is no other.
        let Some(tried) = request.tried(current.version()).copied() else { return RefusalAction::Undecided };
        let previous = self.previous.as_ref().map(|previous| &previous.slot).filter(|slot| slot.serves());
        let tried_both = previous.is_some_and(|slot| request.has_tried(slot.version()));
        if let Some(previous) = previous.filter(|_| request.may_resend && !tried_both) {
            // The request doesn't wait for the canary, but the pair in use must be verified. A forced one is judged by what
            // becomes of the request.
            if current.forced.is_none() {
                current.question(tried.refused, now);
            }
            return RefusalAction::Resend(previous.held.clone());
        }
        if current.forced.is_some() && tried_both {
            return self.refused_with_previous(request, patient, now);
        }
        match current.judged.filter(|last| last.began > tried.refused).map(|last| last.verdict) {
            Some(Verdict::Refused) => return RefusalAction::Rejected,
            Some(Verdict::Undecided) => return RefusalAction::Undecided,
            Some(Verdict::Verified) | None => {}
        }
        current.question(tried.refused, now);
        // While the canaries bring no verdict, nobody waits for a late one.
        if !patient && current.due.is_some_and(|due| due > now) {
            RefusalAction::Undecided
        } else {
            RefusalAction::Wait
        }
    }

    /// Whether the request itself is refused although the pair in use is good.
    fn is_own(&mut self, request: &RefusedRequest, now: Instant) -> bool {
        let Some(current) = self.current.as_ref().filter(|slot| slot.serves()) else { return false };
        let Some(tried) = request.tried(current.version()) else { return false };
        let recent = current.last_good().is_some_and(|good| tried.refused < good + EVIDENCE);
        if recent && request.origin.as_ref().is_some_and(|origin| self.caused.contains(origin, now)) {
            return true;
        }
        let good = current.judged.is_some_and(|last| last.verdict == Verdict::Verified && last.began > tried.refused);
        if let Some(origin) = request.origin.as_ref().filter(|_| good) {
            self.caused.remember(origin, now);
        }
        good
    }

    /// A pair that the request was not signed with: the one in use, or a newer one that the source contains.
    fn newer(&self, request: &RefusedRequest, now: Instant) -> Option<Arc<LoadedPair>> {
        let slots = [self.current.as_ref(), self.candidate.as_ref()].into_iter().flatten();
        let mut untried = slots.filter(|slot| slot.serves() && !request.has_tried(slot.version()));
        untried.next().filter(|_| self.fresh(now)).map(|slot| slot.held.clone())
    }

    fn resend(&mut self, request: &RefusedRequest, other: Arc<LoadedPair>, now: Instant) -> RefusalAction {
        let candidate = self.candidate.as_ref().filter(|slot| slot.version() == other.version());
        let inconclusive = candidate.is_some_and(|slot| slot.judged.is_some());
        // If the candidate's canary brings no verdict, one of the pair in use may. A forced one is judged by what becomes of
        // the request, if that goes again.
        let questions = |slot: &&mut TrackedPair| !request.may_resend || (inconclusive && slot.forced.is_none());
        if let Some(current) = self.current.as_mut().filter(questions)
            && let Some(tried) = request.tried(current.version())
        {
            current.question(tried.refused, now);
        }
        if request.may_resend { RefusalAction::Resend(other) } else { RefusalAction::Undecided }
    }
}

/// Whether something began after `refused`.
fn is_after(began: Option<Instant>, refused: Instant) -> bool {
    began.is_some_and(|began| began > refused)
}
