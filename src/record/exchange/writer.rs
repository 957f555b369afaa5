//! The thread that writes the queue to its target.
//!
//! Ends only when the log is closed: after all lines are written, or when the target has accepted
//! nothing for `give_up_after`. A failed write is retried; what is given up is counted as dropped.

use std::{
    io::{self, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    file::LogFiles,
    queue::{LineBatch, Queue},
    shared::SharedQueue,
};

/// How long lines are collected before they are written: at most ten writes per second, and well
/// within the second that may be missing after a crash.
const TICK: Duration = Duration::from_millis(100);

/// Interval at which an idle log checks the age of its file.
const IDLE_CHECK: Duration = Duration::from_secs(60);

/// Minimum interval between two checks whether the file was moved or is too old.
const FILE_CHECK: Duration = Duration::from_secs(1);

/// Pause before a failed write is retried.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Largest buffer that is kept for reuse, bytes.
const MAX_SPARE: usize = 1024 * 1024;

/// Where lines go.
pub(super) enum LogOutput {
    Files(LogFiles),
    Stdout,
    /// For tests.
    #[cfg(test)]
    Other(Box<dyn Write + Send>),
}

impl LogOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            LogOutput::Files(files) => files.write(bytes),
            LogOutput::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()?;
                Ok(bytes.len())
            }
            #[cfg(test)]
            LogOutput::Other(other) => other.write(bytes),
        }
    }
}

pub(super) struct LogWriter {
    shared: Arc<SharedQueue>,
    output: LogOutput,
    /// How long a target may accept nothing while the log is closing.
    give_up_after: Duration,
    file_checked: Instant,
    failing: bool,
}

impl LogWriter {
    pub(super) fn new(shared: Arc<SharedQueue>, output: LogOutput, give_up_after: Duration) -> LogWriter {
        LogWriter { shared, output, give_up_after, file_checked: Instant::now(), failing: false }
    }

    pub(super) fn run(mut self) {
        let mut spare = Vec::new();
        loop {
            self.wait();
            let needs_new_file = self.needs_new_file();
            let (batch, closing) = {
                let mut queue = self.shared.queue.lock();
                queue.report_gap();
                if needs_new_file {
                    queue.start_file();
                }
                (queue.take(spare), queue.is_closing())
            };
            let empty = batch.bytes.is_empty() && batch.cuts.is_empty();
            if !empty {
                self.write(&batch);
            }
            spare = self.release(batch);
            if closing && empty {
                break;
            }
        }
        let LogWriter { shared, output, .. } = self;
        if let LogOutput::Files(files) = &output {
            files.sync();
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

    fn needs_new_file(&mut self) -> bool {
        let LogOutput::Files(files) = &self.output else { return false };
        if self.file_checked.elapsed() < FILE_CHECK {
            return false;
        }
        self.file_checked = Instant::now();
        files.needs_new_file()
    }

    fn write(&mut self, batch: &LineBatch) {
        let mut from = 0;
        for &cut in &batch.cuts {
            self.write_all(&batch.bytes[from..cut]);
            self.retry(|output| match output {
                LogOutput::Files(files) => files.rotate(),
                _ => Ok(()),
            });
            from = cut;
        }
        self.write_all(&batch.bytes[from..]);
    }

    fn write_all(&mut self, bytes: &[u8]) {
        let mut from = 0;
        self.retry(|output| {
            while from < bytes.len() {
                match output.write(&bytes[from..]) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => from += written,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        let written = count_lines(&bytes[..from]);
        let lost = count_lines(bytes) - written;
        if written > 0 {
            self.shared.counters.written(written);
        }
        if lost > 0 {
            self.shared.counters.dropped(lost);
        }
    }

    /// Repeats `step` until it succeeds; gives up only after `give_up_after` while the log is closing.
    fn retry(&mut self, mut step: impl FnMut(&mut LogOutput) -> io::Result<()>) {
        let mut give_up: Option<Instant> = None;
        loop {
            match step(&mut self.output) {
                Ok(()) => break,
                Err(error) => self.report_failure(&error),
            }
            let mut queue = self.shared.queue.lock();
            if queue.is_closing() {
                let until = *give_up.get_or_insert_with(|| Instant::now() + self.give_up_after);
                if Instant::now() >= until {
                    return;
                }
            }
            pause(&self.shared, &mut queue);
        }
        if std::mem::take(&mut self.failing) {
            tracing::info!("the exchange log can be written again");
        }
    }

    /// Logs the first of consecutive failures.
    fn report_failure(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(%error, "the exchange log cannot be written; lines are queued, then dropped and counted");
        }
    }

    /// Releases the room of a written batch and returns its buffer.
    fn release(&self, batch: LineBatch) -> Vec<u8> {
        if let Some(room) = &self.shared.room {
            self.shared.queue.lock().release(room, batch.units());
        }
        let mut spare = batch.bytes;
        spare.clear();
        if spare.capacity() > MAX_SPARE { Vec::new() } else { spare }
    }
}

/// A pause that notifications do not shorten.
fn pause(shared: &SharedQueue, queue: &mut parking_lot::MutexGuard<'_, Queue>) {
    let until = Instant::now() + RETRY_AFTER;
    while !shared.filled.wait_until(queue, until).timed_out() {}
}

fn count_lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}
