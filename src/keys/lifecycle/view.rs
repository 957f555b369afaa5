//! What requests, the status page and the encrypted copy see of an account's pairs. Pure; never fails.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use super::KeyLifecycle;
use crate::keys::{
    account_pairs::AccountPairs,
    pair::LoadedPair,
    snapshot::KeySnapshot,
    status::{Role, SourceContent, Verification},
    tracked_pair::TrackedPair,
    version::PairVersion,
};

impl KeyLifecycle {
    /// What requests and the status page see.
    pub(crate) fn snapshot(&self) -> KeySnapshot {
        let previous = self.previous.as_ref().map(|previous| previous.slot.status(Role::Previous));
        let current = self.current.as_ref();
        let pairs = current.map(|slot| slot.status(Role::Current)).into_iter().chain(previous);
        KeySnapshot {
            refused: self.locked_out,
            current: current.filter(|slot| slot.serves()).map(|slot| slot.held.clone()),
            deciding: self.confirm.is_some() || self.first.is_some(),
            next_canary: if self.locked_out { self.next_canary() } else { None },
            stale_at: self.stale_at(),
            pairs: pairs.chain(self.candidate.as_ref().map(|slot| slot.status(Role::Candidate))).collect(),
            revoked: self.shared.revoked.to_vec(),
            source: self.source.clone(),
            content: self.content(),
            restarted: self.restarted,
        }
    }

    /// Whether a restart could use what the source contains.
    fn content(&self) -> SourceContent {
        if self.source.incomplete {
            return SourceContent::Incomplete;
        }
        let Some(seen) = self.seen.as_ref().map(|held| held.version()) else { return SourceContent::Unknown };
        let refused = |slot: &TrackedPair| slot.version() == seen && slot.is_refused_by_canary();
        let slots = [self.current.as_ref(), self.candidate.as_ref()];
        if self.shared.revoked.contains(seen) {
            SourceContent::Revoked
        } else if slots.into_iter().flatten().any(refused) {
            SourceContent::Refused
        } else {
            SourceContent::Usable
        }
    }

    /// The pair in use, for its encrypted copy, and when its source was last read. Not one of an earlier source: the next
    /// start would use it as one of the present source.
    pub(crate) fn worth_copying(&self) -> Option<(Arc<LoadedPair>, Instant, Timestamp)> {
        let is_of_source = |slot: &&TrackedPair| slot.held.source() == self.source_id;
        let slot = self.current.as_ref().filter(|slot| slot.serves() && self.source.up).filter(is_of_source)?;
        Some((slot.held.clone(), self.read_at?, self.source.last_success?))
    }

    /// The pair that the source returned last.
    pub(crate) fn seen(&self) -> Option<Arc<LoadedPair>> {
        self.seen.clone()
    }

    /// What the pairs share, with the secrets of those that are held now.
    pub(crate) fn share_secrets(&self) -> &Arc<AccountPairs> {
        let previous = self.previous.as_ref().map(|previous| &previous.slot);
        let slots = [self.current.as_ref(), previous, self.candidate.as_ref()].into_iter().flatten();
        self.shared.set_live(slots.map(|slot| slot.held.pair.forms().clone()).collect());
        &self.shared
    }

    /// Name of the account.
    pub(crate) fn account(&self) -> &str {
        &self.shared.account
    }

    /// The version that `verify` verifies: the candidate, else the current one.
    pub(crate) fn to_verify(&self) -> Option<PairVersion> {
        self.candidate.as_ref().or(self.current.as_ref()).map(TrackedPair::version)
    }

    /// The version in use, and that of the candidate.
    pub(crate) fn standing(&self) -> (Option<PairVersion>, Option<PairVersion>) {
        (self.current.as_ref().map(TrackedPair::version), self.candidate.as_ref().map(TrackedPair::version))
    }

    /// Whether the pair in use is verified.
    pub(crate) fn is_verified(&self) -> bool {
        self.current.as_ref().is_some_and(|slot| slot.standing == Verification::Verified)
    }

    /// The pair before the one in use, while it may serve.
    pub(crate) fn fallback(&self) -> Option<PairVersion> {
        self.previous.as_ref().filter(|previous| previous.slot.serves()).map(|previous| previous.slot.version())
    }

    /// When the next canary is due.
    pub(crate) fn next_canary(&self) -> Option<Instant> {
        let previous = self.previous.as_ref().map(|previous| &previous.slot);
        let slots = [self.current.as_ref(), previous, self.candidate.as_ref()].into_iter().flatten();
        slots.filter(|slot| !self.canaries.contains_key(&slot.version())).filter_map(|slot| slot.due).min()
    }

    /// When something is due: a canary or its end, the end of an overlap, or of a wait for the source or a verdict.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        let overlap = self.overlap_ends();
        let source = self.confirm.map(|confirm| confirm.until);
        let overdue = self.canary_ends().map(|(_, end)| end).min();
        [self.next_canary(), overdue, overlap, source, self.first, self.verdict_wait_ends(now)]
            .into_iter()
            .flatten()
            .min()
    }
}
