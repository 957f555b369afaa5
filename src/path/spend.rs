//! Step 9: waits for the service's day and the account's budget.
//!
//! What always holds: a fetch that several requests wait for is sent as early as any of them could have sent it, by its
//! priority and its service's share. What nobody waits for does not wait either: it takes what is there, or nothing.
//! Fails with [`NotSpent`].

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{sync::watch, time::Instant};

use super::{CallPriority, UpstreamCall};
use crate::{
    admission::{BudgetMember, BudgetRequest, Claim, NotSpent, Spent},
    attempts::Attempts,
    cache::{Bid, Bids},
    config::Priority,
};

/// Takes what one attempt costs. Cancel safe: a dropped future has taken nothing.
pub(super) async fn spend(call: &UpstreamCall, claim: &Claim, attempts: &Attempts) -> Result<Spent, NotSpent> {
    let budget = &call.account.budget;
    let request = |priority| call.budget_request(priority, attempts.sent());
    match &call.priority {
        CallPriority::OfService(priority) => budget.spend(request(*priority), claim).await,
        CallPriority::Spare(_) if !call.is_awaited() => {
            let at_once = BudgetRequest { deadline: Instant::now(), ..request(Priority::Low) };
            budget.spend(at_once, claim).await
        }
        CallPriority::OfWaiters(bids) | CallPriority::Spare(bids) => {
            Box::pin(spend_for(bids.clone(), call, claim, attempts)).await
        }
    }
}

/// Waits in the place of each of those who wait for the response, and takes what comes first.
async fn spend_for(
    mut bids: watch::Receiver<Bids>,
    call: &UpstreamCall,
    claim: &Claim,
    attempts: &Attempts,
) -> Result<Spent, NotSpent> {
    let (mut waits, mut known) = (Waits::default(), 0);
    loop {
        let new = bids.borrow_and_update().list()[known..].to_vec();
        known += new.len();
        for request in new.iter().filter_map(|bid| request_of(bid, call, attempts)) {
            waits.add(call.account.budget.spend(request, claim));
        }
        tokio::select! {
            biased;
            spent = poll_fn(|context| waits.poll(context)) => return spent,
            Ok(()) = bids.changed() => {}
        }
    }
}

/// `None`: the service is not in this configuration.
fn request_of(bid: &Bid, call: &UpstreamCall, attempts: &Attempts) -> Option<BudgetRequest> {
    let snapshot = &call.snapshot;
    let member = match &bid.service {
        Some(name) => snapshot.members[snapshot.catalog.services.iter().position(|service| *service.name == **name)?],
        None => BudgetMember::GATEWAY,
    };
    Some(BudgetRequest { member, ..call.budget_request(bid.priority, attempts.sent()) })
}

type SpendResult = Result<Spent, NotSpent>;

/// Several waits for the same thing.
#[derive(Default)]
struct Waits<'a> {
    under_way: Vec<Pin<Box<dyn Future<Output = SpendResult> + Send + 'a>>>,
    /// Why the first of them was refused.
    refused: Option<NotSpent>,
}

impl<'a> Waits<'a> {
    fn add(&mut self, wait: impl Future<Output = SpendResult> + Send + 'a) {
        self.under_way.push(Box::pin(wait));
    }

    /// The first success; the first refusal, once all are refused.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<SpendResult> {
        let mut at = 0;
        while let Some(wait) = self.under_way.get_mut(at) {
            match wait.as_mut().poll(context) {
                Poll::Pending => at += 1,
                Poll::Ready(Ok(spent)) => return Poll::Ready(Ok(spent)),
                Poll::Ready(Err(refused)) => {
                    drop(self.under_way.remove(at));
                    self.refused.get_or_insert(refused);
                }
            }
        }
        match self.refused.take() {
            Some(refused) if self.under_way.is_empty() => Poll::Ready(Err(refused)),
            refused => {
                self.refused = refused;
                Poll::Pending
            }
        }
    }
}
