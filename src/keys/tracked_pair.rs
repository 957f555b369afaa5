//! A pair in its place: what Fastrac thinks of it, and when it is to be asked.
//!
//! What always holds: the gaps between two canaries that didn't verify grow to a bound; a verdict is
//! remembered for refusals only if a refusal asked for it. Never fails.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{LoadedPair, PairStatus, Role, Verdict, Verification, secret::PairVersion};

/// The first wait before a canary is asked again, and the longest.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// A verdict that a refusal asked for serves the refusals after it for this long: a service that earns
/// its own 401s shall not eat the budget with canaries.
const VERDICT_SERVES: Duration = Duration::from_millis(500);

/// A pair and what Fastrac thinks of it.
#[derive(Clone)]
pub(super) struct TrackedPair {
    pub(super) held: Arc<LoadedPair>,
    pub(super) standing: Verification,
    /// Refusals by the canary in a row.
    pub(super) refusals: u32,
    /// The last verdict that a refused request asked for.
    judged: Option<(Verdict, Instant)>,
    /// When the canary is due; `None`: not.
    pub(super) due: Option<Instant>,
    retry: Duration,
    /// A canary is on its way.
    pub(super) asking: bool,
    /// A refused request wants to know.
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
            retry: FIRST_RETRY,
            asking: false,
            questioned: false,
        }
    }

    pub(super) fn version(&self) -> PairVersion {
        self.held.version()
    }

    /// Notes a verdict; says whether the standing changed.
    pub(super) fn judge(&mut self, verdict: Verdict, now: Instant) -> bool {
        self.asking = false;
        if std::mem::take(&mut self.questioned) {
            self.judged = Some((verdict, now));
        }
        let before = self.standing;
        match verdict {
            Verdict::Verified => {
                (self.standing, self.refusals, self.retry, self.due) = (Verification::Verified, 0, FIRST_RETRY, None);
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

    /// What a refusal found out a moment ago.
    pub(super) fn lately(&self, now: Instant) -> Option<Verdict> {
        self.judged.filter(|(_, at)| now < *at + VERDICT_SERVES).map(|(verdict, _)| verdict)
    }

    fn again(&mut self, now: Instant) {
        self.due = Some(now + self.retry);
        self.retry = (self.retry * 2).min(LAST_RETRY);
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
