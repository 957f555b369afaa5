//! Steps 4, 12 and 15 of what must never be sent twice.
//!
//! From its journal entry on, an order runs in a task of its own that the drain waits for, with its
//! record: its caller may leave, it is still sent once, and what became of it is written down.

use tokio::sync::oneshot;

use super::{Call, Exchange, Ready, fetch};
use crate::{
    orders::{OrderRequest, Recall, StoredAnswer, Ticket, applies_to},
    refusal::Refusal,
    reply::{Content, Reply},
};

/// What step 4 comes to.
pub(super) enum Recalled {
    /// It was sent before: the first answer again.
    Answer(Reply),
    /// It may go on; with a ticket if it must not be sent twice.
    Go(Option<Ticket>),
}

/// Step 4.
pub(super) async fn recall(call: &Call) -> Result<Recalled, Refusal> {
    if !applies_to(call.upstream_call.operation.class, &call.upstream_call.asked.method) {
        return Ok(Recalled::Go(None));
    }
    let asked = OrderRequest {
        service: &call.service().name,
        account: &call.upstream_call.account.name,
        method: &call.upstream_call.asked.method,
        target: call.upstream_call.asked.target.as_str(),
        headers: &call.upstream_call.asked.headers,
        body: &call.upstream_call.asked.body,
        request_id: call.request_id.to_str().unwrap_or_default(),
    };
    Ok(match Box::pin(call.upstream_call.snapshot.orders.recall(&asked)).await? {
        Recall::New(ticket) => Recalled::Go(Some(ticket)),
        Recall::Repeat(answer) => Recalled::Answer(repeat(&answer)),
    })
}

fn repeat(answer: &StoredAnswer) -> Reply {
    Reply {
        status: answer.status,
        headers: answer.headers.clone(),
        content: Content::Whole(answer.body.clone()),
        outcome: answer.outcome,
        code: None,
        sent: answer.sent,
        retry_after: None,
        cached: None,
        stored_from: None,
    }
}

/// Steps 12 to 15, in a task that outlives its caller.
pub(super) async fn send(x: &mut Exchange, call: Box<Call>, ready: Ready, ticket: Ticket) -> Result<Reply, Refusal> {
    let (done, wait) = oneshot::channel();
    let mut exchange = x.detach();
    let tasks = call.upstream_call.snapshot.tasks.clone();
    tasks.spawn(async move {
        let outcome = run(&mut exchange, &call, ready, ticket).await;
        // If the caller has left, the exchange comes back and is written here.
        let _ = done.send((exchange, outcome));
    });
    let Ok((exchange, outcome)) = wait.await else { return Err(x.failed()) };
    x.attach(exchange);
    outcome
}

async fn run(x: &mut Exchange, call: &Call, ready: Ready, ticket: Ticket) -> Result<Reply, Refusal> {
    let written = call.upstream_call.snapshot.orders.write(ticket).await?; // 12
    let outcome = fetch::fetch(&call.upstream_call, ready, &mut x.attempts).await; //          13–14
    let (reply, outcome) = match outcome.map(|received| received.reply(&call.upstream_call, &x.attempts)) {
        Ok(reply) => (stored(&reply, call), Ok(reply)),
        Err(refusal) => (stored(&refusal.reply(&call.request_id, false), call), Err(refusal)),
    };
    written.end(reply); //                                                   15
    x.finish(&outcome);
    outcome
}

fn stored(reply: &Reply, call: &Call) -> StoredAnswer {
    let body = match &reply.content {
        Content::Whole(body) => body.clone(),
        // An order's answer is read whole.
        Content::Stream(_) => bytes::Bytes::new(),
    };
    StoredAnswer {
        status: reply.status,
        headers: reply.headers.clone(),
        body,
        outcome: reply.outcome,
        sent: reply.sent,
        request_id: call.request_id.to_str().unwrap_or_default().to_owned(),
    }
}
