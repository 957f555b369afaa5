//! Reads a whole file through one descriptor.
//!
//! Size and mode that are checked are those of the file that is read, and a file that changes meanwhile
//! is read again. Only regular files are read, so that no FIFO or device makes the reader wait. The content
//! is in buffers that are zeroed when dropped. Fails with [`FileError`], which quotes nothing of the content.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::stamp::Stamp;

/// Maximum size of a file with keys, a token or an age identity, in bytes.
pub(crate) const MAX_KEY_FILE: u64 = 1 << 20;
/// Maximum size of a file with certificates, in bytes: a platform's bundle of roots has 250 KB.
pub(crate) const MAX_CERTIFICATES: u64 = 4 << 20;
/// Attempts to read a file that changes while it is read.
const ATTEMPTS: usize = 3;
/// Mode bits that a private file must not have: readable or writable by others, writable by a group.
const TOO_OPEN: u32 = 0o026;

/// A file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It can't be opened, or reading failed.
    #[error("{}: cannot be read: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    /// Its permissions are too open for what it holds.
    #[error("{}: {}", path.display(), mode_reason(*mode))]
    Mode { path: PathBuf, mode: u32 },
    /// It is not what it should be.
    #[error("{}: {reason}", path.display())]
    Unfit { path: PathBuf, reason: String },
    /// It changed during every attempt to read it, or a moment ago: it may be half written.
    #[error("{}: is being changed", path.display())]
    Changing { path: PathBuf },
}

impl FileError {
    pub(crate) fn unreadable(path: &Path, error: io::Error) -> Self {
        Self::Unreadable { path: path.to_owned(), error }
    }

    pub(crate) fn unfit(path: &Path, reason: impl Into<String>) -> Self {
        Self::Unfit { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn irregular(path: &Path) -> Self {
        Self::unfit(path, "is not a regular file")
    }

    /// What is wrong, without the path.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Unreadable { error, .. } => format!("cannot be read: {error}"),
            Self::Mode { mode, .. } => mode_reason(*mode),
            Self::Unfit { reason, .. } => reason.clone(),
            Self::Changing { .. } => "is being changed".to_owned(),
        }
    }
}

fn mode_reason(mode: u32) -> String {
    format!("mode {mode:04o}: others can read it or a group can write it; chmod 0600")
}

/// A file's content, and the state that the file was in.
pub(crate) struct FileContent {
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    pub(crate) stamp: Stamp,
}

/// Reads a file of at most `max` bytes.
///
/// # Errors
/// [`FileError`], except for its mode.
pub(crate) fn read(path: &Path, max: u64) -> Result<FileContent, FileError> {
    read_unless(0, path, max)
}

/// Reads a file of at most `max` bytes that others must not read or write, nor a group write.
///
/// # Errors
/// [`FileError`]
pub(crate) fn read_private(path: &Path, max: u64) -> Result<FileContent, FileError> {
    read_unless(TOO_OPEN, path, max)
}

/// The content as text.
///
/// # Errors
/// [`FileError::Unfit`] if it isn't UTF-8.
pub(crate) fn text_of(path: &Path, bytes: &[u8]) -> Result<Zeroizing<String>, FileError> {
    let text = std::str::from_utf8(bytes).map_err(|_| FileError::unfit(path, "is not text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Opens a file for reading. Unlike `File::open`, it does not wait until another process opens a FIFO for writing.
pub(super) fn open_without_waiting(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)
}

/// Reads a regular file whose mode has none of the `forbidden` bits.
fn read_unless(forbidden: u32, path: &Path, max: u64) -> Result<FileContent, FileError> {
    let unreadable = |error| FileError::unreadable(path, error);
    for _ in 0..ATTEMPTS {
        let mut file = open_without_waiting(path).map_err(|error| match fs::metadata(path) {
            // A socket can't be opened, and not every directory.
            Ok(meta) if !meta.is_file() => FileError::irregular(path),
            _ => unreadable(error),
        })?;
        let meta = file.metadata().map_err(unreadable)?;
        if !meta.is_file() {
            return Err(FileError::irregular(path));
        }
        let mode = meta.mode() & 0o7777;
        if mode & forbidden != 0 {
            return Err(FileError::Mode { path: path.to_owned(), mode });
        }
        if meta.len() > max {
            return Err(FileError::unfit(path, format!("is larger than {} MiB", max >> 20)));
        }
        let stamp = Stamp::of(&meta);
        // Capacity for one byte more, so that the buffer never grows and leaves a copy behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(max.min(meta.len() + 1) as usize + 32));
        (&mut file).take(meta.len() + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if stamp == Stamp::of(&file.metadata().map_err(unreadable)?) {
            return Ok(FileContent { bytes, stamp });
        }
    }
    Err(FileError::Changing { path: path.to_owned() })
}
