//! Step 6: the cache, and requests that share a fetch.
//!
//! What always holds: a fresh response that the caller accepts is given at once; so is a stale one while it is refreshed
//! behind it, or while Fastrac fails; of requests that need the same response one fetches (`fill`), and the others wait for
//! it; what is shared is immutable; a limit of one service refuses no other. Must not know headers, or how a request is
//! sent. Fails with the [`Refusal`] of the quota, the cache or the fetch.

use std::{ops::ControlFlow, pin::pin, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Call, Exchange, fetch,
    fill::{Fallback, FetchWait, Fill, is_answer, reply_of, stale_reply},
};
use crate::{
    admission::Claim,
    attempts::WaitFor,
    cache::{Acceptance, CacheEntry, Flight, Follower, JoinRequest, Key, Lookup, RequestDirectives},
    fetched::{FetchRefused, FetchResult, SharedFetch},
    outcome::Outcome,
    refusal::Refusal,
    reply::{CacheStatusHeader, ForwardReason, Reply},
    upstream::Failure,
};

/// The part of a refused wait that counts as the whole.
const NEARLY: f64 = 0.9;

/// How a request is fetched that no stored or shared response answers.
pub(super) enum Unanswered {
    /// Its operation is not cached.
    Uncached,
    /// A lookup that is not cached, or has no key: it uses no stored response, and its own is neither stored nor shared.
    Bypass,
    Fill(Fill),
}

impl Unanswered {
    /// The result of a request that its service's limits do not let Fastrac be asked for: a stale response, if there is one,
    /// which costs what a hit does.
    pub(super) async fn refused(
        self,
        refusal: Refusal,
        x: &mut Exchange,
        call: &Call,
        mut claim: Claim,
    ) -> Result<Reply, Refusal> {
        let Unanswered::Fill(Fill { leader, fallback: Some(fallback), .. }) = self else { return Err(refusal) };
        drop(leader);
        stale_instead(&fallback, x, call, &mut claim).await
    }
}

/// The stale response of a request for which Fastrac is not asked. It costs what a hit does.
async fn stale_instead(
    fallback: &Fallback,
    x: &mut Exchange,
    call: &Call,
    claim: &mut Claim,
) -> Result<Reply, Refusal> {
    call.claim_hit(x, claim).await?;
    call.record(claim).await?;
    claim.keep();
    fallback.refresh_behind(call);
    Ok(fallback.reply(None, false))
}

/// Looks a request up in the cache, at `now`, and waits if another request is fetching it. `Continue`: Fastrac must be
/// asked.
pub(super) async fn lookup(
    x: &mut Exchange,
    call: &Call,
    claim: &mut Claim,
    now: Instant,
) -> Result<ControlFlow<Reply, Unanswered>, Refusal> {
    if !call.upstream.operation.asks_cache() {
        return Ok(ControlFlow::Continue(Unanswered::Uncached));
    }
    let directives = RequestDirectives::read(&call.upstream.request.headers, call.service().force_refresh);
    let Some(key) = call.cache_key() else { return begin_bypass(x, call, &directives) };
    let (mut reason, mut fallback) = (ForwardReason::Miss, None);
    match call.upstream.snapshot.cache.lookup(&key, now) {
        Lookup::Fresh(entry) => {
            let (age, lifetimes) = (entry.age(now), entry.lifetimes());
            if directives.accept(age, &lifetimes) == Acceptance::AtOnce {
                if age >= lifetimes.refresh {
                    call.upstream.account.refreshes.request(&key, &entry, now);
                }
                call.claim_hit(x, claim).await?;
                return hit(call, claim, &entry, now).await.map(ControlFlow::Break);
            }
            reason = ForwardReason::Request;
        }
        Lookup::Stale(entry) => {
            let age = entry.age(now);
            let acceptance = directives.accept(age, &entry.lifetimes());
            let would_fail = acceptance == Acceptance::AfterFailure && !entry.may_be_fetched(age);
            if acceptance == Acceptance::AtOnce || would_fail {
                call.upstream.account.refreshes.request(&key, &entry, now);
                call.claim_hit(x, claim).await?;
                return stale_hit(call, claim, &entry, now).await.map(ControlFlow::Break);
            }
            reason = ForwardReason::Stale;
            fallback = (acceptance == Acceptance::AfterFailure).then(|| Fallback::new(entry, call.deadline()));
        }
        Lookup::Miss => {}
    }
    // What is stored holds none, so that a hit need not be searched.
    if call.upstream.snapshot.key_holds_credential(&call.upstream.request.headers, &key) {
        return begin_bypass(x, call, &directives);
    }
    x.fetched_as = Some(CacheStatusHeader::Fetched { reason, stored: false });
    if directives.only_if_cached {
        let when_stored = call.lifetimes_when_stored();
        return Err(Refusal::only_if_cached(directives.accept(Duration::ZERO, &when_stored) == Acceptance::AtOnce));
    }
    if let Err(full) = x.claim_room(|| call.upstream.allowance()) {
        let Some(fallback) = fallback else { return Err(full.into()) };
        return stale_instead(&fallback, x, call, claim).await.map(ControlFlow::Break);
    }
    Box::pin(Search { call, key, directives, reason, fallback }.join(x, claim)).await
}

/// A request that has no key, or one that nothing may be stored with.
fn begin_bypass(
    x: &mut Exchange,
    call: &Call,
    directives: &RequestDirectives,
) -> Result<ControlFlow<Reply, Unanswered>, Refusal> {
    x.fetched_as = Some(CacheStatusHeader::Bypass);
    if directives.only_if_cached {
        return Err(Refusal::only_if_cached(false));
    }
    x.claim_room(|| call.upstream.allowance())?;
    Ok(ControlFlow::Continue(Unanswered::Bypass))
}

/// A request that no stored response answers at once.
struct Search<'a> {
    call: &'a Call,
    key: Key,
    directives: RequestDirectives,
    reason: ForwardReason,
    fallback: Option<Fallback>,
}

impl Search<'_> {
    /// Leads the fetch, or waits for the one that is under way.
    async fn join(self, x: &mut Exchange, claim: &mut Claim) -> Result<ControlFlow<Reply, Unanswered>, Refusal> {
        let (call, snapshot, began) = (self.call, &self.call.upstream.snapshot, Instant::now());
        loop {
            let (service, only_unsent) = (call.service(), self.directives.only_new());
            let (name, priority) = (Some(service.name.as_str()), service.priority);
            let request = JoinRequest { cache: &snapshot.cache, service: name, priority, only_unsent };
            match snapshot.flights.join(&self.key, request, || self.fresh()) {
                Flight::Stored(entry) => {
                    call.claim_hit(x, claim).await?;
                    return hit(call, claim, &entry, Instant::now()).await.map(ControlFlow::Break);
                }
                Flight::Leader(leader) => {
                    x.fetched_as = Some(CacheStatusHeader::Fetched { reason: self.reason, stored: false });
                    let fill = Fill { leader, reason: self.reason, fallback: self.fallback };
                    return Ok(ControlFlow::Continue(Unanswered::Fill(fill)));
                }
                Flight::Follower(follower) => {
                    call.claim_hit(x, claim).await?;
                    x.fetched_as = Some(self.joined());
                    if let Some(reply) = self.follow(x, follower, began).await? {
                        call.record(claim).await?;
                        claim.keep();
                        return Ok(ControlFlow::Break(reply));
                    }
                }
            }
        }
    }

    fn joined(&self) -> CacheStatusHeader {
        CacheStatusHeader::Joined { reason: self.reason }
    }

    /// A fresh response that has been stored meanwhile.
    fn fresh(&self) -> Option<Arc<CacheEntry>> {
        let now = Instant::now();
        match self.call.upstream.snapshot.cache.lookup(&self.key, now) {
            Lookup::Fresh(entry) => {
                let acceptance = self.directives.accept(entry.age(now), &entry.lifetimes());
                (acceptance == Acceptance::AtOnce).then_some(entry)
            }
            Lookup::Stale(_) | Lookup::Miss => None,
        }
    }

    /// Waits for the result of another request's fetch. `None`: the leader was lost, or its own limits refused it, so this
    /// request may lead. It began to wait for anything at `began`.
    async fn follow(
        &self,
        x: &mut Exchange,
        follower: Follower<SharedFetch>,
        began: Instant,
    ) -> Result<Option<Reply>, Refusal> {
        let wait = FetchWait::of(self.call, self.fallback.as_ref());
        let course = follower.course();
        let result = x.attempts().wait(WaitFor::Upstream, pin!(wait.result(follower))).await;
        let ended = result.is_some();
        let shared = result.flatten().filter(|result| !is_only_leaders(result, self.call, began.elapsed()));
        if ended && shared.is_none() && !self.call.deadline().is_over(Instant::now()) {
            return Ok(None);
        }
        match (shared, &self.fallback) {
            (Some(result), Some(fallback)) if !is_answer(&result) => Ok(Some(fallback.reply(Some(&result), true))),
            (Some(result), _) => reply_of(&result, self.joined()).map(Some),
            (None, Some(fallback)) => {
                if course.may_be_sent() {
                    fallback.waited_in_vain();
                }
                Ok(Some(fallback.reply(None, true)))
            }
            (None, None) => Err(Failure::out_of_time(course.may_be_sent()).into()),
        }
    }
}

/// Whether what a fetch came to concerns the service that began it, and not this one: its quota or its part of the budget
/// or the memory was used up, or it was the gateway's own and there was no budget to spare. Requests of the same service
/// share such a refusal if they have waited for nearly as long as the fetch has: by then, they would have been refused too.
fn is_only_leaders(result: &FetchResult, call: &Call, waited: Duration) -> bool {
    let Err(FetchRefused { refusal, service, after, .. }) = result else { return false };
    let shares_it = service.as_ref() == Some(&call.service().name) && waited >= after.mul_f64(NEARLY);
    refusal.concerns_who_asked() && !shares_it
}

async fn hit(call: &Call, claim: &mut Claim, entry: &CacheEntry, now: Instant) -> Result<Reply, Refusal> {
    call.record(claim).await?;
    claim.keep();
    entry.count_use();
    let age = entry.age(now);
    let ttl = entry.lifetimes().fresh.saturating_sub(age).as_secs();
    let cached = CacheStatusHeader::Hit { ttl, age: age.as_secs() };
    let stored_from = Some(entry.stored_from());
    Ok(Reply { stored_from, outcome: Outcome::Hit, ..Reply::of_entry(entry, cached) })
}

/// A stale response that is given at once.
async fn stale_hit(call: &Call, claim: &mut Claim, entry: &CacheEntry, now: Instant) -> Result<Reply, Refusal> {
    call.record(claim).await?;
    claim.keep();
    entry.count_use();
    let age = entry.age(now);
    let cached = CacheStatusHeader::StaleHit { since: entry.lifetimes().stale_for(age), age: age.as_secs() };
    Ok(stale_reply(entry, cached))
}

/// Steps 7 to 14 of a request that bypasses the cache.
pub(super) async fn bypass(x: &mut Exchange, call: &Call, claim: Claim) -> Result<Reply, Refusal> {
    let reply = fetch::fetch(&call.upstream, claim, x.attempts()).await?.reply();
    Ok(Reply { cached: Some(CacheStatusHeader::Bypass), ..reply })
}
