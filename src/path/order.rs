//! Steps 4, 12 and 15 of a request that must never be executed twice.
//!
//! From its journal entry on, an order runs in a task of its own that `drain` waits for. What always holds: an order
//! whose caller has left is still sent once, recorded, and its end is written to the journal. Must not know how a
//! request is sent. Fails with the [`Refusal`] of the journal or of the attempts.

use std::ops::ControlFlow;

use tokio::sync::oneshot;

use super::{Call, Exchange, attempt::PreparedAttempt, fetch};
use crate::{
    admission::DayReservation,
    orders::{OrderRequest, Recall, StoredAnswer, Ticket},
    outcome::Sent,
    refusal::{Refusal, RefusalFormat},
    reply::{Reply, ReplyBody},
};

/// Step 4. `Break`: it was sent before, and this is the response again. `Continue`: it may be sent; with a ticket if
/// it must never be executed twice.
pub(super) async fn recall(call: &Call) -> Result<ControlFlow<Reply, Option<Ticket>>, Refusal> {
    if !call.upstream.moves_money() {
        return Ok(ControlFlow::Continue(None));
    }
    let request = &call.upstream.request;
    let asked = OrderRequest {
        service: &call.service().name,
        account: &call.upstream.account.name,
        method: &request.method,
        target: request.target.as_str(),
        headers: &request.headers,
        body: &request.body,
        request_id: call.request_id.as_str(),
    };
    Ok(match Box::pin(call.upstream.snapshot.orders.recall(&asked)).await? {
        Recall::New(ticket) => ControlFlow::Continue(Some(ticket)),
        Recall::Repeat(answer) => ControlFlow::Break(Reply::of_first(&answer)),
    })
}

/// Steps 8 to 15, from step 12 on in a task that outlives its caller.
pub(super) async fn send(
    x: &mut Exchange,
    call: Box<Call>,
    ticket: Ticket,
    reservation: DayReservation,
) -> Result<Reply, Refusal> {
    let prepared = fetch::prepare(&call.upstream, reservation, x.attempts()).await?; // 8 to 11
    let (done, finished) = oneshot::channel();
    let mut exchange = x.detach();
    let tasks = call.upstream.snapshot.tasks.clone();
    tasks.spawn(async move {
        let outcome = write_and_send(&mut exchange, &call, ticket, prepared).await;
        // If the caller has left, the exchange comes back from the channel and its record is written here.
        let _ = done.send((exchange, outcome));
    });
    let Ok((exchange, outcome)) = finished.await else { return Err(x.panicked()) };
    x.attach(exchange);
    outcome
}

async fn write_and_send(
    x: &mut Exchange,
    call: &Call,
    ticket: Ticket,
    prepared: PreparedAttempt,
) -> Result<Reply, Refusal> {
    let written = call.upstream.snapshot.orders.write(ticket).await?; // 12
    let outcome = fetch::send(&call.upstream, prepared, x.attempts()).await; // 13, 14
    let outcome = outcome.map(|answer| answer.reply());
    // 15
    if x.attempts().nothing_executed() {
        written.unsent();
    } else {
        let sent = x.sent();
        written.end(match &outcome {
            Ok(reply) => stored(reply, call, sent),
            Err(refusal) => stored(&refusal.reply(&call.request_id, sent, RefusalFormat::Envelope), call, sent),
        });
    }
    x.finish(&outcome);
    outcome
}

/// The response as a repeat of the order gets it.
fn stored(reply: &Reply, call: &Call, sent: Sent) -> StoredAnswer {
    let body = match &reply.body {
        ReplyBody::Whole(body) => body.clone(),
        // Never: the response to an order is read whole.
        ReplyBody::Stream(_) => bytes::Bytes::new(),
    };
    StoredAnswer {
        status: reply.status,
        headers: reply.headers.clone(),
        body,
        outcome: reply.outcome,
        sent,
        request_id: call.request_id.as_str().to_owned(),
    }
}
