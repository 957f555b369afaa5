//! Step 6: the cache, and the fetch that a miss starts for all requests with the same key.
//!
//! A fill runs in a task of its own that `drain` waits for. What always holds: a fill belongs to none of the requests that
//! wait for it: it has the operation's own timeout and the highest of their priorities, and what it fetches is stored
//! whoever has left meanwhile; what is shared is immutable; a limit of one service refuses no other. Must not know headers, or how a request is sent. Fails with
//! the [`Refusal`] of the quota, the cache or the fetch.

use std::{ops::ControlFlow, sync::Arc};

use tokio::time::Instant;

use super::{Call, Exchange, fetch};
use crate::{
    admission::Claim,
    attempts::Attempts,
    cache::{
        Acceptance, CacheEntry, Flight, JoinRequest, Key, KeyParts, Leader, Lookup, NewEntry, Received,
        RequestDirectives, key,
        rules::{self, Candidate},
    },
    config::Class,
    deadline::timed,
    fetched::{FetchRefused, FetchResult, Fetched, SharedFetch},
    outcome::{Code, Outcome},
    refusal::Refusal,
    reply::{CacheStatusHeader, Reply, ReplyBody},
    upstream::Failure,
};

/// A fetch to be done for all requests that wait for the same key.
pub(super) struct Fill {
    leader: Leader<SharedFetch>,
    /// The caller did not accept the stored response.
    forced: bool,
}

/// How a request is fetched that no stored or shared response answers.
pub(super) enum Unanswered {
    /// Its operation is not cached.
    Uncached,
    /// A lookup that is not cached, or has no key: it uses no stored response, and its own is neither stored nor shared.
    Bypass,
    Fill(Fill),
}

/// Looks a request up in the cache and waits if another request is fetching it. `Continue`: Fastrac must be asked.
pub(super) async fn lookup(
    x: &mut Exchange,
    call: &Call,
    claim: &mut Claim,
) -> Result<ControlFlow<Reply, Unanswered>, Refusal> {
    let operation = &call.upstream.operation;
    if operation.cache.is_none() && operation.class != Class::Lookup {
        return Ok(ControlFlow::Continue(Unanswered::Uncached));
    }
    let directives = RequestDirectives::read(&call.upstream.request.headers, call.service().force_refresh);
    let Some(key) = operation.cache.as_ref().and_then(|_| key(call)) else {
        let refused = directives.only_if_cached.then(Refusal::only_if_cached);
        return refused.map_or(Ok(ControlFlow::Continue(Unanswered::Bypass)), Err);
    };
    let cache = &call.upstream.snapshot.cache;
    let now = Instant::now();
    let fresh = |now| match cache.lookup(&key, now) {
        Lookup::Fresh(entry) => {
            (directives.accept(entry.age(now), entry.lifetimes()) == Acceptance::AtOnce).then_some(entry)
        }
        Lookup::Stale(_) | Lookup::Miss => None,
    };
    if let Some(entry) = fresh(now) {
        call.claim_hit(x, claim).await?;
        return hit(call, claim, &entry, now).await.map(ControlFlow::Break);
    }
    if directives.only_if_cached {
        return Err(Refusal::only_if_cached());
    }
    let forced = matches!(cache.lookup(&key, now), Lookup::Fresh(_));
    loop {
        let request = JoinRequest { generation: cache.generation(), priority: call.service().priority };
        let stored = || fresh(Instant::now());
        match call.upstream.snapshot.flights.join(&key, request, stored) {
            Flight::Stored(entry) => {
                call.claim_hit(x, claim).await?;
                return hit(call, claim, &entry, Instant::now()).await.map(ControlFlow::Break);
            }
            Flight::Leader(leader) => {
                let fill = Fill { leader, forced };
                return Ok(ControlFlow::Continue(Unanswered::Fill(fill)));
            }
            Flight::Follower(follower) => {
                call.claim_hit(x, claim).await?;
                // On the heap: only a follower needs the timer.
                let (result, time) = timed(Box::pin(call.deadline().bound(follower.result()))).await;
                x.attempts().waited_for_upstream(time);
                // `None`: the leader was lost, so this request may lead. So it may if the leader's own limits refused it.
                if let Some(result) = result.ok_or(Failure::Timeout)?
                    && !is_only_leaders(&result, call)
                {
                    let reply = reply_of(&result, CacheStatusHeader::Joined)?;
                    call.record(claim).await?;
                    claim.keep();
                    return Ok(ControlFlow::Break(reply));
                }
            }
        }
    }
}

/// Whether what a fetch came to concerns the service that began it, and not this one: its quota or its part of the budget
/// was used up. Requests of the same service share such a refusal.
fn is_only_leaders(result: &FetchResult, call: &Call) -> bool {
    let Err(FetchRefused { refusal, service }) = result else { return false };
    let of_limits = matches!(
        refusal.code,
        Code::QuotaSecond | Code::QuotaDay | Code::BudgetSecond | Code::BudgetDay | Code::BudgetInFlight
    );
    of_limits && *service != call.service().name
}

fn key(call: &Call) -> Option<Key> {
    let request = &call.upstream.request;
    Key::new(KeyParts {
        account: &call.upstream.account.name,
        address: &call.upstream.account.route(call.upstream.operation.api).url,
        operation: &call.upstream.operation.name,
        service: (call.upstream.operation.class != Class::Lookup).then_some(&call.service().name),
        method: key::method(&request.method),
        path: request.target.path(),
        query: request.target.query(),
        vary: &key::vary(&request.headers, &call.upstream.operation.vary),
        body: &request.body,
    })
}

async fn hit(call: &Call, claim: &mut Claim, entry: &CacheEntry, now: Instant) -> Result<Reply, Refusal> {
    call.record(claim).await?;
    claim.keep();
    let age = entry.age(now);
    let ttl = entry.lifetimes().fresh.saturating_sub(age).as_secs();
    let cached = CacheStatusHeader::Hit { ttl, age: age.as_secs() };
    let stored_from = Some(entry.stored_from());
    Ok(Reply { stored_from, outcome: Outcome::Hit, ..Reply::of_entry(entry, cached) })
}

/// A reply of its own for one of the requests that share a fetch.
fn reply_of(fetch: &FetchResult, cached: CacheStatusHeader) -> Result<Reply, Refusal> {
    let fetched = fetch.as_ref().map_err(|refused| refused.refusal.clone())?;
    let reply = Reply::of_entry(&fetched.entry, cached);
    Ok(Reply { code: fetched.code, retry_after: fetched.retry_after, ..reply })
}

/// Steps 7 to 14 of a request that bypasses the cache.
pub(super) async fn bypass(x: &mut Exchange, call: &Call, claim: Claim) -> Result<Reply, Refusal> {
    let reply = fetch::fetch(&call.upstream, claim, x.attempts()).await?.reply();
    Ok(Reply { cached: Some(CacheStatusHeader::Bypass), ..reply })
}

/// Steps 7 to 14 of a fill, in a task that outlives its caller.
pub(super) async fn fill(x: &mut Exchange, call: Box<Call>, fill: Fill, claim: Claim) -> Result<Reply, Refusal> {
    let Fill { leader, forced } = fill;
    let (follower, deadline) = (leader.follow(), call.deadline());
    let (call, attempts) = (call.for_waiters(leader.priority()), x.attempts().clone());
    x.snapshot.tasks.spawn(async move {
        let result = fetch_and_store(&call, &leader, claim, &attempts).await;
        let result = result.map_err(|refusal| FetchRefused { refusal, service: call.service().name.clone() });
        leader.complete(Arc::new(result));
    });
    let shared = match Box::pin(deadline.bound(follower.result())).await {
        Some(Some(shared)) => shared,
        Some(None) => return Err(x.panicked()),
        None => return Err(Failure::Timeout.into()),
    };
    let stored = shared.as_ref().as_ref().is_ok_and(|fetched| fetched.stored);
    let cached = if forced { CacheStatusHeader::Forced { stored } } else { CacheStatusHeader::Miss { stored } };
    reply_of(&shared, cached)
}

async fn fetch_and_store(
    call: &Call,
    leader: &Leader<SharedFetch>,
    claim: Claim,
    attempts: &Attempts,
) -> Result<Fetched, Refusal> {
    let answer = fetch::fetch(&call.upstream, claim, attempts).await?;
    let reading = answer.reading;
    let reply = answer.reply();
    let ReplyBody::Whole(body) = reply.body else { return Err(Refusal::internal()) };
    let snapshot = &call.upstream.snapshot;
    let max_length = snapshot.limits.answer_buffer;
    let candidate = Candidate { reading, status: reply.status, length: body.len(), max_length };
    let lifetimes = call.upstream.operation.cache.as_ref().and_then(|policy| rules::lifetimes(policy, &candidate));
    let entry = NewEntry {
        status: reply.status,
        headers: reply.headers,
        body,
        outcome: reply.outcome,
        operation: call.upstream.operation.label.clone(),
        stored_from: call.request_id.header(),
        received: Received::now(),
        lifetimes: lifetimes.unwrap_or_default(),
    };
    let entry = match lifetimes {
        Some(_) => snapshot.cache.pack(entry, &snapshot.memory),
        None => CacheEntry::shared(entry),
    };
    let entry = Arc::new(entry);
    let stored = lifetimes.is_some() && snapshot.cache.keep(leader.key().clone(), entry.clone(), leader.generation());
    Ok(Fetched { entry, stored, code: reply.code, retry_after: reply.retry_after })
}
