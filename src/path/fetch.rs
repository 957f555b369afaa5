//! Steps 7 to 13 of every request that goes to Fastrac, with the bounded further attempts.
//!
//! The plain request, the fill and the order all come through here. There is another attempt only where it can do no
//! harm: the response proves that nothing was executed (401) and another pair is at hand, at most [`KEY_RESENDS`]
//! times; or the operation is repeatable, somebody waits for it until it is sent, and the first attempt failed, once, if the
//! account's retry budget, the breaker and the deadline allow it. What always holds: if an attempt is not sent (it is
//! refused, or there is no connection), the result of the one before is the result; what is taken for an attempt before a
//! wait goes back if the attempt does not begin. Must not know the cache or the journal. Fails with the [`Refusal`] of an attempt
//! that brought no response, or none that may be passed on.

use std::{pin::Pin, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::{
    UpstreamCall,
    attempt::{AdmittedAttempt, AttemptResult, CallResult, ClassifiedAnswer, PreparedAttempt, WithheldAnswer},
};
use crate::{
    admission::Claim,
    attempts::{Attempts, WaitFor},
    config::Class,
    keys::{Lease, RefusedRequest, Remedy, RequestOrigin, TriedPair, Verdict},
    outcome::{Outcome, RetryReason},
    refusal::Refusal,
    upstream::{
        AnswerBody, Failure,
        retry::{self, RetryToken},
    },
};

/// How often a request is sent again because its key pair was refused.
const KEY_RESENDS: usize = 3;

/// Steps 7 to 13.
pub(super) async fn fetch(call: &UpstreamCall, claim: Claim, attempts: &Attempts) -> CallResult {
    let admitted = admit(call, claim, None)?;
    send(call, admitted, attempts).await
}

/// Step 7. A call that no key pair can sign, or for whose response there is no room, is refused here too, before it costs
/// anything. A probe of a half-open breaker is taken later, when nothing is waited for any more.
pub(super) fn admit(call: &UpstreamCall, claim: Claim, pair: Option<Lease>) -> Result<AdmittedAttempt, Refusal> {
    if pair.is_none() {
        call.account.keys.check()?;
    }
    call.allowance().check_response()?;
    call.check_breaker()?;
    Ok(AdmittedAttempt { claim, pair })
}

/// Steps 9 to 13, and the further attempts if there are any.
pub(super) async fn send(call: &UpstreamCall, admitted: AdmittedAttempt, attempts: &Attempts) -> CallResult {
    let (mut admitted, mut first, mut tried) = (admitted, None, Vec::new());
    let mut again = None;
    loop {
        // In a block: a variable for the result would stay in the future.
        let prepared = {
            let prepared = match &again {
                Some(RetryCause::Failure(_)) => prepare_for_waiters(call, admitted, attempts).await,
                _ => PreparedAttempt::new(call, admitted, attempts).await,
            };
            match prepared {
                Ok(prepared) => prepared,
                Err(refusal) => return result_of(first, refusal, attempts),
            }
        };
        match again.take() {
            Some(cause) => cause.begin(call),
            None if call.operation.repeatable() && call.is_awaited() => call.account.address.retries.earn(),
            None => {}
        }
        let lease = prepared.lease().clone();
        let result = prepared.send(call, attempts).await;
        let answered = Answered { lease, tried: &mut tried };
        let retry = match next_step(call, answered, result, attempts).await {
            NextStep::Done(result) => return result,
            NextStep::Unsent(refusal) => return result_of(first, refusal, attempts),
            NextStep::Retry(retry) => retry,
        };
        if let RetryCause::Failure(second) = &retry.cause {
            second.pause(call, attempts).await;
        }
        let permitted = call.check_further_attempt(retry.cause.reason());
        (first, again) = (retry.first.or(first), Some(retry.cause));
        admitted = match permitted.and_then(|()| admit(call, retry.claim, retry.pair)) {
            Ok(admitted) => admitted,
            Err(refusal) => return result_of(first, refusal, attempts),
        };
    }
}

/// Steps 9 to 11 of an attempt that is not to be sent once nobody waits for it. On the heap, because it is rare.
fn prepare_for_waiters<'a>(
    call: &'a UpstreamCall,
    admitted: AdmittedAttempt,
    attempts: &'a Attempts,
) -> Pin<Box<impl Future<Output = Result<PreparedAttempt, Refusal>> + use<'a>>> {
    Box::pin(async move { call.while_awaited(PreparedAttempt::new(call, admitted, attempts)).await? })
}

/// The result if no further attempt is sent, because of `refusal`: that of the attempt before, if there was one.
fn result_of(first: Option<Box<CallResult>>, refusal: Refusal, attempts: &Attempts) -> CallResult {
    attempts.ended();
    first.map_or(Err(refusal), |first| *first)
}

/// What follows an attempt.
enum NextStep {
    Done(CallResult),
    /// Nothing was sent, and there is no other attempt.
    Unsent(Refusal),
    Retry(Retry),
}

/// Another attempt.
struct Retry {
    cause: RetryCause,
    /// The pair to sign with; absent: the account's current one.
    pair: Option<Lease>,
    /// The service's claim; empty if it was used.
    claim: Claim,
    /// Result of the attempt before; absent: it was not sent, and is no result.
    first: Option<Box<CallResult>>,
}

/// Why there is another attempt.
enum RetryCause {
    /// There is another key pair than the one that was refused or revoked.
    Key,
    /// On the heap: few requests have it, and all have room for it.
    Failure(Box<SecondAttempt>),
}

/// A second attempt after a failure, if it begins.
struct SecondAttempt {
    reason: RetryReason,
    token: RetryToken,
    pause: Duration,
}

impl RetryCause {
    fn reason(&self) -> RetryReason {
        match self {
            RetryCause::Key => RetryReason::Key,
            RetryCause::Failure(second) => second.reason,
        }
    }

    /// The attempt begins.
    fn begin(self, call: &UpstreamCall) {
        call.snapshot.recorder.retried(call.account.index, call.operation.class, self.reason());
        if let RetryCause::Failure(second) = self {
            second.token.spend();
        }
    }
}

impl SecondAttempt {
    /// `named`: the wait that Fastrac asks for. `None` if there is to be none.
    fn schedule(
        call: &UpstreamCall,
        attempts: &Attempts,
        reason: RetryReason,
        named: Option<Duration>,
    ) -> Option<Self> {
        if attempts.count() >= 2 || !call.operation.repeatable() || !call.is_awaited() {
            return None;
        }
        let pause = retry::pause(named).filter(|pause| call.deadlines.complete_by().leaves(*pause))?;
        call.check_breaker().ok()?;
        let token = call.account.address.retries.take()?;
        Some(SecondAttempt { reason, token, pause })
    }

    /// It signs with the account's current pair. `claim`: the service's, empty if it was used.
    fn after(self, claim: Claim, first: CallResult) -> NextStep {
        let cause = RetryCause::Failure(Box::new(self));
        NextStep::Retry(Retry { cause, pair: None, claim, first: Some(Box::new(first)) })
    }

    /// Waits, as long as anybody waits for the call.
    async fn pause(&self, call: &UpstreamCall, attempts: &Attempts) {
        let pause = Box::pin(call.while_awaited(retry::wait(self.pause)));
        // Who waits is asked again in any case.
        let _ = attempts.wait(WaitFor::NextAttempt, pause).await;
    }
}

/// The pair of an attempt, and those that Fastrac refused before.
struct Answered<'a> {
    lease: Lease,
    tried: &'a mut Vec<TriedPair>,
}

/// Decides what follows an attempt, and records what its response proves.
async fn next_step(
    call: &UpstreamCall,
    answered: Answered<'_>,
    result: AttemptResult,
    attempts: &Attempts,
) -> NextStep {
    let schedule = |reason, named| SecondAttempt::schedule(call, attempts, reason, named);
    let (reading, status, mut result) = match result {
        AttemptResult::Failed(Failure::Revoked, claim) => {
            return NextStep::Retry(Retry { cause: RetryCause::Key, pair: None, claim, first: None });
        }
        AttemptResult::Failed(failure, claim) => {
            let second = failure.retry_reason().and_then(|reason| schedule(reason, None));
            let (is_unsent, refusal) = (failure.is_unsent(), Refusal::from(failure));
            return match second {
                Some(second) => second.after(claim, Err(refusal)),
                None if is_unsent => NextStep::Unsent(refusal),
                None => NextStep::Done(Err(refusal)),
            };
        }
        // What it says of the pair counts all the same.
        AttemptResult::Leaked(WithheldAnswer { reading, status }) => (reading, status, Err(Refusal::leak())),
        AttemptResult::Answered(answer) => (answer.reading, answer.response.status, Ok(answer)),
    };
    if !answered.tried.is_empty() && matches!(reading.outcome, Outcome::Ok | Outcome::NotFound) {
        call.account.accepted_instead(answered.lease.version(), answered.tried);
    }
    let settles = result.is_err() || !call.moves_money() || reading.settles_order(status);
    // An order that is sent again with another pair is decided by the next attempt.
    if settles && !(reading.key_refused && call.moves_money()) {
        attempts.answered();
    }
    if reading.key_refused && call.operation.class != Class::Unlisted {
        result.iter_mut().for_each(|answer| answer.free_place());
        let remedy = call.account.refused(refused(call, answered));
        // On the heap: few requests need this timer.
        let remedy = Box::pin(call.deadlines.complete_by().bound(remedy));
        let remedy = attempts.wait(WaitFor::NextAttempt, remedy).await;
        match remedy {
            Some(Remedy::Resend(lease)) => {
                attempts.refused_unexecuted();
                let first = Some(Box::new(Err(Refusal::key_unsettled())));
                let (cause, claim) = (RetryCause::Key, Claim::default());
                return NextStep::Retry(Retry { cause, pair: Some(lease), claim, first });
            }
            Some(Remedy::Own) => {}
            Some(Remedy::Rejected) => return refused_unexecuted(attempts, Refusal::key_rejected()),
            Some(Remedy::Undecided) => {
                let refusal = match call.operation.class {
                    Class::Order if !call.account.resend_orders => Refusal::key_rejected_order(),
                    _ => Refusal::key_unsettled(),
                };
                return refused_unexecuted(attempts, refusal);
            }
            None => return refused_unexecuted(attempts, Refusal::key_undecided()),
        }
    } else if let Ok(answer) = &mut result
        && let Some(reason) = reading.outcome.retry_reason(Some(status))
        && let Some(second) = schedule(reason, answer.response.wait_named())
    {
        answer.free_place();
        return second.after(Claim::default(), result);
    }
    if settles {
        attempts.answered();
    }
    NextStep::Done(result)
}

/// What the keys need to know of a request that Fastrac answered with 401.
fn refused(call: &UpstreamCall, answered: Answered<'_>) -> RefusedRequest {
    let Answered { lease, tried } = answered;
    tried.push(TriedPair { version: lease.version(), refused: Instant::now() });
    // An order is decided anew each time: it must never get a 401 that is the account's.
    let origin = (!call.moves_money()).then(|| RequestOrigin {
        service: call.service.map(|service| call.snapshot.catalog.services[service].config.name.as_str().into()),
        operation: call.operation.name.as_str().into(),
    });
    let may_resend = tried.len() <= KEY_RESENDS && (call.operation.class != Class::Order || call.account.resend_orders);
    RefusedRequest { tried: tried.clone(), origin, may_resend }
}

/// Fastrac refused the key pair, and no attempt with another one follows.
fn refused_unexecuted(attempts: &Attempts, refusal: Refusal) -> NextStep {
    attempts.refused_unexecuted();
    attempts.ended();
    NextStep::Done(Err(refusal))
}

/// A response to a call of the gateway's own.
#[derive(Clone, Debug)]
pub struct OwnAnswer {
    pub status: StatusCode,
    pub outcome: Outcome,
    /// Its headers are cleaned.
    pub headers: HeaderMap,
    /// `None`: it is longer than `limits.answer_buffer`.
    pub body: Option<Bytes>,
}

/// Steps 7 to 13 of a call of the gateway's own, which changes nothing at Fastrac. Spends budget like any request.
///
/// # Errors
/// The [`Refusal`] of an attempt that brought no response.
pub async fn fetch_own(call: &UpstreamCall) -> Result<OwnAnswer, Refusal> {
    let answer = fetch(call, Claim::default(), &Attempts::default()).await?;
    let ClassifiedAnswer { response, reading, .. } = *answer;
    let body = match response.body {
        AnswerBody::Whole(body) => Some(body),
        AnswerBody::Long(_) => None,
    };
    Ok(OwnAnswer { status: response.status, outcome: reading.outcome, headers: response.headers, body })
}

/// Sends a lookup with one pair, to learn whether Fastrac accepts it. Spends budget like any request.
pub async fn canary(call: &UpstreamCall, lease: Lease) -> Verdict {
    let (attempts, version) = (Attempts::default(), lease.version());
    if call.check_breaker().is_err() {
        return Verdict::Undecided;
    }
    let admitted = AdmittedAttempt { claim: Claim::default(), pair: Some(lease) };
    let Ok(prepared) = PreparedAttempt::new(call, admitted, &attempts).await else { return Verdict::Undecided };
    // Otherwise it was revoked meanwhile.
    if prepared.lease().version() != version {
        return Verdict::Undecided;
    }
    match prepared.send(call, &attempts).await {
        // It was refused or accepted where the account is not called any more.
        _ if call.account.address.is_left() => Verdict::Undecided,
        AttemptResult::Answered(answer) if answer.reading.key_refused => Verdict::Refused,
        AttemptResult::Leaked(withheld) if withheld.reading.key_refused => Verdict::Refused,
        AttemptResult::Answered(answer)
            if answer.reading.outcome == Outcome::Ok && answer.response.status.as_u16() == 200 =>
        {
            Verdict::Verified
        }
        _ => Verdict::Undecided,
    }
}
