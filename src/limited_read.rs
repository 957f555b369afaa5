//! Reads of an HTTP client that cannot keep their thread to themselves: from Fastrac, a vault, a gateway's admin port.
//!
//! hyper reads and parses in one poll for as long as bytes are there: interim responses, zeros before the size of a chunk
//! and the like without end would keep its thread from all other tasks, and the request from its own deadline (tokio's
//! budget of 128 reads is up to 50 MiB of them). So a poll ends after [`TURN`] bytes, where a piece of the body counts as
//! [`PIECE`] of them, however small it is; and a response fails whose head has not come within [`HEAD`] bytes, or the next
//! piece of its body within [`FRAMING`].
//!
//! What always holds: bytes and their order are unchanged; a read that is put off wakes its task. Writes are only noted.
//! Must not know what is read. Fails as the inner stream does, and with `InvalidData` where the head or what frames the
//! body is too long.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::BufMut as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// Maximum number of bytes read in one poll of a task.
const TURN: usize = 256 * 1024;

/// Maximum size of a read, bytes. hyper's buffer doubles when a read fills it, up to 512 KiB, and stays so; a piece of a response, or
/// a header, keeps the whole buffer that it came in, of which only the piece is claimed. So it stays at 16 KiB.
const READ: usize = 16 * 1024 - 1;

/// Maximum number of bytes before the end of a response's head, interim responses included. hyper takes some microseconds
/// for each of them, and the shortest has 16 bytes.
const HEAD: usize = 128 * 1024;

/// What a piece of a response's body counts as in a turn, bytes. hyper and the gateway take about as long for a piece as
/// for reading so many; the shortest chunk has six.
const PIECE: usize = 1024;

/// Maximum number of bytes before a piece of the body: a chunk's size and extensions, and trailers. hyper bounds some of
/// them, but not the zeros before a size, which it reads one by one.
const FRAMING: usize = 64 * 1024;

/// What is left of the limits. Shared by the stream and the connection that sends requests on it.
#[derive(Clone, Debug)]
pub(crate) struct ReadLimits(Arc<Left>);

#[derive(Debug)]
struct Left {
    /// Bytes that may be read before the head of the response is complete, or the next piece of its body.
    silent: AtomicUsize,
    /// Bytes that may be read in this poll.
    turn: AtomicUsize,
    /// Since the request began, the inner stream has taken bytes to write.
    written: AtomicBool,
    /// The inner stream was given bytes to write, and no flush has succeeded since.
    unflushed: AtomicBool,
}

impl ReadLimits {
    /// A request will be sent. The read before it, which looks for bytes that no response is due for, is not put off.
    pub(crate) fn begin_request(&self) {
        self.0.silent.store(HEAD, Relaxed);
        self.0.turn.store(TURN, Relaxed);
        self.0.written.store(false, Relaxed);
        self.0.unflushed.store(true, Relaxed);
    }

    /// Whether bytes of the request may have left. False for one that was dropped before its first write.
    pub(crate) fn has_written(&self) -> bool {
        self.0.written.load(Relaxed)
    }

    /// Notes what a write has come to.
    fn note_write(&self, written: &Poll<io::Result<usize>>, is_exact: bool) {
        self.0.unflushed.store(true, Relaxed);
        if !is_exact || matches!(written, Poll::Ready(Ok(1..))) {
            self.0.written.store(true, Relaxed);
        }
    }

    /// Whether all bytes of the request have left: hyper flushes once it has written all that it has.
    pub(crate) fn has_flushed(&self) -> bool {
        !self.0.unflushed.load(Relaxed)
    }

    /// The head of its response has come.
    pub(crate) fn end_head(&self) {
        self.0.silent.store(FRAMING, Relaxed);
    }

    /// A piece of its body has come.
    pub(crate) fn piece(&self) {
        self.0.silent.store(FRAMING, Relaxed);
        self.0.turn.store(self.0.turn.load(Relaxed).saturating_sub(PIECE), Relaxed);
    }

    /// Ready unless this poll has read enough; then the task is woken for the next one.
    pub(crate) fn poll_turn(&self, cx: &Context<'_>) -> Poll<()> {
        let turn = &self.0.turn;
        if turn.load(Relaxed) > 0 {
            return Poll::Ready(());
        }
        turn.store(TURN, Relaxed);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Default for ReadLimits {
    fn default() -> Self {
        ReadLimits(Arc::new(Left {
            silent: AtomicUsize::new(HEAD),
            turn: AtomicUsize::new(TURN),
            written: AtomicBool::new(false),
            unflushed: AtomicBool::new(false),
        }))
    }
}

/// A stream with limited reads.
#[derive(Debug)]
pub(crate) struct LimitedRead<S> {
    io: S,
    limits: ReadLimits,
    /// Whether a write that fails has taken nothing: TLS may have written a part before.
    is_exact: bool,
}

impl<S> LimitedRead<S> {
    pub(crate) fn new(io: S, limits: ReadLimits) -> Self {
        LimitedRead { io, limits, is_exact: false }
    }

    /// Says whether a write that fails has taken nothing.
    pub(crate) fn with_exact_writes(self, is_exact: bool) -> Self {
        LimitedRead { is_exact, ..self }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LimitedRead<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let LimitedRead { io, limits, .. } = self.get_mut();
        ready!(limits.poll_turn(cx));
        let Left { silent, turn, .. } = &*limits.0;
        let before = buf.filled().len();
        let polled = poll_read_buf(Pin::new(io), cx, &mut buf.limit(READ));
        if polled.is_pending() {
            turn.store(TURN, Relaxed);
        }
        let count = ready!(polled)?;
        // Not before: hyper looks for more behind a last piece that was long and has not been taken yet.
        if count > 0 && silent.load(Relaxed) == 0 {
            buf.set_filled(before);
            let what = "the head of the response, or what frames its body, is too long";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
        }
        for left in [silent, turn] {
            left.store(left.load(Relaxed).saturating_sub(count), Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LimitedRead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.limits.note_write(&written, self.is_exact);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.limits.note_write(&written, self.is_exact);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.limits.0.unflushed.store(false, Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Always has bytes.
    struct Endless;

    impl AsyncRead for Endless {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let room = buf.remaining();
            buf.initialize_unfilled_to(room);
            buf.advance(room);
            Poll::Ready(Ok(()))
        }
    }

    /// Bytes read until the stream has none for now; the error, if it fails. `is_body`: each read is a piece of the body.
    fn one_turn(stream: &mut LimitedRead<Endless>, is_body: bool) -> (usize, Option<io::ErrorKind>) {
        let (mut piece, mut count) = (vec![0; 8192], 0);
        loop {
            let mut buf = ReadBuf::new(&mut piece);
            match Pin::new(&mut *stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf) {
                Poll::Ready(Ok(())) => count += buf.filled().len(),
                Poll::Ready(Err(error)) => return (count, Some(error.kind())),
                Poll::Pending => return (count, None),
            }
            if is_body {
                stream.limits.piece();
            }
        }
    }

    #[test]
    fn a_flood_takes_one_turn_at_a_time_and_no_head_or_framing_is_endless() {
        let limits = ReadLimits::default();
        let mut stream = LimitedRead::new(Endless, limits.clone());
        limits.begin_request();
        limits.end_head();
        for _ in 0..10 {
            let (count, error) = one_turn(&mut stream, true);
            assert!((TURN / 2..=TURN).contains(&count) && error.is_none(), "{count} {error:?}");
        }
        assert_eq!(one_turn(&mut stream, false), (FRAMING, Some(io::ErrorKind::InvalidData)));
        limits.begin_request();
        assert_eq!(one_turn(&mut stream, false), (HEAD, Some(io::ErrorKind::InvalidData)));
    }

    #[test]
    fn the_first_read_of_a_request_is_never_put_off() {
        let limits = ReadLimits::default();
        let mut stream = LimitedRead::new(Endless, limits.clone());
        limits.end_head();
        let mut all = vec![0; TURN];
        let mut read = |stream: &mut LimitedRead<Endless>| {
            let mut buf = ReadBuf::new(&mut all);
            Pin::new(stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf).is_ready()
        };
        assert!(read(&mut stream), "the last of a response");
        limits.begin_request();
        assert!(read(&mut stream), "it would hide that the connection is not idle");
    }
}
