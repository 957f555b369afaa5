//! Steps 7 to 13 of every request that goes to Fastrac, with the bounded second attempt.
//!
//! The plain request, the fill and the order all come through here. There is a second attempt only where it can do no
//! harm: the response proves that nothing was executed (401) and another pair is at hand, or the operation is
//! repeatable and the connection failed. Never a third. What always holds: if the second attempt is refused before it is
//! sent, the result of the first is the result. Must not know who waits. Fails with the [`Refusal`] of an attempt that
//! brought no response, or none that may be passed on.

use super::{
    UpstreamCall,
    attempt::{AdmittedAttempt, AttemptResult, ClassifiedAnswer, PreparedAttempt},
};
use crate::{
    admission::Claim,
    attempts::Attempts,
    config::Class,
    keys::{Lease, Remedy, Verdict},
    outcome::Outcome,
    refusal::Refusal,
    upstream::retry,
};

/// Steps 7 to 13.
pub(super) async fn fetch(call: &UpstreamCall, claim: Claim, attempts: &Attempts) -> Result<ClassifiedAnswer, Refusal> {
    let admitted = admit(call, claim, None)?;
    send(call, admitted, attempts).await
}

/// Step 7. A call that no key pair can sign, or for whose response there is no room, is refused here too, before it costs
/// anything.
pub(super) fn admit(call: &UpstreamCall, claim: Claim, pair: Option<Lease>) -> Result<AdmittedAttempt, Refusal> {
    if pair.is_none() {
        call.account.keys.lease()?;
    }
    call.allowance().check()?;
    Ok(AdmittedAttempt { permit: call.account.breaker.admit(call.is_conclusive())?, claim, pair })
}

/// Steps 9 to 13, and the second attempt if there is one.
pub(super) async fn send(
    call: &UpstreamCall,
    admitted: AdmittedAttempt,
    attempts: &Attempts,
) -> Result<ClassifiedAnswer, Refusal> {
    let (mut admitted, mut first) = (admitted, None);
    loop {
        let prepared = match PreparedAttempt::new(call, admitted, attempts).await {
            Ok(prepared) => prepared,
            Err(refusal) => return result_of(first, refusal, attempts),
        };
        if first.is_some() {
            call.snapshot.recorder.retried(call.account.index);
        }
        let lease = prepared.lease().clone();
        let result = prepared.send(call, attempts).await;
        let retry = match next_step(call, lease, result, attempts).await {
            NextStep::Done(result) => return result,
            NextStep::Retry(retry) => retry,
        };
        first = Some(retry.first);
        admitted = match admit(call, retry.claim, retry.pair) {
            Ok(admitted) => admitted,
            Err(refusal) => return result_of(first, refusal, attempts),
        };
    }
}

/// The result if no further attempt is sent, because of `refusal`: that of the attempt before, if there was one.
fn result_of(
    first: Option<Box<Result<ClassifiedAnswer, Refusal>>>,
    refusal: Refusal,
    attempts: &Attempts,
) -> Result<ClassifiedAnswer, Refusal> {
    attempts.ended();
    first.map_or(Err(refusal), |first| *first)
}

/// What follows an attempt.
enum NextStep {
    Done(Result<ClassifiedAnswer, Refusal>),
    Retry(Retry),
}

/// Another attempt.
struct Retry {
    /// The pair to sign with; absent: the account's current one.
    pair: Option<Lease>,
    /// The service's claim; empty if it was used.
    claim: Claim,
    /// Result of the attempt before.
    first: Box<Result<ClassifiedAnswer, Refusal>>,
}

impl NextStep {
    /// A second attempt with the account's current pair.
    async fn again(claim: Claim, first: Result<ClassifiedAnswer, Refusal>) -> Self {
        retry::pause().await;
        NextStep::Retry(Retry { pair: None, claim, first: Box::new(first) })
    }
}

/// Decides what follows an attempt, and records what its response proves.
async fn next_step(call: &UpstreamCall, lease: Lease, result: AttemptResult, attempts: &Attempts) -> NextStep {
    let may_retry = attempts.count() < 2;
    let in_time = || may_retry && call.operation.repeatable() && retry::fits(call.deadlines.complete_by());
    let answer = match result {
        AttemptResult::Failed(failure, claim) => {
            let again = failure.may_repeat() && in_time();
            let refusal = Err(Refusal::from(failure));
            return if again { NextStep::again(claim, refusal).await } else { NextStep::Done(refusal) };
        }
        AttemptResult::Leaked => {
            attempts.answered();
            return NextStep::Done(Err(Refusal::leak()));
        }
        AttemptResult::Answered(answer) => answer,
    };
    let settles = !call.moves_money() || answer.reading.settles_order(answer.response.status);
    // An order that is sent again with another pair is decided by the next attempt.
    if settles && !(answer.reading.key_refused && call.moves_money()) {
        attempts.answered();
    }
    if answer.reading.key_refused && call.operation.class != Class::Unlisted {
        let may_resend = may_retry && (call.operation.class != Class::Order || call.account.resend_orders);
        let remedy = call.account.keys.refused(lease.version(), may_resend);
        // On the heap: few requests need this timer.
        match Box::pin(call.deadlines.complete_by().bound(remedy)).await {
            Some(Remedy::Resend(lease)) => {
                attempts.refused_unexecuted();
                let first = Box::new(Err(Refusal::key_rejected()));
                return NextStep::Retry(Retry { pair: Some(lease), claim: Claim::default(), first });
            }
            Some(Remedy::Own) => {}
            Some(Remedy::Rejected) => return refused_unexecuted(attempts, Refusal::key_rejected()),
            None => return refused_unexecuted(attempts, Refusal::key_undecided()),
        }
    } else if answer.reading.outcome.may_repeat(Some(answer.response.status)) && in_time() {
        return NextStep::again(Claim::default(), Ok(answer)).await;
    }
    if settles {
        attempts.answered();
    }
    NextStep::Done(Ok(answer))
}

/// Fastrac refused the key pair, and no attempt with another one follows.
fn refused_unexecuted(attempts: &Attempts, refusal: Refusal) -> NextStep {
    attempts.refused_unexecuted();
    attempts.ended();
    NextStep::Done(Err(refusal))
}

/// Sends a lookup with one pair, to learn whether Fastrac accepts it. Spends budget like any request.
pub async fn canary(call: &UpstreamCall, lease: Lease) -> Verdict {
    let attempts = Attempts::default();
    let Ok(permit) = call.account.breaker.admit(call.is_conclusive()) else { return Verdict::Undecided };
    let admitted = AdmittedAttempt { permit, claim: Claim::default(), pair: Some(lease) };
    let Ok(prepared) = PreparedAttempt::new(call, admitted, &attempts).await else { return Verdict::Undecided };
    match prepared.send(call, &attempts).await {
        AttemptResult::Answered(answer) if answer.reading.key_refused => Verdict::Refused,
        AttemptResult::Answered(answer)
            if answer.reading.outcome == Outcome::Ok && answer.response.status.as_u16() == 200 =>
        {
            Verdict::Verified
        }
        _ => Verdict::Undecided,
    }
}
