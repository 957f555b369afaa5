//! Lookups in a store that is too large for memory, on a thread of their own: none waits for a write.
//!
//! Always holds: a lookup sees every write that was reported as done before it was asked for; a row that is there and cannot
//! be decoded is an error, never absent, and so is everything once the file is lost. Fails with [`StoreError`]; a disk that
//! hangs holds up the lookups, so the caller bounds its wait.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use parking_lot::RwLock;
use redb::Database;
use tokio::sync::oneshot;

use super::{
    error::StoreError,
    table::{self, LoadedRow, LoadedRows, StoreTable, StoredRow},
    writer::{OpenedStore, StoreHealth},
};

/// Lookups that wait; more are refused. A disk that does not hang does thousands in a second.
const MAX_QUEUED: usize = 1024;

type ReadJob = Box<dyn FnOnce(&RwLock<OpenedStore>, &StoreHealth) + Send>;

/// Reads what a store has committed.
#[derive(Clone, Debug)]
pub struct StoreReader {
    lookups: SyncSender<ReadJob>,
}

impl StoreReader {
    pub(super) fn start(opened: Arc<RwLock<OpenedStore>>, health: Arc<StoreHealth>) -> io::Result<StoreReader> {
        let (lookups, queue) = sync_channel(MAX_QUEUED);
        std::thread::Builder::new().name("store-reader".into()).spawn(move || run(&queue, &opened, &health))?;
        Ok(StoreReader { lookups })
    }

    /// Looks up one row; `None`: there is none.
    ///
    /// # Errors
    /// [`StoreError`], also if the row cannot be decoded.
    pub async fn get<R: StoredRow>(&self, table: &StoreTable<R>, key: &[u8]) -> Result<Option<R>, StoreError> {
        let (name, key) = (table.name(), key.to_owned());
        let bytes = self.look_up(move |database| table::get(database, name, &key)).await?;
        bytes.map(|bytes| R::decode(&bytes).ok_or_else(|| damaged(name))).transpose()
    }

    /// The first rows of a table in the order of their keys.
    ///
    /// # Errors
    /// [`StoreError`], also if one of them cannot be decoded.
    pub async fn first<R: StoredRow>(
        &self,
        table: &StoreTable<R>,
        limit: usize,
    ) -> Result<Vec<LoadedRow<R>>, StoreError> {
        let name = table.name();
        let loaded = self.look_up(move |database| table::rows(database, name, limit)).await.map(LoadedRows::decode)?;
        if loaded.unreadable > 0 { Err(damaged(name)) } else { Ok(loaded.rows) }
    }

    async fn look_up<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (result_tx, result_rx) = oneshot::channel();
        let lookup: ReadJob = Box::new(move |opened, health| {
            // Nobody may be waiting any more.
            if !result_tx.is_closed() {
                let result = read_caught(opened, read);
                health.set_readable(result.is_ok());
                let _ = result_tx.send(result);
            }
        });
        self.lookups.try_send(lookup).map_err(|_| StoreError::Failed("too many lookups wait for the disk".into()))?;
        result_rx.await.unwrap_or(Err(StoreError::Closed))
    }
}

fn run(queue: &Receiver<ReadJob>, opened: &RwLock<OpenedStore>, health: &StoreHealth) {
    while let Ok(lookup) = queue.recv() {
        lookup(opened, health);
    }
}

/// redb may panic on a file that another program has written to. The file is looked at after the read as well: what was read
/// from one that was lost meanwhile does not count.
fn read_caught<T>(
    opened: &RwLock<OpenedStore>,
    read: impl FnOnce(&Database) -> Result<T, redb::Error>,
) -> Result<T, StoreError> {
    let opened = opened.read();
    let database = opened.database()?;
    let result = catch_unwind(AssertUnwindSafe(|| read(database).map_err(|error| StoreError::failed(&error))));
    let result = result.unwrap_or_else(|_| Err(StoreError::Failed("a read panicked".into())))?;
    opened.database().map(|_| result)
}

fn damaged(table: &str) -> StoreError {
    StoreError::Failed(format!("a row of {table} is damaged").into())
}
