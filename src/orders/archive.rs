//! The archive: ended orders with a key, which only a repeat of the key asks for. They are on disk only, in a file of
//! their own (`orders.redb`), so that their number is bounded by the disk, and the journal's commits and its check at
//! the start stay small.
//!
//! Always holds: an order is in the archive before it leaves journal and index ([`Archive::add`] before the move, see
//! `archiver`); `orders.ended.keys` has the key of each order and `orders.ends` one row for each; so damage of a row,
//! or of one page above the rows, is an error, never an absent order; no order is removed before its own row says so;
//! the size of all answers in [`ArchiveTotals`] is that of the rows. One task writes it. Fails with [`StoreError`].

mod inspect;
mod rows;

use std::{fs::File, path::Path, sync::Arc};

pub use self::inspect::{StoreSummaries, inspect};
use self::rows::{AnswerBytes, Checksummed, ListedKey, end_key};
pub(super) use self::rows::{ArchiveTotals, EndedOrder};
use super::{
    fingerprint::OrderDigest,
    journal::{ARCHIVED, ARCHIVED_KEY, AnswerRow, StoredAnswer},
    open_error::OrdersOpenError,
};
use crate::store::{OpenError, Store, StoreError, StoreKind, StoreReader, StoreTable, WriteBatch};

/// Ended orders by the digest of their key.
const ENDED: StoreTable<Checksummed<EndedOrder>> = StoreTable::new("orders.ended");
/// Their keys once more: a lookup in vain counts only if it is in both.
const KEYS: StoreTable<ListedKey> = StoreTable::new("orders.ended.keys");
/// Size of their answers by [`end_key`]: those that ended first come first.
const ENDS: StoreTable<AnswerBytes> = StoreTable::new("orders.ends");
/// Their answers by [`end_key`].
const ANSWERS: StoreTable<Checksummed<AnswerRow>> = StoreTable::new("orders.ended.answers");
/// One row, under [`TOTALS_KEY`].
const TOTALS: StoreTable<Checksummed<ArchiveTotals>> = StoreTable::new("orders.archive");
const TOTALS_KEY: &[u8] = b"";

/// Orders in one transaction: bounds its memory and how long it takes.
pub(super) const MAX_BATCH: usize = 1000;

/// Makes the journal in a folder forget that it has an archive, whatever is in that. Blocks; no gateway may use the folder.
///
/// # Errors
/// [`OrdersOpenError`], also if a gateway uses the folder.
pub fn forget_archive(dir: &Path) -> Result<(), OrdersOpenError> {
    let journal = Store::open(dir)?;
    let mut batch = WriteBatch::default();
    batch.remove(&ARCHIVED, ARCHIVED_KEY);
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(OrdersOpenError::System)?;
    runtime.block_on(async {
        journal.write(batch).await?;
        journal.close().await;
        Ok(())
    })
}

/// The ended orders with a key, on disk.
#[derive(Clone, Debug)]
pub struct Archive {
    store: Store,
    reader: StoreReader,
}

/// Changes of the archive that are written together.
pub(super) struct ArchiveBatch {
    batch: WriteBatch,
    totals: ArchiveTotals,
}

impl Archive {
    /// Opens the archive in a folder whose state store is open, or creates it. Does not read it as a whole.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(dir: &Path) -> Result<Archive, OpenError> {
        let (store, reader) = Store::open_beside_state(dir, StoreKind::ORDERS)?;
        Ok(Archive { store, reader })
    }

    /// Makes the tables of a new archive. From then on, one that is missing is an error.
    pub(super) async fn create(&self) -> Result<ArchiveTotals, StoreError> {
        let mut batch = self.begin().await?;
        batch.totals.id = fastrand::u64(1..);
        batch.batch.create(&ENDED);
        batch.batch.create(&KEYS);
        batch.batch.create(&ENDS);
        batch.batch.create(&ANSWERS);
        self.commit(batch).await
    }

    /// The ended order with this key, which may have been remembered long enough.
    pub(super) async fn find(&self, key: OrderDigest) -> Result<Option<EndedOrder>, StoreError> {
        let found = self.reader.get_listed(&ENDED, &KEYS, key.as_bytes()).await?;
        Ok(found.map(|Checksummed(order)| order))
    }

    /// The answer of an order; `None`: it was dropped.
    pub(super) async fn answer(
        &self,
        key: OrderDigest,
        order: &EndedOrder,
    ) -> Result<Option<Arc<StoredAnswer>>, StoreError> {
        let found = self.reader.get(&ANSWERS, &end_key(order.ended, key)).await?;
        Ok(found.map(|Checksummed(AnswerRow(answer))| answer))
    }

    /// What was written last.
    pub(super) async fn totals(&self) -> Result<ArchiveTotals, StoreError> {
        Ok(self.reader.get(&TOTALS, TOTALS_KEY).await?.map(|Checksummed(totals)| totals).unwrap_or_default())
    }

    /// Begins a batch. The totals are read, because a batch that was reported as failed may be on disk.
    pub(super) async fn begin(&self) -> Result<ArchiveBatch, StoreError> {
        Ok(ArchiveBatch { batch: WriteBatch::default(), totals: self.totals().await? })
    }

    /// Completes when the batch is on disk. Returns the archive's totals with it.
    pub(super) async fn commit(&self, mut batch: ArchiveBatch) -> Result<ArchiveTotals, StoreError> {
        batch.totals.batches += 1;
        batch.batch.put(&TOTALS, TOTALS_KEY, &Checksummed(batch.totals));
        self.store.write(batch.batch).await?;
        Ok(batch.totals)
    }

    /// Adds an order; each key once in a batch. One that the archive has already (the process ended before it left the
    /// journal) is not added again; an older one with its key, which has been remembered long enough, is replaced.
    pub(super) async fn add(
        &self,
        batch: &mut ArchiveBatch,
        key: OrderDigest,
        order: EndedOrder,
        answer: Option<Arc<StoredAnswer>>,
    ) -> Result<(), StoreError> {
        match self.find(key).await? {
            Some(present) if present.ended == order.ended => return Ok(()),
            Some(older) => self.remove(batch, &end_key(older.ended, key)).await?,
            None => {}
        }
        let end = end_key(order.ended, key);
        let bytes = answer.as_ref().map_or(0, |answer| answer.size());
        batch.totals.answer_bytes += bytes;
        batch.totals.newest = batch.totals.newest.max(order.ended);
        batch.batch.put(&ENDED, key.as_bytes(), &Checksummed(order));
        batch.batch.put(&KEYS, key.as_bytes(), &ListedKey);
        batch.batch.put(&ENDS, &end, &AnswerBytes(bytes));
        if let Some(answer) = answer {
            batch.batch.put_long(&ANSWERS, &end, Checksummed(AnswerRow(answer)), bytes as usize);
        }
        Ok(())
    }

    /// Removes the orders that ended at this time or before, [`MAX_BATCH`] of them at most. Returns how many.
    pub(super) async fn expire(&self, until: i64) -> Result<usize, StoreError> {
        let mut ends = self.reader.first(&ENDS, MAX_BATCH).await?;
        ends.retain(|end| rows::ended_at(&end.key).is_some_and(|ended| ended <= until));
        if ends.is_empty() {
            return Ok(0);
        }
        let mut batch = self.begin().await?;
        for end in &ends {
            // Its own row has a checksum, this one has none.
            let order = self.reader.get(&ENDED, rows::key_of(&end.key)).await?;
            if order.map(|Checksummed(order)| order.ended) != rows::ended_at(&end.key) {
                return Err(self.reader.damaged(ENDS.name()));
            }
            batch.remove(&end.key, end.row.0);
        }
        self.commit(batch).await?;
        Ok(ends.len())
    }

    /// Removes the oldest answers, [`MAX_BATCH`] of them at most, if they take more than `bytes` in all; their orders stay.
    /// Returns whether they still do.
    pub(super) async fn trim_answers(&self, bytes: u64) -> Result<bool, StoreError> {
        let mut batch = self.begin().await?;
        if batch.totals.answer_bytes <= bytes {
            return Ok(false);
        }
        for answer in self.reader.first(&ANSWERS, MAX_BATCH).await? {
            if batch.totals.answer_bytes <= bytes {
                break;
            }
            batch.totals.answer_bytes -= answer.row.0.0.size().min(batch.totals.answer_bytes);
            batch.batch.remove(&ANSWERS, &answer.key);
            batch.batch.put(&ENDS, &answer.key, &AnswerBytes(0));
        }
        let more = batch.totals.answer_bytes > bytes;
        self.commit(batch).await?;
        Ok(more)
    }

    async fn remove(&self, batch: &mut ArchiveBatch, end: &[u8]) -> Result<(), StoreError> {
        let bytes = self.reader.get(&ENDS, end).await?.map_or(0, |bytes| bytes.0);
        batch.remove(end, bytes);
        Ok(())
    }

    /// Whether it can be written.
    pub(super) fn is_healthy(&self) -> bool {
        self.store.is_healthy()
    }

    /// Why it cannot be written, or why the last lookup failed, for people; `None`: it works.
    pub fn failure(&self) -> Option<String> {
        self.store.failure()
    }

    /// Whether its thread runs.
    pub fn runs(&self) -> bool {
        self.store.runs()
    }

    /// Copies its file as a kill would leave it. A copy of the state store that was made before belongs to it: what has left
    /// the journal by then is in the archive. Returns its size, bytes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn copy_file(&self, to: File) -> Result<u64, StoreError> {
        self.store.copy_file(to).await
    }

    /// Closes it once everything submitted so far is on disk.
    pub async fn close(&self) {
        self.store.close().await;
    }
}

impl ArchiveBatch {
    fn remove(&mut self, end: &[u8], answer_bytes: u64) {
        self.totals.answer_bytes = self.totals.answer_bytes.saturating_sub(answer_bytes);
        self.batch.remove(&ENDED, rows::key_of(end));
        self.batch.remove(&KEYS, rows::key_of(end));
        self.batch.remove(&ENDS, end);
        self.batch.remove(&ANSWERS, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Archive {
        /// Whether a lookup in the orders alone misses this one.
        pub(in crate::orders) async fn is_hidden(&self, key: OrderDigest) -> bool {
            self.reader.get(&ENDED, key.as_bytes()).await.is_ok_and(|found| found.is_none())
        }

        /// How many orders it has, and the size of their answers, after a look at all rows and a check of what the module
        /// documentation says always holds.
        pub(in crate::orders) async fn checked(&self) -> (usize, u64) {
            let ends = self.reader.first(&ENDS, usize::MAX).await.unwrap();
            let ended = self.reader.first(&ENDED, usize::MAX).await.unwrap();
            let listed = self.reader.first(&KEYS, usize::MAX).await.unwrap();
            let keys = |rows: &mut dyn Iterator<Item = Vec<u8>>| rows.collect::<Vec<_>>();
            assert_eq!(
                keys(&mut listed.into_iter().map(|row| row.key)),
                keys(&mut ended.iter().map(|it| it.key.clone()))
            );
            let mut expected: Vec<_> =
                ended.iter().map(|order| [&order.row.0.ended.to_be_bytes()[..], &order.key].concat()).collect();
            expected.sort_unstable();
            assert_eq!(ends.iter().map(|end| end.key.clone()).collect::<Vec<_>>(), expected);
            let answers = self.reader.first(&ANSWERS, usize::MAX).await.unwrap();
            let bytes: u64 = answers.iter().map(|answer| answer.row.0.0.size()).sum();
            assert_eq!(ends.iter().map(|end| end.row.0).sum::<u64>(), bytes);
            assert_eq!(self.totals().await.unwrap().answer_bytes, bytes);
            (ended.len(), bytes)
        }
    }
}
