//! Follows the frames of an HTTP/2 connection, to know when request heads begin and end.
//!
//! hyper has no hook for this, and without it half a head could be held for `limits.idle`, and what h2 refuses by
//! itself could be neither counted nor logged. A client that resets a stream whose response is complete has not read
//! it, which h2 does not say either. Only the 9 bytes before each frame are looked at, in both directions; payloads are
//! skipped, and nothing is decoded. What always holds: bytes are unchanged. A connection that does not begin with the
//! preface is not followed. This file must not know what a request means. Fails only as the inner stream does.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;

/// The first bytes of a client (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Size of a frame's header, in bytes (RFC 9113, section 4.1).
const HEADER: usize = 9;
/// Position of a frame's type in its header.
const TYPE: usize = 3;

/// Frame types and flags (RFC 9113, section 6).
const HEADERS: u8 = 1;
const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Maximum size of the header block of a response that h2 makes by itself, in bytes: `:status` alone, literal. A response
/// of the gateway's has eight fields or more.
const STATUS_ALONE: usize = 7;

/// How many streams whose response was written are remembered: more than a connection answers in the second in which a reset
/// may show that its client has not read one.
const ANSWERED: usize = 16 * 1024;

/// IO that follows the frames of an HTTP/2 connection.
pub(super) struct FollowedIo<S> {
    io: S,
    activity: Arc<Activity>,
    inbound: Inbound,
    outbound: FrameReader,
    /// Streams whose response was written completely and may not be decided, the last ones.
    answered: VecDeque<u32>,
}

/// What the client has sent so far.
#[derive(Debug)]
enum Inbound {
    /// So many bytes of the preface.
    Preface(usize),
    Frames(RequestHeads),
    /// Something else: HTTP/1.1, or garbage.
    Other,
}

impl<S> FollowedIo<S> {
    pub(super) fn new(io: S, activity: Arc<Activity>) -> Self {
        FollowedIo {
            io,
            activity,
            inbound: Inbound::Preface(0),
            outbound: FrameReader::default(),
            answered: VecDeque::new(),
        }
    }

    fn bytes_came(&mut self, mut bytes: &[u8]) {
        if let Inbound::Preface(known) = self.inbound {
            let (preface, rest) = bytes.split_at(bytes.len().min(PREFACE.len() - known));
            let known = known + preface.len();
            if !PREFACE[..known].ends_with(preface) {
                self.inbound = Inbound::Other;
            } else if known < PREFACE.len() {
                self.inbound = Inbound::Preface(known);
            } else {
                self.activity.is_http2();
                self.inbound = Inbound::Frames(RequestHeads::default());
                bytes = rest;
            }
        }
        if let Inbound::Frames(heads) = &mut self.inbound {
            let complete = heads.read(bytes);
            self.activity.heads_came(complete, heads.is_in_head());
            let receipts = &self.activity.receipts;
            // A stream that is reset although its response is complete: the client has not read that.
            let resets = std::mem::take(&mut heads.resets);
            if resets.iter().any(|stream| self.answered.contains(stream)) {
                receipts.give_up();
            }
            // Not before: a reset may have come in time and be read late.
            receipts.decide_late();
            if receipts.are_none() {
                self.answered.clear();
            }
        }
    }

    fn bytes_went(&mut self, mut bytes: &[u8]) {
        while let Some(frame) = self.outbound.next(&mut bytes) {
            if frame.kind == DATA && frame.flags & END_STREAM != 0 {
                if self.answered.len() == ANSWERED {
                    self.answered.pop_front();
                }
                self.answered.push_back(frame.stream);
            }
            let ends = frame.flags & (END_STREAM | END_HEADERS) == END_STREAM | END_HEADERS;
            if frame.kind == HEADERS && ends && frame.length <= STATUS_ALONE {
                self.activity.heads.answered_431();
            }
        }
    }
}

/// A frame that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    /// Of the payload, in bytes.
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Divides a stream of bytes into frames.
#[derive(Debug, Default)]
struct FrameReader {
    header: [u8; HEADER],
    /// How many bytes of `header` have been read.
    known: usize,
    /// How many bytes of the payload are still to be skipped, once `header` is complete.
    left: usize,
}

impl FrameReader {
    /// Reads up to the end of a frame; `None` if the bytes are used up before.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        if self.known < HEADER {
            let (came, rest) = bytes.split_at(bytes.len().min(HEADER - self.known));
            self.header[self.known..][..came.len()].copy_from_slice(came);
            self.known += came.len();
            *bytes = rest;
            if self.known < HEADER {
                return None;
            }
            self.left = self.frame().length;
        }
        let skipped = bytes.len().min(self.left);
        *bytes = &bytes[skipped..];
        self.left -= skipped;
        (self.left == 0).then(|| {
            self.known = 0;
            self.frame()
        })
    }

    fn frame(&self) -> Frame {
        let [high, middle, low, kind, flags, stream @ ..] = self.header;
        Frame {
            length: u32::from_be_bytes([0, high, middle, low]) as usize,
            kind,
            flags,
            // The first bit is reserved.
            stream: u32::from_be_bytes(stream) << 1 >> 1,
        }
    }

    /// Type and, once its header is complete, stream of a frame that has begun; the type of a header that has just
    /// begun is not known.
    fn begun(&self) -> Option<(Option<u8>, Option<u32>)> {
        let kind = (self.known > TYPE).then_some(self.header[TYPE]);
        let stream = (self.known == HEADER).then(|| self.frame().stream);
        (self.known > 0).then_some((kind, stream))
    }
}

/// The request heads among a client's frames.
#[derive(Debug, Default)]
struct RequestHeads {
    frames: FrameReader,
    /// The largest id of a stream that was opened.
    last: u32,
    /// A head has begun with HEADERS, and CONTINUATION is to follow.
    continues: bool,
    /// Streams that the client has reset in what came last.
    resets: Vec<u32>,
}

impl RequestHeads {
    /// Returns the number of heads that became complete.
    fn read(&mut self, mut bytes: &[u8]) -> u64 {
        let mut complete = 0;
        while let Some(frame) = self.frames.next(&mut bytes) {
            if frame.kind == RST_STREAM {
                self.resets.push(frame.stream);
            }
            let opens = frame.kind == HEADERS && self.is_new(frame.stream);
            if opens {
                self.last = self.last.max(frame.stream);
            }
            if opens || (self.continues && frame.kind == CONTINUATION) {
                self.continues = frame.flags & END_HEADERS == 0;
                complete += u64::from(!self.continues);
            }
        }
        complete
    }

    /// Whether HEADERS on this stream open it, rather than end its request with trailers.
    fn is_new(&self, stream: u32) -> bool {
        stream > self.last || stream == 0
    }

    /// Whether a head has begun and is not complete.
    fn is_in_head(&self) -> bool {
        self.continues
            || match self.frames.begun() {
                None => false,
                Some((kind, stream)) => {
                    kind.is_none_or(|kind| kind == HEADERS) && stream.is_none_or(|stream| self.is_new(stream))
                }
            }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FollowedIo<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.activity.heads.all_read(polled.is_pending());
        if let Poll::Ready(Ok(())) = polled {
            match &buf.filled()[before..] {
                [] => self.activity.heads.peer_closed(),
                came => self.bytes_came(came),
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FollowedIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.activity.heads.write_waits(polled.is_pending());
        if let Poll::Ready(Ok(written)) = polled {
            self.bytes_went(&buf[..written]);
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.activity.heads.write_waits(polled.is_pending());
        if let Poll::Ready(Ok(mut written)) = polled {
            for buf in bufs {
                let part = written.min(buf.len());
                self.bytes_went(&buf[..part]);
                written -= part;
            }
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS accepts bytes at once, and writes them here.
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.activity.heads.write_waits(polled.is_pending());
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        body::Receipt,
        edge::activity::tests::{activity, limits},
    };

    fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
        let head = [&(length as u32).to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        [head, vec![b'x'; length]].concat()
    }

    const PING: u8 = 6;

    #[test]
    fn heads_are_found_however_the_bytes_are_cut() {
        let frames = [
            frame(4, 0, 0, 18),
            frame(HEADERS, END_HEADERS, 1, 30),
            frame(DATA, 0, 1, 5000),
            frame(PING, 0, 0, 8),
            // Trailers, then a head in three frames, and one with the reserved bit.
            frame(HEADERS, END_HEADERS | END_STREAM, 1, 10),
            frame(HEADERS, END_STREAM, 3, 10),
            frame(CONTINUATION, 0, 3, 0),
            frame(CONTINUATION, END_HEADERS, 3, 10),
            frame(HEADERS, END_HEADERS, 5 | 1 << 31, 0),
            // Streams that a client must not open are refused by h2.
            frame(HEADERS, END_HEADERS, 0, 3),
            frame(HEADERS, END_HEADERS, 6, 3),
        ]
        .concat();
        for piece in 1..40 {
            let mut heads = RequestHeads::default();
            let complete: u64 = frames.chunks(piece).map(|bytes| heads.read(bytes)).sum();
            assert_eq!((complete, heads.is_in_head()), (5, false), "{piece}");
        }
    }

    #[test]
    fn a_head_has_begun_with_its_first_byte() {
        let head = frame(HEADERS, 0, 1, 20);
        for end in 1..=head.len() {
            let mut heads = RequestHeads::default();
            assert_eq!((heads.read(&head[..end]), heads.is_in_head()), (0, true), "{end}");
        }
        for (before, other) in [
            (vec![], frame(PING, 0, 0, 8)),
            (frame(HEADERS, END_HEADERS, 1, 3), frame(DATA, 0, 1, 20)),
            (frame(HEADERS, END_HEADERS, 1, 3), frame(HEADERS, 0, 1, 20)),
        ] {
            let mut heads = RequestHeads::default();
            heads.read(&before);
            heads.read(&other[..HEADER + 1]);
            assert!(!heads.is_in_head(), "{other:?}");
            heads.read(&other[HEADER + 1..]);
            assert!(!heads.is_in_head(), "{other:?}");
        }
    }

    /// Tells whether a response has reached its caller.
    struct TestReceipt(Arc<AtomicBool>);

    impl Receipt for TestReceipt {
        fn begun(&mut self) {}

        fn written(&mut self) {}

        fn reached(self: Box<Self>) {
            self.0.store(true, Relaxed);
        }
    }

    /// One that always has an order's response that is not decided.
    #[tokio::test]
    async fn a_connection_remembers_a_bounded_number_of_streams() {
        let activity = activity(&limits());
        let mut io = FollowedIo::new((), activity.clone());
        io.bytes_came(PREFACE);
        activity.receipts.taken(Some(Box::new(TestReceipt(Arc::default()))));
        for stream in 0..ANSWERED as u32 + 7 {
            io.bytes_went(&frame(DATA, END_STREAM, 2 * stream + 1, 1));
        }
        assert_eq!((io.answered.len(), io.answered.front()), (ANSWERED, Some(&15)));
    }

    /// Of a response whose last bytes TLS has taken and not written.
    #[tokio::test]
    async fn a_stream_that_is_reset_before_its_response_is_flushed_has_not_delivered_it() {
        for resets in [false, true] {
            let (activity, reached) = (activity(&limits()), Arc::<AtomicBool>::default());
            let mut io = FollowedIo::new((), activity.clone());
            io.bytes_came(&[PREFACE, &frame(HEADERS, END_HEADERS | END_STREAM, 1, 30)].concat());
            activity.receipts.taken(Some(Box::new(TestReceipt(reached.clone()))));
            io.bytes_went(&frame(DATA, END_STREAM, 1, 30));
            io.bytes_came(&frame(PING, 0, 0, 8));
            if resets {
                io.bytes_came(&frame(RST_STREAM, 0, 1, 4));
            }
            activity.receipts.flushed();
            activity.receipts.decide(|| false);
            assert_eq!(reached.load(Relaxed), !resets);
        }
    }

    proptest! {
        #[test]
        fn garbage_is_read_without_end_and_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut whole = RequestHeads::default();
            let complete = whole.read(&bytes);
            let mut pieces = RequestHeads::default();
            let sum: u64 = bytes.chunks(7).map(|piece| pieces.read(piece)).sum();
            prop_assert_eq!((complete, whole.is_in_head()), (sum, pieces.is_in_head()));
        }
    }
}
