//! The embedded ledger: day counts, pauses and learned rates that survive the end of the process and of the machine
//! ([`book`], [`throttles`]), and token buckets that survive a clean restart ([`bucket_marks`]).
//!
//! Counters ask it for leases and marks ([`DayLedger`]); a thread of its own writes them to the file of day marks and to the
//! state store, so no request waits for a disk. What always holds: see [`book`]; a counter gets no grant for what is not
//! written. The ledger knows neither limits nor who is counted. Opening it fails with the system's error or the store's;
//! after that it fails by granting nothing, repeats what failed, and says so ([`Ledger::is_healthy`]).

mod book;
mod bucket_file;
mod bucket_marks;
mod marks_file;
mod slot;
mod stored_lease;
#[cfg(test)]
mod tests;
mod throttles;
mod writer;

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{
        Arc,
        mpsc::{self, Sender},
    },
    time::Instant,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

pub use self::marks_file::{MarksSummary, inspect};
use self::{
    book::{Book, RestoredDays, days_of},
    bucket_marks::BucketMarks,
    marks_file::MarksFile,
    stored_lease::{LEASES, StoredLease},
    throttles::{Throttle, Throttles},
    writer::{LedgerHealth, LedgerJob, LedgerWriter},
};
use crate::{
    admission::{BucketMark, BucketStart, CounterId, DayLedger, LastCounts, LeaseRequest, Level, RestoredDay},
    store::{Store, StoreError},
    uptime,
};

/// Why the ledger could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file of day marks cannot be opened or read.
    #[error("the file of day marks: {0}")]
    Marks(#[from] io::Error),
    /// The leases cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whether there is a file of a ledger in `dir`, damaged or not.
pub fn exists(dir: &Path) -> bool {
    marks_file::exists(dir) || bucket_marks::exists(dir) || throttles::exists(dir)
}

/// The ledger in `state.dir`.
#[derive(Debug)]
pub struct Ledger {
    jobs: Sender<LedgerJob>,
    /// Of counters that do not exist yet.
    restored: Mutex<RestoredDays>,
    buckets: BucketMarks,
    /// Those that were known at the start.
    throttles: HashMap<CounterId, Throttle>,
    has_lost_counts: bool,
    health: Arc<LedgerHealth>,
}

impl Ledger {
    /// Opens the ledger in `dir`, the folder of `store`, and starts its thread. `is_new`: no gateway has run there before.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn open(dir: &Path, store: Store, is_new: bool) -> Result<Arc<Self>, LedgerError> {
        let loaded = store.load(&LEASES).await?;
        let (marks, found) = MarksFile::open(dir)?;
        if loaded.unreadable > 0 || found.damaged > 0 {
            let (rows, slots) = (loaded.unreadable, found.damaged);
            tracing::warn!(
                rows,
                slots,
                "some day counts are damaged; of two records of a count the larger one applies"
            );
        }
        let lacks_marks = found.is_new || found.is_unreadable || found.damaged > 0;
        let has_lost_counts = !is_new && lacks_marks && (loaded.rows.is_empty() || loaded.unreadable > 0);
        if found.is_new && !loaded.rows.is_empty() {
            tracing::warn!("the file of day marks was lost; the day counts are those of the state store");
        } else if loaded.rows.is_empty() && !found.slots.is_empty() {
            tracing::warn!("the state store has no day counts; they are those of the file of day marks");
        } else if loaded.rows.is_empty() {
            tracing::info!("no day counts are recorded: counting begins at zero");
        }
        let stored = loaded.rows.iter().filter_map(|row| StoredLease::new(&row.key, row.row)).collect();
        let today = jiff::Timestamp::now().as_second().div_euclid(86_400) as i32;
        let boot = uptime::boot();
        let (book, restored) = Book::recover(found, stored, boot, today);
        let buckets = BucketMarks::take(dir, boot, is_new);
        let throttles = Throttles::read(dir, boot);
        let known = throttles.known().clone();
        let (jobs, queue) = mpsc::channel();
        let health = Arc::<LedgerHealth>::default();
        let writer = LedgerWriter {
            book,
            marks,
            throttles,
            store,
            health: health.clone(),
            jobs: jobs.clone(),
            pauses: LedgerWriter::PAUSES,
            retry: None,
            check_at: Instant::now(),
        };
        std::thread::Builder::new().name("ledger".into()).spawn(move || writer.run(&queue))?;
        Ok(Arc::new(Ledger {
            jobs,
            restored: Mutex::new(restored),
            buckets,
            throttles: known,
            has_lost_counts,
            health,
        }))
    }

    /// Whether both records of some day counts were lost before the start, as far as the folder shows.
    pub fn has_lost_counts(&self) -> bool {
        self.has_lost_counts
    }

    /// Whether its writes succeed in time.
    pub fn is_healthy(&self) -> bool {
        self.health.is_healthy()
    }

    /// Writes the last counts, exactly, and ends the thread. Nothing is granted any more.
    pub async fn close(&self, counts: LastCounts) {
        let (closed_tx, closed_rx) = oneshot::channel();
        if self.jobs.send(LedgerJob::Close(counts, closed_tx)).is_ok() {
            let _ = closed_rx.await;
        }
    }
}

impl DayLedger for Ledger {
    fn restore(&self, counter: &CounterId) -> Vec<RestoredDay> {
        days_of(&mut self.restored.lock(), counter)
    }

    fn bucket(&self, counter: &CounterId) -> BucketStart {
        // A clean stop knows better than what Fastrac has said before.
        match (self.buckets.start_of(counter), self.throttles.get(counter)) {
            (BucketStart::Unused | BucketStart::Unknown { .. }, Some(Throttle { mark, at })) => {
                BucketStart::Recorded { mark: *mark, age: at.elapsed() }
            }
            (start, _) => start,
        }
    }

    fn request(&self, request: LeaseRequest) {
        // A closed ledger grants nothing.
        let _ = self.jobs.send(LedgerJob::Request(request));
    }

    fn throttled(&self, account: &CounterId, mark: BucketMark) {
        let _ = self.jobs.send(LedgerJob::Throttled(account.clone(), Throttle { mark, at: Instant::now() }));
    }

    fn is_failing(&self, level: Level) -> bool {
        self.health.is_failing(level)
    }
}
