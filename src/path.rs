//! THE PATH: what happens to a request, as one list.
//!
//! `forward` goes down it once. Each step returns a value that a later one needs, so none can be
//! skipped; each room's error becomes a [`Refusal`] through `?`. The account's budget is spent last,
//! after everything that can fail, so that a hit, a refusal or a bad request costs nothing.
//!
//! Who may die: hyper drops this future when the caller leaves. What was reserved and not sent then
//! goes back by itself. A cache fill and an order run in tasks of their own (`lookup::fill`,
//! `order::send`) that the drain waits for; the caller only waits for them. No header, no metric and
//! no status is known here.

mod call;
mod exchange;
mod fetch;
mod lookup;
mod order;
mod wait;

use bytes::Bytes;
use http::request::Parts;
use http_body::Body as HttpBody;

pub use call::{Call, UpstreamCall};
pub use exchange::{Arrival, Exchange, Guard, serve};
pub use fetch::{Ready, Received, canary};

use crate::{
    admission::DayReservation,
    body::{self, Asked},
    catalog::target,
    orders::Ticket,
    refusal::Refusal,
    reply::Reply,
};
use lookup::Looked;
use order::Recalled;

/// The list. [`serve`] opens the record before it and ties it to the answer after it.
async fn forward<B>(x: &mut Exchange, head: Parts, body: B) -> Result<Reply, Refusal>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let snapshot = x.snapshot().clone();
    let deadline = x.deadline(&head)?;
    x.reserve(deadline).await?;
    let target = target::target(&head)?;

    // 1 who
    let service = snapshot.callers.identify(&head.headers, x.certificate.as_deref())?;
    x.identified(service);
    // 2 what, and may this service
    let operation = snapshot.catalog.classify(&head.method, target.path())?.clone();
    x.classified(&operation);
    snapshot.catalog.permit(service, &operation)?;
    // 3 the whole of it
    let body = x.collect(body::collect(body, snapshot.limits.request_body, deadline)).await?;
    let asked = Asked { method: head.method, target, headers: head.headers, body };
    let call = Call::new(x, (service, operation), asked, deadline);
    // 4 was it sent before
    let ticket = match order::recall(&call).await? {
        Recalled::Answer(reply) => return Ok(reply),
        Recalled::Go(ticket) => ticket,
    };
    // 5 the service's quota of the second
    call.rate_of_all()?;
    // 6 is the answer known, or on its way
    let lead = match lookup::look(x, &call).await? {
        Looked::Answer(reply) => return Ok(reply),
        Looked::Ask(lead) => lead,
    };
    call.rate_of_asked()?;
    // 7 the service's quota of the day, reserved
    let pass = call.day()?;
    // 8 to 15; on the heap, so that the future of a hit stays small
    match lead {
        Some(lead) => Box::pin(lookup::fill(x, call, lead, pass)).await,
        None => Box::pin(ask(x, call, pass, ticket)).await,
    }
}

/// The rest of the list, for what is asked on behalf of one caller only.
async fn ask(
    x: &mut Exchange,
    call: Box<Call>,
    pass: DayReservation,
    ticket: Option<Ticket>,
) -> Result<Reply, Refusal> {
    // 8 a key pair, 9 rewrite and inject, 10 the breaker, 11 the account's budget
    let ready = fetch::prepare(&call.upstream_call, call.upstream_call.lease()?, Some(pass), &mut x.attempts).await?;
    // 12 the order's journal, and what follows, in a task of its own
    if let Some(ticket) = ticket {
        return order::send(x, call, ready, ticket).await;
    }
    // 13 send, 14 what the answer means
    let received = fetch::fetch(&call.upstream_call, ready, &mut x.attempts).await?;
    // 15 what was reserved is settled by what it was reserved with
    Ok(received.reply(&call.upstream_call, &x.attempts))
}
