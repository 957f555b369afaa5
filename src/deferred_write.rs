//! Writes that wait for the end of their turn.
//!
//! A turn of a thread: the system says which sockets are ready, and their tasks run one after the other.
//! If each wrote where it stands, whoever reads the other end would be woken by it, take the few bytes and
//! be asleep again before the next task has thought its answer out; and to wake somebody costs more than
//! to write. So a write lets the tasks run that are ready already, and then all write close upon each
//! other, as HAProxy's do. What is alone writes at once: its task is polled once more, and that is all.
//!
//! What always holds: a write waits once, and wakes its task itself; order and bytes are the stream's.
//! Reading, flushing and closing never wait.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream whose writes wait for the end of their turn. To be the outermost: TLS takes bytes at once and writes them
/// when it is flushed, and would do so before the end of the turn.
#[derive(Debug)]
pub struct DeferredWrite<S> {
    io: S,
    /// The others had their turn.
    waited: bool,
}

impl<S> DeferredWrite<S> {
    /// Around `io`.
    pub fn new(io: S) -> Self {
        DeferredWrite { io, waited: false }
    }

    fn wait(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.waited {
            return Poll::Ready(());
        }
        self.waited = true;
        // To the end of the queue.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn written<T>(&mut self, polled: Poll<T>) -> Poll<T> {
        // What the socket has no room for has waited, and goes as soon as there is room.
        self.waited = polled.is_pending();
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for DeferredWrite<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for DeferredWrite<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.wait(cx));
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.written(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.wait(cx));
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

    /// Notes what is written.
    struct Noted(Log);

    impl AsyncWrite for Noted {
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

    #[tokio::test]
    async fn all_that_are_ready_think_before_one_of_them_writes() {
        let log = Log::default();
        let tasks = TaskTracker::new();
        for name in ["a", "b", "c"] {
            let log = Arc::clone(&log);
            tasks.spawn(async move {
                let mut io = DeferredWrite::new(Noted(Arc::clone(&log)));
                for round in [1, 2] {
                    log.lock().unwrap().push(format!("{name} thinks"));
                    io.write_all(format!("{name}{round}").as_bytes()).await.unwrap();
                }
            });
        }
        tasks.close();
        tasks.wait().await;
        // Who has written is not at the end of the queue: it thinks on.
        let expected = "a thinks b thinks c thinks a1 a thinks b1 b thinks c1 c thinks a2 b2 c2";
        assert_eq!(log.lock().unwrap().join(" "), expected);
    }

    #[tokio::test]
    async fn what_finds_no_room_waits_for_room_and_nothing_is_lost() {
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
