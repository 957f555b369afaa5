//! The file of throttles (`throttles` in `state.dir`): pauses that Fastrac has demanded, and rates that it has taught, for
//! the process after one that is killed.
//!
//! The ledger's thread writes it at each limit response, so a kill within the fraction of a millisecond before that loses
//! one. What always holds: a pause goes on from its own instant, by the system's uptime; after a restart of the system, by
//! the wall clock; however wrong that is, it is never longer than it was when it was written. Never fails: a file that
//! cannot be read is not used, and one that cannot be written is written later.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Instant,
};

use super::bucket_file::BucketFile;
use crate::admission::{BucketMark, CounterId};

/// The file in `state.dir`.
const FILE: &str = "throttles";

/// Whether there is a file in `dir`.
pub(super) fn exists(dir: &Path) -> bool {
    dir.join(FILE).exists()
}

/// What limit responses have taught about an account.
#[derive(Clone, Copy, Debug)]
pub(super) struct Throttle {
    /// As of `at`.
    pub(super) mark: BucketMark,
    pub(super) at: Instant,
}

/// Which file is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    length: u64,
}

impl FileStamp {
    /// `None`: there is none.
    fn of(path: &Path) -> Option<Self> {
        let found = fs::symlink_metadata(path).ok()?;
        Some(FileStamp { device: found.dev(), inode: found.ino(), length: found.len() })
    }
}

/// By account.
#[derive(Debug)]
pub(super) struct Throttles {
    path: PathBuf,
    boot: u64,
    known: HashMap<CounterId, Throttle>,
    /// The file as it was read or written last.
    written: Option<FileStamp>,
    /// The file lacks something.
    is_unwritten: bool,
    is_failing: bool,
}

impl Throttles {
    /// Reads the file in `dir`.
    pub(super) fn read(dir: &Path, boot: u64) -> Self {
        let (path, at) = (dir.join(FILE), Instant::now());
        let known = BucketFile::read(&path).map_or_else(HashMap::new, |file| {
            let age = file.age(boot);
            let age = age.by_uptime.or(age.by_wall_clock).unwrap_or_default();
            let marks = file.marks().map(|(id, mark)| (id, mark.used_up_after(age)));
            marks.filter(|(_, mark)| mark.is_limited()).map(|(id, mark)| (id, Throttle { mark, at })).collect()
        });
        let written = FileStamp::of(&path);
        Throttles { path, boot, known, written, is_unwritten: false, is_failing: false }
    }

    pub(super) fn known(&self) -> &HashMap<CounterId, Throttle> {
        &self.known
    }

    pub(super) fn record(&mut self, account: CounterId, throttle: Throttle) {
        self.known.insert(account, throttle);
        self.is_unwritten = true;
    }

    /// Has the file written again if it is removed or replaced; to be called again and again.
    pub(super) fn check(&mut self) {
        if !self.known.is_empty() && !self.is_unwritten && self.written != FileStamp::of(&self.path) {
            tracing::error!("the file of throttles was lost; it is written again");
            self.is_unwritten = true;
        }
    }

    /// Writes what is not written yet; to be called again and again.
    pub(super) fn write(&mut self) {
        if !self.is_unwritten {
            return;
        }
        self.known.retain(|_, Throttle { mark, at }| mark.used_up_after(at.elapsed()).is_limited());
        let marks = self.known.iter().map(|(id, Throttle { mark, at })| (id, mark.used_up_after(at.elapsed())));
        let written = BucketFile::new(self.boot, marks).write(&self.path);
        self.is_unwritten = written.is_err();
        self.written = FileStamp::of(&self.path);
        if let Err(error) = written
            && !std::mem::replace(&mut self.is_failing, true)
        {
            tracing::warn!(%error, "the file of throttles cannot be written: after a kill, Fastrac's pauses would be unknown");
        }
        self.is_failing &= self.is_unwritten;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PAUSE: Duration = Duration::from_secs(60);
    const MARK: BucketMark = BucketMark { tokens: 0, rate_part: 500_000, paused_for: PAUSE };

    fn account(name: &str) -> CounterId {
        CounterId::Account(name.into())
    }

    /// The rest of a pause, and the part of the rate.
    fn known(throttles: &Throttles, name: &str) -> Option<(Duration, u32)> {
        throttles.known().get(&account(name)).map(|throttle| (throttle.mark.paused_for, throttle.mark.rate_part))
    }

    #[test]
    fn each_process_knows_what_all_before_it_have_learned() {
        let dir = tempfile::tempdir().unwrap();
        for (number, name) in ["a", "b"].into_iter().enumerate() {
            let mut throttles = Throttles::read(dir.path(), 1);
            assert_eq!(throttles.known().len(), number);
            throttles.record(account(name), Throttle { mark: MARK, at: Instant::now() });
            throttles.write();
        }
        // Also in another run of the system.
        for boot in [1, 2] {
            let throttles = Throttles::read(dir.path(), boot);
            for name in ["a", "b"] {
                let (rest, part) = known(&throttles, name).unwrap();
                assert!(rest <= PAUSE + Duration::from_millis(2) && rest > PAUSE / 2 && part == 500_000, "{rest:?}");
            }
        }
    }

    #[test]
    fn a_file_that_is_lost_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut throttles = Throttles::read(dir.path(), 1);
        throttles.check();
        throttles.write();
        assert!(!path.exists(), "there is nothing to write");
        throttles.record(account("a"), Throttle { mark: MARK, at: Instant::now() });
        throttles.write();
        let losses: [fn(&Path); 3] = [
            |path| fs::remove_file(path).unwrap(),
            |path| fs::rename(path, path.with_extension("old")).unwrap(),
            |path| fs::write(path, "").unwrap(),
        ];
        // Also by the process after the one that wrote it.
        for restarts in [false, true] {
            for lose in losses {
                if restarts {
                    throttles = Throttles::read(dir.path(), 1);
                }
                lose(&path);
                throttles.check();
                throttles.write();
                assert!(known(&Throttles::read(dir.path(), 1), "a").is_some());
            }
        }
    }

    #[test]
    fn what_has_no_effect_any_more_is_forgotten_and_what_is_damaged_is_not_used() {
        let (dir, now) = (tempfile::tempdir().unwrap(), Instant::now());
        let mut throttles = Throttles::read(dir.path(), 1);
        let long_ago = now.checked_sub(2 * PAUSE).unwrap();
        // Six steps of ten seconds after the pause.
        throttles
            .record(account("climbing"), Throttle { mark: BucketMark { rate_part: 100_000, ..MARK }, at: long_ago });
        throttles.record(account("over"), Throttle { mark: MARK, at: long_ago.checked_sub(PAUSE).unwrap() });
        throttles.write();
        let throttles = Throttles::read(dir.path(), 1);
        assert_eq!((known(&throttles, "over"), throttles.known().len()), (None, 1));
        assert!(known(&throttles, "climbing").is_some_and(|(_, part)| (600_000..=700_000).contains(&part)));
        let path = dir.path().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(Throttles::read(dir.path(), 1).known().len(), 0);
    }
}
