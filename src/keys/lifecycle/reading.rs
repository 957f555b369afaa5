//! What readings of the source change: its state, and the candidate. A failed reading changes no pair. Pure; never fails.

use std::sync::Arc;

use tokio::time::Instant;

use super::{KeyLifecycle, WantedReading};
use crate::keys::{
    fault::SourceError,
    pair::{KeyPair, LoadedPair},
    read_at::ReadAt,
    sealed_copy::Restored,
    source_traits::SourceTraits,
    status::{KeyEvent, SourceStatus},
    tracked_pair::TrackedPair,
    version::PairVersion,
};

impl KeyLifecycle {
    /// Sets the source's own version number.
    pub(crate) fn numbered(&mut self, version: Option<u64>) {
        self.source.version = version;
    }

    /// The source was read. `new`: its pair, unless it is the one that it returned last.
    pub(crate) fn read(&mut self, new: Option<KeyPair>, began: Instant, now: ReadAt) {
        if !self.source.up {
            // The source was lost before.
            if self.source.fault.is_some() {
                self.tell(KeyEvent::SourceBack, None);
            }
            self.source.up = true;
        }
        (self.source.fault, self.source.incomplete) = (None, false);
        self.source.last_success = Some(now.wall);
        self.read_at = Some(now.instant);
        if let Some(pair) = new {
            self.meet(pair, now);
        }
        if let Some(held) = self.seen.clone() {
            held.note_source(self.source_id);
            let same = self.slots().filter(|slot| slot.version() == held.version());
            same.for_each(|slot| slot.held.note_source(held.source()));
        }
        self.reading_ended(began);
    }

    /// The source could not be read.
    pub(crate) fn lost(&mut self, fault: &SourceError, began: Instant) {
        let text = fault.to_string();
        if self.source.fault.as_ref() != Some(&text) {
            if fault.is_deletion() {
                self.tell(KeyEvent::SourceDeleted, None);
            }
            tracing::warn!(account = self.account(), source = self.source.kind, fault = %text, "the key source has no pair; the present one stays in use");
        }
        if self.source.up || self.source.fault.is_none() {
            self.tell(KeyEvent::SourceLost, None);
        }
        self.source.up = false;
        self.source.fault = Some(text);
        self.source.incomplete = fault.is_incomplete();
        self.first = None;
        self.reading_ended(began);
    }

    fn reading_ended(&mut self, began: Instant) {
        self.reading_began = self.reading_began.max(Some(began));
        self.confirm.take_if(|confirm| began > confirm.after);
    }

    /// Uses the pair of the encrypted copy, unless it is too old or the source was read meanwhile.
    pub(crate) fn restore(&mut self, Restored { pair, age }: Restored, now: ReadAt) {
        let read_at = now.instant.checked_sub(age).filter(|_| self.seen.is_none() && age < self.rotation.max_age);
        let Some(read_at) = read_at else { return };
        tracing::warn!(account = self.account(), version = %pair.version(), "the encrypted copy of the key pair is used");
        self.source.last_success = now.wall.checked_sub(age).ok();
        self.read_at = Some(read_at);
        self.meet(pair, now);
    }

    /// Handles a pair that the source returned for the first time.
    fn meet(&mut self, pair: KeyPair, read: ReadAt) {
        let now = read.instant;
        let held = Arc::new(LoadedPair::new(pair, read, self.source_id, self.shared.clone()));
        let version = held.version();
        self.seen = Some(held.clone());
        let known = |slot: &Option<TrackedPair>| slot.as_ref().is_some_and(|slot| slot.version() == version);
        if known(&self.candidate) {
            return;
        }
        self.candidate = None;
        if known(&self.current) || self.shared.revoked.contains(version) {
            self.first = None;
            return self.update_lock(now);
        }
        self.tell(KeyEvent::Seen, Some(version));
        self.candidate = Some(TrackedPair::new(held, now));
        if self.current.as_ref().is_some_and(|slot| !slot.serves()) {
            self.take_over(now);
        }
        self.update_lock(now);
    }

    /// Another source: only readings of it decide from now on.
    pub(crate) fn change_source(&mut self, source: SourceTraits) {
        let SourceTraits { id, kind, ages } = source;
        (self.source_id, self.ages) = (id, ages);
        self.source = SourceStatus { kind, version: None, fault: None, incomplete: false, ..self.source.clone() };
        self.reading_began = None;
    }

    /// The reading that a lock-out waits for.
    pub(crate) fn wanted_reading(&self) -> Option<WantedReading> {
        self.confirm.map(|confirm| WantedReading { after: confirm.after, refused: None })
    }

    /// Notes that the source is read because a request signed with `version` was refused.
    pub(crate) fn refreshes(&mut self, version: PairVersion) {
        self.tell(KeyEvent::Refreshed, Some(version));
    }
}
