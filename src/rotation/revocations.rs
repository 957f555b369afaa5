//! Writing revocations to the disk: until each is there, whatever fails. They hold in memory from the beginning.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    pending::{JobResult, PendingRevoke, RepeatedWrite, RevokeRequested},
    task::RotationTask,
};
use crate::{
    backoff::Backoff,
    keys::{PairVersion, Revocation},
};

/// How long `revoke` waits for the disk.
const REVOKE_WAIT: Duration = Duration::from_secs(5);
/// First and maximum wait before a write that failed is repeated.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(30);

impl<C> RotationTask<'_, C> {
    /// Takes effect before this returns; the reply waits for the disk.
    pub(super) fn revoke(&mut self, version: PairVersion, asked: RevokeRequested, now: Instant) {
        let RevokeRequested { named, reply } = asked;
        let known = self.keeper.life.revoke(version, named, now);
        self.publish();
        if !self.keeper.life.unstored().contains(&version) {
            let _ = reply.send(Revocation { known, stored: Ok(()) });
            return;
        }
        if let Some(write) = self.revocations.writes.get_mut(&version).filter(|write| write.next.is_some()) {
            write.next = Some(now);
        }
        self.revocations.waiting.push(PendingRevoke { version, known, until: now + REVOKE_WAIT, reply });
    }

    /// Starts the writes that are due.
    pub(super) fn store_revocations(&mut self, now: Instant) {
        for version in self.keeper.life.unstored() {
            let write = self
                .revocations
                .writes
                .entry(*version)
                .or_insert_with(|| RepeatedWrite { next: Some(now), waits: Backoff::new(FIRST_WAIT, MAX_WAIT) });
            if write.next.is_some_and(|next| next <= now) {
                write.next = None;
                let (version, stored) = (*version, self.keeper.revocations.store(*version));
                self.jobs.spawn(async move { JobResult::Stored(version, stored.await) });
            }
        }
        let late = Err("the disk does not respond".to_owned());
        self.revocations.tell(|waiting| waiting.until <= now, &late);
    }

    pub(super) fn stored(&mut self, version: PairVersion, stored: &Result<(), String>, now: Instant) {
        match stored {
            Ok(()) => {
                self.keeper.life.stored(version);
                self.revocations.writes.remove(&version);
                // The count is published before the operator is told.
                self.publish();
            }
            Err(why) => {
                tracing::error!(account = self.keeper.life.account(), %version, why, "a revocation can't be stored; it holds until the next restart, and is written again");
                if let Some(write) = self.revocations.writes.get_mut(&version) {
                    write.next = Some(now + write.waits.next());
                }
            }
        }
        self.revocations.tell(|waiting| waiting.version == version, stored);
    }
}
