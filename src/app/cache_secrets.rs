//! No stored response holds a secret that became live after it was stored.
//!
//! A response is searched for the live secrets when it is fetched or restored. Once a second, those that are new since are
//! searched for in what is stored, by a thread of its own; what holds one is removed, as a response that is fetched then
//! would be refused. So is what is stored for a request that holds any credential now: it would bypass the cache. Never
//! fails.

use std::{sync::Arc, thread, time::Duration};

use http::HeaderMap;

use super::{
    cache_restore::{PAUSE, SLICE},
    cache_snapshots::on_thread,
};
use crate::{
    gateway::Gateway,
    keys::{KnownForms, LiveForms},
    snapshot::Snapshot,
};

/// How often the live secrets are compared with those before.
const TICK: Duration = Duration::from_secs(1);

/// What it costs to look at a key, as the number of bytes that could be searched meanwhile.
const KEY: usize = 4 << 10;

/// Searches what is stored for new secrets, as long as the gateway runs.
pub(super) async fn watch(gateway: Arc<Gateway>) {
    let mut known = KnownForms::default();
    loop {
        tokio::time::sleep(TICK).await;
        let mut live = LiveForms::default();
        let snapshot = gateway.current.load_full();
        snapshot.accounts.iter().for_each(|account| live.extend(account.keys.live_forms()));
        let new = live.without(&known);
        known = live.known();
        drop(live);
        if new.is_empty() {
            continue;
        }
        let gateway = gateway.clone();
        // It takes a while for a large cache. The next search waits for it.
        let _ = on_thread("cache-secrets", move || {
            let removed = remove_from(&snapshot, &new);
            if removed > 0 {
                tracing::warn!(removed, "stored responses that hold a secret of a new key pair were removed");
                gateway.live.snapshot_file.make_due();
            }
        })
        .await;
    }
}

/// Removes the entries that hold one of these secrets, or whose request holds a credential; returns their number.
fn remove_from(snapshot: &Snapshot, secrets: &LiveForms) -> u64 {
    let (cache, no_headers) = (&snapshot.cache, HeaderMap::new());
    let (mut removed, mut slice) = (0, 0);
    for (key, entry) in cache.entries() {
        slice += key.as_bytes().len() + KEY;
        let found_in = |bytes: &[u8]| {
            slice += bytes.len();
            secrets.found_in(bytes)
        };
        if entry.has(found_in) || snapshot.key_holds_credential(&no_headers, &key) {
            cache.remove(&key);
            removed += 1;
        }
        if slice > SLICE {
            slice = 0;
            thread::sleep(PAUSE);
        }
    }
    removed
}
