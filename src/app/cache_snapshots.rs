//! The cache outlives the process: it is written to the state folder, and restored by the next process.
//!
//! It is written when the gateway stops and every 15 minutes if anything has changed, and restored after the start, by
//! threads of their own that nothing waits for without an end: a disk that does not respond delays neither the start nor a
//! stop. What always holds: an entry is restored only if a request would get its key from the configuration in force, with
//! the lifetimes that this configuration gives it and at least the age that it had; a file that is not whole restores
//! nothing; after a purge, nothing from before it is restored. Failures are lines in the program's log.

use std::{
    fs::File,
    io::{self, BufReader, Seek as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, SystemTime},
};

use tokio::{sync::oneshot, time::Instant};

use crate::{
    body::BufferedRequest,
    cache::{
        Cache, Key, KeyRequest, RestoredDetails,
        rules::{self, Candidate},
        snapshot::{SnapshotDecoder, SnapshotEncoder, SnapshotEntry, SnapshotFault},
    },
    catalog::Operation,
    config::Class,
    gateway::Gateway,
    outcome::Classification,
    snapshot::Snapshot,
};

/// Mean time between two snapshots.
const PERIOD: Duration = Duration::from_secs(15 * 60);

/// Part of the period by which the time between two snapshots varies, so that gateways do not write at the same time.
const JITTER: f64 = 0.2;

/// Bytes that are written or restored between two pauses.
const SLICE: usize = 256 << 10;

/// Leaves disk and processor to requests.
const PAUSE: Duration = Duration::from_millis(2);

/// Writes and restores the cache.
pub(super) struct CacheSnapshots {
    gateway: Arc<Gateway>,
    /// The cache's changes that the file holds.
    written: AtomicU64,
    /// The file holds more than the cache does.
    is_restoring: AtomicBool,
}

impl CacheSnapshots {
    pub(super) fn new(gateway: &Arc<Gateway>) -> Arc<Self> {
        let (gateway, written) = (gateway.clone(), AtomicU64::new(0));
        Arc::new(CacheSnapshots { gateway, written, is_restoring: AtomicBool::new(false) })
    }

    /// Whether the configuration in force wants snapshots.
    fn are_wanted(&self) -> bool {
        self.gateway.in_force.load().config.cache.snapshot
    }

    /// Begins to restore the cache. The future ends when that is done.
    pub(super) fn restore(self: Arc<Self>) -> impl Future<Output = ()> {
        self.is_restoring.store(true, SeqCst);
        // Requests that are made after this are sent after a purge, if there is one.
        let snapshot = self.gateway.current.load_full();
        let restoring = self.clone();
        let ended = on_thread("cache-restore", move || {
            if restoring.are_wanted() {
                restoring.log_restored(&snapshot);
            } else {
                restoring.remove();
            }
            restoring.is_restoring.store(false, SeqCst);
        });
        async {
            let _ = ended.await;
        }
    }

    fn log_restored(&self, snapshot: &Snapshot) {
        match self.restore_from_file(snapshot) {
            Ok(None) => {}
            Ok(Some(RestoredCount { entries, left_out })) => {
                tracing::info!(entries, left_out, "the cache was restored from its snapshot");
            }
            Err(SnapshotFault::Unreadable(error)) => {
                tracing::error!("the snapshot of the cache cannot be read ({error}): the cache begins empty");
            }
            Err(fault) => {
                tracing::warn!("the snapshot of the cache is discarded: {fault}; the cache begins empty");
                if let Err(error) = self.gateway.live.snapshot_file.remove() {
                    tracing::warn!("the snapshot of the cache cannot be removed: {error}");
                }
            }
        }
    }

    /// `None`: there is no snapshot.
    fn restore_from_file(&self, snapshot: &Snapshot) -> Result<Option<RestoredCount>, SnapshotFault> {
        let generation = snapshot.cache.generation();
        let Some((mut file, length)) = self.gateway.live.snapshot_file.open()? else { return Ok(None) };
        // Nothing is restored from a file that is not whole. A limit of 0 bytes skips all entries.
        let mut decoder = SnapshotDecoder::begin(BufReader::new(&file), length, 0)?;
        while decoder.read_next()?.is_some() {}
        let passed = SystemTime::now().duration_since(decoder.taken()).unwrap_or_default();
        file.rewind()?;
        let longest = usize::try_from(snapshot.cache.largest()).unwrap_or(usize::MAX);
        let mut decoder = SnapshotDecoder::begin(BufReader::new(&file), length, longest)?;
        let (mut restored, mut slice) = (RestoredCount::default(), 0);
        while let Some(entry) = decoder.read_next()? {
            slice += entry.packed.len() + entry.key.len();
            let stored = restorable(snapshot, entry, passed).is_some_and(|(key, entry)| {
                // Never replaces what was fetched meanwhile.
                snapshot.cache.restore(key, entry, generation)
            });
            restored.entries += u64::from(stored);
            restored.left_out += u64::from(!stored);
            if slice > SLICE {
                slice = 0;
                thread::sleep(PAUSE);
            }
        }
        Ok(Some(restored))
    }

    /// Writes a snapshot from time to time, if anything has changed.
    pub(super) async fn write_periodically(self: Arc<Self>) {
        loop {
            tokio::time::sleep(PERIOD.mul_f64(1.0 + JITTER * (fastrand::f64() * 2.0 - 1.0))).await;
            let writing = self.clone();
            let _ = on_thread("cache-snapshot", move || writing.write(None)).await;
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
        if self.is_restoring.load(SeqCst) || self.written.load(SeqCst) == changes {
            return;
        }
        let generation = cache.generation();
        let mut entries = 0;
        let write = |file: &mut File| {
            entries = write_entries(&cache, file, until)?;
            Ok(())
        };
        match self.gateway.live.snapshot_file.replace(write, || cache.generation() == generation) {
            Ok(true) => {
                self.written.store(changes, SeqCst);
                tracing::debug!(entries, "a snapshot of the cache was written");
            }
            // Purged meanwhile.
            Ok(false) => {}
            Err(error) => tracing::warn!("no snapshot of the cache was written: {error}"),
        }
    }

    fn remove(&self) {
        match self.gateway.live.snapshot_file.remove() {
            Ok(false) => {}
            Ok(true) => tracing::info!("the snapshot of the cache was removed"),
            Err(error) => tracing::warn!("the snapshot of the cache cannot be removed: {error}"),
        }
    }
}

/// What became of the entries of a snapshot.
#[derive(Debug, Default)]
struct RestoredCount {
    entries: u64,
    /// Too old, not of this configuration, fetched meanwhile, or without room.
    left_out: u64,
}

/// Writes what the cache holds, and returns the number of entries.
fn write_entries(cache: &Cache, file: &mut File, until: Option<Instant>) -> io::Result<u64> {
    let (now, taken) = (Instant::now(), SystemTime::now());
    let (mut buffer, mut total) = (Vec::with_capacity(SLICE), 0);
    let mut encoder = SnapshotEncoder::begin(taken, &mut buffer);
    for (key, entry) in cache.entries() {
        if let Some(packed) = entry.packed_at(&key, now).filter(|packed| packed.age < entry.lifetimes().usable) {
            encoder.entry(&packed, &mut buffer);
        }
        if buffer.len() < SLICE {
            continue;
        }
        file.write_all(&buffer)?;
        total += buffer.len() as u64;
        buffer.clear();
        match until {
            Some(until) if Instant::now() > until => break,
            Some(_) => {}
            None => thread::sleep(PAUSE),
        }
        // Only while entries are replaced faster than they are written.
        if total > cache.memory() {
            break;
        }
    }
    let entries = encoder.end(&mut buffer);
    file.write_all(&buffer)?;
    Ok(entries)
}

/// The entry with its key, if a request could get it from the configuration in force. `passed`: since the snapshot was
/// taken.
fn restorable(
    snapshot: &Snapshot,
    packed: SnapshotEntry<'_>,
    passed: Duration,
) -> Option<(Key, crate::cache::CacheEntry)> {
    let key = Key::from_bytes(packed.key)?;
    let operation = operation_of(snapshot, &key)?;
    let reading = Classification { outcome: packed.outcome, is_envelope: true, key_refused: false };
    let max_length = snapshot.limits.answer_buffer;
    let candidate =
        Candidate { reading, status: packed.status, length: packed.packed.len().min(max_length), max_length };
    let lifetimes = rules::lifetimes(operation.cache.as_ref()?, &candidate)?;
    let age = packed.age.saturating_add(passed);
    if age >= lifetimes.usable {
        return None;
    }
    let details = RestoredDetails { operation: operation.label.clone(), age, lifetimes };
    Some((key, snapshot.cache.unpack(packed, details, &snapshot.memory)?))
}

/// The operation of the request that a key was made of, if it would get the same key now.
fn operation_of<'a>(snapshot: &'a Snapshot, key: &Key) -> Option<&'a Operation> {
    let request = key.request()?;
    let operation = snapshot.catalog.classify(&request.method, request.target.path()).ok()?;
    let account = snapshot.accounts.iter().find(|account| account.name == request.account)?;
    let is_known = |name: &str| snapshot.catalog.services.iter().any(|service| service.name == name);
    let service = request.service.filter(|name| is_known(name));
    let KeyRequest { method, target, headers, body, .. } = request;
    let today = account.cache_key(operation, service, &BufferedRequest { method, target, headers, body });
    let is_shared = operation.class == Class::Lookup;
    (today.as_ref() == Some(key) && is_shared == service.is_none()).then_some(operation.as_ref())
}

/// Runs `work` on a thread of its own, because a disk may hang. The receiver is told when it has ended.
fn on_thread(name: &str, work: impl FnOnce() + Send + 'static) -> oneshot::Receiver<()> {
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
