//! The thread that writes a queue to its output.
//!
//! Ends only when the log is closed: after all lines are written, or when the output has accepted nothing until
//! the time that [`SharedQueue::close`] was given; from then on, lines are written without their bodies, which take most of
//! the time. A failed write is retried, and the gateway is degraded meanwhile, as it is
//! while a write hangs; lines that are given up are counted as dropped, all others as written, and events as neither.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    file::{LogFiles, WrittenLines},
    lines,
    shared::SharedQueue,
    stream::LineStream,
};
use crate::degraded::{DegradedReason, DegradedReports};

/// How long lines are collected before they are written: at most ten writes per second, and well
/// within the second that may be missing after a crash.
const TICK: Duration = Duration::from_millis(100);

/// Interval at which an idle log checks its file: its age, and whether it was moved.
const IDLE_CHECK: Duration = Duration::from_secs(60);

/// Pause before a failed write is retried.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Where lines go.
pub(super) enum LogOutput {
    Files(Box<LogFiles>),
    Stream(LineStream),
}

impl LogOutput {
    fn write(&mut self, chunk: &[u8]) -> io::Result<WrittenLines> {
        match self {
            LogOutput::Files(files) => files.write(chunk),
            LogOutput::Stream(stream) => stream.write(chunk),
        }
    }
}

pub(super) struct LogWriter {
    pub(super) shared: Arc<SharedQueue>,
    pub(super) output: LogOutput,
    pub(super) faults: LogFaults,
}

/// Tells operators that the log cannot be written.
pub(super) struct LogFaults {
    reports: Arc<DegradedReports>,
    /// Which log it is.
    name: &'static str,
    failing: bool,
}

impl LogFaults {
    pub(super) fn new(reports: Arc<DegradedReports>, name: &'static str) -> LogFaults {
        LogFaults { reports, name, failing: false }
    }

    /// A write has failed; the first of consecutive failures is logged.
    fn begin(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            let LogFaults { name, .. } = self;
            tracing::error!(name, %error, "the exchange log cannot be written; lines are queued, then dropped and counted");
            let text = format!("exchange log {name}: the last lines could not be written; they wait in memory");
            self.reports.report(DegradedReason::LogFailing, name, text);
        }
    }

    /// A write has succeeded.
    fn end(&mut self) {
        if std::mem::take(&mut self.failing) {
            tracing::info!(name = self.name, "the exchange log can be written again");
            self.reports.withdraw(DegradedReason::LogFailing, self.name);
        }
    }

    /// Lines were given up.
    fn lost(&self, lines: u64) {
        if lines > 0 {
            tracing::error!(name = self.name, lines, "lines of the exchange log are lost: they could not be written");
        }
    }
}

impl LogWriter {
    pub(super) fn run(mut self) {
        self.check();
        loop {
            self.wait();
            let (chunks, closing) = {
                let mut queue = self.shared.queue.lock();
                queue.report_gap();
                (queue.take(), queue.is_closing())
            };
            let empty = chunks.is_empty();
            if empty {
                self.check();
            }
            for chunk in chunks {
                let sizes = chunk.sizes;
                let has_time = !self.shared.queue.lock().gives_up();
                if !has_time && chunk.is_deferred() {
                    self.shared.counters.bodies_dropped();
                }
                match catch_unwind(AssertUnwindSafe(|| chunk.into_lines(has_time))) {
                    Ok(lines) => self.write(&lines),
                    // Logged by the panic hook.
                    Err(_) => self.shared.counters.dropped(1),
                }
                self.shared.written(sizes);
            }
            if closing && empty {
                break;
            }
        }
        let LogWriter { shared, output, .. } = self;
        match &output {
            LogOutput::Files(files) => files.sync(),
            LogOutput::Stream(stream) => shared.counters.dropped(stream.unfinished_records()),
        }
        // Releases the file lock before the end is reported, so that the file can be opened again at once.
        drop(output);
        shared.queue.lock().end();
        shared.ended.notify_all();
    }

    /// Waits until lines have been collected for a tick, or until an idle log checks its file.
    fn wait(&self) {
        let mut queue = self.shared.queue.lock();
        if queue.is_empty() && !queue.is_closing() {
            queue.set_writer_idle(true);
            self.shared.filled.wait_for(&mut queue, IDLE_CHECK);
            queue.set_writer_idle(false);
        }
        let until = Instant::now() + TICK;
        while !queue.is_empty() && !queue.is_due() {
            if self.shared.filled.wait_until(&mut queue, until).timed_out() {
                break;
            }
        }
    }

    /// Lets the output look after its files, and write the events that wait.
    fn check(&mut self) {
        match self.shared.while_writing(|| self.output.write(&[])) {
            Ok(_) => self.faults.end(),
            Err(error) => self.faults.begin(&error),
        }
    }

    /// Writes a chunk; repeats until it succeeds, or until the log is closing and the time is up.
    fn write(&mut self, chunk: &[u8]) {
        let mut from = 0;
        while from < chunk.len() {
            match self.shared.while_writing(|| self.output.write(&chunk[from..])) {
                Ok(written) => {
                    from += written.bytes;
                    self.shared.counters.written(written.records);
                    self.faults.end();
                }
                Err(error) => {
                    self.faults.begin(&error);
                    if !self.pause() {
                        break;
                    }
                }
            }
        }
        let lost = lines::count_records(&chunk[from..]);
        self.shared.counters.dropped(lost);
        self.faults.lost(lost);
    }

    /// A pause that notifications do not shorten. Returns false if it is time to give up.
    fn pause(&self) -> bool {
        let mut queue = self.shared.queue.lock();
        let until = Instant::now() + RETRY_AFTER;
        loop {
            if queue.gives_up() {
                return false;
            }
            if self.shared.filled.wait_until(&mut queue, until).timed_out() {
                return true;
            }
        }
    }
}
