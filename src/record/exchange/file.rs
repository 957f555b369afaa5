//! The files of the exchange log: the current one and the rotated ones.
//!
//! One process writes at a time (the file is locked). When a file is opened, its numbers continue and
//! a torn last line is cut off. A full file is renamed to `<name>-<time>.<extension>`. Rotated files
//! are removed, oldest first, when together they are too large, or when one is too old. Files have
//! mode 0600, created folders 0700. Opening fails with [`LogError`]; rotation fails with the system's
//! error.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::error::LogError;

/// Number of files that the total size is divided into.
const SEGMENTS: u64 = 8;
/// Bytes.
const SEGMENT_MAX: u64 = 128 * 1024 * 1024;
/// Bytes.
const SEGMENT_MIN: u64 = 4 * 1024;

/// Maximum age of the current file, so that whole files can be removed after `keep_days`.
const DAY: Duration = Duration::from_secs(86_400);

/// The state of a file when it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RecoveredFile {
    /// Number of its last complete line; 0 if there is none.
    pub(super) seq: u64,
    /// Bytes up to the end of this line.
    pub(super) bytes: u64,
    /// Bytes of a torn last line that was cut off.
    pub(super) torn: Option<u64>,
}

/// The current file, and the limits of the rotated ones.
pub(super) struct LogFiles {
    path: PathBuf,
    file: File,
    began: SystemTime,
    /// Bytes, all files together.
    keep_size: u64,
    /// 0: no limit.
    keep_days: u32,
    /// A pipe or device is neither read nor rotated.
    regular: bool,
}

struct RotatedFile {
    path: PathBuf,
    /// From its name.
    time: SystemTime,
}

impl LogFiles {
    pub(super) fn open(path: &Path, keep_size: u64, keep_days: u32) -> Result<(LogFiles, RecoveredFile), LogError> {
        let fault = |source| LogError::File { path: path.to_owned(), source };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(fault)?;
        }
        let mut file = create(path).map_err(fault)?;
        let regular = file.metadata().map_err(fault)?.is_file();
        if regular {
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(LogError::Locked { path: path.to_owned() }),
                Err(TryLockError::Error(source)) => return Err(fault(source)),
            }
        }
        let recovered = if regular { recover(&mut file).map_err(fault)? } else { Some(RecoveredFile::default()) };
        let began = if regular { began(&mut file).map_err(fault)? } else { SystemTime::now() };
        let mut files = LogFiles { path: path.to_owned(), file, began, keep_size, keep_days, regular };
        let recovered = match recovered {
            Some(recovered) => recovered,
            // Its lines have no numbers, so another program wrote it: rotate it instead of appending.
            None => {
                files.rotate().map_err(fault)?;
                RecoveredFile::default()
            }
        };
        files.prune();
        Ok((files, recovered))
    }

    /// Size at which a new file begins, bytes.
    pub(super) fn segment(&self) -> u64 {
        if self.regular { (self.keep_size / SEGMENTS).clamp(SEGMENT_MIN, SEGMENT_MAX) } else { u64::MAX }
    }

    /// Whether a new file must begin before this one is full: it is too old, or it was moved.
    pub(super) fn needs_new_file(&self) -> bool {
        self.regular && (self.began.elapsed().unwrap_or_default() >= DAY || self.moved())
    }

    fn moved(&self) -> bool {
        match (fs::metadata(&self.path), self.file.metadata()) {
            (Ok(there), Ok(here)) => (there.dev(), there.ino()) != (here.dev(), here.ino()),
            (Err(error), _) => error.kind() == io::ErrorKind::NotFound,
            (Ok(_), Err(_)) => false,
        }
    }

    /// Writes as much as the system accepts; returns the number of bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    /// Renames the file and begins a new one. Does not sync the old one: meanwhile the queue would fill
    /// up.
    pub(super) fn rotate(&mut self) -> io::Result<()> {
        if !self.regular {
            return Ok(());
        }
        if self.path.exists() {
            fs::rename(&self.path, self.free_name()?)?;
        }
        let file = create(&self.path)?;
        file.try_lock().map_err(|_| io::Error::other("another process writes to the new file"))?;
        self.file = file;
        self.began = SystemTime::now();
        self.prune();
        Ok(())
    }

    pub(super) fn sync(&self) {
        // A pipe or device cannot be synced.
        let _ = self.file.sync_data();
    }

    fn free_name(&self) -> io::Result<PathBuf> {
        let mut at = jiff::Timestamp::now();
        loop {
            let time = at.strftime("%Y%m%dT%H%M%S.%3fZ");
            let mut name = self.path.file_stem().unwrap_or(OsStr::new("exchanges")).to_owned();
            name.push(format!("-{time}"));
            if let Some(extension) = self.path.extension() {
                name.push(".");
                name.push(extension);
            }
            let path = self.path.with_file_name(name);
            if !path.try_exists()? {
                return Ok(path);
            }
            at += jiff::SignedDuration::from_millis(1);
        }
    }

    /// Removes rotated files beyond the limits. A failure is only logged.
    fn prune(&self) {
        let mut kept = self.segment().min(self.keep_size);
        for RotatedFile { path, time } in self.rotated().into_iter().rev() {
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let age = SystemTime::now().duration_since(time).unwrap_or_default();
            kept = kept.saturating_add(metadata.len());
            let old = self.keep_days > 0 && age >= DAY * self.keep_days;
            if (kept > self.keep_size || old)
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "an old exchange log cannot be removed");
            }
        }
    }

    /// Rotated files, oldest first. Only files with exactly their form of name are touched.
    fn rotated(&self) -> Vec<RotatedFile> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
        let mut rotated: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter_map(|path| self.time_of(&path).map(|time| RotatedFile { path, time }))
            .collect();
        rotated.sort_by_key(|file| file.time);
        rotated
    }

    fn time_of(&self, path: &Path) -> Option<SystemTime> {
        if path.extension() != self.path.extension() {
            return None;
        }
        let stem = self.path.file_stem()?.to_str()?;
        let time = path.file_stem()?.to_str()?.strip_prefix(stem)?.strip_prefix('-')?;
        let parsed = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S%.fZ", time).ok()?;
        jiff::tz::Offset::UTC.to_timestamp(parsed).ok().map(system_time)
    }
}

fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let metadata = file.metadata()?;
    // An existing file may have a wider mode.
    if metadata.is_file() && metadata.permissions().mode() & 0o777 != 0o600 {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// Reads the end of the file. `None` if its last line has no number.
fn recover(file: &mut File) -> io::Result<Option<RecoveredFile>> {
    let length = file.metadata()?.len();
    let Some(end) = last_break(file, length)? else {
        // No complete line.
        return truncate(file, RecoveredFile { seq: 0, bytes: 0, torn: (length > 0).then_some(length) }).map(Some);
    };
    let complete = end + 1;
    let Some(seq) = number_at_end(file, end)? else { return Ok(None) };
    truncate(file, RecoveredFile { seq, bytes: complete, torn: (length > complete).then_some(length - complete) })
        .map(Some)
}

fn truncate(file: &File, recovered: RecoveredFile) -> io::Result<RecoveredFile> {
    if recovered.torn.is_some() {
        file.set_len(recovered.bytes)?;
    }
    Ok(recovered)
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

fn system_time(time: jiff::Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(time.as_millisecond()).unwrap_or(0))
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
