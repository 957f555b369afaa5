//! One request from head to last byte: its record, its trail, its answer.
//!
//! [`serve`] opens the record, goes down the path, turns what comes back into an answer and ties
//! the record to the answer's body, so that it is written exactly once, however the exchange ends.

use std::{
    convert::Infallible,
    future::Future,
    io,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, request::Parts};
use http_body::Body as HttpBody;
use tokio::time::Instant;

use super::{forward, wait::waited};
use crate::{
    attempts::Attempts,
    body::{Body, Ending, Unread},
    caller::Certificate,
    catalog::Operation,
    keys::Leak,
    outcome::{Code, Outcome, Sent},
    record::{CapturedBody, Record, RequestId},
    refusal::{Refusal, wants_problem},
    reply::{Cached, Content, Limits, Reply},
    snapshot::{Snapshot, Worker},
};

/// Requests that one process serves at the same time; beyond it memory could run out.
const IN_FLIGHT: usize = 20_000;

const TIMEOUT: HeaderName = HeaderName::from_static("x-gateway-timeout");

static IN_FLIGHT_NOW: AtomicUsize = AtomicUsize::new(0);

/// One request under way.
pub struct Exchange {
    snapshot: Arc<Snapshot>,
    pub(super) worker: Arc<Worker>,
    /// `None` while a task has it.
    pub(super) record: Option<Record>,
    /// What the attempts came to.
    pub attempts: Attempts,
    /// What the caller's TLS proves of him.
    pub(super) certificate: Option<Arc<Certificate>>,
    began: Instant,
}

/// What a connection tells of a request.
pub struct Arrival<G> {
    /// When its first byte came.
    pub began: Instant,
    /// Whether the answer should end the connection.
    pub close: bool,
    /// The certificate that the client showed.
    pub certificate: Option<Arc<Certificate>>,
    /// Dropped when the answer is out or given up.
    pub ended: G,
}

/// Something that ends with an exchange.
pub trait Guard: Send {
    /// The answer's head is there; its body is the caller's to take.
    fn answered(&mut self) {}
}

impl Guard for () {}

/// Serves one request. Never fails, as its type says: whatever happens becomes an answer.
///
/// The record is opened at once and not when the future is first polled: hyper may drop it unpolled, if the
/// caller's end comes together with its head.
pub fn serve<B, G>(
    snapshot: Arc<Snapshot>,
    worker: Arc<Worker>,
    request: Request<B>,
    arrival: Arrival<G>,
) -> impl Future<Output = Result<Response<Body>, Infallible>>
where
    B: HttpBody<Data = Bytes> + Unpin,
    G: Guard + 'static,
{
    let (head, body) = request.into_parts();
    let problem = wants_problem(&head.headers);
    let record = snapshot.recorder.open(named(&head.headers), head.method.clone(), head.uri.clone());
    let (certificate, began) = (arrival.certificate, arrival.began);
    let exchange =
        Exchange { snapshot, worker, record: Some(record), attempts: Attempts::default(), certificate, began };
    // Made once, where it stays: it travels with the answer's body.
    let mut closing = Box::new(Closing { exchange, done: false, ended: arrival.ended });
    async move {
        let x = &mut closing.exchange;
        let name = x.record.as_ref().map_or(HeaderValue::from_static("-"), |record| record.id.header());
        let outcome = match Permit::take() {
            Some(_permit) => {
                let outcome = caught(std::pin::pin!(forward(x, head, body))).await;
                outcome.unwrap_or_else(|Panicked| Err(x.failed()))
            }
            None => Err(overloaded()),
        };
        Ok(answer(closing, outcome, (name, problem, arrival.close)))
    }
}

fn answer<G: Guard + 'static>(
    mut closing: Box<Closing<G>>,
    outcome: Result<Reply, Refusal>,
    (name, problem, close): (HeaderValue, bool, bool),
) -> Response<Body> {
    closing.exchange.finish(&outcome);
    let mut reply = outcome.unwrap_or_else(|refusal| refusal.reply(&name, problem));
    closing.exchange.stamp(&mut reply, name, close);
    closing.ended.answered();
    let body = match reply.content {
        Content::Whole(bytes) => Body::whole(bytes),
        Content::Stream(stream) => Body::stream(*stream),
    };
    let mut response = Response::new(body.ending(closing));
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    response
}

/// The caller's name for the request, if it may be kept.
fn named(headers: &HeaderMap) -> Option<RequestId> {
    let mut given = headers.get_all(RequestId::HEADER).iter();
    match (given.next(), given.next()) {
        (Some(value), None) => RequestId::from_caller(value),
        _ => None,
    }
}

fn overloaded() -> Refusal {
    Refusal::new(Code::GatewayOverloaded, "The gateway is serving as many requests as it can; try again")
        .retry_after(Duration::from_secs(1))
}

impl Exchange {
    /// What the request finds standing.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// When the whole exchange must be over.
    ///
    /// # Errors
    /// `request.malformed` if `x-gateway-timeout` is no number of milliseconds.
    pub(super) fn deadline(&self, head: &Parts) -> Result<Instant, Refusal> {
        let limit = self.snapshot.limits.request;
        let Some(value) = head.headers.get(TIMEOUT) else { return Ok(self.began + limit) };
        let wish = value.to_str().ok().and_then(|text| text.trim().parse().ok()).map(Duration::from_millis);
        let wish = wish.filter(|wish| !wish.is_zero());
        let wish = wish.ok_or_else(|| {
            Refusal::new(Code::RequestMalformed, "x-gateway-timeout must be a whole number of milliseconds above 0")
        })?;
        Ok(self.began + limit.min(wish))
    }

    pub(super) async fn reserve(&mut self, deadline: Instant) -> Result<(), Refusal> {
        let Some(record) = &mut self.record else { return Ok(()) };
        record.reserve(deadline.into_std()).await.map_err(|_| {
            Refusal::new(Code::GatewayOverloaded, "The exchange log can't keep up; try again")
                .retry_after(Duration::from_secs(1))
        })
    }

    pub(super) fn identified(&mut self, service: usize) {
        if let Some(record) = &mut self.record {
            record.identified(service);
        }
    }

    pub(super) fn classified(&mut self, operation: &Operation) {
        if let Some(record) = &mut self.record {
            record.operation = Some(operation.index);
        }
    }

    /// Waits for the request's body on the caller's account.
    pub(super) async fn collect(
        &mut self,
        body: impl Future<Output = Result<Bytes, Unread>>,
    ) -> Result<Bytes, Refusal> {
        let (body, waited) = waited(body).await;
        if let Some(record) = &mut self.record {
            record.caller += waited;
            if let Ok(body) = &body
                && self.snapshot.recorder.wants_bodies()
            {
                record.request_body = CapturedBody::whole(body.clone());
            }
        }
        Ok(body?)
    }

    /// A panic took the rest of the path, here or in a task.
    pub(super) fn failed(&self) -> Refusal {
        // A task that had the record has said so itself.
        self.record.iter().for_each(Record::failed);
        Refusal::new(Code::GatewayInternal, "The gateway failed; its operators find this request under its id")
            .sent(Sent::Unknown)
    }

    /// Moves the record away: a task will write it, whatever becomes of the caller.
    pub(super) fn detach(&mut self) -> Exchange {
        Exchange {
            snapshot: self.snapshot.clone(),
            worker: self.worker.clone(),
            record: self.record.take(),
            attempts: std::mem::take(&mut self.attempts),
            certificate: None,
            began: self.began,
        }
    }

    /// Takes the record back.
    pub(super) fn attach(&mut self, mut other: Exchange) {
        self.record = other.record.take();
        self.attempts = std::mem::take(&mut other.attempts);
    }

    /// Fills the record with what the caller will be told.
    pub(super) fn finish(&mut self, outcome: &Result<Reply, Refusal>) {
        let Some(record) = &mut self.record else { return };
        match outcome {
            Ok(reply) => {
                record.status = Some(reply.status.as_u16());
                (record.outcome, record.code) = (reply.outcome, reply.code);
                record.cache = reply.cached.map(Cached::result);
                record.stored_from = reply.stored_from.as_ref().and_then(|id| id.to_str().ok()).map(Arc::from);
                self.attempts.sent = reply.sent;
                if self.attempts.count > 0 && self.snapshot.recorder.wants_bodies() {
                    record.answer_body = match &reply.content {
                        Content::Whole(body) => CapturedBody::whole(body.clone()),
                        Content::Stream(_) => CapturedBody::default(),
                    };
                }
            }
            Err(refusal) => {
                record.status = Some(refusal.status.as_u16());
                (record.outcome, record.code) = (refusal.outcome, Some(refusal.code));
                self.attempts.sent = refusal.sent;
            }
        }
        record.answered();
    }

    fn stamp(&self, reply: &mut Reply, name: HeaderValue, close: bool) {
        let quota =
            self.record.as_ref().and_then(Record::service).and_then(|service| self.snapshot.quotas.get(service));
        let limits = quota.map(|quota| Limits { policy: quota.policy_header(), left: quota.limit_header() });
        reply.stamp(name, limits, close);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(record) = &mut self.record {
            let attempts = std::mem::take(&mut self.attempts);
            record.attempts = attempts.count;
            record.sent = attempts.sent;
            record.key_version = attempts.key_version;
            record.upstream = attempts.upstream;
            record.waited = attempts.waited;
        }
    }
}

/// Ends an exchange with its answer's body.
struct Closing<G> {
    exchange: Exchange,
    done: bool,
    ended: G,
}

impl<G: Send> Ending for Closing<G> {
    fn complete(&mut self) {
        self.done = true;
    }

    fn broken(&mut self, why: &io::Error) {
        self.done = true;
        let leaked = why.get_ref().is_some_and(|why| why.is::<Leak>());
        if let Some(record) = &mut self.exchange.record {
            record.refused(if leaked { Code::UpstreamLeak } else { Code::UpstreamCut });
        }
    }
}

impl<G> Drop for Closing<G> {
    fn drop(&mut self) {
        if !self.done
            && let Some(record) = &mut self.exchange.record
        {
            record.outcome = Outcome::ClientGone;
        }
    }
}

/// A place among the requests under way.
struct Permit;

impl Permit {
    fn take() -> Option<Permit> {
        let before = IN_FLIGHT_NOW.fetch_add(1, Ordering::Relaxed);
        let permit = Permit;
        (before < IN_FLIGHT).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        IN_FLIGHT_NOW.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The future panicked; what may be said of it went to the program's log (`record::report_panics`).
struct Panicked;

/// Turns a panic of the path into a value, so that its caller still gets an answer.
fn caught<F: Future>(mut future: Pin<&mut F>) -> impl Future<Output = Result<F::Output, Panicked>> {
    std::future::poll_fn(move |cx: &mut Context<'_>| {
        match std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    })
}
