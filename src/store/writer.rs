//! The store's thread: takes what is queued, commits it together, tells everybody.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;

use redb::{Database, Durability};
use tokio::sync::oneshot;

use super::table::WriteBatch;
use super::{OpenError, StoreError};

/// Batches in one commit: bounds the memory of one transaction and the wait of its first batch.
const GROUP: usize = 1024;

pub(super) type Opener = Box<dyn Fn() -> Result<Database, OpenError> + Send>;

type Completion = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
type ReadFn = Box<dyn FnOnce(Result<&Database, StoreError>) + Send>;

pub(super) enum StoreJob {
    Write { batch: WriteBatch, done: Completion },
    Read(ReadFn),
    Close(oneshot::Sender<()>),
}

impl fmt::Debug for StoreJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StoreJob::Write { .. } => "Write",
            StoreJob::Read(_) => "Read",
            StoreJob::Close(_) => "Close",
        })
    }
}

/// What the handles can see of the thread.
#[derive(Debug, Default)]
pub(super) struct StoreHealth {
    failing: AtomicBool,
    commits: AtomicU64,
}

impl StoreHealth {
    pub(super) fn is_healthy(&self) -> bool {
        !self.failing.load(Ordering::Relaxed)
    }

    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }
}

pub(super) struct StoreWriter {
    opener: Opener,
    /// Absent after a failed write: redb refuses everything from then on, so it is opened anew.
    database: Option<Database>,
    health: Arc<StoreHealth>,
}

type QueuedWrites = Vec<(WriteBatch, Completion)>;

impl StoreWriter {
    pub(super) fn open(opener: Opener, health: Arc<StoreHealth>) -> Result<Self, OpenError> {
        let database = Some(opener()?);
        Ok(StoreWriter { opener, database, health })
    }

    /// Works until the last handle is gone or the store is closed.
    pub(super) fn run(mut self, queue: &Receiver<StoreJob>) {
        let _told = MarkClosed(Arc::clone(&self.health));
        while let Ok(first) = queue.recv() {
            let mut group = QueuedWrites::new();
            let mut next = Some(first);
            while let Some(StoreJob::Write { batch, done }) = next {
                group.push((batch, done));
                next = if group.len() < GROUP { queue.try_recv().ok() } else { None };
            }
            if !group.is_empty() {
                self.commit(group);
            }
            match next {
                Some(StoreJob::Read(look)) => look(self.database()),
                Some(StoreJob::Close(done)) => {
                    // The lock is free before the closer learns of it.
                    drop(self.database.take());
                    let _ = done.send(());
                    return;
                }
                Some(StoreJob::Write { .. }) | None => {}
            }
        }
    }

    fn database(&mut self) -> Result<&Database, StoreError> {
        if self.database.is_none() {
            self.database = Some((self.opener)().map_err(|fault| failed(&fault))?);
        }
        self.database.as_ref().ok_or(StoreError::Closed)
    }

    fn commit(&mut self, group: QueuedWrites) {
        let result = self.database().and_then(|database| {
            catch_unwind(AssertUnwindSafe(|| write(database, &group)))
                .unwrap_or_else(|_| Err(StoreError::Failed("a write panicked".into())))
        });
        self.note(&result);
        for (_, done) in group {
            done(result.clone());
        }
    }

    fn note(&mut self, result: &Result<(), StoreError>) {
        match result {
            Ok(()) => {
                self.health.commits.fetch_add(1, Ordering::Relaxed);
                if self.health.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("the state store can be written again");
                }
            }
            Err(fault) => {
                self.database = None;
                if !self.health.failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(%fault, "the state store cannot be written");
                }
            }
        }
    }
}

/// Says that nothing is written any more, also if the thread panics.
struct MarkClosed(Arc<StoreHealth>);

impl Drop for MarkClosed {
    fn drop(&mut self) {
        self.0.failing.store(true, Ordering::Relaxed);
    }
}

fn write(database: &Database, group: &QueuedWrites) -> Result<(), StoreError> {
    let work = || -> Result<(), redb::Error> {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        for (batch, _) in group {
            batch.apply(&transaction)?;
        }
        transaction.commit()?;
        Ok(())
    };
    work().map_err(|fault| failed(&fault))
}

pub(super) fn failed(fault: &dyn fmt::Display) -> StoreError {
    StoreError::Failed(fault.to_string().into())
}
