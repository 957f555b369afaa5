//! The file of the cache's snapshot (`cache-snapshot` in `state.dir`).
//!
//! What always holds: the file is readable by its owner only; it is written under another name and renamed when all of it
//! is on the disk, so that a process that is killed leaves the old one or the new one; after [`SnapshotFile::remove`] has
//! returned there is no file, whatever ends the process then, and no snapshot that was taken before is put there. Every
//! call waits for the disk. Must not know what a snapshot holds. Fails with the system's error.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The file in `state.dir`.
const FILE: &str = "cache-snapshot";

/// Its name until it is whole.
const NEW_FILE: &str = "cache-snapshot.new";

/// How long a removal waits for a disk that does not respond to a rename.
const REMOVAL: Duration = Duration::from_secs(5);

/// The file, or the place for it.
#[derive(Debug)]
pub struct SnapshotFile {
    dir: PathBuf,
    /// Held while one is written: one at a time.
    writing: Mutex<()>,
    /// Held while the name is given or removed.
    naming: Mutex<()>,
    due: Notify,
}

impl SnapshotFile {
    /// That in `dir`, which exists.
    pub fn new(dir: &Path) -> Self {
        SnapshotFile { dir: dir.to_owned(), writing: Mutex::new(()), naming: Mutex::new(()), due: Notify::new() }
    }

    /// A snapshot is to be written now, or removed: the cache or the configuration has changed.
    pub fn make_due(&self) {
        self.due.notify_one();
    }

    /// Waits until one is due. For one task.
    pub async fn until_due(&self) {
        self.due.notified().await;
    }

    /// The file and its length in bytes; `None`: there is none.
    ///
    /// # Errors
    /// The system's.
    pub fn open(&self) -> io::Result<Option<(File, u64)>> {
        match File::open(self.path()) {
            Ok(file) => {
                let length = file.metadata()?.len();
                Ok(Some((file, length)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the file by what `write` writes, unless `is_current` says that this must not be kept. Returns whether it
    /// did.
    ///
    /// # Errors
    /// The system's; the old file is still there then, if no other is.
    pub fn replace(
        &self,
        write: impl FnOnce(&mut File) -> io::Result<()>,
        is_current: impl FnOnce() -> bool,
    ) -> io::Result<bool> {
        let _writing = self.writing.lock();
        let new = self.dir.join(NEW_FILE);
        remove(&new)?;
        let replaced = self.write_new(&new, write, is_current);
        if !matches!(replaced, Ok(true)) {
            // At the latest the next snapshot removes it.
            let _ = remove(&new);
        }
        replaced
    }

    fn write_new(
        &self,
        new: &Path,
        write: impl FnOnce(&mut File) -> io::Result<()>,
        is_current: impl FnOnce() -> bool,
    ) -> io::Result<bool> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
        write(&mut file)?;
        file.flush()?;
        file.sync_all()?;
        let _naming = self.naming.lock();
        if !is_current() {
            return Ok(false);
        }
        fs::rename(new, self.path())?;
        self.sync()?;
        Ok(true)
    }

    /// Removes the file, and one that is being written. Returns whether there was one.
    ///
    /// # Errors
    /// The system's, also if the disk does not respond; the file may be there still.
    pub fn remove(&self) -> io::Result<bool> {
        let _naming = self.naming.try_lock_for(REMOVAL).ok_or_else(|| {
            io::Error::new(io::ErrorKind::TimedOut, "the disk does not respond while a snapshot is written")
        })?;
        let (new, whole) = (remove(&self.dir.join(NEW_FILE))?, remove(&self.path())?);
        if new || whole {
            self.sync()?;
        }
        Ok(whole)
    }

    /// A name must survive a power failure, as the bytes do.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }
}

/// Returns whether there was such a file.
fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn content(file: &SnapshotFile) -> Option<String> {
        let mut text = String::new();
        file.open().unwrap()?.0.read_to_string(&mut text).unwrap();
        Some(text)
    }

    #[test]
    fn is_replaced_as_a_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let file = SnapshotFile::new(dir.path());
        assert_eq!(content(&file), None);
        assert!(file.replace(|out| out.write_all(b"first"), || true).unwrap());
        let mode = fs::metadata(file.path()).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, content(&file).as_deref()), (0o600, Some("first")));
        let full = |out: &mut File| out.write_all(b"half").and(Err(io::ErrorKind::StorageFull.into()));
        assert!(file.replace(full, || true).is_err());
        assert!(!file.replace(|out| out.write_all(b"outdated"), || false).unwrap());
        assert_eq!(content(&file).as_deref(), Some("first"));
        // What a killed process has left is no obstacle.
        fs::write(dir.path().join(NEW_FILE), "left").unwrap();
        assert!(file.replace(|out| out.write_all(b"second"), || true).unwrap());
        assert_eq!(content(&file).as_deref(), Some("second"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_removal_removes_what_is_being_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = SnapshotFile::new(dir.path());
        assert!(file.replace(|out| out.write_all(b"first"), || true).unwrap());
        let replaced = file.replace(
            |out| {
                assert!(file.remove().unwrap());
                out.write_all(b"second")
            },
            // The caller learns of the removal by other means.
            || false,
        );
        assert!(!replaced.unwrap() && !file.remove().unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
