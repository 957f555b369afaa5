//! Step 9: waits for the service's day and the account's budget.
//!
//! What always holds: a fetch that several requests wait for is sent as early as any of those could have sent it that wait
//! now, by its priority and its service's share (those of one service share a place in the queue, and get another one
//! if it was refused and the fetch goes on for others); one that has left counts no more, and if nobody is left, the fetch takes
//! only what is spare, and nothing more once the gateway stops. What nobody has waited for does not wait either: it takes
//! what is there, or nothing. Fails with [`NotSpent`].

#[cfg(test)]
mod tests;

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{CallPriority, UpstreamCall};
use crate::{
    admission::{BudgetRequest, Claim, NotSpent, Spent},
    attempts::Attempts,
    cache::{Bid, Bids},
    config::Priority,
};

/// Of one fetch at the same time. Beyond it, only one that is more urgent than all others is added.
const MOST_WAITS: usize = 16;

type SpendResult = Result<Spent, NotSpent>;

/// Takes what one attempt costs. Cancel safe: a dropped future has taken nothing.
pub(super) async fn spend(call: &UpstreamCall, claim: &Claim, attempts: &Attempts) -> SpendResult {
    match &call.priority {
        CallPriority::OfService(priority) => {
            call.account.budget.spend(call.budget_request(*priority, attempts.sent()), claim).await
        }
        CallPriority::Spare(_) if !call.is_awaited() => spend_at_once(call, claim, attempts).await,
        CallPriority::OfWaiters(bids) | CallPriority::Spare(bids) => {
            Box::pin(spend_for(bids.clone(), call, claim, attempts)).await
        }
    }
}

async fn spend_at_once(call: &UpstreamCall, claim: &Claim, attempts: &Attempts) -> SpendResult {
    let request = call.budget_request(Priority::Low, attempts.sent());
    call.account.budget.spend(BudgetRequest { deadline: Instant::now(), ..request }, claim).await
}

/// Waits in the place of each of those who wait for the response, and takes what comes first. While there is none, it waits
/// for what is spare, for as long as any request waits for the budget.
async fn spend_for(
    bids: watch::Receiver<Bids>,
    call: &UpstreamCall,
    claim: &Claim,
    attempts: &Attempts,
) -> SpendResult {
    let budget = &call.account.budget;
    let until = call.deadlines.next(attempts.sent()).within(budget.max_wait());
    let wait = |bid: &Bid| budget.spend(request_of(bid, call, attempts), claim);
    let unawaited = || async move {
        match until.bound(until_spare(call)).await {
            Some(true) => spend_at_once(call, claim, attempts).await,
            Some(false) | None => Err(NotSpent::NothingSpare),
        }
    };
    wait_with(bids, wait, unawaited).await
}

/// Waits until something is spare. `false`: the gateway stops before, which waits for nothing that nobody needs.
async fn until_spare(call: &UpstreamCall) -> bool {
    while let Err(not_spare) = call.check_surplus() {
        if call.snapshot.tasks.is_closed() {
            return false;
        }
        sleep(not_spare.pause()).await;
    }
    true
}

fn request_of(bid: &Bid, call: &UpstreamCall, attempts: &Attempts) -> BudgetRequest {
    let (snapshot, request) = (&call.snapshot, call.budget_request(bid.priority, attempts.sent()));
    let mut services = snapshot.catalog.services.iter();
    let index = services.position(|known| *known.name == *bid.service && known.config.account == call.account.index);
    // One that a reload has added to the account counts as the one that began the fetch.
    BudgetRequest { member: index.map_or(request.member, |index| snapshot.members[index]), ..request }
}

/// Waits with each bid as long as it counts, and takes what comes first: what comes of `wait`, or of `unawaited` while there
/// are no bids.
async fn wait_with<W: Future<Output = SpendResult>, U: Future<Output = SpendResult>>(
    mut bids: watch::Receiver<Bids>,
    wait: impl Fn(&Bid) -> W,
    unawaited: impl Fn() -> U,
) -> SpendResult {
    let mut waits = Waits { under_way: Vec::new(), refused: Vec::new() };
    loop {
        let now = bids.borrow_and_update().clone();
        waits.end_withdrawn(&now);
        // Who has come later begins a fetch of their own.
        if let Some(refused) = waits.refusal() {
            return Err(refused);
        }
        waits.begin_new(&now, &wait);
        let is_unawaited = waits.are_none();
        tokio::select! {
            biased;
            ended = poll_fn(|context| waits.poll(context)) => if let Ok(spent) = ended { return Ok(spent) },
            spent = unawaited(), if is_unawaited => return spent,
            Ok(()) = bids.changed() => {}
        }
    }
}

/// Several waits for the same thing, one for each bid.
struct Waits<W> {
    under_way: Vec<(CountedAs, Pin<Box<W>>)>,
    /// In the order in which they were refused.
    refused: Vec<(CountedAs, NotSpent)>,
}

/// A bid, and how often it had been made when its wait began: who has made it later is not refused with it.
struct CountedAs {
    bid: Arc<Bid>,
    made: u64,
}

/// One of the waits was refused.
struct OneRefused;

impl<W: Future<Output = SpendResult>> Waits<W> {
    /// Ends the waits of bids that count no more.
    fn end_withdrawn(&mut self, bids: &Bids) {
        self.under_way.retain(|(wait, _)| bids.include(&wait.bid));
        self.refused.retain(|(wait, _)| bids.include(&wait.bid));
    }

    /// Begins the waits of new bids, and of those that were refused and that another one has made since that wait began. The
    /// others keep their places.
    fn begin_new(&mut self, bids: &Bids, wait: impl Fn(&Bid) -> W) {
        self.refused.retain(|(wait, _)| bids.with_counts().any(|(bid, made)| wait.is_of(bid) && made == wait.made));
        for (bid, made) in bids.with_counts() {
            if !self.knows(bid) && self.has_room_for(bid) {
                self.under_way.push((CountedAs { bid: bid.clone(), made }, Box::pin(wait(bid))));
            }
        }
    }

    fn knows(&self, bid: &Arc<Bid>) -> bool {
        let refused = self.refused.iter().map(|(wait, _)| wait);
        self.under_way.iter().map(|(wait, _)| wait).chain(refused).any(|known| known.is_of(bid))
    }

    fn has_room_for(&self, bid: &Bid) -> bool {
        self.under_way.len() < MOST_WAITS || self.under_way.iter().all(|(wait, _)| wait.bid.priority < bid.priority)
    }

    fn are_none(&self) -> bool {
        self.under_way.is_empty() && self.refused.is_empty()
    }

    /// The first refusal, if all are refused.
    fn refusal(&self) -> Option<NotSpent> {
        let (_, refused) = self.refused.first().filter(|_| self.under_way.is_empty())?;
        Some(refused.clone())
    }

    /// The first success, or that one was refused.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Spent, OneRefused>> {
        for at in 0..self.under_way.len() {
            let (_, wait) = &mut self.under_way[at];
            match wait.as_mut().poll(context) {
                Poll::Pending => {}
                Poll::Ready(Ok(spent)) => return Poll::Ready(Ok(spent)),
                Poll::Ready(Err(refused)) => {
                    let (wait, _) = self.under_way.remove(at);
                    self.refused.push((wait, refused));
                    return Poll::Ready(Err(OneRefused));
                }
            }
        }
        Poll::Pending
    }
}

impl CountedAs {
    fn is_of(&self, bid: &Arc<Bid>) -> bool {
        Arc::ptr_eq(&self.bid, bid)
    }
}
