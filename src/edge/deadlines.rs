//! The deadlines of a client connection and its limit on HTTP/2 control frames, enforced by an IO wrapper.
//!
//! hyper's header-read timer also runs between two requests on a keep-alive connection, and its protocol
//! detection has no deadline at all, so [`DeadlineIo`] watches the bytes themselves. The deadline is that of the connection's
//! state (`activity`), and in every state, a peer must take some of the bytes that wait to be written within
//! `limits.idle`. The reactor calls a socket writable only once a third of its buffer is free, which takes a slow peer
//! longer than that; so while bytes wait, it is also looked now and then ([`LOOKS`]) whether the socket takes some, and at the
//! end whether the peer's machine has acknowledged some: the socket takes none until a piece of up to 64 KiB has gone. In the
//! usual case no timer is touched: one timer is armed late and re-armed only when it has fired.
//!
//! This file must not know what a request means. It fails with [`io::Error`]; an idle connection ends like
//! one that its peer has closed.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use bytes::BufMut as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};
use tokio_util::io::poll_read_buf;

use super::{
    activity::{Activity, LEAST_RATE},
    client_socket::ClientSocket,
    unfinished_head::UnfinishedHead,
};
use crate::{deadline::LateTimer, memory::MemoryExhausted};

/// How often it is looked whether a peer has taken some of the bytes that wait, in `limits.idle`.
const LOOKS: u32 = 4;

/// Maximum size of a read over HTTP/1.1, bytes. hyper's buffer begins with 8 KiB, doubles when a read fills it, and stays so: up
/// to 64 KiB for each connection that has carried a long body. Nor may more than this have come, uncounted, of a head that
/// begins behind another request.
const HTTP1_READ: usize = 8 * 1024 - 1;

/// IO that enforces the deadlines of an [`Activity`].
pub(super) struct DeadlineIo<S> {
    io: S,
    activity: Arc<Activity>,
    timer: Option<LateTimer>,
    /// Whether the timer will wake the task.
    armed: bool,
    /// Bytes wait to be written, and the peer accepts none.
    stalled: Option<Stall>,
    head: UnfinishedHead,
}

#[derive(Clone, Copy)]
struct Stall {
    since: Instant,
    /// When to look whether the socket takes some, whatever the reactor says.
    look_at: Instant,
    look_is_due: bool,
    /// The time is up, which the next write decides.
    left_to_write: bool,
    /// The bytes that were not acknowledged at the first look.
    seen: Option<(Instant, u32)>,
}

impl<S> DeadlineIo<S> {
    /// `head`: what a head that is not complete claims its memory with.
    pub(super) fn new(io: S, activity: Arc<Activity>, head: UnfinishedHead) -> Self {
        DeadlineIo { io, activity, timer: None, armed: false, stalled: None, head }
    }

    /// Whether the deadline has passed. If not, the task will be woken in time; also while busy, because hyper
    /// does not necessarily poll again between the end of a request and the first byte of the next.
    fn poll_expired(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            let stalled = self.stalled.map(|stall| stall.since + self.activity.idle);
            let deadline = self.activity.deadline().into_iter().chain(stalled).min();
            let next = deadline.into_iter().chain(self.stalled.map(|stall| stall.look_at)).min();
            let wake = || next.unwrap_or_else(|| Instant::now() + self.activity.idle);
            let timer = self.timer.get_or_insert_with(|| LateTimer::at(wake()));
            if next.is_some_and(|next| timer.end() > next) {
                timer.reset(wake());
                self.armed = false;
            }
            if (self.armed && !timer.has_fired()) || timer.poll_elapsed(cx).is_pending() {
                self.armed = true;
                return false;
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return true;
            }
            match &mut self.stalled {
                Some(stall) if now >= stall.look_at => {
                    (stall.look_is_due, stall.look_at) = (true, now + self.activity.idle / LOOKS);
                }
                _ => timer.reset(wake()),
            }
            self.armed = false;
        }
    }
}

impl<S: ClientSocket> DeadlineIo<S> {
    fn after_read(&mut self) {
        let receipts = &self.activity.receipts;
        // Asked only if it decides something: a lookup has no receipt and costs no system call for it.
        if receipts.undecided_until().is_none() {
            return;
        }
        if self.io.was_reset() {
            receipts.give_up();
        } else if !self.activity.is_on_http2() {
            // Over HTTP/2, it depends on what came (`frames`).
            receipts.read_on();
        }
    }

    fn before_write(&mut self) {
        self.activity.receipts.before_write(|| self.io.has_left());
    }

    fn after_write(
        &mut self,
        polled: Poll<io::Result<usize>>,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let polled = if polled.is_pending() { self.poll_stalled(bytes, cx) } else { polled };
        if polled.is_ready() {
            self.end_stall();
        }
        polled
    }

    fn after_flush(&mut self, polled: Poll<io::Result<()>>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if polled.is_pending() {
            return self.poll_stalled(&[], cx).map_ok(|_| ());
        }
        self.end_stall();
        polled
    }

    /// Of a write for which the reactor sees no room. hyper does not read while it writes, so the deadline is checked
    /// here too.
    fn poll_stalled(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let began = self.stalled.unwrap_or_else(|| self.stall());
        self.stalled = Some(began);
        let mut expired = self.poll_expired(cx);
        if expired || self.stalled.is_some_and(|stall| stall.look_is_due) {
            self.stalled.iter_mut().for_each(|stall| stall.look_is_due = false);
            match self.io.push(bytes)? {
                None if !self.has_progressed(expired) => {}
                // TLS has written what it held, or the peer's machine has taken some of what the kernel holds.
                None | Some(0) => {
                    self.stalled = Some(self.stall());
                    self.activity.bytes_went_late();
                    // Over HTTP/2, answers to PINGs are no use of the connection.
                    if self.activity.has_streams_beyond(0) {
                        self.activity.response_bytes_went();
                    }
                    cx.waker().wake_by_ref();
                    expired = self.poll_expired(cx);
                }
                Some(written) => return Poll::Ready(Ok(written)),
            }
        }
        if expired { self.give_up(io::ErrorKind::TimedOut) } else { Poll::Pending }
    }

    /// Whether the peer has taken bytes since the first look; asked at the end.
    fn has_progressed(&mut self, at_end: bool) -> bool {
        let Some(stall) = &mut self.stalled else { return false };
        if stall.seen.is_some() && !at_end {
            return false;
        }
        let (now, Some(left)) = (Instant::now(), self.io.unacknowledged()) else { return false };
        let (since, before) = *stall.seen.get_or_insert((now, left));
        let taken = Duration::from_secs(before.saturating_sub(left).into()) / LEAST_RATE;
        !taken.is_zero() && taken >= now - since
    }
}

impl<S> DeadlineIo<S> {
    /// The peer has accepted what waited to be written, if anything did.
    fn end_stall(&mut self) {
        if self.stalled.take().is_some() {
            self.activity.bytes_went_late();
        }
    }

    /// From now on.
    fn stall(&self) -> Stall {
        let now = Instant::now();
        Stall {
            since: now,
            look_at: now + self.activity.idle / LOOKS,
            look_is_due: false,
            left_to_write: false,
            seen: None,
        }
    }

    /// Of a read, once the deadline has passed.
    fn end_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stalled {
            // The peer may have taken bytes, and hyper writes after it has read.
            Some(stall) if !stall.left_to_write => {
                stall.left_to_write = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None if !self.activity.is_in_head() && self.activity.extend_for_responses() => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None if !self.activity.is_in_head() => {
                // End of file, as if the peer had closed: hyper then ends an idle connection without an error.
                Poll::Ready(Ok(()))
            }
            _ => self.give_up(io::ErrorKind::TimedOut),
        }
    }

    /// What has come is not the end of the head in progress.
    fn claim_head(&mut self) -> Result<(), MemoryExhausted> {
        if !self.activity.is_on_http2() {
            return self.head.claim();
        }
        // The requests that share the connection are not ended for this one, nor a service's responses that are not written.
        let has_others =
            if self.head.is_of_service() { self.activity.has_responses() } else { self.activity.is_busy() };
        if has_others { Ok(()) } else { self.head.claim_longest() }
    }

    /// There is no memory for the rest of the head in progress.
    fn refuse_head(&self) -> Poll<io::Result<()>> {
        self.activity.head_refused.store(true, Relaxed);
        self.give_up(io::ErrorKind::OutOfMemory)
    }

    fn give_up<T>(&self, why: io::ErrorKind) -> Poll<io::Result<T>> {
        self.activity.given_up.store(true, Relaxed);
        Poll::Ready(Err(why.into()))
    }
}

impl<S: AsyncRead + ClientSocket + Unpin> AsyncRead for DeadlineIo<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.activity.reading.store(true, Relaxed);
        if self.activity.is_flooded() {
            return self.give_up(io::ErrorKind::ConnectionAborted);
        }
        let over_http2 = self.activity.is_on_http2();
        if !over_http2 {
            self.activity.look_behind_request();
        }
        if !self.activity.is_in_head() {
            self.head.end();
        }
        let before = buf.filled().len();
        let at_most = if over_http2 { usize::MAX } else { HTTP1_READ };
        match poll_read_buf(Pin::new(&mut self.io), cx, &mut buf.limit(at_most)) {
            Poll::Ready(came) => {
                let came = came?;
                if came > 0 {
                    self.activity.bytes_came(&buf.filled()[before..]);
                    self.after_read();
                    self.head.came(came);
                }
                Poll::Ready(Ok(()))
            }
            // Not before: a read may end anywhere in a head whose rest has come already.
            Poll::Pending if self.activity.is_in_head() && self.claim_head().is_err() => self.refuse_head(),
            Poll::Pending if self.poll_expired(cx) => self.end_read(cx),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + ClientSocket + Unpin> AsyncWrite for DeadlineIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.before_write();
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.after_write(polled, buf, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.before_write();
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        let first = bufs.iter().find(|buf| !buf.is_empty());
        self.after_write(polled, first.map_or(&[], |buf| &buf[..]), cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS accepts bytes before it has written them.
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        if matches!(polled, Poll::Ready(Ok(()))) {
            self.activity.receipts.flushed();
        }
        self.after_flush(polled, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A client that has closed its half resets the connection only while this one is open, and because of what is written
        // after that: see `linger::await_reset`.
        if self.activity.receipts.undecided_until().is_some() && (S::CLOSE_WRITES || self.io.has_left()) {
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut self.io).poll_shutdown(cx);
        self.after_flush(polled, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::{
        config::LimitsConfig,
        edge::{
            activity::{
                LONGEST_HEAD, SLACK,
                tests::{HEAD, IDLE, activity, limits},
            },
            client_socket::InMemory,
        },
        memory::Memory,
    };

    fn timed_io<S>(io: S, activity: Arc<Activity>) -> DeadlineIo<S> {
        DeadlineIo::new(io, activity, UnfinishedHead::of(Memory::new(1 << 20).share(None), Arc::default()))
    }

    /// A socket that takes nothing more while its peer takes what it holds already: so many bytes a second.
    struct Full {
        holds: u32,
        taken_in_a_second: u32,
        since: Instant,
    }

    impl Full {
        fn left(&self) -> u32 {
            self.holds.saturating_sub(self.since.elapsed().as_secs() as u32 * self.taken_in_a_second)
        }
    }

    impl AsyncWrite for Full {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            if self.left() > 0 { Poll::Pending } else { Poll::Ready(Ok(bytes.len())) }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl InMemory for Full {
        fn held(&self) -> Option<u32> {
            Some(self.left())
        }
    }

    /// The kernel takes nothing before a piece of up to 64 KiB has gone, and calls the socket full until a third of it is free.
    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_what_the_kernel_holds_is_not_cut_off() {
        for over_http2 in [false, true] {
            for (taken_in_a_second, is_late) in [(500, false), (300, false), (200, true), (1, true), (0, true)] {
                let io = Full { holds: 90_000, taken_in_a_second, since: Instant::now() };
                let (began, activity) = (Instant::now(), activity(&limits()));
                if over_http2 {
                    activity.is_http2();
                    activity.stream_began();
                }
                let written = timed_io(io, activity).write(b"more").await;
                let was_late = written.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut);
                assert_eq!(was_late, is_late, "{taken_in_a_second}, over HTTP/2: {over_http2}");
                assert!(!is_late || began.elapsed() == IDLE, "{:?}", began.elapsed());
            }
        }
    }

    /// A read whose bytes are of no interest.
    fn poll_read<S: AsyncRead + ClientSocket + Unpin>(
        timed: &mut DeadlineIo<S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(timed).poll_read(cx, &mut ReadBuf::new(&mut [0; 8]))
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_ends_quietly() {
        let (_peer, io) = duplex(64);
        let began = Instant::now();
        let mut timed = timed_io(io, activity(&limits()));
        assert_eq!(timed.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(began.elapsed().as_secs(), 75);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_head_is_an_error_however_it_drips() {
        let (mut peer, io) = duplex(64);
        let (mut timed, began) = (timed_io(io, activity(&limits())), Instant::now());
        let drip = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                peer.write_all(b"G").await.unwrap();
            }
        };
        let read = async {
            loop {
                if let Err(error) = timed.read(&mut [0; 8]).await {
                    return error;
                }
            }
        };
        let error = tokio::select! { error = read => error, () = drip => unreachable!() };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 11);
    }

    /// As long as no read fills hyper's buffer of 8 KiB, that does not grow.
    #[tokio::test]
    async fn a_read_over_http1_takes_less_than_the_buffer_and_one_over_http2_what_there_is() {
        for (over_http2, takes) in [(false, 8191), (true, 20_000)] {
            let (mut peer, io) = duplex(64 * 1024);
            let activity = activity(&limits());
            if over_http2 {
                activity.is_http2();
            }
            let mut timed = timed_io(io, activity);
            peer.write_all(&[b'x'; 20_000]).await.unwrap();
            assert_eq!(timed.read(&mut [0; 64 * 1024]).await.unwrap(), takes);
        }
    }

    /// Its last line may come alone: the connection ended after `limits.header_read`, and what was left of the time of the
    /// next request counted from the end of this one.
    #[tokio::test(start_paused = true)]
    async fn a_head_in_pieces_begins_no_other() {
        for pieces in [["GET / HTTP/1.1\r\n", "\r\n"], ["GET / HTTP/1.1\r\n\r", "\n"], ["GET / HTTP/1.1\n", "\n"]] {
            let (mut peer, io) = duplex(64);
            let activity = activity(&limits());
            let mut timed = timed_io(io, activity.clone());
            for piece in pieces {
                peer.write_all(piece.as_bytes()).await.unwrap();
                assert_eq!(timed.read(&mut [0; 64]).await.unwrap(), piece.len());
            }
            activity.request_began(true);
            activity.request_ended(false);
            let ended = Instant::now();
            assert_eq!(timed.read(&mut [0; 64]).await.unwrap(), 0, "{pieces:?}");
            assert_eq!(ended.elapsed(), IDLE, "{pieces:?}");
        }
    }

    /// hyper reads for the end of the connection while a request is under way, and not again after it.
    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_io_is_not_read_again_is_woken_all_the_same() {
        let (mut peer, io) = duplex(64);
        let activity = activity(&limits());
        let mut timed = timed_io(io, activity.clone());
        peer.write_all(b"GET").await.unwrap();
        let mut buffer = [0; 8];
        assert_eq!(timed.read(&mut buffer).await.unwrap(), 3);
        let began = activity.request_began(false);
        // One poll while busy; then only a wake-up can bring the next.
        let mut read = std::pin::pin!(timed.read(&mut buffer));
        let first = std::future::poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx).is_pending())).await;
        assert!(first);
        activity.request_ended(false);
        assert_eq!(read.await.unwrap(), 0);
        assert_eq!(began.elapsed().as_secs(), 75);
    }

    async fn stays_open(timed: &mut DeadlineIo<tokio::io::DuplexStream>) {
        let mut buffer = [0; 8];
        tokio::select! {
            _ = timed.read(&mut buffer) => panic!("ended while busy"),
            () = tokio::time::sleep(Duration::from_secs(1000)) => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_connection_has_no_deadline_here() {
        let (mut peer, io) = duplex(64);
        let activity = activity(&limits());
        let mut timed = timed_io(io, activity.clone());
        peer.write_all(b"GET").await.unwrap();
        assert_eq!(timed.read(&mut [0; 8]).await.unwrap(), 3);
        activity.request_began(false);
        stays_open(&mut timed).await;
        activity.request_ended(false);
        let ended = Instant::now();
        assert_eq!(timed.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(ended.elapsed().as_secs(), 75);
    }

    /// hyper reads, then writes what it has deferred, and does neither again.
    #[tokio::test(start_paused = true)]
    async fn the_idle_time_is_not_counted_from_the_next_wake_up() {
        let (_peer, mut timed, activity) = busy(64).await;
        activity.request_ended(false);
        let (ended, mut written) = (Instant::now(), false);
        let read = std::future::poll_fn(|cx| {
            let read = poll_read(&mut timed, cx);
            if !written {
                written = Pin::new(&mut timed).poll_write(cx, b"response").is_ready();
            }
            read
        });
        read.await.unwrap();
        assert_eq!(ended.elapsed().as_secs(), 75);
    }

    /// On HTTP/2, the request may have ended before its response was written, or not before.
    #[tokio::test(start_paused = true)]
    async fn nor_is_it_on_http2() {
        for ends_with_the_write in [false, true] {
            let (_peer, mut timed, activity) = busy(64).await;
            activity.is_http2();
            let end = |written: bool| {
                if written == ends_with_the_write {
                    activity.request_ended(false)
                }
            };
            end(false);
            let (ended, mut written) = (Instant::now(), false);
            let read = std::future::poll_fn(|cx| {
                let read = poll_read(&mut timed, cx);
                if !written {
                    written = Pin::new(&mut timed).poll_write(cx, b"response").is_ready();
                    end(true);
                    activity.response_bytes_went();
                }
                read
            });
            read.await.unwrap();
            assert_eq!(ended.elapsed().as_secs(), 75, "{ends_with_the_write}");
        }
    }

    /// As TLS does it: all bytes are accepted at once, and a flush waits for the peer.
    struct LateFlush(tokio::io::DuplexStream, Pin<Box<tokio::time::Sleep>>);

    impl AsyncRead for LateFlush {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for LateFlush {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.1.as_mut().poll(cx).map(Ok)
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl InMemory for LateFlush {}

    #[tokio::test(start_paused = true)]
    async fn the_idle_time_begins_when_a_late_flush_ends() {
        let (_peer, io) = duplex(64);
        let activity = activity(&limits());
        let late = Box::pin(tokio::time::sleep(Duration::from_secs(70)));
        let (mut timed, began) = (timed_io(LateFlush(io, late), activity.clone()), Instant::now());
        activity.request_began(false);
        timed.write_all(b"response").await.unwrap();
        activity.request_ended(false);
        timed.flush().await.unwrap();
        assert_eq!(timed.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(began.elapsed().as_secs(), 145);
    }

    /// A connection with a request in progress.
    async fn busy(size: usize) -> (tokio::io::DuplexStream, DeadlineIo<tokio::io::DuplexStream>, Arc<Activity>) {
        let (mut peer, io) = duplex(size);
        let activity = activity(&limits());
        let mut timed = timed_io(io, activity.clone());
        peer.write_all(b"GET").await.unwrap();
        assert_eq!(timed.read(&mut [0; 8]).await.unwrap(), 3);
        activity.request_began(false);
        (peer, timed, activity)
    }

    /// The peer takes a little of what is written, each time just before the connection would end: that is allowed,
    /// however long it goes on.
    async fn is_taken_now_and_then(
        timed: &mut DeadlineIo<tokio::io::DuplexStream>,
        peer: &mut tokio::io::DuplexStream,
    ) {
        for _ in 0..5 {
            let takes = async {
                tokio::time::sleep(IDLE - Duration::from_secs(1)).await;
                peer.read_exact(&mut [0; 8]).await.unwrap();
            };
            let (written, ()) = tokio::join!(timed.write_all(&[0; 8]), takes);
            written.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_nobody_takes_end_their_connection() {
        let (mut peer, mut timed, activity) = busy(64).await;
        timed.write_all(&[0; 64]).await.unwrap();
        is_taken_now_and_then(&mut timed, &mut peer).await;
        let began = Instant::now();
        let error = timed.write_all(&[0; 8]).await.unwrap_err();
        assert_eq!((error.kind(), began.elapsed()), (io::ErrorKind::TimedOut, IDLE));
        assert!(activity.is_given_up());
    }

    /// hyper has buffered the whole response, and the request has ended.
    #[tokio::test(start_paused = true)]
    async fn a_response_that_is_being_read_is_not_idle() {
        let (mut peer, mut timed, activity) = busy(64).await;
        timed.write_all(&[0; 64]).await.unwrap();
        activity.request_ended(false);
        is_taken_now_and_then(&mut timed, &mut peer).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_is_still_received_must_be_taken_by_its_deadline() {
        let (mut peer, mut timed, activity) = busy(64).await;
        let end = Instant::now() + Duration::from_secs(30);
        // Fastrac is waited for, as long as that may last.
        activity.response_ends_at(Some(end));
        activity.response_ends_at(None);
        stays_open(&mut timed).await;
        let end = Instant::now() + Duration::from_secs(30);
        activity.response_ends_at(Some(end));
        let drips = async {
            loop {
                peer.read_exact(&mut [0; 8]).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let error = tokio::select! { written = timed.write_all(&[0; 1024]) => written, () = drips => unreachable!() };
        assert_eq!((error.unwrap_err().kind(), Instant::now()), (io::ErrorKind::TimedOut, end));
    }

    /// Reads until the connection ends; how many bytes came before.
    async fn flooded(timed: &mut DeadlineIo<tokio::io::DuplexStream>, peer: &mut tokio::io::DuplexStream) -> u64 {
        let ping = vec![7; 16 * 1024];
        let (mut came, mut buffer) = (0, vec![0; 16 * 1024]);
        loop {
            peer.write_all(&ping).await.unwrap();
            match timed.read_exact(&mut buffer).await {
                Ok(read) => came += read as u64,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
                    return came;
                }
            }
            assert!(came < 1 << 30, "without end");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_http2_connection_that_brings_much_beside_its_requests_ends_at_once() {
        let limits = LimitsConfig { request_body: 1 << 20, ..limits() };
        let near = |came: u64, allowed: u64| (allowed..allowed + 32 * 1024).contains(&came);
        for requests in [0, 1, 3] {
            let (mut peer, io) = duplex(64 * 1024);
            let activity = activity(&limits);
            let mut timed = timed_io(io, activity.clone());
            peer.write_all(b"PRI").await.unwrap();
            assert_eq!(timed.read(&mut [0; 3]).await.unwrap(), 3);
            activity.is_http2();
            for _ in 0..requests {
                activity.request_began(false);
            }
            let came = flooded(&mut timed, &mut peer).await;
            assert!(
                near(came, SLACK + requests * ((1 << 20) + LONGEST_HEAD)),
                "{came} bytes beside {requests} requests"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_are_no_flood_however_many_and_whenever_they_end() {
        let limits = LimitsConfig { request_body: 1 << 20, ..limits() };
        let (mut peer, io) = duplex(64 * 1024);
        let activity = activity(&limits);
        let mut timed = timed_io(io, activity.clone());
        let mut buffer = vec![0; 16 * 1024];
        activity.is_http2();
        for _ in 0..5 {
            for _ in 0..20 {
                activity.request_began(false);
            }
            for _ in 0..20 {
                for _ in 0..(1 << 20) / buffer.len() {
                    peer.write_all(&buffer.clone()).await.unwrap();
                    timed.read_exact(&mut buffer).await.unwrap();
                }
            }
            (0..20).for_each(|_| activity.request_ended(false));
        }
    }

    /// Its first bytes are taken for a head.
    #[tokio::test(start_paused = true)]
    async fn a_preface_in_pieces_makes_no_heads_of_pings() {
        let (mut peer, io) = duplex(64);
        let activity = activity(&limits());
        let mut timed = timed_io(io, activity.clone());
        peer.write_all(b"P").await.unwrap();
        let mut buffer = [0; 8];
        assert_eq!(timed.read(&mut buffer).await.unwrap(), 1);
        activity.is_http2();
        activity.request_began(false);
        activity.request_ended(false);
        peer.write_all(b"ping").await.unwrap();
        assert_eq!(timed.read(&mut buffer).await.unwrap(), 4);
        activity.heads_came(0, false);
        let began = Instant::now();
        assert_eq!(timed.read(&mut buffer).await.unwrap(), 0);
        assert_eq!(began.elapsed().as_secs(), 75);
    }

    #[tokio::test(start_paused = true)]
    async fn an_http2_head_is_bounded_also_beside_other_requests_and_when_it_drips() {
        for busy in [false, true] {
            let (mut peer, io) = duplex(64);
            let activity = activity(&limits());
            let mut timed = timed_io(io, activity.clone());
            activity.is_http2();
            if busy {
                activity.heads_came(1, false);
                activity.request_began(false);
            }
            let began = Instant::now();
            let drip = async {
                loop {
                    peer.write_all(b"h").await.unwrap();
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            let read = async {
                loop {
                    match timed.read(&mut [0; 8]).await {
                        Ok(_) => activity.heads_came(0, true),
                        Err(error) => return error,
                    }
                }
            };
            let error = tokio::select! { error = read => error, () = drip => unreachable!() };
            assert_eq!((error.kind(), began.elapsed()), (io::ErrorKind::TimedOut, HEAD), "busy: {busy}");
            assert!(activity.is_in_head());
        }
    }
}
