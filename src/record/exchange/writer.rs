//! The thread that writes a queue to its output.
//!
//! Ends only when the log is closed: after all lines are written, or when the output has accepted nothing until
//! the time that [`SharedQueue::close`] was given. A failed write is retried; lines that are given up are counted as
//! dropped, all others as written, and events as neither.

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
    shared: Arc<SharedQueue>,
    output: LogOutput,
    failing: bool,
}

impl LogWriter {
    pub(super) fn new(shared: Arc<SharedQueue>, output: LogOutput) -> LogWriter {
        LogWriter { shared, output, failing: false }
    }

    pub(super) fn run(mut self) {
        self.check();
        loop {
            self.wait();
            let (batch, closing) = {
                let mut queue = self.shared.queue.lock();
                queue.report_gap();
                (queue.take(), queue.is_closing())
            };
            let empty = batch.chunks.is_empty();
            if empty {
                self.check();
            }
            for chunk in batch.chunks {
                let sizes = chunk.sizes;
                match catch_unwind(AssertUnwindSafe(|| chunk.into_lines())) {
                    Ok(lines) => self.write(&lines),
                    // Logged by the panic hook.
                    Err(_) => self.shared.counters.dropped(1),
                }
                self.shared.queue.lock().written(sizes);
            }
            if let Some(room) = &self.shared.room {
                self.shared.queue.lock().release(room, batch.units);
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
        if let Err(error) = self.output.write(&[]) {
            self.report_failure(&error);
        }
    }

    /// Writes a chunk; repeats until it succeeds, or until the log is closing and the time is up.
    fn write(&mut self, chunk: &[u8]) {
        let mut from = 0;
        while from < chunk.len() {
            match self.output.write(&chunk[from..]) {
                Ok(written) => {
                    from += written.bytes;
                    self.shared.counters.written(written.records);
                    if std::mem::take(&mut self.failing) {
                        tracing::info!("the exchange log can be written again");
                    }
                }
                Err(error) => {
                    self.report_failure(&error);
                    if !self.pause() {
                        break;
                    }
                }
            }
        }
        self.shared.counters.dropped(lines::count_records(&chunk[from..]));
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

    /// Logs the first of consecutive failures.
    fn report_failure(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(%error, "the exchange log cannot be written; lines are queued, then dropped and counted");
        }
    }
}
