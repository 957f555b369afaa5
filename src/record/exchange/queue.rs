//! The bounded queue: one buffer of finished lines, their numbers, and where new files begin.
//!
//! Always holds: numbers are gap-free within a file. It does no I/O, so its lock is held only for the
//! duration of a copy. The queue never fails; it refuses lines that find no room.
//!
//! Room is a semaphore in units of 1 KiB rather than a counter under the lock, because a request waits
//! for it before its line exists. A reserved line holds one unit from the start and is charged the
//! rest of its length when it is appended; units that are not free at that moment are a debt.

use std::time::SystemTime;

use tokio::sync::Semaphore;

use super::file::RecoveredFile;
use crate::record::encode;

/// Maximum size of the queue, bytes; its last line may exceed it.
pub(super) const CAPACITY: usize = 4 * 1024 * 1024;

/// Bytes of room per permit.
pub(super) const UNIT: usize = 1024;

/// Size at which the writer does not wait for its tick, bytes.
const WRITE_AT: usize = 256 * 1024;

/// The lines that the writer takes at once.
#[derive(Default)]
pub(super) struct LineBatch {
    pub(super) bytes: Vec<u8>,
    /// Offsets at which a new file begins.
    pub(super) cuts: Vec<usize>,
    /// Units of room to release once it is written.
    units: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum QueueState {
    Open,
    Closing,
    Ended,
}

/// Consecutive dropped lines.
struct Gap {
    count: u64,
    since: SystemTime,
}

pub(super) struct Queue {
    batch: LineBatch,
    /// Number of the last line, in the file that it goes to.
    seq: u64,
    /// Size that this file will have, bytes.
    file_bytes: u64,
    /// Size at which a new file begins, bytes; `None`: never.
    segment: Option<u64>,
    /// Lines dropped since the last one that was accepted.
    gap: Option<Gap>,
    /// Units charged but not yet taken from the room: withheld from the next release.
    debt: usize,
    /// Whether the writer sleeps until it is notified.
    writer_idle: bool,
    state: QueueState,
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
            state: QueueState::Open,
        }
    }

    /// Continues a file.
    pub(super) fn resume(&mut self, recovered: RecoveredFile, segment: u64) {
        self.seq = recovered.seq;
        self.file_bytes = recovered.bytes;
        self.segment = Some(segment);
        if let Some(bytes) = recovered.torn {
            let mut line = event("torn", SystemTime::now());
            line.extend_from_slice(b",\"bytes\":");
            encode::number(&mut line, bytes);
            self.push(&line);
        }
    }

    /// Returns false if the queue is closed, or full and no room was reserved.
    pub(super) fn append(&mut self, line: &[u8], reserved: bool) -> bool {
        if self.state != QueueState::Open {
            return false;
        }
        if !reserved && self.batch.bytes.len() >= CAPACITY {
            self.gap.get_or_insert_with(|| Gap { count: 0, since: SystemTime::now() }).count += 1;
            return false;
        }
        self.report_gap();
        self.push(line);
        true
    }

    /// Appends an event for the gap, if there is one and there is room.
    pub(super) fn report_gap(&mut self) {
        if self.batch.bytes.len() >= CAPACITY {
            return;
        }
        if let Some(Gap { count, since }) = self.gap.take() {
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
            self.start_file();
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

    /// Later lines go to a new file.
    pub(super) fn start_file(&mut self) {
        self.batch.cuts.push(self.batch.bytes.len());
        self.seq = 0;
        self.file_bytes = 0;
    }

    /// Charges a reserved line of this length, whose first unit is already taken.
    pub(super) fn charge(&mut self, room: &Semaphore, length: usize) {
        let units = length / UNIT + 1;
        self.batch.units += units;
        let more = units - 1;
        self.debt += more - room.forget_permits(more);
    }

    /// Releases the room of a written batch, minus the debt.
    pub(super) fn release(&mut self, room: &Semaphore, units: usize) {
        let withheld = self.debt.min(units);
        self.debt -= withheld;
        room.add_permits(units - withheld);
    }

    /// Whether to notify the writer now.
    pub(super) fn wants_writer(&mut self) -> bool {
        let wake = self.writer_idle || self.is_due();
        self.writer_idle = false;
        wake
    }

    /// Whether the lines should be written without waiting for more.
    pub(super) fn is_due(&self) -> bool {
        self.batch.bytes.len() >= WRITE_AT || self.state != QueueState::Open
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batch.bytes.is_empty() && self.batch.cuts.is_empty() && self.gap.is_none()
    }

    /// Whether the writer sleeps until it is notified.
    pub(super) fn set_writer_idle(&mut self, idle: bool) {
        self.writer_idle = idle;
    }

    /// Takes all lines; `spare` becomes the new buffer.
    pub(super) fn take(&mut self, spare: Vec<u8>) -> LineBatch {
        std::mem::replace(&mut self.batch, LineBatch { bytes: spare, cuts: Vec::new(), units: 0 })
    }

    pub(super) fn close(&mut self) {
        if self.state == QueueState::Open {
            self.state = QueueState::Closing;
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.state != QueueState::Open
    }

    pub(super) fn end(&mut self) {
        self.state = QueueState::Ended;
    }

    pub(super) fn ended(&self) -> bool {
        self.state == QueueState::Ended
    }
}

impl LineBatch {
    pub(super) fn units(&self) -> usize {
        self.units
    }
}

/// The beginning of an event line.
fn event(name: &str, at: SystemTime) -> Vec<u8> {
    let mut line = b"{\"event\":".to_vec();
    encode::string(&mut line, name);
    line.extend_from_slice(b",\"time\":\"");
    encode::time(&mut line, at);
    line.push(b'"');
    line
}
