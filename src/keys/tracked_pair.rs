//! A pair and what is known about it: what Fastrac said, and when a canary is due.
//!
//! Waits between canaries that didn't verify the pair double up to a maximum. A verdict is reused for
//! refused requests only if a refused request asked for it. Never fails.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    pair::LoadedPair,
    status::{PairStatus, Role, Verification},
    version::PairVersion,
};
use crate::backoff::Backoff;

/// The time of a reading, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadAt {
    /// For ages and deadlines.
    pub(crate) instant: Instant,
    /// For people.
    pub(crate) wall: Timestamp,
}

/// First and maximum wait before another canary.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How long a verdict that a refused request asked for is reused for further refused requests: a service that
/// causes its own 401s must not spend the budget on canaries.
const VERDICT_REUSE: Duration = Duration::from_millis(500);

/// What Fastrac says about a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `success:true`.
    Verified,
    /// 401 or a key message.
    Refused,
    /// Anything else.
    Undecided,
}

/// A pair and what is known about it.
#[derive(Clone)]
pub(super) struct TrackedPair {
    pub(super) held: Arc<LoadedPair>,
    pub(super) standing: Verification,
    /// Consecutive refusals by the canary.
    pub(super) refusals: u32,
    /// The last verdict that a refused request caused, and when.
    judged: Option<(Verdict, Instant)>,
    /// When the next canary is due; `None`: none is.
    pub(super) due: Option<Instant>,
    /// The waits after canaries that didn't verify the pair.
    retry: Backoff,
    /// Whether a canary is running.
    pub(super) asking: bool,
    /// Whether a refused request waits for the verdict.
    questioned: bool,
}

impl TrackedPair {
    pub(super) fn new(held: Arc<LoadedPair>, now: Instant) -> Self {
        Self {
            held,
            standing: Verification::Unverified,
            refusals: 0,
            judged: None,
            due: Some(now),
            retry: Backoff::new(FIRST_WAIT, MAX_WAIT),
            asking: false,
            questioned: false,
        }
    }

    pub(super) fn version(&self) -> PairVersion {
        self.held.version()
    }

    /// Notes a verdict; returns whether the verification changed.
    pub(super) fn judge(&mut self, verdict: Verdict, now: Instant) -> bool {
        self.asking = false;
        if std::mem::take(&mut self.questioned) {
            self.judged = Some((verdict, now));
        }
        let before = self.standing;
        match verdict {
            Verdict::Verified => {
                (self.standing, self.refusals, self.due) = (Verification::Verified, 0, None);
                self.retry.reset();
            }
            Verdict::Refused => {
                self.standing = Verification::Refused;
                self.refusals += 1;
                self.again(now);
            }
            Verdict::Undecided if self.standing == Verification::Verified => self.due = None,
            Verdict::Undecided => self.again(now),
        }
        self.standing != before
    }

    pub(super) fn question(&mut self, now: Instant) {
        (self.due, self.questioned) = (Some(now), true);
    }

    /// The verdict that a refused request caused a moment ago.
    pub(super) fn lately(&self, now: Instant) -> Option<Verdict> {
        self.judged.filter(|(_, at)| now < *at + VERDICT_REUSE).map(|(verdict, _)| verdict)
    }

    fn again(&mut self, now: Instant) {
        self.due = Some(now + self.retry.next());
    }

    pub(super) fn status(&self, role: Role) -> PairStatus {
        PairStatus {
            version: self.version(),
            source_version: self.held.pair.number(),
            role,
            standing: self.standing,
            loaded_at: self.held.loaded_at,
        }
    }
}
