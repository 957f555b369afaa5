//! The files of one log: lines are numbered, appended to the current one, and it is rotated.
//!
//! Always holds: one process writes at a time (the file is locked). A file has gap-free numbers from 1; an existing
//! one is continued, and a torn last line is cut off and reported. Before each write the file is compared with its
//! name and its length: if it was moved, removed or replaced, lines go to the file that now has the name; if it was
//! truncated, an event says so. A full or old file is renamed to `<name>-<time>.<extension>`. Files have mode 0600,
//! created folders 0700. Opening fails with [`LogError`], writing with the system's error.

use std::{
    fs::{self, File},
    io,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    current::{self, CurrentFile, FileChange, OpenedFile},
    error::LogError,
    limits::Kept,
    lines,
    rotated::{DAY, RotatedFiles},
    steady_clock::SteadyClock,
};

/// How often files that are too old are looked for while no file is rotated.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);

/// Size of what is written at once, bytes; one line may exceed it.
const WRITE_SIZE: usize = 256 * 1024;

/// The current file, and the rotated ones.
pub(super) struct LogFiles {
    files: RotatedFiles,
    current: CurrentFile,
    /// Events for the beginning of the next write, as queued lines.
    events: Vec<u8>,
    /// Numbered lines; kept for reuse.
    numbered: Vec<u8>,
    pruned: Instant,
    /// How much was kept then.
    pruned_to: Kept,
    /// Decides which files are too old.
    clock: SteadyClock,
}

/// What is at the path of a log.
pub(super) enum OpenedLog {
    Files(Box<LogFiles>),
    /// A pipe or device, which is neither numbered across restarts nor rotated.
    Special(File),
}

/// How much of a chunk was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WrittenLines {
    /// Bytes of the chunk.
    pub(super) bytes: usize,
    /// Lines of requests.
    pub(super) records: u64,
}

/// Opens the files of a log.
///
/// # Errors
/// If they cannot be opened, another process writes to them, or the file is not a log.
pub(super) fn open(files: RotatedFiles) -> Result<OpenedLog, LogError> {
    let opened = judged(&files.path, || open_current(&files))?;
    Ok(match opened {
        Current::Own(current, events) => {
            // If even the newest line is too old, it may be the clock that is wrong.
            let plausible = !current.last_written().is_some_and(|written| files.is_old(written));
            let clock = SteadyClock::start(plausible);
            let (numbered, pruned, pruned_to) = (Vec::new(), Instant::now(), files.kept());
            let mut files = LogFiles { files, current, events, numbered, pruned, pruned_to, clock };
            files.prune();
            OpenedLog::Files(Box::new(files))
        }
        Current::Special(file) => OpenedLog::Special(file),
    })
}

/// Whether the files of a log can be opened, without that.
///
/// # Errors
/// What [`open`] would fail with.
pub(super) fn usable(path: &Path) -> Result<(), LogError> {
    judged(path, || current::usable(path))
}

/// Opens what may be a log.
fn judged<T>(path: &Path, open: impl FnOnce() -> io::Result<T>) -> Result<T, LogError> {
    let fault = |source| LogError::File { path: path.to_owned(), source };
    if !current::may_be_log(path).map_err(fault)? {
        return Err(fault(io::Error::other("it is not an exchange log: name another file")));
    }
    open().map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => LogError::Locked { path: path.to_owned() },
        _ => fault(source),
    })
}

enum Current {
    /// And the event for a torn line.
    Own(CurrentFile, Vec<u8>),
    Special(File),
}

/// Opens the current file; one that is not a log of the gateway is put aside.
fn open_current(files: &RotatedFiles) -> io::Result<Current> {
    loop {
        match current::open(&files.path)? {
            OpenedFile::Own { file, torn: 0 } => return Ok(Current::Own(file, Vec::new())),
            OpenedFile::Own { file, torn } => return Ok(Current::Own(file, lines::event("torn", "bytes", torn))),
            OpenedFile::Special(file) => return Ok(Current::Special(file)),
            OpenedFile::Foreign => fs::rename(&files.path, files.free_name()?)?,
        }
    }
}

impl LogFiles {
    /// Numbers and appends the first lines of a chunk, as many as the file has room for; returns how many. Events that
    /// wait are written first, also with an empty chunk.
    ///
    /// # Errors
    /// The system's, if nothing was written.
    pub(super) fn write(&mut self, chunk: &[u8]) -> io::Result<WrittenLines> {
        let first = lines::split(chunk).next().map_or(0, lines::numbered_length);
        self.prepare(first)?;
        let (mut out, mut seq) = (std::mem::take(&mut self.numbered), self.current.seq);
        out.clear();
        for line in lines::split(&self.events) {
            seq += 1;
            lines::number(&mut out, line, seq);
        }
        let events = seq - self.current.seq;
        for (index, line) in lines::split(chunk).enumerate() {
            let size = self.current.bytes + out.len() as u64 + lines::numbered_length(line);
            if index > 0 && (size > self.files.segment() || out.len() >= WRITE_SIZE) {
                break;
            }
            seq += 1;
            lines::number(&mut out, line, seq);
        }
        let appended = self.current.append(&out);
        let whole = memchr::memchr_iter(b'\n', &out[..*appended.as_ref().unwrap_or(&0)]).count() as u64;
        out.clear();
        out.shrink_to(2 * WRITE_SIZE);
        self.numbered = out;
        appended?;
        self.current.seq += whole;
        if whole < events {
            // Rare enough that the event may be written twice.
            return Ok(WrittenLines::default());
        }
        self.events.clear();
        let written = lines::split(chunk).take((whole - events) as usize);
        let bytes = written.map(<[u8]>::len).sum();
        Ok(WrittenLines { bytes, records: lines::count_records(&chunk[..bytes]) })
    }

    /// Makes the current file one that a line of this length can be appended to.
    ///
    /// # Errors
    /// The system's.
    fn prepare(&mut self, next: u64) -> io::Result<()> {
        // Each time, so that no jump is missed.
        self.clock.now();
        match self.current.change(&self.files.path)? {
            FileChange::None => {}
            // A line that something else has appended has no number, so the file is put aside.
            FileChange::Elsewhere | FileChange::Longer => self.reopen()?,
            FileChange::Shorter(bytes) => {
                self.reopen()?;
                self.events.extend(lines::event("truncated", "bytes", bytes));
            }
        }
        let current = &self.current;
        let full = current.bytes + self.events.len() as u64 + next > self.files.segment();
        let old = current.began.elapsed().unwrap_or_default() >= DAY;
        if current.bytes > 0 && (full || old) {
            self.rotate()?;
        } else if self.pruned.elapsed() >= PRUNE_INTERVAL || self.pruned_to != self.files.kept() {
            self.prune();
        }
        Ok(())
    }

    /// Renames the file and begins a new one. Does not sync the old one: meanwhile the queue would fill up.
    fn rotate(&mut self) -> io::Result<()> {
        fs::rename(&self.files.path, self.files.free_name()?)?;
        self.reopen()?;
        self.prune();
        Ok(())
    }

    /// Opens the file that has the name now.
    fn reopen(&mut self) -> io::Result<()> {
        // Releases the lock: it may be the same file.
        self.current.unlock();
        match open_current(&self.files)? {
            Current::Own(file, events) => {
                self.current = file;
                self.events.extend(events);
                Ok(())
            }
            Current::Special(_) => Err(io::Error::other("a pipe or device has taken its place")),
        }
    }

    fn prune(&mut self) {
        (self.pruned, self.pruned_to) = (Instant::now(), self.files.kept());
        let now = self.clock.now();
        self.files.prune(now);
    }

    pub(super) fn sync(&self) {
        self.current.sync();
    }
}
