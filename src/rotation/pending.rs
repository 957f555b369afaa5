//! What operators and jobs wait for. Dropping one of them closes its reply channel.

use std::{collections::BTreeMap, sync::Arc};

use tokio::{sync::oneshot, time::Instant};

use crate::{
    backoff::Backoff,
    keys::{PairSource, PairVersion, Restored, Revocation, Rotated, SourceError, SourceReading, Verdict},
};

/// Result of a background job of the rotation task.
pub(super) enum JobResult {
    Read(Box<FinishedReading>),
    Copied(Result<(), SourceError>),
    Verdict(PairVersion, Verdict),
    Stored(PairVersion, Result<(), String>),
}

pub(super) struct FinishedReading {
    /// The source that was read.
    pub(super) source: Arc<PairSource>,
    pub(super) began: Instant,
    pub(super) result: Result<SourceReading, SourceError>,
    /// The content of the encrypted copy, if the source was never read.
    pub(super) copy: Option<Restored>,
}

/// A pending operator request to rotate.
pub(super) struct PendingRotate {
    /// The reading must begin after this instant.
    pub(super) after: Instant,
    pub(super) force: bool,
    pub(super) until: Instant,
    pub(super) reply: oneshot::Sender<Rotated>,
}

/// An operator request that waits for the canary's verdict on a version.
pub(super) struct PendingVerdict {
    pub(super) version: PairVersion,
    pub(super) reply: VerdictReply,
}

/// Where its result is sent.
pub(super) enum VerdictReply {
    Rotate(oneshot::Sender<Rotated>),
    Verify(oneshot::Sender<Option<(PairVersion, Verdict)>>),
}

/// An operator's request to revoke a version.
pub(super) struct RevokeRequested {
    /// Whether it is stored although the account has no such pair.
    pub(super) named: bool,
    pub(super) reply: oneshot::Sender<Revocation>,
}

/// A revocation that is not on disk yet.
pub(super) struct PendingRevoke {
    pub(super) version: PairVersion,
    pub(super) known: bool,
    /// When the operator is told that it is not.
    pub(super) until: Instant,
    pub(super) reply: oneshot::Sender<Revocation>,
}

/// The revocations that are being written, and the operators who wait for them.
#[derive(Default)]
pub(super) struct Revocations {
    pub(super) writes: BTreeMap<PairVersion, RepeatedWrite>,
    pub(super) waiting: Vec<PendingRevoke>,
}

pub(super) struct RepeatedWrite {
    /// When it is written again; `None`: it is being written.
    pub(super) next: Option<Instant>,
    pub(super) waits: Backoff,
}

impl Revocations {
    /// When something is due.
    pub(super) fn next(&self) -> Option<Instant> {
        let writes = self.writes.values().filter_map(|write| write.next);
        writes.chain(self.waiting.iter().map(|waiting| waiting.until)).min()
    }

    /// Tells those who wait for a version, or for longer than they want to, what came of it.
    pub(super) fn tell(&mut self, told: impl Fn(&PendingRevoke) -> bool, stored: &Result<(), String>) {
        let (told, rest) = std::mem::take(&mut self.waiting).into_iter().partition(told);
        self.waiting = rest;
        for PendingRevoke { known, reply, .. } in told {
            let _ = reply.send(Revocation { known, stored: stored.clone() });
        }
    }
}
