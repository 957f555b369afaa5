//! The lifecycle of an account's pairs: candidate → current → previous → retired.
//!
//! A state machine without I/O: [`crate::rotation`] reports what the source and Fastrac returned, and does
//! what is due. A failed reading changes no pair; a candidate that Fastrac refused is never promoted unless
//! an operator forces it; a revoked version is never used; a pair that is verified and not refused is replaced
//! only by another one. Time is passed in. Never fails.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    fault::SourceError,
    pair::{KeyPair, LoadedPair},
    sealed_copy::Restored,
    snapshot::KeySnapshot,
    status::{Event, KeyEvent, Role, SourceStatus, Verification},
    tracked_pair::{ReadAt, TrackedPair, Verdict},
    version::PairVersion,
};
use crate::config::RotationConfig;

/// Consecutive refusals by the canary after which the account sends no more requests.
const LOCK_OUT: u32 = 3;

/// An account's pairs and what is known about them.
pub(crate) struct KeyLifecycle {
    account: Arc<str>,
    kind: &'static str,
    rotation: RotationConfig,
    /// Whether a pair becomes too old while its source can't be read.
    ages: bool,
    current: Option<TrackedPair>,
    previous: Option<(TrackedPair, Instant)>,
    candidate: Option<TrackedPair>,
    /// The pair that the source returned last, used or not.
    seen: Option<Arc<LoadedPair>>,
    revoked: BTreeSet<PairVersion>,
    source: SourceStatus,
    read_at: Option<Instant>,
    events: Vec<Event>,
}

/// What a refused request does next.
pub(crate) enum RefusalAction {
    /// Is sent again with this pair.
    Resend(Arc<LoadedPair>),
    /// Waits for the canary's verdict on its version.
    AskCanary,
    /// The verdict is known.
    Judged(Verdict),
    /// Its version is no longer known.
    Gone,
}

impl KeyLifecycle {
    pub(crate) fn new(account: &str, kind: &'static str, ages: bool, rotation: RotationConfig) -> Self {
        Self {
            account: account.into(),
            kind,
            rotation,
            ages,
            current: None,
            previous: None,
            candidate: None,
            seen: None,
            revoked: BTreeSet::new(),
            source: SourceStatus { kind, up: false, last_success: None, version: None, fault: None },
            read_at: None,
            events: Vec::new(),
        }
    }

    /// The pair that the source returned last.
    pub(crate) fn seen(&self) -> Option<Arc<LoadedPair>> {
        self.seen.clone()
    }

    /// Sets the source's own version number.
    pub(crate) fn numbered(&mut self, version: Option<u64>) {
        self.source.version = version;
    }

    /// The source was read. `new`: its pair, unless it is the one that it returned last.
    pub(crate) fn read(&mut self, new: Option<KeyPair>, now: ReadAt) {
        if !self.source.up {
            // The source was lost before.
            if self.source.fault.is_some() {
                self.tell(KeyEvent::SourceBack, None);
            }
            self.source.up = true;
        }
        self.source.fault = None;
        self.source.last_success = Some(now.wall);
        self.read_at = Some(now.instant);
        if let Some(pair) = new {
            self.meet(pair, now);
        }
    }

    /// Takes over the pair in use before a reload, and the time of its last reading.
    pub(crate) fn inherit(&mut self, before: &KeySnapshot, now: Instant) {
        let Some(held) = before.current.clone().filter(|held| !self.revoked.contains(&held.version())) else { return };
        let current = before.pairs.iter().find(|pair| pair.role == Role::Current);
        let mut slot = TrackedPair::new(held, now);
        // The pair is the same, so it needs no new verification.
        (slot.standing, slot.due) = (current.map_or(Verification::Unverified, |pair| pair.standing), None);
        self.current = Some(slot);
        self.read_at = before.read_at;
        self.source.last_success = before.source.last_success;
    }

    /// Uses the pair of the encrypted copy, unless it is too old or the source was read meanwhile.
    pub(crate) fn restore(&mut self, Restored { pair, age }: Restored, now: ReadAt) {
        let read_at = now.instant.checked_sub(age).filter(|_| self.seen.is_none() && age < self.rotation.max_age);
        let Some(read_at) = read_at else { return };
        tracing::warn!(account = %self.account, version = %pair.version(), "the encrypted copy of the key pair is used");
        self.source.last_success = now.wall.checked_sub(age).ok();
        self.read_at = Some(read_at);
        self.meet(pair, now);
    }

    /// The pair in use, for its encrypted copy, and when its source was last read.
    pub(crate) fn worth_copying(&self) -> Option<(Arc<LoadedPair>, Instant, Timestamp)> {
        let slot = self.current.as_ref().filter(|slot| slot.standing != Verification::Refused && self.source.up)?;
        Some((slot.held.clone(), self.read_at?, self.source.last_success?))
    }

    /// How long a pair may be used after its source was last read.
    pub(crate) fn max_age(&self) -> Duration {
        self.rotation.max_age
    }

    /// Handles a pair that the source returned for the first time.
    fn meet(&mut self, pair: KeyPair, ReadAt { instant: now, wall }: ReadAt) {
        let held = Arc::new(LoadedPair { account: self.account.clone(), pair, loaded_at: wall });
        let version = held.version();
        self.seen = Some(held.clone());
        let known = |slot: &Option<TrackedPair>| slot.as_ref().is_some_and(|slot| slot.version() == version);
        if known(&self.candidate) {
            return;
        }
        self.candidate = None;
        if known(&self.current) || self.revoked.contains(&version) {
            return;
        }
        self.tell(KeyEvent::Seen, Some(version));
        self.candidate = Some(TrackedPair::new(held, now));
        if self.current.as_ref().is_some_and(|slot| slot.refusals > 0) {
            self.take_over(now);
        }
    }

    /// The source could not be read.
    pub(crate) fn lost(&mut self, fault: &SourceError) {
        let text = fault.to_string();
        if self.source.fault.as_ref() != Some(&text) {
            if fault.is_deletion() {
                self.tell(KeyEvent::SourceDeleted, None);
            }
            tracing::warn!(account = %self.account, source = self.kind, fault = %text, "the key source has no pair; the present one stays in use");
        }
        if self.source.up || self.source.fault.is_none() {
            self.tell(KeyEvent::SourceLost, None);
        }
        self.source.up = false;
        self.source.fault = Some(text);
    }

    /// The canary's verdict on a version.
    pub(crate) fn verdict(&mut self, version: PairVersion, verdict: Verdict, now: Instant) {
        if let Some(slot) = self.previous.as_mut().map(|(slot, _)| slot).filter(|slot| slot.version() == version) {
            slot.judge(verdict, now);
            slot.due = None;
        }
        if let Some(slot) = self.current.as_mut().filter(|slot| slot.version() == version) {
            let changed = slot.judge(verdict, now);
            self.tell_verdict(version, verdict, changed);
            if verdict == Verdict::Refused {
                self.roll_back(now);
            }
        } else if let Some(slot) = self.candidate.as_mut().filter(|slot| slot.version() == version) {
            let changed = slot.judge(verdict, now);
            self.tell_verdict(version, verdict, changed);
            let needed = verdict == Verdict::Undecided && !self.usable(now);
            if verdict == Verdict::Verified || needed {
                self.take_over(now);
            }
        }
    }

    /// Promotes the candidate, verified or not, unless Fastrac refused it. Returns whether it did.
    pub(crate) fn take_over(&mut self, now: Instant) -> bool {
        let Some(slot) = self.candidate.take_if(|slot| slot.standing != Verification::Refused) else { return false };
        self.install(slot, now);
        true
    }

    /// Promotes the candidate even if Fastrac refused it, by an operator's command.
    pub(crate) fn force(&mut self, now: Instant) {
        if let Some(mut slot) = self.candidate.take() {
            (slot.refusals, slot.standing, slot.due) = (0, Verification::Unverified, Some(now));
            self.install(slot, now);
        }
    }

    fn install(&mut self, slot: TrackedPair, now: Instant) {
        let version = slot.version();
        if let Some((old, _)) = self.previous.take()
            && old.version() != version
        {
            self.tell(KeyEvent::Retired, Some(old.version()));
        }
        if let Some(mut old) = self.current.replace(slot) {
            // A refused request alone doesn't retire a pair; the canary's refusal does.
            if old.standing == Verification::Refused || self.rotation.overlap.is_zero() {
                self.tell(KeyEvent::Retired, Some(old.version()));
            } else {
                old.due = None;
                self.previous = Some((old, now + self.rotation.overlap));
            }
        }
        self.tell(KeyEvent::Promoted, Some(version));
    }

    /// Replaces the current pair, which was refused, by the candidate or the previous pair.
    fn roll_back(&mut self, now: Instant) {
        if self.take_over(now) {
            return;
        }
        let serves = |slot: &TrackedPair| slot.standing != Verification::Refused;
        let Some((previous, _)) = self.previous.take_if(|(slot, until)| serves(slot) && *until > now) else { return };
        self.tell(KeyEvent::RolledBack, Some(previous.version()));
        // It is still the pair in the source: it is verified again from time to time.
        self.candidate = self.current.replace(previous);
    }

    /// What a refused request signed with `version` does next, after the source was read.
    pub(crate) fn remedy(&mut self, version: PairVersion, may_resend: bool, now: Instant) -> RefusalAction {
        let is = |slot: &TrackedPair| slot.version() == version;
        if self.current.as_ref().is_some_and(is) {
            self.take_over(now);
        }
        if may_resend && let Some(other) = self.other(version, now) {
            return RefusalAction::Resend(other);
        }
        let previous = self.previous.as_ref().map(|(slot, _)| slot);
        let mut slots = [self.current.as_ref(), previous, self.candidate.as_ref()].into_iter().flatten();
        match slots.find(|slot| is(slot)).map(|slot| slot.lately(now)) {
            None => RefusalAction::Gone,
            Some(Some(verdict)) => RefusalAction::Judged(verdict),
            Some(None) => RefusalAction::AskCanary,
        }
    }

    /// A pair of another version to send a refused request with.
    fn other(&mut self, version: PairVersion, now: Instant) -> Option<Arc<LoadedPair>> {
        if !self.fresh(now) {
            return None;
        }
        let current = self.current.as_mut()?;
        if current.version() != version {
            return (current.refusals < LOCK_OUT).then(|| current.held.clone());
        }
        if current.lately(now) == Some(Verdict::Verified) {
            return None;
        }
        let (previous, until) = self.previous.as_ref()?;
        if previous.version() == version || previous.standing == Verification::Refused || *until <= now {
            return None;
        }
        // The request doesn't wait for the canary, but the pair in use must be verified.
        current.question(now);
        Some(previous.held.clone())
    }

    /// Revokes a version.
    pub(crate) fn revoke(&mut self, version: PairVersion, now: Instant) {
        self.revoked.insert(version);
        self.tell(KeyEvent::Revoked, Some(version));
        let is = |slot: &TrackedPair| slot.version() == version;
        self.candidate.take_if(|slot| is(slot));
        self.previous.take_if(|(slot, _)| is(slot));
        if self.current.take_if(|slot| is(slot)).is_some() {
            self.tell(KeyEvent::Retired, Some(version));
            if !self.take_over(now)
                && let Some((previous, _)) = self.previous.take_if(|(slot, _)| slot.standing != Verification::Refused)
            {
                self.tell(KeyEvent::RolledBack, Some(previous.version()));
                self.current = Some(previous);
            }
        }
    }

    /// Revokes versions that were revoked before a restart.
    pub(crate) fn restore_revoked(&mut self, versions: impl IntoIterator<Item = PairVersion>) {
        self.revoked.extend(versions);
    }

    /// Retires the previous pair when its overlap has ended.
    pub(crate) fn expire(&mut self, now: Instant) {
        if let Some((slot, _)) = self.previous.take_if(|(_, until)| *until <= now) {
            self.tell(KeyEvent::Retired, Some(slot.version()));
        }
    }

    /// The pairs to be verified now; each counts as being verified.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Arc<LoadedPair>> {
        let due = self.slots().filter(|slot| !slot.asking && slot.due.is_some_and(|due| due <= now));
        due.map(|slot| {
            slot.asking = true;
            slot.held.clone()
        })
        .collect()
    }

    /// Notes that the source is read because a request signed with `version` was refused.
    pub(crate) fn refreshes(&mut self, version: PairVersion) {
        self.tell(KeyEvent::Refreshed, Some(version));
    }

    /// Makes a canary due for `version`, if it is still known.
    pub(crate) fn ask(&mut self, version: PairVersion, now: Instant) {
        if let Some(slot) = self.slots().find(|slot| slot.version() == version) {
            slot.question(now);
        }
    }

    /// Name of the account.
    pub(crate) fn account(&self) -> &str {
        &self.account
    }

    /// The version that `verify` verifies: the candidate, else the current one.
    pub(crate) fn to_verify(&self) -> Option<PairVersion> {
        self.candidate.as_ref().or(self.current.as_ref()).map(TrackedPair::version)
    }

    /// The version in use and whether there is a candidate.
    pub(crate) fn standing(&self) -> (Option<PairVersion>, Option<PairVersion>) {
        (self.current.as_ref().map(TrackedPair::version), self.candidate.as_ref().map(TrackedPair::version))
    }

    /// When the next canary or retirement is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        let slots = [self.current.as_ref(), self.previous.as_ref().map(|(slot, _)| slot), self.candidate.as_ref()];
        let canaries = slots.into_iter().flatten().filter(|slot| !slot.asking).filter_map(|slot| slot.due);
        canaries.chain(self.previous.as_ref().map(|(_, until)| *until)).min()
    }

    /// What requests and the status page see.
    pub(crate) fn snapshot(&self) -> KeySnapshot {
        let previous = self.previous.as_ref().map(|(slot, _)| slot.status(Role::Previous));
        let current = self.current.as_ref();
        let pairs = current.map(|slot| slot.status(Role::Current)).into_iter().chain(previous);
        KeySnapshot {
            refused: current.or(self.candidate.as_ref()).is_some_and(|slot| slot.standing == Verification::Refused),
            current: current.filter(|slot| slot.refusals < LOCK_OUT).map(|slot| slot.held.clone()),
            stale_at: self.stale_at(),
            read_at: self.read_at,
            pairs: pairs.chain(self.candidate.as_ref().map(|slot| slot.status(Role::Candidate))).collect(),
            revoked: self.revoked.iter().copied().collect(),
            source: self.source.clone(),
        }
    }

    /// The events since the last call.
    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn usable(&self, now: Instant) -> bool {
        self.current.as_ref().is_some_and(|slot| slot.refusals == 0) && self.fresh(now)
    }

    fn fresh(&self, now: Instant) -> bool {
        self.stale_at().is_none_or(|at| now < at)
    }

    fn stale_at(&self) -> Option<Instant> {
        self.read_at.filter(|_| self.ages).and_then(|at| at.checked_add(self.rotation.max_age))
    }

    fn slots(&mut self) -> impl Iterator<Item = &mut TrackedPair> {
        let previous = self.previous.as_mut().map(|(slot, _)| slot);
        [self.current.as_mut(), previous, self.candidate.as_mut()].into_iter().flatten()
    }

    fn tell(&mut self, what: KeyEvent, version: Option<PairVersion>) {
        self.events.push(Event { what, version });
    }

    fn tell_verdict(&mut self, version: PairVersion, verdict: Verdict, changed: bool) {
        match verdict {
            Verdict::Verified if changed => self.tell(KeyEvent::Verified, Some(version)),
            Verdict::Refused if changed => self.tell(KeyEvent::Refused, Some(version)),
            _ => {}
        }
    }
}
