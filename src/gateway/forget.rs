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
    cache::{PurgeScope, snapshot_file::SnapshotFile},
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

/// Makes the next process leave out of the snapshot on the disk what `now` has no use for.
pub(super) fn forget_on_disk(file: &Arc<SnapshotFile>, before: &Snapshot, now: &Snapshot) {
    let scopes = removed(before, now);
    if scopes.is_empty() {
        return;
    }
    // From here on, no snapshot that is being written takes the place of this one.
    scopes.iter().for_each(|scope| before.cache.begin_purge(scope.clone()));
    if let Err(error) = within_wait(file.clone(), scopes) {
        tracing::warn!(
            "the cache's snapshot may still hold responses of what this reload removes ({error}); they are gone with the \
             next snapshot"
        );
    }
}

fn within_wait(file: Arc<SnapshotFile>, scopes: Vec<PurgeScope>) -> io::Result<()> {
    let (end, ended) = mpsc::channel();
    thread::Builder::new().name("cache-forget".to_owned()).spawn(move || {
        // Nobody may wait any more.
        let _ = end.send(scopes.iter().try_for_each(|scope| file.purge(scope)));
    })?;
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the disk does not respond");
    ended.recv_timeout(DISK_WAIT).map_err(late)?
}

/// What `before` had a use for, and `now` has not.
fn removed(before: &Snapshot, now: &Snapshot) -> Vec<PurgeScope> {
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
