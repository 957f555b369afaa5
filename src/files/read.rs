//! Reads a whole file through one descriptor.
//!
//! Size and mode that are checked are those of the file that is read, and a file that changes meanwhile
//! is read again. Only regular files are read, so that no FIFO or device makes the reader wait; what an operator names
//! on the command line may be a pipe, too, which must not be silent ([`read_input`]). A disk that does not respond is
//! waited for up to `deadline::DEADLINE`. The content is in buffers that are zeroed when dropped. Fails with
//! [`FileError`], which quotes nothing of the content.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
};
use zeroize::Zeroizing;

use super::{
    deadline::{steps_within_deadline, within_deadline},
    stamp::Stamp,
};

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

/// Flag for opening a file: does not wait until another process opens a FIFO.
pub(crate) const WITHOUT_WAITING: i32 = OFlags::NONBLOCK.bits().cast_signed();

/// Opens a file for reading. Unlike `File::open`, it does not wait until another process opens a FIFO for writing.
pub(super) fn open_without_waiting(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(WITHOUT_WAITING).open(path)
}

/// Reads a file of the gateway's own.
///
/// # Errors
/// The system's; [`io::ErrorKind::InvalidInput`] if it is no regular file: a FIFO would keep a start waiting.
pub(crate) fn read_own(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = open_without_waiting(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no regular file", path.display())));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a regular file, or a pipe such as `/dev/stdin`, of at most `max` bytes. A pipe that no process has opened for
/// writing is an error, and so is one to which nothing is written for [`PIPE_SILENCE`].
///
/// # Errors
/// It cannot be opened or read, it is something else, or it is longer.
pub(crate) fn read_input(path: &Path, max: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let owned = path.to_owned();
    within_deadline(path, move || read_input_now(&owned, max)).unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
}

fn read_input_now(path: &Path, max: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut file = open_without_waiting(path)?;
    let kind = file.metadata()?.file_type();
    let mut bytes = Zeroizing::new(Vec::new());
    if kind.is_file() {
        (&mut file).take(max + 1).read_to_end(&mut bytes)?;
    } else if kind.is_fifo() {
        read_pipe(&mut file, max, &mut bytes)?;
    } else {
        return Err(io::Error::other("it is not a regular file"));
    }
    match bytes.len() as u64 {
        0 if kind.is_fifo() => Err(io::Error::other("it is a pipe, and nothing is written to it")),
        length if length > max => Err(io::Error::other(format!("it is larger than {} KiB", max >> 10))),
        _ => Ok(bytes),
    }
}

/// How long a pipe may be silent.
const PIPE_SILENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Reads a pipe that does not block to its end, or one byte more than `max`.
fn read_pipe(pipe: &mut File, max: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut part = Zeroizing::new([0_u8; 16 << 10]);
    while bytes.len() as u64 <= max {
        match pipe.read(&mut *part) {
            Ok(0) => return Ok(()),
            Ok(length) => bytes.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let ready = poll(&mut [PollFd::new(&*pipe, PollFlags::IN)], Some(&PIPE_SILENCE));
                if matches!(ready, Ok(0)) {
                    return Err(io::Error::other("it is a pipe, and nothing was written to it for 5 s"));
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Does several things with a file, or with a folder and what is in it, of which some may ask about it or write it. A disk
/// that does not respond is waited for up to `deadline::STEPS_DEADLINE` in all.
///
/// # Errors
/// Those of `steps`, or they take too long.
pub(crate) fn in_time<T: Send + 'static, E: From<FileError> + Send + 'static>(
    path: &Path,
    steps: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    let late = || Err(FileError::unreadable(path, io::ErrorKind::TimedOut.into()).into());
    steps_within_deadline(path, steps).unwrap_or_else(late)
}

/// Reads a regular file whose mode has none of the `forbidden` bits.
fn read_unless(forbidden: u32, path: &Path, max: u64) -> Result<FileContent, FileError> {
    let owned = path.to_owned();
    let read = within_deadline(path, move || read_now(forbidden, &owned, max));
    read.unwrap_or_else(|| Err(FileError::unreadable(path, io::ErrorKind::TimedOut.into())))
}

fn read_now(forbidden: u32, path: &Path, max: u64) -> Result<FileContent, FileError> {
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
