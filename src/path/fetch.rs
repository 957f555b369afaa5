//! Steps 8 to 14: a key pair, a budget, one attempt; and the bounded second one.
//!
//! There is a second attempt only where it can do no harm: the answer proves that nothing was
//! executed (401) and another pair is at hand, or the operation may be repeated and the connection
//! failed. Never a third.

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::{Errand, wait::waited};
use crate::{
    admission::{Pass, Spent},
    answer::{Content, Reply},
    config::Class,
    keys::{Lease, Remedy, Verdict},
    landed::Trail,
    outcome::{self, Code, Outcome, Reading, Sent},
    record::Attempt,
    refusal::Refusal,
    upstream::{self, Answer, AnswerBody, Bounds, Failure, Keyed, breaker::Admitted, inject::inject, rewrite},
};

/// An attempt that may be sent now.
pub struct Ready {
    keyed: Keyed,
    lease: Lease,
    admitted: Admitted,
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
    errand: &Errand,
    lease: Lease,
    pass: Option<Pass>,
    trail: &mut Trail,
) -> Result<Ready, Refusal> {
    let account = &errand.account;
    let route = account.route(errand.operation.api);
    let rewritten = rewrite::request(&errand.asked, &errand.operation, &route.endpoint); // 9
    let keyed = inject(rewritten, lease.clone(), route);
    let admitted = account.breaker.admit()?; // 10
    let spend = account.budget.spend(errand.operation.cost, errand.priority, errand.deadline); // 11
    let (spent, time) = waited(spend).await;
    trail.waited += time;
    Ok(Ready { keyed, lease, admitted, spent: spent?.with(pass) })
}

/// Steps 13 and 14, and what may follow.
///
/// # Errors
/// The refusal of an attempt that brought no answer, or none that may be passed on.
pub(super) async fn fetch(errand: &Errand, ready: Ready, trail: &mut Trail) -> Result<Received, Refusal> {
    let mut ready = ready;
    loop {
        let lease = ready.lease.clone();
        let attempt = attempt(errand, ready, trail).await;
        ready = match again(errand, lease, attempt, trail).await? {
            Next::Done(received) => return Ok(received),
            Next::Again(lease, pass) => {
                errand.snapshot.recorder.retried(errand.account.index);
                prepare(errand, lease, pass, trail).await?
            }
        };
    }
}

/// What follows an attempt.
enum Next {
    Done(Received),
    Again(Lease, Option<Pass>),
}

/// What an attempt came to.
enum Attempted {
    Answered(Received),
    Failed(Failure, Option<Pass>),
    Leaked,
}

async fn again(errand: &Errand, lease: Lease, attempted: Attempted, trail: &mut Trail) -> Result<Next, Refusal> {
    let first = trail.attempts < 2;
    match attempted {
        Attempted::Failed(failure, pass) => {
            let worth = matches!(failure, Failure::Connect(_) | Failure::Cut);
            if first && worth && errand.operation.repeatable() && Instant::now() + PAUSE < errand.deadline {
                pause().await;
                return Ok(Next::Again(errand.lease()?, pass));
            }
            Err(failure.into())
        }
        Attempted::Leaked => {
            let message = "Fastrac's answer holds the account's secret key and was withheld";
            Err(Refusal::new(Code::UpstreamLeak, message).sent(Sent::Yes))
        }
        Attempted::Answered(received) if received.reading.key_refused && errand.operation.class != Class::Unlisted => {
            let may = first && (errand.operation.class != Class::Order || errand.account.resend_orders);
            match errand.account.keys.refused(lease.version(), may).await {
                Remedy::Resend(lease) => Ok(Next::Again(lease, None)),
                Remedy::Own => Ok(Next::Done(received)),
                Remedy::Rejected => Err(key_rejected()),
            }
        }
        Attempted::Answered(received) => {
            let passing = matches!(received.answer.status.as_u16(), 502..=504);
            if first && passing && errand.operation.repeatable() && Instant::now() + PAUSE < errand.deadline {
                drop(received);
                pause().await;
                return Ok(Next::Again(errand.lease()?, None));
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
async fn attempt(errand: &Errand, ready: Ready, trail: &mut Trail) -> Attempted {
    let Ready { keyed, lease, admitted, mut spent } = ready;
    trail.attempts += 1;
    trail.key_version = Some(lease.version_text());
    // Until the answer is whole nobody knows; a dropped future leaves it so.
    trail.sent = Sent::Unknown;
    let began = Instant::now();
    let mut asking = Asking { errand, began, status: None, took: None };
    let sent = upstream::send(&errand.worker.pool, keyed, &mut spent, bounds(errand, began)).await;
    asking.status = sent.as_ref().ok().map(|answer| answer.status.as_u16());
    trail.upstream += asking.ended();
    match sent {
        Err(failure) => {
            admitted.failure();
            trail.sent = failure.sent();
            Attempted::Failed(failure, spent.take_pass())
        }
        Ok(mut answer) => {
            trail.sent = Sent::Yes;
            let reading = read(errand, &answer);
            match reading.outcome {
                Outcome::UpstreamError => admitted.failure(),
                _ => admitted.success(),
            }
            rewrite::answer(&mut answer.headers, &errand.account.route(errand.operation.api).endpoint);
            if leaks(&lease, &answer) {
                return Attempted::Leaked;
            }
            Attempted::Answered(Received { answer, reading, spent })
        }
    }
}

/// An attempt under way. It is counted however it ends, also when its caller leaves: Fastrac counts it too.
struct Asking<'e> {
    errand: &'e Errand,
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
        self.errand.snapshot.recorder.upstream(Attempt {
            account: self.errand.account.index,
            operation: Some(self.errand.operation.index),
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

fn bounds(errand: &Errand, began: Instant) -> Bounds {
    let limits = &errand.snapshot.limits;
    Bounds {
        began,
        deadline: errand.deadline.min(began + errand.operation.timeout),
        buffer: limits.answer_buffer,
        body: limits.answer_body,
        may_stream: !lasts(errand),
    }
}

/// Whether something lasting follows from an answer: it may be stored, or settles what must not be sent twice.
fn lasts(errand: &Errand) -> bool {
    matches!(errand.operation.class, Class::Order | Class::Unlisted) || errand.operation.cache.is_some()
}

fn read(errand: &Errand, answer: &Answer) -> Reading {
    let messages = &errand.account.messages;
    match &answer.body {
        AnswerBody::Whole(body) if lasts(errand) => outcome::read_closely(answer.status, body, messages),
        AnswerBody::Whole(body) => outcome::read(answer.status, body, messages),
        AnswerBody::Long(stream) => outcome::read_beginning(answer.status, stream.begun(), messages),
    }
}

/// How long to wait where Fastrac throttles and doesn't say.
const THROTTLED: Duration = Duration::from_secs(1);

impl Received {
    /// What the caller will be told.
    pub fn reply(self, errand: &Errand, trail: &Trail) -> Reply {
        let Received { answer, reading, spent } = self;
        let throttled = reading.outcome == Outcome::Throttled;
        let said = answer.headers.contains_key(http::header::RETRY_AFTER);
        let settled = errand.moves_money() && !reading.settles_order(answer.status);
        Reply {
            status: answer.status,
            headers: answer.headers,
            content: match answer.body {
                AnswerBody::Whole(body) => Content::Whole(body),
                AnswerBody::Long(stream) => Content::Stream(Box::new(stream.holding(spent))),
            },
            outcome: reading.outcome,
            code: throttled.then_some(Code::UpstreamLimit),
            sent: if settled { Sent::Unknown } else { trail.sent },
            retry_after: (throttled && !said).then_some(THROTTLED),
            cached: None,
            stored_from: None,
        }
    }
}

/// Asks a lookup with one pair, to learn whether Fastrac accepts it. Spends budget like any request.
pub async fn canary(errand: &Errand, lease: Lease) -> Verdict {
    let mut trail = Trail::default();
    let Ok(ready) = prepare(errand, lease, None, &mut trail).await else { return Verdict::Undecided };
    match attempt(errand, ready, &mut trail).await {
        Attempted::Answered(received) if received.reading.key_refused => Verdict::Refused,
        Attempted::Answered(received)
            if received.reading.outcome == Outcome::Ok && received.answer.status == StatusCode::OK =>
        {
            Verdict::Verified
        }
        _ => Verdict::Undecided,
    }
}
