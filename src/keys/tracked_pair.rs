//! A pair and what is known about it: what Fastrac said, and when a canary is due.
//!
//! Waits between canaries that didn't verify the pair double up to a maximum; while the account is locked out,
//! they are short, and a canary that hangs ends when the next one is due. A verdict is kept with the instant at which its canary began, because it decides only requests
//! that were refused before. Never fails.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    pair::LoadedPair,
    status::{PairStatus, Role, Verification},
    version::PairVersion,
};

/// First and maximum wait before another canary.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(60);
/// The waits while the account is locked out; the last one is repeated.
const LOCKED_OUT_WAITS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(5)];
/// Time from a canary without a verdict to the next one that a refused request waits for.
const UNDECIDED_WAIT: Duration = Duration::from_secs(1);
/// So long after Fastrac accepted a request with a pair, that says more than what is known otherwise: if the pair was
/// revoked since, that is noticed so soon.
pub(super) const EVIDENCE: Duration = Duration::from_secs(1);
/// Number of doublings from the first wait to the maximum.
const MAX_DOUBLINGS: u32 = 6;

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

/// A verdict, and when the canary that brought it began.
#[derive(Clone, Copy, Debug)]
pub(super) struct DatedVerdict {
    pub(super) verdict: Verdict,
    pub(super) began: Instant,
}

/// A pair and what is known about it.
#[derive(Clone)]
pub(super) struct TrackedPair {
    pub(super) held: Arc<LoadedPair>,
    pub(super) standing: Verification,
    /// The last verdict.
    pub(super) judged: Option<DatedVerdict>,
    /// Since when an operator uses it although the canary may refuse it: only requests that are refused later can show that
    /// it is bad. `None`: it is used like any other.
    pub(super) forced: Option<Instant>,
    /// Whether a request signed with it was refused since the last conclusive verdict.
    pub(super) doubted: bool,
    /// When the next canary is due; `None`: none is.
    pub(super) due: Option<Instant>,
    /// The next canary must begin after this instant: a request that was refused then waits for it.
    after: Option<Instant>,
    /// Canaries that did not verify the pair, since the last one that did.
    tries: u32,
}

impl TrackedPair {
    pub(super) fn new(held: Arc<LoadedPair>, now: Instant) -> Self {
        Self {
            held,
            standing: Verification::Unverified,
            judged: None,
            forced: None,
            doubted: false,
            due: Some(now),
            after: None,
            tries: 0,
        }
    }

    /// A pair that an operator uses by force.
    pub(super) fn forced(held: Arc<LoadedPair>, now: Instant) -> Self {
        TrackedPair { forced: Some(now), ..TrackedPair::new(held, now) }
    }

    pub(super) fn version(&self) -> PairVersion {
        self.held.version()
    }

    /// Whether requests may be signed with it: Fastrac has not refused it.
    pub(super) fn serves(&self) -> bool {
        self.standing != Verification::Refused
    }

    /// Notes a verdict; returns whether the verification changed. [`Self::again`] says when the next canary is due.
    pub(super) fn judge(&mut self, judged: DatedVerdict) -> bool {
        let (before, counts) = (self.standing, self.refusal_counts());
        (self.judged, self.due, self.after) = (Some(judged), None, None);
        match judged.verdict {
            Verdict::Verified => {
                (self.standing, self.doubted, self.tries) = (Verification::Verified, false, 0);
                self.forced = None;
            }
            Verdict::Refused if counts => self.refute(),
            Verdict::Refused | Verdict::Undecided => {}
        }
        self.standing != before
    }

    /// Fastrac refuses it.
    pub(super) fn refute(&mut self) {
        (self.standing, self.doubted, self.forced) = (Verification::Refused, false, None);
    }

    /// Whether a canary's refusal shows that it is bad. That of a forced pair does only where requests cannot: one was
    /// refused since for which there was no other pair, and none was accepted shortly before.
    fn refusal_counts(&self) -> bool {
        let Some(forced) = self.forced else { return true };
        let accepted = self.held.last_accepted();
        let is_evidence = |refused| refused >= forced && accepted.is_none_or(|accepted| refused > accepted + EVIDENCE);
        self.after.is_some_and(is_evidence)
    }

    /// Forgets what is known of it, because the account is called at another address since `left`. That an operator uses it
    /// stays.
    pub(super) fn moved(&mut self, left: Instant, now: Instant) {
        let forced = self.forced.map(|forced| forced.max(left));
        *self = TrackedPair { forced, ..TrackedPair::new(self.held.clone(), now) };
    }

    /// When it was last known to be good: the last request or canary that Fastrac accepted was sent then.
    pub(super) fn last_good(&self) -> Option<Instant> {
        let verified = self.judged.filter(|last| last.verdict == Verdict::Verified).map(|last| last.began);
        self.held.last_accepted().max(verified)
    }

    /// Whether a restart could not use it: it would be verified again.
    pub(super) fn is_refused_by_canary(&self) -> bool {
        !self.serves() || self.judged.is_some_and(|last| last.verdict == Verdict::Refused)
    }

    /// Whether another canary is needed to know what Fastrac says of it.
    pub(super) fn is_open(&self) -> bool {
        self.standing != Verification::Verified || self.doubted
    }

    /// Makes the next canary due after a wait that grows: from `since` on.
    pub(super) fn again(&mut self, since: Instant, locked_out: bool) {
        let wait = if locked_out {
            locked_out_wait(self.tries)
        } else {
            FIRST_WAIT.saturating_mul(1 << self.tries.min(MAX_DOUBLINGS)).min(MAX_WAIT)
        };
        self.tries = self.tries.saturating_add(1);
        self.due = Some(since + wait);
    }

    /// How long a canary may take while the account is locked out: until the next one is due. One that an operator wants,
    /// and the first one of a pair, have the longest.
    pub(super) fn locked_out_limit(&self) -> Duration {
        locked_out_wait(if self.tries == 0 { u32::MAX } else { self.tries })
    }

    /// The waits begin with the shortest again.
    pub(super) fn restart_waits(&mut self) {
        self.tries = 0;
    }

    /// A request that was refused at `refused` waits for a verdict. The canary is due at once, or if the last one left the
    /// pair undecided, a little later.
    pub(super) fn question(&mut self, refused: Instant, now: Instant) {
        self.doubted = true;
        self.after = self.after.max(Some(refused));
        let undecided = self.judged.filter(|last| last.verdict != Verdict::Verified);
        let due = undecided.map_or(now, |last| now.max(last.began + UNDECIDED_WAIT));
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
    }

    /// The instant at which a canary sent now begins: later than everything that waits for it, also if the clock has
    /// not moved.
    pub(super) fn beginning(&self, now: Instant) -> Instant {
        self.after.map_or(now, |after| now.max(just_after(after)))
    }

    pub(super) fn status(&self, role: Role) -> PairStatus {
        PairStatus {
            version: self.version(),
            source_version: self.held.pair.number(),
            role,
            standing: self.standing,
            doubted: self.doubted,
            undecided: self.judged.is_some_and(|last| last.verdict == Verdict::Undecided),
            loaded_at: self.held.loaded_at,
        }
    }
}

fn locked_out_wait(tries: u32) -> Duration {
    let last = LOCKED_OUT_WAITS.len() - 1;
    LOCKED_OUT_WAITS[usize::try_from(tries).unwrap_or(last).min(last)]
}

/// The first instant after another one.
pub(crate) fn just_after(instant: Instant) -> Instant {
    instant + Duration::from_nanos(1)
}
