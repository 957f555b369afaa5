//! What is sent to an account's rotation task, and what it replies.

use tokio::{sync::oneshot, time::Instant};

use super::{
    lease::Lease,
    lifecycle::{RefusedRequest, TriedPair},
    tracked_pair::Verdict,
    version::PairVersion,
};

/// A command to the rotation task.
pub(crate) enum KeyCommand {
    /// Fastrac refused a request.
    Refused {
        request: RefusedRequest,
        reply: oneshot::Sender<Remedy>,
    },
    /// Fastrac accepted a request signed with `version` that it had refused with others.
    Accepted {
        version: PairVersion,
        tried: Vec<TriedPair>,
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
        /// Whether an operator named the account.
        named: bool,
        /// Whether the account has, or had, a pair of this version, or it was revoked before.
        reply: oneshot::Sender<bool>,
    },
}

/// What to do with a request that was answered 401.
#[derive(Clone, Debug)]
pub enum Remedy {
    /// Send it once more, signed with this pair.
    Resend(Lease),
    /// The pair is good: the request itself was refused, and the 401 is passed on.
    Own,
    /// Fastrac refuses every pair of the account's.
    Rejected,
    /// Which pair Fastrac accepts is not known, and the request is not sent again.
    Undecided,
}

/// Result of [`Keys::rotate`](super::Keys::rotate).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotated {
    /// The source contains the pair in use.
    Unchanged,
    /// The source contains no other pair than those that Fastrac refuses.
    LockedOut {
        /// Version of the pair in the source.
        version: Option<PairVersion>,
        /// When the next canary is due; `None`: one is running.
        next_canary: Option<Instant>,
    },
    /// This pair is in use now.
    Promoted(PairVersion),
    /// This pair is in use now, whatever a canary says of it.
    Forced {
        version: PairVersion,
        /// The pair that serves where Fastrac refuses requests with this one; `None`: there is none.
        fallback: Option<PairVersion>,
    },
    /// Fastrac refuses the new pair; the old one stays in use.
    Refused(PairVersion),
    /// Fastrac neither accepted nor refused the new pair; the old one stays in use, and verification is retried.
    Undecided(PairVersion),
    /// The pair in the source was revoked.
    Revoked(PairVersion),
    /// The source has no pair: why, without any value.
    Fault(String),
}
