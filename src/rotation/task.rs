//! The loop of the rotation task: what happens, and what is due because of it.

use std::{collections::HashMap, pin::pin, sync::Arc};

use jiff::Timestamp;
use tokio::{
    sync::oneshot,
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::Instant,
};

use super::{
    copy_schedule::CopySchedule,
    pending::{FinishedReading, JobResult, PendingRotate, PendingVerdict},
    readings::{Readings, Wanted},
};
use crate::keys::{
    Keeper, KeyCommand, KeyEvent, Lease, PairVersion, ReadAt, Remedy, SourceError, SourceReading, Verdict,
    WaitingRefusals, WantedReading,
};

pub(super) struct RotationTask<'k, C> {
    pub(super) keeper: &'k mut Keeper,
    canary: &'k C,
    pub(super) jobs: JoinSet<JobResult>,
    pub(super) canaries: HashMap<Id, RunningCanary>,
    /// The job that reads the source.
    reading: Option<Id>,
    pub(super) readings: Readings,
    /// Whether an operator waits for the next reading.
    pub(super) by_operator: bool,
    copying: CopySchedule,
    refused: WaitingRefusals<oneshot::Sender<Remedy>>,
    /// Operators who wait for a canary.
    pub(super) verdicts: Vec<PendingVerdict>,
    /// Operators who wait for a reading.
    pub(super) rotates: Vec<PendingRotate>,
}

pub(super) struct RunningCanary {
    pub(super) version: PairVersion,
    job: AbortHandle,
}

/// Why the loop of a source ended.
#[derive(PartialEq)]
enum LoopEnd {
    /// There is another source.
    Source,
    /// No more commands can come.
    Inbox,
}

impl<'k, C, F> RotationTask<'k, C>
where
    C: Fn(Lease) -> F + Send + Sync + 'static,
    F: Future<Output = Verdict> + Send + 'static,
{
    pub(super) fn new(keeper: &'k mut Keeper, canary: &'k C) -> Self {
        Self {
            keeper,
            canary,
            jobs: JoinSet::new(),
            canaries: HashMap::new(),
            reading: None,
            readings: Readings::new(Instant::now()),
            by_operator: false,
            copying: CopySchedule::default(),
            refused: WaitingRefusals::default(),
            verdicts: Vec::new(),
            rotates: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) {
        while self.serve_source().await == LoopEnd::Source {}
    }

    /// Runs until there is another source.
    async fn serve_source(&mut self) -> LoopEnd {
        let source = self.keeper.source.clone();
        let (watched, keys) = (self.keeper.watched, self.keeper.keys.clone());
        let mut tending = pin!(source.tend());
        loop {
            self.take_settings();
            if !Arc::ptr_eq(&source, &self.keeper.source) {
                return LoopEnd::Source;
            }
            self.start_due();
            let awaits_change = watched && self.readings.awaits_change();
            // Without a time, the end of a job wakes the task.
            let wake = self.next();
            let timer = async {
                match wake {
                    Some(wake) => tokio::time::sleep_until(wake).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = self.keeper.inbox.recv() => match command {
                    Some(command) => self.execute(command),
                    None => return LoopEnd::Inbox,
                },
                Some(done) = self.jobs.join_next_with_id() => self.done(done),
                () = keys.has_settings() => {}
                () = &mut tending => {}
                () = source.changed(), if awaits_change => self.readings.report_change(),
                () = timer => {}
            }
        }
    }

    /// When something is due.
    fn next(&self) -> Option<Instant> {
        let now = Instant::now();
        let (life, refused) = (self.keeper.life.next(now), self.refused.next(now));
        [life, refused, self.readings.next()].into_iter().flatten().min()
    }

    /// Decides what can be decided, starts what is due, and publishes the new state.
    fn start_due(&mut self) {
        let now = Instant::now();
        self.keeper.life.expire(now);
        self.keeper.life.end_verdict_wait(now);
        self.end_overdue(now);
        let settled = self.refused.settle(&mut self.keeper.life, now);
        let canaries = self.start_canaries(now);
        let locked_out = self.keeper.life.is_locked_out();
        // A source with a new pair ends a lock-out too.
        let probe = (locked_out && canaries > 0).then_some(now);
        let rotates = self.rotates.iter().map(|rotate| rotate.after);
        let confirm = self.keeper.life.wanted_reading().map(|wanted| wanted.after);
        let urgent = rotates.chain(confirm).chain(probe).max();
        self.readings.want(Wanted { refused: settled.read.map(|wanted| wanted.after), urgent });
        if self.readings.next().is_some_and(|due| due <= now) {
            self.read(settled.read, now);
        }
        self.publish();
        // What they are told can be seen by then.
        for (reply, remedy) in settled.decided {
            let _ = reply.send(remedy);
        }
        self.copy();
        self.release();
    }

    /// Ends the canaries that would put off the next ones of a lock-out.
    fn end_overdue(&mut self, now: Instant) {
        for version in self.keeper.life.overdue(now) {
            self.canaries.retain(|_, canary| {
                if canary.version == version {
                    canary.job.abort();
                }
                canary.version != version
            });
            self.judge(version, Verdict::Undecided, now);
        }
    }

    fn judge(&mut self, version: PairVersion, verdict: Verdict, now: Instant) {
        self.keeper.life.verdict(version, verdict, now);
        self.publish();
        self.tell_verdict(version, verdict);
    }

    /// Starts the canaries that are due; returns their number.
    fn start_canaries(&mut self, now: Instant) -> usize {
        let due = self.keeper.life.due(now);
        let number = due.len();
        for held in due {
            let (version, verdict) = (held.version(), (self.canary)(Lease::new(held)));
            let job = self.jobs.spawn(async move { JobResult::Verdict(version, verdict.await) });
            self.canaries.insert(job.id(), RunningCanary { version, job });
        }
        number
    }

    /// Starts reading the source.
    fn read(&mut self, refused: Option<WantedReading>, now: Instant) {
        if let Some(version) = refused.and_then(|wanted| wanted.refused).filter(|_| self.readings.is_refresh()) {
            self.keeper.life.refreshes(version);
        }
        let source = self.keeper.source.clone();
        let began = self.readings.begin(source.poll(), now);
        let (seen, by_operator) = (self.keeper.life.seen(), std::mem::take(&mut self.by_operator));
        let job = self.jobs.spawn(async move {
            let first = seen.is_none();
            let result = source.read(seen, by_operator).await;
            let copy = if first && result.is_err() { source.restore().await } else { None };
            JobResult::Read(Box::new(FinishedReading { began, result, copy }))
        });
        self.reading = Some(job.id());
    }

    /// Starts writing the encrypted copy of the pair in use, if there is to be one and it is due.
    fn copy(&mut self) {
        let Some(copy) = self.keeper.source.copy() else { return };
        let Some((held, since, read_at)) = self.keeper.life.worth_copying() else { return };
        if self.copying.begins(&held, since, self.keeper.life.max_age()) {
            let copy = copy.clone();
            self.jobs.spawn_blocking(move || JobResult::Copied(copy.save_in_time(held, read_at)));
        }
    }

    fn execute(&mut self, command: KeyCommand) {
        // It may be of a request that began with them.
        self.take_settings();
        let now = Instant::now();
        match command {
            KeyCommand::Refused { request, reply } => self.refused.add(request, reply, now),
            KeyCommand::Accepted { version, tried } => self.keeper.life.accepted(version, &tried, now),
            KeyCommand::Rotate { force, reply } => self.rotate(force, reply, now),
            KeyCommand::Verify { reply } => self.verify(reply, now),
            KeyCommand::Revoke { version, named, reply } => {
                let known = self.keeper.life.revoke(version, named, now);
                // Nothing is signed with it any more once the operator is told.
                self.publish();
                let _ = reply.send(known);
            }
        }
    }

    /// Puts the settings of a reload in force. Pairs stay, and so do canaries unless the address is another.
    fn take_settings(&mut self) {
        let Some(mut settings) = self.keeper.keys.take_settings() else { return };
        let now = Instant::now();
        self.keeper.life.reconfigure(settings.rotation.clone(), now);
        if let Some((since, first)) = settings.moved {
            // Their verdicts are those of the address before.
            self.canaries.drain().for_each(|(_, canary)| canary.job.abort());
            if self.keeper.life.moved(since, first, now) {
                self.restart_readings(now);
            }
        }
        if let Some(source) = settings.source.take() {
            self.keeper.life.change_source(source.traits());
            self.keeper.source = source;
            self.restart_readings(now);
            self.copying = CopySchedule::default();
        }
        self.publish();
    }

    /// The reading that is running no longer counts, and the source is read now.
    fn restart_readings(&mut self, now: Instant) {
        self.reading = None;
        self.readings.restart(now);
    }

    fn done(&mut self, done: Result<(Id, JobResult), JoinError>) {
        let now = Instant::now();
        let done = match done {
            Ok((id, done)) => {
                let is_canary = self.canaries.remove(&id).is_some();
                let counts = match &done {
                    JobResult::Verdict(..) => is_canary,
                    JobResult::Read(_) => self.reading == Some(id),
                    JobResult::Copied(_) => true,
                };
                if !counts {
                    return;
                }
                done
            }
            Err(error) => match self.canaries.remove(&error.id()) {
                Some(canary) => JobResult::Verdict(canary.version, Verdict::Undecided),
                None => return self.interrupted(error.id(), now),
            },
        };
        match done {
            JobResult::Read(reading) => self.was_read(*reading, now),
            JobResult::Copied(copied) => {
                self.copying.ended();
                if let Err(fault) = copied {
                    tracing::warn!(account = self.keeper.life.account(), %fault, "the encrypted copy of the key pair can't be written");
                }
            }
            JobResult::Verdict(version, verdict) => self.judge(version, verdict, now),
        }
    }

    /// A job that is no canary has panicked.
    fn interrupted(&mut self, job: Id, now: Instant) {
        if self.reading == Some(job) {
            let result = Err(SourceError::Interrupted);
            self.was_read(FinishedReading { began: now, result, copy: None }, now);
        }
    }

    fn was_read(&mut self, reading: FinishedReading, now: Instant) {
        let FinishedReading { began, result, copy } = reading;
        let read_at = ReadAt { instant: now, wall: Timestamp::now() };
        if let Some(copy) = copy {
            self.keeper.life.restore(copy, read_at);
        }
        let mut fault = None;
        match result {
            Ok(SourceReading { pair, version }) => {
                self.readings.succeeded();
                self.keeper.life.numbered(version);
                self.keeper.life.read(pair, began, read_at);
            }
            Err(why) => {
                if self.readings.failed(why.is_transient(), now) {
                    self.keeper.life.lost(&why, began);
                }
                fault = Some(why);
            }
        }
        self.complete_rotations(began, fault.as_ref(), now);
    }
}

impl<C> RotationTask<'_, C> {
    /// Publishes the state, and reports the events.
    pub(super) fn publish(&mut self) {
        // First, so that nothing is signed with a pair whose secret is not searched for.
        self.keeper.life.share_secrets();
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
}
