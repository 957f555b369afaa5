//! The exchange log: a bounded queue of finished lines and the thread that writes them.
//!
//! Lines are formatted by whoever finished the request, straight into bytes; the queue is one
//! buffer, so a line is one copy, and the thread is woken a few times a second, not for each line.
//! Every line of a file has a `seq`, gap-free from 1: numbers are given when a line enters the
//! queue, what enters is written in that order, and where a new file begins is decided there too.
//! What finds no room is counted, and the gap is written as `{"event":"dropped",…}`. A write that
//! fails is tried again while the queue fills up. Knows no record, only lines.

mod file;
mod queue;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::{
    file::LogFiles,
    queue::{CAPACITY, LineCounters, Queue, UNIT},
    writer::{LogOutput, LogWriter},
};
use super::Metrics;
use crate::config::{LogConfig, LogTarget, OnFull};

/// How long [`ExchangeLog::close`] waits for a target that takes nothing.
const CLOSING: Duration = Duration::from_secs(5);

/// Why the log can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The folder or the file can't be made, read or written.
    #[error("exchange log {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process writes it.
    #[error("exchange log {path}: another process writes to it")]
    Locked {
        /// Which.
        path: PathBuf,
    },
    /// No thread could be started.
    #[error("exchange log: its thread can't be started: {0}")]
    Thread(std::io::Error),
}

/// No place in the queue until the deadline.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the exchange log can't keep up")]
pub struct QueueFull;

/// A place in the queue for one line (`on_full = "block"`). Given back when dropped unused.
#[derive(Debug)]
pub struct LogReservation(Option<OwnedSemaphorePermit>);

/// The log. Cheap to clone; all clones are one log. It outlives configuration snapshots.
#[derive(Clone)]
pub struct ExchangeLog {
    shared: Option<Arc<SharedQueue>>,
}

impl std::fmt::Debug for ExchangeLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExchangeLog").field("writes", &self.writes()).finish()
    }
}

/// What path and thread share.
struct SharedQueue {
    queue: Mutex<Queue>,
    /// The queue is no longer empty, long enough, or closing.
    filled: Condvar,
    /// The thread has ended.
    ended: Condvar,
    counters: LineCounters,
    /// Room in the queue in [`UNIT`]s, where lines reserve it.
    room: Option<Arc<Semaphore>>,
}

impl ExchangeLog {
    /// Opens the target and starts the thread. A torn last line is cut off and told of.
    ///
    /// # Errors
    /// If the target can't be opened, or another process has it.
    pub fn open(config: &LogConfig, metrics: &Arc<Metrics>) -> Result<ExchangeLog, LogError> {
        let mut queue = Queue::new();
        let output = match &config.exchanges {
            LogTarget::None => return Ok(ExchangeLog::none()),
            LogTarget::Stdout => LogOutput::Stdout,
            LogTarget::File(path) => {
                let (files, found) = LogFiles::open(path, config.keep_size, config.keep_days)?;
                queue.go_on(found, files.segment());
                LogOutput::LogFiles(files)
            }
        };
        ExchangeLog::start(queue, output, config.on_full, metrics)
    }

    /// No log at all.
    pub fn none() -> ExchangeLog {
        ExchangeLog { shared: None }
    }

    fn start(
        queue: Queue,
        output: LogOutput,
        on_full: OnFull,
        metrics: &Arc<Metrics>,
    ) -> Result<ExchangeLog, LogError> {
        let shared = Arc::new(SharedQueue {
            queue: Mutex::new(queue),
            filled: Condvar::new(),
            ended: Condvar::new(),
            counters: LineCounters::new(Arc::clone(metrics)),
            room: (on_full == OnFull::Block).then(|| Arc::new(Semaphore::new(CAPACITY / UNIT))),
        });
        let writer = LogWriter::new(Arc::clone(&shared), output);
        let thread = std::thread::Builder::new().name("exchange-log".into());
        thread.spawn(move || writer.run()).map_err(LogError::Thread)?;
        Ok(ExchangeLog { shared: Some(shared) })
    }

    /// Whether lines go anywhere.
    pub fn writes(&self) -> bool {
        self.shared.is_some()
    }

    /// A place for one line; waits for it only if `on_full = "block"`.
    ///
    /// # Errors
    /// [`QueueFull`] if there is none until the deadline.
    pub async fn reserve(&self, deadline: Instant) -> Result<LogReservation, QueueFull> {
        let Some(room) = self.shared.as_ref().and_then(|shared| shared.room.as_ref()) else {
            return Ok(LogReservation(None));
        };
        if let Ok(permit) = Arc::clone(room).try_acquire_owned() {
            return Ok(LogReservation(Some(permit)));
        }
        let wait = Arc::clone(room).acquire_owned();
        match Box::pin(tokio::time::timeout_at(deadline.into(), wait)).await {
            Ok(Ok(permit)) => Ok(LogReservation(Some(permit))),
            Ok(Err(_)) | Err(_) => Err(QueueFull),
        }
    }

    /// Takes a line, an object without its end: `,"seq":N}` and the line break are added.
    pub(super) fn append(&self, line: &[u8], place: Option<LogReservation>) {
        let Some(shared) = &self.shared else { return };
        let permit = place.and_then(|place| place.0);
        let mut queue = shared.queue.lock();
        if !queue.append(line, permit.is_some()) {
            drop(queue);
            shared.counters.dropped(1);
            return;
        }
        if let (Some(room), Some(permit)) = (&shared.room, permit) {
            permit.forget();
            queue.owe(room, line.len());
        }
        let wake = queue.wants_writer();
        drop(queue);
        if wake {
            shared.filled.notify_one();
        }
    }

    /// Writes everything that was taken and ends the thread; what comes later is dropped and counted. Waits up to 5 s
    /// for a target that takes nothing. Blocks: not for the path.
    pub fn close(&self) {
        let Some(shared) = &self.shared else { return };
        let mut queue = shared.queue.lock();
        queue.close();
        shared.filled.notify_one();
        let until = Instant::now() + CLOSING;
        while !queue.ended() {
            if shared.ended.wait_until(&mut queue, until).timed_out() {
                tracing::error!("the exchange log could not be written to its end");
                break;
            }
        }
    }
}
