//! The store's thread: takes queued jobs in order, commits adjacent writes together and reports the
//! results.
//!
//! Always holds: a write is reported as done only after its commit; a failed commit fails all its
//! batches; those that must be written are tried again, before all later ones, until they are. A panic of
//! redb during a commit is a failed write. Nothing is written to a file that is no longer the one at the
//! store's path. It does not know what a row means.

use std::{
    collections::VecDeque,
    fmt,
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use parking_lot::{MappedRwLockReadGuard, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use redb::{Database, Durability};
use tokio::sync::oneshot;

use super::{
    error::{OpenError, StoreError},
    folder::{FileLoss, StoreFile},
    running_time::RunningInstant,
    table::WriteBatch,
};

/// Batches per commit: bounds the memory of a transaction and the wait of its first batch.
const MAX_GROUP: usize = 1024;

/// Size of the rows beyond which a commit takes no further batch, bytes: redb holds what a transaction writes, in pages of up
/// to twice the size of a row.
const MAX_GROUP_BYTES: usize = 1 << 20;

/// How often the thread checks the file and tries failed writes again.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

type OnWritten = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
type ReadFn = Box<dyn FnOnce(Result<&Database, StoreError>) + Send>;

pub(super) enum StoreJob {
    Write(QueuedWrite),
    Read(ReadFn),
    Copy(File, oneshot::Sender<Result<u64, StoreError>>),
    Close(oneshot::Sender<()>),
}

pub(super) struct QueuedWrite {
    batch: WriteBatch,
    /// Whether it is tried again after a failure, until it is written.
    until_written: bool,
    done: OnWritten,
}

impl StoreJob {
    pub(super) fn write(batch: WriteBatch, until_written: bool, done: OnWritten) -> StoreJob {
        StoreJob::Write(QueuedWrite { batch, until_written, done })
    }
}

impl fmt::Debug for StoreJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StoreJob::Write(_) => "Write",
            StoreJob::Read(_) => "Read",
            StoreJob::Copy(..) => "Copy",
            StoreJob::Close(_) => "Close",
        })
    }
}

/// The state of the thread, readable through every handle.
#[derive(Debug)]
pub(super) struct StoreHealth {
    /// Name of the file.
    file: &'static str,
    failing: AtomicBool,
    /// Why, if it is the file.
    loss: Mutex<Option<FileLoss>>,
    /// The thread has ended.
    ended: AtomicBool,
    /// The last read of a [`StoreReader`](super::StoreReader) failed.
    unreadable: AtomicBool,
    /// What one of them has found to be damaged. It stays so.
    damage: Mutex<Option<String>>,
    commits: AtomicU64,
    /// Since when the thread has used the file; `None`: it waits for work.
    busy_since: Mutex<Option<RunningInstant>>,
    /// Since when a lookup has used the file; `None`: there is none.
    lookup_since: Mutex<Option<RunningInstant>>,
}

/// How long one commit or read in `state.dir` may take before its disk counts as one that does not respond. Pauses of the
/// process do not count.
pub const SLOW: Duration = Duration::from_secs(2);

impl StoreHealth {
    pub(super) fn of(file: &'static str) -> Self {
        StoreHealth {
            file,
            failing: AtomicBool::new(false),
            loss: Mutex::new(None),
            ended: AtomicBool::new(false),
            unreadable: AtomicBool::new(false),
            damage: Mutex::new(None),
            commits: AtomicU64::new(0),
            busy_since: Mutex::new(None),
            lookup_since: Mutex::new(None),
        }
    }

    pub(super) fn is_healthy(&self) -> bool {
        !self.failing.load(Ordering::Relaxed)
    }

    /// Why it cannot be written or read; `None`: it can.
    pub(super) fn failure(&self) -> Option<String> {
        let (file, loss) = (self.file, *self.loss.lock());
        if self.is_slow() {
            return Some(format!("the disk of {file} does not respond"));
        }
        if self.is_healthy() {
            let unreadable = self.unreadable.load(Ordering::Relaxed);
            let unreadable = unreadable.then(|| format!("the last read of {file} failed"));
            let damage = || self.damage.lock().as_ref().map(|damage| format!("{file} is damaged: {damage}"));
            return unreadable.or_else(damage);
        }
        Some(loss.map_or_else(|| format!("the last write of {file} failed"), |loss| format!("{file} {loss}")))
    }

    /// Whether the disk does not respond.
    pub(super) fn is_slow(&self) -> bool {
        self.lookups_are_slow() || self.busy_since.lock().is_some_and(|since| since.elapsed() > SLOW)
    }

    /// Whether a lookup waits for a disk that does not respond, and so do all after it.
    pub(super) fn lookups_are_slow(&self) -> bool {
        self.lookup_since.lock().is_some_and(|since| since.elapsed() > SLOW)
    }

    fn set_busy(&self, busy: bool) {
        *self.busy_since.lock() = busy.then(RunningInstant::now);
    }

    pub(super) fn set_looking_up(&self, looking_up: bool) {
        *self.lookup_since.lock() = looking_up.then(RunningInstant::now);
    }

    /// A lookup has ended.
    pub(super) fn looked_up<T>(&self, result: &Result<T, StoreError>) {
        if matches!(result, Err(StoreError::Closed)) {
            return;
        }
        match (result, self.unreadable.swap(result.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => tracing::error!(file = self.file, %error, "the state store cannot be read"),
            (Ok(_), true) => tracing::info!(file = self.file, "the state store can be read again"),
            (Err(_), true) | (Ok(_), false) => {}
        }
    }

    /// A lookup has found damage.
    pub(super) fn found_damage(&self, damage: &str) {
        let mut known = self.damage.lock();
        if known.is_none() {
            tracing::error!(
                file = self.file,
                damage,
                "the state store is damaged; stop the gateway, and restore a copy"
            );
            *known = Some(damage.to_owned());
        }
    }

    pub(super) fn runs(&self) -> bool {
        !self.ended.load(Ordering::Relaxed)
    }

    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }
}

/// The file and the database in it. The writer replaces them; readers use them meanwhile.
pub(super) struct OpenedStore {
    file: Box<dyn StoreFile>,
    /// `None` after a failed write: redb refuses everything from then on, so the file is reopened.
    database: Option<Database>,
    /// Whether it was closed for good.
    closed: bool,
}

impl OpenedStore {
    /// The database; an error if it is not open, or its file is lost.
    pub(super) fn database(&self) -> Result<&Database, StoreError> {
        self.file.check().map_err(|lost| StoreError::failed(&lost))?;
        let absent =
            || if self.closed { StoreError::Closed } else { StoreError::Failed("the last write failed".into()) };
        self.database.as_ref().ok_or_else(absent)
    }
}

pub(super) struct StoreWriter {
    opened: Arc<RwLock<OpenedStore>>,
    /// Failed writes that are tried again, in their order.
    unwritten: Vec<QueuedWrite>,
    health: Arc<StoreHealth>,
}

impl StoreWriter {
    pub(super) fn open(mut file: Box<dyn StoreFile>, health: Arc<StoreHealth>) -> Result<Self, OpenError> {
        let database = Some(file.open()?);
        let opened = Arc::new(RwLock::new(OpenedStore { file, database, closed: false }));
        Ok(StoreWriter { opened, unwritten: Vec::new(), health })
    }

    pub(super) fn opened(&self) -> Arc<RwLock<OpenedStore>> {
        Arc::clone(&self.opened)
    }

    /// Runs until the last handle is dropped or the store is closed.
    pub(super) fn run(mut self, queue: &Receiver<StoreJob>) {
        let _mark = MarkClosed(Arc::clone(&self.health));
        loop {
            let mut next = match queue.recv_timeout(CHECK_INTERVAL) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => {
                    self.health.set_busy(true);
                    self.check();
                    self.health.set_busy(false);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            self.health.set_busy(true);
            let mut writes = Vec::new();
            while let Some(StoreJob::Write(write)) = next {
                writes.push(write);
                next = if writes.len() < MAX_GROUP { queue.try_recv().ok() } else { None };
            }
            self.commit(writes);
            match next {
                Some(StoreJob::Read(read)) => read(self.database().as_deref().map_err(Clone::clone)),
                Some(StoreJob::Copy(to, copied)) => {
                    // It may take long, and the disk responds meanwhile.
                    self.health.set_busy(false);
                    let _ = copied.send(self.copy(to));
                }
                Some(StoreJob::Close(closed)) => {
                    // Releases the locks before the close is reported.
                    self.close_database();
                    drop(self);
                    let _ = closed.send(());
                    return;
                }
                Some(StoreJob::Write(_)) | None => {}
            }
            self.health.set_busy(false);
        }
        self.commit(Vec::new());
        self.close_database();
    }

    /// redb writes to its file once more when it is dropped, which a lost file must not see.
    fn close_database(&mut self) {
        let mut opened = self.opened.write();
        let database = opened.database.take();
        opened.closed = true;
        if opened.file.check().is_err() {
            std::mem::forget(database);
        }
    }

    /// Without anything to do: tries failed writes again, and finds out whether the file is lost.
    fn check(&mut self) {
        if !self.unwritten.is_empty() {
            return self.commit(Vec::new());
        }
        let failing = !self.health.is_healthy();
        // An empty transaction shows whether the disk writes again.
        let result = self
            .database()
            .and_then(|database| if failing { write_caught(&database, &[], self.quick_repair()) } else { Ok(()) });
        if failing || result.is_err() {
            self.update_health(&result);
        }
    }

    /// The database, opened again if necessary.
    fn database(&self) -> Result<MappedRwLockReadGuard<'_, Database>, StoreError> {
        let mut opened = self.opened.read();
        opened.file.check().map_err(|lost| StoreError::failed(&lost))?;
        if opened.database.is_none() {
            drop(opened);
            let mut reopened = self.opened.write();
            reopened.database = Some(reopened.file.open().map_err(|error| StoreError::failed(&error))?);
            opened = RwLockWriteGuard::downgrade(reopened);
        }
        RwLockReadGuard::try_map(opened, |opened| opened.database.as_ref()).map_err(|_| StoreError::Closed)
    }

    /// Copies the file between two commits: it is as a kill would leave it. Returns its size.
    fn copy(&self, mut to: File) -> Result<u64, StoreError> {
        drop(self.database()?);
        let opened = self.opened.read();
        let copied = opened.file.copy(&mut to).map_err(|error| StoreError::failed(&error))?;
        opened.file.check().map_err(|lost| StoreError::failed(&lost))?;
        Ok(copied)
    }

    fn quick_repair(&self) -> bool {
        self.opened.read().file.kind().quick_repair()
    }

    /// Writes what could not be written before, and `new`. If a transaction fails, none of those after it is begun.
    fn commit(&mut self, new: Vec<QueuedWrite>) {
        let mut left: VecDeque<_> = std::mem::take(&mut self.unwritten).into_iter().chain(new).collect();
        while !left.is_empty() {
            let group: Vec<_> = left.drain(..group_length(&left)).collect();
            let result = self.database().and_then(|database| write_caught(&database, &group, self.quick_repair()));
            if result.is_ok() {
                self.health.commits.fetch_add(1, Ordering::Relaxed);
            }
            self.update_health(&result);
            let failed = if result.is_err() { std::mem::take(&mut left) } else { VecDeque::new() };
            for queued in group.into_iter().chain(failed) {
                if result.is_err() && queued.until_written {
                    self.unwritten.push(queued);
                } else {
                    let QueuedWrite { batch, done, .. } = queued;
                    drop(batch);
                    done(result.clone());
                }
            }
        }
    }

    fn update_health(&mut self, result: &Result<(), StoreError>) {
        match result {
            Ok(()) => {
                if self.health.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!(file = self.health.file, "the state store can be written again");
                }
            }
            Err(error) => {
                let loss = self.opened.read().file.check().err().map(|lost| lost.loss);
                // A lost file may come back.
                if loss.is_none() {
                    self.opened.write().database = None;
                }
                *self.health.loss.lock() = loss;
                if !self.health.failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(file = self.health.file, %error, "the state store cannot be written");
                }
            }
        }
    }
}

/// How many of these writes are in the next transaction: at least one.
fn group_length(writes: &VecDeque<QueuedWrite>) -> usize {
    let mut bytes = 0;
    let has_room = |write: &&QueuedWrite| {
        let before = bytes;
        bytes += write.batch.size();
        before < MAX_GROUP_BYTES
    };
    writes.iter().take(MAX_GROUP).take_while(has_room).count()
}

/// Marks the store as unhealthy when its thread ends, also by a panic.
struct MarkClosed(Arc<StoreHealth>);

impl Drop for MarkClosed {
    fn drop(&mut self) {
        self.0.failing.store(true, Ordering::Relaxed);
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

fn write_caught(database: &Database, group: &[QueuedWrite], quick_repair: bool) -> Result<(), StoreError> {
    catch_unwind(AssertUnwindSafe(|| write(database, group, quick_repair)))
        .unwrap_or_else(|_| Err(StoreError::Failed("a write panicked".into())))
}

fn write(database: &Database, group: &[QueuedWrite], quick_repair: bool) -> Result<(), StoreError> {
    let commit = || -> Result<(), redb::Error> {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.set_quick_repair(quick_repair);
        for write in group {
            write.batch.apply(&transaction)?;
        }
        transaction.commit()?;
        Ok(())
    };
    commit().map_err(|error| StoreError::failed(&error))
}
