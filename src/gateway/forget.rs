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
        PurgeScope,
        snapshot_file::{BegunPurge, SnapshotFile},
    },
    catalog::Operation,
    config::Class,
    snapshot::Snapshot,
};

/// How long a reload waits for the disk.
const DISK_WAIT: Duration = Duration::from_secs(2);

/// Removes them from the memory. Returns whether there were any.
pub(super) fn forget_unused(snapshot: &Snapshot) -> bool {
    snapshot.cache.forget_unused(|key| snapshot.operation_of(key).is_some())
}

/// Makes the next process leave these out of the snapshot on the disk. The result is to be dropped when they have left the
/// memory: snapshots that are taken before do not include that.
#[must_use]
pub(super) fn forget_on_disk(file: &Arc<SnapshotFile>, scopes: &[PurgeScope]) -> ListedScopes {
    let purges: Vec<_> = scopes.iter().map(|scope| (file.begin_purge(), scope.clone())).collect();
    let purges = Arc::new(purges);
    if !purges.is_empty()
        && let Err(error) = within_wait(file.clone(), purges.clone())
    {
        tracing::warn!(
            "the cache's snapshot may still hold responses of what this reload removes ({error}); they are gone with the \
             next snapshot"
        );
    }
    purges
}

/// Purges that are listed on the disk, or are to be.
type ListedScopes = Arc<Vec<(BegunPurge, PurgeScope)>>;

fn within_wait(file: Arc<SnapshotFile>, purges: ListedScopes) -> io::Result<()> {
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

/// What `before` had a use for, and `now` has not: what is to be kept out of the cache, too, if it was requested before.
pub(super) fn unused_scopes(before: &Snapshot, now: &Snapshot) -> Vec<PurgeScope> {
    let cached = |snapshot: &'_ Snapshot, name: &str| {
        snapshot.catalog.operations.iter().find(|it| it.name == name && it.cache.is_some()).map(|it| it.api)
    };
    let is_at = |account: &str, address: &str, operation: &str| {
        let account = now.accounts.iter().find(|it| it.name == account).zip(cached(now, operation));
        account.is_some_and(|(account, api)| *account.route(api).url == *address)
    };
    let services: HashSet<&str> = now.catalog.services.iter().map(|service| &*service.name).collect();
    let mut scopes = Vec::new();
    for account in &before.accounts {
        let of_account = PurgeScope { account: Some(account.name.clone()), ..PurgeScope::default() };
        let operations = || before.catalog.operations.iter().filter(|it| it.cache.is_some());
        let moved = |it: &&Arc<Operation>| !is_at(&account.name, &account.route(it.api).url, &it.name);
        if operations().all(|it| moved(&it)) {
            scopes.push(of_account);
            continue;
        }
        let moved = operations().filter(moved).filter(|it| cached(now, &it.name).is_some());
        scopes.extend(moved.map(|it| PurgeScope { operation: Some(it.name.clone()), ..of_account.clone() }));
    }
    for operation in before.catalog.operations.iter().filter(|operation| operation.cache.is_some()) {
        let scope = PurgeScope { operation: Some(operation.name.clone()), ..PurgeScope::default() };
        if cached(now, &operation.name).is_none() {
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
