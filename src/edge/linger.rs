//! The end of a connection whose client may still be sending (RFC 9112, section 9.6).
//!
//! If a socket is closed while it has unread bytes, or receives bytes afterwards, the kernel resets the connection, and
//! the client may lose the response that explains the refusal. So the gateway closes its own half first, and then reads
//! and discards for a bounded time and up to a bounded size. What always holds: a client cannot keep a connection longer
//! than [`TOTAL`] after its end. This file must not know requests. Never fails.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use crate::deadline::within;

/// How long to wait for the next byte.
const QUIET: Duration = Duration::from_secs(2);
/// How long to read at most.
const TOTAL: Duration = Duration::from_secs(10);
/// How much to read at most, in bytes: a client that sends more does not stop to read a response.
const BYTES: usize = 64 * 1024 * 1024;

/// Sends a response on a connection on which no request was read, and closes the connection like [`linger`].
pub(crate) async fn respond<S: AsyncRead + AsyncWrite + Unpin>(mut io: S, response: &[u8]) {
    if let Some(Ok(())) = within(QUIET, io.write_all(response)).await {
        linger(io).await;
    }
}

/// Closes the sending half, then reads what the client still sends, until it closes its half or a bound is reached.
pub(super) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut io: S) {
    let discard = async {
        // Already done, if the connection ended in order.
        let _ = io.shutdown().await;
        let (mut left, mut discarded) = (BYTES, vec![0; 16 * 1024]);
        while let Some(Ok(read @ 1..)) = within(QUIET, io.read(&mut discarded)).await
            && read <= left
        {
            left -= read;
        }
    };
    within(TOTAL, discard).await;
}

/// IO that outlives hyper's connection. Uncontended: only one of its holders is polled at a time.
pub(super) struct SharedIo<S>(Arc<Mutex<S>>);

impl<S> SharedIo<S> {
    pub(super) fn new(io: S) -> Self {
        SharedIo(Arc::new(Mutex::new(io)))
    }
}

impl<S> Clone for SharedIo<S> {
    fn clone(&self) -> Self {
        SharedIo(self.0.clone())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for SharedIo<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for SharedIo<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.lock().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::duplex, time::Instant};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ends_with_the_client() {
        let (mut client, io) = duplex(64);
        let began = Instant::now();
        let sends = async {
            client.write_all(&[7; 1000]).await.unwrap();
            assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "the gateway's half is closed");
            drop(client);
        };
        tokio::join!(linger(io), sends);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_not_waited_for_long() {
        let (_client, io) = duplex(64);
        let began = Instant::now();
        linger(io).await;
        assert_eq!(began.elapsed(), QUIET);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_drips_is_cut_off() {
        let (mut client, io) = duplex(64);
        let began = Instant::now();
        let drips = async {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::join!(linger(io), drips);
        assert!((TOTAL..TOTAL + Duration::from_secs(2)).contains(&began.elapsed()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_without_end_is_cut_off() {
        let (mut client, io) = duplex(1 << 20);
        let floods = async {
            let (piece, mut sent) = (vec![7; 1 << 20], 0);
            while client.write_all(&piece).await.is_ok() {
                sent += piece.len();
                assert!(sent <= BYTES + (2 << 20), "without end");
            }
        };
        tokio::join!(linger(io), floods);
    }
}
