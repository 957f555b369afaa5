//! Forgets the stored responses for which a new configuration has no use: no request would get them, no purge could name
//! them, and they must not come back with the name of their account, operation or service.
//!
//! On the disk before the reload is acknowledged: the snapshot of what is left comes later, and a process that is killed
//! before it leaves the old one. What always holds: a disk that does not respond delays a reload by at most [`DISK_WAIT`].
//! Never fails: what could not be done is a line in the program's log.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use crate::{
    cache::{
        Cache, PurgeScope,
        snapshot_file::{BegunPurge, SnapshotFile},
    },
    config::Class,
    snapshot::Snapshot,
};

/// How long a reload waits for the disk.
const DISK_WAIT: Duration = Duration::from_secs(2);

/// Removes them from the memory.
pub(super) fn forget_unused(snapshot: &Snapshot) {
    let services: HashSet<&str> = snapshot.catalog.services.iter().map(|service| &*service.name).collect();
    snapshot.cache.forget_unused(|key| {
        let is_called = |account: &str, address: &str| {
            snapshot.accounts.iter().any(|known| known.name == account && known.is_at(address))
        };
        key.address().is_some_and(|(account, address)| is_called(account, address))
            && key.service().is_none_or(|service| services.contains(service))
    });
}

/// Makes the next process leave out of the snapshot on the disk what `now` has no use for. The result is to be dropped when
/// that has left the memory: snapshots that are taken before do not include it.
#[must_use]
pub(super) fn forget_on_disk(file: &Arc<SnapshotFile>, before: &Snapshot, now: &Snapshot) -> RemovedScopes {
    let purges: Vec<_> = unused_scopes(before, now).into_iter().map(|scope| (file.begin_purge(), scope)).collect();
    let removed = RemovedScopes(Arc::new(purges));
    if removed.0.is_empty() {
        return removed;
    }
    if let Err(error) = within_wait(file.clone(), removed.0.clone()) {
        tracing::warn!(
            "the cache's snapshot may still hold responses of what this reload removes ({error}); they are gone with the \
             next snapshot"
        );
    }
    removed
}

/// What a reload removes: purges that are listed on the disk, or are to be.
pub(super) struct RemovedScopes(Arc<Vec<(BegunPurge, PurgeScope)>>);

impl RemovedScopes {
    /// Keeps out the responses to requests that were made before.
    pub(super) fn keep_out_of(&self, cache: &Cache) {
        self.0.iter().for_each(|(_, scope)| cache.begin_purge(scope.clone()));
    }
}

fn within_wait(file: Arc<SnapshotFile>, purges: Arc<Vec<(BegunPurge, PurgeScope)>>) -> io::Result<()> {
    let (end, ended) = mpsc::channel();
    thread::Builder::new().name("cache-forget".to_owned()).spawn(move || {
        let listed = purges.iter().try_for_each(|(purge, scope)| file.purge(purge, scope));
        // The purges end with the reload, or, where it does not wait any more, with this.
        drop(purges);
        let _ = end.send(listed);
    })?;
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the disk does not respond");
    ended.recv_timeout(DISK_WAIT).map_err(late)?
}

/// What `before` had a use for, and `now` has not.
fn unused_scopes(before: &Snapshot, now: &Snapshot) -> Vec<PurgeScope> {
    let is_called = |name: &str, address: &str| now.accounts.iter().any(|it| it.name == name && it.is_at(address));
    let cached: HashSet<&str> =
        now.catalog.operations.iter().filter(|it| it.cache.is_some()).map(|it| it.name.as_str()).collect();
    let services: HashSet<&str> = now.catalog.services.iter().map(|service| &*service.name).collect();
    let mut scopes = Vec::new();
    for account in &before.accounts {
        if !account.addresses().into_iter().all(|address| is_called(&account.name, address)) {
            scopes.push(PurgeScope { account: Some(account.name.clone()), ..PurgeScope::default() });
        }
    }
    for operation in before.catalog.operations.iter().filter(|operation| operation.cache.is_some()) {
        let scope = PurgeScope { operation: Some(operation.name.clone()), ..PurgeScope::default() };
        if !cached.contains(operation.name.as_str()) {
            scopes.push(scope);
        } else if operation.class != Class::Lookup {
            // Its responses are the services' own.
            let gone = before.catalog.services.iter().filter(|service| !services.contains(&*service.name));
            let accounts: HashSet<&String> = gone.map(|service| &before.accounts[service.account].name).collect();
            scopes.extend(accounts.into_iter().map(|name| PurgeScope { account: Some(name.clone()), ..scope.clone() }));
        }
    }
    scopes
}
