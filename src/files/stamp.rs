//! What tells one state of a file from another, without reading it.
//!
//! Device, inode, size, and the times of its last change: a file that is edited, put in another's place,
//! or reached through a link that was swapped has another stamp.

use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The state that a file is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    file: (u64, u64, u64),
    /// Of its content, as seconds and nanoseconds since 1970.
    modified: (i64, i64),
    /// Of its content, its mode or its name.
    changed: (i64, i64),
}

impl Stamp {
    /// Of a file whose metadata are known.
    pub(crate) fn of(meta: &Metadata) -> Self {
        Self {
            file: (meta.dev(), meta.ino(), meta.size()),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Of the file that a path leads to; `None`: it can't be seen.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|meta| Self::of(&meta))
    }

    /// How long ago the file was last written or put in its place. A clock that was put back counts as
    /// long ago: else a file would be taken for one that is being written for as long.
    pub(crate) fn age(&self) -> Duration {
        let (seconds, nanos) = self.changed;
        let at = UNIX_EPOCH + Duration::new(seconds.max(0).unsigned_abs(), nanos.clamp(0, 999_999_999) as u32);
        SystemTime::now().duration_since(at).unwrap_or(Duration::MAX)
    }
}
