//! A request that is understood: who calls, which operation, and until when.

use std::{sync::Arc, time::Duration};

use http::Uri;
use tokio::{sync::watch, time::Instant};

use super::Exchange;
use crate::{
    admission::{BudgetMember, BudgetRequest, Claim, Exceeded, NotSpent, Quota, Urgency},
    body::BufferedRequest,
    cache::{Bids, Key, Lifetimes, Lookup},
    catalog::Operation,
    config::{self, Class, Priority},
    deadline::{CallerTimeout, Deadline},
    memory::{MemoryAllowance, MemoryClaim},
    orders::{applies_to, has_key},
    outcome::{Outcome, Sent},
    record::{CapturedBody, RequestId},
    refusal::{Refusal, RepeatRule},
    snapshot::{Account, Snapshot, Worker},
    spending::{SpenderIndex, SpenderKey},
};

/// A call to Fastrac, for a caller or for the gateway itself.
pub struct UpstreamCall {
    pub(super) snapshot: Arc<Snapshot>,
    /// The data thread whose connections are used.
    pub(super) worker: Arc<Worker>,
    pub account: Arc<Account>,
    pub operation: Arc<Operation>,
    pub(super) request: BufferedRequest,
    /// Index of the service; absent: it is the gateway's own.
    pub(super) service: Option<usize>,
    pub(super) deadlines: CallDeadlines,
    pub(super) priority: CallPriority,
}

/// What a call of the gateway itself is for.
pub struct OwnCall {
    pub snapshot: Arc<Snapshot>,
    pub account: Arc<Account>,
    pub operation: Arc<Operation>,
}

/// When an upstream call ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallDeadlines {
    /// Without a byte sent by then, nothing is sent.
    start_by: Deadline,
    /// When the response must be complete.
    complete_by: Deadline,
    /// When the operation's own timeout ends. If the call ends earlier, that is its caller's choice and says nothing
    /// about Fastrac.
    operation: Deadline,
}

impl CallDeadlines {
    /// Those of a call that nobody can shorten: `timeout` from now.
    fn of_operation(timeout: Duration) -> Self {
        CallDeadlines::ending(Deadline::after(Instant::now(), timeout))
    }

    fn ending(operation: Deadline) -> Self {
        CallDeadlines { start_by: operation, complete_by: operation, operation }
    }

    /// Those of a call that ends with its caller's wait, of which `waited` is over.
    fn of_caller(timeout: Duration, waited: Duration, caller: CallerTimeout) -> Self {
        let deadlines = CallDeadlines::of_operation(timeout);
        let ends = caller.shorten(deadlines.operation.earlier(waited));
        CallDeadlines { start_by: ends, complete_by: ends, ..deadlines }
    }

    pub(super) fn complete_by(&self) -> Deadline {
        self.complete_by
    }

    /// What ends the next wait: [`Self::start_by`] before a byte was sent, [`Self::complete_by`] after.
    pub(super) fn next(&self, sent: Sent) -> Deadline {
        if sent == Sent::No { self.start_by } else { self.complete_by }
    }

    /// Whether the caller's wait ends before the call does.
    pub(super) fn caller_leaves_first(&self) -> bool {
        self.start_by < self.complete_by
    }

    /// Whether the call has the operation's own timeout.
    fn is_full(&self) -> bool {
        self.complete_by >= self.operation
    }

    /// Whether `end` is earlier than the operation's own timeout: the caller chose it.
    pub(super) fn is_callers(&self, end: Deadline) -> bool {
        end < self.operation
    }
}

/// Who is served first when the account's budget is short.
#[derive(Clone, Debug)]
pub(super) enum CallPriority {
    /// That of the service.
    OfService(Priority),
    /// Of those that wait for the response now, whoever is served first; if nobody does, it takes only what is spare.
    OfWaiters(watch::Receiver<Bids>),
    /// Nobody waited for it when it began. As long as a request waits that has joined it, it is as if that had begun it; else
    /// it takes budget only if that is there at once.
    Spare(watch::Receiver<Bids>),
}

impl OwnCall {
    /// A call with the operation's own timeout, whose request comes after those of all services.
    pub fn with(self, worker: Arc<Worker>, request: BufferedRequest) -> UpstreamCall {
        let OwnCall { snapshot, account, operation } = self;
        let deadlines = CallDeadlines::of_operation(operation.timeout);
        let priority = CallPriority::OfService(Priority::Low);
        UpstreamCall { snapshot, worker, account, operation, request, service: None, deadlines, priority }
    }
}

impl UpstreamCall {
    /// The call, to end after `limit` if that is shorter than its operation's timeout.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.deadlines = CallDeadlines::of_operation(self.operation.timeout.min(limit));
        self
    }

    /// The call, to be served before those of all services.
    #[must_use]
    pub fn urgent(mut self) -> Self {
        self.priority = CallPriority::OfService(Priority::High);
        self
    }

    /// The exchange of a call that no caller waits for: its line in the log.
    pub(super) fn own_exchange(&self) -> Exchange {
        let UpstreamCall { snapshot, worker, account, operation, request, service, .. } = self;
        let target = Uri::from(request.target.clone());
        let mut record = snapshot.recorder.open_own(account.index, request.method.clone(), target);
        record.operation = Some(operation.index);
        service.iter().for_each(|service| record.begun_by(*service, &request.headers));
        if snapshot.recorder.wants_bodies() {
            record.request_body = CapturedBody::whole(request.body.clone());
        }
        Exchange::with(record, snapshot.clone(), worker.clone(), Instant::now())
    }

    /// Counts who spends the account's budget. The request may have been sent.
    pub(super) fn count_sent(&self) {
        let UpstreamCall { snapshot, account, operation, service, .. } = self;
        snapshot.recorder.sent(*service, account.index);
        let index = SpenderIndex { service: *service, account: account.index, operation: operation.index };
        snapshot.spenders.add(index, operation.cost, || {
            let service = service.and_then(|service| snapshot.catalog.services.get(service));
            SpenderKey::new(&account.name, service.map(|service| service.name.as_str()), &operation.name)
        });
    }

    /// The refusal of a call whose budget could not be spent.
    pub(super) fn not_spent(&self, not_spent: NotSpent) -> Refusal {
        match (not_spent, self.service) {
            (NotSpent::Budget(over), _) => Refusal::over_budget(&over, &self.account.name),
            (NotSpent::ServiceDay, Some(index)) => {
                let service = &self.snapshot.catalog.services[index].name;
                Refusal::over_quota(&self.snapshot.quotas[index].day_exceeded(), service)
            }
            // Only a service has a day of its own.
            (NotSpent::ServiceDay, None) => Refusal::internal(),
            (NotSpent::Unrecorded(unrecorded), _) => unrecorded.into(),
            (NotSpent::NothingSpare, _) => Refusal::not_spare(&self.account.name),
        }
    }

    /// The priority at present.
    pub(super) fn priority(&self) -> Priority {
        match &self.priority {
            CallPriority::OfService(priority) => *priority,
            CallPriority::OfWaiters(bids) | CallPriority::Spare(bids) => bids.borrow().priority(),
        }
    }

    /// What it takes of the account's budget. `sent`: as far as it has come.
    pub(super) fn budget_request(&self, priority: Priority, sent: Sent) -> BudgetRequest {
        let deadline = self.deadlines.next(sent).instant();
        let member = self.service.map_or(BudgetMember::GATEWAY, |service| self.snapshot.members[service]);
        let urgency = match self.operation.class {
            Class::Order => Urgency::Order,
            _ if self.operation.urgent => Urgency::Expiring,
            _ => Urgency::Usual,
        };
        BudgetRequest { member, cost: self.operation.cost, priority, urgency, deadline }
    }

    /// What may be buffered for it.
    pub(super) fn allowance(&self) -> MemoryAllowance {
        self.snapshot.memory_shares.of(self.service).allowance(self.priority())
    }

    /// Whether it must never be executed twice: an order, or an unlisted request with an unsafe method.
    pub(super) fn moves_money(&self) -> bool {
        applies_to(self.operation.class, &self.request.method)
    }

    /// Whether it ends with what Fastrac did, and not with its caller's patience.
    pub(super) fn is_conclusive(&self) -> bool {
        self.moves_money() || self.deadlines.is_full()
    }

    /// Whether the response must be read whole and checked before anything of it is passed on: it may be stored, or
    /// it decides what became of an order.
    pub(super) fn needs_whole_answer(&self) -> bool {
        matches!(self.operation.class, Class::Order | Class::Unlisted) || self.operation.cache.is_some()
    }
}

/// A service, and the operation that it may call.
pub(super) struct Permitted {
    /// Index of the service.
    pub(super) service: usize,
    pub operation: Arc<Operation>,
}

/// The request of a service.
pub(super) struct Call {
    pub(super) upstream: UpstreamCall,
    /// Index of the service.
    service: usize,
    pub(super) request_id: RequestId,
    /// What the request's head takes of the memory, if it is large.
    _head: Option<MemoryClaim>,
}

impl Call {
    /// On the heap: it is large and moves into tasks.
    pub(super) fn new(
        x: &mut Exchange,
        Permitted { service, operation }: Permitted,
        request: BufferedRequest,
        caller: CallerTimeout,
    ) -> Box<Self> {
        let snapshot = x.snapshot.clone();
        let config = &snapshot.catalog.services[service].config;
        let account = snapshot.accounts[config.account].clone();
        let priority = CallPriority::OfService(config.priority);
        let deadlines = CallDeadlines::of_caller(operation.timeout, x.waited_for_log, caller);
        let worker = x.worker.clone();
        let upstream =
            UpstreamCall { snapshot, worker, account, operation, request, service: Some(service), deadlines, priority };
        Box::new(Call { upstream, service, request_id: x.request_id.clone(), _head: x.take_head() })
    }

    /// A call that goes on after its caller's wait, once it was sent.
    pub(super) fn outlasting_caller(mut self: Box<Self>) -> Box<Self> {
        self.upstream.deadlines.complete_by = self.upstream.deadlines.operation;
        self
    }

    /// A fetch for all that wait for the response: it has the operation's time from now on, whatever is left of its caller's.
    pub(super) fn for_waiters(mut self: Box<Self>, bids: watch::Receiver<Bids>) -> Box<Self> {
        self.upstream.deadlines = CallDeadlines::of_operation(self.upstream.operation.timeout);
        self.upstream.priority = CallPriority::OfWaiters(bids);
        self
    }

    /// How it may be repeated if Fastrac may have executed it.
    pub(super) fn repeat_rule(&self) -> RepeatRule {
        match self.upstream.moves_money() {
            false => RepeatRule::Safe,
            true if has_key(&self.upstream.request.headers) => RepeatRule::Keyed,
            true => RepeatRule::Unkeyed,
        }
    }

    /// Whether the caller's wait ends before the operation's timeout.
    pub(super) fn has_chosen_its_time(&self) -> bool {
        self.upstream.deadlines.is_callers(self.deadline())
    }

    /// When the caller's wait ends.
    pub(super) fn deadline(&self) -> Deadline {
        self.upstream.deadlines.start_by
    }

    /// The service's configuration.
    pub(super) fn service(&self) -> &config::ServiceConfig {
        &self.upstream.snapshot.catalog.services[self.service].config
    }

    fn quota(&self) -> &Arc<Quota> {
        &self.upstream.snapshot.quotas[self.service]
    }

    /// Step 5, at `now`: opens the claim with one request of the service's second, unless that is taken after the cache
    /// lookup.
    ///
    /// # Errors
    /// The refusal of the quota, or of an override that blocks the service.
    pub(super) fn open_claim(&self, x: &mut Exchange, now: Instant) -> Result<Claim, Refusal> {
        let mut claim = Claim::default();
        if self.charges_hits() {
            self.claim_second(x, &mut claim, now)?;
        } else {
            self.allowed(self.quota().check_block())?;
        }
        Ok(claim)
    }

    fn claim_second(&self, x: &mut Exchange, claim: &mut Claim, now: Instant) -> Result<(), Refusal> {
        self.quota().claim_second(claim, now).map_err(|exceeded| self.longest_refusal(exceeded))?;
        x.claimed(claim);
        Ok(())
    }

    /// The refusal of a request that some limits refuse: of the one that lasts longest, so that it is not refused again when
    /// the first of them is over.
    fn longest_refusal(&self, exceeded: Exceeded) -> Refusal {
        if matches!(exceeded, Exceeded::Blocked { .. }) {
            return Refusal::over_quota(&exceeded, &self.service().name);
        }
        let is_sent = self.upstream.operation.cache.is_none() || !self.is_stored();
        let day = (is_sent || self.service().charge_hits_day).then(|| self.quota().check_day().err()).flatten();
        let exceeded = day.unwrap_or(exceeded);
        let request = self.upstream.budget_request(self.upstream.priority(), Sent::No);
        match is_sent.then(|| self.upstream.account.budget.closed(request)).flatten() {
            Some(over) if over.retry_after > exceeded.retry_after() => {
                Refusal::over_budget(&over, &self.upstream.account.name)
            }
            _ => Refusal::over_quota(&exceeded, &self.service().name),
        }
    }

    /// The rest of the claim of a call that is to be sent: of a cached operation whose hits are not charged
    /// (`charge_hits`), the second; of all, one request of the service's day, which is taken together
    /// with the account's budget.
    pub(super) fn complete_claim(&self, x: &mut Exchange, claim: &mut Claim) -> Result<(), Refusal> {
        if !self.charges_hits() {
            self.claim_second(x, claim, Instant::now())?;
        }
        self.quota().owe_day(claim).map_err(|exceeded| self.longest_refusal(exceeded))?;
        x.claimed(claim);
        Ok(())
    }

    /// What a hit or a shared response costs besides the second: one request of the day, where those count
    /// (`charge_hits`).
    pub(super) async fn claim_hit(&self, x: &mut Exchange, claim: &mut Claim) -> Result<(), Refusal> {
        if self.service().charge_hits_day {
            self.allowed(self.quota().claim_day(claim, self.deadline().instant()).await)?;
            x.claimed(claim);
        }
        Ok(())
    }

    /// Charges a request that is answered from the cache after all: what it had claimed has gone back.
    pub(super) async fn charge_hit(&self, x: &mut Exchange) -> Result<(), Refusal> {
        let mut claim = self.open_claim(x, Instant::now())?;
        self.claim_hit(x, &mut claim).await?;
        self.record(&mut claim).await?;
        claim.keep();
        Ok(())
    }

    /// Records a claim that is used without sending anything.
    pub(super) async fn record(&self, claim: &mut Claim) -> Result<(), Refusal> {
        Ok(claim.record(self.deadline().instant()).await?)
    }

    /// The key of its response in the cache; `None` if it has none.
    pub(super) fn cache_key(&self) -> Option<Key> {
        let UpstreamCall { account, operation, request, .. } = &self.upstream;
        operation.cache.as_ref()?;
        account.cache_key(operation, Some(&self.service().name), request)
    }

    /// Those that a response has when it has just been stored.
    pub(super) fn lifetimes_when_stored(&self) -> Lifetimes {
        let UpstreamCall { snapshot, operation, .. } = &self.upstream;
        snapshot.cache.operation(&operation.label).of(Outcome::Ok, 0)
    }

    /// Whether there is a stored response, be it stale.
    fn is_stored(&self) -> bool {
        let stored = |key| self.upstream.snapshot.cache.lookup(&key, Instant::now());
        self.cache_key().is_some_and(|key| !matches!(stored(key), Lookup::Miss))
    }

    fn charges_hits(&self) -> bool {
        self.upstream.operation.cache.is_none() || self.service().charge_hits_second
    }

    fn allowed(&self, result: Result<(), Exceeded>) -> Result<(), Refusal> {
        result.map_err(|exceeded| Refusal::over_quota(&exceeded, &self.service().name))
    }
}
