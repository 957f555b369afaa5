//! Serves one request: opens its record, goes down the path, makes a response of what comes back.
//!
//! What always holds: there is always a response, also after a panic; the record is tied to the body of the response,
//! so that it is written exactly once, however the exchange ends. Must not know the steps. Never fails.

use std::{convert::Infallible, future::Future, io, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, Version};
use http_body::Body as HttpBody;
use tokio::time::Instant;

use super::{Exchange, forward};
use crate::{
    body::{Body, BodyEnd, BodyError, Delivery, Receipt},
    cache::validator::IfNoneMatch,
    caller::Client,
    catch_panic::{Panicked, catch_panic},
    memory::MemoryClaim,
    outcome::Outcome,
    record::Record,
    refusal::{Refusal, RefusalFormat, RefusedRequestFacts},
    reply::{GatewayHeaders, RateLimitHeaders, Reply, ReplyBody},
    snapshot::{Snapshot, Worker},
    upstream::stream,
};

/// What the connection knows about a request.
pub struct Arrival<G> {
    /// When the first byte came.
    pub began: Instant,
    /// Whether the response ends the connection.
    pub close: ConnectionClose,
    /// What the connection says about its client.
    pub client: Client,
    /// Dropped when the response was delivered or given up.
    pub guard: G,
}

/// Whether a response ends its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionClose {
    /// Never: the connection is shared with other requests (HTTP/2).
    Never,
    /// If the request could not be read completely, or was refused because of its form: what follows it on the
    /// connection may not be what it seems (RFC 9112, sections 9.3 and 9.6). Or if the connection ends anyway
    /// ([`ExchangeGuard::is_ending`]).
    IfUnreadable,
    /// The same, or if only that says where the response ends: it is still being received, and has no length (HTTP/1.0).
    IfUnreadableOrUnended,
}

/// Follows the progress of an exchange, for its connection.
pub trait ExchangeGuard: Send {
    /// Whether a response ends its connection, because the gateway is draining or others need its place.
    fn is_ending(&self) -> bool {
        false
    }

    /// Whether its connection has so many responses that are not delivered that the memory of another one counts.
    fn is_crowded(&self) -> bool {
        false
    }

    /// The head of the response is ready. Returns what is to be told how far the caller takes it.
    fn answered(&mut self, _response: ResponseStart) -> Option<Arc<dyn Delivery>> {
        None
    }
}

/// What the connection must know about a response.
pub struct ResponseStart {
    /// When its head was ready.
    pub at: Instant,
    /// It ends the connection.
    pub closes: bool,
    /// When it must be complete, if it is still being received.
    pub ends_by: Option<Instant>,
    /// Told when it has reached the caller.
    pub receipt: Option<Box<dyn Receipt>>,
    /// What it takes of the memory until it is delivered.
    pub room: Option<Arc<MemoryClaim>>,
}

impl ExchangeGuard for () {}

/// Serves one request.
///
/// The record is opened at once and not when the future is first polled: hyper may drop it unpolled, if the client
/// closes the connection together with its request.
pub fn serve<B, G>(
    snapshot: Arc<Snapshot>,
    worker: Arc<Worker>,
    request: Request<B>,
    arrival: Arrival<G>,
) -> impl Future<Output = Result<Response<Body>, Infallible>>
where
    B: HttpBody<Data = Bytes, Error: Into<BodyError>> + Unpin,
    G: ExchangeGuard + 'static,
{
    let (head, body) = request.into_parts();
    let format = RefusalFormat::wanted(&head.headers);
    let mut exchange = Exchange::open(snapshot, worker, &head, arrival.began);
    exchange.client = arrival.client;
    let (close, is_head) = (arrival.close, head.method == Method::HEAD);
    exchange.body_pending = !body.is_end_stream();
    // Allocated once, because it moves into the body of the response.
    let if_none_match = IfNoneMatch::read(&head.method, &head.headers);
    let mut finish = Box::new(FinishOnEnd { exchange, done: false, is_head, if_none_match, guard: arrival.guard });
    async move {
        let x = &mut finish.exchange;
        let outcome = catch_panic(std::pin::pin!(forward(x, head, body))).await;
        let outcome = outcome.unwrap_or_else(|Panicked| Err(x.panicked()));
        Ok(respond(finish, outcome, format, close))
    }
}

fn respond<G: ExchangeGuard + 'static>(
    mut finish: Box<FinishOnEnd<G>>,
    outcome: Result<Reply, Refusal>,
    format: RefusalFormat,
    close: ConnectionClose,
) -> Response<Body> {
    let x = &mut finish.exchange;
    let has_room = if finish.guard.is_crowded() { x.claim_delivery() } else { Ok(()) };
    let no_room = has_room.is_err();
    let outcome = has_room.map_err(Refusal::from).and(outcome);
    let unreadable = x.body_pending || outcome.as_ref().is_err_and(Refusal::concerns_form);
    let unended = outcome.as_ref().is_ok_and(|reply| matches!(reply.body, ReplyBody::Stream(_)));
    let is_http10 = close == ConnectionClose::IfUnreadableOrUnended;
    let shared_connection = close == ConnectionClose::Never;
    let close = match close {
        ConnectionClose::Never => false,
        // Asked now and not when the request began: that may have changed meanwhile.
        ConnectionClose::IfUnreadable => unreadable || finish.guard.is_ending(),
        ConnectionClose::IfUnreadableOrUnended => unreadable || unended || finish.guard.is_ending(),
    };
    let now = Instant::now();
    x.finish(&outcome, now);
    let sent = x.sent();
    let refused = RefusedRequestFacts { request_id: &x.request_id, sent, repeat: x.repeat };
    let of_refusal =
        |refusal: Refusal| Reply { cached: x.cache_status(refusal.code), ..refusal.reply(refused, format) };
    let mut reply = outcome.unwrap_or_else(of_refusal);
    if finish.if_none_match.take().is_some_and(|condition| reply.is_known_to(&condition)) {
        reply.not_modified();
        x.record.iter_mut().for_each(|record| record.status = Some(reply.status.as_u16()));
    }
    let limits = x.record.as_ref().and_then(Record::service).map(|service| limits(&x.snapshot, service, &reply, now));
    reply.stamp(GatewayHeaders { request_id: &x.request_id, sent, limits, close });
    if shared_connection {
        reply.keep_out_of_tables();
    }
    if finish.is_head {
        reply.leave_out_body();
    }
    let ends_by = match &reply.body {
        ReplyBody::Whole(_) => None,
        ReplyBody::Stream(stream) => Some(stream.deadline()),
    };
    let receipt = reply.receipt.take();
    let room = finish.exchange.room();
    let delivery = finish.guard.answered(ResponseStart { at: now, closes: close, ends_by, receipt, room });
    let body = match reply.body {
        ReplyBody::Whole(bytes) => Body::whole(bytes),
        ReplyBody::Stream(stream) => Body::stream(*stream),
    };
    let body = if no_room {
        finish.done = true;
        Body::given_up().delivered_to(delivery)
    } else {
        body.delivered_to(delivery).ending(finish)
    };
    let mut response = Response::new(body);
    *response.status_mut() = reply.status;
    if close && is_http10 {
        // Otherwise hyper adds `keep-alive` for a caller that has asked for it.
        *response.version_mut() = Version::HTTP_10;
    }
    *response.headers_mut() = reply.headers;
    response
}

/// What is left of the service's quota at `now`, and the window of the account's budget that has refused the
/// request.
fn limits(snapshot: &Snapshot, service: usize, reply: &Reply, now: Instant) -> RateLimitHeaders {
    let quota = &snapshot.quotas[service];
    let (policy, limit) = quota.headers(now);
    let limits = RateLimitHeaders { policy, limit };
    let account = &snapshot.accounts[snapshot.catalog.services[service].account];
    match reply.budget_window() {
        Some(window) => limits.with_account(window, account.budget.limit(window), reply.retry_after),
        None => limits,
    }
}

/// Ends an exchange together with the body of its response.
struct FinishOnEnd<G> {
    exchange: Exchange,
    done: bool,
    is_head: bool,
    if_none_match: Option<IfNoneMatch>,
    guard: G,
}

impl<G: Send> BodyEnd for FinishOnEnd<G> {
    fn complete(&mut self) {
        self.done = true;
    }

    fn broken(&mut self, why: &io::Error) {
        self.done = true;
        if let Some(record) = &mut self.exchange.record {
            record.refused(stream::code(why));
        }
    }
}

impl<G> Drop for FinishOnEnd<G> {
    fn drop(&mut self) {
        if !self.done
            && let Some(record) = &mut self.exchange.record
        {
            record.outcome = Outcome::ClientGone;
        }
    }
}
