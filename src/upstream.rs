//! The vendor leg: one attempt at asking Fastrac.
//!
//! Each worker has its own pool of HTTP/1.1 connections, and a connection is driven inside the task
//! of the request that uses it: an idle one is polled by nobody, and read before it is written to when
//! it is taken; if it is closed or has bytes, hyper hands the request back, not a byte of it written,
//! and another connection takes it. Nothing is ever sent twice here otherwise. `send` asks for a [`Keyed`] and a
//! `Spent`, so neither injection nor budget can be skipped. Whether Fastrac may have received it is noted in
//! `Attempts` at the moment when the first byte may leave. Fails with [`Failure`].

pub mod breaker;
pub mod connect;
pub mod connection;
pub mod inject;
mod proxy;
pub(crate) mod retry;
pub mod rewrite;
pub mod stream;

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, timeout_at};

use crate::{admission::Spent, attempts::Attempts, keys::Lease};
pub use connect::Destination;
use connection::{DeadlineExceeded, Unanswered};
pub use connection::{Pool, UpstreamConnection};
pub use inject::Keyed;
pub use stream::Stream;

/// How long a connection to Fastrac may take to open, TLS included.
const CONNECT: Duration = Duration::from_secs(5);

/// What bounds one attempt.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// When the attempt began.
    pub began: Instant,
    /// When the answer must be whole.
    pub deadline: Instant,
    /// Answers up to this many bytes are read whole.
    pub buffer: usize,
    /// No answer may be longer.
    pub body: usize,
    /// A longer answer than `buffer` may be streamed.
    pub may_stream: bool,
}

/// An answer of Fastrac's.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, as they came.
    pub headers: HeaderMap,
    /// Its body.
    pub body: AnswerBody,
}

/// An answer's body.
pub enum AnswerBody {
    /// All of it.
    Whole(Bytes),
    /// The beginning is known, the rest is on its way.
    Long(Box<Stream>),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No connection: Fastrac saw nothing.
    #[error("no connection to Fastrac: {0}")]
    Connect(String),
    /// No whole answer in time.
    #[error("no answer from Fastrac in time")]
    Timeout,
    /// The connection was lost before the answer was whole.
    #[error("the connection to Fastrac was lost before the answer was whole")]
    Cut,
    /// The answer is longer than `limits.answer_body`.
    #[error("Fastrac's answer is longer than {0} bytes (`limits.answer_body`)")]
    TooLong(usize),
}

/// What is told when the first byte of a request may leave.
pub struct Accounting<'a> {
    /// Cannot be given back any more.
    pub spent: &'a mut Spent,
    /// The request may have been sent.
    pub attempts: &'a mut Attempts,
}

/// Sends one request and reads its answer.
///
/// # Errors
/// [`Failure`]. An order that may have been sent (`attempts`) must never be sent again.
pub async fn send(pool: &Pool, keyed: Keyed, accounting: Accounting<'_>, bounds: Bounds) -> Result<Answer, Failure> {
    let Keyed { destination, mut request, lease } = keyed;
    loop {
        let (mut link, fresh) = match pool.take(&destination, (bounds.began, bounds.deadline)) {
            Some(link) => (link, false),
            // On the heap: a handshake is large, and rare.
            None => (Box::pin(connect(&destination, bounds.deadline)).await?, true),
        };
        accounting.spent.sent();
        let sending = accounting.attempts.sending();
        match link.ask(request).await {
            Ok(response) => return read(pool, link, response, (lease, bounds)).await,
            Err(Unanswered::Unsent(unsent)) => {
                sending.handed_back();
                if fresh {
                    return Err(Failure::Connect("it was closed at once".into()));
                }
                request = *unsent;
            }
            Err(Unanswered::Cut) => return Err(Failure::Cut),
            Err(Unanswered::DeadlineExceeded) => return Err(Failure::Timeout),
        }
    }
}

async fn connect(destination: &Arc<Destination>, deadline: Instant) -> Result<UpstreamConnection, Failure> {
    let open_by = deadline.min(Instant::now() + CONNECT);
    let opened = match timeout_at(open_by, connect::dial(destination)).await {
        Ok(Ok(io)) => UpstreamConnection::open(io, destination, deadline).await.map_err(|error| error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it did not open in time".to_owned()),
    };
    opened.inspect_err(|why| destination.unreachable(why)).map_err(Failure::Connect)
}

async fn read(
    pool: &Pool,
    mut link: UpstreamConnection,
    response: http::Response<Incoming>,
    (lease, bounds): (Lease, Bounds),
) -> Result<Answer, Failure> {
    let (head, mut incoming) = response.into_parts();
    if incoming.size_hint().lower() > bounds.body as u64 {
        return Err(Failure::TooLong(bounds.body));
    }
    let whole_up_to = if bounds.may_stream { bounds.buffer.min(bounds.body) } else { bounds.body };
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    loop {
        if incoming.is_end_stream() {
            break;
        }
        let Some(frame) = link.frame(&mut incoming).await.map_err(|DeadlineExceeded| Failure::Timeout)? else { break };
        let Ok(data) = frame.map_err(|_| Failure::Cut)?.into_data() else { continue };
        if first.is_empty() && all.is_empty() {
            first = data;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&data);
        }
        if first.len().max(all.len()) > whole_up_to {
            let begun = if all.is_empty() { first } else { all.freeze() };
            if !bounds.may_stream || begun.len() > bounds.body {
                return Err(Failure::TooLong(bounds.body));
            }
            let stream = Stream::new((link, incoming), begun, &lease, bounds);
            return Ok(Answer { status: head.status, headers: head.headers, body: AnswerBody::Long(Box::new(stream)) });
        }
    }
    pool.put(link, &head.headers);
    let body = if all.is_empty() { first } else { all.freeze() };
    Ok(Answer { status: head.status, headers: head.headers, body: AnswerBody::Whole(body) })
}
