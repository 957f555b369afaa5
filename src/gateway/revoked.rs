//! Versions of key pairs that must never be used again, also after a restart.
//!
//! Kept in the state store, by account. A version is known as soon as it is added; a crash within the
//! moment that the disk takes may forget it, so whoever revokes waits for nobody.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use crate::{
    keys::Version,
    store::{Store, StoreError, StoreTable, StoredRow, WriteBatch},
};

const REVOKED: StoreTable<Barred> = StoreTable::new("keys.revoked");

/// The revoked versions of all accounts.
pub struct Revoked {
    store: Store,
    known: Mutex<BTreeSet<(String, Version)>>,
}

impl Revoked {
    /// Reads what was revoked before.
    ///
    /// # Errors
    /// [`StoreError`] if it can't be read: starting without it could use a revoked pair.
    pub async fn open(store: Store) -> Result<Self, StoreError> {
        let loaded = store.load(&REVOKED).await?;
        let known = loaded.rows.into_iter().map(|(_, Barred { account, version })| (account, version)).collect();
        Ok(Revoked { store, known: Mutex::new(known) })
    }

    /// Those of an account.
    pub fn of(&self, account: &str) -> Vec<Version> {
        self.known.lock().iter().filter(|(known, _)| known == account).map(|(_, version)| *version).collect()
    }

    /// Bars a version for good. Doesn't wait for the disk.
    pub fn add(&self, account: &str, version: Version) {
        if !self.known.lock().insert((account.to_owned(), version)) {
            return;
        }
        let row = Barred { account: account.to_owned(), version };
        let mut batch = WriteBatch::default();
        batch.put(&REVOKED, &row.encode(), &row);
        self.store.submit(batch, |written| {
            if let Err(error) = written {
                tracing::error!(%error, "a revoked version could not be written; it holds until the next start");
            }
        });
    }
}

/// Eight digits, then the account's name.
struct Barred {
    account: String,
    version: Version,
}

impl StoredRow for Barred {
    fn encode(&self) -> Vec<u8> {
        [self.version.as_str().as_bytes(), self.account.as_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, account) = bytes.split_at_checked(8)?;
        let version = std::str::from_utf8(version).ok()?.parse().ok()?;
        Some(Barred { account: std::str::from_utf8(account).ok()?.to_owned(), version })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn survives_a_restart_and_keeps_accounts_apart() {
        let folder = tempfile::tempdir().unwrap();
        let version: Version = "df85c4ad".parse().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let revoked = Revoked::open(store.clone()).await.unwrap();
        revoked.add("main", version);
        assert_eq!((revoked.of("main"), revoked.of("other")), (vec![version], vec![]));
        store.close().await;
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(Revoked::open(store).await.unwrap().of("main"), [version]);
    }
}
