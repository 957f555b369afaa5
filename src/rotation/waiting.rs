//! Those who wait for the source or for a canary, and what they wait for. Dropping one of them tells it
//! that nothing will come.

use tokio::{sync::oneshot, time::Instant};

use crate::keys::{Fault, Reading, Remedy, Restored, Rotated, Verdict, Version};

/// A job's end.
pub(super) enum Done {
    Read(Box<Result<Reading, Fault>>, Option<Box<Restored>>),
    Copied(Result<(), Fault>),
    Verdict(Version, Verdict),
}

/// A refused request that waits for a reading of the source.
pub(super) struct Refused {
    pub(super) version: Version,
    pub(super) may_resend: bool,
    /// The first reading that can tell what the source holds now.
    pub(super) reading: u64,
    /// What is known then must do.
    pub(super) until: Instant,
    pub(super) reply: oneshot::Sender<Remedy>,
}

/// An operator who does.
pub(super) struct Rotate {
    pub(super) reading: u64,
    pub(super) force: bool,
    pub(super) until: Instant,
    pub(super) reply: oneshot::Sender<Rotated>,
}

/// Somebody who waits for the canary's verdict on a version.
pub(super) struct Waiting {
    pub(super) version: Version,
    pub(super) reply: Reply,
}

/// Who that is.
pub(super) enum Reply {
    Refused(oneshot::Sender<Remedy>, bool),
    Rotate(oneshot::Sender<Rotated>),
    Verify(oneshot::Sender<Option<(Version, Verdict)>>),
}
