//! Requests and commands that wait for a reading of the source or for a canary. Dropping one of them closes
//! its reply channel.

use tokio::{sync::oneshot, time::Instant};

use crate::keys::{PairVersion, Remedy, Restored, Rotated, SourceError, SourceReading, Verdict};

/// Result of a background job of the rotation task.
pub(super) enum JobResult {
    Read(Box<Result<SourceReading, SourceError>>, Option<Box<Restored>>),
    Copied(Result<(), SourceError>),
    Verdict(PairVersion, Verdict),
}

/// A reading that a refused request caused.
pub(super) struct Refresh {
    /// The version that was refused.
    pub(super) version: PairVersion,
    pub(super) at: Instant,
}

/// A refused request that waits for a reading of the source.
pub(super) struct PendingRefusal {
    pub(super) version: PairVersion,
    pub(super) may_resend: bool,
    /// The first reading that can tell what the source holds now.
    pub(super) reading: u64,
    /// When it is decided with what is known.
    pub(super) until: Instant,
    pub(super) reply: oneshot::Sender<Remedy>,
}

/// A pending operator request to rotate.
pub(super) struct PendingRotate {
    /// The first reading that can tell what the source holds now.
    pub(super) reading: u64,
    pub(super) force: bool,
    pub(super) until: Instant,
    pub(super) reply: oneshot::Sender<Rotated>,
}

/// A request or command that waits for the canary's verdict on a version.
pub(super) struct PendingVerdict {
    pub(super) version: PairVersion,
    pub(super) reply: VerdictReply,
}

/// Where its result is sent.
pub(super) enum VerdictReply {
    Refused(oneshot::Sender<Remedy>, bool),
    Rotate(oneshot::Sender<Rotated>),
    Verify(oneshot::Sender<Option<(PairVersion, Verdict)>>),
}
