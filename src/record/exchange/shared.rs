//! What requests and a log's thread share: the queue, its wake-ups, its room and its counters.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use prometheus::IntCounter;
use tokio::sync::Notify;

use super::queue::{Importance, NewLine, Queue, Sizes};
use crate::{config::OnFull, record::metrics::Metrics};

/// How a queue is bounded.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueSettings {
    /// Maximum size of its lines, in bytes, all together.
    pub(super) size: usize,
    pub(super) on_full: OnFull,
}

/// How long one write may take until its output counts as one that takes nothing.
const STALLED: Duration = Duration::from_secs(5);

/// One queue and its thread.
pub(super) struct SharedQueue {
    /// Which log it is, for operators.
    pub(super) name: &'static str,
    /// Since when the thread has been in one write.
    writing_since: Mutex<Option<Instant>>,
    pub(super) queue: Mutex<Queue>,
    /// Notified when the queue is no longer empty, is filled enough to be written, or closes.
    pub(super) filled: Condvar,
    /// Notified when the thread has ended.
    pub(super) ended: Condvar,
    pub(super) counters: LineCounters,
    /// Notifies one that waits for room when there is some; `None` with `on_full = "drop"`.
    pub(super) room: Option<Notify>,
}

impl SharedQueue {
    pub(super) fn new(name: &'static str, settings: QueueSettings, metrics: Arc<Metrics>) -> SharedQueue {
        let QueueSettings { size, on_full } = settings;
        SharedQueue {
            name,
            writing_since: Mutex::default(),
            queue: Mutex::new(Queue::new(Sizes::shares_of(size))),
            filled: Condvar::new(),
            ended: Condvar::new(),
            counters: LineCounters::new(metrics),
            room: (on_full == OnFull::Block).then(Notify::new),
        }
    }

    /// Appends a line, or counts it as dropped.
    pub(super) fn append(&self, line: NewLine<'_>, importance: Importance, admitted: bool) {
        let mut queue = self.queue.lock();
        if !queue.append(line, importance, admitted) {
            drop(queue);
            self.counters.dropped(1);
            return;
        }
        let wake = queue.wants_writer();
        drop(queue);
        if wake {
            self.filled.notify_one();
        }
    }

    /// A chunk of lines is written, or given up.
    pub(super) fn written(&self, sizes: Sizes) {
        let may_begin = {
            let mut queue = self.queue.lock();
            queue.written(sizes);
            queue.may_begin()
        };
        if may_begin && let Some(room) = &self.room {
            room.notify_one();
        }
    }

    /// Writes to the output, which may hang.
    pub(super) fn while_writing<T>(&self, write: impl FnOnce() -> T) -> T {
        *self.writing_since.lock() = Some(Instant::now());
        let written = write();
        *self.writing_since.lock() = None;
        written
    }

    /// Whether the output has taken nothing for a while: a pipe that nobody reads, a disk that hangs.
    pub(super) fn is_stalled(&self) -> bool {
        self.writing_since.lock().is_some_and(|since| since.elapsed() >= STALLED)
    }

    /// Lets the thread write what is queued and end; it gives up a target that accepts nothing at `give_up_at`.
    pub(super) fn close(&self, give_up_at: Instant) {
        self.queue.lock().close(give_up_at);
        self.filled.notify_one();
    }

    /// Waits for the thread's end; false if it has not ended by `until`.
    pub(super) fn wait_for_end(&self, until: Instant) -> bool {
        let mut queue = self.queue.lock();
        while !queue.ended() {
            if self.ended.wait_until(&mut queue, until).timed_out() {
                return queue.ended();
            }
        }
        true
    }
}

/// `log_records_total` and `log_bodies_dropped_total`; their series are resolved on first use.
pub(super) struct LineCounters {
    metrics: Arc<Metrics>,
    written: OnceLock<IntCounter>,
    dropped: OnceLock<IntCounter>,
}

impl LineCounters {
    fn new(metrics: Arc<Metrics>) -> LineCounters {
        LineCounters { metrics, written: OnceLock::new(), dropped: OnceLock::new() }
    }

    pub(super) fn written(&self, lines: u64) {
        if lines > 0 {
            self.written.get_or_init(|| self.metrics.log_records("written")).inc_by(lines);
        }
    }

    pub(super) fn dropped(&self, lines: u64) {
        if lines > 0 {
            self.dropped.get_or_init(|| self.metrics.log_records("dropped")).inc_by(lines);
        }
    }

    /// A line was written without its bodies.
    pub(super) fn bodies_dropped(&self) {
        self.metrics.log_bodies_dropped();
    }
}
