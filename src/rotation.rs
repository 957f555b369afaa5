//! The task that keeps an account's key pairs current: it reads the source, has new pairs verified, and
//! decides what happens to refused requests.
//!
//! There is one task for each account, and it does all the writing: a reading or a canary is shared by all
//! who wait for it, and nothing is locked. At most one reading, and one canary for each version, run at a
//! time. They do not delay each other, nor a request that needs neither. A canary that panics is
//! undecided. The task does not know how a canary is sent. It ends when it is dropped, and its canaries
//! with it.

mod copy_schedule;
mod pending;

use std::{collections::HashMap, pin::pin, time::Duration};

use jiff::Timestamp;
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::Instant,
};

use self::{
    copy_schedule::CopySchedule,
    pending::{JobResult, PendingRefusal, PendingRotate, PendingVerdict, Refresh, VerdictReply},
};
use crate::{
    backoff::Backoff,
    keys::{
        Keeper, KeyCommand, KeyEvent, Lease, PairVersion, ReadAt, RefusalAction, Remedy, Rotated, SourceError,
        SourceReading, Verdict,
    },
};

/// Interval between readings of a source that is being changed.
const POLL_CHANGING: Duration = Duration::from_millis(100);
/// Minimum time between readings that refused requests cause.
const REFRESH_FLOOR: Duration = Duration::from_millis(250);
/// How long a source may be changing before it counts as lost.
const CHANGING_AT_MOST: Duration = Duration::from_secs(10);
/// Minimum time between readings that reported changes cause.
const WATCH_FLOOR: Duration = Duration::from_millis(50);
/// First and maximum wait before a source that failed is read again; at most its own interval.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_secs(1024);
/// How long a refused request waits for the source.
const REFUSED_WAIT: Duration = Duration::from_secs(2);
/// How long `rotate` waits for a source that is being changed.
const ROTATE_WAIT: Duration = Duration::from_secs(4);

/// Keeps an account's key pairs current until it is dropped. `canary` has Fastrac verify a lease, within a
/// deadline of its own.
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
        change_reported: false,
        changing_since: None,
        copying: CopySchedule::default(),
        retry: Backoff::new(FIRST_WAIT, MAX_WAIT),
        refused: Vec::new(),
        pending: Vec::new(),
        rotates: Vec::new(),
    };
    task.run().await;
}

struct RotationTask<C> {
    keeper: Keeper,
    canary: C,
    jobs: JoinSet<JobResult>,
    /// The version that each running canary verifies.
    canaries: HashMap<Id, PairVersion>,
    /// Number of readings that were started.
    reads: u64,
    reading: bool,
    /// The last reading that a refused request caused.
    refreshed: Option<Refresh>,
    poll_at: Instant,
    /// When the last reading started.
    read_at: Instant,
    /// Whether the source has reported a change since.
    change_reported: bool,
    /// Since when the source is being changed; `None`: it is not.
    changing_since: Option<Instant>,
    copying: CopySchedule,
    /// The waits after failed readings.
    retry: Backoff,
    /// Refused requests that wait for a reading.
    refused: Vec<PendingRefusal>,
    /// Commands and requests that wait for a canary.
    pending: Vec<PendingVerdict>,
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
            self.start_due();
            let patience = self.refused.iter().map(|refused| refused.until).min();
            let told = (self.change_reported && !self.reading).then_some(self.read_at + WATCH_FLOOR);
            let due = self.keeper.life.next().into_iter().chain(patience).chain(told);
            let wake = due.fold(self.poll_at, Instant::min);
            tokio::select! {
                command = self.keeper.inbox.recv() => match command {
                    Some(command) => self.execute(command),
                    None => return,
                },
                Some(done) = self.jobs.join_next_with_id() => self.done(done),
                () = &mut tending => {}
                () = source.changed(), if watched && !self.change_reported => self.change_reported = true,
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Starts what is due, and publishes the new state.
    fn start_due(&mut self) {
        let now = Instant::now();
        let told = self.change_reported && !self.reading && now >= self.read_at + WATCH_FLOOR;
        if told || now >= self.poll_at {
            self.change_reported &= !told;
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
        self.publish();
        self.copy();
        self.release();
    }

    /// Starts writing the encrypted copy of the pair in use, if there is to be one and it is due.
    fn copy(&mut self) {
        let Some(copy) = self.keeper.source.copy() else { return };
        let Some((held, since, read_at)) = self.keeper.life.worth_copying() else { return };
        if self.copying.begins(&held, since, self.keeper.life.max_age()) {
            let copy = copy.clone();
            self.jobs.spawn_blocking(move || JobResult::Copied(copy.save(&held.pair, read_at)));
        }
    }

    /// Publishes the state, and reports the events.
    fn publish(&mut self) {
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

    /// Starts reading the source, unless it is being read.
    fn read(&mut self, now: Instant) {
        // The environment doesn't change: it is read at the start, and for commands.
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

    /// The number of a reading that starts from now on: one that is running may have read the source before
    /// the change that matters.
    fn read_anew(&mut self, now: Instant) -> u64 {
        let busy = self.reading;
        self.read(now);
        self.reads + u64::from(busy)
    }

    fn execute(&mut self, command: KeyCommand) {
        let now = Instant::now();
        match command {
            KeyCommand::Refused { version, may_resend, reply } => {
                let lately = self
                    .refreshed
                    .as_ref()
                    .is_some_and(|refresh| refresh.version == version && now < refresh.at + REFRESH_FLOOR);
                if lately && !self.reading {
                    self.remedy(PendingRefusal { version, may_resend, reading: 0, until: now, reply }, now);
                    return;
                }
                let reading = if lately { self.reads } else { self.read_anew(now) };
                if !lately {
                    self.refreshed = Some(Refresh { version, at: now });
                    self.keeper.life.refreshes(version);
                }
                self.refused.push(PendingRefusal { version, may_resend, reading, until: now + REFUSED_WAIT, reply });
            }
            KeyCommand::Rotate { force, reply } => {
                let reading = self.read_anew(now);
                self.rotates.push(PendingRotate { reading, force, until: now + ROTATE_WAIT, reply });
            }
            KeyCommand::Verify { reply } => match self.keeper.life.to_verify() {
                Some(version) => self.wait(version, VerdictReply::Verify(reply), now),
                None => drop(reply.send(None)),
            },
            KeyCommand::Revoke { version, reply } => {
                self.keeper.life.revoke(version, now);
                self.publish();
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
                    self.keeper.life.restore(*copy, ReadAt { instant: now, wall: Timestamp::now() });
                }
                self.was_read(*read, now);
            }
            JobResult::Copied(copied) => {
                self.copying.ended();
                if let Err(fault) = copied {
                    tracing::warn!(account = self.keeper.life.account(), %fault, "the encrypted copy of the key pair can't be written");
                }
            }
            JobResult::Verdict(version, verdict) => {
                self.keeper.life.verdict(version, verdict, now);
                self.publish();
                let (told, rest) = std::mem::take(&mut self.pending).into_iter().partition(|w| w.version == version);
                self.pending = rest;
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
                self.keeper.life.read(pair, ReadAt { instant: now, wall: Timestamp::now() });
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
        self.publish();
    }

    /// Decides about a refused request, or makes it wait for the canary.
    fn remedy(&mut self, refused: PendingRefusal, now: Instant) {
        let PendingRefusal { version, may_resend, reply, .. } = refused;
        let next = self.keeper.life.remedy(version, may_resend, now);
        self.publish();
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
        self.publish();
        let _ = rotate.reply.send(rotated);
    }

    fn wait(&mut self, version: PairVersion, reply: VerdictReply, now: Instant) {
        self.pending.push(PendingVerdict { version, reply });
        self.keeper.life.ask(version, now);
    }

    /// Answers those who wait for a version that is no longer known, so that no canary will verify it.
    fn release(&mut self) {
        let asked: Vec<PairVersion> = self.canaries.values().copied().collect();
        let (gone, rest) = std::mem::take(&mut self.pending).into_iter().partition(|w| !asked.contains(&w.version));
        self.pending = rest;
        for waiting in gone {
            self.tell(waiting, Verdict::Undecided);
        }
    }

    fn tell(&mut self, waiting: PendingVerdict, verdict: Verdict) {
        let version = waiting.version;
        match waiting.reply {
            VerdictReply::Refused(reply, may_resend) => {
                // Another pair may be in use by now.
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
