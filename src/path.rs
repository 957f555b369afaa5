//! THE PATH: what happens to a request, as one list.
//!
//! `forward` goes down it once. What always holds: each step returns a value that a later step needs, so none can be
//! skipped; the error of each room becomes a [`Refusal`] through `?`; the account's budget is spent after everything
//! that may refuse, so that a hit, a refusal or a bad request costs nothing. (Only the key pair is taken later, so that
//! one revoked meanwhile is not used; that there is one is checked before.) Must not know header names, metric names,
//! time arithmetic or kinds of errors; `tests/gateway/layout.rs` enforces that for its files too.
//!
//! hyper drops this future when the caller leaves. What was reserved and not sent goes back then. A cache fill (from
//! step 7 on) and an order (from step 8 on) run in tasks of their own (`fill::fill`, `order::send`) that `drain` waits
//! for: they belong to no caller and end with the operation's own timeout.

mod attempt;
mod call;
mod exchange;
mod fetch;
mod fill;
mod lookup;
mod order;
mod rest;
mod serve;
mod spend;
#[cfg(test)]
mod tests;
mod unawaited;

use std::{
    ops::ControlFlow::{Break, Continue},
    pin::pin,
};

use bytes::Bytes;
use http::request::Parts;
use http_body::Body as HttpBody;
use tokio::time::Instant;

pub use attempt::PreparedAttempt;
use call::CallPriority;
pub use call::{OwnCall, UpstreamCall};
pub use fetch::{OwnAnswer, canary, fetch_own};
pub(crate) use fill::{Prefetched, prefetch};
pub use fill::{RefreshResult, refresh};
pub use serve::{Arrival, ConnectionClose, ExchangeGuard, ResponseStart, serve};

use crate::{
    body::{self, BodyError, BufferedRequest},
    catalog::target,
    refusal::Refusal,
    reply::Reply,
};
use call::{Call, Permitted};
use exchange::Exchange;
use lookup::Unanswered;

/// The list. [`serve()`] opens the record before it and ties it to the response after it.
async fn forward<B>(x: &mut Exchange, head: Parts, body: B) -> Result<Reply, Refusal>
where
    B: HttpBody<Data = Bytes, Error: Into<BodyError>> + Unpin,
{
    let snapshot = x.snapshot.clone();
    // 1 who is calling; noted first, so that the service finds in its log also what is refused for its form
    let service = snapshot.callers.identify(&head.headers, &x.client, x.opened());
    service.iter().for_each(|service| x.identified(*service));
    let timeout = x.timeout(&head)?;
    let upload = timeout.upload(snapshot.limits.request);
    let target = target::target(&head)?;
    let service = service?;
    // 2 which operation, and may this service
    let operation = snapshot.catalog.classify(&head.method, target.path());
    operation.iter().for_each(|operation| x.classified(operation));
    x.await_log(timeout, operation.as_ref().ok().copied()).await?;
    let operation = operation?.clone();
    snapshot.catalog.permit(service, &operation)?;
    // 3 the whole body; memory is claimed of a large head, and of every request that waits for anything
    let memory = || snapshot.memory_for(service);
    x.claim_head(&head, memory)?;
    let body = x.collect(pin!(body::collect(body, snapshot.limits.request_body, upload, memory)), memory).await?;
    if !operation.asks_cache() {
        x.claim_room(memory)?;
    }
    let request = BufferedRequest { method: head.method, target, headers: head.headers, body };
    let call = Call::new(x, Permitted { service, operation }, request, timeout);
    x.repeat = call.repeat_rule();
    // 4 orders: was it sent before
    let ticket = match order::recall(x, &call).await? {
        Break(reply) => return Ok(reply),
        Continue(ticket) => ticket,
    };
    // 5 the service's quota of the second; at the same instant as 6, because nothing is waited for in between
    let now = Instant::now();
    let mut claim = call.open_claim(x, now)?;
    // 6 is the response stored, or being fetched
    let unanswered = match lookup::lookup(x, &call, &mut claim, now).await? {
        Break(reply) => return Ok(reply),
        Continue(unanswered) => unanswered,
    };
    if let Err(refusal) = call.complete_claim(x, &mut claim) {
        return Box::pin(unanswered.refused(refusal, x, &call, claim)).await;
    }
    // 7 the breaker, 8 orders: the journal, 9 the service's day and the account's budget, 10 a key pair, and the breaker
    // again, for a permit; 11 rewrite and inject, 12 send, 13 what the response means, 14 settle; on the heap, so that the
    // future of a hit stays small
    match (unanswered, ticket) {
        (Unanswered::Fill(fill), _) => Box::pin(fill::fill(x, call, fill, claim)).await,
        (_, Some(ticket)) => Box::pin(order::send(x, call, ticket, claim)).await,
        (Unanswered::Bypass, None) => Box::pin(lookup::bypass(x, &call, claim)).await,
        (Unanswered::Uncached, None) => Ok(Box::pin(fetch::fetch(&call.upstream, claim, x.attempts())).await?.reply()),
    }
}
