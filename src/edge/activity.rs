//! What a client connection is doing: which of its states it is in, and when that ends.
//!
//! What always holds: a connection is *idle* (no request, and no byte of a response was taken; `limits.idle`), *in a head*
//! (`limits.header_read`; on HTTP/2 also beside other requests, because no other frame may come before the end of a head, and
//! `frames` says when one begins), or *busy* (no deadline here: the request has its own, and an HTTP/2 stream one for its
//! response, in `streams`; only an HTTP/1.1 response that is still being received must be taken by its deadline).
//!
//! On HTTP/2 a peer can send frames that belong to no request (PING, SETTINGS, PRIORITY) as fast as it
//! likes, and hyper answers each of them. The bytes received beside requests are therefore counted; there may be `SLACK` of
//! them, and what the requests in progress may bring.
//!
//! Told by the connection's IO (`deadlines`, `frames`) and by its requests; must not know what those mean. Never fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    connection_limit::{ConnectionStanding, ConnectionUse},
    heads::Heads,
    receipts::Receipts,
};
use crate::{config::LimitsConfig, deadline::ARRIVED_WITHIN};

/// What a connection is doing. Shared by its IO and its requests, all of which run in one thread.
pub(super) struct Activity {
    pub(super) standing: Arc<ConnectionStanding>,
    opened: Instant,
    pub(super) idle: Duration,
    header_read: Duration,
    /// Requests in progress: until their response was handed to hyper, or given up.
    busy: AtomicUsize,
    /// Those of them that wait for the rest of their body.
    receiving: AtomicUsize,
    /// Those of them whose response is complete here and waits for its client.
    delivering: AtomicUsize,
    /// Whether a request head has begun and is not complete.
    in_head: AtomicBool,
    /// There was no memory for the rest of the head in progress.
    pub(super) head_refused: AtomicBool,
    /// Whether a request head has been complete.
    requested: AtomicBool,
    http2: AtomicBool,
    /// A response has said that it ends the connection.
    closing: AtomicBool,
    /// Only the end of the connection shows the end of its response, which is not complete (HTTP/1.0).
    unended: AtomicBool,
    /// The connection was given up: nothing more is written to it.
    pub(super) given_up: AtomicBool,
    /// hyper has read, or waits for bytes.
    pub(super) reading: AtomicBool,
    /// HTTP/1.1 only: bytes received since the last piece of a request's body, or its head.
    framing: AtomicUsize,
    /// HTTP/1.1 only: the last bytes that were received. Behind the whole of a request they may be the beginning of another head.
    last_bytes: AtomicU32,
    /// HTTP/1.1 only: the last request has no body.
    is_bodiless: AtomicBool,
    /// When the first byte of the head in progress was received, in microseconds since `opened`.
    head_began: AtomicU64,
    /// The same of the last complete head.
    request_began: AtomicU64,
    /// Microseconds since `opened`; `NEVER` while busy. Does not count while in a head.
    deadline: AtomicU64,
    /// Microseconds from the next check of the deadline to the new deadline; 0: unchanged. Recording a duration
    /// instead of a time means that the clock is read once per check, however many events there were.
    renewed: AtomicU64,
    /// Maximum size of one request, head and body, in bytes.
    each: u64,
    /// HTTP/2 only: bytes received since the last request began, less the allowance of requests that have ended.
    beside: AtomicU64,
    /// The deadline is one that [`Activity::extend_for_responses`] has set.
    extended: AtomicBool,
    /// HTTP/2 streams that are not over: their request is in progress, or h2 waits for the peer's window.
    streams: AtomicUsize,
    /// HTTP/2 only.
    pub(super) heads: Heads,
    pub(super) receipts: Receipts,
}

/// A time that does not come.
pub(super) const NEVER: u64 = u64::MAX;

/// Least rate at which a caller must take a response, in bytes per second. `limits.idle` is the slack.
pub(super) const LEAST_RATE: u32 = 256;
/// How many bytes an HTTP/2 connection may receive beside its requests between the beginnings of two of them: what may
/// still arrive of refused bodies, what h2 reads of new requests before it passes on the first of them (both are bounded
/// by hyper's connection window, 1 MiB, which is opened again while the first is discarded), and thousands of small frames.
pub(super) const SLACK: u64 = 3 * 1024 * 1024 + 128 * 1024;
/// Maximum number of bytes over HTTP/1.1 before a piece of a request's body: the size and extensions of its chunk, and trailers.
/// hyper bounds some of them, but not zeros before a size and spaces behind it, which it reads one by one.
const FRAMING: usize = 64 * 1024;

/// Allowance for a request head and its frames, in bytes.
pub(super) const LONGEST_HEAD: u64 = 64 * 1024;

impl Activity {
    /// The state of a connection that has just been accepted: idle.
    pub(super) fn new(limits: &LimitsConfig, standing: Arc<ConnectionStanding>) -> Arc<Self> {
        let (idle, header_read) = (limits.idle, limits.header_read);
        Arc::new(Activity {
            standing,
            opened: Instant::now(),
            idle,
            header_read,
            busy: AtomicUsize::new(0),
            receiving: AtomicUsize::new(0),
            delivering: AtomicUsize::new(0),
            in_head: AtomicBool::new(false),
            head_refused: AtomicBool::new(false),
            requested: AtomicBool::new(false),
            http2: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            unended: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            reading: AtomicBool::new(false),
            framing: AtomicUsize::new(0),
            last_bytes: AtomicU32::new(0),
            is_bodiless: AtomicBool::new(false),
            head_began: AtomicU64::new(0),
            request_began: AtomicU64::new(0),
            deadline: AtomicU64::new(idle.as_micros() as u64),
            renewed: AtomicU64::new(0),
            each: limits.request_body as u64 + LONGEST_HEAD,
            beside: AtomicU64::new(0),
            extended: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
            heads: Heads::default(),
            receipts: Receipts::default(),
        })
    }

    /// In microseconds since the connection was opened.
    pub(super) fn now(&self) -> u64 {
        self.micros_at(Instant::now())
    }

    pub(super) fn micros_at(&self, instant: Instant) -> u64 {
        instant.duration_since(self.opened).as_micros() as u64
    }

    pub(super) fn instant_of(&self, micros: u64) -> Instant {
        self.opened + Duration::from_micros(micros)
    }

    /// `limits.idle` after a time, both in microseconds.
    pub(super) fn idle_after(&self, micros: u64) -> u64 {
        micros.saturating_add(self.idle.as_micros() as u64)
    }

    /// Sets the deadline, counted from now. The clock is read by the next poll, so that must come at once: hyper polls the
    /// connection after what happens on it, but on HTTP/2 it writes after its last read.
    fn ends_in(&self, time: Duration) {
        self.renewed.store(time.as_micros() as u64, Relaxed);
        self.extended.store(false, Relaxed);
    }

    /// Whether a connection whose deadline has passed goes on for a moment, once: the client of an HTTP/2 response may
    /// have opened its window in time, and hyper writes in a later turn than it reads.
    pub(super) fn extend_for_responses(&self) -> bool {
        if self.streams.load(Relaxed) == 0 || self.extended.load(Relaxed) {
            return false;
        }
        self.ends_in(ARRIVED_WITHIN);
        self.extended.store(true, Relaxed);
        true
    }

    /// Sets the deadline, in microseconds after `opened`.
    fn ends_at(&self, micros: u64) {
        self.renewed.store(0, Relaxed);
        self.deadline.store(micros, Relaxed);
    }

    /// The connection is idle from now on, whenever it is polled again.
    fn idle_begins(&self) {
        self.extended.store(false, Relaxed);
        self.ends_at(self.idle_after(self.now()));
    }

    pub(super) fn bytes_came(&self, came: &[u8]) {
        if self.http2.load(Relaxed) {
            // A byte does not mean that a head begins: PING and WINDOW_UPDATE frames come at any time.
            self.beside.fetch_add(came.len() as u64, Relaxed);
            return;
        }
        self.framing.store(self.framing.load(Relaxed).saturating_add(came.len()), Relaxed);
        let last = &came[came.len().saturating_sub(3)..];
        let append = |before: u32, byte: &u8| before << 8 | u32::from(*byte);
        self.last_bytes.store(last.iter().fold(self.last_bytes.load(Relaxed), append), Relaxed);
        if self.busy.load(Relaxed) == 0 && !self.in_head.load(Relaxed) {
            self.head_begins();
        }
    }

    fn head_begins(&self) {
        self.in_head.store(true, Relaxed);
        self.head_began.store(self.now(), Relaxed);
    }

    /// hyper reads again: if the last request was whole and is over, what came behind it is the beginning of a head, or
    /// nothing.
    pub(super) fn look_behind_request(&self) {
        let is_over = self.requested.load(Relaxed) && self.busy.load(Relaxed) == 0 && !self.in_head.load(Relaxed);
        // A request without a body ends with an empty line.
        let ends_with_empty_line = || {
            let [_, last @ ..] = self.last_bytes.load(Relaxed).to_be_bytes();
            last == *b"\n\r\n" || last.ends_with(b"\n\n")
        };
        if is_over && self.is_bodiless.load(Relaxed) && !ends_with_empty_line() {
            self.head_begins();
        }
    }

    /// A piece of an HTTP/1.1 request's body has come.
    pub(super) fn piece_came(&self) {
        self.framing.store(0, Relaxed);
    }

    /// Records that a request head was passed on, and returns the time of its first byte.
    pub(super) fn request_began(&self, is_bodiless: bool) -> Instant {
        self.busy.fetch_add(1, Relaxed);
        self.note_use(Instant::now);
        self.framing.store(0, Relaxed);
        self.is_bodiless.store(is_bodiless, Relaxed);
        self.requested.store(true, Relaxed);
        self.ends_at(NEVER);
        if self.http2.load(Relaxed) {
            self.beside.store(0, Relaxed);
            self.heads.passed_on();
            return self.instant_of(self.request_began.load(Relaxed));
        }
        if self.in_head.swap(false, Relaxed) { self.instant_of(self.head_began.load(Relaxed)) } else { Instant::now() }
    }

    /// Records that a request waits for its body from now on.
    pub(super) fn body_awaited(&self) {
        self.receiving.fetch_add(1, Relaxed);
        self.note_use(Instant::now);
    }

    /// Records that the body that a request waits for has come whole, or that no more of it is awaited: the request ends then.
    pub(super) fn body_ended(&self, whole: bool) {
        self.receiving.fetch_sub(1, Relaxed);
        if whole {
            self.note_use(Instant::now);
        }
    }

    /// Records that the response to a request is complete here, and waits for its client from then on.
    pub(super) fn delivery_began(&self, at: Instant) {
        self.delivering.fetch_add(1, Relaxed);
        self.note_use(|| at);
    }

    fn note_use(&self, since: impl FnOnce() -> Instant) {
        let waits = || self.receiving.load(Relaxed) + self.delivering.load(Relaxed);
        let used = match self.busy.load(Relaxed) {
            0 => ConnectionUse::Idle,
            busy if busy <= waits() => ConnectionUse::AwaitsClient,
            _ => ConnectionUse::Busy,
        };
        self.standing.set_use(used, since);
    }

    /// Records that the client has sent the whole preface of HTTP/2, which counts as a head until then.
    pub(super) fn is_http2(&self) {
        self.http2.store(true, Relaxed);
        self.in_head.store(false, Relaxed);
    }

    /// Records what was received over HTTP/2: the number of heads that are now complete, and whether another one has
    /// begun.
    pub(super) fn heads_came(&self, complete: u64, another: bool) {
        let was_in_head = self.in_head.swap(another, Relaxed);
        if complete == 0 && (!another || was_in_head) {
            return;
        }
        let now = self.now();
        if complete > 0 {
            let began = if was_in_head { self.head_began.load(Relaxed) } else { now };
            self.request_began.store(began, Relaxed);
            self.heads.received(complete);
            if self.busy.load(Relaxed) == 0 {
                self.ends_in(self.idle);
            }
        }
        if another {
            self.head_began.store(now, Relaxed);
        }
    }

    /// Whether more bytes were received than the requests in progress account for.
    pub(super) fn is_flooded(&self) -> bool {
        if !self.http2.load(Relaxed) {
            return self.busy.load(Relaxed) > 0 && self.framing.load(Relaxed) > FRAMING;
        }
        self.beside.load(Relaxed) > SLACK + self.busy.load(Relaxed) as u64 * self.each
    }

    /// Records when an HTTP/1.1 response that is still being received must have been taken; `None`: Fastrac is waited
    /// for.
    pub(super) fn response_ends_at(&self, end: Option<Instant>) {
        self.ends_at(end.map_or(NEVER, |end| self.micros_at(end)));
    }

    /// Records that the peer accepted bytes that it had not accepted at once.
    pub(super) fn bytes_went_late(&self) {
        // On HTTP/1 the last bytes of a response may be written long after its request has ended. On HTTP/2
        // they may be the answer to a PING, which is no use of the connection.
        if self.busy.load(Relaxed) == 0 && !self.http2.load(Relaxed) && !self.in_head.load(Relaxed) {
            self.idle_begins();
        }
    }

    /// Records that the peer accepted bytes of an HTTP/2 response.
    pub(super) fn response_bytes_went(&self) {
        if self.busy.load(Relaxed) == 0 {
            self.idle_begins();
        }
    }

    /// Records that a request has ended, completely or not. `delivered`: its delivery had begun.
    pub(super) fn request_ended(&self, delivered: bool) {
        let is_http2 = self.http2.load(Relaxed);
        if is_http2 {
            self.beside.store(self.beside.load(Relaxed).saturating_sub(self.each), Relaxed);
        }
        if delivered {
            self.delivering.fetch_sub(1, Relaxed);
        }
        let in_progress = self.busy.fetch_sub(1, Relaxed);
        self.note_use(Instant::now);
        match in_progress {
            1 if is_http2 => self.idle_begins(),
            1 => self.ends_in(self.idle),
            _ => {}
        }
    }

    /// Records that an HTTP/2 stream was opened.
    pub(super) fn stream_began(&self) {
        self.streams.fetch_add(1, Relaxed);
    }

    /// Records that an HTTP/2 stream is over: all of its response was written, or it was reset.
    pub(super) fn stream_ended(&self) {
        self.streams.fetch_sub(1, Relaxed);
    }

    /// Whether more than so many HTTP/2 streams are not over.
    pub(super) fn has_streams_beyond(&self, number: usize) -> bool {
        self.streams.load(Relaxed) > number
    }

    /// Records that a response ends the connection.
    pub(super) fn response_closes(&self) {
        self.closing.store(true, Relaxed);
    }

    /// Whether a response ends the connection.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Relaxed)
    }

    /// Records whether the end of the connection would be taken for that of a response that is not complete.
    pub(super) fn response_is_unended(&self, unended: bool) {
        self.unended.store(unended, Relaxed);
    }

    pub(super) fn has_unended_response(&self) -> bool {
        self.unended.load(Relaxed)
    }

    /// Whether the client was waited for in vain.
    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Relaxed)
    }

    /// At the end of a connection: whether the client may still be sending, and has something to read.
    pub(super) fn may_be_sending(&self) -> bool {
        self.is_closing() || self.is_on_http2() || self.is_in_head()
    }

    /// Whether a request head has been complete.
    pub(super) fn has_begun_a_request(&self) -> bool {
        self.requested.load(Relaxed)
    }

    /// Whether a request is in progress.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Relaxed) > 0
    }

    /// Whether a request is in progress whose response is not complete here, or is that to an order.
    pub(super) fn has_work(&self) -> bool {
        self.busy.load(Relaxed) > self.delivering.load(Relaxed)
    }

    /// On HTTP/2: whether a response is awaited, or not written whole.
    pub(super) fn has_responses(&self) -> bool {
        self.streams.load(Relaxed) > 0 || self.heads.is_write_waiting()
    }

    pub(super) fn is_on_http2(&self) -> bool {
        self.http2.load(Relaxed)
    }

    /// Whether a request head has begun and is not complete: at the end of a connection, that it was cut short.
    pub(super) fn is_in_head(&self) -> bool {
        self.in_head.load(Relaxed)
    }

    /// How long ago the last head began; if there was none, the connection.
    pub(super) fn since_last_head(&self) -> Duration {
        let began = self.head_began.load(Relaxed).max(self.request_began.load(Relaxed));
        Instant::now().duration_since(self.instant_of(began))
    }

    /// Whether the connection ends because there was no memory for the head that has begun.
    pub(super) fn is_head_refused(&self) -> bool {
        self.head_refused.load(Relaxed)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.is_in_head() {
            return Some(self.instant_of(self.head_began.load(Relaxed)) + self.header_read);
        }
        let renewed = self.renewed.load(Relaxed);
        if renewed > 0 {
            self.ends_at(self.now() + renewed);
        }
        match self.deadline.load(Relaxed) {
            NEVER => None,
            micros => Some(self.instant_of(micros)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::edge) const IDLE: Duration = Duration::from_secs(75);
    pub(in crate::edge) const HEAD: Duration = Duration::from_secs(10);
    const REQUEST: Duration = Duration::from_secs(30);

    pub(in crate::edge) fn limits() -> LimitsConfig {
        LimitsConfig {
            request_body: 1,
            answer_body: 1,
            answer_buffer: 1,
            header_read: HEAD,
            idle: IDLE,
            request: REQUEST,
            connections: 1,
            memory: 1,
            drain_grace: IDLE,
            drain: IDLE,
        }
    }

    pub(in crate::edge) fn activity(limits: &LimitsConfig) -> Arc<Activity> {
        Activity::new(limits, Arc::new(ConnectionStanding::new(None)))
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_an_http2_request_counts_from_its_first_byte() {
        let activity = activity(&limits());
        activity.is_http2();
        activity.heads_came(0, true);
        let began = Instant::now();
        tokio::time::advance(Duration::from_secs(3)).await;
        // One is complete, another follows.
        activity.heads_came(1, true);
        assert_eq!(activity.request_began(false), began);
        activity.request_ended(false);
        tokio::time::advance(Duration::from_secs(3)).await;
        activity.heads_came(1, false);
        assert_eq!(activity.request_began(false), began + Duration::from_secs(3));
        // A head that h2 refuses leaves the connection idle.
        activity.request_ended(false);
        activity.heads_came(1, false);
        assert_eq!(activity.deadline(), Some(Instant::now() + IDLE));
    }
}
