//! The ledger's thread: does what counters request, again and again until it succeeds.
//!
//! What always holds: it never waits for the store, except for the last counts, at most [`CLOSING`]. It does wait for the
//! file, which is written to the page cache without fsync. A failed write is repeated after a pause that doubles. A file
//! that is removed, replaced or emptied is noticed within about a second and written again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    book::{Book, SubmittedLease},
    bucket_marks,
    marks_file::MarksFile,
    throttles::{Throttle, Throttles},
};
use crate::{
    admission::{CounterId, LastCounts, LeaseRequest, Level},
    backoff::Backoff,
    store::{self, RunningInstant, Store},
};

/// How long the last counts wait for the store.
const CLOSING: Duration = Duration::from_millis(1_500);

/// How often it checks that the file is still there.
const CHECK: Duration = Duration::from_secs(1);

/// Requests that are done together.
const GROUP: usize = 10_000;

#[derive(Debug)]
pub(super) enum LedgerJob {
    Request(LeaseRequest),
    Throttled(CounterId, Throttle),
    /// These leases could not be stored.
    NotStored(Vec<SubmittedLease>),
    /// These are the last counts; no requests follow.
    Close(LastCounts, oneshot::Sender<()>),
}

/// How the writes go, readable by other threads.
#[derive(Debug, Default)]
pub(super) struct LedgerHealth {
    file: WriteHealth,
    store: WriteHealth,
    /// The file is lost, and there is no new one yet.
    file_lost: AtomicBool,
}

impl LedgerHealth {
    /// Whether writes succeed in time.
    pub(super) fn is_healthy(&self) -> bool {
        let is_healthy = |health: &WriteHealth| !health.is_slow() && !health.failing.load(Ordering::Relaxed);
        is_healthy(&self.file) && is_healthy(&self.store) && !self.file_lost.load(Ordering::Relaxed)
    }

    /// Whether the last write that a grant of this level needs has failed.
    pub(super) fn is_failing(&self, level: Level) -> bool {
        let is_failing = |health: &WriteHealth| health.failing.load(Ordering::Relaxed);
        is_failing(&self.file) || level == Level::Lease && is_failing(&self.store)
    }
}

/// The writes to one of the two.
#[derive(Debug, Default)]
struct WriteHealth {
    /// Since when a write is in progress or fails.
    since: Mutex<Option<RunningInstant>>,
    /// The last write has failed.
    failing: AtomicBool,
}

impl WriteHealth {
    fn begin(&self) {
        self.since.lock().get_or_insert_with(RunningInstant::now);
    }

    /// Takes the result of a write. Returns whether it failed and the one before had not.
    fn end(&self, succeeded: bool) -> bool {
        if succeeded {
            *self.since.lock() = None;
        }
        !self.failing.swap(!succeeded, Ordering::Relaxed) && !succeeded
    }

    fn is_idle(&self) -> bool {
        self.since.lock().is_none()
    }

    fn is_slow(&self) -> bool {
        self.since.lock().is_some_and(|since| since.elapsed() > store::SLOW)
    }
}

pub(super) struct LedgerWriter {
    pub(super) book: Book,
    pub(super) marks: MarksFile,
    pub(super) throttles: Throttles,
    pub(super) store: Store,
    pub(super) health: Arc<LedgerHealth>,
    /// For what the store's thread reports.
    pub(super) jobs: Sender<LedgerJob>,
    pub(super) pauses: Backoff,
    /// When a failed write is repeated.
    pub(super) retry: Option<Instant>,
    /// When the file is checked next.
    pub(super) check_at: Instant,
}

impl LedgerWriter {
    /// The pauses between repeated writes.
    pub(super) const PAUSES: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));

    /// Runs until the last counts are written.
    pub(super) fn run(mut self, queue: &Receiver<LedgerJob>) {
        // What was lost before the start.
        self.write();
        loop {
            let wake_at = self.retry.map_or(self.check_at, |retry| retry.min(self.check_at));
            let next = match queue.recv_timeout(wake_at.saturating_duration_since(Instant::now())) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let more = std::iter::from_fn(|| queue.try_recv().ok()).take(GROUP);
            for job in next.into_iter().chain(more).collect::<Vec<_>>() {
                match job {
                    LedgerJob::Request(request) => self.book.take(request),
                    LedgerJob::Throttled(account, throttle) => self.throttles.record(account, throttle),
                    LedgerJob::NotStored(leases) => {
                        self.book.not_stored(leases);
                        self.pause();
                    }
                    LedgerJob::Close(counts, closed) => {
                        self.close(&counts);
                        let _ = closed.send(());
                        return;
                    }
                }
            }
            self.check_file();
            self.throttles.write();
            self.write();
        }
    }

    /// Replaces a file that is lost. Until it can be, the old one is written: the store's leases still hold.
    fn check_file(&mut self) {
        let now = Instant::now();
        if now < self.check_at {
            return;
        }
        self.check_at = now + CHECK;
        self.throttles.check();
        let Err(lost) = self.marks.check() else { return self.health.file_lost.store(false, Ordering::Relaxed) };
        let recreated = self.marks.recreate();
        let is_known = self.health.file_lost.swap(recreated.is_err(), Ordering::Relaxed);
        match recreated {
            Ok(()) => {
                tracing::error!("the file of day marks was lost ({lost}); all day counts are written to a new one");
                self.book.rewrite_slots();
            }
            Err(error) if !is_known => {
                tracing::error!(%error, "the file of day marks was lost ({lost}), and a new one cannot be created");
            }
            Err(_) => {}
        }
    }

    fn write(&mut self) {
        self.health.file.begin();
        let written = self.book.write_slots(&mut self.marks);
        let is_due = self.retry.is_none_or(|at| at <= Instant::now());
        let fails_first = self.health.file.end(written.is_ok());
        if let Err(error) = written {
            if fails_first {
                tracing::error!(%error, "the day counts cannot be written to the file of day marks");
            }
            if is_due {
                self.pause();
            }
            return;
        }
        if is_due {
            self.retry = None;
            if self.health.store.is_idle() {
                self.pauses.reset();
            }
            self.store_leases();
        }
    }

    fn store_leases(&mut self) {
        let (batch, leases) = self.book.next_batch();
        if batch.is_empty() {
            return;
        }
        self.health.store.begin();
        let (health, jobs) = (self.health.clone(), self.jobs.clone());
        self.store.submit(batch, move |result| {
            health.store.end(result.is_ok());
            if result.is_ok() {
                leases.iter().for_each(SubmittedLease::grant);
            } else {
                // Reported by the store. The ledger may have ended meanwhile.
                let _ = jobs.send(LedgerJob::NotStored(leases));
            }
        });
    }

    fn pause(&mut self) {
        self.retry = Some(Instant::now() + self.pauses.next());
    }

    /// The store first: the slot's lease must never be below the store's.
    fn close(&mut self, LastCounts { days: counts, buckets }: &LastCounts) {
        if let Err(error) = bucket_marks::write(self.marks.dir(), self.book.boot(), buckets) {
            tracing::warn!(%error, "the file of bucket marks cannot be written: limits per second will begin used up");
        }
        let (stored_tx, stored_rx) = mpsc::channel();
        self.store.submit(self.book.closing_batch(counts), move |result| {
            // It is received, unless it took too long.
            let _ = stored_tx.send(result.is_ok());
        });
        let stored = stored_rx.recv_timeout(CLOSING).unwrap_or(false);
        let written = self.book.write_closing_slots(counts, stored, &mut self.marks);
        match written.and_then(|()| self.marks.sync()) {
            Ok(()) if stored => {}
            Ok(()) => tracing::error!("the day counts are not in the state store; the file of day marks has them"),
            Err(error) => tracing::error!(%error, "the day counts could not be written to the file of day marks"),
        }
    }
}
