//! The task above keys and upstream: it reads an account's source, has new pairs verified, and
//! answers those that were refused.
//!
//! One task an account does all the writing, so a reading or a canary is shared by everybody who
//! waits for it and nothing is locked. What always holds: one reading and one canary for a version at
//! a time; neither holds up the other, nor a request that needs neither; a canary that panics is
//! undecided. It must not know how a canary is sent. It ends when it is dropped, and its canaries
//! with it.

mod copy_schedule;
mod pending;

use std::{collections::HashMap, pin::pin, time::Duration};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::Instant,
};

use self::{
    copy_schedule::CopySchedule,
    pending::{JobResult, PendingRefusal, PendingRotate, PendingVerdict, VerdictReply},
};
use crate::backoff::Backoff;
use crate::keys::{
    Keeper, KeyCommand, KeyEvent, Lease, PairVersion, RefusalAction, Remedy, Rotated, SourceError, SourceReading,
    Verdict,
};

/// How soon a source is read again while it is being changed.
const POLL_CHANGING: Duration = Duration::from_millis(100);
/// Refusals make a source be read at most this often.
const REFRESH_FLOOR: Duration = Duration::from_millis(250);
/// A source that is being changed for longer than this is lost.
const CHANGING_AT_MOST: Duration = Duration::from_secs(10);
/// A source that tells of changes is read at most this often.
const WATCH_FLOOR: Duration = Duration::from_millis(50);
/// First and maximum wait before a source that failed is read again; at most its own interval.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(1024);
/// How long a refused request waits for a source that is slow to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long `rotate` waits for a source that is being changed.
const ROTATE_PATIENCE: Duration = Duration::from_secs(4);

/// Keeps an account's keys until it is dropped. `canary` asks Fastrac about a lease, within a deadline
/// of its own.
pub async fn keep<C, F>(keeper: Keeper, canary: C)
where
    C: Fn(Lease) -> F + Send + Sync + 'static,
    F: Future<Output = Verdict> + Send + 'static,
{
    let mut task = RotationTask {
        keeper,
        canary,
        jobs: JoinSet::new(),
        canaries: HashMap::new(),
        reads: 0,
        reading: false,
        refreshed: None,
        poll_at: Instant::now(),
        read_at: Instant::now(),
        told: false,
        changing_since: None,
        copying: CopySchedule::default(),
        retry: Backoff::new(FIRST_WAIT, MAX_WAIT),
        refused: Vec::new(),
        judged: Vec::new(),
        rotates: Vec::new(),
    };
    task.run().await;
}

struct RotationTask<C> {
    keeper: Keeper,
    canary: C,
    jobs: JoinSet<JobResult>,
    /// Which version a running canary is about.
    canaries: HashMap<Id, PairVersion>,
    /// Readings begun.
    reads: u64,
    reading: bool,
    /// The version whose refusal made the source be read last, and when.
    refreshed: Option<(PairVersion, Instant)>,
    poll_at: Instant,
    /// When the last reading began, and whether the source told of a change since.
    read_at: Instant,
    told: bool,
    changing_since: Option<Instant>,
    copying: CopySchedule,
    /// The waits after failed readings.
    retry: Backoff,
    /// Those that wait for the reading.
    refused: Vec<PendingRefusal>,
    /// Those that wait for a canary.
    judged: Vec<PendingVerdict>,
    rotates: Vec<PendingRotate>,
}

impl<C, F> RotationTask<C>
where
    C: Fn(Lease) -> F + Send + Sync + 'static,
    F: Future<Output = Verdict> + Send + 'static,
{
    async fn run(&mut self) {
        let source = self.keeper.source.clone();
        let watched = self.keeper.watched;
        let mut tending = pin!(source.tend());
        loop {
            self.settle();
            let patience = self.refused.iter().map(|refused| refused.until).min();
            let told = (self.told && !self.reading).then_some(self.read_at + WATCH_FLOOR);
            let due = self.keeper.life.next().into_iter().chain(patience).chain(told);
            let wake = due.fold(self.poll_at, Instant::min);
            tokio::select! {
                asked = self.keeper.inbox.recv() => match asked {
                    Some(asked) => self.asked(asked),
                    None => return,
                },
                Some(done) = self.jobs.join_next_with_id() => self.done(done),
                () = &mut tending => {}
                () = source.changed(), if watched && !self.told => self.told = true,
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Starts what is due, shows the new state, and tells what happened.
    fn settle(&mut self) {
        let now = Instant::now();
        let told = self.told && !self.reading && now >= self.read_at + WATCH_FLOOR;
        if told || now >= self.poll_at {
            self.told &= !told;
            self.read(now);
        }
        let (late, waiting) = std::mem::take(&mut self.refused).into_iter().partition(|refused| refused.until <= now);
        self.refused = waiting;
        for refused in late {
            self.remedy(refused, now);
        }
        self.keeper.life.expire(now);
        for held in self.keeper.life.due(now) {
            let (version, asked) = (held.version(), (self.canary)(Lease::new(held)));
            let job = self.jobs.spawn(async move { JobResult::Verdict(version, asked.await) });
            self.canaries.insert(job.id(), version);
        }
        self.show();
        self.copy();
        self.release();
    }

    /// Has the pair in use written to its sealed copy, where there is to be one.
    fn copy(&mut self) {
        let Some(copy) = self.keeper.source.copy() else { return };
        let Some((held, since, read_at)) = self.keeper.life.worth_copying() else { return };
        if self.copying.begins(&held, since, self.keeper.life.max_age()) {
            let copy = copy.clone();
            self.jobs.spawn_blocking(move || JobResult::Copied(copy.save(&held.pair, read_at)));
        }
    }

    fn show(&mut self) {
        self.keeper.keys.publish(self.keeper.life.snapshot());
        for event in self.keeper.life.take_events() {
            let (what, version) = (event.what.as_str(), event.version.map(tracing::field::display));
            let (account, source) = (self.keeper.life.account(), self.keeper.source.as_str());
            match event.what {
                KeyEvent::Refused | KeyEvent::RolledBack | KeyEvent::SourceLost => {
                    tracing::warn!(account, source, event = what, version, "keys");
                }
                _ => tracing::info!(account, source, event = what, version, "keys"),
            }
            (self.keeper.observer)(&event);
        }
    }

    /// Has the source read, unless it is being read.
    fn read(&mut self, now: Instant) {
        // An environment doesn't change: it is read at the start, and when somebody asks.
        self.poll_at = now + self.keeper.source.poll().unwrap_or(Duration::from_secs(3600));
        if self.reading {
            return;
        }
        (self.reading, self.read_at) = (true, now);
        self.reads += 1;
        let (source, seen) = (self.keeper.source.clone(), self.keeper.life.seen());
        self.jobs.spawn(async move {
            let first = seen.is_none();
            let read = source.read(seen).await;
            let copy = if first && read.is_err() { source.restore().await } else { None };
            JobResult::Read(Box::new(read), copy.map(Box::new))
        });
    }

    /// The number of a reading that begins from now on. One that is on its way may have seen the
    /// source before the change that somebody wants to know of.
    fn read_anew(&mut self, now: Instant) -> u64 {
        let busy = self.reading;
        self.read(now);
        self.reads + u64::from(busy)
    }

    fn asked(&mut self, asked: KeyCommand) {
        let now = Instant::now();
        match asked {
            KeyCommand::Refused { version, may_resend, reply } => {
                let lately = self.refreshed.is_some_and(|(of, at)| of == version && now < at + REFRESH_FLOOR);
                if lately && !self.reading {
                    self.remedy(PendingRefusal { version, may_resend, reading: 0, until: now, reply }, now);
                    return;
                }
                let reading = if lately { self.reads } else { self.read_anew(now) };
                if !lately {
                    self.refreshed = Some((version, now));
                    self.keeper.life.refreshes(version);
                }
                self.refused.push(PendingRefusal { version, may_resend, reading, until: now + PATIENCE, reply });
            }
            KeyCommand::Rotate { force, reply } => {
                let reading = self.read_anew(now);
                self.rotates.push(PendingRotate { reading, force, until: now + ROTATE_PATIENCE, reply });
            }
            KeyCommand::Verify { reply } => match self.keeper.life.in_question() {
                Some(version) => self.wait(version, VerdictReply::Verify(reply), now),
                None => drop(reply.send(None)),
            },
            KeyCommand::Revoke { version, reply } => {
                self.keeper.life.revoke(version, now);
                self.show();
                let _ = reply.send(());
            }
        }
    }

    fn done(&mut self, done: Result<(Id, JobResult), JoinError>) {
        let now = Instant::now();
        let done = match done {
            Ok((id, done)) => {
                self.canaries.remove(&id);
                done
            }
            Err(error) => match self.canaries.remove(&error.id()) {
                Some(version) => JobResult::Verdict(version, Verdict::Undecided),
                None => JobResult::Read(Box::new(Err(SourceError::Interrupted)), None),
            },
        };
        match done {
            JobResult::Read(read, copy) => {
                if let Some(copy) = copy {
                    self.keeper.life.restore(*copy, now);
                }
                self.was_read(*read, now);
            }
            JobResult::Copied(copied) => {
                self.copying.ended();
                if let Err(fault) = copied {
                    tracing::warn!(account = self.keeper.life.account(), %fault, "no sealed copy of the key pair");
                }
            }
            JobResult::Verdict(version, verdict) => {
                self.keeper.life.verdict(version, verdict, now);
                self.show();
                let (told, rest) = std::mem::take(&mut self.judged).into_iter().partition(|w| w.version == version);
                self.judged = rest;
                for waiting in told {
                    self.tell(waiting, verdict);
                }
            }
        }
    }

    fn was_read(&mut self, read: Result<SourceReading, SourceError>, now: Instant) {
        self.reading = false;
        let mut fault = None;
        match read {
            Ok(SourceReading { pair, version }) => {
                self.changing_since = None;
                self.retry.reset();
                self.keeper.life.numbered(version);
                self.keeper.life.read(pair, now);
            }
            Err(why) => {
                let changing = why.is_transient().then(|| *self.changing_since.get_or_insert(now));
                if changing.is_some() {
                    self.poll_at = now + POLL_CHANGING;
                } else {
                    self.changing_since = None;
                    self.poll_at = self.poll_at.min(now + self.retry.next_jittered());
                }
                if changing.is_none_or(|since| now >= since + CHANGING_AT_MOST) {
                    self.keeper.life.lost(&why);
                }
                fault = Some(why);
            }
        }
        let done = self.reads;
        let (refused, later) = std::mem::take(&mut self.refused).into_iter().partition(|r| r.reading <= done);
        self.refused = later;
        for refused in refused {
            self.remedy(refused, now);
        }
        let (rotates, later) = std::mem::take(&mut self.rotates).into_iter().partition(|r| r.reading <= done);
        self.rotates = later;
        let wanted = !self.refused.is_empty() || !self.rotates.is_empty();
        for rotate in rotates {
            self.rotate(rotate, fault.as_ref(), now);
        }
        if wanted {
            self.read(now);
        }
        self.show();
    }

    /// Answers a refused request, or has it wait for the canary.
    fn remedy(&mut self, refused: PendingRefusal, now: Instant) {
        let PendingRefusal { version, may_resend, reply, .. } = refused;
        let next = self.keeper.life.remedy(version, may_resend, now);
        self.show();
        let remedy = match next {
            RefusalAction::Resend(held) => Remedy::Resend(Lease::new(held)),
            RefusalAction::Judged(Verdict::Verified) => Remedy::Own,
            RefusalAction::Judged(_) | RefusalAction::Gone => Remedy::Rejected,
            RefusalAction::AskCanary => return self.wait(version, VerdictReply::Refused(reply, may_resend), now),
        };
        let _ = reply.send(remedy);
    }

    fn rotate(&mut self, rotate: PendingRotate, fault: Option<&SourceError>, now: Instant) {
        if fault.is_some_and(SourceError::is_transient) && now < rotate.until {
            self.rotates.push(rotate);
            return;
        }
        let (before, candidate) = self.keeper.life.standing();
        let rotated = match (fault, candidate) {
            (Some(fault), _) => Rotated::Fault(fault.to_string()),
            (None, Some(version)) if rotate.force => {
                self.keeper.life.force(now);
                Rotated::Promoted(version)
            }
            (None, Some(version)) => return self.wait(version, VerdictReply::Rotate(rotate.reply), now),
            (None, None) => match self.keeper.life.seen().map(|held| held.version()) {
                Some(version) if before != Some(version) => Rotated::Revoked(version),
                _ => Rotated::Unchanged,
            },
        };
        self.show();
        let _ = rotate.reply.send(rotated);
    }

    fn wait(&mut self, version: PairVersion, reply: VerdictReply, now: Instant) {
        self.judged.push(PendingVerdict { version, reply });
        self.keeper.life.ask(version, now);
    }

    /// Answers those who wait for a version that is gone, so that nobody can be asked about it.
    fn release(&mut self) {
        let asked: Vec<PairVersion> = self.canaries.values().copied().collect();
        let (gone, rest) = std::mem::take(&mut self.judged).into_iter().partition(|w| !asked.contains(&w.version));
        self.judged = rest;
        for waiting in gone {
            self.tell(waiting, Verdict::Undecided);
        }
    }

    fn tell(&mut self, waiting: PendingVerdict, verdict: Verdict) {
        let version = waiting.version;
        match waiting.reply {
            VerdictReply::Refused(reply, may_resend) => {
                // While it waited, another pair may have come into use.
                let other = self.keeper.keys.lease().ok().filter(|lease| lease.version() != version);
                let remedy = match (verdict, other) {
                    (Verdict::Verified, _) => Remedy::Own,
                    (_, Some(lease)) if may_resend => Remedy::Resend(lease),
                    _ => Remedy::Rejected,
                };
                let _ = reply.send(remedy);
            }
            VerdictReply::Rotate(reply) => {
                let in_use = self.keeper.life.standing().0 == Some(version);
                let _ = reply.send(match verdict {
                    _ if in_use => Rotated::Promoted(version),
                    Verdict::Refused => Rotated::Refused(version),
                    _ => Rotated::Undecided(version),
                });
            }
            VerdictReply::Verify(reply) => {
                let _ = reply.send(Some((version, verdict)));
            }
        }
    }
}

#[cfg(test)]
mod tests;
