//! Lookups in a store that is too large for memory, on a thread of their own: none waits for a write.
//!
//! Always holds: a lookup sees every write that was reported as done before it was asked for; a row that is there and
//! cannot be decoded is an error, never absent, and so is everything once the file is lost. Pages are not checked when
//! they are read, so damage of one may hide rows: of those that must not be hidden, a second table has a list
//! ([`StoreReader::get_listed`]). Fails with [`StoreError`]; while the disk hangs, at once after [`SLOW`](super::SLOW).

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use parking_lot::RwLock;
use redb::{ReadTransaction, ReadableDatabase as _};
use tokio::sync::oneshot;

use super::{
    error::StoreError,
    table::{self, LoadedRow, LoadedRows, StoreTable, StoredRow},
    writer::{OpenedStore, StoreHealth},
};

/// Lookups that wait; more are refused. A disk that does not hang does thousands in a second.
const MAX_QUEUED: usize = 1024;

/// How many bytes one lookup of several rows reads, about.
const MAX_BYTES: usize = 4 << 20;

type ReadJob = Box<dyn FnOnce(&RwLock<OpenedStore>) + Send>;

/// Reads what a store has committed.
#[derive(Clone, Debug)]
pub struct StoreReader {
    lookups: SyncSender<ReadJob>,
    health: Arc<StoreHealth>,
}

impl StoreReader {
    pub(super) fn start(opened: Arc<RwLock<OpenedStore>>, health: Arc<StoreHealth>) -> io::Result<StoreReader> {
        let (lookups, queue) = sync_channel(MAX_QUEUED);
        let reader = StoreReader { lookups, health: Arc::clone(&health) };
        std::thread::Builder::new().name("store-reader".into()).spawn(move || run(&queue, &opened))?;
        Ok(reader)
    }

    /// Looks up one row; `None`: there is none.
    ///
    /// # Errors
    /// [`StoreError`], also if the row cannot be decoded.
    pub async fn get<R: StoredRow>(&self, table: &StoreTable<R>, key: &[u8]) -> Result<Option<R>, StoreError> {
        let (name, key) = (table.name(), key.to_owned());
        let bytes = self.look_up(move |from| table::get(from, name, &key)).await?;
        bytes.map(|bytes| R::decode(&bytes).ok_or_else(|| self.damaged(name))).transpose()
    }

    /// The same for a table whose keys `list` has, too. `None` only if neither has the key: the two are in different pages.
    ///
    /// # Errors
    /// [`StoreError`], also if only `list` has the key, or there is no such table.
    pub async fn get_listed<R: StoredRow, L: StoredRow>(
        &self,
        table: &StoreTable<R>,
        list: &StoreTable<L>,
        key: &[u8],
    ) -> Result<Option<R>, StoreError> {
        let (name, list, key) = (table.name(), list.name(), key.to_owned());
        let both = self.look_up(move |from| Ok((table::get(from, name, &key)?, table::has(from, list, &key)?)));
        match both.await? {
            (None, false) => Ok(None),
            (Some(bytes), listed) => {
                if !listed {
                    self.damaged(list);
                }
                R::decode(&bytes).ok_or_else(|| self.damaged(name)).map(Some)
            }
            (None, true) => Err(self.damaged(name)),
        }
    }

    /// The first rows of a table in the order of their keys, `limit` of them at most, and no further one once they take
    /// [`MAX_BYTES`].
    ///
    /// # Errors
    /// [`StoreError`], also if one of them cannot be decoded.
    pub async fn first<R: StoredRow>(
        &self,
        table: &StoreTable<R>,
        limit: usize,
    ) -> Result<Vec<LoadedRow<R>>, StoreError> {
        let name = table.name();
        let loaded =
            self.look_up(move |from| table::rows(from, name, limit, MAX_BYTES)).await.map(LoadedRows::decode)?;
        if loaded.unreadable > 0 { Err(self.damaged(name)) } else { Ok(loaded.rows) }
    }

    /// A row of a table is not what it must be.
    pub fn damaged(&self, table: &str) -> StoreError {
        let damage = format!("a row of {table}");
        self.health.found_damage(&damage);
        StoreError::Failed(format!("{damage} is damaged").into())
    }

    async fn look_up<T: Send + 'static>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        if self.health.lookups_are_slow() {
            return Err(StoreError::Slow);
        }
        let (result_tx, result_rx) = oneshot::channel();
        let health = Arc::clone(&self.health);
        let lookup: ReadJob = Box::new(move |opened| {
            // Nobody may be waiting any more.
            if !result_tx.is_closed() {
                health.set_looking_up(true);
                let result = read_caught(opened, read);
                health.set_looking_up(false);
                health.looked_up(&result);
                let _ = result_tx.send(result);
            }
        });
        self.lookups.try_send(lookup).map_err(|_| StoreError::Failed("too many lookups wait for the disk".into()))?;
        result_rx.await.unwrap_or(Err(StoreError::Closed))
    }
}

fn run(queue: &Receiver<ReadJob>, opened: &RwLock<OpenedStore>) {
    while let Ok(lookup) = queue.recv() {
        lookup(opened);
    }
}

/// redb may panic on a file that another program has written to. The file is looked at after the read as well: what was read
/// from one that was lost meanwhile does not count.
fn read_caught<T>(
    opened: &RwLock<OpenedStore>,
    read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
) -> Result<T, StoreError> {
    let opened = opened.read();
    let database = opened.database()?;
    let read = || database.begin_read().map_err(redb::Error::from).and_then(|from| read(&from));
    let result = catch_unwind(AssertUnwindSafe(|| read().map_err(|error| StoreError::failed(&error))));
    let result = result.unwrap_or_else(|_| Err(StoreError::Failed("a read panicked".into())))?;
    opened.database().map(|_| result)
}
