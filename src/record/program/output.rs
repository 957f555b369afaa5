//! stderr behind a bounded queue and a thread of its own.
//!
//! Always holds: [`LineOutput::push`] copies a line and never waits for the reader of stderr. Lines that find
//! no room, and lines that stderr refuses, are counted; when the reader takes lines again, one line says how
//! many were lost. [`LineOutput::flush`] waits only while the reader takes lines. Knows nothing of what the
//! lines say. Never fails: a closed stderr loses lines, nothing else.
//!
//! tracing-appender's `non_blocking` was considered: its queue is bounded by lines instead of bytes, it does not
//! say in the log what was lost, and the guard that flushes it at exit reports a stalled stderr with `eprintln!`,
//! which then blocks for ever, and panics if stderr is closed.

use std::{
    io::{ErrorKind, Write},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::UNLIMITED;

/// Maximum size of the queue, bytes: some thousand lines.
pub(super) const CAPACITY: usize = 1024 * 1024;

/// Largest buffer that is kept for reuse, bytes.
const MAX_SPARE: usize = 64 * 1024;

/// How long one write may take before [`LineOutput::flush`] gives up.
const STALLED: Duration = Duration::from_millis(250);

/// How long [`LineOutput::flush`] waits at most, also for a reader that takes lines slowly.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause before a write to a non-blocking stderr is repeated.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// Lines dropped since the process began.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines of the program's log dropped since the process began.
pub(in crate::record) fn lines_dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// The queue.
pub(super) struct LineOutput {
    pending: Mutex<PendingLines>,
    /// Notified when a line was pushed.
    filled: Condvar,
    /// Notified when a batch was written.
    written: Condvar,
}

struct PendingLines {
    bytes: Vec<u8>,
    /// Lines dropped that no line has reported yet.
    lost: u64,
    /// Start of the write in progress; `None`: there is none.
    writing_since: Option<Instant>,
}

impl LineOutput {
    pub(super) const fn new() -> LineOutput {
        LineOutput {
            pending: Mutex::new(PendingLines { bytes: Vec::new(), lost: 0, writing_since: None }),
            filled: Condvar::new(),
            written: Condvar::new(),
        }
    }

    /// Appends a line, or drops and counts it.
    pub(super) fn push(&self, line: &[u8]) {
        let mut pending = self.pending.lock();
        if pending.bytes.len() + line.len() > CAPACITY {
            pending.lost += 1;
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        pending.bytes.extend_from_slice(line);
        drop(pending);
        self.filled.notify_one();
    }

    /// Waits until everything pushed so far is written; gives up on a reader that takes nothing.
    pub(super) fn flush(&self) {
        let until = Instant::now() + FLUSH_TIMEOUT;
        let mut pending = self.pending.lock();
        while !pending.bytes.is_empty() || pending.writing_since.is_some() {
            let stalled = pending.writing_since.is_some_and(|since| since.elapsed() >= STALLED);
            if stalled || Instant::now() >= until {
                return;
            }
            self.written.wait_for(&mut pending, RETRY_AFTER);
        }
    }

    /// Writes lines to `target` for ever, and calls `tick` every `interval`. For a thread of its own.
    pub(super) fn run(&self, mut target: impl Write, interval: Duration, tick: impl Fn()) {
        let (mut batch, mut failing, mut torn) = (Vec::new(), false, false);
        let mut next_tick = Instant::now() + interval;
        loop {
            let lost = self.take(&mut batch, next_tick, !failing);
            if lost > 0 {
                // Becomes part of the next batch.
                tracing::warn!(target: UNLIMITED, lines = lost, "lines of this log were lost: its reader did not take them");
            }
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + interval;
                tick();
            }
            if !batch.is_empty() {
                failing = !self.write(&mut target, &batch, &mut torn);
            }
            batch.clear();
            batch.shrink_to(MAX_SPARE);
        }
    }

    /// Waits for lines until `until` and takes them. Returns the number of lost lines, if they are to be reported.
    fn take(&self, batch: &mut Vec<u8>, until: Instant, report: bool) -> u64 {
        let mut pending = self.pending.lock();
        while pending.bytes.is_empty() && !(report && pending.lost > 0) {
            if self.filled.wait_until(&mut pending, until).timed_out() {
                break;
            }
        }
        std::mem::swap(&mut pending.bytes, batch);
        pending.writing_since = (!batch.is_empty()).then(Instant::now);
        if report { std::mem::take(&mut pending.lost) } else { 0 }
    }

    /// Whether all was written. `torn`: the last write ended in the middle of a line.
    fn write(&self, target: &mut impl Write, batch: &[u8], torn: &mut bool) -> bool {
        let end_of_torn: &[u8] = if *torn { b"\n" } else { b"" };
        let rest = match self.write_some(target, end_of_torn) {
            [] => {
                let rest = self.write_some(target, batch);
                *torn =
                    batch[..batch.len() - rest.len()].last().map_or(*torn && !rest.is_empty(), |byte| *byte != b'\n');
                rest
            }
            _ => batch,
        };
        let lost = memchr::memchr_iter(b'\n', rest).count() as u64;
        DROPPED.fetch_add(lost, Ordering::Relaxed);
        let mut pending = self.pending.lock();
        pending.lost += lost;
        pending.writing_since = None;
        self.written.notify_all();
        rest.is_empty()
    }

    /// Writes until an error; returns what was not written.
    fn write_some<'a>(&self, target: &mut impl Write, mut bytes: &'a [u8]) -> &'a [u8] {
        while !bytes.is_empty() {
            match target.write(bytes) {
                Ok(0) => break,
                Ok(written) => {
                    bytes = &bytes[written..];
                    self.pending.lock().writing_since = Some(Instant::now());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(RETRY_AFTER),
                Err(_) => break,
            }
        }
        bytes
    }
}
