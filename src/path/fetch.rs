//! Steps 8 to 14 of every request that goes to Fastrac, with the bounded second attempt.
//!
//! The plain request, the fill and the order all come through here. There is a second attempt only where it can do no
//! harm: the response proves that nothing was executed (401) and another pair is at hand, or the operation is
//! repeatable and the connection failed. Never a third. Must not know who waits. Fails with the [`Refusal`] of an
//! attempt that brought no response, or none that may be passed on.

use super::{
    UpstreamCall,
    attempt::{AttemptResult, ClassifiedAnswer, PreparedAttempt},
};
use crate::{
    admission::DayReservation,
    attempts::Attempts,
    config::Class,
    keys::{Lease, Remedy, Verdict},
    outcome::Outcome,
    refusal::Refusal,
    upstream::retry,
};

/// Steps 8 to 14.
pub(super) async fn fetch(
    call: &UpstreamCall,
    reservation: DayReservation,
    attempts: &mut Attempts,
) -> Result<ClassifiedAnswer, Refusal> {
    let prepared = prepare(call, reservation, attempts).await?;
    send(call, prepared, attempts).await
}

/// Steps 8 to 11 of the first attempt.
pub(super) async fn prepare(
    call: &UpstreamCall,
    reservation: DayReservation,
    attempts: &mut Attempts,
) -> Result<PreparedAttempt, Refusal> {
    PreparedAttempt::new(call, call.lease()?, Some(reservation), attempts).await
}

/// Steps 13 and 14, and the second attempt if there is one.
pub(super) async fn send(
    call: &UpstreamCall,
    prepared: PreparedAttempt,
    attempts: &mut Attempts,
) -> Result<ClassifiedAnswer, Refusal> {
    let mut prepared = prepared;
    loop {
        let lease = prepared.lease().clone();
        let result = prepared.send(call, attempts).await;
        prepared = match next_step(call, lease, result, attempts).await? {
            NextStep::Done(answer) => return Ok(answer),
            NextStep::Retry(lease, reservation) => {
                call.snapshot.recorder.retried(call.account.index);
                PreparedAttempt::new(call, lease, reservation, attempts).await?
            }
        };
    }
}

/// What follows an attempt.
enum NextStep {
    Done(ClassifiedAnswer),
    /// Another attempt, with the service's reservation if it has not been used yet.
    Retry(Lease, Option<DayReservation>),
}

/// Decides what follows an attempt, and records what its response proves.
async fn next_step(
    call: &UpstreamCall,
    lease: Lease,
    result: AttemptResult,
    attempts: &mut Attempts,
) -> Result<NextStep, Refusal> {
    let may_retry = attempts.count() < 2;
    let in_time = || may_retry && call.operation.repeatable() && retry::fits(call.deadline);
    let answer = match result {
        AttemptResult::Failed(failure, reservation) => {
            if failure.may_repeat() && in_time() {
                retry::pause().await;
                return Ok(NextStep::Retry(call.lease()?, reservation));
            }
            return Err(failure.into());
        }
        AttemptResult::Leaked => {
            attempts.answered();
            return Err(Refusal::leak());
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
        match call.account.keys.refused(lease.version(), may_resend).await {
            Remedy::Resend(lease) => {
                attempts.refused_unexecuted();
                return Ok(NextStep::Retry(lease, None));
            }
            Remedy::Own => {}
            Remedy::Rejected => {
                attempts.answered();
                return Err(Refusal::key_rejected());
            }
        }
    } else if answer.reading.outcome.may_repeat(Some(answer.response.status)) && in_time() {
        drop(answer);
        retry::pause().await;
        return Ok(NextStep::Retry(call.lease()?, None));
    }
    if settles {
        attempts.answered();
    }
    Ok(NextStep::Done(answer))
}

/// Sends a lookup with one pair, to learn whether Fastrac accepts it. Spends budget like any request.
pub async fn canary(call: &UpstreamCall, lease: Lease) -> Verdict {
    let mut attempts = Attempts::default();
    let Ok(prepared) = PreparedAttempt::new(call, lease, None, &mut attempts).await else { return Verdict::Undecided };
    match prepared.send(call, &mut attempts).await {
        AttemptResult::Answered(answer) if answer.reading.key_refused => Verdict::Refused,
        AttemptResult::Answered(answer)
            if answer.reading.outcome == Outcome::Ok && answer.response.status.as_u16() == 200 =>
        {
            Verdict::Verified
        }
        _ => Verdict::Undecided,
    }
}
