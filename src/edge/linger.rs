//! The end of a connection whose client may still be sending (RFC 9112, section 9.6).
//!
//! If a socket is closed while it has unread bytes, or receives bytes afterwards, the kernel resets the connection, and
//! the client may lose the response that explains the refusal. So the gateway closes its own half first, and then reads
//! and discards for a bounded time and up to a bounded size. After the response to an order, it waits for a moment in
//! case the client resets the connection because it had already left. What always holds: a client cannot keep a
//! connection longer than [`TOTAL`] after its end. This file must not know requests. Never fails.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::client_socket::ClientSocket;
use crate::deadline::within;

/// How long to wait for the next byte.
const QUIET: Duration = Duration::from_secs(2);
/// How long to read at most.
const TOTAL: Duration = Duration::from_secs(10);
/// How often it is looked whether the client has got everything.
const LOOK: Duration = Duration::from_millis(50);
/// How much to read at most, in bytes: a client that sends more does not stop to read a response.
const BYTES: usize = 64 * 1024 * 1024;

/// Sends a response on a connection on which no request was read, and closes the connection like [`linger`].
pub(crate) async fn respond<S: AsyncRead + AsyncWrite + Unpin>(mut io: S, response: &[u8]) {
    if let Some(Ok(())) = within(QUIET, io.write_all(response)).await {
        linger(io).await;
    }
}

/// Waits until then in case the client resets the connection. If it has closed its half, ours stays open meanwhile: once
/// both are closed, a client that has not read everything closes without a reset. So it does where the close writes
/// something, which a client that has read everything answers with a reset.
pub(super) async fn await_reset<S: AsyncWrite + ClientSocket + Unpin>(mut io: S, until: Instant) {
    if !S::CLOSE_WRITES && !io.has_left() {
        let _ = timeout_at(until, io.shutdown()).await;
    }
    sleep_until(until).await;
}

/// Closes the sending half, if its client takes the end.
pub(super) async fn close<S: AsyncWrite + Unpin>(mut io: S) {
    within(QUIET, io.shutdown()).await;
}

/// Closes the sending half, then reads what the client still sends, until it closes its half or a bound is reached.
pub(super) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut io: S) {
    let discard = async {
        // Already done, if the connection ended in order.
        let _ = io.shutdown().await;
        let (mut left, mut discarded) = (BYTES, vec![0; 4 * 1024]);
        while let Some(Ok(read @ 1..)) = within(QUIET, io.read(&mut discarded)).await
            && read <= left
        {
            left -= read;
        }
    };
    within(TOTAL, discard).await;
}

/// The same, but only while the client's machine has not acknowledged what was written.
pub(super) async fn linger_until_acknowledged<S: AsyncRead + AsyncWrite + ClientSocket + Clone + Unpin>(io: S) {
    let acknowledged = async {
        // The end counts as a byte.
        while io.unacknowledged().is_some_and(|bytes| bytes > 1) {
            sleep(LOOK).await;
        }
    };
    tokio::select! {
        biased;
        () = acknowledged => {}
        () = linger(io.clone()) => {}
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
