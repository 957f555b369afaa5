//! What is sent to an account's rotation task, and what it replies.

use tokio::sync::oneshot;

use super::{lease::Lease, tracked_pair::Verdict, version::PairVersion};

/// A command to the rotation task.
pub(crate) enum KeyCommand {
    /// Fastrac refused a request signed with `version`.
    Refused {
        version: PairVersion,
        may_resend: bool,
        reply: oneshot::Sender<Remedy>,
    },
    Rotate {
        force: bool,
        reply: oneshot::Sender<Rotated>,
    },
    Verify {
        reply: oneshot::Sender<Option<(PairVersion, Verdict)>>,
    },
    Revoke {
        version: PairVersion,
        reply: oneshot::Sender<()>,
    },
}

/// What to do with a request that was answered 401.
#[derive(Clone, Debug)]
pub enum Remedy {
    /// Send it once more, signed with this pair.
    Resend(Lease),
    /// The pair is good: the request itself was refused, and the 401 is passed on.
    Own,
    /// Fastrac refuses the account's key.
    Rejected,
}

/// Result of [`Keys::rotate`](super::Keys::rotate).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotated {
    /// The source contains the pair in use.
    Unchanged,
    /// This pair is in use now.
    Promoted(PairVersion),
    /// Fastrac refuses the new pair; the old one stays in use.
    Refused(PairVersion),
    /// Fastrac neither accepted nor refused the new pair; the old one stays in use, and verification is retried.
    Undecided(PairVersion),
    /// The pair in the source was revoked.
    Revoked(PairVersion),
    /// The source has no pair: why, without any value.
    Fault(String),
}
