//! Versions that an operator has revoked: never used again, in whatever account they were revoked. Pure; never fails.

use tokio::time::Instant;

use super::KeyLifecycle;
use crate::keys::{status::KeyEvent, tracked_pair::TrackedPair, version::PairVersion};

impl KeyLifecycle {
    /// Revokes a version. Returns whether it was known. It is an event of the account if it was, or if an operator `named` the account.
    pub(crate) fn revoke(&mut self, version: PairVersion, named: bool, now: Instant) -> bool {
        let is = |slot: &TrackedPair| slot.version() == version;
        let seen = self.seen.as_ref().is_some_and(|held| held.version() == version);
        let known = seen || self.retired.contains(&version) || self.slots().any(|slot| is(slot));
        let known = known || self.shared.revoked.contains(version);
        if !self.shared.revoked.contains(version) {
            self.shared.revoked.extend([version]);
            if known || named {
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

    /// Revokes versions that were revoked before, in this account or another one.
    pub(crate) fn restore_revoked(&mut self, versions: Vec<PairVersion>) {
        self.shared.revoked.extend(versions);
    }

    pub(crate) fn has_revoked(&self, version: PairVersion) -> bool {
        self.shared.revoked.contains(version)
    }
}
