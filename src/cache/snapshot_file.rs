//! The file of the cache's snapshot (`cache-snapshot` in `state.dir`), and what was purged since it was taken.
//!
//! What always holds: the file is readable by its owner only; it is written under another name and renamed when all of it
//! is on the disk, so that a process that is killed leaves the old one or the new one; after [`SnapshotFile::remove`] has
//! returned there is no file, whatever ends the process then, and no snapshot that was taken before is put there; after
//! [`SnapshotFile::purge`] has returned, the next process knows of that purge, or there is no file.
//!
//! That does not depend on when the list of purges is deleted: purges have numbers, a snapshot says up to which one it was
//! taken after them, and the next process leaves out of it what later ones cover. Every call waits for the disk. Must not
//! know what a snapshot holds. Fails with the system's error.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::{
    PurgeScope,
    purge_records::{self, PurgeRecord},
    snapshot::IncludedPurges,
};

/// The file in `state.dir`.
const FILE: &str = "cache-snapshot";

/// Its name until it is whole.
const NEW_FILE: &str = "cache-snapshot.new";

/// The purges that a snapshot may not include; see `purge_records`.
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
    /// This process; random.
    run: u64,
    numbers: Mutex<PurgeNumbers>,
    /// Held while one is written: one at a time.
    writing: Mutex<()>,
    /// Held while a name is given or removed.
    naming: Mutex<ListedPurges>,
    due: Notify,
}

/// The purges of this process, by number.
#[derive(Debug, Default)]
struct PurgeNumbers {
    last: u64,
    /// Those that have begun and not ended: what they cover may be in the cache still.
    under_way: BTreeSet<u64>,
    /// The last one that the file was removed for: a snapshot that does not include it is not put there.
    removal: u64,
}

/// The list beside the snapshot.
#[derive(Debug, Default)]
struct ListedPurges {
    /// Those of earlier processes; `None`: not read yet.
    earlier: Option<Vec<PurgeRecord>>,
    /// Those of this one that the snapshot does not include.
    own: Vec<PurgeRecord>,
}

/// A purge that has begun. Drop it when nothing that it covers is in the cache: snapshots that begin before do not include
/// it.
#[derive(Debug)]
pub struct BegunPurge {
    file: Arc<SnapshotFile>,
    number: u64,
}

impl Drop for BegunPurge {
    fn drop(&mut self) {
        self.file.numbers.lock().under_way.remove(&self.number);
    }
}

impl SnapshotFile {
    /// That in `dir`, which exists.
    pub fn new(dir: &Path) -> Self {
        let (numbers, writing, naming, due) = Default::default();
        SnapshotFile { dir: dir.to_owned(), run: fastrand::u64(..), numbers, writing, naming, due }
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

    /// Replaces the file by what `write` writes, unless it was removed since this began. `write` is told which purges have
    /// ended before. Returns whether it did.
    ///
    /// # Errors
    /// The system's; the old file is still there then, if no other is.
    pub fn replace(&self, write: impl FnOnce(&mut File, IncludedPurges) -> io::Result<()>) -> io::Result<bool> {
        let _writing = self.writing.lock();
        let new = self.dir.join(NEW_FILE);
        remove(&new)?;
        let replaced = self.write_new(&new, write);
        if !matches!(replaced, Ok(true)) {
            // At the latest the next snapshot removes it.
            let _ = remove(&new);
        }
        replaced
    }

    fn write_new(
        &self,
        new: &Path,
        write: impl FnOnce(&mut File, IncludedPurges) -> io::Result<()>,
    ) -> io::Result<bool> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
        let included = self.ended();
        write(&mut file, included)?;
        file.flush()?;
        file.sync_all()?;
        let mut listed = self.naming.lock();
        if self.numbers.lock().removal > included.number {
            return Ok(false);
        }
        fs::rename(new, self.path())?;
        self.sync()?;
        // If the old list stays, a restart may leave out what was fetched since, which is harmless.
        let _ = self.unlist(&mut listed, included);
        Ok(true)
    }

    /// The purges of this process before the first that is under way.
    fn ended(&self) -> IncludedPurges {
        let numbers = self.numbers.lock();
        let number = numbers.under_way.first().map_or(numbers.last, |first| first - 1);
        IncludedPurges { run: self.run, number }
    }

    /// The snapshot includes these. Nothing of earlier processes was in the cache when it was taken, but what had been
    /// restored, without what was purged.
    fn unlist(&self, listed: &mut ListedPurges, included: IncludedPurges) -> io::Result<()> {
        listed.earlier = Some(Vec::new());
        listed.own.retain(|record| !record.is_included_in(included));
        if listed.own.is_empty() { self.remove_list() } else { self.write_list(&listed.own) }
    }

    fn next_number(&self, is_under_way: bool) -> u64 {
        let mut numbers = self.numbers.lock();
        numbers.last += 1;
        let number = numbers.last;
        if is_under_way {
            numbers.under_way.insert(number);
        }
        number
    }

    /// A purge begins: snapshots include it once the result is dropped.
    pub fn begin_purge(self: &Arc<Self>) -> BegunPurge {
        BegunPurge { file: self.clone(), number: self.next_number(true) }
    }

    /// Makes the next process leave out what is within the scope of a purge, of snapshots that do not include it. To be called
    /// before anything of that is removed from the cache.
    ///
    /// # Errors
    /// The system's, also if the disk does not respond; the next process may restore what is within the scope.
    pub fn purge(&self, purge: &BegunPurge, scope: &PurgeScope) -> io::Result<()> {
        let mut listed = self.lock_name()?;
        let is_all = *scope == PurgeScope::default();
        // A snapshot that is not there yet need not be told, but kept out.
        let added = if is_all || !fs::exists(self.path())? { Ok(false) } else { self.list(&mut listed, purge, scope) };
        if matches!(added, Ok(true)) {
            return Ok(());
        }
        // That needs no room on the disk, which the list may have lacked.
        if self.remove_named(&mut listed, purge.number)? && !is_all {
            let reason =
                added.err().map_or_else(|| "there were too many since it was taken".to_owned(), |it| it.to_string());
            tracing::warn!(
                "the snapshot of the cache was removed, because a purge could not be listed beside it: {reason}"
            );
        }
        Ok(())
    }

    /// Returns whether the next process knows of the purge.
    fn list(&self, listed: &mut ListedPurges, purge: &BegunPurge, scope: &PurgeScope) -> io::Result<bool> {
        let earlier = match listed.earlier.take() {
            Some(earlier) => earlier,
            None => self.purges()?,
        };
        let record = PurgeRecord { run: self.run, number: purge.number, scope: scope.clone() };
        let others =
            |records: &[PurgeRecord]| records.iter().filter(|it| it.scope != *scope).cloned().collect::<Vec<_>>();
        let records = [others(&earlier), others(&listed.own), vec![record]].concat();
        listed.earlier = Some(earlier);
        if purge_records::encode(&records)?.len() > MOST_PURGES {
            return Ok(false);
        }
        self.write_list(&records)?;
        let (own, earlier) = records.into_iter().partition(|record| record.run == self.run);
        *listed = ListedPurges { earlier: Some(earlier), own };
        Ok(true)
    }

    fn write_list(&self, records: &[PurgeRecord]) -> io::Result<()> {
        let new = self.dir.join(NEW_PURGES);
        remove(&new)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(purge_records::encode(records)?.as_bytes())?;
        file.sync_all()?;
        fs::rename(new, self.dir.join(PURGES))?;
        self.sync()
    }

    /// The purges that a snapshot may not include.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::InvalidData`] if it cannot be said what was purged.
    pub fn purges(&self) -> io::Result<Vec<PurgeRecord>> {
        match fs::read(self.dir.join(PURGES)) {
            Ok(list) => {
                purge_records::decode(&list).map_err(|damaged| io::Error::new(io::ErrorKind::InvalidData, damaged))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn remove_list(&self) -> io::Result<()> {
        let removed = [NEW_PURGES, PURGES].map(|name| remove(&self.dir.join(name)));
        let [new, whole] = removed;
        if new? | whole? {
            self.sync()?;
        }
        Ok(())
    }

    fn lock_name(&self) -> io::Result<MutexGuard<'_, ListedPurges>> {
        self.naming.try_lock_for(REMOVAL).ok_or_else(|| {
            io::Error::new(io::ErrorKind::TimedOut, "the disk does not respond while a snapshot is written")
        })
    }

    /// Removes the file, and one that is being written. Returns whether there was one.
    ///
    /// # Errors
    /// The system's, also if the disk does not respond; the file may be there still.
    pub fn remove(&self) -> io::Result<bool> {
        let number = self.next_number(false);
        self.remove_named(&mut *self.lock_name()?, number)
    }

    /// The same, for the purge of this number.
    fn remove_named(&self, listed: &mut ListedPurges, number: u64) -> io::Result<bool> {
        {
            let mut numbers = self.numbers.lock();
            numbers.removal = numbers.removal.max(number);
        }
        let (new, whole) = (remove(&self.dir.join(NEW_FILE))?, remove(&self.path())?);
        if new || whole {
            self.sync()?;
        }
        // Only now: until then they concern what is there.
        *listed = ListedPurges { earlier: Some(Vec::new()), own: Vec::new() };
        self.remove_list()?;
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

    fn taken(file: &SnapshotFile, content: &'static str) -> bool {
        file.replace(|out, _| out.write_all(content.as_bytes())).unwrap()
    }

    #[test]
    fn is_replaced_as_a_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let file = SnapshotFile::new(dir.path());
        assert_eq!(content(&file), None);
        assert!(taken(&file, "first"));
        let mode = fs::metadata(file.path()).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, content(&file).as_deref()), (0o600, Some("first")));
        let full = |out: &mut File, _| out.write_all(b"half").and(Err(io::ErrorKind::StorageFull.into()));
        assert!(file.replace(full).is_err());
        assert_eq!(content(&file).as_deref(), Some("first"));
        // What a killed process has left is no obstacle.
        fs::write(dir.path().join(NEW_FILE), "left").unwrap();
        assert!(taken(&file, "second"));
        assert_eq!(content(&file).as_deref(), Some("second"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    fn scope(operation: &str) -> PurgeScope {
        PurgeScope { operation: Some(operation.to_owned()), ..PurgeScope::default() }
    }

    fn open(dir: &tempfile::TempDir) -> Arc<SnapshotFile> {
        Arc::new(SnapshotFile::new(dir.path()))
    }

    /// A whole purge.
    fn purge(file: &Arc<SnapshotFile>, scope: &PurgeScope) {
        let begun = file.begin_purge();
        file.purge(&begun, scope).unwrap();
    }

    /// What the next process is to leave out of a snapshot that includes these.
    fn left_out(dir: &tempfile::TempDir, included: IncludedPurges) -> Vec<String> {
        let records = SnapshotFile::new(dir.path()).purges().unwrap().into_iter();
        records.filter(|record| !record.is_included_in(included)).filter_map(|record| record.scope.operation).collect()
    }

    #[test]
    fn a_purge_of_a_part_leaves_the_file_and_is_known_to_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let known = || left_out(&dir, IncludedPurges::default());
        let file = open(&dir);
        purge(&file, &scope("v2.city"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is there that it could concern");
        assert!(taken(&file, "first"));
        // Also by processes that end after it.
        for purged in ["v2.city", "v2.district", "v2.city"] {
            purge(&open(&dir), &scope(purged));
        }
        assert_eq!(known(), ["v2.district", "v2.city"]);
        assert_eq!(content(&file).as_deref(), Some("first"));
        let file = open(&dir);
        purge(&file, &scope("v2.province"));
        assert_eq!(known(), ["v2.district", "v2.city", "v2.province"]);
        assert!(taken(&file, "second"));
        assert_eq!((known(), content(&file).as_deref()), (Vec::new(), Some("second")));
        purge(&file, &scope("v2.city"));
        purge(&file, &PurgeScope::default());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// A process may be killed, or the disk may fail, at any instant.
    #[test]
    fn a_snapshot_includes_no_purge_that_ended_after_it_began() {
        let dir = tempfile::tempdir().unwrap();
        let file = open(&dir);
        assert!(taken(&file, "first"));
        let take = |during: &dyn Fn()| {
            let mut included = IncludedPurges::default();
            let replaced = file.replace(|out, these| {
                included = these;
                during();
                out.write_all(b"next")
            });
            assert!(replaced.unwrap());
            included
        };
        purge(&file, &scope("v2.city"));
        // It begins while the snapshot is written, which holds what it covers.
        let first = take(&|| purge(&file, &scope("v2.district")));
        assert_eq!(left_out(&dir, first), ["v2.district"]);
        // It began before, and the snapshot was put there before its entries were removed.
        let begun = file.begin_purge();
        file.purge(&begun, &scope("v2.province")).unwrap();
        purge(&file, &scope("v2.city"));
        let second = take(&|| ());
        assert_eq!(left_out(&dir, second), ["v2.province", "v2.city"]);
        drop(begun);
        assert_eq!(left_out(&dir, second), ["v2.province", "v2.city"]);
        // Nor does it matter if the list cannot be deleted.
        let list = fs::read(dir.path().join(PURGES)).unwrap();
        let third = take(&|| ());
        fs::write(dir.path().join(PURGES), list).unwrap();
        assert_eq!((left_out(&dir, third), left_out(&dir, second).len()), (Vec::new(), 2));
    }

    #[test]
    fn a_purge_that_cannot_be_listed_removes_the_file() {
        for damage in [&b""[..], b"{\"operation\":\"v2.city\"}\n", b"\xff"] {
            let dir = tempfile::tempdir().unwrap();
            assert!(taken(&open(&dir), "first"));
            purge(&open(&dir), &scope("v2.city"));
            fs::write(dir.path().join(PURGES), damage).unwrap();
            assert_eq!(open(&dir).purges().unwrap_err().kind(), io::ErrorKind::InvalidData);
            purge(&open(&dir), &scope("v2.district"));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn too_many_purges_remove_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = open(&dir);
        assert!(taken(&file, "first"));
        let mut number = 0;
        while content(&file).is_some() {
            assert!(file.purges().unwrap().len() == number && number < 10_000);
            number += 1;
            purge(&file, &scope(&format!("{number}{}", "x".repeat(2000))));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_removal_removes_what_is_being_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = open(&dir);
        let removals: [&dyn Fn() -> bool; 3] = [
            &|| file.remove().unwrap(),
            &|| {
                purge(&file, &PurgeScope::default());
                true
            },
            // There is none yet that it could be listed beside.
            &|| {
                fs::remove_file(file.path()).unwrap();
                purge(&file, &scope("v2.city"));
                true
            },
        ];
        for removal in removals {
            assert!(taken(&file, "first"));
            let replaced = file.replace(|out, _| {
                assert!(removal());
                out.write_all(b"second")
            });
            assert!(!replaced.unwrap() && !file.remove().unwrap());
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
        // Also if it was taken before the entries were removed.
        let begun = file.begin_purge();
        file.purge(&begun, &PurgeScope::default()).unwrap();
        assert!(!taken(&file, "with what is purged"));
        drop(begun);
        assert!(taken(&file, "without"));
    }
}
