//! Steps 8 to 14: a key pair, a budget, one attempt; and the bounded second one.
//!
//! There is a second attempt only where it can do no harm: the answer proves that nothing was
//! executed (401) and another pair is at hand, or the operation may be repeated and the connection
//! failed. Never a third.

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::{UpstreamCall, wait::waited};
use crate::{
    admission::{DayReservation, Spent},
    attempts::Attempts,
    config::Class,
    keys::{Lease, Remedy, Verdict},
    outcome::{self, Code, Outcome, Reading, Sent},
    record::CountedAttempt,
    refusal::Refusal,
    reply::{Content, Reply},
    upstream::{self, Answer, AnswerBody, Bounds, Failure, Keyed, breaker::BreakerPermit, inject::inject, rewrite},
};

/// An attempt that may be sent now.
pub struct Ready {
    keyed: Keyed,
    lease: Lease,
    admitted: BreakerPermit,
    spent: Spent,
}

/// An answer of Fastrac's, and what it means.
pub struct Received {
    /// The answer, its head cleaned.
    pub answer: Answer,
    /// What it means.
    pub reading: Reading,
    /// Holds the place in flight while the answer is on its way.
    pub spent: Spent,
}

/// A pause before a second attempt after a failure: long enough for a restart behind a balancer.
const PAUSE: Duration = Duration::from_millis(50);

/// Steps 8 to 11. What was reserved goes back if any of them fails.
///
/// # Errors
/// The refusal of the breaker or the budget.
pub(super) async fn prepare(
    upstream_call: &UpstreamCall,
    lease: Lease,
    pass: Option<DayReservation>,
    attempts: &mut Attempts,
) -> Result<Ready, Refusal> {
    let account = &upstream_call.account;
    let route = account.route(upstream_call.operation.api);
    let rewritten = rewrite::request(&upstream_call.asked, &upstream_call.operation, &route.endpoint); // 9
    let keyed = inject(rewritten, lease.clone(), route);
    let admitted = account.breaker.admit()?; // 10
    let spend = account.budget.spend(upstream_call.operation.cost, upstream_call.priority, upstream_call.deadline); // 11
    let (spent, time) = waited(spend).await;
    attempts.waited += time;
    Ok(Ready { keyed, lease, admitted, spent: spent?.with_quota(pass) })
}

/// Steps 13 and 14, and what may follow.
///
/// # Errors
/// The refusal of an attempt that brought no answer, or none that may be passed on.
pub(super) async fn fetch(
    upstream_call: &UpstreamCall,
    ready: Ready,
    attempts: &mut Attempts,
) -> Result<Received, Refusal> {
    let mut ready = ready;
    loop {
        let lease = ready.lease.clone();
        let attempt = attempt(upstream_call, ready, attempts).await;
        ready = match again(upstream_call, lease, attempt, attempts).await? {
            Next::Done(received) => return Ok(received),
            Next::Again(lease, pass) => {
                upstream_call.snapshot.recorder.retried(upstream_call.account.index);
                prepare(upstream_call, lease, pass, attempts).await?
            }
        };
    }
}

/// What follows an attempt.
enum Next {
    Done(Received),
    Again(Lease, Option<DayReservation>),
}

/// What an attempt came to.
enum Attempted {
    Answered(Received),
    Failed(Failure, Option<DayReservation>),
    Leaked,
}

async fn again(
    upstream_call: &UpstreamCall,
    lease: Lease,
    attempted: Attempted,
    attempts: &mut Attempts,
) -> Result<Next, Refusal> {
    let first = attempts.count < 2;
    match attempted {
        Attempted::Failed(failure, pass) => {
            let worth = matches!(failure, Failure::Connect(_) | Failure::Cut);
            if first && worth && upstream_call.operation.repeatable() && Instant::now() + PAUSE < upstream_call.deadline
            {
                pause().await;
                return Ok(Next::Again(upstream_call.lease()?, pass));
            }
            Err(failure.into())
        }
        Attempted::Leaked => {
            let message = "Fastrac's answer holds the account's secret key and was withheld";
            Err(Refusal::new(Code::UpstreamLeak, message).sent(Sent::Yes))
        }
        Attempted::Answered(received)
            if received.reading.key_refused && upstream_call.operation.class != Class::Unlisted =>
        {
            let may = first && (upstream_call.operation.class != Class::Order || upstream_call.account.resend_orders);
            match upstream_call.account.keys.refused(lease.version(), may).await {
                Remedy::Resend(lease) => Ok(Next::Again(lease, None)),
                Remedy::Own => Ok(Next::Done(received)),
                Remedy::Rejected => Err(key_rejected()),
            }
        }
        Attempted::Answered(received) => {
            let passing = matches!(received.answer.status.as_u16(), 502..=504);
            if first
                && passing
                && upstream_call.operation.repeatable()
                && Instant::now() + PAUSE < upstream_call.deadline
            {
                drop(received);
                pause().await;
                return Ok(Next::Again(upstream_call.lease()?, None));
            }
            Ok(Next::Done(received))
        }
    }
}

/// On the heap, as every timer on the path that is seldom needed: in the path's own future it would make each request
/// larger, and its place in memory dearer (timers are aligned to 128 bytes).
async fn pause() {
    Box::pin(tokio::time::sleep(PAUSE)).await;
}

fn key_rejected() -> Refusal {
    let message = "Fastrac refuses the account's key pair; the operators have been told, nothing was executed";
    Refusal::new(Code::KeysRejected, message).sent(Sent::Yes)
}

/// Steps 13 and 14, once.
async fn attempt(upstream_call: &UpstreamCall, ready: Ready, attempts: &mut Attempts) -> Attempted {
    let Ready { keyed, lease, admitted, mut spent } = ready;
    attempts.count += 1;
    attempts.key_version = Some(lease.version_text());
    // Until the answer is whole nobody knows; a dropped future leaves it so.
    attempts.sent = Sent::Unknown;
    let began = Instant::now();
    let mut asking = Asking { upstream_call, began, status: None, took: None };
    let sent = upstream::send(&upstream_call.worker.pool, keyed, &mut spent, bounds(upstream_call, began)).await;
    asking.status = sent.as_ref().ok().map(|answer| answer.status.as_u16());
    attempts.upstream += asking.ended();
    match sent {
        Err(failure) => {
            admitted.failure();
            attempts.sent = failure.sent();
            Attempted::Failed(failure, spent.take_quota())
        }
        Ok(mut answer) => {
            attempts.sent = Sent::Yes;
            let reading = read(upstream_call, &answer);
            match reading.outcome {
                Outcome::UpstreamError => admitted.failure(),
                _ => admitted.success(),
            }
            rewrite::answer(&mut answer.headers, &upstream_call.account.route(upstream_call.operation.api).endpoint);
            if leaks(&lease, &answer) {
                return Attempted::Leaked;
            }
            Attempted::Answered(Received { answer, reading, spent })
        }
    }
}

/// An attempt under way. It is counted however it ends, also when its caller leaves: Fastrac counts it too.
struct Asking<'e> {
    upstream_call: &'e UpstreamCall,
    began: Instant,
    status: Option<u16>,
    took: Option<Duration>,
}

impl Asking<'_> {
    /// How long it took, the first time that this is asked.
    fn ended(&mut self) -> Duration {
        *self.took.get_or_insert_with(|| self.began.elapsed())
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let took = self.ended();
        self.upstream_call.snapshot.recorder.upstream(CountedAttempt {
            account: self.upstream_call.account.index,
            operation: Some(self.upstream_call.operation.index),
            status: self.status,
            took,
        });
    }
}

/// Whether what would be passed on holds the live secret, as far as it has come.
fn leaks(lease: &Lease, answer: &Answer) -> bool {
    let begun = match &answer.body {
        AnswerBody::Whole(body) => &body[..],
        AnswerBody::Long(stream) => stream.begun(),
    };
    lease.leaks_in(begun) || answer.headers.values().any(|value| lease.leaks_in(value.as_bytes()))
}

fn bounds(upstream_call: &UpstreamCall, began: Instant) -> Bounds {
    let limits = &upstream_call.snapshot.limits;
    Bounds {
        began,
        deadline: upstream_call.deadline.min(began + upstream_call.operation.timeout),
        buffer: limits.answer_buffer,
        body: limits.answer_body,
        may_stream: !lasts(upstream_call),
    }
}

/// Whether something lasting follows from an answer: it may be stored, or settles what must not be sent twice.
fn lasts(upstream_call: &UpstreamCall) -> bool {
    matches!(upstream_call.operation.class, Class::Order | Class::Unlisted) || upstream_call.operation.cache.is_some()
}

fn read(upstream_call: &UpstreamCall, answer: &Answer) -> Reading {
    let messages = &upstream_call.account.messages;
    match &answer.body {
        AnswerBody::Whole(body) if lasts(upstream_call) => outcome::read_closely(answer.status, body, messages),
        AnswerBody::Whole(body) => outcome::read(answer.status, body, messages),
        AnswerBody::Long(stream) => outcome::read_beginning(answer.status, stream.begun(), messages),
    }
}

/// How long to wait where Fastrac throttles and doesn't say.
const THROTTLED: Duration = Duration::from_secs(1);

impl Received {
    /// What the caller will be told.
    pub fn reply(self, upstream_call: &UpstreamCall, attempts: &Attempts) -> Reply {
        let Received { answer, reading, spent } = self;
        let throttled = reading.outcome == Outcome::Throttled;
        let said = answer.headers.contains_key(http::header::RETRY_AFTER);
        let settled = upstream_call.moves_money() && !reading.settles_order(answer.status);
        Reply {
            status: answer.status,
            headers: answer.headers,
            content: match answer.body {
                AnswerBody::Whole(body) => Content::Whole(body),
                AnswerBody::Long(stream) => Content::Stream(Box::new(stream.holding(spent))),
            },
            outcome: reading.outcome,
            code: throttled.then_some(Code::UpstreamLimit),
            sent: if settled { Sent::Unknown } else { attempts.sent },
            retry_after: (throttled && !said).then_some(THROTTLED),
            cached: None,
            stored_from: None,
        }
    }
}

/// Asks a lookup with one pair, to learn whether Fastrac accepts it. Spends budget like any request.
pub async fn canary(upstream_call: &UpstreamCall, lease: Lease) -> Verdict {
    let mut attempts = Attempts::default();
    let Ok(ready) = prepare(upstream_call, lease, None, &mut attempts).await else { return Verdict::Undecided };
    match attempt(upstream_call, ready, &mut attempts).await {
        Attempted::Answered(received) if received.reading.key_refused => Verdict::Refused,
        Attempted::Answered(received)
            if received.reading.outcome == Outcome::Ok && received.answer.status == StatusCode::OK =>
        {
            Verdict::Verified
        }
        _ => Verdict::Undecided,
    }
}
