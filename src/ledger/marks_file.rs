//! The file of day marks (`day-marks` in `state.dir`): a header, then one [`Slot`] of each counter and date.
//!
//! What always holds: the file is readable by its owner only; a record is written with one call, so that a process that is
//! killed leaves the old one or the new one. A file that cannot be read as one of these is kept under another name; one that
//! is lost while it is in use is replaced by a new one ([`MarksFile::check`], [`MarksFile::recreate`]). Fails with the
//! system's error.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::slot::{HEADER, SIZE, Slot};
use crate::files::read::read_own;

/// The file in `state.dir`.
const FILE: &str = "day-marks";

/// Name of a file that could not be read.
const UNREADABLE: &str = "day-marks.unreadable";

/// Name of a new file, until it has its header.
const NEW_FILE: &str = "day-marks.new";

/// Records by which the file grows, so that a full disk is noticed before they are needed.
const GROWTH: u32 = 64;

/// Where records are written.
pub(super) trait MarkStorage {
    /// Writes a record; `None` clears it. Records are numbered from 0.
    ///
    /// # Errors
    /// The system's; the old record or the new one is in the file.
    fn write(&mut self, number: u32, slot: Option<&Slot>) -> io::Result<()>;
}

/// The open file.
#[derive(Debug)]
pub(super) struct MarksFile {
    dir: PathBuf,
    file: File,
    /// Records, empty ones included.
    records: u32,
}

/// The file at the path is no longer as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LostMarks {
    #[error("it is gone")]
    Gone,
    #[error("it was replaced")]
    Replaced,
    #[error("it was emptied or cut off")]
    Emptied,
}

/// What the file holds at a start.
#[derive(Debug, Default)]
pub(super) struct LoadedMarks {
    /// With their numbers.
    pub(super) slots: Vec<(u32, Slot)>,
    /// Records, empty ones included.
    pub(super) records: u32,
    /// Records that are damaged.
    pub(super) damaged: usize,
    /// There was no file.
    pub(super) is_new: bool,
    /// There was one that could not be read.
    pub(super) is_unreadable: bool,
}

/// What a file of day marks holds.
#[derive(Debug)]
pub struct MarksSummary {
    /// It begins as one of these files does.
    pub is_readable: bool,
    /// Days of counters.
    pub counts: usize,
    /// Records that cannot be read.
    pub damaged: usize,
}

/// Looks at the file in `dir`; `None`: there is none.
///
/// # Errors
/// The system's.
pub fn inspect(dir: &Path) -> io::Result<Option<MarksSummary>> {
    let bytes = match read_own(&dir.join(FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => Vec::new(),
        Err(error) => return Err(error),
    };
    let loaded = load(&bytes);
    let is_readable = loaded.is_some();
    let loaded = loaded.unwrap_or_default();
    Ok(Some(MarksSummary { is_readable, counts: loaded.slots.len(), damaged: loaded.damaged }))
}

/// Whether there is a file in `dir`, or one that could not be read.
pub(super) fn exists(dir: &Path) -> bool {
    [FILE, UNREADABLE].iter().any(|file| fs::symlink_metadata(dir.join(file)).is_ok())
}

/// Keeps what is at the place of the file, and cannot be read as one, under another name.
fn set_aside(dir: &Path) -> io::Result<()> {
    let (from, to) = (dir.join(FILE), dir.join(UNREADABLE));
    fs::rename(&from, &to).or_else(|_| {
        // One of the two is a folder, and the other one is not.
        fs::remove_file(&to).or_else(|_| fs::remove_dir(&to))?;
        fs::rename(&from, &to)
    })?;
    tracing::error!(kept_as = UNREADABLE, "the file of day marks is damaged: the state store decides");
    Ok(())
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

impl MarksFile {
    /// Opens the file, creating it if it is missing.
    pub(super) fn open(dir: &Path) -> io::Result<(Self, LoadedMarks)> {
        let path = dir.join(FILE);
        // A folder, say; a FIFO would keep the start waiting.
        let was_irregular = fs::metadata(&path).is_ok_and(|found| !found.is_file());
        if was_irregular {
            set_aside(dir)?;
        }
        let mut file = open(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let is_new = bytes.is_empty() && !was_irregular;
        let loaded = load(&bytes);
        let loaded = match loaded {
            Some(loaded) => loaded,
            None => {
                if !bytes.is_empty() {
                    set_aside(dir)?;
                    file = open(&path)?;
                }
                file.write_all_at(&HEADER, 0)?;
                // The name of a new file must survive, as its bytes do.
                File::open(dir)?.sync_all()?;
                LoadedMarks { is_new, is_unreadable: !is_new, ..LoadedMarks::default() }
            }
        };
        Ok((MarksFile { dir: dir.to_owned(), file, records: loaded.records }, loaded))
    }

    /// The folder of the file.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the file at the path is the one that is written, and as long. What cannot be told now counts as no loss.
    pub(super) fn check(&self) -> Result<(), LostMarks> {
        let at_path = match fs::symlink_metadata(self.dir.join(FILE)) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(LostMarks::Gone),
            Err(_) => return Ok(()),
        };
        let Ok(own) = self.file.metadata() else { return Ok(()) };
        if (at_path.dev(), at_path.ino()) != (own.dev(), own.ino()) {
            return Err(LostMarks::Replaced);
        }
        let mut header = [0; SIZE];
        let is_whole = own.len() >= (u64::from(self.records) + 1) * SIZE as u64;
        match self.file.read_exact_at(&mut header, 0) {
            Ok(()) if is_whole && header == HEADER => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Ok(()),
            _ => Err(LostMarks::Emptied),
        }
    }

    /// Puts a new file without records in the place of a lost one, which is not written any more.
    ///
    /// # Errors
    /// The system's; nothing has changed then.
    pub(super) fn recreate(&mut self) -> io::Result<()> {
        let new = self.dir.join(NEW_FILE);
        let file = open(&new)?;
        file.set_len(0)?;
        file.write_all_at(&HEADER, 0)?;
        if is_folder(&self.dir.join(FILE)) {
            set_aside(&self.dir)?;
        }
        fs::rename(new, self.dir.join(FILE))?;
        File::open(&self.dir)?.sync_all()?;
        (self.file, self.records) = (file, 0);
        Ok(())
    }

    /// Waits until everything written is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// `None`: it has no header.
fn load(bytes: &[u8]) -> Option<LoadedMarks> {
    let (header, rest) = bytes.split_first_chunk::<SIZE>()?;
    if *header != HEADER {
        return None;
    }
    let mut loaded = LoadedMarks::default();
    for (record, number) in rest.as_chunks::<SIZE>().0.iter().zip(0..) {
        loaded.records = number + 1;
        match Slot::decode(record) {
            Some(slot) => loaded.slots.push((number, slot)),
            None => loaded.damaged += usize::from(*record != [0; SIZE]),
        }
    }
    Some(loaded)
}

impl MarkStorage for MarksFile {
    fn write(&mut self, number: u32, slot: Option<&Slot>) -> io::Result<()> {
        let offset = |number: u32| (u64::from(number) + 1) * SIZE as u64;
        if number >= self.records {
            let records = number + GROWTH;
            let empty = vec![0; (records - self.records) as usize * SIZE];
            self.file.write_all_at(&empty, offset(self.records))?;
            self.records = records;
        }
        self.file.write_all_at(&slot.map_or([0; SIZE], Slot::encode), offset(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::CalendarDay;

    #[test]
    fn a_file_that_is_lost_is_noticed_and_replaced() {
        type Loss = fn(&Path);
        let losses: [(Loss, LostMarks); 7] = [
            (replace_by_folder, LostMarks::Replaced),
            (replace_by_folder, LostMarks::Replaced),
            (|path| fs::remove_file(path).unwrap(), LostMarks::Gone),
            (|path| fs::rename(path, path.with_extension("old")).unwrap(), LostMarks::Gone),
            (|path| fs::rename(path.with_extension("old"), path).unwrap(), LostMarks::Replaced),
            (|path| fs::write(path, "").unwrap(), LostMarks::Emptied),
            (|path| File::options().write(true).open(path).unwrap().set_len(128).unwrap(), LostMarks::Emptied),
        ];
        let day = CalendarDay { date: 3, starts: 4, ends: 5 };
        let slot = Slot { counter: [1; 16], day, mark: 6, lease: 7, boot: 8 };
        let dir = tempfile::tempdir().unwrap();
        let (mut file, _) = MarksFile::open(dir.path()).unwrap();
        file.write(0, Some(&slot)).unwrap();
        for (lose, expected) in losses {
            assert_eq!(file.check(), Ok(()));
            lose(&dir.path().join(FILE));
            assert_eq!(file.check(), Err(expected));
            // What is written meanwhile does not hide it.
            file.write(63, Some(&slot)).unwrap();
            assert_eq!(file.check(), Err(expected));
            file.recreate().unwrap();
            file.write(2, Some(&slot)).unwrap();
            assert_eq!(MarksFile::open(dir.path()).unwrap().1.slots, [(2, slot)]);
        }
    }

    fn replace_by_folder(path: &Path) {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }

    #[test]
    fn a_folder_in_its_place_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        for _ in 0..2 {
            fs::write(dir.path().join(UNREADABLE), "from before").unwrap();
            drop(MarksFile::open(dir.path()).unwrap());
            replace_by_folder(&path);
            assert!(inspect(dir.path()).unwrap().is_some_and(|summary| !summary.is_readable));
            let (_, loaded) = MarksFile::open(dir.path()).unwrap();
            assert!(loaded.is_unreadable && !loaded.is_new && is_folder(&dir.path().join(UNREADABLE)));
            fs::remove_dir(dir.path().join(UNREADABLE)).unwrap();
        }
        assert_eq!(inspect(dir.path()).unwrap().map(|summary| summary.is_readable), Some(true));
    }

    #[test]
    fn keeps_records_and_sets_a_damaged_file_aside() {
        let dir = tempfile::tempdir().unwrap();
        let slot =
            Slot { counter: [1; 16], day: CalendarDay { date: 3, starts: 4, ends: 5 }, mark: 6, lease: 7, boot: 8 };
        let (mut file, loaded) = MarksFile::open(dir.path()).unwrap();
        assert!(loaded.is_new && loaded.slots.is_empty());
        for number in [0, 1, 70] {
            file.write(number, Some(&slot)).unwrap();
        }
        file.write(1, None).unwrap();
        let (_, loaded) = MarksFile::open(dir.path()).unwrap();
        assert_eq!(loaded.slots, [(0, slot), (70, slot)]);
        assert!(!loaded.is_new && loaded.damaged == 0 && loaded.records > 70);

        let path = dir.path().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        bytes[SIZE + 20] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let (_, loaded) = MarksFile::open(dir.path()).unwrap();
        assert_eq!((loaded.slots, loaded.damaged), (vec![(70, slot)], 1));
        bytes[0] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let (_, loaded) = MarksFile::open(dir.path()).unwrap();
        assert!(loaded.is_unreadable && loaded.slots.is_empty() && dir.path().join(UNREADABLE).exists());
    }
}
