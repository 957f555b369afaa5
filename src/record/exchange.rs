//! The exchange log: bounded queues of finished lines, and the threads that write them.
//!
//! The task that finishes a request formats its line, and entering the queue is one small copy; lines with large bodies
//! are formatted by the log's thread, because masking takes long. A thread is woken at most
//! a few times per second, not for each line. Requests of unknown callers have a queue and files of their own beside
//! those of services, so that they push nothing out; an output that is no file (stdout, a pipe) is one for all.
//!
//! Always holds: each line is counted once, as written or as dropped. The lines of a file have a gap-free `seq` from 1
//! and the order in which they entered the queue. Lines that find no room are reported in the log as
//! `{"event":"dropped",…}`. A failed write is retried while the queue fills up. The log knows lines but no records.
//! Opening fails with [`LogError`], waiting for room with [`QueueFull`].

mod current;
mod error;
mod file;
mod limits;
mod lines;
mod queue;
mod rotated;
mod shared;
mod steady_clock;
mod stream;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fs::File,
    io,
    os::fd::AsFd as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

pub use self::error::{LogError, QueueFull};
pub(super) use self::queue::{DeferredLine, Importance, NewLine};
use self::{
    file::OpenedLog,
    limits::LogLimits,
    rotated::RotatedFiles,
    shared::{QueueSettings, SharedQueue},
    stream::LineStream,
    writer::{LogFaults, LogOutput, LogWriter},
};
use super::metrics::Metrics;
use crate::{
    config::{LogConfig, LogTarget, OnFull},
    deadline::until,
    degraded::DegradedReports,
};

/// Name of the file beside the log that has the requests of unknown callers.
const UNIDENTIFIED: &str = "unidentified.jsonl";

/// The part of the log's allowance that requests of unknown callers have of their own.
const UNIDENTIFIED_PART: u64 = 10;

/// That the request of a line has waited for room in the queue (`on_full = "block"`). It holds none, so that no request waits
/// for another one, whatever that waits for: its line is accepted however full the queue is then.
#[derive(Debug)]
pub struct LineAdmission(());

/// The log. Clones share it; it outlives configuration snapshots.
#[derive(Clone)]
pub struct ExchangeLog {
    queues: Option<LogQueues>,
    /// `None`: the output is no file.
    limits: Option<Arc<LogLimits>>,
}

#[derive(Clone)]
struct LogQueues {
    identified: Arc<SharedQueue>,
    /// Requests of unknown callers; the same queue if the output is no file.
    unidentified: Arc<SharedQueue>,
}

impl std::fmt::Debug for ExchangeLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExchangeLog").field("writes", &self.writes()).finish()
    }
}

impl ExchangeLog {
    /// Whether the files can be opened, without that.
    ///
    /// # Errors
    /// What [`ExchangeLog::open`] would fail with.
    pub fn usable(target: &LogTarget) -> Result<(), LogError> {
        let LogTarget::File(path) = target else { return Ok(()) };
        file::usable(path)?;
        file::usable(&path.with_file_name(UNIDENTIFIED))
    }

    /// Opens the files and starts the threads. A torn last line is cut off and reported in the log.
    ///
    /// # Errors
    /// If the target cannot be opened or another process writes to it.
    pub fn open(
        config: &LogConfig,
        metrics: &Arc<Metrics>,
        degraded: &Arc<DegradedReports>,
    ) -> Result<ExchangeLog, LogError> {
        let queue = QueueSettings { size: config.queue, on_full: config.on_full };
        let reports = LogReports { metrics, degraded };
        let path = match &config.exchanges {
            LogTarget::None => return Ok(ExchangeLog::none()),
            LogTarget::Stdout => return ExchangeLog::start_stream(stdout()?, queue, reports),
            LogTarget::File(path) => path,
        };
        let limits = Arc::new(LogLimits::new(config));
        let files = |path: &Path, part| RotatedFiles { path: path.to_owned(), limits: limits.clone(), part };
        let identified = match file::open(files(path, 1))? {
            OpenedLog::Files(files) => LogOutput::Files(files),
            OpenedLog::Special(file) => return ExchangeLog::start_stream(file, queue, reports),
        };
        let unidentified = match file::open(files(&path.with_file_name(UNIDENTIFIED), UNIDENTIFIED_PART))? {
            OpenedLog::Files(files) => LogOutput::Files(files),
            OpenedLog::Special(file) => LogOutput::Stream(LineStream::new(file)),
        };
        let identified = reports.start("of services", identified, queue)?;
        // Their requests do not wait for room: they are answered before they could wait.
        let queue = QueueSettings { on_full: OnFull::Drop, ..queue };
        let unidentified = reports.start("of unknown callers", unidentified, queue)?;
        Ok(ExchangeLog { queues: Some(LogQueues { identified, unidentified }), limits: Some(limits) })
    }

    /// A log that writes nothing.
    pub fn none() -> ExchangeLog {
        ExchangeLog { queues: None, limits: None }
    }

    /// Takes over how much is kept from another configuration. Takes effect with the next line.
    pub fn set_limits(&self, config: &LogConfig) {
        self.limits.iter().for_each(|limits| limits.set(config));
    }

    fn start_stream(
        out: impl io::Write + Send + 'static,
        queue: QueueSettings,
        reports: LogReports<'_>,
    ) -> Result<ExchangeLog, LogError> {
        let queue = reports.start("of all requests", LogOutput::Stream(LineStream::new(out)), queue)?;
        let queues = LogQueues { identified: queue.clone(), unidentified: queue };
        Ok(ExchangeLog { queues: Some(queues), limits: None })
    }

    /// Whether lines are written anywhere.
    pub fn writes(&self) -> bool {
        self.queues.is_some()
    }

    /// Which logs have an output that has taken nothing for seconds, without an error.
    pub fn stalled(&self) -> impl Iterator<Item = &'static str> {
        let queues = self.queues.iter().flat_map(|queues| [&queues.identified, &queues.unidentified]);
        queues.filter(|queue| queue.is_stalled()).map(|queue| queue.name)
    }

    /// Waits until there is room in the queue, with `on_full = "block"`; with `drop`, the line takes its chance.
    ///
    /// # Errors
    /// [`QueueFull`] if there is none by `deadline`.
    pub async fn await_room(&self, deadline: Instant) -> Result<Option<LineAdmission>, QueueFull> {
        let Some(queue) = self.queues.as_ref().map(|queues| &queues.identified) else { return Ok(None) };
        let Some(room) = &queue.room else { return Ok(None) };
        if !queue.queue.lock().may_begin() {
            let waits = async {
                loop {
                    let freed = room.notified();
                    if queue.queue.lock().may_begin() {
                        return;
                    }
                    freed.await;
                }
            };
            Box::pin(until(deadline.into(), waits)).await.ok_or(QueueFull)?;
            // The next one.
            room.notify_one();
        }
        Ok(Some(LineAdmission(())))
    }

    /// Whether a line whose request has not waited for room may have its bodies, of this many bytes. If not, this is counted: the
    /// line is to be written without them.
    pub(super) fn accepts_bodies(&self, importance: Importance, bytes: u64) -> bool {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let Some(queues) = &self.queues else { return false };
        let queue = queues.of(importance);
        let accepts = queue.queue.lock().has_room_for_bodies(importance, bytes);
        if !accepts {
            queue.counters.bodies_dropped();
        }
        accepts
    }

    /// Appends a line: an object without its end, to which `,"seq":N}` and the line break are added.
    pub(super) fn append(&self, line: NewLine<'_>, importance: Importance, admitted: Option<LineAdmission>) {
        let Some(queues) = &self.queues else { return };
        queues.of(importance).append(line, importance, admitted.is_some());
    }

    /// Writes everything appended so far and ends the threads; later lines are dropped and counted. Waits at most
    /// this long, if a target accepts nothing. Blocks: not for the path.
    pub fn close(&self, within: Duration) {
        let Some(queues) = &self.queues else { return };
        let (now, all) = (Instant::now(), [&queues.identified, &queues.unidentified]);
        all.iter().for_each(|queue| queue.close(now + within / 2));
        if !all.iter().all(|queue| queue.wait_for_end(now + within)) {
            tracing::error!("the exchange log was closed before all lines were written");
        }
    }
}

impl LogQueues {
    fn of(&self, importance: Importance) -> &Arc<SharedQueue> {
        match importance {
            Importance::Unidentified => &self.unidentified,
            Importance::Ordinary | Importance::Order => &self.identified,
        }
    }
}

/// Where a log reports what becomes of its lines.
#[derive(Clone, Copy)]
struct LogReports<'a> {
    metrics: &'a Arc<Metrics>,
    degraded: &'a Arc<DegradedReports>,
}

impl LogReports<'_> {
    /// Starts the thread of a queue; `name`: which log it is, for operators.
    fn start(self, name: &'static str, output: LogOutput, queue: QueueSettings) -> Result<Arc<SharedQueue>, LogError> {
        let shared = Arc::new(SharedQueue::new(name, queue, Arc::clone(self.metrics)));
        let faults = LogFaults::new(Arc::clone(self.degraded), name);
        let writer = LogWriter { shared: Arc::clone(&shared), output, faults };
        let thread = std::thread::Builder::new().name("exchange-log".into());
        thread.spawn(move || writer.run()).map_err(LogError::Thread)?;
        Ok(shared)
    }
}

/// stdout without the standard library's buffer, which hides how much of a line was written.
fn stdout() -> Result<File, LogError> {
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    stdout.map(File::from).map_err(|source| LogError::File { path: "stdout".into(), source })
}
