//! The file of the cache's snapshot (`cache-snapshot` in `state.dir`).
//!
//! What always holds: the file is readable by its owner only; it is written under another name and renamed when all of it
//! is on the disk, so that a process that is killed leaves the old one or the new one; after [`SnapshotFile::remove`] has
//! returned there is no file, whatever ends the process then, and no snapshot that was taken before is put there; after
//! [`SnapshotFile::purge`] has returned, the next process knows of that purge, or there is no file. Every call waits for
//! the disk. Must not know what a snapshot holds. Fails with the system's error.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::PurgeScope;

/// The file in `state.dir`.
const FILE: &str = "cache-snapshot";

/// Its name until it is whole.
const NEW_FILE: &str = "cache-snapshot.new";

/// The purges since the snapshot was taken, one JSON object a line.
const PURGES: &str = "cache-snapshot.purges";

/// Its name until it is whole.
const NEW_PURGES: &str = "cache-snapshot.purges.new";

/// Longest list of purges, bytes. A longer one is of no use any more: the snapshot is removed instead.
const MOST_PURGES: usize = 64 << 10;

/// How long a removal or a purge waits for a disk that does not respond to a rename.
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

    /// Whether there is one in `dir`.
    pub fn exists(dir: &Path) -> bool {
        dir.join(FILE).exists()
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
        // It was taken after them. If they stay, a restart leaves out what was fetched since, which is harmless.
        let _ = self.remove_purges();
        Ok(true)
    }

    /// Makes the next process leave out of the snapshot what is within a scope, and removes one that is being written.
    ///
    /// # Errors
    /// The system's, also if the disk does not respond; the next process may restore what is within the scope.
    pub fn purge(&self, scope: &PurgeScope) -> io::Result<()> {
        let is_all = *scope == PurgeScope::default();
        if !is_all && self.add_purge(scope)? {
            return Ok(());
        }
        if self.remove()? && !is_all {
            tracing::warn!("the snapshot of the cache was removed: there were too many purges since it was taken");
        }
        Ok(())
    }

    /// Returns whether the next process knows of the purge.
    fn add_purge(&self, scope: &PurgeScope) -> io::Result<bool> {
        let _naming = self.lock_name()?;
        remove(&self.dir.join(NEW_FILE))?;
        if !fs::exists(self.path())? {
            return Ok(true);
        }
        let mut purges = self.read_purges()?;
        let line = serde_json::to_string(scope)?;
        if !purges.lines().any(|known| known == line) {
            purges = purges + &line + "\n";
        }
        if purges.len() > MOST_PURGES {
            return Ok(false);
        }
        let new = self.dir.join(NEW_PURGES);
        remove(&new)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(purges.as_bytes())?;
        file.sync_all()?;
        fs::rename(new, self.dir.join(PURGES))?;
        self.sync()?;
        Ok(true)
    }

    fn read_purges(&self) -> io::Result<String> {
        match fs::read_to_string(self.dir.join(PURGES)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read,
        }
    }

    /// What is to be left out of the snapshot: the scopes of the purges since it was taken.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::InvalidData`] if it cannot be said what was purged.
    pub fn purges(&self) -> io::Result<Vec<PurgeScope>> {
        let scopes = self.read_purges()?.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        scopes.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn remove_purges(&self) -> io::Result<()> {
        let removed = [NEW_PURGES, PURGES].map(|name| remove(&self.dir.join(name)));
        let [new, whole] = removed;
        if new? | whole? {
            self.sync()?;
        }
        Ok(())
    }

    fn lock_name(&self) -> io::Result<MutexGuard<'_, ()>> {
        self.naming.try_lock_for(REMOVAL).ok_or_else(|| {
            io::Error::new(io::ErrorKind::TimedOut, "the disk does not respond while a snapshot is written")
        })
    }

    /// Removes the file, and one that is being written. Returns whether there was one.
    ///
    /// # Errors
    /// The system's, also if the disk does not respond; the file may be there still.
    pub fn remove(&self) -> io::Result<bool> {
        let _naming = self.lock_name()?;
        let (new, whole) = (remove(&self.dir.join(NEW_FILE))?, remove(&self.path())?);
        if new || whole {
            self.sync()?;
        }
        // Only now: until then they concern what is there.
        self.remove_purges()?;
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

    fn scope(operation: &str) -> PurgeScope {
        PurgeScope { operation: Some(operation.to_owned()), ..PurgeScope::default() }
    }

    #[test]
    fn a_purge_of_a_part_leaves_the_file_and_is_known_to_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let next = || SnapshotFile::new(dir.path());
        next().purge(&scope("v2.city")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is there that it could concern");
        assert!(next().replace(|out| out.write_all(b"first"), || true).unwrap());
        for purged in ["v2.city", "v2.district", "v2.city"] {
            next().purge(&scope(purged)).unwrap();
        }
        assert_eq!(next().purges().unwrap(), ["v2.city", "v2.district"].map(scope));
        assert_eq!(content(&next()).as_deref(), Some("first"));
        // Of what was taken before a purge, nothing is kept.
        assert!(!next().replace(|out| out.write_all(b"outdated"), || false).unwrap());
        assert_eq!(next().purges().unwrap().len(), 2);
        assert!(next().replace(|out| out.write_all(b"second"), || true).unwrap());
        assert_eq!((next().purges().unwrap(), content(&next()).as_deref()), (Vec::new(), Some("second")));
        next().purge(&scope("v2.city")).unwrap();
        fs::write(dir.path().join(PURGES), "{").unwrap();
        assert!(next().purges().is_err());
        next().purge(&PurgeScope::default()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn too_many_purges_remove_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = SnapshotFile::new(dir.path());
        assert!(file.replace(|out| out.write_all(b"first"), || true).unwrap());
        let mut number = 0;
        while content(&file).is_some() {
            assert!(file.purges().unwrap().len() == number && number < 10_000);
            number += 1;
            file.purge(&scope(&format!("{number}{}", "x".repeat(2000)))).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
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
