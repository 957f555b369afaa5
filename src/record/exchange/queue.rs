//! The bounded queue: finished lines in the order in which they came.
//!
//! Always holds: what finds no room is refused, and a line says where and how much; the more important a line
//! is, the more room it has. It does no I/O, so its lock is held only for the duration of a small copy: a large
//! line is moved. Never fails.
//!
//! Bodies have less room than lines: when the queue fills up, lines are accepted without their bodies before
//! lines are refused.
//!
//! With `on_full = "block"`, room is also a semaphore in units of 1 KiB, because a request waits for it before its
//! line exists. A reserved line holds one unit from the start and is charged the rest of its length when it is
//! appended; units that are not free at that moment are a debt.

use std::time::{Instant, SystemTime};

use tokio::sync::Semaphore;

use super::lines;
use crate::record::encode;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Size that reservations share, bytes (`on_full = "block"`).
pub(super) const RESERVABLE: usize = 64 * MIB;

/// Bytes of room per permit.
pub(super) const UNIT: usize = KIB;

/// Size at which the writer does not wait for its tick, bytes.
const WRITE_AT: usize = 256 * KIB;

/// Size of a chunk that collects small lines, bytes. A longer line is a chunk of its own.
const CHUNK: usize = 64 * KIB;

/// How much room a line has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::record) enum Importance {
    /// Nobody knows whose request it is: anybody can send as many as they like.
    Unidentified,
    Ordinary,
    /// Of an order: it may be the only trace of money that was spent.
    Order,
}

impl Importance {
    /// Size of the queue up to which bodies are accepted, bytes. The last line may exceed it.
    pub(super) fn room_for_bodies(self) -> usize {
        match self {
            Importance::Unidentified => MIB,
            Importance::Ordinary => 4 * MIB,
            Importance::Order => 64 * MIB,
        }
    }

    /// Size of the queue up to which lines are accepted, bytes. The last line may exceed it.
    pub(super) fn room_for_lines(self) -> usize {
        match self {
            Importance::Unidentified => MIB,
            Importance::Ordinary => 5 * MIB,
            Importance::Order => 80 * MIB,
        }
    }
}

/// Appends a line to a buffer.
type FormatLine = dyn FnOnce(&mut Vec<u8>) + Send;

/// A line whose formatting is left to the writer, because it takes long.
pub(in crate::record) struct DeferredLine {
    /// About how long the line will be, bytes.
    size: usize,
    format: Box<FormatLine>,
}

impl DeferredLine {
    pub(in crate::record) fn new(size: usize, format: impl FnOnce(&mut Vec<u8>) + Send + 'static) -> DeferredLine {
        DeferredLine { size, format: Box::new(format) }
    }
}

/// A line for the queue.
pub(in crate::record) enum NewLine<'a> {
    /// Its buffer may be taken.
    Formatted(&'a mut Vec<u8>),
    Deferred(DeferredLine),
}

impl NewLine<'_> {
    /// Bytes.
    pub(super) fn size(&self) -> usize {
        match self {
            NewLine::Formatted(line) => line.len(),
            NewLine::Deferred(line) => line.size,
        }
    }
}

/// Consecutive lines of the queue.
pub(super) enum Chunk {
    /// Whole lines.
    Lines(Vec<u8>),
    Deferred(DeferredLine),
}

impl Chunk {
    /// The bytes that it is counted as.
    pub(super) fn size(&self) -> usize {
        match self {
            Chunk::Lines(lines) => lines.len(),
            Chunk::Deferred(line) => line.size,
        }
    }

    /// Its lines.
    pub(super) fn into_lines(self) -> Vec<u8> {
        match self {
            Chunk::Lines(lines) => lines,
            Chunk::Deferred(DeferredLine { size, format }) => {
                let mut line = Vec::with_capacity(size);
                format(&mut line);
                line.push(b'\n');
                line
            }
        }
    }
}

/// Lines that the writer takes at once.
#[derive(Default)]
pub(super) struct LineBatch {
    pub(super) chunks: Vec<Chunk>,
    /// Units of room to release once it is written.
    pub(super) units: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum QueueState {
    Open,
    Closing,
    Ended,
}

/// Consecutive refused lines.
struct Gap {
    count: u64,
    since: SystemTime,
}

pub(super) struct Queue {
    batch: LineBatch,
    /// Size of `batch`, bytes.
    queued: usize,
    /// Size of what the writer has taken and not yet written, bytes.
    taken: usize,
    /// Lines refused since the last one that was accepted.
    gap: Option<Gap>,
    /// Units charged but not yet taken from the room: withheld from the next release.
    debt: usize,
    /// Whether the writer sleeps until it is notified.
    writer_idle: bool,
    state: QueueState,
    /// When the writer gives up an output that accepts nothing; set when the queue closes.
    give_up_at: Option<Instant>,
}

impl Queue {
    pub(super) fn new() -> Queue {
        Queue {
            batch: LineBatch::default(),
            queued: 0,
            taken: 0,
            gap: None,
            debt: 0,
            writer_idle: false,
            state: QueueState::Open,
            give_up_at: None,
        }
    }

    fn bytes(&self) -> usize {
        self.queued + self.taken
    }

    /// Whether a line may have its bodies.
    pub(super) fn has_room_for_bodies(&self, importance: Importance) -> bool {
        self.bytes() < importance.room_for_bodies()
    }

    /// Returns false if the queue is closed, or full and no room was reserved.
    pub(super) fn append(&mut self, line: NewLine<'_>, importance: Importance, reserved: bool) -> bool {
        if self.state != QueueState::Open {
            return false;
        }
        if !reserved && self.bytes() >= importance.room_for_lines() {
            self.gap.get_or_insert_with(|| Gap { count: 0, since: SystemTime::now() }).count += 1;
            return false;
        }
        self.report_gap();
        match line {
            NewLine::Formatted(line) => self.push(line),
            NewLine::Deferred(line) => {
                self.queued += line.size;
                self.batch.chunks.push(Chunk::Deferred(line));
            }
        }
        true
    }

    /// Appends an event for the gap, if there is one.
    pub(super) fn report_gap(&mut self) {
        if let Some(Gap { count, since }) = self.gap.take() {
            let mut line = lines::event("dropped", "count", count);
            line.pop();
            line.extend_from_slice(b",\"since\":\"");
            encode::time(&mut line, since);
            line.push(b'"');
            self.push(&mut line);
        }
    }

    fn push(&mut self, line: &mut Vec<u8>) {
        line.push(b'\n');
        self.queued += line.len();
        match self.batch.chunks.last_mut() {
            Some(Chunk::Lines(last)) if last.len() + line.len() <= CHUNK => last.extend_from_slice(line),
            _ if line.len() > CHUNK => self.batch.chunks.push(Chunk::Lines(std::mem::take(line))),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.extend_from_slice(line);
                self.batch.chunks.push(Chunk::Lines(chunk));
            }
        }
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
        self.queued >= WRITE_AT || self.state != QueueState::Open
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batch.chunks.is_empty() && self.gap.is_none()
    }

    /// Whether the writer sleeps until it is notified.
    pub(super) fn set_writer_idle(&mut self, idle: bool) {
        self.writer_idle = idle;
    }

    /// Takes all lines; they count as queued until [`Queue::written`].
    pub(super) fn take(&mut self) -> LineBatch {
        self.taken += std::mem::take(&mut self.queued);
        std::mem::take(&mut self.batch)
    }

    /// Bytes that [`Queue::take`] has returned are written, or given up.
    pub(super) fn written(&mut self, bytes: usize) {
        self.taken -= bytes.min(self.taken);
    }

    pub(super) fn close(&mut self, give_up_at: Instant) {
        if self.state == QueueState::Open {
            self.state = QueueState::Closing;
            self.give_up_at = Some(give_up_at);
        }
    }

    /// Whether the writer gives up an output that accepts nothing.
    pub(super) fn gives_up(&self) -> bool {
        self.give_up_at.is_some_and(|at| Instant::now() >= at)
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
