//! The rotated files beside the current one: their names, and which of them are removed.
//!
//! Always holds: names are in the order of rotation, whatever the clock does, and no existing file gets one. Only
//! files with exactly this form of name are touched, compressed ones included. Removing fails silently, but for a
//! line in the program's log; naming fails with the system's error.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::limits::{Kept, LogLimits};

/// Endings that a compressed file may have after its name.
const COMPRESSED: [&str; 5] = [".gz", ".zst", ".xz", ".bz2", ".lz4"];

/// One day.
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// Number of files that the total size is divided into.
const SEGMENTS: u64 = 8;
/// Bytes.
const SEGMENT_MAX: u64 = 128 * 1024 * 1024;
/// Bytes.
const SEGMENT_MIN: u64 = 4 * 1024;

/// The files of one log, and their limits.
pub(super) struct RotatedFiles {
    /// Of the current file.
    pub(super) path: PathBuf,
    pub(super) limits: Arc<LogLimits>,
    /// These files have this part of the size: 1 divided by it.
    pub(super) part: u64,
}

struct RotatedFile {
    path: PathBuf,
    /// From its name.
    time: jiff::Timestamp,
}

impl RotatedFiles {
    /// How much of them is kept at the moment.
    pub(super) fn kept(&self) -> Kept {
        let Kept { size, days } = self.limits.get();
        Kept { size: size / self.part, days }
    }

    /// Whether a file that was written to at this time is older than files may become.
    pub(super) fn is_old(&self, written: SystemTime) -> bool {
        let days = self.kept().days;
        days > 0 && written.elapsed().unwrap_or_default() >= DAY * days
    }

    /// Size at which a new file begins, bytes.
    pub(super) fn segment(&self) -> u64 {
        (self.kept().size / SEGMENTS).clamp(SEGMENT_MIN, SEGMENT_MAX)
    }

    /// Name for the file that is rotated now: later than those of all others.
    pub(super) fn free_name(&self) -> io::Result<PathBuf> {
        let tick = jiff::SignedDuration::from_millis(1);
        let mut at = jiff::Timestamp::now();
        if let Some(newest) = self.list().last() {
            at = at.max(newest.time.saturating_add(tick).unwrap_or(at));
        }
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
            at += tick;
        }
    }

    /// Removes files beyond the limits. Without a time, none is too old.
    pub(super) fn prune(&self, now: Option<SystemTime>) {
        let Kept { size, days } = self.kept();
        let mut kept = self.segment().min(size);
        for RotatedFile { path, time } in self.list().into_iter().rev() {
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let age = now.and_then(|now| now.duration_since(system_time(time)).ok()).unwrap_or_default();
            kept = kept.saturating_add(metadata.len());
            let old = days > 0 && age >= DAY * days;
            if (kept > size || old)
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "an old exchange log cannot be removed");
            }
        }
    }

    /// The rotated files, oldest first.
    fn list(&self) -> Vec<RotatedFile> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
        let mut rotated: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter_map(|path| self.time_of(&path).map(|time| RotatedFile { path, time }))
            .collect();
        rotated.sort_by_key(|file| file.time);
        rotated
    }

    /// The time in a file's name; `None`: it is none of these files.
    fn time_of(&self, path: &Path) -> Option<jiff::Timestamp> {
        let name = path.file_name()?.to_str()?;
        let name = COMPRESSED.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
        let time = name.strip_prefix(self.path.file_stem()?.to_str()?)?.strip_prefix('-')?;
        let time = match self.path.extension() {
            None => time,
            Some(extension) => time.strip_suffix(extension.to_str()?)?.strip_suffix('.')?,
        };
        let parsed = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S%.fZ", time).ok()?;
        jiff::tz::Offset::UTC.to_timestamp(parsed).ok()
    }
}

pub(super) fn system_time(time: jiff::Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(time.as_millisecond()).unwrap_or(0))
}
