//! The lifecycle of an account's pairs: candidate → current → previous → retired.
//!
//! A state machine without I/O: [`crate::rotation`] reports what the source and Fastrac returned, and does
//! what is due. What always holds: a failed reading changes no pair; a candidate that Fastrac refused is never
//! promoted unless an operator forces it; a forced pair is given up for what Fastrac says of requests, not of canaries
//! alone; a revoked version is never used; a verified pair is given up only for
//! another verified one, by force, or because it was revoked or its canary was refused; at most one canary of a version
//! runs; no request is decided by what began before it was refused, except that what is known of an origin's earlier
//! requests decides its later ones for as long as Fastrac accepted the pair a moment ago. Once the canary was refused and no other pair
//! serves, the account is locked out until a canary verifies a pair, or the source has another. Time is passed
//! in. Never fails.

mod forced;
mod reading;
mod refusal;
mod request_caused;
mod revocation;
#[cfg(test)]
mod tests;
mod view;
mod waiting;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use self::request_caused::RequestCaused;
pub(crate) use self::{
    refusal::{RefusalAction, RefusedRequest, TriedPair},
    request_caused::RequestOrigin,
    waiting::{WaitingRefusals, WantedReading},
};
use super::{
    account_pairs::AccountPairs,
    pair::LoadedPair,
    read_at::ReadAt,
    source_traits::{SourceId, SourceTraits},
    status::{Event, KeyEvent, SourceStatus, Verification},
    tracked_pair::{DatedVerdict, TrackedPair, Verdict},
    version::PairVersion,
};
use crate::config::RotationConfig;

/// How long a lock-out is held back for a reading of the source: it may contain a new pair.
const CONFIRM_WAIT: Duration = Duration::from_secs(2);
/// How long requests wait for the first pair.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// How long the verdict of a canary is waited for while there is no usable pair. After that, its pair counts as undecided.
const VERDICT_WAIT: Duration = Duration::from_secs(2);
/// Number of retired versions that are remembered, for `revoke` to tell a known one.
const MAX_RETIRED: usize = 64;

/// An account's pairs and what is known about them.
pub(crate) struct KeyLifecycle {
    /// What the pairs share.
    shared: Arc<AccountPairs>,
    rotation: RotationConfig,
    /// Whether a pair becomes too old while its source can't be read.
    ages: bool,
    current: Option<TrackedPair>,
    previous: Option<PreviousPair>,
    candidate: Option<TrackedPair>,
    /// The pair that the source returned last, used or not.
    seen: Option<Arc<LoadedPair>>,
    retired: VecDeque<PairVersion>,
    source: SourceStatus,
    source_id: SourceId,
    /// When the source was last read successfully.
    read_at: Option<Instant>,
    /// When the last reading that came to an end began, successful or not.
    reading_began: Option<Instant>,
    /// The canaries that are running, and when they began.
    canaries: BTreeMap<PairVersion, Instant>,
    locked_out: bool,
    /// Until when requests wait for the first pair; `None`: they don't.
    first: Option<Instant>,
    confirm: Option<Confirmation>,
    caused: RequestCaused,
    /// When the account last left an address: what was refused before was refused there.
    left: Option<Instant>,
    /// When the rotation task was last restarted after a panic.
    restarted: Option<Timestamp>,
    events: Vec<Event>,
}

/// The pair before the current one.
struct PreviousPair {
    slot: TrackedPair,
    /// When the current pair was verified, from which the overlap counts; `None`: it is not yet.
    since: Option<Instant>,
}

/// The pair in use was refused: before the account is locked out, the source is read once more.
#[derive(Clone, Copy)]
struct Confirmation {
    /// The reading must begin after this instant.
    after: Instant,
    until: Instant,
}

impl KeyLifecycle {
    pub(crate) fn new(account: &str, source: SourceTraits, rotation: RotationConfig) -> Self {
        let SourceTraits { id: source_id, kind, ages } = source;
        Self {
            shared: AccountPairs::of(account),
            rotation,
            ages,
            current: None,
            previous: None,
            candidate: None,
            seen: None,
            retired: VecDeque::new(),
            source: SourceStatus { kind, up: false, last_success: None, version: None, fault: None, incomplete: false },
            source_id,
            read_at: None,
            reading_began: None,
            canaries: BTreeMap::new(),
            locked_out: false,
            first: None,
            confirm: None,
            caused: RequestCaused::default(),
            left: None,
            restarted: None,
            events: Vec::new(),
        }
    }

    /// Requests wait a moment for the first pair, unless the source can't be read or Fastrac refuses it.
    pub(crate) fn await_first(&mut self, now: Instant) {
        self.first = Some(now + FIRST_WAIT);
    }

    /// The canary's verdict on a version.
    pub(crate) fn verdict(&mut self, version: PairVersion, verdict: Verdict, now: Instant) {
        let Some(began) = self.canaries.remove(&version) else { return };
        let judged = DatedVerdict { verdict, began };
        if let Some(previous) = self.previous.as_mut().filter(|previous| previous.slot.version() == version) {
            previous.slot.judge(judged);
            if !previous.slot.serves() {
                self.previous = None;
                self.retire(version);
            }
        }
        if let Some(slot) = self.current.as_mut().filter(|slot| slot.version() == version) {
            let changed = slot.judge(judged);
            self.tell_verdict(version, verdict, changed);
            match verdict {
                Verdict::Verified => self.begin_overlap(now),
                Verdict::Refused => {
                    self.caused.clear();
                    if changed {
                        self.roll_back(now);
                    }
                }
                Verdict::Undecided => {}
            }
        } else if let Some(slot) = self.candidate.as_mut().filter(|slot| slot.version() == version) {
            let changed = slot.judge(judged);
            self.tell_verdict(version, verdict, changed);
            let needed = verdict == Verdict::Undecided && !self.usable(now);
            if verdict == Verdict::Verified || needed {
                self.take_over(now);
            }
        }
        self.update_lock(now);
        let locked_out = self.locked_out;
        if let Some(slot) = self.current_or_candidate(version).filter(|slot| slot.is_open() && slot.due.is_none()) {
            // A canary that hangs does not put off the next one while all pairs are refused.
            slot.again(if locked_out { began } else { now }, locked_out);
        }
    }

    /// The canaries that have taken too long while the account is locked out: their verdict is overdue.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<PairVersion> {
        self.canary_ends().filter(|(_, end)| *end <= now).map(|(version, _)| version).collect()
    }

    /// When the running canaries must have ended; none while other pairs serve.
    fn canary_ends(&self) -> impl Iterator<Item = (PairVersion, Instant)> {
        let slots = [self.current.as_ref(), self.candidate.as_ref()].into_iter().flatten();
        let slots = slots.filter(|_| self.locked_out);
        slots.filter_map(|slot| {
            let began = *self.canaries.get(&slot.version())?;
            Some((slot.version(), began + slot.locked_out_limit()))
        })
    }

    /// Promotes the candidate, verified or not, unless Fastrac refused it. Returns whether it did.
    fn take_over(&mut self, now: Instant) -> bool {
        let Some(slot) = self.candidate.take_if(|slot| slot.serves()) else { return false };
        self.install(slot, now);
        true
    }

    fn install(&mut self, mut slot: TrackedPair, now: Instant) {
        if let Some(same) = self.previous.take_if(|previous| previous.slot.version() == slot.version())
            && same.slot.standing == Verification::Verified
        {
            (slot.standing, slot.forced) = (Verification::Verified, None);
        }
        let (version, verified) = (slot.version(), slot.standing == Verification::Verified);
        self.caused.clear();
        (self.confirm, self.first) = (None, None);
        if let Some(old) = self.current.replace(slot) {
            self.succeed(old);
        }
        self.tell(KeyEvent::Promoted, Some(version));
        if let Some(previous) = &mut self.previous {
            previous.since = None;
        }
        if verified {
            self.begin_overlap(now);
        }
    }

    /// Keeps a pair that was in use as the previous one, or retires it.
    fn succeed(&mut self, mut old: TrackedPair) {
        // Refused requests alone don't retire a pair; the canary's refusal does.
        let verified = |slot: &TrackedPair| slot.standing == Verification::Verified;
        let keeps = self.previous.as_ref().is_some_and(|previous| verified(&previous.slot)) && !verified(&old);
        if !old.serves() || keeps {
            return self.retire(old.version());
        }
        old.due = None;
        if let Some(before) = self.previous.replace(PreviousPair { slot: old, since: None }) {
            self.retire(before.slot.version());
        }
    }

    fn retire(&mut self, version: PairVersion) {
        if self.retired.len() == MAX_RETIRED {
            self.retired.pop_front();
        }
        self.retired.push_back(version);
        self.tell(KeyEvent::Retired, Some(version));
    }

    /// The current pair is verified: from now on the previous one is kept for the overlap only.
    fn begin_overlap(&mut self, now: Instant) {
        if let Some(previous) = &mut self.previous {
            previous.since.get_or_insert(now);
        }
        self.expire(now);
    }

    /// Replaces the current pair, which was refused, by the candidate or the previous pair.
    fn roll_back(&mut self, now: Instant) {
        self.expire(now);
        if self.take_over(now) {
            return;
        }
        if !self.back_to_previous(now) {
            self.confirm = Some(Confirmation { after: now, until: now + CONFIRM_WAIT });
        }
    }

    /// Replaces the current pair by the previous one, if there is one that serves.
    fn back_to_previous(&mut self, now: Instant) -> bool {
        let Some(mut previous) = self.previous.take_if(|previous| previous.slot.serves()) else { return false };
        if previous.slot.is_open() {
            // While it was not in use, it had no canaries, or one left it open.
            previous.slot.due.get_or_insert(now);
        }
        self.tell(KeyEvent::RolledBack, Some(previous.slot.version()));
        // The pair in the source is verified again from time to time, although it was refused.
        match (self.current.replace(previous.slot), &self.candidate) {
            (Some(refused), None) => self.candidate = Some(refused),
            (Some(refused), Some(_)) => self.retire(refused.version()),
            (None, _) => {}
        }
        true
    }

    /// Other settings: everything that is held stays.
    pub(crate) fn reconfigure(&mut self, rotation: RotationConfig, now: Instant) {
        self.rotation = rotation;
        self.expire(now);
    }

    /// The account is called at another address since `left`: what is known of its pairs does not hold there. They stay in
    /// use, but not those that only sources before `source` have returned: they were not configured for it. Nothing more is
    /// found out about requests that were refused before. Returns whether the source must be read for the pair that it has.
    pub(crate) fn moved(&mut self, left: Instant, source: SourceId, now: Instant) -> bool {
        let must_read = self.give_up_before(source, now);
        self.canaries.clear();
        self.caused.clear();
        (self.left, self.confirm) = (Some(left), None);
        for slot in self.slots() {
            slot.moved(left, now);
        }
        if let Some(previous) = &mut self.previous {
            (previous.slot.due, previous.since) = (None, None);
        }
        self.update_lock(now);
        must_read
    }

    /// Gives up the pairs that only sources before `source` have returned, whatever they are used for. Returns whether
    /// the source must be read again.
    fn give_up_before(&mut self, source: SourceId, now: Instant) -> bool {
        let is_before = |slot: &TrackedPair| slot.held.source() < source;
        let previous = self.previous.take_if(|previous| is_before(&previous.slot)).map(|previous| previous.slot);
        let current = self.current.take_if(|slot| is_before(slot));
        let none_in_use = current.is_some();
        let given_up = [current, previous, self.candidate.take_if(|slot| is_before(slot))];
        given_up.into_iter().flatten().for_each(|slot| self.retire(slot.version()));
        if none_in_use {
            // As at the start, requests wait a moment for the one that the source has.
            self.await_first(now);
        }
        // It may have the same one: then only the next reading shows that.
        self.seen.take_if(|seen| seen.source() < source).is_some()
    }

    /// The rotation task is restarted after a panic: the canaries that ran are gone.
    pub(crate) fn recover(&mut self, now: ReadAt) {
        self.canaries.clear();
        for slot in [self.current.as_mut(), self.candidate.as_mut()].into_iter().flatten().filter(|slot| slot.is_open())
        {
            slot.due = Some(now.instant);
        }
        self.restarted = Some(now.wall);
        self.tell(KeyEvent::Restarted, None);
    }

    /// Retires the previous pair when its overlap has ended, and ends waits for the source.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.confirm.take_if(|confirm| confirm.until <= now);
        self.first.take_if(|until| *until <= now);
        if self.overlap_ends().is_some_and(|end| end <= now)
            && let Some(previous) = self.previous.take()
        {
            self.retire(previous.slot.version());
        }
    }

    /// Uses the candidate if its canary has taken too long while there is no usable pair.
    pub(crate) fn end_verdict_wait(&mut self, now: Instant) {
        if self.verdict_wait_ends(now).is_some_and(|end| end <= now) && self.take_over(now) {
            self.update_lock(now);
        }
    }

    /// When the candidate is used although its canary has not ended: there is no usable pair.
    fn verdict_wait_ends(&self, now: Instant) -> Option<Instant> {
        let candidate = self.candidate.as_ref().filter(|slot| slot.serves() && !self.usable(now))?;
        Some(*self.canaries.get(&candidate.version())? + VERDICT_WAIT)
    }

    fn overlap_ends(&self) -> Option<Instant> {
        self.previous.as_ref()?.since?.checked_add(self.rotation.overlap)
    }

    /// The pairs to be verified now; their canaries count as running.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Arc<LoadedPair>> {
        let previous = self.previous.as_ref().map(|previous| &previous.slot);
        let slots = [self.current.as_ref(), previous, self.candidate.as_ref()].into_iter().flatten();
        let due = slots.filter(|slot| slot.due.is_some_and(|due| due <= now));
        let mut due: Vec<_> = due.filter(|slot| !self.canaries.contains_key(&slot.version())).collect();
        // The previous pair may be in the source again.
        due.dedup_by_key(|slot| slot.version());
        let began: Vec<_> = due.iter().map(|slot| (slot.version(), slot.beginning(now))).collect();
        let due = due.into_iter().map(|slot| slot.held.clone()).collect();
        self.canaries.extend(began);
        due
    }

    /// Whether Fastrac refuses all pairs of the account.
    pub(crate) fn is_locked_out(&self) -> bool {
        self.locked_out
    }

    /// Makes a canary of `version` due now, if it is still known. It begins after `now`.
    pub(crate) fn ask(&mut self, version: PairVersion, now: Instant) {
        if let Some(slot) = self.current_or_candidate(version) {
            slot.restart_waits();
            slot.due = Some(now);
        }
    }

    /// How long a pair may be used after its source was last read.
    pub(crate) fn max_age(&self) -> Duration {
        self.rotation.max_age
    }

    /// The events since the last call.
    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Notes whether the account is locked out. From the beginning on, all its pairs have their next canary soon.
    fn update_lock(&mut self, now: Instant) {
        let serves = self.current.as_ref().is_some_and(TrackedPair::serves);
        let locked_out = !serves && self.slots().any(|slot| !slot.serves());
        if locked_out && !self.locked_out {
            for slot in self.slots().filter(|slot| !slot.serves()) {
                slot.restart_waits();
                slot.again(now, true);
            }
            self.first = None;
        }
        self.locked_out = locked_out;
    }

    fn usable(&self, now: Instant) -> bool {
        self.current.as_ref().is_some_and(TrackedPair::serves) && self.fresh(now)
    }

    fn fresh(&self, now: Instant) -> bool {
        self.stale_at().is_none_or(|at| now < at)
    }

    fn stale_at(&self) -> Option<Instant> {
        self.read_at.filter(|_| self.ages).and_then(|at| at.checked_add(self.rotation.max_age))
    }

    fn current_or_candidate(&mut self, version: PairVersion) -> Option<&mut TrackedPair> {
        let slots = [self.current.as_mut(), self.candidate.as_mut()].into_iter().flatten();
        slots.into_iter().find(|slot| slot.version() == version)
    }

    fn slots(&mut self) -> impl Iterator<Item = &mut TrackedPair> {
        let previous = self.previous.as_mut().map(|previous| &mut previous.slot);
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
