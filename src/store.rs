//! The embedded state store: what survives a restart, in one file of `state.dir`.
//!
//! Rooms bring their own [`StoreTable`]s and rows and hand in [`WriteBatch`]es; a batch is applied whole or
//! not at all. A write is on the disk (fsync) before it is reported as done, and writes that meet
//! while the disk is busy share one fsync (group commit). Work is done in the order in which it was
//! handed in, on a thread of its own: no request waits for the disk unless it awaits a write.
//!
//! One process writes; a second one is refused with an error that names the folder. Readers of
//! another process (`usage`) may open the file read-only beside it, in the same mode
//! ([`redb::ConcurrencyMode::SingleWriter`]).
//!
//! It must not know what a row means. It fails by answering [`StoreError`]: a write that failed may
//! or may not be on the disk. After a failed write the file is opened anew for the next one, so a
//! disk that was full mends by itself; [`Store::is_healthy`] tells meanwhile.

mod folder;
mod table;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use tokio::sync::oneshot;

pub use table::{LoadedRows, StoreTable, StoredRow, WriteBatch};
use writer::{StoreHealth, StoreJob, StoreWriter};

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody has it open for writing.
    #[error("another process uses {}: each gateway needs a state.dir of its own", dir.display())]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder or the file cannot be made, opened or read.
    #[error("state.dir {}: {source}", dir.display())]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is there, but is not a store that this version can read.
    #[error("{} cannot be read as a state store: {reason}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why a read or write was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store has been closed, or its thread has ended.
    #[error("the state store is closed")]
    Closed,
    /// The disk or the file failed. A failed write may or may not be on the disk.
    #[error("the state store failed: {0}")]
    Failed(Arc<str>),
}

/// A handle to the store; clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    jobs: mpsc::Sender<StoreJob>,
    health: Arc<StoreHealth>,
}

impl Store {
    /// Opens the store in `dir`, making folder (0700) and file (0600) where they are missing, checks
    /// the file and starts the store's thread. Blocks for the length of the check; call it at start.
    ///
    /// # Errors
    /// [`OpenError::InUse`] if any process, also this one, has it open already.
    pub fn open(dir: &Path) -> Result<Store, OpenError> {
        folder::prepare(dir)?;
        let home = dir.to_owned();
        Store::start(dir, Box::new(move || folder::open(&home)))
    }

    fn start(dir: &Path, opener: writer::Opener) -> Result<Store, OpenError> {
        let (jobs, queue) = mpsc::channel();
        let health = Arc::new(StoreHealth::default());
        let writer = StoreWriter::open(opener, Arc::clone(&health))?;
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.run(&queue))
            .map_err(|source| OpenError::Folder { dir: dir.to_owned(), source })?;
        Ok(Store { jobs, health })
    }

    /// Writes a batch; done when it is on the disk. It is handed in by the call, not by the first
    /// poll, and dropping the future does not take it back.
    ///
    /// # Errors
    /// [`StoreError`]; a failed batch may or may not be on the disk.
    pub fn write(&self, batch: WriteBatch) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (done, wait) = oneshot::channel();
        self.submit(batch, move |result| {
            // The waiter may have left: the write stands all the same.
            let _ = done.send(result);
        });
        async move { wait.await.unwrap_or(Err(StoreError::Closed)) }
    }

    /// Hands in a batch without waiting, also from `Drop`. `done` is called on the store's thread
    /// with the result, so it may wait for a lock that the caller holds now; it must be short. It is
    /// never called if the store is closed.
    pub fn submit(&self, batch: WriteBatch, done: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        // A closed store drops the job, and with it `done`.
        let _ = self.jobs.send(StoreJob::Write { batch, done: Box::new(done) });
    }

    /// One row, as it is after all writes handed in so far.
    ///
    /// # Errors
    /// [`StoreError`]. A row that cannot be decoded is `None`.
    pub async fn get<R: StoredRow>(&self, table: &StoreTable<R>, key: &[u8]) -> Result<Option<R>, StoreError> {
        let (name, key) = (table.name(), key.to_owned());
        self.read(move |database| table::get(database, name, &key)).await.map(|bytes| R::decode(&bytes?))
    }

    /// All rows of a table, in the order of their keys, as they are after all writes handed in so
    /// far. For the start: the whole table is in memory at once.
    ///
    /// # Errors
    /// [`StoreError`]. Rows that cannot be decoded are no error: they are counted and left alone.
    pub async fn load<R: StoredRow>(&self, table: &StoreTable<R>) -> Result<LoadedRows<R>, StoreError> {
        let name = table.name();
        self.read(move |database| table::all(database, name)).await.map(LoadedRows::decode)
    }

    async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&redb::Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (done, wait) = oneshot::channel();
        let job = StoreJob::Read(Box::new(move |database| {
            let result = database.and_then(|database| look(database).map_err(|e| writer::failed(&e)));
            let _ = done.send(result);
        }));
        self.jobs.send(job).map_err(|_| StoreError::Closed)?;
        wait.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Whether the last write succeeded.
    pub fn is_healthy(&self) -> bool {
        self.health.is_healthy()
    }

    /// Commits since the start, each with one wait for the disk, however many batches it holds.
    pub fn commits(&self) -> u64 {
        self.health.commits()
    }

    /// Ends the store after everything that was handed in so far is on the disk. Later work is
    /// answered with [`StoreError::Closed`]. Without it, what is queued when the last handle is
    /// dropped is still written, but nobody can wait for that.
    pub async fn close(&self) {
        let (done, wait) = oneshot::channel();
        if self.jobs.send(StoreJob::Close(done)).is_ok() {
            let _ = wait.await;
        }
    }
}
