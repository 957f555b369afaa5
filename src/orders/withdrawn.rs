//! The file `orders-withdrawn` in `state.dir`: orders that were not sent, although the journal may say that they may have
//! been.
//!
//! A slow disk may write the row of an order after that was refused, and the process may have to end before the row is
//! removed again. So a stop writes this file, which waits for no disk: without a sync, it survives the end of the process.
//! After a crash of the system it may be lost, and its orders are unknown then.
//!
//! What always holds: the file says something about one life of the journal only, in which a number is given once. A life
//! ends with the next start, in the same write that removes these rows; so a file that is left behind, or comes back, says
//! nothing. Never fails: what cannot be read or written is not known.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::journal::{ORDERS, OrderPhase, OrderRow};
use crate::{
    files::read::read_own,
    store::{Store, StoreError, StoreTable, StoredRow, WriteBatch},
};

/// The file in `state.dir`.
const FILE: &str = "orders-withdrawn";

/// Its name until it is complete.
const NEW_FILE: &str = "orders-withdrawn.new";

/// The life of the journal, under [`LIFE_KEY`].
const LIFE: StoreTable<JournalLife> = StoreTable::new("orders.life");
const LIFE_KEY: &[u8] = b"";

/// From one start to the next; random, so that it comes once, whatever copies are restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct JournalLife(u64);

impl StoredRow for JournalLife {
    fn encode(&self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(JournalLife(u64::from_be_bytes(bytes.try_into().ok()?)))
    }
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct WithdrawnRows {
    life: JournalLife,
    /// By number: [`OrderRow::since`].
    rows: BTreeMap<u64, i64>,
}

/// The orders that are withdrawn in this life, until the journal has no row of them.
#[derive(Debug)]
pub(super) struct WithdrawnOrders {
    dir: PathBuf,
    life: JournalLife,
    /// By number: since when they are in the journal.
    pending: Mutex<BTreeMap<u64, i64>>,
}

/// Those of the life before.
#[derive(Debug)]
pub(super) struct FormerlyWithdrawn(Option<WithdrawnRows>);

impl FormerlyWithdrawn {
    /// Reads the file in `dir`.
    ///
    /// # Errors
    /// [`StoreError`] of the journal.
    pub(super) async fn read(dir: &Path, journal: &Store) -> Result<Self, StoreError> {
        let life = journal.get(&LIFE, LIFE_KEY).await?;
        let file = read_own(&dir.join(FILE)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(FormerlyWithdrawn(file.filter(|file: &WithdrawnRows| Some(file.life) == life)))
    }

    /// Removes a row of the journal if its order was withdrawn. Returns whether it was.
    pub(super) fn remove(&self, number: u64, row: &OrderRow, batch: &mut WriteBatch) -> bool {
        let since = self.0.as_ref().and_then(|file| file.rows.get(&number));
        let withdrawn = row.phase == OrderPhase::Open && since == Some(&row.since);
        if withdrawn {
            batch.remove(&ORDERS, &number.to_be_bytes());
        }
        withdrawn
    }

    /// Begins a life of the journal, in the write that removes these rows.
    pub(super) fn end(self, dir: &Path, batch: &mut WriteBatch) -> WithdrawnOrders {
        let life = JournalLife(fastrand::u64(..));
        batch.put(&LIFE, LIFE_KEY, &life);
        WithdrawnOrders { dir: dir.to_owned(), life, pending: Mutex::default() }
    }
}

impl WithdrawnOrders {
    /// The new life is on disk: the file says nothing any more.
    pub(super) fn begun(&self) {
        for file in [FILE, NEW_FILE] {
            if let Err(error) = fs::remove_file(self.dir.join(file))
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, file, "a file in state.dir that is not needed any more cannot be removed");
            }
        }
    }

    /// An order was withdrawn, and the removal of its row is about to be submitted.
    pub(super) fn add(&self, number: u64, since: i64) {
        self.pending.lock().insert(number, since);
    }

    /// The journal has no row of it.
    pub(super) fn removed(&self, number: u64) {
        self.pending.lock().remove(&number);
    }

    /// Writes the file if it is needed. Blocks.
    pub(super) fn write(&self) {
        let rows = self.pending.lock().clone();
        if rows.is_empty() {
            return;
        }
        let orders = rows.len();
        match self.write_rows(rows) {
            Ok(()) => tracing::info!(orders, "orders that were not sent are noted, in case the journal is late"),
            Err(error) => {
                tracing::error!(orders, %error, "orders that were not sent may be unknown after the next start")
            }
        }
    }

    fn write_rows(&self, rows: BTreeMap<u64, i64>) -> io::Result<()> {
        let new = self.dir.join(NEW_FILE);
        let text = serde_json::to_vec(&WithdrawnRows { life: self.life, rows })?;
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?.write_all(&text)?;
        fs::rename(new, self.dir.join(FILE))
    }
}
