//! The deadlines of a client connection and its limit on HTTP/2 control frames, enforced by an IO wrapper.
//!
//! hyper's header-read timer also runs between two requests on a keep-alive connection, and its protocol
//! detection has no deadline at all, so [`DeadlineIo`] watches the bytes themselves. A connection is always
//! in one of four states, each with its deadline: *idle* (no request; `limits.idle`), *in a head*
//! (`limits.header_read`), *busy* (none here: the request has its own deadline), or *answering* (every
//! request in progress has begun its response; the client must read some of it within
//! `limits.request + limits.idle`). In the usual case no timer is touched: one timer is armed late and
//! re-armed only when it has fired.
//!
//! On HTTP/2 a peer can send frames that belong to no request (PING, SETTINGS, PRIORITY) as fast as it
//! likes, and hyper answers each of them. The bytes received beside requests are therefore counted, and the
//! connection is closed when they exceed `SLACK` plus what the requests in progress may bring.
//!
//! This file must not know what a request means. It fails with [`io::Error`]; an idle connection ends like
//! one that its peer has closed.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::{config::LimitsConfig, deadline::LateTimer};

/// What a connection is doing. Shared by its IO and its requests, all of which run in one task.
#[derive(Debug)]
pub struct Activity {
    opened: Instant,
    idle: Duration,
    header_read: Duration,
    /// How long a response may make no progress.
    write_stall: Duration,
    /// Requests in progress.
    busy: AtomicUsize,
    /// Requests in progress whose response has begun.
    answering: AtomicUsize,
    /// Whether a request head has begun and is not complete.
    in_head: AtomicBool,
    /// Whether any byte has been received.
    used: AtomicBool,
    /// Whether a request head has been complete.
    requested: AtomicBool,
    http2: AtomicBool,
    /// Microseconds since `opened`.
    head_began: AtomicU64,
    /// Microseconds since `opened`; `NEVER` while busy.
    deadline: AtomicU64,
    /// Microseconds from the next check of the deadline to the new deadline; 0: unchanged. Recording a duration
    /// instead of a time means that the clock is read once per check, however many events there were.
    renewed: AtomicU64,
    /// Maximum size of one request, head and body, in bytes.
    each: u64,
    /// HTTP/2 only: bytes received since the last request began, less the allowance of requests that have ended.
    beside: AtomicU64,
}

const NEVER: u64 = u64::MAX;

/// How many bytes an HTTP/2 connection may receive beside its requests between the beginnings of two of them:
/// what may still arrive of a refused body (hyper's connection window is 1 MiB), one head, and thousands of
/// small frames.
const SLACK: u64 = 1024 * 1024 + 128 * 1024;
/// Allowance for a request head and its frames, in bytes.
const LONGEST_HEAD: u64 = 64 * 1024;

impl Activity {
    /// The state of a connection that has just been accepted: idle.
    pub fn new(limits: &LimitsConfig) -> Arc<Self> {
        let (idle, header_read) = (limits.idle, limits.header_read);
        Arc::new(Activity {
            opened: Instant::now(),
            idle,
            header_read,
            // A streamed response may wait for Fastrac for as long as the request lasts.
            write_stall: limits.request + idle,
            busy: AtomicUsize::new(0),
            answering: AtomicUsize::new(0),
            in_head: AtomicBool::new(false),
            used: AtomicBool::new(false),
            requested: AtomicBool::new(false),
            http2: AtomicBool::new(false),
            head_began: AtomicU64::new(0),
            deadline: AtomicU64::new(idle.as_micros() as u64),
            renewed: AtomicU64::new(0),
            each: limits.request_body as u64 + LONGEST_HEAD,
            beside: AtomicU64::new(0),
        })
    }

    fn now(&self) -> u64 {
        self.opened.elapsed().as_micros() as u64
    }

    /// Sets the deadline, counted from now.
    fn ends_in(&self, time: Duration) {
        self.renewed.store(time.as_micros() as u64, Relaxed);
    }

    /// Sets the deadline, in microseconds after `opened`.
    fn ends_at(&self, micros: u64) {
        self.renewed.store(0, Relaxed);
        self.deadline.store(micros, Relaxed);
    }

    fn bytes_came(&self, bytes: &[u8]) {
        if self.http2.load(Relaxed) {
            self.beside.fetch_add(bytes.len() as u64, Relaxed);
        }
        if self.busy.load(Relaxed) > 0 || self.in_head.load(Relaxed) {
            return;
        }
        let now = self.now();
        if !self.used.swap(true, Relaxed) && bytes.starts_with(b"PRI") {
            self.http2.store(true, Relaxed);
        }
        // On HTTP/2 a byte does not mean that a head begins: PING and WINDOW_UPDATE frames come at any time.
        if !self.http2.load(Relaxed) {
            self.in_head.store(true, Relaxed);
            self.head_began.store(now, Relaxed);
            self.ends_at(now + self.header_read.as_micros() as u64);
        }
    }

    /// Records that a request head is complete, and returns the time of its first byte.
    pub fn request_began(&self) -> Instant {
        self.busy.fetch_add(1, Relaxed);
        self.requested.store(true, Relaxed);
        self.ends_at(NEVER);
        if self.in_head.swap(false, Relaxed) {
            self.opened + Duration::from_micros(self.head_began.load(Relaxed))
        } else {
            Instant::now()
        }
    }

    /// Records that a request arrived over HTTP/2; the first bytes of the connection may have been too few to tell.
    pub fn is_http2(&self) {
        self.http2.store(true, Relaxed);
        self.beside.store(0, Relaxed);
    }

    /// Whether more bytes were received on HTTP/2 than the requests in progress account for.
    fn is_flooded(&self) -> bool {
        self.beside.load(Relaxed) > SLACK + self.busy.load(Relaxed) as u64 * self.each
    }

    /// Records that the response to a request begins; from now on the client must read.
    pub fn answer_began(&self) {
        if self.answering.fetch_add(1, Relaxed) + 1 >= self.busy.load(Relaxed) {
            self.ends_in(self.write_stall);
        }
    }

    /// Records that the peer accepted bytes.
    fn bytes_went(&self) {
        let (busy, answering) = (self.busy.load(Relaxed), self.answering.load(Relaxed));
        // On HTTP/1 the last bytes of a response may be written after its request has ended. On HTTP/2
        // they may be the answer to a PING, which is no use of the connection.
        let after = busy == 0 && !self.http2.load(Relaxed) && !self.in_head.load(Relaxed);
        let write_stall = match (after, answering > 0 && answering >= busy) {
            (true, _) => self.idle,
            (false, true) => self.write_stall,
            (false, false) => return,
        };
        self.ends_in(write_stall);
    }

    /// Records that a request has ended, completely or not; `answering`: its response had begun.
    pub fn request_ended(&self, answering: bool) {
        self.answering.fetch_sub(usize::from(answering), Relaxed);
        if self.http2.load(Relaxed) {
            self.beside.store(self.beside.load(Relaxed).saturating_sub(self.each), Relaxed);
        }
        if self.busy.fetch_sub(1, Relaxed) == 1 {
            self.ends_in(self.idle);
        }
    }

    /// Whether a request head has been complete.
    pub fn has_begun_a_request(&self) -> bool {
        self.requested.load(Relaxed)
    }

    /// Whether a request is in progress.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Relaxed) > 0
    }

    pub fn is_on_http2(&self) -> bool {
        self.http2.load(Relaxed)
    }

    /// Whether a request head has begun and is not complete: at the end of a connection, that it was cut short.
    pub fn is_in_head(&self) -> bool {
        self.in_head.load(Relaxed)
    }

    fn deadline(&self) -> Option<Instant> {
        let renewed = self.renewed.load(Relaxed);
        if renewed > 0 {
            self.ends_at(self.now() + renewed);
        }
        match self.deadline.load(Relaxed) {
            NEVER => None,
            micros => Some(self.opened + Duration::from_micros(micros)),
        }
    }
}

/// IO that enforces the deadlines of an [`Activity`].
pub struct DeadlineIo<S> {
    io: S,
    activity: Arc<Activity>,
    timer: Option<LateTimer>,
    /// Whether the timer will wake the task.
    armed: bool,
}

impl<S> DeadlineIo<S> {
    pub fn new(io: S, activity: Arc<Activity>) -> Self {
        DeadlineIo { io, activity, timer: None, armed: false }
    }

    /// Whether the deadline has passed. If not, the task will be woken in time; also while busy, because hyper
    /// does not necessarily poll again between the end of a request and the first byte of the next.
    fn poll_expired(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            let deadline = self.activity.deadline();
            let wake = || deadline.unwrap_or_else(|| Instant::now() + self.activity.idle);
            let timer = self.timer.get_or_insert_with(|| LateTimer::at(wake()));
            if deadline.is_some_and(|deadline| timer.end() > deadline) {
                timer.reset(wake());
                self.armed = false;
            }
            if (self.armed && !timer.has_fired()) || timer.poll_elapsed(cx).is_pending() {
                self.armed = true;
                return false;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return true;
            }
            timer.reset(wake());
            self.armed = false;
        }
    }
}

impl<S> DeadlineIo<S> {
    /// hyper does not read while it writes, so the deadline is checked on writes too.
    fn after_write(&mut self, polled: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Ready(written) => {
                self.activity.bytes_went();
                Poll::Ready(written)
            }
            Poll::Pending if self.poll_expired(cx) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for DeadlineIo<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.activity.is_flooded() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buf.filled().len();
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Ready(result) => {
                if buf.filled().len() > before {
                    self.activity.bytes_came(&buf.filled()[before..]);
                }
                Poll::Ready(result)
            }
            Poll::Pending if self.poll_expired(cx) => Poll::Ready(match self.activity.is_in_head() {
                true => Err(io::ErrorKind::TimedOut.into()),
                // End of file, as if the peer had closed: hyper then ends an idle connection without an error.
                false => Ok(()),
            }),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for DeadlineIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.after_write(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.after_write(polled, cx)
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const IDLE: Duration = Duration::from_secs(75);
    const HEAD: Duration = Duration::from_secs(10);
    const REQUEST: Duration = Duration::from_secs(30);

    fn limits() -> LimitsConfig {
        LimitsConfig {
            request_body: 1,
            answer_body: 1,
            answer_buffer: 1,
            header_read: HEAD,
            idle: IDLE,
            request: REQUEST,
            connections: 1,
            drain_grace: IDLE,
            drain: IDLE,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_ends_quietly() {
        let (_peer, io) = duplex(64);
        let began = Instant::now();
        let mut timed = DeadlineIo::new(io, Activity::new(&limits()));
        assert_eq!(timed.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(began.elapsed().as_secs(), 75);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_head_is_an_error_however_it_drips() {
        let (mut peer, io) = duplex(64);
        let (mut timed, began) = (DeadlineIo::new(io, Activity::new(&limits())), Instant::now());
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

    /// hyper reads for the end of the connection while a request is under way, and not again after it.
    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_io_is_not_read_again_is_woken_all_the_same() {
        let (mut peer, io) = duplex(64);
        let activity = Activity::new(&limits());
        let mut timed = DeadlineIo::new(io, activity.clone());
        peer.write_all(b"GET").await.unwrap();
        let mut buffer = [0; 8];
        assert_eq!(timed.read(&mut buffer).await.unwrap(), 3);
        let began = activity.request_began();
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
        let activity = Activity::new(&limits());
        let mut timed = DeadlineIo::new(io, activity.clone());
        peer.write_all(b"GET").await.unwrap();
        assert_eq!(timed.read(&mut [0; 8]).await.unwrap(), 3);
        activity.request_began();
        stays_open(&mut timed).await;
        activity.request_ended(false);
        let ended = Instant::now();
        assert_eq!(timed.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(ended.elapsed().as_secs(), 75);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_takes_ends_its_connection() {
        let (mut peer, io) = duplex(64);
        let activity = Activity::new(&limits());
        let mut timed = DeadlineIo::new(io, activity.clone());
        peer.write_all(b"GET").await.unwrap();
        assert_eq!(timed.read(&mut [0; 8]).await.unwrap(), 3);
        activity.request_began();
        tokio::time::sleep(Duration::from_secs(20)).await;
        activity.answer_began();
        timed.write_all(&[0; 64]).await.unwrap();
        // A little is taken now and then: that is well.
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(100)).await;
            peer.read_exact(&mut [0; 8]).await.unwrap();
            timed.write_all(&[0; 8]).await.unwrap();
        }
        let began = Instant::now();
        let error = timed.write_all(&[0; 8]).await.unwrap_err();
        assert_eq!((error.kind(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, 105));
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_http2_connection_waits_for_all_its_answers() {
        let (_peer, io) = duplex(64);
        let activity = Activity::new(&limits());
        let mut timed = DeadlineIo::new(io, activity.clone());
        activity.request_began();
        activity.request_began();
        activity.answer_began();
        stays_open(&mut timed).await;
        activity.answer_began();
        let answered = Instant::now();
        assert_eq!(timed.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(answered.elapsed().as_secs(), 105);
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
            let activity = Activity::new(&limits);
            let mut timed = DeadlineIo::new(io, activity.clone());
            peer.write_all(b"PRI").await.unwrap();
            assert_eq!(timed.read(&mut [0; 3]).await.unwrap(), 3);
            for _ in 0..requests {
                activity.request_began();
                activity.is_http2();
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
        let activity = Activity::new(&limits);
        let mut timed = DeadlineIo::new(io, activity.clone());
        let mut buffer = vec![0; 16 * 1024];
        for _ in 0..5 {
            for _ in 0..20 {
                activity.request_began();
                activity.is_http2();
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

    /// Its first byte came alone, so it was taken for HTTP/1, and a ping for the beginning of a head.
    #[tokio::test(start_paused = true)]
    async fn a_preface_in_pieces_makes_no_heads_of_pings() {
        let (mut peer, io) = duplex(64);
        let activity = Activity::new(&limits());
        let mut timed = DeadlineIo::new(io, activity.clone());
        peer.write_all(b"P").await.unwrap();
        let mut buffer = [0; 8];
        assert_eq!(timed.read(&mut buffer).await.unwrap(), 1);
        activity.is_http2();
        activity.request_began();
        activity.request_ended(false);
        peer.write_all(b"ping").await.unwrap();
        assert_eq!(timed.read(&mut buffer).await.unwrap(), 4);
        let began = Instant::now();
        assert_eq!(timed.read(&mut buffer).await.unwrap(), 0);
        assert_eq!(began.elapsed().as_secs(), 75);
    }
}
