//! Writes that are deferred to the end of a scheduler turn.
//!
//! The scheduler learns which sockets are ready and runs their tasks one after the other. If each task wrote at once, the
//! process at the other end would be woken for a few bytes and be asleep again before the next task has its response
//! ready, and waking a process costs more than the write. So a write first yields to the tasks that are ready, and then
//! all of them write shortly after each other, as HAProxy does. If no other task is ready, the write follows at once: its
//! task is polled one more time.
//!
//! Measured with one binary and `benches/peers/run --peers haproxy,nginx,fastrac-gateway`, seven interleaved rounds,
//! medians: a miss costs 1.46 x HAProxy's CPU with plain writes, 1.23 x with responses deferred, 1.25 x with requests
//! deferred and 1.21 x with both (17 % less than plain); a hit falls from 1.21 x to 0.90 x nginx's (six rounds). Each
//! request wakes a process 0.2 times instead of 1.05 times (`perf stat -e sched:sched_waking`), for 2,000 of its 53,700
//! instructions (callgrind).
//!
//! Only the first write after a read is deferred: the writes that follow it in the same turn, such as the DATA frames of
//! one HTTP/2 response, go out at once.
//!
//! What always holds: a deferred write wakes its own task and is not deferred again; bytes and their order are unchanged.
//! Reads, flushes and shutdowns are never deferred. Fails only as the inner stream does.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream with deferred writes. It must be above TLS, which accepts bytes at once and writes them when it is
/// flushed, and a flush is not deferred.
#[derive(Debug)]
pub struct DeferredWrite<S> {
    io: S,
    next: NextWrite,
}

/// What happens to the next write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NextWrite {
    /// It is deferred.
    Defer,
    /// It was deferred, or the socket had no room for it: it goes out, also if a read comes first.
    Due,
    /// It goes out, because it follows another write of the same turn.
    Follows,
}

impl<S> DeferredWrite<S> {
    pub fn new(io: S) -> Self {
        DeferredWrite { io, next: NextWrite::Defer }
    }

    /// Ready if the write may go out now.
    fn defer(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.next != NextWrite::Defer {
            return Poll::Ready(());
        }
        self.next = NextWrite::Due;
        // Puts the task at the end of the scheduler's queue.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn written<T>(&mut self, polled: Poll<T>) -> Poll<T> {
        self.next = if polled.is_pending() { NextWrite::Due } else { NextWrite::Follows };
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for DeferredWrite<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.next == NextWrite::Follows {
            self.next = NextWrite::Defer;
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for DeferredWrite<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.defer(cx));
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.written(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.defer(cx));
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.written(polled)
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
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_util::task::TaskTracker;

    use super::*;

    type Log = Arc<Mutex<Vec<String>>>;

    /// Logs what is written; has nothing to read.
    struct LoggedWrites(Log);

    impl AsyncRead for LoggedWrites {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for LoggedWrites {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.0.lock().unwrap().push(String::from_utf8(buf.to_vec()).unwrap());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Runs tasks that write twice in each of two rounds.
    async fn rounds(reads: bool) -> String {
        let log = Log::default();
        let tasks = TaskTracker::new();
        for name in ["a", "b", "c"] {
            let log = Arc::clone(&log);
            tasks.spawn(async move {
                let mut io = DeferredWrite::new(LoggedWrites(Arc::clone(&log)));
                for round in [1, 2] {
                    if reads {
                        io.read_u8().await.unwrap_err();
                    }
                    log.lock().unwrap().push(format!("{name} runs"));
                    io.write_all(format!("{name}{round}").as_bytes()).await.unwrap();
                    io.write_all(b"+").await.unwrap();
                }
            });
        }
        tasks.close();
        tasks.wait().await;
        let log = log.lock().unwrap();
        log.join(" ")
    }

    #[tokio::test]
    async fn all_ready_tasks_run_before_the_first_write_and_no_write_of_a_turn_waits_for_another() {
        // A task that has written goes on at once, up to its next write after a read.
        let expected = "a runs b runs c runs a1 + a runs b1 + b runs c1 + c runs a2 + b2 + c2 +";
        assert_eq!(rounds(true).await, expected);
        let expected = "a runs b runs c runs a1 + a runs a2 + b1 + b runs b2 + c1 + c runs c2 +";
        assert_eq!(rounds(false).await, expected);
    }

    /// hyper reads, to see the end of the connection, before each poll of a write.
    #[tokio::test]
    async fn a_read_does_not_defer_a_write_again() {
        let log = Log::default();
        let mut io = DeferredWrite::new(LoggedWrites(Arc::clone(&log)));
        let mut polls = 0;
        std::future::poll_fn(|cx| {
            polls += 1;
            assert!(Pin::new(&mut io).poll_read(cx, &mut ReadBuf::new(&mut [])).is_ready());
            Pin::new(&mut io).poll_write(cx, b"x")
        })
        .await
        .unwrap();
        assert_eq!((polls, log.lock().unwrap().len()), (2, 1));
    }

    #[tokio::test]
    async fn nothing_is_lost_if_the_socket_has_no_room() {
        let (ours, mut theirs) = duplex(7);
        let mut ours = DeferredWrite::new(ours);
        let sent: Vec<u8> = (0..=255).collect();
        let writes = async {
            ours.write_all(&sent).await.unwrap();
            ours.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        let (_, read) = tokio::join!(writes, theirs.read_to_end(&mut received));
        read.unwrap();
        assert_eq!(received, sent);
    }
}
