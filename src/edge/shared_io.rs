//! The IO of a client connection: it outlives hyper's connection, and other requests may look at it.
//!
//! What always holds: a reset is remembered once an operation has failed with it. Rarely contended: only one of its
//! holders is polled at a time, and another thread looks at it only for an equal order. Fails like the IO itself.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::client_socket::ClientSocket;
use crate::body::{CallerConnection, CallerLink};

pub(super) struct SharedIo<S>(Arc<Mutex<RememberingIo<S>>>);

struct RememberingIo<S> {
    io: S,
    /// An operation has failed because the client has reset the connection.
    reset: bool,
}

impl<S> RememberingIo<S> {
    fn remember(&mut self, error: Option<&io::Error>) {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        self.reset |=
            error.is_some_and(|error| matches!(error.kind(), ConnectionReset | ConnectionAborted | BrokenPipe));
    }
}

impl<S> SharedIo<S> {
    pub(super) fn new(io: S) -> Self {
        SharedIo(Arc::new(Mutex::new(RememberingIo { io, reset: false })))
    }
}

impl<S: ClientSocket + Send + 'static> SharedIo<S> {
    /// For other requests; does not keep the connection open.
    pub(super) fn link(&self) -> CallerLink {
        let connection: Arc<dyn CallerConnection> = self.0.clone();
        CallerLink::new(&connection)
    }
}

impl<S> Clone for SharedIo<S> {
    fn clone(&self) -> Self {
        SharedIo(self.0.clone())
    }
}

impl<S: ClientSocket + Send> CallerConnection for Mutex<RememberingIo<S>> {
    fn has_left(&self) -> bool {
        let mut socket = self.lock();
        socket.reset || socket.io.has_left()
    }

    fn was_reset(&self) -> bool {
        let socket = self.lock();
        socket.reset || socket.io.was_reset()
    }

    fn has_unread(&self) -> bool {
        self.lock().io.has_unread()
    }

    fn has_unacknowledged(&self) -> bool {
        self.lock().io.has_unacknowledged()
    }
}

impl<S: ClientSocket + Send> ClientSocket for SharedIo<S> {
    const CLOSE_WRITES: bool = S::CLOSE_WRITES;

    fn has_left(&mut self) -> bool {
        CallerConnection::has_left(&*self.0)
    }

    fn was_reset(&self) -> bool {
        CallerConnection::was_reset(&*self.0)
    }

    fn has_unread(&self) -> bool {
        CallerConnection::has_unread(&*self.0)
    }

    fn unacknowledged(&self) -> Option<u32> {
        self.0.lock().io.unacknowledged()
    }

    fn push(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let mut socket = self.0.lock();
        let pushed = socket.io.push(bytes);
        socket.remember(pushed.as_ref().err());
        pushed
    }

    fn reset_on_close(&self) {
        self.0.lock().io.reset_on_close();
    }
}

impl<S: Unpin> SharedIo<S> {
    /// Polls an operation, and remembers that it has failed with a reset.
    fn poll<T>(&self, operation: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let mut socket = self.0.lock();
        let polled = operation(Pin::new(&mut socket.io));
        if let Poll::Ready(Err(error)) = &polled {
            socket.remember(Some(error));
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for SharedIo<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll(|io| io.poll_read(cx, buf))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for SharedIo<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(|io| io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll(|io| io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.lock().io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|io| io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|io| io.poll_shutdown(cx))
    }
}
