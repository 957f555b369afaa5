//! The embedded state store: what survives a restart, in files in `state.dir`. [`StoreKind::STATE`] holds what is also in
//! memory, [`StoreKind::ORDERS`] what is too large for that and is looked up by a [`StoreReader`].
//!
//! Other rooms bring their own [`StoreTable`]s and rows and submit [`WriteBatch`]es. A batch is
//! applied as a whole or not at all. A write is on disk (fsync) before it is reported as done; writes
//! that are queued while the disk is busy share one fsync (group commit). A thread of its own does
//! the work in the order in which it was submitted, so a request waits for the disk only if it awaits
//! a write.
//!
//! One process writes. A second writer is refused with an error that names the folder. If the file is
//! removed, replaced, emptied or shortened while it is in use, nothing is written any more. Another
//! process may open the file read-only at the same time in the same mode
//! ([`redb::ConcurrencyMode::SingleWriter`]).
//!
//! The store does not know what a row means. It fails with [`StoreError`]: a failed write may or may
//! not be on disk. After a failed write the file is reopened for the next one, so the store recovers
//! by itself once the disk does; until then [`Store::is_healthy`] is false.

mod damage;
mod error;
mod folder;
mod inspect;
mod overlay_file;
mod reader;
mod running_time;
mod table;
#[cfg(test)]
mod tests;
mod tracked_file;
mod writer;

use std::{
    fs::File,
    path::Path,
    sync::{Arc, mpsc},
};

use parking_lot::RwLock;
use redb::{ReadTransaction, ReadableDatabase as _};
use tokio::sync::oneshot;

pub use self::writer::SLOW;
pub use self::{
    damage::is_expected as is_expected_panic,
    error::{OpenError, StoreError},
    folder::{PlaceProbe, StoreKind, exists, usable},
    inspect::{TableSummary, VisitRow, inspect},
    reader::StoreReader,
    running_time::RunningInstant,
    table::{LoadedRow, LoadedRows, StoreTable, StoredRow, WriteBatch},
};
use self::{
    folder::{FileInFolder, StoreFile},
    writer::{OpenedStore, StoreHealth, StoreJob, StoreWriter},
};

/// A handle to the store; clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    jobs: mpsc::Sender<StoreJob>,
    health: Arc<StoreHealth>,
}

impl Store {
    /// Opens the store in `dir`, creating folder (0700) and file (0600) if missing, checks the file
    /// and starts the store's thread. Blocks for the duration of the check; call it at start.
    ///
    /// # Errors
    /// [`OpenError::InUse`] if a process (possibly this one) has it open already.
    pub fn open(dir: &Path) -> Result<Store, OpenError> {
        folder::prepare(dir)?;
        Ok(Store::start(dir, Box::new(FileInFolder::state(dir)?))?.0)
    }

    /// Opens another store in the folder of an open one, and starts its threads: the writer's, and a reader's.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_beside_state(dir: &Path, kind: StoreKind) -> Result<(Store, StoreReader), OpenError> {
        let (store, opened) = Store::start(dir, Box::new(FileInFolder::beside_state(dir, kind)))?;
        let reader = StoreReader::start(opened, Arc::clone(&store.health));
        Ok((store, reader.map_err(|source| OpenError::Folder { dir: dir.to_owned(), source })?))
    }

    fn start(dir: &Path, file: Box<dyn StoreFile>) -> Result<(Store, Arc<RwLock<OpenedStore>>), OpenError> {
        let (jobs, queue) = mpsc::channel();
        let health = Arc::new(StoreHealth::of(file.kind().file));
        let writer = StoreWriter::open(file, Arc::clone(&health))?;
        let opened = writer.opened();
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.run(&queue))
            .map_err(|source| OpenError::Folder { dir: dir.to_owned(), source })?;
        Ok((Store { jobs, health }, opened))
    }

    /// Writes a batch; completes when it is on disk. The call itself submits the batch, not the first
    /// poll, and dropping the future does not withdraw it.
    ///
    /// # Errors
    /// [`StoreError`]; a failed batch may or may not be on disk.
    pub fn write(&self, batch: WriteBatch) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (result_tx, result_rx) = oneshot::channel();
        self.submit(batch, move |result| {
            // Nobody may be waiting any more; the write is done all the same.
            let _ = result_tx.send(result);
        });
        async move { result_rx.await.unwrap_or(Err(StoreError::Closed)) }
    }

    /// Submits a batch without waiting; can be called from `Drop`. `done` is called on the store's
    /// thread with the result, so it may wait for a lock that the caller holds now; it must be short.
    /// It is never called if the store is closed.
    pub fn submit(&self, batch: WriteBatch, done: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        // A closed store drops the job, and `done` with it.
        let _ = self.jobs.send(StoreJob::write(batch, false, Box::new(done)));
    }

    /// The same for a batch that must be written: after a failure it is tried again each second, before all later
    /// batches, until it is on disk. `done` is called then.
    pub fn submit_until_written(&self, batch: WriteBatch, done: impl FnOnce() + Send + 'static) {
        let done = move |result: Result<(), StoreError>| {
            if result.is_ok() {
                done();
            }
        };
        let _ = self.jobs.send(StoreJob::write(batch, true, Box::new(done)));
    }

    /// Reads one row, as of all writes submitted so far. `None`: there is none, or it cannot be
    /// decoded.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn get<R: StoredRow>(&self, table: &StoreTable<R>, key: &[u8]) -> Result<Option<R>, StoreError> {
        let (name, key) = (table.name(), key.to_owned());
        self.read(move |store| table::get(&store.begin_read()?, name, &key)).await.map(|bytes| R::decode(&bytes?))
    }

    /// Reads all rows of a table in the order of their keys, as of all writes submitted so far. The
    /// whole table is in memory at once; meant for the start.
    ///
    /// # Errors
    /// [`StoreError`]. Rows that cannot be decoded are not an error: they are counted and kept.
    pub async fn load<R: StoredRow>(&self, table: &StoreTable<R>) -> Result<LoadedRows<R>, StoreError> {
        let name = table.name();
        self.read(move |store| table::rows(&store.begin_read()?, name, usize::MAX, usize::MAX))
            .await
            .map(LoadedRows::decode)
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&redb::Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (result_tx, result_rx) = oneshot::channel();
        let job = StoreJob::Read(Box::new(move |database| {
            let result = database.and_then(|database| read(database).map_err(|error| StoreError::failed(&error)));
            let _ = result_tx.send(result);
        }));
        self.jobs.send(job).map_err(|_| StoreError::Closed)?;
        result_rx.await.unwrap_or(Err(StoreError::Closed))
    }

    /// The store as of all writes submitted so far. It can be copied while the store is written.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn snapshot(&self) -> Result<StoreSnapshot, StoreError> {
        self.read(|database| Ok(database.begin_read()?)).await.map(StoreSnapshot)
    }

    /// Copies the file as a kill would leave it, after all writes submitted so far; later ones wait for it. For a store that
    /// is too large to be copied row by row. Returns its size, bytes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn copy_file(&self, to: File) -> Result<u64, StoreError> {
        let (copied_tx, copied_rx) = oneshot::channel();
        self.jobs.send(StoreJob::Copy(to, copied_tx)).map_err(|_| StoreError::Closed)?;
        copied_rx.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Whether the last write succeeded and the store is open.
    pub fn is_healthy(&self) -> bool {
        self.health.is_healthy()
    }

    /// Whether its disk has not responded for [`SLOW`]: what is submitted waits for it.
    pub fn is_slow(&self) -> bool {
        self.health.is_slow()
    }

    /// Why [`Store::is_healthy`] is false, whether its disk does not respond, or why the last lookup failed, for people, without the folder.
    pub fn failure(&self) -> Option<String> {
        self.health.failure()
    }

    /// Whether the store's thread runs. It does also while the disk hangs or fails; without it no write is ever done.
    pub fn runs(&self) -> bool {
        self.health.runs()
    }

    /// Commits since the start. Each waits for the disk once, however many batches it holds.
    pub fn commits(&self) -> u64 {
        self.health.commits()
    }

    /// Closes the store once everything submitted so far is on disk. Later work fails with
    /// [`StoreError::Closed`]. Without a close, what is queued when the last handle is dropped is
    /// still written, but no call waits for it.
    pub async fn close(&self) {
        let (closed_tx, closed_rx) = oneshot::channel();
        if self.jobs.send(StoreJob::Close(closed_tx)).is_ok() {
            let _ = closed_rx.await;
        }
    }
}

/// The store at one instant.
pub struct StoreSnapshot(ReadTransaction);

impl StoreSnapshot {
    /// Copies it into a new, empty file. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn write(&self, to: File) -> Result<(), StoreError> {
        inspect::copy(&self.0, to).map_err(|error| StoreError::failed(&error))
    }
}
