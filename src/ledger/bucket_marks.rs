//! The file of bucket marks (`bucket-marks` in `state.dir`): what token buckets held at the last clean stop.
//!
//! A clean stop writes it; a start reads and removes it. What always holds: what it says is used once, by the start that
//! follows the stop in the same run of the system; after any other end, what buckets hold is unknown, and they begin as if
//! they had just been used up. Time is measured by two clocks, the system's uptime and the wall clock; the shorter one
//! counts. Nothing is synced: after a power failure the run of the system is another one. Never fails: a file that cannot
//! be read or removed is not used.

use std::{
    collections::HashMap,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    admission::{BucketMark, BucketStart, CounterId},
    uptime,
};

/// The file in `state.dir`.
const FILE: &str = "bucket-marks";

/// Name of a new file, until it is whole.
const NEW_FILE: &str = "bucket-marks.new";

/// What buckets begin with.
#[derive(Debug)]
pub(super) struct BucketMarks {
    last: LastEnd,
    /// The start of this process.
    since: Instant,
}

/// How the process before this one ended.
#[derive(Debug)]
enum LastEnd {
    /// There was none.
    None,
    Unknown,
    Clean {
        marks: HashMap<CounterId, BucketMark>,
        /// Time from that stop to this start.
        ago: Duration,
    },
}

/// Encoded as JSON, behind a line with its SHA-256.
#[derive(Serialize, Deserialize)]
struct Document {
    boot: u64,
    uptime_ms: u64,
    /// Milliseconds since 1970.
    wall_ms: u64,
    buckets: Vec<DocumentRow>,
}

/// A counter's kind and name, tokens, part of the rate in millionths, and rest of a pause in milliseconds.
type DocumentRow = (u8, String, u64, u32, u64);

impl BucketMarks {
    /// Reads and removes the file in `dir`. `is_new`: no gateway has run there before.
    pub(super) fn take(dir: &Path, boot: u64, is_new: bool) -> Self {
        let read = fs::read(dir.join(FILE));
        let removed = fs::remove_file(dir.join(FILE));
        let last = match (read, removed) {
            (Err(_), Err(error)) if is_new && error.kind() == io::ErrorKind::NotFound => LastEnd::None,
            (Ok(bytes), Ok(())) => decode(&bytes).map_or(LastEnd::Unknown, |document| document.end(boot)),
            _ => LastEnd::Unknown,
        };
        if matches!(last, LastEnd::Unknown) {
            tracing::info!("what was used of the limits per second before this start is unknown: they begin used up");
        }
        BucketMarks { last, since: Instant::now() }
    }

    /// What the bucket of a counter that is created now begins with.
    pub(super) fn start_of(&self, counter: &CounterId) -> BucketStart {
        let age = self.since.elapsed();
        match &self.last {
            LastEnd::None => BucketStart::Unused,
            LastEnd::Unknown => BucketStart::Unknown { age },
            LastEnd::Clean { marks, ago } => match marks.get(counter) {
                Some(mark) => BucketStart::Recorded { mark: *mark, age: *ago + age },
                None => BucketStart::Unused,
            },
        }
    }
}

/// Writes the file of a clean stop.
///
/// # Errors
/// The system's; there is no file then.
pub(super) fn write(dir: &Path, boot: u64, marks: &[(CounterId, BucketMark)]) -> io::Result<()> {
    let Some(uptime) = uptime::since_boot() else { return Ok(()) };
    let row = |(id, mark): &(CounterId, BucketMark)| {
        let (kind, name) = id.parts();
        (kind, name.to_owned(), mark.tokens, mark.rate_part, millis(mark.paused_for) + 1)
    };
    let buckets = marks.iter().map(row).collect();
    // The uptime is rounded down.
    let document = Document { boot, uptime_ms: millis(uptime + uptime::STEP), wall_ms: wall_ms(), buckets };
    let body = serde_json::to_vec(&document)?;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(dir.join(NEW_FILE))?;
    writeln!(file, "{}", checksum(&body))?;
    file.write_all(&body)?;
    fs::rename(dir.join(NEW_FILE), dir.join(FILE))
}

fn decode(bytes: &[u8]) -> Option<Document> {
    let at = bytes.iter().position(|byte| *byte == b'\n')?;
    let (sum, body) = (&bytes[..at], &bytes[at + 1..]);
    (sum == checksum(body).as_bytes()).then(|| serde_json::from_slice(body).ok()).flatten()
}

fn checksum(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

impl Document {
    fn end(self, boot: u64) -> LastEnd {
        let Some(uptime) = uptime::since_boot().filter(|_| self.boot == boot) else { return LastEnd::Unknown };
        let ago = millis(uptime).saturating_sub(self.uptime_ms).min(wall_ms().saturating_sub(self.wall_ms));
        let mark = |(kind, name, tokens, rate_part, paused): DocumentRow| {
            let mark = BucketMark { tokens, rate_part, paused_for: Duration::from_millis(paused) };
            Some((CounterId::from_parts(kind, &name)?, mark))
        };
        let marks = self.buckets.into_iter().filter_map(mark).collect();
        LastEnd::Clean { marks, ago: Duration::from_millis(ago) }
    }
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: BucketMark = BucketMark { tokens: 7, rate_part: 500_000, paused_for: Duration::from_millis(20) };

    fn ids() -> [CounterId; 3] {
        [CounterId::Service("a".into()), CounterId::Account("a".into()), CounterId::Service("new".into())]
    }

    fn starts(dir: &Path, boot: u64, is_new: bool) -> [BucketStart; 3] {
        let marks = BucketMarks::take(dir, boot, is_new);
        ids().map(|id| marks.start_of(&id))
    }

    #[test]
    fn a_clean_stop_is_known_once_and_in_the_same_run_of_the_system() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let unknown = |starts: [BucketStart; 3]| starts.iter().all(|one| matches!(one, BucketStart::Unknown { .. }));
        assert_eq!(starts(dir, 1, true), [BucketStart::Unused; 3]);
        assert!(unknown(starts(dir, 1, false)), "it was killed");
        let [a, account, _] = ids();
        let marks = [(a, MARK), (account, BucketMark { tokens: 0, ..MARK })];
        write(dir, 1, &marks).unwrap();
        let [BucketStart::Recorded { mark, age }, BucketStart::Recorded { mark: account, .. }, BucketStart::Unused] =
            starts(dir, 1, false)
        else {
            panic!("not known")
        };
        let second = Duration::from_secs(1);
        assert!(age < 5 * second && mark.paused_for >= MARK.paused_for && mark.paused_for < second);
        assert_eq!((mark.tokens, mark.rate_part, account.tokens), (7, 500_000, 0));
        assert!(unknown(starts(dir, 1, false)), "killed after that");
        write(dir, 1, &marks).unwrap();
        assert!(unknown(starts(dir, 2, false)), "another run of the system");
        write(dir, 1, &marks).unwrap();
        let mut bytes = fs::read(dir.join(FILE)).unwrap();
        *bytes.iter_mut().rev().find(|byte| **byte == b'7').unwrap() = b'9';
        fs::write(dir.join(FILE), bytes).unwrap();
        assert!(unknown(starts(dir, 1, false)), "damaged");
    }
}
