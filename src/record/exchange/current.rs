//! The file that lines are appended to.
//!
//! Always holds: it ends with a whole line, also after a failed write. [`CurrentFile::append`] returns what is
//! certainly in a file that has a name: what was written to a file that somebody has removed or truncated
//! meanwhile does not count. Opening an existing file continues its numbers. Fails with the system's error.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    time::SystemTime,
};

use super::rotated::system_time;
use crate::files::place::open_existing;

/// The file, locked.
pub(super) struct CurrentFile {
    file: File,
    /// Time of its first line.
    pub(super) began: SystemTime,
    /// Number of its last line; 0 if there is none.
    pub(super) seq: u64,
    /// Bytes up to the end of this line.
    pub(super) bytes: u64,
    /// Whether the file system counts the names of a file.
    counts_names: bool,
}

/// What an existing file turned out to be.
pub(super) enum OpenedFile {
    /// `torn`: bytes of a torn last line that was cut off; 0: none.
    Own { file: CurrentFile, torn: u64 },
    /// A log whose last line has no number: another program wrote it.
    Foreign,
    /// A pipe or device, which can be neither read nor rotated.
    Special(File),
}

/// How a file differs from what was written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileChange {
    None,
    /// Moved, removed or replaced.
    Elsewhere,
    /// Now this much shorter, bytes.
    Shorter(u64),
    /// Something else was appended.
    Longer,
}

/// Opens a file for appending; creates it and its folders if they are missing.
///
/// # Errors
/// The system's, or [`io::ErrorKind::WouldBlock`] if another process writes to it.
pub(super) fn open(path: &Path) -> io::Result<OpenedFile> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(OpenedFile::Special(file));
    }
    // An existing file may have a wider mode.
    if metadata.permissions().mode() & 0o777 != 0o600 {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let Some(end) = read_end(&mut file)? else { return Ok(OpenedFile::Foreign) };
    if end.torn > 0 {
        file.set_len(end.bytes)?;
    }
    let began = began(&mut file)?;
    let counts_names = metadata.nlink() > 0;
    let FileEnd { seq, bytes, torn } = end;
    Ok(OpenedFile::Own { file: CurrentFile { file, began, seq, bytes, counts_names }, torn })
}

impl CurrentFile {
    /// What happened to the file since the last write.
    pub(super) fn change(&self, path: &Path) -> io::Result<FileChange> {
        let here = self.file.metadata()?;
        match fs::metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (here.dev(), here.ino()) => {}
            Ok(_) => return Ok(FileChange::Elsewhere),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FileChange::Elsewhere),
            Err(error) => return Err(error),
        }
        Ok(match here.len() {
            length if length < self.bytes => FileChange::Shorter(self.bytes - length),
            length if length > self.bytes => FileChange::Longer,
            _ => FileChange::None,
        })
    }

    /// Appends whole lines; returns the number of bytes that are in the file: whole lines.
    ///
    /// # Errors
    /// The system's if nothing was written; another one if the file was removed or truncated meanwhile.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<usize> {
        let (done, failure) = write_all(&mut self.file, lines);
        let whole = memchr::memrchr(b'\n', &lines[..done]).map_or(0, |at| at + 1);
        let metadata = self.file.metadata()?;
        if (metadata.nlink() == 0 && self.counts_names) || metadata.len() < done as u64 {
            return Err(io::Error::other("it was removed or truncated while lines were written to it"));
        }
        // A torn line is cut off, or the next one would be appended to it.
        let torn = (done - whole) as u64;
        if torn > 0 {
            self.file.set_len(metadata.len() - torn)?;
        }
        self.bytes = metadata.len() - torn;
        match failure {
            Some(error) if whole == 0 => Err(error),
            _ => Ok(whole),
        }
    }

    /// When a line was appended last; `None` if it has no line.
    pub(super) fn last_written(&self) -> Option<SystemTime> {
        self.file.metadata().and_then(|metadata| metadata.modified()).ok().filter(|_| self.bytes > 0)
    }

    /// Lets another handle lock the file.
    pub(super) fn unlock(&self) {
        let _ = self.file.unlock();
    }

    pub(super) fn sync(&self) {
        let _ = self.file.sync_data();
    }
}

/// Writes until an error; returns how much was written.
pub(super) fn write_all(out: &mut impl Write, bytes: &[u8]) -> (usize, Option<io::Error>) {
    let mut done = 0;
    while done < bytes.len() {
        match out.write(&bytes[done..]) {
            Ok(0) => return (done, Some(io::ErrorKind::WriteZero.into())),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Some(error)),
        }
    }
    (done, None)
}

/// Whether a log may be opened at the path: there is no file, or it is empty, a pipe or a device, or it begins with an
/// object, as a log does, or with a NUL, as one may after a crash of the system. Any other file, such as one with keys, is
/// neither renamed nor written to.
pub(super) fn may_be_log(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() > 0 => {}
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => return Ok(true),
    }
    let mut first = [0; 1];
    File::open(path)?.read_exact(&mut first)?;
    Ok(matches!(first, [b'{' | 0]))
}

/// Whether [`open`] could open or create the file, as far as can be told without that.
///
/// # Errors
/// What [`open`] would fail with.
pub(super) fn usable(path: &Path) -> io::Result<()> {
    let Some(file) = open_existing(path)? else { return Ok(()) };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(());
    }
    let owner = rustix::process::geteuid();
    if metadata.permissions().mode() & 0o777 != 0o600 && !owner.is_root() && metadata.uid() != owner.as_raw() {
        // Only its owner may change its mode.
        return Err(rustix::io::Errno::PERM.into());
    }
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(error)) => Err(error),
        Ok(()) => Ok(()),
    }
}

/// The end of a file.
struct FileEnd {
    /// Number of the last whole line; 0 if there is none.
    seq: u64,
    /// Bytes up to its end.
    bytes: u64,
    /// Bytes after it.
    torn: u64,
}

/// `None`: the last line has no number.
fn read_end(file: &mut File) -> io::Result<Option<FileEnd>> {
    let length = file.metadata()?.len();
    let Some(end) = last_break(file, length)? else { return Ok(Some(FileEnd { seq: 0, bytes: 0, torn: length })) };
    let seq = number_at_end(file, end)?;
    Ok(seq.map(|seq| FileEnd { seq, bytes: end + 1, torn: length - end - 1 }))
}

/// Offset of the last line break before `before`.
fn last_break(file: &mut File, before: u64) -> io::Result<Option<u64>> {
    let mut block = vec![0; 64 * 1024];
    let mut end = before;
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let part = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(at) = memchr::memrchr(b'\n', part) {
            return Ok(Some(start + at as u64));
        }
        end = start;
    }
    Ok(None)
}

/// The number of the line whose line break is at `end`: `…,"seq":N}`.
fn number_at_end(file: &mut File, end: u64) -> io::Result<Option<u64>> {
    let start = end.saturating_sub(32);
    let mut tail = vec![0; (end - start) as usize];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut tail)?;
    let number = || {
        let text = std::str::from_utf8(&tail[memchr::memrchr(b',', &tail)?..]).ok()?;
        text.strip_prefix(",\"seq\":")?.strip_suffix('}')?.parse().ok()
    };
    Ok(number())
}

/// The time of the first line; now if there is none.
fn began(file: &mut File) -> io::Result<SystemTime> {
    let mut head = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(128).read_to_end(&mut head)?;
    let time = || {
        let text = String::from_utf8_lossy(&head);
        let (_, rest) = text.split_once("\"time\":\"")?;
        let time: jiff::Timestamp = rest.split('"').next()?.parse().ok()?;
        Some(system_time(time))
    };
    Ok(time().unwrap_or_else(SystemTime::now))
}
