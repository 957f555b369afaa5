//! What operators and jobs wait for. Dropping one of them closes its reply channel.

use tokio::{sync::oneshot, time::Instant};

use crate::keys::{PairVersion, Restored, Rotated, SourceError, SourceReading, Verdict};

/// Result of a background job of the rotation task.
pub(super) enum JobResult {
    Read(Box<FinishedReading>),
    Copied(Result<(), SourceError>),
    Verdict(PairVersion, Verdict),
}

pub(super) struct FinishedReading {
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
