//! Those who wait for the source or for a canary, and what they wait for. Dropping one of them tells it
//! that nothing will come.

use tokio::{sync::oneshot, time::Instant};

use crate::keys::{PairVersion, Remedy, Restored, Rotated, SourceError, SourceReading, Verdict};

/// A job's end.
pub(super) enum JobResult {
    Read(Box<Result<SourceReading, SourceError>>, Option<Box<Restored>>),
    Copied(Result<(), SourceError>),
    Verdict(PairVersion, Verdict),
}

/// A refused request that waits for a reading of the source.
pub(super) struct PendingRefusal {
    pub(super) version: PairVersion,
    pub(super) may_resend: bool,
    /// The first reading that can tell what the source holds now.
    pub(super) reading: u64,
    /// What is known then must do.
    pub(super) until: Instant,
    pub(super) reply: oneshot::Sender<Remedy>,
}

/// An operator who does.
pub(super) struct PendingRotate {
    pub(super) reading: u64,
    pub(super) force: bool,
    pub(super) until: Instant,
    pub(super) reply: oneshot::Sender<Rotated>,
}

/// Somebody who waits for the canary's verdict on a version.
pub(super) struct PendingVerdict {
    pub(super) version: PairVersion,
    pub(super) reply: VerdictReply,
}

/// Who that is.
pub(super) enum VerdictReply {
    Refused(oneshot::Sender<Remedy>, bool),
    Rotate(oneshot::Sender<Rotated>),
    Verify(oneshot::Sender<Option<(PairVersion, Verdict)>>),
}
