//! What requests and the log's thread share: the queue, its wake-ups, its room and its counters.

use std::sync::{Arc, OnceLock};

use parking_lot::{Condvar, Mutex};
use prometheus::IntCounter;
use tokio::sync::Semaphore;

use super::queue::{CAPACITY, Queue, UNIT};
use crate::{config::OnFull, record::metrics::Metrics};

pub(super) struct SharedQueue {
    pub(super) queue: Mutex<Queue>,
    /// Notified when the queue is no longer empty, is filled enough to be written, or closes.
    pub(super) filled: Condvar,
    /// Notified when the thread has ended.
    pub(super) ended: Condvar,
    pub(super) counters: LineCounters,
    /// Free room in the queue in [`UNIT`]s; `None` with `on_full = "drop"`.
    pub(super) room: Option<Arc<Semaphore>>,
}

impl SharedQueue {
    pub(super) fn new(queue: Queue, on_full: OnFull, metrics: Arc<Metrics>) -> SharedQueue {
        SharedQueue {
            queue: Mutex::new(queue),
            filled: Condvar::new(),
            ended: Condvar::new(),
            counters: LineCounters { metrics, written: OnceLock::new(), dropped: OnceLock::new() },
            room: (on_full == OnFull::Block).then(|| Arc::new(Semaphore::new(CAPACITY / UNIT))),
        }
    }
}

/// `log_records_total`; its series are resolved on first use.
pub(super) struct LineCounters {
    metrics: Arc<Metrics>,
    written: OnceLock<IntCounter>,
    dropped: OnceLock<IntCounter>,
}

impl LineCounters {
    pub(super) fn written(&self, lines: u64) {
        self.written.get_or_init(|| self.metrics.log_records("written")).inc_by(lines);
    }

    pub(super) fn dropped(&self, lines: u64) {
        self.dropped.get_or_init(|| self.metrics.log_records("dropped")).inc_by(lines);
    }
}
