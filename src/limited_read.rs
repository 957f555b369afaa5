//! Reads of an HTTP client that cannot keep their thread to themselves: from Fastrac, a vault, a gateway's admin port.
//!
//! hyper reads and parses in one poll for as long as bytes are there: interim responses, zeros before the size of a chunk
//! and the like without end would keep its thread from all other tasks, and the request from its own deadline (tokio's
//! budget of 128 reads is up to 50 MiB of them). So a poll ends after [`TURN`] bytes, and a response fails whose head has
//! not come within [`HEAD`] bytes.
//!
//! What always holds: bytes and their order are unchanged; a read that is put off wakes its task. Writes are only noted.
//! Must not know what is read. Fails as the inner stream does, and with `InvalidData` where the head is too long.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Maximum number of bytes read in one poll of a task.
const TURN: usize = 256 * 1024;

/// Maximum number of bytes before the end of a response's head, interim responses included. hyper takes some microseconds
/// for each of them, and the shortest has 16 bytes.
const HEAD: usize = 128 * 1024;

/// What is left of the limits. Shared by the stream and the connection that sends requests on it.
#[derive(Clone, Debug)]
pub(crate) struct ReadLimits(Arc<Left>);

#[derive(Debug)]
struct Left {
    /// Bytes that may be read before the head of the response is complete; `usize::MAX`: it is.
    head: AtomicUsize,
    /// Bytes that may be read in this poll.
    turn: AtomicUsize,
    /// Since the request began, the inner stream was given bytes to write.
    written: AtomicBool,
}

impl ReadLimits {
    /// A request will be sent. The read before it, which looks for bytes that no response is due for, is not put off.
    pub(crate) fn begin_request(&self) {
        self.0.head.store(HEAD, Relaxed);
        self.0.turn.store(TURN, Relaxed);
        self.0.written.store(false, Relaxed);
    }

    /// Whether bytes of the request may have left. False for one that was dropped before its first write.
    pub(crate) fn has_written(&self) -> bool {
        self.0.written.load(Relaxed)
    }

    /// The head of its response has come.
    pub(crate) fn end_head(&self) {
        self.0.head.store(usize::MAX, Relaxed);
    }
}

impl Default for ReadLimits {
    fn default() -> Self {
        ReadLimits(Arc::new(Left {
            head: AtomicUsize::new(HEAD),
            turn: AtomicUsize::new(TURN),
            written: AtomicBool::new(false),
        }))
    }
}

/// A stream with limited reads.
#[derive(Debug)]
pub(crate) struct LimitedRead<S> {
    io: S,
    limits: ReadLimits,
}

impl<S> LimitedRead<S> {
    pub(crate) fn new(io: S, limits: ReadLimits) -> Self {
        LimitedRead { io, limits }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LimitedRead<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let LimitedRead { io, limits } = self.get_mut();
        let Left { head, turn, .. } = &*limits.0;
        if turn.load(Relaxed) == 0 {
            turn.store(TURN, Relaxed);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if head.load(Relaxed) == 0 {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the head of the response is too long",
            )));
        }
        let before = buf.filled().len();
        let in_head = head.load(Relaxed) != usize::MAX;
        let polled = Pin::new(io).poll_read(cx, buf);
        if polled.is_pending() {
            turn.store(TURN, Relaxed);
        }
        ready!(polled)?;
        let count = buf.filled().len() - before;
        if in_head {
            head.store(head.load(Relaxed).saturating_sub(count), Relaxed);
        }
        turn.store(turn.load(Relaxed).saturating_sub(count), Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LimitedRead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.limits.0.written.store(true, Relaxed);
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.limits.0.written.store(true, Relaxed);
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
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

    /// Bytes read until the stream has none for now; the error, if it fails.
    fn one_turn(stream: &mut LimitedRead<Endless>) -> (usize, Option<io::ErrorKind>) {
        let (mut piece, mut count) = (vec![0; 8192], 0);
        loop {
            let mut buf = ReadBuf::new(&mut piece);
            match Pin::new(&mut *stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf) {
                Poll::Ready(Ok(())) => count += buf.filled().len(),
                Poll::Ready(Err(error)) => return (count, Some(error.kind())),
                Poll::Pending => return (count, None),
            }
        }
    }

    #[test]
    fn a_flood_takes_one_turn_at_a_time_and_no_head_is_endless() {
        let limits = ReadLimits::default();
        let mut stream = LimitedRead::new(Endless, limits.clone());
        limits.begin_request();
        limits.end_head();
        for _ in 0..10 {
            assert_eq!(one_turn(&mut stream), (TURN, None));
        }
        limits.begin_request();
        assert_eq!(one_turn(&mut stream), (HEAD, Some(io::ErrorKind::InvalidData)));
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
