//! One attempt to call Fastrac.
//!
//! Each worker has its own pool of HTTP/1.1 connections, and a connection is driven inside the task of the request that
//! uses it. Nothing polls an idle connection: it is checked when it is taken, because hyper reads before it writes. If
//! it has been closed or has bytes to read, hyper hands the request back with no byte of it written, and another
//! connection takes it; otherwise nothing is ever sent twice here. [`send`] takes a [`Keyed`] and a `Spent`, so neither
//! injection nor budget can be skipped. From the moment that the first byte may leave, the request counts as sent and
//! spent, unless it is handed back. It must not know services, quotas or the cache. Fails with [`Failure`].

pub mod breaker;
mod breakers;
pub mod connect;
pub mod connection;
mod framing;
pub mod inject;
mod location;
mod proxy;
pub(crate) mod retry;
pub mod rewrite;
pub mod stream;

use std::{
    error::Error as _,
    io::{self, ErrorKind},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use hyper::body::{Body as _, Incoming};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    admission::{Spent, Unrecorded},
    attempts::{Attempts, Sending},
    connector::ConnectError,
    keys::Lease,
    limited_read::ReadLimits,
    memory::{ClaimedBuffer, MemoryAllowance, MemoryExhausted},
    outcome::{Code, Evidence, RetryReason},
    retry_after,
};
pub use breakers::Breakers;
pub use connect::Destination;
use connection::{DeadlineExceeded, SendError};
pub use connection::{Pool, UpstreamConnection};
use framing::{Contradiction, Framing};
pub use inject::Keyed;
pub use retry::RetryBudget;
use stream::Beginning;
pub use stream::Stream;

/// How long a connection to Fastrac may take to open, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What bounds one attempt.
#[derive(Clone, Debug)]
pub struct Bounds {
    pub began: Instant,
    /// Without a byte sent by then, nothing is sent.
    pub start_by: Instant,
    /// When the response must be complete.
    pub deadline: Instant,
    /// `limits.answer_buffer`: responses up to this many bytes are read whole.
    pub buffer: usize,
    /// `limits.answer_body`: maximum size of a response, in bytes.
    pub body: usize,
    /// Whether a response longer than `buffer` may be streamed; else it is read whole, up to `body`.
    pub may_stream: bool,
    /// For what is read of the response.
    pub memory: MemoryAllowance,
    /// It must never be executed twice, so that nobody but this function may send it again, and its response is read, whatever
    /// is claimed already.
    pub is_order: bool,
}

impl Bounds {
    /// How long a long response to an order waits for room: half of its time at most, so that it can be read in the rest.
    fn room_until(&self) -> Instant {
        let now = Instant::now();
        now + (self.deadline.saturating_duration_since(now) / 2).min(LONGEST_WAIT_FOR_ROOM)
    }
}

/// Responses to orders up to this size are read at once, in bytes.
const LONG: usize = 256 * 1024;

/// How long one that is longer waits for room at most: Fastrac might not wait longer until more of it is taken.
const LONGEST_WAIT_FOR_ROOM: Duration = Duration::from_secs(10);

/// Least wait that the caller of a throttled request is told.
pub(crate) const THROTTLED: Duration = Duration::from_secs(1);

/// A response of Fastrac's.
pub struct Answer {
    pub status: StatusCode,
    /// As received.
    pub headers: HeaderMap,
    /// The length of the body that a GET would have got, where there is none (to HEAD, or 304).
    pub described_length: Option<u64>,
    pub body: AnswerBody,
    /// From the first byte of the request to what was read of the response.
    pub took: Duration,
}

impl Answer {
    /// How long Fastrac says to wait (`Retry-After`); `None` if it does not.
    pub fn wait_named(&self) -> Option<Duration> {
        retry_after::named(&self.headers, Timestamp::now())
    }

    /// Has it name `wait`, or the time that it names if that is longer: once, in whole seconds, rounded up, so that who
    /// waits as long is not refused. A date is by Fastrac's clock, which may not be the caller's, and what is no time may be
    /// an error, or for ever, for a caller's library.
    pub fn wait_at_least(&mut self, wait: Duration) {
        let wait = self.wait_named().map_or(wait, |named| named.max(wait));
        self.headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after::whole_seconds(wait).as_secs()));
    }
}

pub enum AnswerBody {
    Whole(Bytes),
    /// Longer than `Bounds::buffer`; its beginning has been read.
    Long(Box<Stream>),
}

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("No connection to Fastrac, nothing was sent: {0}")]
    Connect(String),
    /// A fault of this host, which proves nothing about Fastrac.
    #[error("The gateway itself could not open a connection, nothing was sent: {0}; try again in 1 s")]
    LocalFault(String),
    /// At the very moment at which the request was to be sent on it. That says nothing about Fastrac.
    #[error("Fastrac closed the idle connection that the request was to be sent on, nothing was sent; try again")]
    ClosedIdle,
    #[error("The time was up before the request could be sent; Fastrac has not seen it")]
    NotStarted,
    /// While a connection was opened.
    #[error("The key pair was revoked before the request could be sent; Fastrac has not seen it; try again in 1 s")]
    Revoked,
    #[error("No complete response from Fastrac in time; it may have executed the request")]
    Timeout,
    #[error("The connection to Fastrac was lost before its response was complete; it may have executed the request")]
    Cut,
    #[error(
        "Fastrac's response is longer than {0} bytes (`limits.answer_body`); ask for less, or ask the gateway's operators \
         for more"
    )]
    TooLong(usize),
    /// Nothing was sent.
    #[error("Nothing was sent: {0}; try again in 1 s")]
    Unrecorded(#[from] Unrecorded),
    /// A response has come, but there is no room for it.
    #[error("{0}; Fastrac's response was not read")]
    NoMemory(#[from] MemoryExhausted),
}

impl Failure {
    /// The wait for a fetch has ended before the fetch did.
    pub fn out_of_time(may_be_sent: bool) -> Self {
        if may_be_sent { Failure::Timeout } else { Failure::NotStarted }
    }

    pub fn code(&self) -> Code {
        match self {
            Failure::Connect(_) | Failure::ClosedIdle => Code::UpstreamConnect,
            Failure::LocalFault(_) | Failure::NoMemory(_) | Failure::Unrecorded(_) => Code::GatewayOverloaded,
            Failure::NotStarted | Failure::Timeout => Code::UpstreamTimeout,
            Failure::Revoked => Code::KeysUnavailable,
            Failure::Cut | Failure::TooLong(_) => Code::UpstreamCut,
        }
    }

    /// What it says about Fastrac. A response that is longer than the gateway's own limit is one.
    pub fn evidence(&self) -> Evidence {
        match self {
            Failure::TooLong(_) => Evidence::Healthy,
            Failure::NotStarted | Failure::ClosedIdle | Failure::Revoked | Failure::Unrecorded(_) => Evidence::Nothing,
            _ => self.code().outcome().evidence(None),
        }
    }

    /// Whether nothing was sent.
    pub fn is_unsent(&self) -> bool {
        use Failure::{ClosedIdle, Connect, LocalFault, NotStarted, Revoked, Unrecorded};
        matches!(self, Connect(_) | LocalFault(_) | ClosedIdle | NotStarted | Revoked | Unrecorded(_))
    }

    /// Why a second attempt may help, for an operation that may be repeated; `None` if none may.
    pub fn retry_reason(&self) -> Option<RetryReason> {
        match self {
            // The next response would be as long.
            Failure::TooLong(_) => None,
            _ => self.code().outcome().retry_reason(None),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Local(why) => Failure::LocalFault(why),
            ConnectError::Remote(why) => Failure::Connect(why),
        }
    }
}

impl From<Contradiction> for Failure {
    fn from(Contradiction: Contradiction) -> Self {
        Failure::Cut
    }
}

/// What is told that a request was sent.
pub struct Accounting<'a> {
    /// Cannot be given back any more.
    pub spent: &'a mut Spent,
    /// The request may have been sent.
    pub attempts: &'a Attempts,
    /// Counts it. Called once, or never if nothing is sent.
    pub count: &'a (dyn Fn() + Send + Sync),
}

impl Accounting<'_> {
    fn sending(&mut self, limits: ReadLimits) -> Departure<'_> {
        Departure { spent: self.spent, sending: Some(self.attempts.sending()), count: self.count, limits }
    }
}

/// A request whose bytes may be leaving. It counts as sent and spent once this is dropped, also if the future that holds
/// it is dropped; not if that happens before the first write, because the connection goes with it.
#[must_use = "dropping it means that the request may have been sent"]
struct Departure<'a> {
    spent: &'a mut Spent,
    sending: Option<Sending<'a>>,
    count: &'a (dyn Fn() + Send + Sync),
    /// Of the connection.
    limits: ReadLimits,
}

impl Departure<'_> {
    /// The request came back from the connection and not one byte of it was written: it has cost nothing.
    fn handed_back(mut self) {
        if let Some(sending) = self.sending.take() {
            sending.handed_back();
        }
    }
}

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        let Some(sending) = self.sending.take() else { return };
        if self.limits.has_written() {
            drop(sending);
            self.spent.sent();
            (self.count)();
        } else {
            sending.handed_back();
        }
    }
}

/// Sends one request and reads its response.
///
/// # Errors
/// [`Failure`]. An order that may have been sent (`attempts`) must never be sent again.
pub async fn send(
    pool: &Pool,
    keyed: Keyed,
    mut accounting: Accounting<'_>,
    bounds: Bounds,
) -> Result<Answer, Failure> {
    let Keyed { destination, mut request, lease } = keyed;
    let head_only = request.method() == Method::HEAD;
    if bounds.began >= bounds.start_by {
        return Err(Failure::NotStarted);
    }
    loop {
        let (mut connection, is_new) = match pool.take(&destination, bounds.began, bounds.deadline) {
            Some(connection) => (connection, false),
            // Boxed: a handshake is large, and rare.
            None => (Box::pin(connect(&destination, &bounds)).await?, true),
        };
        accounting.spent.record(bounds.start_by).await?;
        // It may have been, while the connection was opened.
        if lease.is_revoked() {
            return Err(Failure::Revoked);
        }
        let (departure, sent_at) = (accounting.sending(connection.limits()), Instant::now());
        // An order that such a connection does not take goes on another one, as one that hyper gives back does.
        let copy = (bounds.is_order && !is_new).then(|| Box::new(request.clone()));
        match connection.send(request).await {
            Ok(response) => {
                drop(departure);
                let attempts = accounting.attempts;
                return read(Incomplete { pool, connection, lease, bounds, attempts, head_only, sent_at }, response)
                    .await;
            }
            Err(SendError::Unsent(unsent)) => {
                departure.handed_back();
                if is_new {
                    return Err(Failure::Connect("it was closed at once".into()));
                }
                request = *unsent;
            }
            Err(SendError::Unwritten(why)) => {
                departure.handed_back();
                match (unwritten(&why, is_new), copy) {
                    (Failure::ClosedIdle, Some(copy)) => request = *copy,
                    (failure, _) => return Err(failure),
                }
            }
            Err(SendError::DeadlineExceeded) if !connection.limits().has_written() => return Err(Failure::NotStarted),
            Err(SendError::Cut) => return Err(Failure::Cut),
            Err(SendError::DeadlineExceeded) => return Err(Failure::Timeout),
        }
    }
}

/// The failure of a request of which its connection took no byte.
fn unwritten(why: &hyper::Error, is_new: bool) -> Failure {
    let is_peers = |error: &io::Error| {
        matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
    };
    match why.source().and_then(|why| why.downcast_ref::<io::Error>()) {
        Some(error) if !is_peers(error) => Failure::LocalFault(error.to_string()),
        _ if is_new => Failure::Connect("it was closed at once".into()),
        _ => Failure::ClosedIdle,
    }
}

async fn connect(destination: &Arc<Destination>, bounds: &Bounds) -> Result<UpstreamConnection, Failure> {
    let open_by = bounds.start_by.min(Instant::now() + CONNECT_TIMEOUT);
    let opened = match connect::dial(destination, open_by).await {
        Ok(_) if Instant::now() >= bounds.start_by => return Err(Failure::NotStarted),
        Ok(io) => {
            let opened = UpstreamConnection::open(io, destination, bounds.deadline).await;
            opened.map_err(|error| ConnectError::Remote(error.to_string()))
        }
        Err(error) => Err(error),
    };
    opened.inspect_err(|why| destination.unreachable(why)).map_err(Failure::from)
}

/// A response whose head has arrived, and what reading the rest takes.
struct Incomplete<'p> {
    pool: &'p Pool,
    connection: UpstreamConnection,
    lease: Lease,
    bounds: Bounds,
    attempts: &'p Attempts,
    /// The request was HEAD.
    head_only: bool,
    sent_at: Instant,
}

async fn read(response: Incomplete<'_>, head: http::Response<Incoming>) -> Result<Answer, Failure> {
    let Incomplete { pool, mut connection, lease, bounds, attempts, head_only, sent_at } = response;
    let (head, mut incoming) = head.into_parts();
    let Framing { mut due, is_certain, described_length } = Framing::of(head.status, &head.headers, head_only)?;
    if !incoming.is_end_stream() {
        attempts.received(0);
    }
    if incoming.size_hint().lower() > bounds.body as u64 {
        return Err(Failure::TooLong(bounds.body));
    }
    let whole_up_to = if bounds.may_stream { bounds.buffer.min(bounds.body) } else { bounds.body };
    let declared = incoming.size_hint().lower().min(whole_up_to as u64) as usize;
    let memory = if bounds.is_order { bounds.memory.clone().unlimited() } else { bounds.memory.clone() };
    let mut buffer = ClaimedBuffer::new(memory, declared)?;
    let mut has_waited = !bounds.is_order;
    loop {
        if incoming.is_end_stream() {
            break;
        }
        if !has_waited && declared.max(buffer.length()) > LONG {
            has_waited = true;
            let most = if declared > 0 { declared } else { whole_up_to };
            // On the heap: few responses are so long.
            buffer.claimed(Box::pin(bounds.memory.claim_in_turn(most, bounds.room_until())).await);
        }
        let frame = connection.frame(&mut incoming).await.map_err(|DeadlineExceeded| Failure::Timeout)?;
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|_| Failure::Cut)?.into_data() else { continue };
        attempts.received(data.len());
        due.take(data.len())?;
        buffer.push(data)?;
        if buffer.length() > whole_up_to {
            if !bounds.may_stream || buffer.length() > bounds.body {
                return Err(Failure::TooLong(bounds.body));
            }
            let left = bounds.body - buffer.length();
            let (bytes, claim) = buffer.into_parts();
            let beginning = Beginning { bytes, claim, left, due, attempts: attempts.clone() };
            let stream = Stream::new(connection, incoming, beginning, &lease);
            let body = AnswerBody::Long(Box::new(stream));
            let took = sent_at.elapsed();
            return Ok(Answer { status: head.status, headers: head.headers, described_length, body, took });
        }
    }
    due.end()?;
    let now = Instant::now();
    if is_certain {
        pool.put(connection, &head.headers, now);
    }
    let (body, took) = (AnswerBody::Whole(buffer.into_bytes()), now - sent_at);
    Ok(Answer { status: head.status, headers: head.headers, described_length, body, took })
}

#[cfg(test)]
mod tests;
