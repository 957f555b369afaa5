//! The commands of operators: rotate, verify.

use std::time::Duration;

use tokio::{sync::oneshot, time::Instant};

use super::{
    pending::{PendingRotate, PendingVerdict, VerdictReply},
    task::RotationTask,
};
use crate::keys::{PairVersion, Rotated, SourceError, Verdict};

/// How long `rotate` waits for a source that is being changed.
const ROTATE_WAIT: Duration = Duration::from_secs(4);

impl<C> RotationTask<'_, C> {
    pub(super) fn rotate(&mut self, force: bool, reply: oneshot::Sender<Rotated>, now: Instant) {
        self.by_operator = true;
        self.readings.forget_failures();
        self.rotates.push(PendingRotate { after: now, force, until: now + ROTATE_WAIT, reply });
    }

    pub(super) fn verify(&mut self, reply: oneshot::Sender<Option<(PairVersion, Verdict)>>, now: Instant) {
        self.by_operator = true;
        self.readings.forget_failures();
        match self.keeper.life.to_verify() {
            Some(version) => self.wait(version, VerdictReply::Verify(reply), now),
            None => drop(reply.send(None)),
        }
    }

    /// Completes the rotations that a reading which began at `began` decides.
    pub(super) fn complete_rotations(&mut self, began: Instant, fault: Option<&SourceError>, now: Instant) {
        let changing = fault.is_some_and(SourceError::is_transient);
        let decides = |rotate: &PendingRotate| began > rotate.after && !(changing && now < rotate.until);
        let (decided, later) = std::mem::take(&mut self.rotates).into_iter().partition(decides);
        self.rotates = later;
        for rotate in decided {
            self.complete_rotation(rotate, fault, now);
        }
    }

    fn complete_rotation(&mut self, rotate: PendingRotate, fault: Option<&SourceError>, now: Instant) {
        let forced = if rotate.force && fault.is_none() { self.keeper.life.force(now) } else { None };
        let (_, candidate) = self.keeper.life.standing();
        let rotated = match (fault, forced, candidate) {
            (Some(fault), ..) => Rotated::Fault(fault.to_string()),
            // It was in use before, and is in the source again.
            (None, Some(version), _) if self.keeper.life.is_verified() => Rotated::Promoted(version),
            (None, Some(version), _) => Rotated::Forced { version, fallback: self.keeper.life.fallback() },
            (None, None, Some(version)) => return self.wait(version, VerdictReply::Rotate(rotate.reply), now),
            (None, None, None) => match self.keeper.life.seen().map(|held| held.version()) {
                Some(version) if self.keeper.life.has_revoked(version) => Rotated::Revoked(version),
                version if self.keeper.life.is_locked_out() => {
                    Rotated::LockedOut { version, next_canary: self.keeper.life.next_canary() }
                }
                _ => Rotated::Unchanged,
            },
        };
        self.publish();
        let _ = rotate.reply.send(rotated);
    }

    fn wait(&mut self, version: PairVersion, reply: VerdictReply, now: Instant) {
        self.verdicts.push(PendingVerdict { version, reply });
        self.keeper.life.ask(version, now);
    }

    /// Tells those who wait for a verdict what it is.
    pub(super) fn tell_verdict(&mut self, version: PairVersion, verdict: Verdict) {
        let (told, rest) = std::mem::take(&mut self.verdicts).into_iter().partition(|w| w.version == version);
        self.verdicts = rest;
        for waiting in told {
            self.tell(waiting, verdict);
        }
    }

    /// Answers those who wait for a version that is no longer known, so that no canary will verify it.
    pub(super) fn release(&mut self) {
        if self.verdicts.is_empty() {
            return;
        }
        let asked: Vec<PairVersion> = self.canaries.values().map(|canary| canary.version).collect();
        let (gone, rest) = std::mem::take(&mut self.verdicts).into_iter().partition(|w| !asked.contains(&w.version));
        self.verdicts = rest;
        for waiting in gone {
            self.tell(waiting, Verdict::Undecided);
        }
    }

    fn tell(&mut self, waiting: PendingVerdict, verdict: Verdict) {
        let version = waiting.version;
        match waiting.reply {
            VerdictReply::Rotate(reply) => {
                let in_use = self.keeper.life.standing().0 == Some(version);
                let signs = self.keeper.keys.lease().is_ok_and(|lease| lease.version() == version);
                let _ = reply.send(match verdict {
                    // Another operator has forced it meanwhile.
                    Verdict::Refused if signs => Rotated::Forced { version, fallback: self.keeper.life.fallback() },
                    Verdict::Refused => Rotated::Refused(version),
                    _ if in_use => Rotated::Promoted(version),
                    _ => Rotated::Undecided(version),
                });
            }
            VerdictReply::Verify(reply) => {
                let _ = reply.send(Some((version, verdict)));
            }
        }
    }
}
