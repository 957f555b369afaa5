//! Revoked versions of key pairs: never used again, not even after a restart or in another account.
//!
//! Kept in the state store, by account, but they hold for all of them: an account may get another name. A version counts as revoked as soon as writing it begins; the account's
//! rotation task, the only one to write, waits for the disk and repeats what fails. Keys that a reload has given up have no
//! task any more, but requests that began before it may still sign with them: they are told by [`Revoked::tell_given_up`].

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use crate::{
    keys::{Keys, PairVersion, RevocationStore, StoreRevocation},
    store::{Store, StoreError, StoreTable, StoredRow, WriteBatch},
};

const REVOKED: StoreTable<RevokedRow> = StoreTable::new("keys.revoked");

/// The revoked versions of all accounts.
pub struct Revoked {
    store: Store,
    known: Mutex<BTreeSet<(String, PairVersion)>>,
    /// Those that are not on disk yet, or not known to be.
    unstored: Mutex<BTreeSet<PairVersion>>,
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
        let known = loaded.rows.into_iter().map(|loaded| (loaded.row.account, loaded.row.version)).collect();
        let known = Mutex::new(known);
        Ok(Revoked { store, known, unstored: Mutex::default(), given_up: Mutex::default() })
    }

    /// The versions that were revoked in any account.
    pub fn versions(&self) -> Vec<PairVersion> {
        let versions: BTreeSet<_> = self.known.lock().iter().map(|(_, version)| *version).collect();
        versions.into_iter().collect()
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

    /// Revokes a version; completes when that is on disk.
    fn add(
        self: &Arc<Self>,
        account: &str,
        version: PairVersion,
    ) -> impl Future<Output = Result<(), StoreError>> + use<> {
        self.known.lock().insert((account.to_owned(), version));
        self.unstored.lock().insert(version);
        let row = RevokedRow { account: account.to_owned(), version };
        let mut batch = WriteBatch::default();
        batch.put(&REVOKED, &row.encode(), &row);
        let (revoked, written) = (self.clone(), self.store.write(batch));
        async move {
            written.await?;
            revoked.unstored.lock().remove(&version);
            Ok(())
        }
    }
}

/// Writes the versions that are revoked in one account.
pub(super) struct AccountRevocations {
    account: String,
    revoked: Arc<Revoked>,
}

impl AccountRevocations {
    pub(super) fn new(account: &str, revoked: &Arc<Revoked>) -> Self {
        AccountRevocations { account: account.to_owned(), revoked: revoked.clone() }
    }
}

impl RevocationStore for AccountRevocations {
    fn load(&self) -> Vec<PairVersion> {
        self.revoked.versions()
    }

    fn unstored(&self) -> Vec<PairVersion> {
        self.revoked.unstored.lock().iter().copied().collect()
    }

    fn store(&self, version: PairVersion) -> StoreRevocation {
        let written = self.revoked.add(&self.account, version);
        Box::pin(async move { written.await.map_err(|error| error.to_string()) })
    }
}

/// Encoded as the eight digits of the version, then the name of the account.
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
        let revoked = Revoked::open(store.clone()).await.unwrap();
        let revoked = Arc::new(revoked);
        let main = AccountRevocations::new("main", &revoked);
        // The task that has begun it is ended.
        drop(main.store(version));
        assert_eq!((main.load(), main.unstored()), (vec![version], vec![version]));
        main.store(version).await.unwrap();
        assert_eq!((main.load(), main.unstored()), (vec![version], vec![]));
        assert_eq!(AccountRevocations::new("renamed", &revoked).load(), [version]);
        store.close().await;
        let store = Store::open(folder.path()).unwrap();
        let revoked = Arc::new(Revoked::open(store).await.unwrap());
        assert_eq!(AccountRevocations::new("renamed", &revoked).load(), [version]);
    }
}
