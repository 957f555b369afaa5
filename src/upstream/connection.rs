//! One connection to Fastrac, and a worker's pool of idle ones.
//!
//! A connection is a state machine that somebody must poll. Here that is the request which uses it;
//! nothing is spawned, no channel crosses tasks, and whoever drops a request drops its connection.
//! The request's deadline is kept here too, by a timer that outlives it: what is never late should not
//! arm one each time.

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
    body::{Frame, Incoming},
    client::conn::http1::{self, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

use super::connect::{Destination, Io};
use crate::{
    deferred_write::DeferredWrite,
    record::{ConnectionState, CountedConnection},
};

/// How long a connection may idle where Fastrac doesn't say: below the 5 s of common servers, so
/// that a request seldom meets a connection that is just being closed.
const IDLE: Duration = Duration::from_secs(4);

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// How many idle connections a worker keeps for one destination.
const MAX_IDLE: usize = 64;

/// A connection to be polled.
type Open = Connection<TokioIo<DeferredWrite<Io>>, Full<Bytes>>;

/// One connection, in use.
pub struct UpstreamConnection {
    sender: SendRequest<Full<Bytes>>,
    driven: Driven,
    destination: Arc<Destination>,
    counted: CountedConnection,
}

/// What whoever waits for a connection polls.
struct Driven {
    /// `None` once it is over.
    connection: Option<Pin<Box<Open>>>,
    /// When its user gives up.
    deadline: Instant,
    /// Wakes its user. Armed by the first; where it stands too early for a later one it goes off, and is moved then.
    alarm: Pin<Box<Sleep>>,
}

/// Why an answer's head is not there.
pub(super) enum Unanswered {
    /// Here is the request again, not a byte of it written: the connection was closed, or said something, while it
    /// was idle.
    Unsent(Box<Request<Full<Bytes>>>),
    /// The connection was lost.
    Cut,
    /// The deadline has passed.
    DeadlineExceeded,
}

/// The deadline has passed.
#[derive(Debug)]
pub(super) struct DeadlineExceeded;

impl UpstreamConnection {
    /// Takes an open connection into use, until `deadline`.
    pub(super) async fn open(io: Io, destination: &Arc<Destination>, deadline: Instant) -> hyper::Result<Self> {
        let (sender, connection) =
            http1::Builder::new().writev(false).handshake(TokioIo::new(DeferredWrite::new(io))).await?;
        let alarm = Box::pin(sleep_until(deadline));
        Ok(UpstreamConnection {
            sender,
            driven: Driven { connection: Some(Box::pin(connection)), deadline, alarm },
            destination: destination.clone(),
            counted: destination.connections.opened(),
        })
    }

    /// Sends a request and waits for the answer's head.
    pub(super) async fn ask(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Unanswered> {
        let answer = self.sender.try_send_request(request);
        match self.driven.drive(std::pin::pin!(answer)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(mut refused)) => {
                Err(refused.take_message().map_or(Unanswered::Cut, |unsent| Unanswered::Unsent(Box::new(unsent))))
            }
            Err(DeadlineExceeded) => Err(Unanswered::DeadlineExceeded),
        }
    }

    /// The next piece of an answer's body.
    pub(super) async fn frame(
        &mut self,
        body: &mut Incoming,
    ) -> Result<Option<hyper::Result<Frame<Bytes>>>, DeadlineExceeded> {
        self.driven.drive(std::pin::pin!(body.frame())).await
    }

    /// The next piece of an answer's body, for those who poll. Whoever takes them slowly is late too.
    pub(super) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<hyper::Result<Frame<Bytes>>>, DeadlineExceeded>> {
        if Instant::now() >= self.driven.deadline {
            return Poll::Ready(Err(DeadlineExceeded));
        }
        self.driven.poll(std::pin::pin!(body.frame()), cx)
    }

    /// Looks whether the connection was closed while it was idle. Polls it once, for nobody.
    fn is_over(&mut self) -> bool {
        let Some(connection) = &mut self.driven.connection else { return true };
        connection.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }
}

impl Driven {
    async fn drive<F: Future>(&mut self, mut future: Pin<&mut F>) -> Result<F::Output, DeadlineExceeded> {
        std::future::poll_fn(|cx| self.poll(future.as_mut(), cx)).await
    }

    /// Polls what is waited for and the connection that brings it, in one task.
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
                // Over: dropping it tells whoever waits.
                self.connection = None;
            }
            if let Poll::Ready(output) = future.poll(cx) {
                return Poll::Ready(Ok(output));
            }
        }
        self.poll_late(cx).map(Err)
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<DeadlineExceeded> {
        loop {
            if self.alarm.deadline() > self.deadline {
                self.alarm.as_mut().reset(self.deadline);
            }
            ready!(self.alarm.as_mut().poll(cx));
            if Instant::now() >= self.deadline {
                return Poll::Ready(DeadlineExceeded);
            }
            self.alarm.as_mut().reset(self.deadline);
        }
    }
}

/// A worker's idle connections.
#[derive(Default)]
pub struct Pool {
    /// By destination; few, so a list. Never locked across an `.await`; each worker has its own.
    idle: Mutex<Vec<Shelf>>,
}

struct Shelf {
    destination: u64,
    links: Vec<Idle>,
}

struct Idle {
    link: UpstreamConnection,
    until: Instant,
}

impl Pool {
    /// The idle connection that was used last. Whether it was closed meanwhile is seen by [`UpstreamConnection::ask`], which
    /// reads before it writes and then hands the request back.
    pub(super) fn take(
        &self,
        destination: &Destination,
        (now, deadline): (Instant, Instant),
    ) -> Option<UpstreamConnection> {
        loop {
            let idle = {
                let mut idle = self.idle.lock();
                idle.iter_mut().find(|shelf| shelf.destination == destination.id)?.links.pop()?
            };
            let Idle { mut link, until } = idle;
            if now < until {
                link.driven.deadline = deadline;
                link.counted.becomes(ConnectionState::Active);
                return Some(link);
            }
        }
    }

    /// Keeps a connection whose answer was read to its end. Whether it is still good is seen when it is used.
    pub(super) fn put(&self, mut link: UpstreamConnection, headers: &HeaderMap) {
        if link.driven.connection.is_none() || !link.sender.is_ready() || headers.get(CONNECTION).is_some_and(closes) {
            return;
        }
        let until = Instant::now() + announced(headers).unwrap_or(IDLE);
        link.counted.becomes(ConnectionState::Idle);
        let mut idle = self.idle.lock();
        match idle.iter_mut().find(|shelf| shelf.destination == link.destination.id) {
            Some(shelf) if shelf.links.len() < MAX_IDLE => shelf.links.push(Idle { link, until }),
            Some(_) => {}
            None => idle.push(Shelf { destination: link.destination.id, links: vec![Idle { link, until }] }),
        }
    }

    /// Drops what has idled too long. To be called now and then.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut shelves = self.idle.lock();
        for shelf in shelves.iter_mut() {
            shelf.links.retain_mut(|idle| now < idle.until && !idle.link.is_over());
        }
        shelves.retain(|shelf| !shelf.links.is_empty());
    }

    /// Closes all idle connections.
    pub fn clear(&self) {
        let shelves = std::mem::take(&mut *self.idle.lock());
        drop(shelves);
    }
}

/// Whether `Connection` says that this was the last answer.
fn closes(value: &HeaderValue) -> bool {
    value.as_bytes().split(|byte| *byte == b',').any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// `Keep-Alive: timeout=N`: a second less than Fastrac keeps it.
fn announced(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    let seconds: u64 = value.split(',').find_map(|p| p.trim().strip_prefix("timeout=")?.parse().ok())?;
    Some(Duration::from_secs(seconds.saturating_sub(1).min(60)))
}

#[cfg(test)]
mod tests;
