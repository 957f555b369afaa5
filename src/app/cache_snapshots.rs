//! The cache outlives the process: it is written to the state folder, and restored by the next process.
//!
//! It is written when the gateway stops, every 15 minutes, and after a purge, or a reload or a restore that left
//! something out, if anything has changed; it is restored after the start (`cache_restore`). Threads of their own do that,
//! for which nothing waits without an end: a disk that does not respond delays neither the start nor a stop, and is
//! reported. What always holds: one snapshot is written at a time, and none before the restore is over or given up: until
//! then the file is kept; each says which purges it includes. Failures are lines in the program's log, and degrade the
//! gateway until a snapshot is written.

use std::{
    cmp::Reverse,
    fs::File,
    io::{self, Write as _},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use tokio::{
    select,
    sync::{oneshot, watch},
    time::{Instant, sleep, timeout},
};

use super::cache_restore::{CacheRestore, PAUSE, RestoredExtent, SLICE};
use crate::{
    cache::{
        Cache,
        snapshot::{IncludedPurges, SnapshotEncoder},
    },
    degraded::DegradedReason,
    gateway::Gateway,
    uptime::{self, TimeMark},
};

/// Mean time between two snapshots.
const PERIOD: Duration = Duration::from_secs(15 * 60);

/// Part of the period by which the time between two snapshots varies, so that gateways do not write at the same time.
const JITTER: f64 = 0.2;

/// A restore that reads nothing for so long is given up.
const STALLED: Duration = Duration::from_secs(10);

/// Time after which a snapshot that is being written is reported.
const SLOW: Duration = Duration::from_secs(60);

/// In place of a number of changes: the file holds what the cache does not.
const OUTDATED: u64 = u64::MAX;

/// Writes and restores the cache.
pub(super) struct CacheSnapshots {
    gateway: Arc<Gateway>,
    /// The cache's changes that the file holds, or [`OUTDATED`].
    written: AtomicU64,
    restore: CacheRestore,
    /// The file holds more than the cache does.
    is_restoring: watch::Sender<bool>,
}

impl CacheSnapshots {
    /// `latest`: what the wall clock has shown an earlier process, milliseconds since 1970; 0: unknown.
    pub(super) fn new(gateway: &Arc<Gateway>, latest: u64) -> Arc<Self> {
        let (gateway, restore) = (gateway.clone(), CacheRestore::new(gateway, latest));
        let (written, is_restoring) = (AtomicU64::new(0), watch::Sender::new(false));
        Arc::new(CacheSnapshots { gateway, written, restore, is_restoring })
    }

    /// Whether the configuration in force wants snapshots.
    fn are_wanted(&self) -> bool {
        self.gateway.in_force.load().config.cache.snapshot
    }

    /// Begins to restore the cache. The future ends when that is done or given up.
    pub(super) fn restore(self: Arc<Self>) -> impl Future<Output = ()> {
        self.restore.begin();
        self.is_restoring.send_replace(true);
        let restoring = self.clone();
        on_thread("cache-restore", move || {
            if restoring.are_wanted() {
                restoring.restore_file();
            } else {
                restoring.remove();
            }
            restoring.end_restore();
        });
        async move { self.restored().await }
    }

    /// What is left out leaves the disk too: otherwise it would come back with an earlier configuration, although no purge
    /// could have reached it meanwhile.
    fn restore_file(&self) {
        if self.restore.run() == RestoredExtent::InPart {
            self.written.store(OUTDATED, SeqCst);
            self.gateway.live.snapshot_file.make_due();
        }
    }

    fn end_restore(&self) {
        self.restore.end();
        self.is_restoring.send_replace(false);
    }

    async fn restored(&self) {
        // This has the sender.
        let _ = self.is_restoring.subscribe().wait_for(|is_restoring| !is_restoring).await;
    }

    /// Waits until the restore is over, and gives it up if the disk does not respond.
    async fn watch_restore(&self) {
        let mut seen = self.restore.progress();
        while timeout(STALLED, self.restored()).await.is_err() {
            let progress = self.restore.progress();
            if progress == seen {
                self.restore.give_up();
                tracing::error!("the restore of the cache is given up: its disk does not respond");
                self.report("the snapshot of the cache could not be restored: its disk did not respond");
                self.end_restore();
            }
            seen = progress;
        }
    }

    /// Writes a snapshot from time to time and when one is due, if anything has changed.
    pub(super) async fn write_periodically(self: Arc<Self>) {
        self.watch_restore().await;
        loop {
            let period = PERIOD.mul_f64(1.0 + JITTER * (fastrand::f64() * 2.0 - 1.0));
            select! {
                () = sleep(period) => {}
                () = self.gateway.live.snapshot_file.until_due() => {}
            }
            let writing = self.clone();
            let mut ended = pin!(on_thread("cache-snapshot", move || writing.write(None)));
            if timeout(SLOW, &mut ended).await.is_err() {
                tracing::error!("the snapshot of the cache is not written yet: its disk does not respond");
                self.report("the snapshot of the cache is not written yet: its disk does not respond");
                let _ = ended.await;
            }
        }
    }

    /// Writes the last snapshot, by `close_by`; less of the cache, if there is no time for all.
    pub(super) async fn close(self: Arc<Self>, close_by: Instant) {
        let now = Instant::now();
        // The other half is for the disk.
        let until = now + close_by.saturating_duration_since(now) / 2;
        let _ = on_thread("cache-snapshot", move || self.write(Some(until))).await;
    }

    /// Writes a snapshot if anything has changed. `until`: nothing is added after it, and there are no pauses.
    fn write(&self, until: Option<Instant>) {
        if !self.are_wanted() {
            return self.remove();
        }
        let cache = self.gateway.current.load().cache.clone();
        let changes = cache.changes();
        if *self.is_restoring.borrow() {
            if until.is_some() {
                tracing::info!("the restore of the cache was not over: its snapshot is kept for the next start");
            }
            return;
        }
        if self.written.load(SeqCst) == changes {
            return;
        }
        let mut entries = 0;
        let write = |file: &mut File, included| {
            entries = write_entries(&cache, included, file, until)?;
            Ok(())
        };
        match self.gateway.live.snapshot_file.replace(write) {
            Ok(true) => {
                self.written.store(changes, SeqCst);
                self.withdraw();
                tracing::debug!(entries, "a snapshot of the cache was written");
            }
            // Removed meanwhile.
            Ok(false) => {}
            Err(error) => {
                tracing::warn!("no snapshot of the cache was written: {error}");
                self.report("the last snapshot of the cache could not be written");
            }
        }
    }

    fn remove(&self) {
        match self.gateway.live.snapshot_file.remove() {
            Ok(removed) => {
                self.withdraw();
                if removed {
                    tracing::info!("the snapshot of the cache was removed");
                }
            }
            Err(error) => {
                tracing::warn!("the snapshot of the cache cannot be removed: {error}");
                self.report("the snapshot of the cache could not be removed");
            }
        }
    }

    fn report(&self, text: &str) {
        self.gateway.live.degraded.report(DegradedReason::CacheSnapshotFailing, "", text);
    }

    fn withdraw(&self) {
        self.gateway.live.degraded.withdraw(DegradedReason::CacheSnapshotFailing, "");
    }
}

/// Writes what the cache holds, what was used most first, and returns the number of entries.
fn write_entries(cache: &Cache, included: IncludedPurges, file: &mut File, until: Option<Instant>) -> io::Result<u64> {
    let (now, taken) = (Instant::now(), TimeMark::now(uptime::boot()));
    let mut buffer = Vec::with_capacity(SLICE);
    let mut encoder = SnapshotEncoder::begin(taken, included, &mut buffer);
    // Weak: what leaves the cache meanwhile is freed.
    let mut entries: Vec<_> = cache.entries().map(|(key, entry)| (entry.uses(), key, Arc::downgrade(&entry))).collect();
    entries.sort_unstable_by_key(|(uses, ..)| Reverse(*uses));
    for (_, key, entry) in entries {
        let Some(entry) = entry.upgrade() else { continue };
        if let Some(packed) = entry.packed_at(&key, now).filter(|_| entry.is_usable(now)) {
            encoder.entry(&packed, &mut buffer);
        }
        if buffer.len() < SLICE {
            continue;
        }
        file.write_all(&buffer)?;
        buffer.clear();
        match until {
            Some(until) if Instant::now() > until => break,
            Some(_) => {}
            None => thread::sleep(PAUSE),
        }
    }
    let entries = encoder.end(&mut buffer);
    file.write_all(&buffer)?;
    Ok(entries)
}

/// Runs `work` on a thread of its own, because a disk may hang. The receiver is told when it has ended.
pub(super) fn on_thread(name: &str, work: impl FnOnce() + Send + 'static) -> oneshot::Receiver<()> {
    let (end, ended) = oneshot::channel();
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(move || {
        work();
        let _ = end.send(());
    });
    if let Err(error) = spawned {
        tracing::error!("no thread for {name}: {error}");
    }
    ended
}
