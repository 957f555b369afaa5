//! Revoked versions of key pairs: never used again, not even after a restart or in another account.
//!
//! Kept in the state store, by account, but they hold for all of them: an account may get another name. This is the only
//! place that writes them, so that no reload and no task that ends can lose one: each is written until it is on disk. A
//! version counts as revoked as soon as writing it begins: to be called before the accounts are told, so that one that is
//! added meanwhile knows it. Keys that a reload has given up have no
//! task any more, but requests that began before it may still sign with them: they are told by [`Revoked::tell_given_up`].

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout};

use crate::{
    keys::{Keys, KnownRevocations, PairVersion},
    store::{Store, StoreError, StoreTable, StoredRow, WriteBatch},
};

const REVOKED: StoreTable<RevokedRow> = StoreTable::new("keys.revoked");
/// How long an operator waits for the disk.
const DISK_WAIT: Duration = Duration::from_secs(5);

/// The revoked versions of all accounts.
pub struct Revoked {
    store: Store,
    known: Mutex<BTreeSet<RevokedRow>>,
    /// Those that are not on disk yet, or not known to be.
    unstored: watch::Sender<BTreeSet<RevokedRow>>,
    /// Keys that a reload has given up and that requests may still sign with.
    given_up: Mutex<Vec<Weak<Keys>>>,
}

impl Revoked {
    /// Loads the revoked versions.
    ///
    /// # Errors
    /// [`StoreError`] if they cannot be read: a start without them could use a revoked pair.
    pub async fn open(store: Store) -> Result<Self, StoreError> {
        let loaded = store.load(&REVOKED).await?;
        let known = loaded.rows.into_iter().map(|loaded| loaded.row).collect();
        let (known, unstored) = (Mutex::new(known), watch::Sender::default());
        Ok(Revoked { store, known, unstored, given_up: Mutex::default() })
    }

    /// Notes that a reload gives up these keys. To be called before it takes effect.
    pub(super) fn give_up<'k>(&self, keys: impl Iterator<Item = &'k Arc<Keys>>) {
        let mut given_up = self.given_up.lock();
        given_up.retain(|keys| keys.strong_count() > 0);
        given_up.extend(keys.map(Arc::downgrade));
    }

    /// Revokes a version in the keys that reloads have given up. Takes effect before it returns.
    pub(crate) fn tell_given_up(&self, version: PairVersion) {
        self.given_up.lock().iter().filter_map(Weak::upgrade).for_each(|keys| keys.forbid(version));
    }

    /// Notes that a version is revoked, in an account that it is told of, and begins to write it. Whoever begins later knows
    /// it; the keys that there are must be told.
    pub(crate) fn add(self: &Arc<Self>, account: &str, version: PairVersion) {
        let row = RevokedRow { account: account.to_owned(), version };
        if !self.known.lock().insert(row.clone()) {
            return;
        }
        self.unstored.send_modify(|unstored| _ = unstored.insert(row.clone()));
        let mut batch = WriteBatch::default();
        batch.put(&REVOKED, &row.encode(), &row);
        let revoked = self.clone();
        self.store.submit_until_written(batch, move || {
            revoked.unstored.send_modify(|unstored| _ = unstored.remove(&row));
        });
    }

    /// Waits until a version is on disk, but not for long.
    ///
    /// # Errors
    /// Why it is not yet.
    pub(crate) async fn stored(&self, version: PairVersion) -> Result<(), String> {
        let mut changes = self.unstored.subscribe();
        let is_stored = changes.wait_for(|unstored| unstored.iter().all(|row| row.version != version));
        let wait = if self.store.runs() { DISK_WAIT } else { Duration::ZERO };
        match timeout(wait, is_stored).await {
            Ok(_) => Ok(()),
            Err(_) => Err(self.store.failure().unwrap_or_else(|| "its disk does not respond".to_owned())),
        }
    }

    /// Whether a restart now would forget a revocation.
    pub(crate) fn has_unstored(&self) -> bool {
        !self.unstored.borrow().is_empty()
    }
}

impl KnownRevocations for Revoked {
    fn versions(&self) -> Vec<PairVersion> {
        let versions: BTreeSet<_> = self.known.lock().iter().map(|row| row.version).collect();
        versions.into_iter().collect()
    }
}

/// Encoded as the eight digits of the version, then the name of the account.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct RevokedRow {
    account: String,
    version: PairVersion,
}

impl StoredRow for RevokedRow {
    fn encode(&self) -> Vec<u8> {
        [self.version.as_str().as_bytes(), self.account.as_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, account) = bytes.split_at_checked(8)?;
        let version = std::str::from_utf8(version).ok()?.parse().ok()?;
        Some(RevokedRow { account: std::str::from_utf8(account).ok()?.to_owned(), version })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn survives_a_restart_and_holds_for_every_account() {
        let folder = tempfile::tempdir().unwrap();
        let version: PairVersion = "df85c4ad".parse().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let revoked = Arc::new(Revoked::open(store.clone()).await.unwrap());
        revoked.add("main", version);
        assert_eq!(revoked.versions(), [version]);
        assert_eq!((revoked.stored(version).await, revoked.has_unstored()), (Ok(()), false));
        store.close().await;
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(Revoked::open(store).await.unwrap().versions(), [version]);
    }

    /// The file is gone for a while, as if the disk were full.
    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_stored_is_not_reported_as_stored_and_is_written_later() {
        let folder = tempfile::tempdir().unwrap();
        let (state, aside) = (folder.path().join("state.redb"), folder.path().join("aside"));
        let store = Store::open(folder.path()).unwrap();
        let revoked = Arc::new(Revoked::open(store).await.unwrap());
        std::fs::rename(&state, &aside).unwrap();
        let version: PairVersion = "df85c4ad".parse().unwrap();
        revoked.add("main", version);
        let (first, again) = tokio::join!(revoked.stored(version), async {
            // Another account is told the same, and the same one is told again.
            revoked.add("main", version);
            revoked.stored(version).await
        });
        assert!(first.is_err() && again.is_err() && revoked.has_unstored(), "{first:?} {again:?}");
        std::fs::rename(&aside, &state).unwrap();
        tokio::time::resume();
        assert_eq!((revoked.stored(version).await, revoked.has_unstored()), (Ok(()), false));
    }
}
