//! Bounds the time for which a reader waits for a disk, such as one on the network.
//!
//! A system call on a file cannot be ended, so it runs on a thread of its own, and the reader leaves after
//! [`DEADLINE`]. While such a thread hangs, no other one is started for that file. Never fails.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::sync_channel,
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// How long opening and reading a file may take. A pipe has its own, shorter one.
pub(super) const DEADLINE: Duration = Duration::from_secs(8);

/// How long several such steps may take. More than one, so that an error names the file that hangs; files and folders also hang
/// where they are only asked about, which has no deadline of its own.
const STEPS_DEADLINE: Duration = Duration::from_secs(10);

/// How long reading a configuration and all that it names may take: files on a disk that hangs are waited for one after the
/// other, and their metadata has no deadline of its own. Less than a reload waits for the one before it.
const CONFIGURATION_DEADLINE: Duration = Duration::from_secs(16);

/// How many reads have not ended in time.
static LATE: AtomicU64 = AtomicU64::new(0);

/// The reads in progress.
static READS: Mutex<Vec<FileRead>> = Mutex::new(Vec::new());

#[derive(Clone, PartialEq, Eq)]
struct FileRead {
    path: PathBuf,
    /// How long it may take; another one for a configuration as such than for all that it names.
    time: Duration,
    began: Instant,
}

/// The result of `read`; `None` if it takes too long, or an earlier one of this file still does.
pub(super) fn within_deadline<T: Send + 'static>(path: &Path, read: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    within(DEADLINE, path, read)
}

/// The same, for several steps, of which some read files and others ask about them or write.
pub(super) fn steps_within_deadline<T: Send + 'static>(
    path: &Path,
    steps: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    within(STEPS_DEADLINE, path, steps)
}

/// The same, for a configuration and all that it names.
///
/// # Errors
/// It takes too long, or an earlier reading still does.
pub(crate) fn configuration_within_deadline<T: Send + 'static>(
    path: &Path,
    read: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "it, or a file or folder that it names, does not respond");
    within(CONFIGURATION_DEADLINE, path, read).ok_or_else(late)
}

/// Whether a reading of a configuration that has taken too long has not ended yet: no other would begin.
pub(crate) fn configuration_is_late(path: &Path) -> bool {
    is_late(&READS.lock(), CONFIGURATION_DEADLINE, path)
}

/// How many reads, of any file, have not ended in time so far.
pub(crate) fn late_reads() -> u64 {
    LATE.load(Relaxed)
}

fn is_late(reads: &[FileRead], time: Duration, path: &Path) -> bool {
    reads.iter().any(|read| read.path == path && read.time == time && read.began.elapsed() >= time)
}

fn within<T: Send + 'static>(time: Duration, path: &Path, read: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let read = read_within(time, path, read);
    LATE.fetch_add(u64::from(read.is_none()), Relaxed);
    read
}

fn read_within<T: Send + 'static>(time: Duration, path: &Path, read: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let begun = BegunRead::begin(path, time)?;
    let (send, result) = sync_channel(1);
    // If there is no thread, the read ends here.
    let _thread = thread::Builder::new().name("file".to_owned()).spawn(move || {
        let begun = begun;
        let read = read();
        drop(begun);
        let _ = send.send(read);
    });
    result.recv_timeout(time).ok()
}

/// A read in progress, until it is dropped: also if it panics.
struct BegunRead(FileRead);

impl BegunRead {
    /// `None`: an earlier one of this file takes too long.
    fn begin(path: &Path, time: Duration) -> Option<Self> {
        let mut reads = READS.lock();
        if is_late(&reads, time, path) {
            return None;
        }
        let this = FileRead { path: path.to_owned(), time, began: Instant::now() };
        reads.push(this.clone());
        Some(Self(this))
    }
}

impl Drop for BegunRead {
    fn drop(&mut self) {
        let mut reads = READS.lock();
        if let Some(index) = reads.iter().position(|read| *read == self.0) {
            reads.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Issue: from the end of its time on, the file counted as one that does not respond, until a restart.
    #[test]
    fn a_read_that_panics_has_ended() {
        let path = Path::new("/a_read_that_panics_has_ended");
        assert_eq!(within_deadline(path, || panic!("on purpose")), None::<()>);
        assert!(READS.lock().iter().all(|read| read.path != path));
    }
}
