//! Distinguishes states of a file without reading it.
//!
//! By device, inode, size and times of change: a file that is edited, replaced, or reached through a link
//! that was swapped has another stamp.

use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The state of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    file: (u64, u64, u64),
    /// Last change of the content, in seconds and nanoseconds since 1970.
    modified: (i64, i64),
    /// Last change of content, mode or name, likewise.
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(meta: &Metadata) -> Self {
        Self {
            file: (meta.dev(), meta.ino(), meta.size()),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Of the file that a path leads to; `None`: there is none, or it can't be accessed.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|meta| Self::of(&meta))
    }

    /// Time since the file was last written or renamed. If that is in the future, because the clock was set
    /// back, the file counts as old: otherwise it would be taken for one that is being written.
    pub(crate) fn age(&self) -> Duration {
        let (seconds, nanos) = self.changed;
        let at = UNIX_EPOCH + Duration::new(seconds.max(0).unsigned_abs(), nanos.clamp(0, 999_999_999) as u32);
        SystemTime::now().duration_since(at).unwrap_or(Duration::MAX)
    }
}
