//! Steps 4, 8 and 14 of a request that must never be executed twice.
//!
//! From its journal entry on, an order runs in a task of its own that `drain` waits for. What always holds: an order
//! whose caller has left is still sent once, recorded, and its end is written to the journal; what is sent of it after the
//! line of its request has a line of its own; an order whose caller was
//! told that nothing was sent is not sent. Must not know how a request is sent. Fails with the [`Refusal`] of the journal
//! or of the attempts.

use std::{ops::ControlFlow, pin::pin, sync::Arc};

use tokio::{sync::oneshot, time::Instant};

use super::{
    Call, Exchange,
    attempt::{AdmittedAttempt, CallResult},
    fetch,
    rest::RestOfAttempts,
};
use crate::{
    admission::Claim,
    attempts::{Attempts, WaitFor},
    body::Receipt,
    memory::MemoryClaim,
    orders::{self, CallerPresence, OrderRefusal, OrderRequest, OrderToShow, OrderWait, Recall, StoredAnswer, Ticket},
    outcome::{Outcome, Sent},
    record::RequestToShow,
    refusal::{Refusal, RefusalFormat, RefusedRequestFacts, RepeatRule},
    reply::{Reply, ReplyBody},
    upstream::Failure,
};

/// An order that may be sent, and the presence of its caller.
pub(super) type NewOrder = (Ticket, CallerPresence);

/// Step 4. `Break`: it was sent before, and this is the response again. `Continue`: it may be sent; with a ticket if
/// it must never be executed twice.
pub(super) async fn recall(x: &mut Exchange, call: &Call) -> Result<ControlFlow<Reply, Option<NewOrder>>, Refusal> {
    if !call.upstream.moves_money() {
        return Ok(ControlFlow::Continue(None));
    }
    let request = &call.upstream.request;
    let shown = call.upstream.snapshot.recorder.shown(RequestToShow {
        class: call.upstream.operation.class,
        account: Some(call.upstream.account.index),
        headers: &request.headers,
        method: request.method.as_str(),
        path: request.target.path(),
        body: &request.body,
    });
    let connection = x.client.connection.clone();
    let asked = OrderRequest {
        service: &call.service().name,
        account: &call.upstream.account.name,
        operation: &call.upstream.operation.name,
        method: &request.method,
        target: request.target.as_str(),
        headers: &request.headers,
        body: &request.body,
        shown: OrderToShow { method: shown.method, path: &shown.path, body: shown.body.as_deref() },
        request_id: call.request_id.as_str(),
        connection: connection.as_ref(),
        memory: &call.upstream.allowance(),
    };
    let mut wait = OrderWait::default();
    loop {
        let recall = call.upstream.snapshot.orders.recall(&asked, &mut wait);
        let recall = Box::pin(call.deadline().bound_running(orders::LONGEST_WAIT, recall))
            .await
            .ok_or_else(Refusal::journal_stalled)?;
        match recall? {
            Recall::New(ticket, caller) => return Ok(ControlFlow::Continue(Some((ticket, caller)))),
            Recall::Repeat(answer, caller) => {
                x.snapshot.recorder.order_replayed(call.upstream.account.index);
                let receipt = caller.map(|caller| Box::new(caller) as Box<dyn Receipt>);
                return Ok(ControlFlow::Break(Reply { receipt, ..Reply::of_first(&answer) }));
            }
            Recall::Occupied(order) => {
                let freed = Box::pin(call.deadline().bound(order.freed()));
                let freed = x.attempts().wait(WaitFor::Upstream, freed).await;
                freed.ok_or_else(|| order.refusal())??;
            }
            Recall::UnderWay(order) => {
                let late = OrderRefusal::StillUnderWay { first: order.first().to_owned() };
                let ended = Box::pin(call.deadline().bound(order.ended()));
                let ended = x.attempts().wait(WaitFor::Upstream, ended).await;
                wait.waited_as(ended.ok_or(late)?);
            }
        }
    }
}

/// Steps 7 to 14, from step 8 on in a task that outlives its caller.
pub(super) async fn send(
    x: &mut Exchange,
    call: Box<Call>,
    (ticket, present): NewOrder,
    claim: Claim,
) -> Result<Reply, Refusal> {
    let admitted = fetch::admit(&call.upstream, claim, None)?; // 7
    let (sender, finished) = oneshot::channel();
    let attempts = x.attempts().clone();
    let caller = Some(WaitingCaller { exchange: x.detach(), sender });
    let task = OrderTask { call: Arc::from(call.outlasting_caller()), attempts, caller, _room: x.room() };
    x.snapshot.tasks.spawn(task.run(ticket, admitted));
    // The task ends the wait at the caller's deadline.
    let Ok(HandedBack { exchange, outcome }) = finished.await else { return Err(x.panicked()) };
    x.attach(exchange);
    Ok(Reply { receipt: Some(Box::new(present)), ..outcome? })
}

/// An order on its way, whether its caller waits or not.
struct OrderTask {
    call: Arc<Call>,
    attempts: Attempts,
    /// Absent once the caller's wait was over.
    caller: Option<WaitingCaller>,
    _room: Option<Arc<MemoryClaim>>,
}

struct WaitingCaller {
    exchange: Exchange,
    sender: oneshot::Sender<HandedBack>,
}

/// What ends the caller's wait.
struct HandedBack {
    exchange: Exchange,
    outcome: Result<Reply, Refusal>,
}

impl OrderTask {
    async fn run(mut self, ticket: Ticket, admitted: AdmittedAttempt) {
        // 8: if the write takes longer, its ticket is dropped, which frees the order's key.
        let orders = self.call.upstream.snapshot.orders.clone();
        let written = Box::pin(self.call.deadline().bound_running(orders::LONGEST_WAIT, orders.write(ticket)));
        let written = match written.await {
            Some(Ok(written)) => written,
            Some(Err(error)) => return self.hand_back(Err(error.into())),
            None => return self.hand_back(Err(Refusal::journal_stalled())),
        };
        let call = self.call.clone();
        let rest = RestOfAttempts::of(&call.upstream, &self.attempts);
        let outcome = self.send(admitted).await.map(|answer| answer.reply());
        // 14
        // A limit message under a 3xx or 5xx leaves it open whether it was executed.
        let settled = self.attempts.sent() == Sent::Yes;
        let throttled = settled && outcome.as_ref().is_ok_and(|reply| reply.outcome == Outcome::Throttled);
        if throttled || self.attempts.nothing_executed() {
            written.unsent();
        } else {
            let (call, sent) = (&self.call, self.attempts.sent());
            written.end(match &outcome {
                Ok(reply) => stored(reply, call, sent),
                Err(refusal) => {
                    // A repeat gets this, so another one would learn nothing more.
                    let (request_id, repeat) = (&call.request_id, RepeatRule::Unkeyed);
                    let request = RefusedRequestFacts { request_id, sent, repeat };
                    stored(&refusal.reply(request, RefusalFormat::Envelope), call, sent)
                }
            });
        }
        rest.finish(&outcome);
        self.hand_back(outcome);
    }

    /// Steps 9 to 13. If the caller's wait ends before the first byte was sent, nothing is sent; if after, the caller is
    /// told so, and the order runs to its end.
    async fn send(&mut self, admitted: AdmittedAttempt) -> CallResult {
        let (call, attempts) = (self.call.clone(), self.attempts.clone());
        let mut sending = pin!(fetch::send(&call.upstream, admitted, &attempts));
        if let Some(outcome) = call.deadline().bound(sending.as_mut()).await {
            return outcome;
        }
        if attempts.sent() == Sent::No {
            return Err(Failure::NotStarted.into());
        }
        let caller_waits = self.caller.as_ref().is_some_and(|caller| !caller.sender.is_closed());
        if caller_waits && call.upstream.deadlines.caller_leaves_first() {
            self.hand_back(Err(Failure::Timeout.into()));
        }
        sending.await
    }

    /// Ends the caller's wait. If the caller has left, the record is written here.
    fn hand_back(&mut self, outcome: Result<Reply, Refusal>) {
        let Some(WaitingCaller { mut exchange, sender }) = self.caller.take() else { return };
        exchange.finish(&outcome, Instant::now());
        let _ = sender.send(HandedBack { exchange, outcome });
    }
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
