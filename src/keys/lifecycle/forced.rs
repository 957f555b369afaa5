//! A pair that an operator uses by force, and what shows that it is bad. Pure; never fails.
//!
//! The operator says that the pair is good although canaries are refused: the `verify` operation may be what fails. So a
//! canary alone takes it back no more. A request that Fastrac refuses with it goes again with the previous pair, while that
//! may serve: if it is accepted, the forced pair is bad; if it is refused again, a canary of the previous pair tells
//! whether the request caused that itself. Where no request can show what a forced pair is worth, its own canary decides
//! again ([`TrackedPair::judge`]).

use tokio::time::Instant;

use super::{KeyLifecycle, RefusalAction, RefusedRequest, TriedPair};
use crate::keys::{
    status::{KeyEvent, Verification},
    tracked_pair::{TrackedPair, Verdict},
    version::PairVersion,
};

impl KeyLifecycle {
    /// Uses the pair in the source unverified, by an operator's command: the candidate, or the pair in use, if that is not
    /// verified. Returns its version if there is such a pair.
    pub(crate) fn force(&mut self, now: Instant) -> Option<PairVersion> {
        let seen = self.seen.as_ref().map(|held| held.version());
        if let Some(slot) = self.candidate.take() {
            let version = slot.version();
            self.install(TrackedPair::forced(slot.held, now), now);
            self.update_lock(now);
            return Some(version);
        }
        let unverified =
            |slot: &&mut TrackedPair| slot.standing != Verification::Verified && Some(slot.version()) == seen;
        let slot = self.current.as_mut().filter(unverified)?;
        let (version, served) = (slot.version(), slot.serves());
        *slot = TrackedPair::forced(slot.held.clone(), now);
        (self.confirm, self.first) = (None, None);
        if !served {
            self.tell(KeyEvent::Promoted, Some(version));
        }
        self.update_lock(now);
        Some(version)
    }

    /// What a request does next that was refused with a forced pair and with the previous one: a canary tells whether that
    /// is good, and so the request was refused for reasons of its own.
    pub(super) fn refused_with_previous(
        &mut self,
        request: &RefusedRequest,
        patient: bool,
        now: Instant,
    ) -> RefusalAction {
        let Some(previous) = self.previous.as_mut().map(|previous| &mut previous.slot) else {
            return RefusalAction::Undecided;
        };
        let Some(refused) = request.refused_with(previous.version()) else { return RefusalAction::Undecided };
        match previous.judged.filter(|last| last.began > refused).map(|last| last.verdict) {
            Some(Verdict::Verified) => {
                if let Some(origin) = &request.origin {
                    self.caused.remember(origin, now);
                }
                RefusalAction::Own
            }
            Some(Verdict::Refused) => RefusalAction::Rejected,
            Some(Verdict::Undecided) => RefusalAction::Undecided,
            None => {
                previous.question(refused, now);
                if !patient && previous.due.is_some_and(|due| due > now) {
                    RefusalAction::Undecided
                } else {
                    RefusalAction::Wait
                }
            }
        }
    }

    /// Fastrac accepted a request signed with `version`, which it had refused with the pairs `tried`. The candidate comes
    /// into use by that; the previous pair does again if a forced pair is in use and was among those, since it was forced.
    /// What an earlier address has accepted does not count.
    pub(crate) fn accepted(&mut self, version: PairVersion, tried: &[TriedPair], now: Instant) {
        if self.left.is_some_and(|left| tried.iter().any(|tried| tried.refused < left)) {
            return;
        }
        let is_previous = self.previous.as_ref().is_some_and(|previous| previous.slot.version() == version);
        if self.candidate.as_ref().is_some_and(|slot| slot.version() == version) {
            self.take_over(now);
        } else if let Some(slot) = self.current.as_mut().filter(|_| is_previous)
            && let Some(forced) = slot.forced
            && tried.iter().any(|tried| tried.version == slot.version() && tried.refused >= forced)
        {
            slot.refute();
            let forced = slot.version();
            self.tell(KeyEvent::Refused, Some(forced));
            self.caused.clear();
            self.back_to_previous(now);
        }
        self.update_lock(now);
    }
}
