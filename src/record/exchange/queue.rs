//! The bounded queue: finished lines in the order in which they came.
//!
//! Always holds: what finds no room is refused, and a line says where and how much; the more important a line
//! is, the more room it has, and no line takes the room of a more or less important one. It does no I/O, so its lock is
//! held only for the duration of a small copy: a large line is moved. Never fails.
//!
//! Bodies have less room than lines: when the room fills up, lines are accepted without their bodies before
//! lines are refused.
//!
//! With `on_full = "block"`, a request waits before it begins until the queue is half empty, and its line is accepted then,
//! however full the queue is. So what is beyond the room are lines of requests that were in progress.

use std::time::{Instant, SystemTime};

use super::lines;
use crate::record::encode;

const KIB: usize = 1024;

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

/// Bytes by [`Importance`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    unidentified: usize,
    ordinary: usize,
    order: usize,
}

impl Sizes {
    /// A total, shared out: 1/64 for requests of unknown callers, 15/64 for ordinary ones, 48/64 for orders.
    pub(super) fn shares_of(total: usize) -> Sizes {
        let part = total / 64;
        Sizes { unidentified: part, ordinary: 15 * part, order: 48 * part }
    }

    fn only(importance: Importance, bytes: usize) -> Sizes {
        let mut sizes = Sizes::default();
        *sizes.of_mut(importance) = bytes;
        sizes
    }

    fn of(self, importance: Importance) -> usize {
        match importance {
            Importance::Unidentified => self.unidentified,
            Importance::Ordinary => self.ordinary,
            Importance::Order => self.order,
        }
    }

    fn of_mut(&mut self, importance: Importance) -> &mut usize {
        match importance {
            Importance::Unidentified => &mut self.unidentified,
            Importance::Ordinary => &mut self.ordinary,
            Importance::Order => &mut self.order,
        }
    }

    fn total(self) -> usize {
        self.unidentified + self.ordinary + self.order
    }

    fn add(&mut self, other: Sizes) {
        self.unidentified += other.unidentified;
        self.ordinary += other.ordinary;
        self.order += other.order;
    }

    /// Subtracts what was added before.
    fn subtract(&mut self, other: Sizes) {
        self.unidentified -= other.unidentified;
        self.ordinary -= other.ordinary;
        self.order -= other.order;
    }
}

/// Appends a line to a buffer; with its bodies or, if there is no time for them, without.
type FormatLine = dyn FnOnce(&mut Vec<u8>, bool) + Send;

/// A line whose formatting is left to the writer, because it takes long.
pub(in crate::record) struct DeferredLine {
    /// About how long the line will be, bytes.
    size: usize,
    format: Box<FormatLine>,
}

impl DeferredLine {
    pub(in crate::record) fn new(
        size: usize,
        format: impl FnOnce(&mut Vec<u8>, bool) + Send + 'static,
    ) -> DeferredLine {
        DeferredLine { size, format: Box::new(format) }
    }
}

/// A line for the queue.
pub(in crate::record) enum NewLine<'a> {
    /// Its buffer may be taken.
    Formatted(&'a mut Vec<u8>),
    Deferred(DeferredLine),
}

/// Consecutive lines of the queue.
pub(super) struct Chunk {
    /// The bytes that it is counted as.
    pub(super) sizes: Sizes,
    content: ChunkContent,
}

enum ChunkContent {
    /// Whole lines.
    Lines(Vec<u8>),
    Deferred(DeferredLine),
}

impl Chunk {
    /// Whether it is a line that is still to be formatted.
    pub(super) fn is_deferred(&self) -> bool {
        matches!(self.content, ChunkContent::Deferred(_))
    }

    /// Its lines. Those that are still to be formatted get their bodies only if there is time.
    pub(super) fn into_lines(self, has_time: bool) -> Vec<u8> {
        match self.content {
            ChunkContent::Lines(lines) => lines,
            ChunkContent::Deferred(DeferredLine { size, format }) => {
                let mut line = Vec::with_capacity(size);
                format(&mut line, has_time);
                line.push(b'\n');
                line
            }
        }
    }
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
    chunks: Vec<Chunk>,
    /// Room for lines.
    room: Sizes,
    /// What the lines take, from [`Queue::append`] until they are written.
    used: Sizes,
    /// Size of `chunks`, bytes.
    queued: usize,
    /// Lines refused since the last one that was accepted.
    gap: Option<Gap>,
    /// Whether the writer sleeps until it is notified.
    writer_idle: bool,
    state: QueueState,
    /// When the writer gives up an output that accepts nothing; set when the queue closes.
    give_up_at: Option<Instant>,
}

impl Queue {
    pub(super) fn new(room: Sizes) -> Queue {
        Queue {
            chunks: Vec::new(),
            room,
            used: Sizes::default(),
            queued: 0,
            gap: None,
            writer_idle: false,
            state: QueueState::Open,
            give_up_at: None,
        }
    }

    /// Whether a line may have bodies of this many bytes: they fit in four fifths of the room, so that large ones leave
    /// room for lines.
    pub(super) fn has_room_for_bodies(&self, importance: Importance, bytes: usize) -> bool {
        self.used.of(importance).saturating_add(bytes) <= self.room.of(importance) / 5 * 4
    }

    /// Whether a line is accepted. The last one may exceed the room.
    fn has_room(&self, importance: Importance) -> bool {
        self.used.of(importance) < self.room.of(importance)
    }

    /// Whether another request may begin, with `on_full = "block"`.
    pub(super) fn may_begin(&self) -> bool {
        self.used.total() < self.room.total() / 2
    }

    /// Returns false if the queue is closed, or full and the line's request was not admitted.
    pub(super) fn append(&mut self, line: NewLine<'_>, importance: Importance, admitted: bool) -> bool {
        if self.state != QueueState::Open {
            return false;
        }
        if !admitted && !self.has_room(importance) {
            self.gap.get_or_insert_with(|| Gap { count: 0, since: SystemTime::now() }).count += 1;
            return false;
        }
        self.report_gap();
        match line {
            NewLine::Formatted(line) => self.push(line, importance),
            NewLine::Deferred(line) => {
                let sizes = Sizes::only(importance, line.size);
                self.count(sizes, line.size);
                self.chunks.push(Chunk { sizes, content: ChunkContent::Deferred(line) });
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
            self.push(&mut line, Importance::Ordinary);
        }
    }

    fn count(&mut self, sizes: Sizes, bytes: usize) {
        self.queued += bytes;
        self.used.add(sizes);
    }

    fn push(&mut self, line: &mut Vec<u8>, importance: Importance) {
        line.push(b'\n');
        let sizes = Sizes::only(importance, line.len());
        self.count(sizes, line.len());
        if let Some(Chunk { sizes: counted, content: ChunkContent::Lines(last) }) = self.chunks.last_mut()
            && last.len() + line.len() <= CHUNK
        {
            last.extend_from_slice(line);
            counted.add(sizes);
            return;
        }
        let lines = if line.len() > CHUNK {
            std::mem::take(line)
        } else {
            let mut lines = Vec::with_capacity(CHUNK);
            lines.extend_from_slice(line);
            lines
        };
        self.chunks.push(Chunk { sizes, content: ChunkContent::Lines(lines) });
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
        self.chunks.is_empty() && self.gap.is_none()
    }

    /// Whether the writer sleeps until it is notified.
    pub(super) fn set_writer_idle(&mut self, idle: bool) {
        self.writer_idle = idle;
    }

    /// Takes all lines; they take room until [`Queue::written`].
    pub(super) fn take(&mut self) -> Vec<Chunk> {
        self.queued = 0;
        std::mem::take(&mut self.chunks)
    }

    /// A chunk that [`Queue::take`] has returned is written, or given up.
    pub(super) fn written(&mut self, sizes: Sizes) {
        self.used.subtract(sizes);
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
