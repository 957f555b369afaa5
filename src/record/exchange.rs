//! The exchange log: a bounded queue of finished lines and the thread that writes them.
//!
//! The task that finishes a request formats its line; the queue is one buffer, so entering it is one
//! copy. The thread is woken at most a few times per second, not for each line.
//!
//! Always holds: the lines of a file have a gap-free `seq` from 1, given when a line enters the queue,
//! and are written in that order. Lines that find no room are counted, and the gap is written as
//! `{"event":"dropped",…}`. A failed write is retried while the queue fills up. The log knows lines
//! but no records. Opening fails with [`LogError`], reserving with [`QueueFull`].

mod error;
mod file;
mod queue;
mod shared;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::OwnedSemaphorePermit;

pub use self::error::{LogError, QueueFull};
use self::{
    file::LogFiles,
    queue::Queue,
    shared::SharedQueue,
    writer::{LogOutput, LogWriter},
};
use super::metrics::Metrics;
use crate::config::{LogConfig, LogTarget, OnFull};

/// How long [`ExchangeLog::close`] waits for a target that accepts nothing. The writer gives up after
/// half of it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Room in the queue for one line (`on_full = "block"`), released when dropped unused. With
/// `on_full = "drop"` it reserves nothing.
#[derive(Debug)]
pub struct LogReservation(Option<OwnedSemaphorePermit>);

/// The log. Clones share it; it outlives configuration snapshots.
#[derive(Clone)]
pub struct ExchangeLog {
    shared: Option<Arc<SharedQueue>>,
}

impl std::fmt::Debug for ExchangeLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExchangeLog").field("writes", &self.writes()).finish()
    }
}

impl ExchangeLog {
    /// Opens the target and starts the thread. A torn last line is cut off and reported in the log.
    ///
    /// # Errors
    /// If the target cannot be opened or another process writes to it.
    pub fn open(config: &LogConfig, metrics: &Arc<Metrics>) -> Result<ExchangeLog, LogError> {
        let mut queue = Queue::new();
        let output = match &config.exchanges {
            LogTarget::None => return Ok(ExchangeLog::none()),
            LogTarget::Stdout => LogOutput::Stdout,
            LogTarget::File(path) => {
                let (files, recovered) = LogFiles::open(path, config.keep_size, config.keep_days)?;
                queue.resume(recovered, files.segment());
                LogOutput::Files(files)
            }
        };
        ExchangeLog::start(queue, output, config.on_full, metrics)
    }

    /// A log that writes nothing.
    pub fn none() -> ExchangeLog {
        ExchangeLog { shared: None }
    }

    fn start(
        queue: Queue,
        output: LogOutput,
        on_full: OnFull,
        metrics: &Arc<Metrics>,
    ) -> Result<ExchangeLog, LogError> {
        let shared = Arc::new(SharedQueue::new(queue, on_full, Arc::clone(metrics)));
        let writer = LogWriter::new(Arc::clone(&shared), output, CLOSE_TIMEOUT / 2);
        let thread = std::thread::Builder::new().name("exchange-log".into());
        thread.spawn(move || writer.run()).map_err(LogError::Thread)?;
        Ok(ExchangeLog { shared: Some(shared) })
    }

    /// Whether lines are written anywhere.
    pub fn writes(&self) -> bool {
        self.shared.is_some()
    }

    /// Reserves room for one line; waits for it only with `on_full = "block"`.
    ///
    /// # Errors
    /// [`QueueFull`] if there is none by `deadline`.
    pub async fn reserve(&self, deadline: Instant) -> Result<LogReservation, QueueFull> {
        let room = self.shared.as_ref().and_then(|shared| shared.room.as_ref());
        let Some(room) = room else { return Ok(LogReservation(None)) };
        if let Ok(permit) = Arc::clone(room).try_acquire_owned() {
            return Ok(LogReservation(Some(permit)));
        }
        let acquire = Arc::clone(room).acquire_owned();
        match Box::pin(tokio::time::timeout_at(deadline.into(), acquire)).await {
            Ok(Ok(permit)) => Ok(LogReservation(Some(permit))),
            Ok(Err(_)) | Err(_) => Err(QueueFull),
        }
    }

    /// Appends a line: an object without its end, to which `,"seq":N}` and the line break are added.
    pub(super) fn append(&self, line: &[u8], reservation: Option<LogReservation>) {
        let Some(shared) = &self.shared else { return };
        let permit = reservation.and_then(|reservation| reservation.0);
        let mut queue = shared.queue.lock();
        if !queue.append(line, permit.is_some()) {
            drop(queue);
            shared.counters.dropped(1);
            return;
        }
        if let (Some(room), Some(permit)) = (&shared.room, permit) {
            permit.forget();
            queue.charge(room, line.len());
        }
        let wake = queue.wants_writer();
        drop(queue);
        if wake {
            shared.filled.notify_one();
        }
    }

    /// Writes everything appended so far and ends the thread; later lines are dropped and counted.
    /// Waits up to 5 s for a target that accepts nothing. Blocks: not for the path.
    pub fn close(&self) {
        let Some(shared) = &self.shared else { return };
        let mut queue = shared.queue.lock();
        queue.close();
        shared.filled.notify_one();
        let until = Instant::now() + CLOSE_TIMEOUT;
        while !queue.ended() {
            if shared.ended.wait_until(&mut queue, until).timed_out() {
                tracing::error!("the exchange log was closed before all lines were written");
                break;
            }
        }
    }
}
