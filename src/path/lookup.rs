//! Step 6, and the fill that may follow it.
//!
//! A fill runs in a task of its own that the drain waits for: its first caller may leave, the others
//! still get their answer. What is shared is a [`FetchResult`]: an entry, stored or not, or a refusal.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, Method};
use tokio::time::{Instant, timeout_at};

use super::{Call, Exchange, fetch, wait::waited};
use crate::{
    admission::DayReservation,
    attempts::{Attempts, FetchResult, Fetched, Shared},
    cache::{Entry, Follower, Key, Leader, RequestDirectives, Seat, key::Parts, rules},
    config::Class,
    outcome::{Code, Outcome, Sent},
    refusal::Refusal,
    reply::{self, Cached, Content, Reply},
};

/// What the cache says.
pub(super) enum Looked {
    /// The answer.
    Answer(Reply),
    /// Fastrac must be asked; for all that wait, if there is a lead.
    Ask(Option<Leader<Shared>>),
}

/// Looks a request up, and waits where somebody is asking already.
pub(super) async fn look(x: &mut Exchange, call: &Call) -> Result<Looked, Refusal> {
    if call.upstream_call.operation.cache.is_none() {
        return Ok(Looked::Ask(None));
    }
    let wish = RequestDirectives::read(&call.upstream_call.asked.headers, call.service().force_refresh);
    let key = key(call);
    let cache = &call.upstream_call.snapshot.cache;
    let now = Instant::now();
    if let Some(entry) = cache.fresh(&key, wish, now) {
        return hit(call, &entry, now).map(Looked::Answer);
    }
    if wish.only_if_cached {
        let message = "No fresh answer is stored, and the request says only-if-cached";
        return Err(Refusal::new(Code::CacheOnly, message));
    }
    loop {
        match call.upstream_call.snapshot.flights.join(&key, || cache.fresh(&key, wish, Instant::now())) {
            Seat::Known(entry) => return hit(call, &entry, Instant::now()).map(Looked::Answer),
            Seat::Leader(lead) => return Ok(Looked::Ask(Some(lead))),
            Seat::Follower(wait) => {
                if call.service().charge_hits_day {
                    call.day()?.keep();
                }
                if let Some(landed) = landed(x, call, wait).await? {
                    return joined(&landed).map(Looked::Answer);
                }
            }
        }
    }
}

fn key(call: &Call) -> Key {
    let asked = &call.upstream_call.asked;
    let vary: Vec<Vec<u8>> =
        call.upstream_call.operation.vary.iter().map(|name| values(&asked.headers, name)).collect();
    let vary: Vec<&[u8]> = vary.iter().map(Vec::as_slice).collect();
    let method = if asked.method == Method::HEAD { &Method::GET } else { &asked.method };
    Key::new(Parts {
        account: &call.upstream_call.account.name,
        service: (call.upstream_call.operation.class != Class::Lookup).then_some(&call.service().name),
        method: method.as_str(),
        path: asked.target.path(),
        query: asked.target.query(),
        vary: &vary,
        body: &asked.body,
    })
}

/// All values of a header, since all of them are sent; an absent one is not an empty one.
fn values(headers: &HeaderMap, name: &HeaderName) -> Vec<u8> {
    // No value holds a NUL.
    headers.get_all(name).iter().flat_map(|value| [b"\0", value.as_bytes()].concat()).collect()
}

fn hit(call: &Call, entry: &Entry, now: Instant) -> Result<Reply, Refusal> {
    if call.service().charge_hits_day {
        call.day()?.keep();
    }
    let ttl = entry.ttl(now).unwrap_or_default().as_secs();
    let cached = Cached::Hit { ttl, age: entry.age(now).as_secs() };
    Ok(Reply { stored_from: Some(entry.stored_from.clone()), outcome: Outcome::Hit, ..reply(entry, cached) })
}

fn reply(entry: &Entry, cached: Cached) -> Reply {
    Reply {
        status: entry.status,
        headers: entry.headers.clone(),
        content: Content::Whole(entry.body.clone()),
        outcome: entry.outcome,
        code: None,
        sent: Sent::No,
        retry_after: None,
        cached: Some(cached),
        stored_from: None,
    }
}

/// Waits for a flight to land; `None` if its leader was lost.
async fn landed(x: &mut Exchange, call: &Call, wait: Follower<Shared>) -> Result<Option<Shared>, Refusal> {
    let (landed, time) = waited(Box::pin(timeout_at(call.upstream_call.deadline, wait.landed()))).await;
    x.attempts.upstream += time;
    landed.map_err(|_| Refusal::new(Code::UpstreamTimeout, "no answer from Fastrac in time"))
}

/// The answer to another request, shared.
fn joined(landed: &FetchResult) -> Result<Reply, Refusal> {
    match &landed.result {
        Ok(brought) => Ok(brought_reply(brought, Cached::Joined, Sent::No)),
        Err(refusal) => Err(refusal.clone().sent(Sent::No)),
    }
}

fn brought_reply(brought: &Fetched, cached: Cached, sent: Sent) -> Reply {
    Reply { code: brought.code, retry_after: brought.retry_after, sent, ..reply(&brought.entry, cached) }
}

/// Steps 8 to 15 of a lookup, in a task that outlives its caller.
pub(super) async fn fill(
    x: &mut Exchange,
    call: Box<Call>,
    lead: Leader<Shared>,
    pass: DayReservation,
) -> Result<Reply, Refusal> {
    let wait = lead.wait();
    let deadline = call.upstream_call.deadline;
    let tasks = call.upstream_call.snapshot.tasks.clone();
    let forced =
        RequestDirectives::read(&call.upstream_call.asked.headers, call.service().force_refresh).max_age.is_some();
    // From here on it may have been sent, whatever this future sees of it.
    x.attempts.sent = Sent::Unknown;
    tasks.spawn(async move {
        let mut attempts = Attempts::default();
        let result = ask(&call, &lead, pass, &mut attempts).await;
        lead.land(Arc::new(FetchResult { result, attempts }));
    });
    let landed = match Box::pin(timeout_at(deadline, wait.landed())).await {
        Ok(Some(landed)) => landed,
        Ok(None) => return Err(x.failed()),
        Err(_) => {
            let late = Refusal::new(Code::UpstreamTimeout, "no answer from Fastrac in time");
            return Err(late.sent(Sent::Unknown));
        }
    };
    x.attempts = landed.attempts.clone();
    match &landed.result {
        Ok(brought) => {
            let stored = brought.stored;
            let cached = if forced { Cached::Forced { stored } } else { Cached::Miss { stored } };
            Ok(brought_reply(brought, cached, x.attempts.sent))
        }
        Err(refusal) => Err(refusal.clone()),
    }
}

async fn ask(
    call: &Call,
    lead: &Leader<Shared>,
    pass: DayReservation,
    attempts: &mut Attempts,
) -> Result<Fetched, Refusal> {
    let ready = fetch::prepare(&call.upstream_call, call.upstream_call.lease()?, Some(pass), attempts).await?;
    let received = fetch::fetch(&call.upstream_call, ready, attempts).await?;
    let storable = received.reading.storable(received.answer.status);
    let reply = received.reply(&call.upstream_call, attempts);
    let Content::Whole(body) = reply.content else {
        return Err(Refusal::new(Code::GatewayInternal, "a lookup's answer was not read whole").sent(Sent::Yes));
    };
    let lifetime = match &call.upstream_call.operation.cache {
        Some(policy) if storable && body.len() <= call.upstream_call.snapshot.limits.answer_buffer => {
            rules::lifetime(policy, reply.outcome)
        }
        _ => Duration::ZERO,
    };
    let stored = !lifetime.is_zero();
    let entry = Entry {
        status: reply.status,
        headers: reply.headers,
        body,
        outcome: reply.outcome,
        operation: call.upstream_call.operation.label.clone(),
        stored_from: call.request_id.clone(),
        stored: Instant::now(),
        lifetime,
    };
    let entry = Arc::new(if stored { entry.detached(reply::ADDED) } else { entry });
    if stored {
        call.upstream_call.snapshot.cache.keep(lead.key().clone(), entry.clone());
    }
    Ok(Fetched { entry, stored, code: reply.code, retry_after: reply.retry_after })
}
