//! Moves ended orders with a key from journal and index to the archive, and removes from the archive what has been
//! remembered long enough.
//!
//! Always holds: an order leaves journal and index after it is on disk in the archive, and all that leave together count as
//! one move (`Index::moves`), so that a recall notices one that happened during its lookup. A crash in between leaves an order
//! in both, which is harmless: the next start moves it again. A round is bounded; one that fails is tried again. Fails with
//! [`StoreError`].

use std::{sync::Arc, time::Duration};

use super::{
    Orders,
    archive::MAX_BATCH,
    index::{ArchivedOrder, FoundAnswer},
    journal::{ANSWERS, ARCHIVED, ARCHIVED_KEY, AnswerRow, ArchivedRow},
};
use crate::store::StoreError;

/// Size of the answers beyond which a round moves no further order, bytes: they are in memory several times meanwhile.
const MAX_BYTES: u64 = 2 << 20;

/// Time between two rounds, unless there is more to do than one can.
const INTERVAL: Duration = Duration::from_secs(1);

impl Orders {
    /// Moves and removes orders until its runtime ends or the stores are closed. Failures are reported by the store that has
    /// failed.
    pub async fn keep_archive(self) {
        loop {
            match self.archive_round().await {
                Ok(true) => {}
                // A stop has closed them: the next start moves what is left.
                Err(StoreError::Closed) => return,
                Ok(false) | Err(_) => tokio::time::sleep(INTERVAL).await,
            }
        }
    }

    /// One bounded round. Returns whether there is more to do.
    pub(super) async fn archive_round(&self) -> Result<bool, StoreError> {
        let more = self.archive_ended().await?;
        let (until, bytes) = {
            let limits = self.inner.index.lock().limits();
            (self.inner.now().saturating_sub(limits.remembered), limits.archived_bytes)
        };
        let archive = self.inner.archive();
        let expired = archive.expire(until).await?;
        let trimming = archive.trim_answers(bytes).await?;
        Ok(more || expired == MAX_BATCH || trimming)
    }

    /// Moves some ended orders. Returns whether there are more.
    async fn archive_ended(&self) -> Result<bool, StoreError> {
        let (ended, all) = {
            let index = self.inner.index.lock();
            (index.archivable(MAX_BATCH, MAX_BYTES), index.archivable_count())
        };
        if ended.is_empty() {
            return Ok(false);
        }
        let archived = self.copy_to_archive(&ended).await?;
        self.leave_journal(&ended, archived);
        Ok(all > ended.len())
    }

    /// Completes when they are on disk in the archive. Returns what the journal must say of it when they leave.
    pub(super) async fn copy_to_archive(&self, ended: &[ArchivedOrder]) -> Result<ArchivedRow, StoreError> {
        let archive = self.inner.archive();
        let mut batch = archive.begin().await?;
        for ArchivedOrder { number, key, order, answer } in ended {
            let answer = match answer {
                None => None,
                Some(FoundAnswer::InMemory(answer)) => Some(Arc::clone(answer)),
                Some(FoundAnswer::OnDisk { .. }) => {
                    let row = self.inner.store().get(&ANSWERS, &number.to_be_bytes()).await?;
                    row.map(|AnswerRow(answer)| answer)
                }
            };
            archive.add(&mut batch, *key, order.clone(), answer).await?;
        }
        Ok(archive.commit(batch).await?.archived())
    }

    /// Removes orders that the archive has.
    fn leave_journal(&self, ended: &[ArchivedOrder], archived: ArchivedRow) {
        self.inner.change(|index, _| {
            let mut changes = index.archived(ended);
            changes.put(&ARCHIVED, ARCHIVED_KEY, &archived);
            (changes, ())
        });
    }
}

#[cfg(test)]
pub(super) use tests::archive_all;

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds until nothing is left to do.
    pub(in crate::orders) async fn archive_all(orders: &Orders) {
        while orders.archive_round().await.unwrap() {}
    }
}
