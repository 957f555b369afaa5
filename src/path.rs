//! THE PATH: what happens to a request, as one list.
//!
//! [`forward`] goes down it once. Each step returns a value that a later one needs, so none can be
//! skipped; each room's error becomes a [`Refusal`] through `?`. The account's budget is spent last,
//! after everything that can fail, so that a hit, a refusal or a bad request costs nothing.
//!
//! Who may die: hyper drops this future when the caller leaves. What was reserved and not sent then
//! goes back by itself. A cache fill and an order run in tasks of their own (`lookup::fill`, `order::send`)
//! that the drain waits for; the caller only waits for them. No header, no metric and no status is
//! known here.

mod call;
mod exchange;
mod fetch;
mod lookup;
mod order;

use bytes::Bytes;
use http::request::Parts;
use http_body::Body as HttpBody;

pub use call::{Call, Errand};
pub use exchange::{Arrival, Exchange, Guard, serve};
pub use fetch::{Ready, Received, Trail, canary};
pub use lookup::{Landed, Shared};

use crate::{
    answer::Reply,
    body::{self, Asked},
    catalog::target,
    refusal::Refusal,
};
use lookup::Looked;
use order::Recalled;

/// The list. The answer's body and the record are closed by [`serve`].
async fn forward<B>(x: &mut Exchange, head: Parts, body: B) -> Result<Reply, Refusal>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let snapshot = x.snapshot().clone();
    let deadline = x.deadline(&head)?;
    x.reserve(deadline).await?; //                                           a place in the log, if that is asked for
    let target = target::target(&head)?; //                                  one plain request to this server

    let service = snapshot.callers.identify(&head.headers)?; //              1 who
    x.identified(service);
    let operation = snapshot.catalog.classify(&head.method, target.path())?.clone(); // 2 what
    x.classified(&operation);
    snapshot.catalog.permit(service, &operation)?;
    let body = x.collect(body::collect(body, snapshot.limits.request_body, deadline)).await?; // 3 whole
    let asked = Asked { method: head.method, target, headers: head.headers, body };
    let call = Call::new(x, (service, operation), asked, deadline);

    let ticket = match order::recall(&call).await? {
        //                                                                   4 sent before?
        Recalled::Answer(reply) => return Ok(reply),
        Recalled::Go(ticket) => ticket,
    };
    call.rate_of_all()?; //                                                  5 quota of the second
    let lead = match lookup::look(x, &call).await? {
        //                                                                   6 known, or on its way
        Looked::Answer(reply) => return Ok(reply),
        Looked::Ask(lead) => lead,
    };
    call.rate_of_asked()?; //                                                5 for those whose hits are free
    let pass = call.day()?; //                                               7 quota of the day, reserved
    if let Some(lead) = lead {
        return lookup::fill(x, call, lead, pass).await; //                   8–15 in a task of its own
    }
    let ready = fetch::prepare(&call.errand, call.errand.lease()?, Some(pass), &mut x.trail).await?; // 8–11 key, rewrite, breaker, budget
    if let Some(ticket) = ticket {
        return order::send(x, call, ready, ticket).await; //                 12–15 in a task of its own
    }
    let received = fetch::fetch(&call.errand, ready, &mut x.trail).await?; //       13–14 sent, and what the answer means
    Ok(received.reply(&call.errand, &x.trail)) //                                   15
}
