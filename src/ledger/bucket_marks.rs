//! The file of bucket marks (`bucket-marks` in `state.dir`): what token buckets held at the last clean stop.
//!
//! A clean stop writes it; a start reads and removes it. What always holds: what it says is used once, by the start that
//! follows the stop in the same run of the system; after any other end, what buckets hold is unknown, and they begin as if
//! they had just been used up. Time is measured by two clocks, the system's uptime and the wall clock; the shorter one
//! counts. Nothing is synced: after a power failure the run of the system is another one. Never fails: a file that cannot
//! be read or removed is not used.

use std::{
    collections::HashMap,
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use super::bucket_file::BucketFile;
use crate::{
    admission::{BucketMark, BucketStart, CounterId},
    uptime::MarkAge,
};

/// The file in `state.dir`.
const FILE: &str = "bucket-marks";

/// Whether there is a file in `dir`.
pub(super) fn exists(dir: &Path) -> bool {
    dir.join(FILE).exists()
}

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

impl LastEnd {
    fn of(file: BucketFile, boot: u64) -> Self {
        let MarkAge { by_uptime: Some(by_uptime), by_wall_clock } = file.age(boot) else { return LastEnd::Unknown };
        let ago = by_uptime.min(by_wall_clock.unwrap_or_default());
        LastEnd::Clean { marks: file.marks().collect(), ago }
    }
}

impl BucketMarks {
    /// Reads and removes the file in `dir`. `is_new`: no gateway has run there before.
    pub(super) fn take(dir: &Path, boot: u64, is_new: bool) -> Self {
        let read = BucketFile::read(&dir.join(FILE));
        let last = match (read, fs::remove_file(dir.join(FILE))) {
            (None, Err(error)) if is_new && error.kind() == io::ErrorKind::NotFound => LastEnd::None,
            (Some(file), Ok(())) => LastEnd::of(file, boot),
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
    BucketFile::new(boot, marks.iter().map(|(id, mark)| (id, *mark))).write(&dir.join(FILE))
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
