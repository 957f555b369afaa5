//! The cache is restored from its snapshot, by a thread that may wait for the disk.
//!
//! What always holds: an entry is restored only if a request would get its key from the configuration in force at that
//! moment, with the lifetimes that this configuration gives it and at least the age that it had; those that were used
//! most come first; none that holds a live secret is restored; a file that is not whole restores nothing; what a purge
//! covers is not restored after it, also if another process was told to purge it; once it is given up, a restore does
//! nothing more. Failures are lines in the program's log.

use std::{
    io::{self, BufReader, Seek as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use http::{HeaderMap, header::CONTENT_ENCODING};

use crate::{
    cache::{
        CacheEntry, Generation, Key, PurgeScope, RestoredDetails,
        rules::{self, Candidate},
        snapshot::{SnapshotDecoder, SnapshotEntry, SnapshotFault},
    },
    degraded::DegradedReason,
    gateway::Gateway,
    outcome::Classification,
    snapshot::Snapshot,
    uptime::{self, STEP, TimeMark, millis},
};

/// Bytes that are restored or written between two pauses.
pub(super) const SLICE: usize = 256 << 10;

/// A wall clock that is this much behind an earlier process's was set back.
const SET_BACK: Duration = Duration::from_secs(60);

/// Leaves disk and processor to requests.
pub(super) const PAUSE: Duration = Duration::from_millis(2);

/// One restore, after the start.
pub(super) struct CacheRestore {
    gateway: Arc<Gateway>,
    /// Requests that were made after this were made after any purge that the restore must heed.
    began: Generation,
    /// What the wall clock has shown an earlier process, milliseconds since 1970.
    latest: u64,
    /// Entries read so far.
    progress: AtomicU64,
    is_given_up: AtomicBool,
}

/// What the cache holds of the file after a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RestoredExtent {
    /// All of it; or there is none, or it is of no use.
    Whole,
    /// Entries were left out.
    InPart,
}

/// What became of the entries of a snapshot.
#[derive(Debug, Default)]
struct RestoredCount {
    entries: u64,
    /// Too old or too large, not of this configuration, fetched or purged meanwhile, or without room.
    left_out: u64,
}

impl CacheRestore {
    pub(super) fn new(gateway: &Arc<Gateway>, latest: u64) -> Self {
        let began = gateway.current.load().cache.generation();
        CacheRestore {
            gateway: gateway.clone(),
            began,
            latest,
            progress: AtomicU64::new(0),
            is_given_up: AtomicBool::new(false),
        }
    }

    /// From now on, nothing is restored of which a fetch has brought something newer.
    pub(super) fn begin(&self) {
        self.gateway.current.load().cache.begin_restore();
    }

    /// Nothing is restored after this.
    pub(super) fn end(&self) {
        self.gateway.current.load().cache.end_restore();
    }

    /// Differs from an earlier value if anything was read since.
    pub(super) fn progress(&self) -> u64 {
        self.progress.load(SeqCst)
    }

    /// The disk does not respond: whatever is read later is not used.
    pub(super) fn give_up(&self) {
        self.is_given_up.store(true, SeqCst);
    }

    fn is_given_up(&self) -> bool {
        self.is_given_up.load(SeqCst)
    }

    /// Restores the cache. Waits for the disk.
    pub(super) fn run(&self) -> RestoredExtent {
        let restored = self.restore_from_file();
        if self.is_given_up() {
            return RestoredExtent::Whole;
        }
        match restored {
            Ok(None) => {}
            Ok(Some(RestoredCount { entries, left_out })) => {
                tracing::info!(entries, left_out, "the cache was restored from its snapshot");
                if left_out > 0 {
                    return RestoredExtent::InPart;
                }
            }
            Err(SnapshotFault::Unreadable(error)) => {
                tracing::error!("the snapshot of the cache cannot be read ({error}): the cache begins empty");
                let text = "the snapshot of the cache could not be read: the cache began empty";
                self.gateway.live.degraded.report(DegradedReason::CacheSnapshotFailing, "", text);
            }
            Err(fault) => {
                tracing::warn!("the snapshot of the cache is discarded: {fault}; the cache begins empty");
                if let Err(error) = self.gateway.live.snapshot_file.remove() {
                    tracing::warn!("the snapshot of the cache cannot be removed: {error}");
                }
            }
        }
        RestoredExtent::Whole
    }

    /// `None`: there is no snapshot.
    fn restore_from_file(&self) -> Result<Option<RestoredCount>, SnapshotFault> {
        let Some((mut file, length)) = self.gateway.live.snapshot_file.open()? else { return Ok(None) };
        // Those that begin after this are known to the cache.
        let purges = self.gateway.live.snapshot_file.purges().map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => SnapshotFault::Purges,
            _ => SnapshotFault::Unreadable(error),
        })?;
        // Nothing is restored from a file that is not whole. A limit of 0 bytes skips all entries.
        let mut decoder = SnapshotDecoder::begin(BufReader::new(&file), length, 0)?;
        while decoder.read_next()?.is_some() {}
        let now = TimeMark::now(uptime::boot());
        let passed = time_since(decoder.taken(), now, self.latest).ok_or(SnapshotFault::Undated)?;
        let read = Instant::now();
        let included = decoder.included();
        let purges = purges.into_iter().filter(|purge| !purge.is_included_in(included)).map(|purge| purge.scope);
        let purges: Vec<_> = purges.collect();
        file.rewind()?;
        let longest = usize::try_from(self.gateway.current.load().cache.largest()).unwrap_or(usize::MAX);
        let mut decoder = SnapshotDecoder::begin(BufReader::new(&file), length, longest)?;
        let (mut restored, mut slice) = (RestoredCount::default(), 0);
        while let Some(entry) = decoder.read_next()? {
            if self.is_given_up() {
                break;
            }
            self.progress.fetch_add(1, SeqCst);
            slice += entry.packed.len() + entry.key.len();
            restored.entries += u64::from(self.restore_entry(entry, passed + read.elapsed(), &purges));
            if slice > SLICE {
                slice = 0;
                thread::sleep(PAUSE);
            }
        }
        restored.left_out = decoder.entries() - restored.entries;
        Ok(Some(restored))
    }

    /// Stores an entry, if the configuration in force has a use for it. `passed` and `purges`: since the snapshot was
    /// taken.
    fn restore_entry(&self, entry: SnapshotEntry<'_>, passed: Duration, purges: &[PurgeScope]) -> bool {
        let snapshot = self.gateway.current.load_full();
        let generation = snapshot.cache.generation_since(self.began);
        restorable(&snapshot, entry, passed).is_some_and(|(key, entry)| {
            // Never replaces what was fetched meanwhile.
            !purges.iter().any(|scope| key.is_within(scope)) && snapshot.cache.restore(key, entry, generation)
        })
    }
}

/// Time since a snapshot was taken: the longer one of those that the two clocks show. The wall clock can have been set back
/// since; `latest` is what it has shown meanwhile. `None`: it was, and in another run of the system.
fn time_since(taken: TimeMark, now: TimeMark, latest: u64) -> Option<Duration> {
    let latest = latest.max(taken.wall_ms);
    // The uptime is rounded down.
    let by_uptime = taken.until(now).by_uptime.map(|passed| passed + STEP);
    let is_set_back = now.wall_ms.saturating_add(millis(SET_BACK)) < latest;
    let by_wall_clock = (!is_set_back).then(|| Duration::from_millis(now.wall_ms.max(latest) - taken.wall_ms));
    by_uptime.max(by_wall_clock)
}

/// The entry with its key, if a request could get it from the configuration in force. `passed`: since the snapshot was
/// taken.
fn restorable(snapshot: &Snapshot, packed: SnapshotEntry<'_>, passed: Duration) -> Option<(Key, CacheEntry)> {
    let key = Key::from_bytes(packed.key)?;
    let operation = snapshot.operation_of(&key)?;
    // An earlier version may have stored one that does, or it became live since.
    if snapshot.key_holds_credential(&HeaderMap::new(), &key) {
        return None;
    }
    let reading = Classification { outcome: packed.outcome, is_envelope: true, key_refused: false };
    let max_length = snapshot.limits.answer_buffer;
    let length = packed.packed.len().min(max_length);
    // An earlier version may have stored one that is; known below.
    let candidate = Candidate { reading, status: packed.status, length, max_length, is_unreadable: false };
    if !rules::may_store(operation.cache.as_ref()?, &candidate) {
        return None;
    }
    let (operation, age) = (snapshot.cache.operation(&operation.label), packed.age.saturating_add(passed));
    let details = RestoredDetails { operation, age, uses: packed.uses };
    let may_be_coded = packed.names.contains(&CONTENT_ENCODING);
    let has_secret = snapshot.accounts.iter().any(|account| account.keys.leaks_in(&[packed.packed]));
    let entry = snapshot.cache.unpack(packed, details, snapshot.memory_shares.of(None)).filter(|_| !has_secret)?;
    if may_be_coded && rules::is_coded(&entry.headers(0)) {
        return None;
    }
    (age < entry.lifetimes().usable).then_some((key, entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_makes_nothing_younger() {
        let seconds = Duration::from_secs;
        let taken = TimeMark { boot: 1, uptime_ms: Some(50_000), wall_ms: 1_000_000 };
        let now = TimeMark { boot: 2, uptime_ms: Some(70_000), wall_ms: 1_090_000 };
        let same_run = |wall_ms| TimeMark { boot: 1, wall_ms, ..now };
        assert_eq!(time_since(taken, same_run(0), 5), Some(seconds(20) + STEP));
        assert_eq!(time_since(taken, same_run(1_010_000), 5), Some(seconds(20) + STEP));
        assert_eq!(time_since(taken, same_run(1_090_000), 5), Some(seconds(90)), "a paused machine");
        assert_eq!(time_since(taken, now, 0), Some(seconds(90)));
        assert_eq!(time_since(taken, now, 1_150_000), Some(seconds(150)), "an earlier process has seen more");
        assert_eq!(time_since(taken, now, 1_150_001), None);
        assert_eq!(time_since(taken, TimeMark { wall_ms: 940_000, ..now }, 0), Some(seconds(0)));
        assert_eq!(time_since(taken, TimeMark { wall_ms: 939_999, ..now }, 0), None);
        let earlier_uptime = TimeMark { uptime_ms: Some(40_000), ..same_run(1_090_000) };
        assert_eq!(time_since(taken, earlier_uptime, 0), Some(seconds(90)), "of another kind of uptime");
    }
}
