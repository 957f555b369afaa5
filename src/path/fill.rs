//! Steps 7 to 14 for the cache: a fetch for all requests that wait for the same key, or for nobody.
//!
//! The same code for a miss, a response that is stale, and a refresh. What always holds: a fill belongs to none of the
//! requests that wait for it: it runs in a task that `drain` waits for, has the operation's own timeout and the highest
//! priority of those that wait now, and what it fetches is stored whoever has left meanwhile; one that no caller has begun has a
//! line of its own in the exchange log, and so have the attempts after the line of the caller that has begun it. Only a
//! response that may be stored replaces one that is; a good one is given up for "Data not found", stored or not, but not
//! for an error, nor for one that nobody asked for; a caller that has a stale response to fall back on gets that instead
//! of anything that is no answer of Fastrac's, in time. Must not know headers, or how a request is sent. Fails with the
//! [`Refusal`] of the fetch.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderValue;
use tokio::time::Instant;

use super::{Call, CallPriority, Exchange, UpstreamCall, attempt::ClassifiedAnswer, fetch, rest::RestOfAttempts};
use crate::{
    admission::Claim,
    attempts::Attempts,
    cache::{
        CacheEntry, DueRefresh, Flight, Follower, JoinRequest, Key, Leader, Lookup, NewEntry, ReceivedAt, STALE_WAIT,
        rules::{self, Candidate},
        same_data,
    },
    config::Priority,
    deadline::{ARRIVED_WITHIN, Deadline},
    fetched::{FetchRefused, FetchResult, Fetched, SharedFetch},
    outcome::{Outcome, Sent},
    record::ResponseComparison,
    refusal::Refusal,
    reply::{CacheStatusHeader, ForwardReason, Reply, ReplyBody},
    spare::NotSpare,
    upstream::Failure,
};

/// How far apart a fetch and the wait of a request may end that began together.
const TOGETHER: Duration = Duration::from_millis(20);

/// A fetch to be done for all requests that wait for the same key.
pub(super) struct Fill {
    pub(super) leader: Leader<SharedFetch>,
    pub(super) reason: ForwardReason,
    pub(super) fallback: Option<Fallback>,
}

/// A stale response that a request gets if nothing better comes in time.
pub(super) struct Fallback {
    pub(super) entry: Arc<CacheEntry>,
    began: Instant,
    /// How long something better is waited for; there is time to answer after that.
    pub(super) until: Deadline,
}

impl Fallback {
    pub(super) fn new(entry: Arc<CacheEntry>, deadline: Deadline) -> Self {
        let began = Instant::now();
        // A response that would be too old by then is given before.
        let usable = Deadline::after(began, entry.lifetimes().usable.saturating_sub(entry.age(began)));
        let until = usable.min(deadline).leaving_room(STALE_WAIT);
        Fallback { entry, began, until }
    }

    /// Nothing better came from Fastrac in time.
    pub(super) fn waited_in_vain(&self) {
        let now = Instant::now();
        // Counted from when `until` was set: from the beginning of the wait itself, it could be a little too short.
        self.entry.waited_for(now - self.began, now);
    }

    /// Has the response fetched again behind its use. A limit of the request's own service, which let it not be asked for,
    /// says nothing of the others.
    pub(super) fn refresh_behind(&self, call: &Call) {
        if let Some(key) = call.cache_key() {
            call.upstream.account.refreshes.request(&key, &self.entry, Instant::now());
        }
    }

    /// The stale response, after a fetch with this result; `None`: there was none, or none in time. `joined`: it was another
    /// request's.
    pub(super) fn reply(&self, result: Option<&FetchResult>, joined: bool) -> Reply {
        let status = match result {
            Some(Ok(fetched)) => Some(fetched.entry.status().as_u16()),
            Some(Err(refused)) => refused.status,
            None => None,
        };
        let age = self.entry.age(Instant::now()).as_secs();
        stale_reply(&self.entry, CacheStatusHeader::Fallback { status, joined, age })
    }
}

/// How long a request waits for the fetch that it shares.
pub(super) struct FetchWait {
    until: Deadline,
    /// Whether it is the operation's timeout that ends the wait.
    is_full: bool,
}

impl FetchWait {
    pub(super) fn of(call: &Call, fallback: Option<&Fallback>) -> Self {
        match fallback {
            Some(fallback) => FetchWait { until: fallback.until, is_full: false },
            None => FetchWait { until: call.deadline(), is_full: !call.has_chosen_its_time() },
        }
    }

    /// The result of the fetch, or `None` if the wait ends before. If both end with the operation's timeout at about the same
    /// time, the request learns why the fetch failed.
    pub(super) async fn result(self, follower: Follower<SharedFetch>) -> Option<Option<SharedFetch>> {
        let (course, mut result) = (follower.course(), pin!(follower.result()));
        let shared = self.until.bound(result.as_mut()).await;
        if shared.is_some() || !self.is_full || !course.ends_by(self.until.later(TOGETHER).instant()) {
            return shared;
        }
        self.until.later(ARRIVED_WITHIN).bound(result).await
    }
}

/// A stale stored response.
pub(super) fn stale_reply(entry: &CacheEntry, cached: CacheStatusHeader) -> Reply {
    let stored_from = Some(entry.stored_from());
    Reply { stored_from, outcome: Outcome::Stale, ..Reply::of_entry(entry, cached) }
}

/// A reply of its own for one of the requests that share a fetch.
pub(super) fn reply_of(fetch: &FetchResult, cached: CacheStatusHeader) -> Result<Reply, Refusal> {
    let fetched = fetch.as_ref().map_err(|refused| refused.refusal.clone())?;
    let reply = Reply::of_entry(&fetched.entry, cached);
    Ok(Reply { code: fetched.code, retry_after: fetched.retry_after, ..reply })
}

/// Whether a fetch brought what callers get rather than a stale response.
pub(super) fn is_answer(fetch: &FetchResult) -> bool {
    fetch.as_ref().is_ok_and(|fetched| fetched.is_answer)
}

/// Steps 7 to 14 of a fill, in a task that outlives its caller.
pub(super) async fn fill(x: &mut Exchange, call: Box<Call>, fill: Fill, claim: Claim) -> Result<Reply, Refusal> {
    let Fill { mut leader, reason, fallback } = fill;
    let (follower, deadline) = (leader.follow(), call.deadline());
    let wait = FetchWait::of(&call, fallback.as_ref());
    let call = Arc::<Call>::from(call.for_waiters(leader.bids()));
    let (fetched_by, attempts, room) = (call.clone(), x.attempts().clone(), x.room());
    x.snapshot.tasks.spawn(async move {
        let _room = room;
        let fetch = Fetch { call: &fetched_by.upstream, id: fetched_by.request_id.header(), reason, attempts };
        fetch.complete(leader, claim).await;
    });
    // What the fetch waits for is in `x.attempts()`.
    let shared = Box::pin(wait.result(follower)).await;
    let Some(fallback) = fallback else {
        return match shared {
            Some(Some(shared)) => reply_of(&shared, fetched(reason, &shared)),
            Some(None) => Err(x.panicked()),
            None => Err(Failure::out_of_time(x.attempts().sent() != Sent::No).into()),
        };
    };
    match &shared {
        Some(Some(shared)) if is_answer(shared) => return reply_of(shared, fetched(reason, shared)),
        Some(Some(_)) => {}
        Some(None) => drop(x.panicked()),
        None => {
            if x.attempts().sent() != Sent::No {
                fallback.waited_in_vain();
            }
        }
    }
    let result = shared.flatten();
    if let Some(Err(refused)) = result.as_deref()
        && refused.refusal.concerns_who_asked()
    {
        fallback.refresh_behind(&call);
    }
    if result.is_some() && x.attempts().sent() == Sent::No {
        // Its claim has gone back, and the response is one from the cache.
        deadline.bound(Box::pin(call.charge_hit(x))).await.ok_or(Failure::NotStarted)??;
    }
    Ok(fallback.reply(result.as_deref(), false))
}

/// `Cache-Status` of what a fetch came to, for whom began it.
fn fetched(reason: ForwardReason, result: &FetchResult) -> CacheStatusHeader {
    CacheStatusHeader::Fetched { reason, stored: result.as_ref().is_ok_and(|fetched| fetched.stored) }
}

/// What a refresh came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshResult {
    /// It was fetched, or need not be fetched any more.
    Over,
    /// It was not fetched: Fastrac gave no answer.
    Failed,
    /// There was no budget to spare.
    NotSpare,
}

/// Fetches a stored response again although nobody waits for it, from budget that is there at once. A request that misses
/// it meanwhile joins the fetch. Cancel safe: the fetch then ends, and who has joined it begins another.
pub async fn refresh(mut call: UpstreamCall, due: &DueRefresh) -> RefreshResult {
    let Some(entry) = due.entry() else { return RefreshResult::Over };
    let cache = call.snapshot.cache.clone();
    let is_current = || match cache.lookup(&due.key, Instant::now()) {
        Lookup::Fresh(stored) | Lookup::Stale(stored) => Arc::ptr_eq(&stored, &entry),
        Lookup::Miss => false,
    };
    let request = JoinRequest { cache: &cache, service: None, priority: Priority::Low, only_unsent: false };
    let flight = call.snapshot.flights.join(&due.key, request, || (!is_current()).then(|| entry.clone()));
    let Flight::Leader(leader) = flight else { return RefreshResult::Over };
    call.priority = CallPriority::Spare(leader.bids());
    let result = fetch_unasked(&call, leader, ForwardReason::Request).await;
    let refused = result.as_ref().as_ref().err();
    let not_spare = refused.is_some_and(|refused| refused.refusal.outcome == Outcome::OverBudget);
    match &*result {
        _ if not_spare => RefreshResult::NotSpare,
        result if is_answer(result) => RefreshResult::Over,
        _ => RefreshResult::Failed,
    }
}

/// What a prefetch came to.
#[derive(Debug)]
pub(crate) enum Prefetched {
    /// It was stored, fresh and not near its end. With its body.
    Fresh(Bytes),
    Fetched {
        body: Bytes,
        /// Whether the cache keeps it: it may be too large, or the cache may have been purged meanwhile.
        stored: bool,
    },
    /// It is not stored, and storing it might evict others.
    CacheFull,
    NotSpare(NotSpare),
    Failed,
}

/// Fetches the response with this key, if it is not stored and fresh, or is so old that a hit would have it refreshed, although
/// nobody waits for it, from budget that is there at once, and without evicting others. Cancel safe, as [`refresh`].
pub(crate) async fn prefetch(mut call: UpstreamCall, key: &Key) -> Prefetched {
    let cache = call.snapshot.cache.clone();
    let fresh = || match cache.lookup(key, Instant::now()) {
        Lookup::Fresh(entry) => Some(entry).filter(|entry| entry.age(Instant::now()) < entry.lifetimes().refresh),
        Lookup::Stale(_) | Lookup::Miss => None,
    };
    if let Some(entry) = fresh() {
        return Prefetched::Fresh(entry.body());
    }
    let reason = match cache.lookup(key, Instant::now()) {
        Lookup::Fresh(_) => ForwardReason::Request,
        Lookup::Stale(_) => ForwardReason::Stale,
        Lookup::Miss if !cache.has_room(Instant::now()) => return Prefetched::CacheFull,
        Lookup::Miss => ForwardReason::Miss,
    };
    if let Err(not_spare) = call.check_surplus() {
        return Prefetched::NotSpare(not_spare);
    }
    let request = JoinRequest { cache: &cache, service: None, priority: Priority::Low, only_unsent: false };
    let result = match call.snapshot.flights.join(key, request, fresh) {
        Flight::Stored(entry) => return Prefetched::Fresh(entry.body()),
        Flight::Follower(follower) => call.deadlines.complete_by().bound(follower.result()).await.flatten(),
        Flight::Leader(leader) => {
            call.priority = CallPriority::Spare(leader.bids());
            Some(fetch_unasked(&call, leader, reason).await)
        }
    };
    match result.as_deref() {
        Some(Ok(fetched)) if fetched.is_answer => {
            Prefetched::Fetched { body: fetched.entry.body(), stored: fetched.stored }
        }
        Some(Err(refused)) if refused.refusal.outcome == Outcome::OverBudget => Prefetched::NotSpare(NotSpare::Scarce),
        _ => Prefetched::Failed,
    }
}

/// A fetch that no caller has begun, with its line in the exchange log: what it stores names that line (`stored_from`).
async fn fetch_unasked(call: &UpstreamCall, leader: Leader<SharedFetch>, reason: ForwardReason) -> SharedFetch {
    let mut x = call.own_exchange();
    let fetch = Fetch { call, id: x.request_id.header(), reason, attempts: x.attempts().clone() };
    let result = fetch.complete(leader, Claim::default()).await;
    x.finish(&reply_of(&result, fetched(reason, &result)), Instant::now());
    result
}

/// The fetch of a fill.
struct Fetch<'a> {
    call: &'a UpstreamCall,
    /// Id of the exchange that is logged with the response.
    id: HeaderValue,
    reason: ForwardReason,
    attempts: Attempts,
}

impl Fetch<'_> {
    /// Fetches, stores, and gives the result to all that wait for it.
    async fn complete(mut self, leader: Leader<SharedFetch>, claim: Claim) -> SharedFetch {
        let began = Instant::now();
        let attempts = self.attempts.clone();
        leader.begins(self.call.deadlines.complete_by(), move || attempts.sent() != Sent::No);
        let rest = RestOfAttempts::of(self.call, &self.attempts);
        let answer = fetch::fetch(self.call, claim, &self.attempts).await;
        let mut line_of_rest = rest.exchange();
        if let Some(x) = &line_of_rest {
            self.id = x.request_id.header();
        }
        let good = self.good_entry(leader.key());
        let result = answer.and_then(|answer| self.store(*answer, &leader, good.as_ref()));
        let service = self.call.service.map(|service| self.call.snapshot.catalog.services[service].name.clone());
        let status = self.attempts.status();
        let refused = |refusal| FetchRefused { refusal, service, status, after: began.elapsed() };
        let result = Arc::new(result.map_err(refused));
        if let Some(x) = &mut line_of_rest {
            x.finish(&reply_of(&result, fetched(self.reason, &result)), Instant::now());
        }
        if let Some(good) = good
            && !is_answer(&result)
            && !self.was_limited(&result)
        {
            good.fetch_failed(Instant::now());
        }
        leader.complete(result.clone());
        result
    }

    /// The good response that is stored.
    fn good_entry(&self, key: &Key) -> Option<Arc<CacheEntry>> {
        match self.call.snapshot.cache.lookup(key, Instant::now()) {
            Lookup::Fresh(entry) | Lookup::Stale(entry) => Some(entry).filter(|entry| entry.outcome() == Outcome::Ok),
            Lookup::Miss => None,
        }
    }

    /// Whether nothing was sent because of a limit: that says nothing of others who need the same response, and to ask again
    /// costs nothing.
    fn was_limited(&self, result: &FetchResult) -> bool {
        result.as_ref().is_err_and(|refused| refused.refusal.is_of_limit()) && self.attempts.sent() == Sent::No
    }

    /// A response as it is shared, and stored if it may be, in place of `good`.
    fn store(
        &self,
        answer: ClassifiedAnswer,
        leader: &Leader<SharedFetch>,
        good: Option<&Arc<CacheEntry>>,
    ) -> Result<Fetched, Refusal> {
        let call = self.call;
        let (reading, took) = (answer.reading, answer.response.took);
        let reply = answer.reply();
        let ReplyBody::Whole(body) = reply.body else { return Err(Refusal::internal()) };
        let max_length = call.snapshot.limits.answer_buffer;
        let (length, is_unreadable) = (body.len(), rules::is_coded(&reply.headers) || rules::is_marked(&body));
        let candidate = Candidate { reading, status: reply.status, length, max_length, is_unreadable };
        // A good one may come from the earlier process.
        let has_good = good.is_some() || call.snapshot.cache.may_restore(leader.key());
        let is_answer = candidate.is_answer(has_good);
        let policy = call.operation.cache.as_ref().filter(|_| is_answer);
        let storable = policy.is_some_and(|policy| rules::may_store(policy, &candidate));
        let entry = NewEntry {
            status: reply.status,
            headers: reply.headers,
            body,
            outcome: reply.outcome,
            operation: call.snapshot.cache.operation(&call.operation.label),
            stored_from: self.id.clone(),
            received: ReceivedAt::with_age(took),
        };
        let entry = Arc::new(match storable {
            true => {
                let entry = call.snapshot.cache.pack(entry, call.snapshot.memory_shares.of(call.service));
                if let Some(good) = good { entry.replacing(good) } else { entry }
            }
            false => CacheEntry::shared(entry),
        });
        let stored = is_answer && self.keep(&entry, storable, good, leader);
        Ok(Fetched { entry, is_answer, stored, code: reply.code, retry_after: reply.retry_after })
    }

    /// Puts an answer in place of a good response that is older, if it may be stored. "Data not found" takes that away
    /// even if not; but if nobody asked, not when it is said for the first time. Returns whether the answer is stored.
    fn keep(
        &self,
        new: &Arc<CacheEntry>,
        storable: bool,
        good: Option<&Arc<CacheEntry>>,
        leader: &Leader<SharedFetch>,
    ) -> bool {
        let (cache, now) = (&self.call.snapshot.cache, Instant::now());
        let (key, generation) = (leader.key(), leader.generation());
        let is_missing = new.outcome() == Outcome::NotFound;
        let is_asked = || self.call.service.is_some() || leader.is_awaited();
        let is_confirmed = || good.map_or_else(|| !cache.may_restore(key), |good| good.report_missing(now));
        let may_replace = || !is_missing || is_asked() || is_confirmed();
        if good.is_some_and(|good| good.is_newer_than(new, now)) || !may_replace() {
            return false;
        }
        let stored = storable && cache.keep(key.clone(), new.clone(), generation);
        if let Some(good) = good.filter(|_| stored || is_missing) {
            self.compare(good, new, now);
        }
        if !stored && is_missing {
            cache.give_up(key, new, generation);
        } else if let Some(good) = good.filter(|_| !stored) {
            good.could_not_be_replaced(now);
        }
        stored
    }

    /// Counts whether a response that takes the place of a good one says something else.
    fn compare(&self, good: &CacheEntry, new: &CacheEntry, now: Instant) {
        let changed = good.outcome() != new.outcome() || !same_data(&good.body(), &new.body());
        let comparison = ResponseComparison { changed, age: good.age(now) };
        self.call.snapshot.recorder.compared(self.call.operation.index, comparison);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cache::{Cache, Flights, key::key_of_path, test_entry};

    #[tokio::test(start_paused = true)]
    async fn a_fetch_that_takes_as_long_as_anyone_waits_is_not_waited_for_again_soon() {
        let entry = test_entry(1);
        let may_be_fetched = || entry.may_be_fetched(entry.age(Instant::now()));
        let waits = async |timeout| {
            let fallback = Fallback::new(entry.clone(), Deadline::after(Instant::now(), timeout));
            // The wait begins a little later.
            tokio::time::advance(Duration::from_millis(3)).await;
            let began = Instant::now();
            fallback.until.bound(std::future::pending::<()>()).await;
            assert!(began.elapsed() < STALE_WAIT);
            fallback.waited_in_vain();
        };
        waits(Duration::from_millis(500)).await;
        assert!(may_be_fetched(), "that was the caller's own impatience");
        waits(Duration::from_secs(10)).await;
        assert!(!may_be_fetched());
    }

    /// A fetch whose own time ends at 5 s, and whose result is there a little later.
    #[tokio::test(start_paused = true)]
    async fn only_who_came_with_the_fetch_waits_until_it_knows_why_it_failed() {
        let cache = Cache::new(0);
        for (until, is_full, waits) in [(5.0, true, 5.5), (4.99, true, 5.5), (4.5, true, 4.5), (4.99, false, 4.99)] {
            let began = Instant::now();
            let seconds = |seconds| Deadline::after(began, Duration::from_secs_f64(seconds));
            let flights = Arc::new(Flights::<SharedFetch>::default());
            let request = JoinRequest { cache: &cache, service: None, priority: Priority::Low, only_unsent: false };
            let key = key_of_path("/a");
            let Flight::Leader(leader) = flights.join(&key, request, || None) else { panic!("it leads") };
            leader.begins(seconds(5.0), || true);
            let Flight::Follower(follower) = flights.join(&key, request, || None) else { panic!("it follows") };
            let result = FetchWait { until: seconds(until), is_full }.result(follower);
            let ended = async {
                tokio::time::sleep_until(seconds(5.5).instant()).await;
                drop(leader);
            };
            let waited = async {
                result.await;
                Instant::now()
            };
            let (waited, ()) = tokio::join!(waited, ended);
            assert_eq!(waited, seconds(waits).instant(), "{until} {is_full}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stale_response_is_given_before_it_is_too_old() {
        let (entry, seconds) = (test_entry(1), Duration::from_secs);
        let left = |entry: &Arc<CacheEntry>| entry.lifetimes().usable - entry.age(Instant::now());
        let waits = || {
            Fallback::new(entry.clone(), Deadline::after(Instant::now(), seconds(10))).until.instant() - Instant::now()
        };
        tokio::time::advance(left(&entry) - seconds(3)).await;
        assert_eq!(waits(), STALE_WAIT);
        tokio::time::advance(seconds(2)).await;
        assert!(waits() < left(&entry) && waits() >= seconds(1) / 2, "{:?}", waits());
    }
}
