//! The store's file as redb uses it, which knows how long the file must be.
//!
//! Another program may shorten the file between two writes. redb would go on writing then, its pages would lie in a file
//! whose other pages are zero, and the loss would show only at the next start. Always holds: nothing is written, and no
//! commit succeeds, while the file is shorter than redb has made it. Fails with the system's errors, and with one of its
//! own for such a file. It must not know what redb writes.

use std::{
    fs::File,
    io,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use redb::{BackendError, DatabaseError, StorageBackend, backends::FileBackend};

/// How long the file must be at least, bytes; 0 before it is opened.
pub(super) type LengthDue = Arc<AtomicU64>;

type LockBound = Bound<u64>;

#[derive(Debug)]
pub(super) struct TrackedFile {
    backend: FileBackend,
    /// The same file, to ask for its length.
    file: File,
    due: LengthDue,
}

impl TrackedFile {
    /// # Errors
    /// The system's.
    pub(super) fn new(file: File, due: LengthDue) -> Result<Self, DatabaseError> {
        let io = |error: io::Error| DatabaseError::Storage(error.into());
        let (asked, length) = (file.try_clone().map_err(io)?, file.metadata().map_err(io)?.len());
        due.store(length, Ordering::Relaxed);
        Ok(TrackedFile { backend: FileBackend::new(file)?, file: asked, due })
    }

    fn check(&self) -> io::Result<()> {
        if self.file.metadata()?.len() < self.due.load(Ordering::Relaxed) {
            return Err(io::Error::other("the file was shortened while it was in use"));
        }
        Ok(())
    }
}

impl StorageBackend for TrackedFile {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.backend.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        // Never more than it is, for those who look meanwhile.
        self.due.fetch_min(len, Ordering::Relaxed);
        self.backend.set_len(len)?;
        self.due.store(len, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.backend.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    fn try_lock_range(&self, start: LockBound, end: LockBound) -> Result<bool, BackendError> {
        self.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: LockBound, end: LockBound) -> Result<bool, BackendError> {
        self.backend.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: LockBound, end: LockBound) -> Result<(), BackendError> {
        self.backend.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: LockBound, end: LockBound) -> Result<(), BackendError> {
        self.backend.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: LockBound, end: LockBound) -> Result<(), BackendError> {
        self.backend.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: LockBound, end: LockBound) -> Result<bool, BackendError> {
        self.backend.query_lock_range(start, end)
    }
}
