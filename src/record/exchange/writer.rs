//! The thread that writes the queue to its target.
//!
//! Ends only by `close`, after everything taken is written, or after the target took nothing for as
//! long as `close` waits.

use std::{
    io::{self, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    CLOSING, SharedQueue,
    file::LogFiles,
    queue::{LineBatch, Queue},
};

/// Lines gather this long before they are written: ten wake-ups a second at most, and well inside the second that may
/// be missing after a crash.
const TICK: Duration = Duration::from_millis(100);

/// How often an idle log looks after the age of its file.
const LOOK: Duration = Duration::from_secs(60);

/// How often it is looked whether somebody moved the file.
const MOVED: Duration = Duration::from_secs(1);

/// A failed write is tried again after this.
const AGAIN: Duration = Duration::from_millis(200);

/// A buffer that a burst made larger than this is given back.
const SPARE: usize = 1024 * 1024;

/// Where lines go.
pub(super) enum LogOutput {
    LogFiles(LogFiles),
    Stdout,
    /// For tests: anything that writes.
    #[cfg(test)]
    Other(Box<dyn Write + Send>),
}

impl LogOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            LogOutput::LogFiles(files) => files.write(bytes),
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
    looked: Instant,
    failing: bool,
}

impl LogWriter {
    pub(super) fn new(shared: Arc<SharedQueue>, output: LogOutput) -> LogWriter {
        LogWriter { shared, output, looked: Instant::now(), failing: false }
    }

    pub(super) fn run(mut self) {
        let mut spare = Vec::new();
        loop {
            self.wait();
            let outlived = self.outlived();
            let (batch, closing) = {
                let mut queue = self.shared.queue.lock();
                queue.tell_gap();
                if outlived {
                    queue.cut();
                }
                (queue.take(spare), queue.closing())
            };
            let empty = batch.bytes.is_empty() && batch.cuts.is_empty();
            if !empty {
                self.write(&batch);
            }
            spare = self.give_back(batch);
            if closing && empty {
                break;
            }
        }
        let LogWriter { shared, output, .. } = self;
        if let LogOutput::LogFiles(files) = &output {
            files.sync();
        }
        // The file's lock goes first: whoever waits for the end may open the file again at once.
        drop(output);
        shared.queue.lock().end();
        shared.ended.notify_all();
    }

    /// Until there is something to write and it had time to gather, or it is time to look.
    fn wait(&self) {
        let mut queue = self.shared.queue.lock();
        if queue.is_empty() && !queue.closing() {
            queue.writer_idles(true);
            self.shared.filled.wait_for(&mut queue, LOOK);
            queue.writer_idles(false);
        }
        let until = Instant::now() + TICK;
        while !queue.is_empty() && !queue.hurries() {
            if self.shared.filled.wait_until(&mut queue, until).timed_out() {
                break;
            }
        }
    }

    fn outlived(&mut self) -> bool {
        let LogOutput::LogFiles(files) = &self.output else { return false };
        if self.looked.elapsed() < MOVED {
            return false;
        }
        self.looked = Instant::now();
        files.outlived()
    }

    fn write(&mut self, batch: &LineBatch) {
        let mut from = 0;
        for &cut in &batch.cuts {
            self.write_all(&batch.bytes[from..cut]);
            self.persist(|output| match output {
                LogOutput::LogFiles(files) => files.rotate().map(|()| true),
                _ => Ok(true),
            });
            from = cut;
        }
        self.write_all(&batch.bytes[from..]);
    }

    fn write_all(&mut self, bytes: &[u8]) {
        let mut from = 0;
        self.persist(|output| {
            while from < bytes.len() {
                match output.write(&bytes[from..]) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => from += written,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(true)
        });
        let written = lines(&bytes[..from]);
        let lost = lines(bytes) - written;
        if written > 0 {
            self.shared.counters.written(written);
        }
        if lost > 0 {
            self.shared.counters.dropped(lost);
        }
    }

    /// Does it until it succeeds; gives up only when the log is closing and has waited long enough.
    fn persist(&mut self, mut step: impl FnMut(&mut LogOutput) -> io::Result<bool>) {
        let mut give_up: Option<Instant> = None;
        loop {
            match step(&mut self.output) {
                Ok(_) => break,
                Err(error) => self.complain(&error),
            }
            let mut queue = self.shared.queue.lock();
            if queue.closing() {
                let until = *give_up.get_or_insert_with(|| Instant::now() + CLOSING / 2);
                if Instant::now() >= until {
                    return;
                }
            }
            wait(&self.shared, &mut queue);
        }
        if std::mem::take(&mut self.failing) {
            tracing::info!("the exchange log is written again");
        }
    }

    /// Once for each trouble.
    fn complain(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(%error, "the exchange log can't be written; lines wait, then are dropped and counted");
        }
    }

    /// Returns the room of a written batch, and its buffer.
    fn give_back(&self, batch: LineBatch) -> Vec<u8> {
        if let Some(room) = &self.shared.room {
            self.shared.queue.lock().release(room, batch.units());
        }
        let mut spare = batch.bytes;
        spare.clear();
        if spare.capacity() > SPARE { Vec::new() } else { spare }
    }
}

/// A pause before the next try, not shortened by what comes in meanwhile.
fn wait(shared: &SharedQueue, queue: &mut parking_lot::MutexGuard<'_, Queue>) {
    let until = Instant::now() + AGAIN;
    while !shared.filled.wait_until(queue, until).timed_out() {}
}

fn lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}
