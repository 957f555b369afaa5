//! A connection's three deadlines, and HTTP/2's measure, kept by its IO.
//!
//! hyper's own header timer also runs between two requests of a kept connection, and its protocol
//! detection has no deadline at all; so the bytes themselves are watched. A connection is *idle*
//! (no request, `limits.idle`), *in a head* (`limits.header_read`), *busy* (no deadline here: the
//! request has its own) or *answering*: all its answers have begun, and the caller must take some of
//! them within `limits.request` and `limits.idle` together. In the usual case no timer is touched: one
//! is armed late and re-armed only when it has fired.
//!
//! On HTTP/2 a peer may send what is no request at all (pings, settings, priorities) as fast as it can, and
//! hyper answers it patiently. So what comes beside requests is measured, and the connection ends when it is
//! too much: for the requests under way their heads and bodies are allowed, and a slack.

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
    time::{Instant, Sleep, sleep_until},
};

use crate::config::Limits;

/// What a connection is doing. Shared by its IO and its requests, which live in one task.
#[derive(Debug)]
pub struct Phase {
    opened: Instant,
    idle: Duration,
    header_read: Duration,
    /// How long an answer may stand untaken.
    patience: Duration,
    /// Requests under way.
    busy: AtomicUsize,
    /// Those of them whose answer has begun.
    answering: AtomicUsize,
    /// Whether a head has begun and isn't complete.
    in_head: AtomicBool,
    /// Whether it has asked anything yet.
    used: AtomicBool,
    http2: AtomicBool,
    /// Microseconds since `opened`.
    head_began: AtomicU64,
    /// Microseconds since `opened`; `NEVER` while busy.
    deadline: AtomicU64,
    /// Microseconds from now: what the deadline becomes when it is looked at next; 0 if it stands. So the clock is
    /// read once, however much happens in between.
    renewed: AtomicU64,
    /// Bytes of head and body that one request may bring.
    each: u64,
    /// Bytes that came on HTTP/2 since the last request began, less those of requests that have ended.
    beside: AtomicU64,
}

const NEVER: u64 = u64::MAX;

/// What an HTTP/2 connection may receive beside its requests between the beginnings of two, bytes: what is
/// under way of a body that was refused (hyper's window is 1 MiB), a head, and thousands of frames that
/// are none.
const SLACK: u64 = 1024 * 1024 + 128 * 1024;
/// The head of a request and what frames it, bytes.
const LONGEST_HEAD: u64 = 64 * 1024;

impl Phase {
    /// Of a connection that has just been accepted.
    pub fn new(limits: &Limits) -> Arc<Self> {
        let (idle, header_read) = (limits.idle, limits.header_read);
        Arc::new(Phase {
            opened: Instant::now(),
            idle,
            header_read,
            // An answer that is streamed may wait for Fastrac as long as the request lasts.
            patience: limits.request + idle,
            busy: AtomicUsize::new(0),
            answering: AtomicUsize::new(0),
            in_head: AtomicBool::new(false),
            used: AtomicBool::new(false),
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

    /// It is over after this time, unless something happens.
    fn ends_in(&self, time: Duration) {
        self.renewed.store(time.as_micros() as u64, Relaxed);
    }

    /// Its deadline is this many microseconds after `opened`.
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
        // On HTTP/2 bytes are not heads: pings and window updates come at any time.
        if !self.http2.load(Relaxed) {
            self.in_head.store(true, Relaxed);
            self.head_began.store(now, Relaxed);
            self.ends_at(now + self.header_read.as_micros() as u64);
        }
    }

    /// A head is complete. Returns when its first byte came.
    pub fn request_began(&self) -> Instant {
        self.busy.fetch_add(1, Relaxed);
        self.ends_at(NEVER);
        if self.in_head.swap(false, Relaxed) {
            self.opened + Duration::from_micros(self.head_began.load(Relaxed))
        } else {
            Instant::now()
        }
    }

    /// A request came by HTTP/2, which the connection's first bytes may have been too few to tell.
    pub fn is_http2(&self) {
        self.http2.store(true, Relaxed);
        self.beside.store(0, Relaxed);
    }

    /// Whether more has come on HTTP/2 than the requests under way can account for.
    fn is_flooded(&self) -> bool {
        self.beside.load(Relaxed) > SLACK + self.busy.load(Relaxed) as u64 * self.each
    }

    /// A request's answer is there; from now on its caller takes it.
    pub fn answer_began(&self) {
        if self.answering.fetch_add(1, Relaxed) + 1 >= self.busy.load(Relaxed) {
            self.ends_in(self.patience);
        }
    }

    /// The peer takes bytes.
    fn bytes_went(&self) {
        let (busy, answering) = (self.busy.load(Relaxed), self.answering.load(Relaxed));
        // The last of an answer may go out after its request has ended. Not so on HTTP/2, where the
        // answer to a ping is no sign of use.
        let after = busy == 0 && !self.http2.load(Relaxed) && !self.in_head.load(Relaxed);
        let patience = match (after, answering > 0 && answering >= busy) {
            (true, _) => self.idle,
            (false, true) => self.patience,
            (false, false) => return,
        };
        self.ends_in(patience);
    }

    /// A request's answer is out, or it was given up; `answering` tells whether the answer had begun.
    pub fn request_ended(&self, answering: bool) {
        self.answering.fetch_sub(usize::from(answering), Relaxed);
        if self.http2.load(Relaxed) {
            self.beside.store(self.beside.load(Relaxed).saturating_sub(self.each), Relaxed);
        }
        if self.busy.fetch_sub(1, Relaxed) == 1 {
            self.ends_in(self.idle);
        }
    }

    /// Whether anything has come on it.
    pub fn is_used(&self) -> bool {
        self.used.load(Relaxed)
    }

    /// Whether a request's head was cut short, by the peer or by its deadline.
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

/// IO that keeps a [`Phase`]'s deadlines.
pub struct Timed<S> {
    io: S,
    phase: Arc<Phase>,
    alarm: Option<Pin<Box<Sleep>>>,
    /// Whether the alarm will wake the task.
    armed: bool,
}

impl<S> Timed<S> {
    /// Watches `io`.
    pub fn new(io: S, phase: Arc<Phase>) -> Self {
        Timed { io, phase, alarm: None, armed: false }
    }

    /// Whether the deadline has passed. Otherwise the task is woken in time: also while busy, because
    /// hyper needn't read again between the end of a request and the next one's first byte.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            let deadline = self.phase.deadline();
            let wake = || deadline.unwrap_or_else(|| Instant::now() + self.phase.idle);
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(wake())));
            if deadline.is_some_and(|deadline| alarm.deadline() > deadline) {
                alarm.as_mut().reset(wake());
                self.armed = false;
            }
            if (self.armed && !alarm.is_elapsed()) || alarm.as_mut().poll(cx).is_pending() {
                self.armed = true;
                return false;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return true;
            }
            alarm.as_mut().reset(wake());
            self.armed = false;
        }
    }
}

impl<S> Timed<S> {
    /// hyper doesn't read while it writes, so the deadline is looked at here too.
    fn written(&mut self, polled: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Ready(written) => {
                self.phase.bytes_went();
                Poll::Ready(written)
            }
            Poll::Pending if self.poll_late(cx) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.phase.is_flooded() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buf.filled().len();
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Ready(result) => {
                if buf.filled().len() > before {
                    self.phase.bytes_came(&buf.filled()[before..]);
                }
                Poll::Ready(result)
            }
            Poll::Pending if self.poll_late(cx) => Poll::Ready(match self.phase.is_in_head() {
                true => Err(io::ErrorKind::TimedOut.into()),
                // As if the peer had closed: hyper then ends an idle connection without complaint.
                false => Ok(()),
            }),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.written(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.written(polled, cx)
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

    fn limits() -> Limits {
        Limits {
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
        let mut timed = Timed::new(io, Phase::new(&limits()));
        assert_eq!(timed.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(began.elapsed().as_secs(), 75);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_head_is_an_error_however_it_drips() {
        let (mut peer, io) = duplex(64);
        let (mut timed, began) = (Timed::new(io, Phase::new(&limits())), Instant::now());
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
        let phase = Phase::new(&limits());
        let mut timed = Timed::new(io, phase.clone());
        peer.write_all(b"GET").await.unwrap();
        let mut buffer = [0; 8];
        assert_eq!(timed.read(&mut buffer).await.unwrap(), 3);
        let began = phase.request_began();
        // One poll while busy; then only a wake-up can bring the next.
        let mut read = std::pin::pin!(timed.read(&mut buffer));
        let first = std::future::poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx).is_pending())).await;
        assert!(first);
        phase.request_ended(false);
        assert_eq!(read.await.unwrap(), 0);
        assert_eq!(began.elapsed().as_secs(), 75);
    }

    async fn stays_open(timed: &mut Timed<tokio::io::DuplexStream>) {
        let mut buffer = [0; 8];
        tokio::select! {
            _ = timed.read(&mut buffer) => panic!("ended while busy"),
            () = tokio::time::sleep(Duration::from_secs(1000)) => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_connection_has_no_deadline_here() {
        let (mut peer, io) = duplex(64);
        let phase = Phase::new(&limits());
        let mut timed = Timed::new(io, phase.clone());
        peer.write_all(b"GET").await.unwrap();
        assert_eq!(timed.read(&mut [0; 8]).await.unwrap(), 3);
        phase.request_began();
        stays_open(&mut timed).await;
        phase.request_ended(false);
        let ended = Instant::now();
        assert_eq!(timed.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(ended.elapsed().as_secs(), 75);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_takes_ends_its_connection() {
        let (mut peer, io) = duplex(64);
        let phase = Phase::new(&limits());
        let mut timed = Timed::new(io, phase.clone());
        peer.write_all(b"GET").await.unwrap();
        assert_eq!(timed.read(&mut [0; 8]).await.unwrap(), 3);
        phase.request_began();
        tokio::time::sleep(Duration::from_secs(20)).await;
        phase.answer_began();
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
        let phase = Phase::new(&limits());
        let mut timed = Timed::new(io, phase.clone());
        phase.request_began();
        phase.request_began();
        phase.answer_began();
        stays_open(&mut timed).await;
        phase.answer_began();
        let answered = Instant::now();
        assert_eq!(timed.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(answered.elapsed().as_secs(), 105);
    }

    /// Reads until the connection ends; how many bytes came before.
    async fn flooded(timed: &mut Timed<tokio::io::DuplexStream>, peer: &mut tokio::io::DuplexStream) -> u64 {
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
        let limits = Limits { request_body: 1 << 20, ..limits() };
        let near = |came: u64, allowed: u64| (allowed..allowed + 32 * 1024).contains(&came);
        for requests in [0, 1, 3] {
            let (mut peer, io) = duplex(64 * 1024);
            let phase = Phase::new(&limits);
            let mut timed = Timed::new(io, phase.clone());
            peer.write_all(b"PRI").await.unwrap();
            assert_eq!(timed.read(&mut [0; 3]).await.unwrap(), 3);
            for _ in 0..requests {
                phase.request_began();
                phase.is_http2();
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
        let limits = Limits { request_body: 1 << 20, ..limits() };
        let (mut peer, io) = duplex(64 * 1024);
        let phase = Phase::new(&limits);
        let mut timed = Timed::new(io, phase.clone());
        let mut buffer = vec![0; 16 * 1024];
        for _ in 0..5 {
            for _ in 0..20 {
                phase.request_began();
                phase.is_http2();
            }
            for _ in 0..20 {
                for _ in 0..(1 << 20) / buffer.len() {
                    peer.write_all(&buffer.clone()).await.unwrap();
                    timed.read_exact(&mut buffer).await.unwrap();
                }
            }
            (0..20).for_each(|_| phase.request_ended(false));
        }
    }

    /// Its first byte came alone, so it was taken for HTTP/1, and a ping for the beginning of a head.
    #[tokio::test(start_paused = true)]
    async fn a_preface_in_pieces_makes_no_heads_of_pings() {
        let (mut peer, io) = duplex(64);
        let phase = Phase::new(&limits());
        let mut timed = Timed::new(io, phase.clone());
        peer.write_all(b"P").await.unwrap();
        let mut buffer = [0; 8];
        assert_eq!(timed.read(&mut buffer).await.unwrap(), 1);
        phase.is_http2();
        phase.request_began();
        phase.request_ended(false);
        peer.write_all(b"ping").await.unwrap();
        assert_eq!(timed.read(&mut buffer).await.unwrap(), 4);
        let began = Instant::now();
        assert_eq!(timed.read(&mut buffer).await.unwrap(), 0);
        assert_eq!(began.elapsed().as_secs(), 75);
    }
}
