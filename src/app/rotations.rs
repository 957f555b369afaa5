//! The rotation tasks, one for each account, and the canary that they send.
//!
//! What always holds: an account has at most one task.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, uri::PathAndQuery};
use parking_lot::Mutex;
use tokio::{runtime::Handle, task::JoinHandle};

use crate::{
    body::BufferedRequest,
    gateway::{Gateway, Keepers},
    keys::{Lease, Verdict},
    path::{self, OwnCall},
    rotation,
    snapshot::Worker,
};

/// The running rotation tasks.
pub(super) struct Rotations {
    runtime: Handle,
    gateway: Weak<Gateway>,
    /// The connection pool of the canaries.
    worker: Arc<Worker>,
    running: Mutex<HashMap<String, JoinHandle<()>>>,
}

/// How long a canary may take.
const CANARY: Duration = Duration::from_secs(10);

impl Rotations {
    pub(super) fn new(runtime: Handle, gateway: &Arc<Gateway>) -> Self {
        let gateway = Arc::downgrade(gateway);
        Rotations { runtime, gateway, worker: Arc::default(), running: Mutex::default() }
    }

    /// Starts the tasks of accounts that are new or begin anew, and ends those of accounts that were removed.
    pub(super) fn start(&self, keepers: Keepers) {
        let mut running = self.running.lock();
        if let Some(gateway) = self.gateway.upgrade() {
            let current = gateway.current.load();
            running.retain(|name, task| {
                let known = current.accounts.iter().any(|account| account.name == *name);
                if !known {
                    task.abort();
                }
                known
            });
        }
        for (account, keeper) in keepers {
            let (gateway, worker, name) = (self.gateway.clone(), self.worker.clone(), account.name.clone());
            let send_canary = move |lease: Lease| canary(gateway.clone(), worker.clone(), name.clone(), lease);
            let before = running.remove(&account.name);
            let task = self.runtime.spawn(async move {
                // A version that the task before revoked is known to this one, because it has ended by then.
                if let Some(before) = before {
                    before.abort();
                    let _ = before.await;
                }
                rotation::keep(keeper, send_canary).await;
            });
            running.insert(account.name.clone(), task);
        }
    }
}

/// Sends the account's `verify` operation with one pair.
async fn canary(gateway: Weak<Gateway>, worker: Arc<Worker>, account: String, lease: Lease) -> Verdict {
    let Some(gateway) = gateway.upgrade() else { return Verdict::Undecided };
    let snapshot = gateway.current.load_full();
    let known = snapshot.accounts.iter().find(|known| known.name == account).cloned();
    let Some(account) = known else { return Verdict::Undecided };
    let operation = snapshot.catalog.operations.iter().find(|operation| operation.name == account.verify).cloned();
    let Some(operation) = operation else { return Verdict::Undecided };
    let Ok(target) = PathAndQuery::try_from(operation.path.as_str()) else { return Verdict::Undecided };
    let request = BufferedRequest { method: Method::GET, target, headers: HeaderMap::new(), body: Bytes::new() };
    let own = OwnCall { snapshot, account, operation };
    let verdict = path::canary(&own.with(worker.clone(), request).within(CANARY).urgent(), lease).await;
    // Canaries are rare and nothing sweeps this pool: an idle connection would stay in it, even once closed.
    worker.pool.clear();
    verdict
}
