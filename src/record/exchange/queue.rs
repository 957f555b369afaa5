//! The bounded queue: one buffer of finished lines, their numbers, and where new files begin.
//!
//! No clock, no I/O: it is locked for the time of a copy.

use std::{sync::Arc, time::SystemTime};

use prometheus::IntCounter;
use tokio::sync::Semaphore;

use super::file::RecoveredFile;
use crate::record::{Metrics, encode};

/// Bytes that may wait to be written; one line may go beyond.
pub(super) const CAPACITY: usize = 4 * 1024 * 1024;

/// Bytes that one permit of the room stands for.
pub(super) const UNIT: usize = 1024;

/// The writer doesn't wait for its tick when this much is there.
const HURRY: usize = 256 * 1024;

/// What the writer takes at once.
#[derive(Default)]
pub(super) struct LineBatch {
    pub(super) bytes: Vec<u8>,
    /// Offsets at which a new file begins.
    pub(super) cuts: Vec<usize>,
    /// Permits to give back once it is written.
    units: usize,
}

/// How the writer and the appenders stand to each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum QueueState {
    Open,
    Closing,
    Ended,
}

pub(super) struct Queue {
    batch: LineBatch,
    /// Number of the last line of the file that the last line goes to.
    seq: u64,
    /// Bytes that that file will have.
    file_bytes: u64,
    /// Bytes after which a new file begins; `None`: never.
    segment: Option<u64>,
    /// Lines that found no room since the last one that did, and when that began.
    gap: Option<(u64, SystemTime)>,
    /// Permits that were taken beyond what was reserved, to be kept when the next are given back.
    debt: usize,
    /// Whether the writer sleeps until it is woken.
    writer_idle: bool,
    life: QueueState,
}

impl Queue {
    pub(super) fn new() -> Queue {
        Queue {
            batch: LineBatch::default(),
            seq: 0,
            file_bytes: 0,
            segment: None,
            gap: None,
            debt: 0,
            writer_idle: false,
            life: QueueState::Open,
        }
    }

    /// Goes on in a file as it was found.
    pub(super) fn go_on(&mut self, found: RecoveredFile, segment: u64) {
        self.seq = found.seq;
        self.file_bytes = found.bytes;
        self.segment = Some(segment);
        if let Some(bytes) = found.torn {
            let mut line = event("torn", SystemTime::now());
            line.extend_from_slice(b",\"bytes\":");
            encode::number(&mut line, bytes);
            self.push(&line);
        }
    }

    /// False if there is no room and none was reserved, or the queue is closed.
    pub(super) fn append(&mut self, line: &[u8], reserved: bool) -> bool {
        if self.life != QueueState::Open {
            return false;
        }
        if !reserved && self.batch.bytes.len() >= CAPACITY {
            self.gap.get_or_insert((0, SystemTime::now())).0 += 1;
            return false;
        }
        self.tell_gap();
        self.push(line);
        true
    }

    /// Writes the gap down, if there is one and there is room.
    pub(super) fn tell_gap(&mut self) {
        if self.batch.bytes.len() >= CAPACITY {
            return;
        }
        if let Some((count, since)) = self.gap.take() {
            let mut line = event("dropped", SystemTime::now());
            line.extend_from_slice(b",\"count\":");
            encode::number(&mut line, count);
            line.extend_from_slice(b",\"since\":\"");
            encode::time(&mut line, since);
            line.push(b'"');
            self.push(&line);
        }
    }

    fn push(&mut self, line: &[u8]) {
        // `,"seq":` and up to 20 digits, `}`, line break.
        let longest = line.len() as u64 + 29;
        if self.segment.is_some_and(|segment| self.seq > 0 && self.file_bytes + longest > segment) {
            self.cut();
        }
        let bytes = &mut self.batch.bytes;
        let before = bytes.len();
        self.seq += 1;
        bytes.extend_from_slice(line);
        bytes.extend_from_slice(b",\"seq\":");
        encode::number(bytes, self.seq);
        bytes.extend_from_slice(b"}\n");
        self.file_bytes += (bytes.len() - before) as u64;
    }

    /// What comes from now on goes to a new file.
    pub(super) fn cut(&mut self) {
        self.batch.cuts.push(self.batch.bytes.len());
        self.seq = 0;
        self.file_bytes = 0;
    }

    /// Books a reserved line of this length: it holds one permit, and owes the others that it is worth.
    pub(super) fn owe(&mut self, room: &Semaphore, length: usize) {
        let units = length / UNIT + 1;
        self.batch.units += units;
        let more = units - 1;
        self.debt += more - room.forget_permits(more);
    }

    /// Gives back the room of a batch that is written.
    pub(super) fn release(&mut self, room: &Semaphore, units: usize) {
        let kept = self.debt.min(units);
        self.debt -= kept;
        room.add_permits(units - kept);
    }

    /// Whether the writer is to be woken now.
    pub(super) fn wants_writer(&mut self) -> bool {
        let wake = self.writer_idle || self.hurries();
        self.writer_idle = false;
        wake
    }

    pub(super) fn hurries(&self) -> bool {
        self.batch.bytes.len() >= HURRY || self.life != QueueState::Open
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batch.bytes.is_empty() && self.batch.cuts.is_empty() && self.gap.is_none()
    }

    /// The writer will sleep until it is woken.
    pub(super) fn writer_idles(&mut self, idle: bool) {
        self.writer_idle = idle;
    }

    /// Takes everything; `spare` is the buffer to go on with.
    pub(super) fn take(&mut self, spare: Vec<u8>) -> LineBatch {
        std::mem::replace(&mut self.batch, LineBatch { bytes: spare, cuts: Vec::new(), units: 0 })
    }

    pub(super) fn close(&mut self) {
        if self.life == QueueState::Open {
            self.life = QueueState::Closing;
        }
    }

    pub(super) fn closing(&self) -> bool {
        self.life != QueueState::Open
    }

    pub(super) fn end(&mut self) {
        self.life = QueueState::Ended;
    }

    pub(super) fn ended(&self) -> bool {
        self.life == QueueState::Ended
    }
}

impl LineBatch {
    pub(super) fn units(&self) -> usize {
        self.units
    }
}

/// The beginning of an event's line.
fn event(name: &str, at: SystemTime) -> Vec<u8> {
    let mut line = b"{\"event\":".to_vec();
    encode::string(&mut line, name);
    line.extend_from_slice(b",\"time\":\"");
    encode::time(&mut line, at);
    line.push(b'"');
    line
}

/// `log_records_total`, its series resolved when first used.
pub(super) struct LineCounters {
    metrics: Arc<Metrics>,
    written: std::sync::OnceLock<IntCounter>,
    dropped: std::sync::OnceLock<IntCounter>,
}

impl LineCounters {
    pub(super) fn new(metrics: Arc<Metrics>) -> LineCounters {
        LineCounters { metrics, written: Default::default(), dropped: Default::default() }
    }

    pub(super) fn written(&self, lines: u64) {
        self.written.get_or_init(|| self.metrics.log_records("written")).inc_by(lines);
    }

    pub(super) fn dropped(&self, lines: u64) {
        self.dropped.get_or_init(|| self.metrics.log_records("dropped")).inc_by(lines);
    }
}
