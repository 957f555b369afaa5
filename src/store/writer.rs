//! The store's thread: takes queued jobs in order, commits adjacent writes together and reports the
//! results.
//!
//! Always holds: a write is reported as done only after its commit; a failed commit fails all its
//! batches. A panic of redb during a commit is a failed write. It does not know what a row means.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::Receiver,
    },
};

use redb::{Database, Durability};
use tokio::sync::oneshot;

use super::{
    error::{OpenError, StoreError},
    table::WriteBatch,
};

/// Batches per commit: bounds the memory of a transaction and the wait of its first batch.
const MAX_GROUP: usize = 1024;

pub(super) type Opener = Box<dyn Fn() -> Result<Database, OpenError> + Send>;

type OnWritten = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
type ReadFn = Box<dyn FnOnce(Result<&Database, StoreError>) + Send>;

pub(super) enum StoreJob {
    Write(QueuedWrite),
    Read(ReadFn),
    Close(oneshot::Sender<()>),
}

pub(super) struct QueuedWrite {
    batch: WriteBatch,
    done: OnWritten,
}

impl StoreJob {
    pub(super) fn write(batch: WriteBatch, done: OnWritten) -> StoreJob {
        StoreJob::Write(QueuedWrite { batch, done })
    }
}

impl fmt::Debug for StoreJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StoreJob::Write(_) => "Write",
            StoreJob::Read(_) => "Read",
            StoreJob::Close(_) => "Close",
        })
    }
}

/// The state of the thread, readable through every handle.
#[derive(Debug, Default)]
pub(super) struct StoreHealth {
    failing: AtomicBool,
    /// The thread has ended.
    ended: AtomicBool,
    commits: AtomicU64,
}

impl StoreHealth {
    pub(super) fn is_healthy(&self) -> bool {
        !self.failing.load(Ordering::Relaxed)
    }

    pub(super) fn runs(&self) -> bool {
        !self.ended.load(Ordering::Relaxed)
    }

    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }
}

pub(super) struct StoreWriter {
    opener: Opener,
    /// `None` after a failed write: redb refuses everything from then on, so the file is reopened.
    database: Option<Database>,
    health: Arc<StoreHealth>,
}

impl StoreWriter {
    pub(super) fn open(opener: Opener, health: Arc<StoreHealth>) -> Result<Self, OpenError> {
        let database = Some(opener()?);
        Ok(StoreWriter { opener, database, health })
    }

    /// Runs until the last handle is dropped or the store is closed.
    pub(super) fn run(mut self, queue: &Receiver<StoreJob>) {
        let _mark = MarkClosed(Arc::clone(&self.health));
        while let Ok(first) = queue.recv() {
            let mut group = Vec::new();
            let mut next = Some(first);
            while let Some(StoreJob::Write(write)) = next {
                group.push(write);
                next = if group.len() < MAX_GROUP { queue.try_recv().ok() } else { None };
            }
            if !group.is_empty() {
                self.commit(group);
            }
            match next {
                Some(StoreJob::Read(read)) => read(self.database()),
                Some(StoreJob::Close(closed)) => {
                    // Releases the file lock before the close is reported.
                    drop(self.database.take());
                    let _ = closed.send(());
                    return;
                }
                Some(StoreJob::Write(_)) | None => {}
            }
        }
    }

    fn database(&mut self) -> Result<&Database, StoreError> {
        if self.database.is_none() {
            self.database = Some((self.opener)().map_err(|error| StoreError::failed(&error))?);
        }
        self.database.as_ref().ok_or(StoreError::Closed)
    }

    fn commit(&mut self, group: Vec<QueuedWrite>) {
        let result = self.database().and_then(|database| {
            catch_unwind(AssertUnwindSafe(|| write(database, &group)))
                .unwrap_or_else(|_| Err(StoreError::Failed("a write panicked".into())))
        });
        self.update_health(&result);
        for QueuedWrite { done, .. } in group {
            done(result.clone());
        }
    }

    fn update_health(&mut self, result: &Result<(), StoreError>) {
        match result {
            Ok(()) => {
                self.health.commits.fetch_add(1, Ordering::Relaxed);
                if self.health.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("the state store can be written again");
                }
            }
            Err(error) => {
                self.database = None;
                if !self.health.failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, "the state store cannot be written");
                }
            }
        }
    }
}

/// Marks the store as unhealthy when its thread ends, also by a panic.
struct MarkClosed(Arc<StoreHealth>);

impl Drop for MarkClosed {
    fn drop(&mut self) {
        self.0.failing.store(true, Ordering::Relaxed);
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

fn write(database: &Database, group: &[QueuedWrite]) -> Result<(), StoreError> {
    let commit = || -> Result<(), redb::Error> {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        for write in group {
            write.batch.apply(&transaction)?;
        }
        transaction.commit()?;
        Ok(())
    };
    commit().map_err(|error| StoreError::failed(&error))
}
