//! Reads from Fastrac that cannot keep a data thread to themselves.
//!
//! hyper reads and parses in one poll for as long as bytes are there: interim responses, zeros before the size of a chunk
//! and the like without end would keep its thread from all other requests, and the request from its own deadline (tokio's
//! budget of 128 reads is up to 50 MiB of them). So a poll ends after [`TURN`] bytes, and a response whose head has not
//! come within [`HEAD`] bytes fails.
//!
//! What always holds: bytes and their order are unchanged; a read that is put off wakes its task. Writes are not touched.
//! Must not know what is read. Fails as the inner stream does, and with `InvalidData` where the head is too long.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Maximum number of bytes read in one poll of a task.
const TURN: usize = 256 * 1024;

/// Maximum number of bytes before the end of a response's head, interim responses included: a little more than hyper's
/// read buffer, which bounds one head.
const HEAD: usize = 512 * 1024;

/// What is left of both limits. Shared by the stream and the connection that sends requests on it.
#[derive(Clone, Debug)]
pub(super) struct ReadLimits(Arc<Left>);

#[derive(Debug)]
struct Left {
    /// Bytes that may be read before the head of the response is complete.
    head: AtomicUsize,
    /// Bytes that may be read in this poll.
    turn: AtomicUsize,
}

impl ReadLimits {
    /// A request will be sent. The read before it, which looks for bytes that no response is due for, is not put off.
    pub(super) fn begin_request(&self) {
        self.0.head.store(HEAD, Relaxed);
        self.0.turn.store(TURN, Relaxed);
    }

    /// The head of its response has come.
    pub(super) fn end_head(&self) {
        self.0.head.store(usize::MAX, Relaxed);
    }
}

impl Default for ReadLimits {
    fn default() -> Self {
        ReadLimits(Arc::new(Left { head: AtomicUsize::new(HEAD), turn: AtomicUsize::new(TURN) }))
    }
}

/// A stream with limited reads.
#[derive(Debug)]
pub(super) struct LimitedRead<S> {
    io: S,
    limits: ReadLimits,
}

impl<S> LimitedRead<S> {
    pub(super) fn new(io: S, limits: ReadLimits) -> Self {
        LimitedRead { io, limits }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LimitedRead<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let LimitedRead { io, limits } = self.get_mut();
        let Left { head, turn } = &*limits.0;
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
        let polled = Pin::new(io).poll_read(cx, buf);
        if polled.is_pending() {
            turn.store(TURN, Relaxed);
        }
        ready!(polled)?;
        let count = buf.filled().len() - before;
        for left in [head, turn] {
            left.store(left.load(Relaxed).saturating_sub(count), Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LimitedRead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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
        assert_eq!(one_turn(&mut stream), (TURN, None));
        limits.end_head();
        for _ in 0..10 {
            assert_eq!(one_turn(&mut stream), (TURN, None));
        }
        limits.begin_request();
        assert_eq!((one_turn(&mut stream), one_turn(&mut stream)), ((TURN, None), (TURN, None)));
        assert_eq!(one_turn(&mut stream), (0, Some(io::ErrorKind::InvalidData)));
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
