//! Step 9: waits for the service's day and the account's budget.
//!
//! What always holds: a fetch that several requests wait for is sent as early as any of those could have sent it that wait
//! now, by its priority and its service's share; one that has left counts no more, and if nobody is left, the fetch takes
//! only what is spare. What nobody has waited for does not wait either: it takes what is there, or nothing.
//! Fails with [`NotSpent`].

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
            Some(()) => spend_at_once(call, claim, attempts).await,
            None => Err(NotSpent::NothingSpare),
        }
    };
    wait_with(bids, wait, unawaited).await
}

async fn until_spare(call: &UpstreamCall) {
    while let Err(not_spare) = call.check_surplus() {
        sleep(not_spare.pause()).await;
    }
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
        waits.follow(&now, &wait);
        let is_unawaited = waits.are_none();
        tokio::select! {
            biased;
            spent = poll_fn(|context| waits.poll(context)) => return spent,
            spent = unawaited(), if is_unawaited => return spent,
            Ok(()) = bids.changed() => {}
        }
    }
}

/// Several waits for the same thing, one for each bid.
struct Waits<W> {
    under_way: Vec<(Arc<Bid>, Pin<Box<W>>)>,
    /// In the order in which they were refused.
    refused: Vec<(Arc<Bid>, NotSpent)>,
}

impl<W: Future<Output = SpendResult>> Waits<W> {
    /// Ends the waits of bids that count no more, and begins those of new ones. The others keep their places.
    fn follow(&mut self, bids: &Bids, wait: impl Fn(&Bid) -> W) {
        self.under_way.retain(|(bid, _)| bids.include(bid));
        self.refused.retain(|(bid, _)| bids.include(bid));
        for bid in bids.iter() {
            if !self.knows(bid) && self.has_room_for(bid) {
                self.under_way.push((bid.clone(), Box::pin(wait(bid))));
            }
        }
    }

    fn knows(&self, bid: &Arc<Bid>) -> bool {
        let refused = self.refused.iter().map(|(bid, _)| bid);
        self.under_way.iter().map(|(bid, _)| bid).chain(refused).any(|known| Arc::ptr_eq(known, bid))
    }

    fn has_room_for(&self, bid: &Bid) -> bool {
        self.under_way.len() < MOST_WAITS || self.under_way.iter().all(|(other, _)| other.priority < bid.priority)
    }

    fn are_none(&self) -> bool {
        self.under_way.is_empty() && self.refused.is_empty()
    }

    /// The first success; the first refusal, once all are refused.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<SpendResult> {
        let mut at = 0;
        while let Some((bid, wait)) = self.under_way.get_mut(at) {
            match wait.as_mut().poll(context) {
                Poll::Pending => at += 1,
                Poll::Ready(Ok(spent)) => return Poll::Ready(Ok(spent)),
                Poll::Ready(Err(refused)) => {
                    self.refused.push((bid.clone(), refused));
                    drop(self.under_way.remove(at));
                }
            }
        }
        match self.refused.first() {
            Some((_, refused)) if self.under_way.is_empty() => Poll::Ready(Err(refused.clone())),
            _ => Poll::Pending,
        }
    }
}
