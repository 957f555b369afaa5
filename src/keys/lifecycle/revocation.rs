//! Versions that an operator has revoked: never used again, in whatever account they were revoked. What is not on disk yet is remembered. Pure; never fails.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::KeyLifecycle;
use crate::keys::{status::KeyEvent, tracked_pair::TrackedPair, version::PairVersion};

impl KeyLifecycle {
    /// Revokes a version. Returns whether it was known. It is to be stored if it was, or if the account is `named`.
    pub(crate) fn revoke(&mut self, version: PairVersion, named: bool, now: Instant) -> bool {
        let is = |slot: &TrackedPair| slot.version() == version;
        let seen = self.seen.as_ref().is_some_and(|held| held.version() == version);
        let known = seen || self.retired.contains(&version) || self.slots().any(|slot| is(slot));
        let known = known || self.shared.revoked.contains(version);
        if !self.shared.revoked.contains(version) {
            self.shared.revoked.extend([version]);
            if known || named {
                self.unstored.insert(version);
                self.tell(KeyEvent::Revoked, Some(version));
            }
        }
        self.candidate.take_if(|slot| is(slot));
        self.previous.take_if(|previous| is(&previous.slot));
        if self.current.take_if(|slot| is(slot)).is_some() {
            self.retire(version);
            self.caused.clear();
            self.confirm = None;
            if !self.take_over(now) {
                self.back_to_previous(now);
            }
        }
        self.update_lock(now);
        known
    }

    /// Revokes versions that were revoked before, in this account or another one. `unstored`: those that are not on disk yet.
    pub(crate) fn restore_revoked(&mut self, versions: Vec<PairVersion>, unstored: Vec<PairVersion>) {
        self.shared.revoked.extend(versions);
        self.unstored.extend(unstored);
    }

    pub(crate) fn has_revoked(&self, version: PairVersion) -> bool {
        self.shared.revoked.contains(version)
    }

    /// The revoked versions that are not on disk yet.
    pub(crate) fn unstored(&self) -> &BTreeSet<PairVersion> {
        &self.unstored
    }

    /// A revocation is on disk.
    pub(crate) fn stored(&mut self, version: PairVersion) {
        self.unstored.remove(&version);
    }
}
