//! A connection to Fastrac, and a worker's pool of idle connections.
//!
//! hyper's connection is a state machine that must be polled. The request that uses it polls it: no task is spawned, no
//! channel crosses tasks, and dropping the request drops its connection. The request's deadline is kept here as well, by
//! a timer that stays with the connection, because re-arming a timer for each request would cost more than the check.
//! It must not know what is sent. Fails with `SendError` or `DeadlineExceeded`.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header::CONNECTION};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Body as _, Frame, Incoming},
    client::conn::http1::{self, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::connect::{Destination, UpstreamIo};
use crate::{
    deadline::LateTimer,
    deferred_write::DeferredWrite,
    limited_read::{LimitedRead, ReadLimits},
    record::{ConnectionState, CountedConnection},
};

/// Maximum number of header lines in a response; hyper's default is 100. A response head is bounded by its size
/// ([`MAX_HEADER_LIST`]), as in nginx and HAProxy; this number only sizes hyper's table of lines.
const MAX_HEADERS: usize = 4096;

/// Maximum size of a response's headers as HTTP/2 counts it: names, values, and 32 bytes for each (RFC 9113, section 6.5.2).
/// A caller that is sent more than it takes ends its connection, with all its other requests, also for each hit. Common ones
/// (nghttp2, and so curl; Python's h2) take 64 KiB; what the gateway adds takes less than 4.
const MAX_HEADER_LIST: usize = 60 * 1024;

/// How long a connection may idle if Fastrac sends no `Keep-Alive`: less than the 5 s of common servers, so that a
/// request seldom meets a connection that is just being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Maximum size of a request's body after which the connection is used again, bytes. Fastrac may respond before it has taken
/// the request, and what the buffers of both systems hold cannot be seen: the next request would be behind that. Orders have
/// some kilobytes.
const MAX_KEPT_BODY: u64 = 64 * 1024;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Maximum number of idle connections that a worker keeps for one destination.
const MAX_IDLE: usize = 64;

type HttpConnection = Connection<TokioIo<DeferredWrite<LimitedRead<UpstreamIo>>>, Full<Bytes>>;

/// A connection in use by one request.
pub struct UpstreamConnection {
    sender: SendRequest<Full<Bytes>>,
    driver: Driver,
    limits: ReadLimits,
    /// It has carried a request whose body was longer than [`MAX_KEPT_BODY`].
    carried_long: bool,
    destination: Arc<Destination>,
    counted: CountedConnection,
}

/// Polls a connection until what a request waits for is ready, or its deadline has passed.
struct Driver {
    /// `None` once it has ended.
    connection: Option<Pin<Box<HttpConnection>>>,
    /// Of the request that uses the connection.
    deadline: Instant,
    /// Armed by an earlier request, so it may fire too early: then it is reset to `deadline`.
    timer: LateTimer,
}

/// Why there is no response head.
pub(super) enum SendError {
    /// The request, of which no byte was written: the connection was closed, or had bytes to read, while it was idle.
    Unsent(Box<Request<Full<Bytes>>>),
    /// The connection failed before it took a byte of the request, which is gone.
    Unwritten(hyper::Error),
    /// The connection was lost.
    Cut,
    DeadlineExceeded,
}

#[derive(Debug)]
pub(super) struct DeadlineExceeded;

impl UpstreamConnection {
    /// The HTTP/1.1 handshake, for a request that ends at `deadline`.
    pub(super) async fn open(io: UpstreamIo, destination: &Arc<Destination>, deadline: Instant) -> hyper::Result<Self> {
        let limits = ReadLimits::default();
        let is_exact = matches!(io, UpstreamIo::Plain(_));
        let io = DeferredWrite::new(LimitedRead::new(io, limits.clone()).with_exact_writes(is_exact));
        let (sender, connection) =
            http1::Builder::new().writev(false).max_headers(MAX_HEADERS).handshake(TokioIo::new(io)).await?;
        let timer = LateTimer::at(deadline);
        Ok(UpstreamConnection {
            sender,
            driver: Driver { connection: Some(Box::pin(connection)), deadline, timer },
            limits,
            carried_long: false,
            destination: destination.clone(),
            counted: destination.connections.opened(),
        })
    }

    /// Sends a request and waits for the response's head.
    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, SendError> {
        self.limits.begin_request();
        self.carried_long |= request.body().size_hint().lower() > MAX_KEPT_BODY;
        let response = self.sender.try_send_request(request);
        match self.driver.drive(std::pin::pin!(response)).await {
            Ok(Ok(response)) => {
                self.limits.end_head();
                let size: usize =
                    response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
                if size > MAX_HEADER_LIST { Err(SendError::Cut) } else { Ok(response) }
            }
            Ok(Err(mut error)) => Err(match error.take_message() {
                Some(unsent) => SendError::Unsent(Box::new(unsent)),
                None if !self.limits.has_written() => SendError::Unwritten(error.into_error()),
                None => SendError::Cut,
            }),
            Err(DeadlineExceeded) => Err(SendError::DeadlineExceeded),
        }
    }

    /// What knows whether bytes of the request have left.
    pub(super) fn limits(&self) -> ReadLimits {
        self.limits.clone()
    }

    /// The next frame of a response's body; `None` at its end.
    pub(super) async fn frame(
        &mut self,
        body: &mut Incoming,
    ) -> Result<Option<hyper::Result<Frame<Bytes>>>, DeadlineExceeded> {
        std::future::poll_fn(|cx| self.poll_frame(body, cx)).await
    }

    /// The same as [`Self::frame`], for a `Body`.
    pub(super) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<hyper::Result<Frame<Bytes>>>, DeadlineExceeded>> {
        if self.limits.poll_turn(cx).is_pending() {
            return self.driver.poll_deadline(cx).map(Err);
        }
        let polled = self.driver.poll(std::pin::pin!(body.frame()), cx);
        if matches!(polled, Poll::Ready(Ok(Some(_)))) {
            self.limits.piece();
        }
        polled
    }

    /// The deadline of the request that uses it.
    pub(super) fn deadline(&self) -> Instant {
        self.driver.deadline
    }

    /// Whether the connection was closed while it was idle. Polls it once.
    fn is_closed(&mut self) -> bool {
        let Some(connection) = &mut self.driver.connection else { return true };
        connection.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }
}

impl Driver {
    async fn drive<F: Future>(&mut self, mut future: Pin<&mut F>) -> Result<F::Output, DeadlineExceeded> {
        std::future::poll_fn(|cx| self.poll(future.as_mut(), cx)).await
    }

    /// Polls `future` and the connection that it depends on.
    fn poll<F: Future>(
        &mut self,
        mut future: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<F::Output, DeadlineExceeded>> {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if let Some(connection) = &mut self.connection {
            if connection.as_mut().poll(cx).is_ready() {
                // It has ended: dropping it completes `future`.
                self.connection = None;
            }
            if let Poll::Ready(output) = future.poll(cx) {
                return Poll::Ready(Ok(output));
            }
        }
        self.poll_deadline(cx).map(Err)
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<DeadlineExceeded> {
        loop {
            if self.timer.end() > self.deadline {
                self.timer.reset(self.deadline);
            }
            ready!(self.timer.poll_elapsed(cx));
            if Instant::now() >= self.deadline {
                return Poll::Ready(DeadlineExceeded);
            }
            self.timer.reset(self.deadline);
        }
    }
}

/// A worker's idle connections; those used last are taken first.
#[derive(Default)]
pub struct Pool {
    /// A list, since there are few destinations. Uncontended: each worker has its own pool.
    idle: Mutex<Vec<IdleConnections>>,
}

struct IdleConnections {
    /// `Destination::id`.
    destination: u64,
    connections: Vec<IdleConnection>,
}

struct IdleConnection {
    connection: UpstreamConnection,
    until: Instant,
}

impl Pool {
    /// The idle connection that was used last. [`UpstreamConnection::send`] notices if it has been closed meanwhile.
    pub(super) fn take(
        &self,
        destination: &Destination,
        now: Instant,
        deadline: Instant,
    ) -> Option<UpstreamConnection> {
        loop {
            let idle = {
                let mut idle = self.idle.lock();
                idle.iter_mut().find(|of| of.destination == destination.id)?.connections.pop()?
            };
            let IdleConnection { mut connection, until } = idle;
            if now < until {
                connection.driver.deadline = deadline;
                connection.counted.set_state(ConnectionState::Active);
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose response was read to its end, unless it has ended or will be closed, or Fastrac may not have
    /// taken the whole request: the next one would be behind the rest of that.
    pub(super) fn put(&self, mut connection: UpstreamConnection, headers: &HeaderMap, now: Instant) {
        let is_open = connection.driver.connection.is_some() && connection.sender.is_ready();
        let reusable = is_open && connection.limits.has_flushed() && !connection.carried_long;
        if !reusable || headers.get_all(CONNECTION).iter().any(closes) {
            return;
        }
        let until = now + keep_alive_timeout(headers).unwrap_or(IDLE_TIMEOUT);
        connection.counted.set_state(ConnectionState::Idle);
        let destination = connection.destination.id;
        let returned = IdleConnection { connection, until };
        let mut idle = self.idle.lock();
        match idle.iter_mut().find(|of| of.destination == destination) {
            Some(of) if of.connections.len() < MAX_IDLE => of.connections.push(returned),
            Some(_) => {}
            None => idle.push(IdleConnections { destination, connections: vec![returned] }),
        }
    }

    /// Drops connections that have idled too long or were closed. To be called periodically.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut idle = self.idle.lock();
        for of in idle.iter_mut() {
            of.connections.retain_mut(|idle| now < idle.until && !idle.connection.is_closed());
        }
        idle.retain(|of| !of.connections.is_empty());
    }

    /// Closes all idle connections.
    pub fn clear(&self) {
        // Closed without the lock held.
        let idle = std::mem::take(&mut *self.idle.lock());
        drop(idle);
    }
}

/// Whether `Connection` says that this was the connection's last response.
fn closes(value: &HeaderValue) -> bool {
    value.as_bytes().split(|byte| *byte == b',').any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// `Keep-Alive: timeout=N`, less a second, at most 60 s.
fn keep_alive_timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    let seconds: u64 = value.split(',').find_map(|p| p.trim().strip_prefix("timeout=")?.parse().ok())?;
    Some(Duration::from_secs(seconds.saturating_sub(1).min(60)))
}

#[cfg(test)]
mod tests;
