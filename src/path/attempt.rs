//! One attempt at a request to Fastrac: steps 8 to 11 prepare it, steps 13 and 14 send it and read the response.
//!
//! The only place that performs these steps. What always holds: an attempt is counted however it ends; what was
//! reserved for an attempt that is not sent goes back. Must not know who waits for the response. Fails with the
//! refusal of the breaker or the budget, or with [`AttemptResult::Failed`].

use tokio::time::Instant;

use super::UpstreamCall;
use crate::{
    admission::{DayReservation, Spent},
    attempts::Attempts,
    deadline::{Deadline, timed},
    keys::Lease,
    outcome::{self, Classification},
    record::AttemptTimer,
    refusal::Refusal,
    reply::Reply,
    upstream::{
        self, Accounting, Answer, AnswerBody, Bounds, Failure, Keyed, breaker::BreakerPermit, inject::inject, rewrite,
    },
};

/// An attempt that may be sent now.
pub struct PreparedAttempt {
    keyed: Keyed,
    lease: Lease,
    permit: BreakerPermit,
    spent: Spent,
}

/// A response of Fastrac, and what it means.
pub(super) struct ClassifiedAnswer {
    /// Its headers are cleaned.
    pub(super) response: Answer,
    pub(super) reading: Classification,
    /// Occupies the account's place in flight until the response is passed on.
    pub(super) spent: Spent,
}

impl ClassifiedAnswer {
    pub(super) fn reply(self) -> Reply {
        Reply::of_answer(self.response, self.reading.outcome, self.spent)
    }
}

/// What an attempt came to.
pub(super) enum AttemptResult {
    Answered(ClassifiedAnswer),
    /// No response; with the service's reservation if it was not used.
    Failed(Failure, Option<DayReservation>),
    /// The response holds the secret key of the account.
    Leaked,
}

impl PreparedAttempt {
    /// Steps 9 to 11 with the pair of `lease` (8).
    ///
    /// # Errors
    /// The refusal of the breaker or the budget; what was reserved has gone back.
    pub(super) async fn new(
        call: &UpstreamCall,
        lease: Lease,
        reservation: Option<DayReservation>,
        attempts: &mut Attempts,
    ) -> Result<Self, Refusal> {
        let account = &call.account;
        let route = account.route(call.operation.api);
        let rewritten = rewrite::request(&call.request, &call.operation, &route.endpoint); // 9
        let keyed = inject(rewritten, lease.clone(), route);
        let permit = account.breaker.admit()?; // 10
        let spend = account.budget.spend(call.operation.cost, call.priority, call.deadline.instant()); // 11
        let (spent, time) = timed(spend).await;
        attempts.waited_for_budget(time);
        Ok(PreparedAttempt { keyed, lease, permit, spent: spent?.with_quota(reservation) })
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Steps 13 and 14.
    pub(super) async fn send(self, call: &UpstreamCall, attempts: &mut Attempts) -> AttemptResult {
        let PreparedAttempt { keyed, lease, permit, mut spent } = self;
        attempts.begin(lease.version_text());
        let began = Instant::now();
        let mut timer = AttemptTimer::start(&call.snapshot.recorder, call.account.index, call.operation.index);
        let accounting = Accounting { spent: &mut spent, attempts };
        let sent = upstream::send(&call.worker.pool, keyed, accounting, bounds(call, began)).await;
        let status = sent.as_ref().ok().map(|answer| answer.status.as_u16());
        attempts.waited_for_upstream(timer.stop(status));
        match sent {
            Err(failure) => {
                // A caller that does not wait any longer proves nothing about Fastrac: the permit is dropped.
                if !call.deadline.ended_before(operation_deadline(call, began)) {
                    permit.report(failure.evidence());
                }
                AttemptResult::Failed(failure, spent.take_quota())
            }
            Ok(mut answer) => {
                let reading = read(call, &answer);
                permit.report(reading.outcome.evidence(Some(answer.status)));
                rewrite::answer(&mut answer, &call.account.route(call.operation.api).endpoint);
                if leaks(&lease, &answer) {
                    return AttemptResult::Leaked;
                }
                AttemptResult::Answered(ClassifiedAnswer { response: answer, reading, spent })
            }
        }
    }
}

/// Whether a response holds the live secret, as far as it has come.
fn leaks(lease: &Lease, answer: &Answer) -> bool {
    let begun = match &answer.body {
        AnswerBody::Whole(body) => &body[..],
        AnswerBody::Long(stream) => stream.beginning(),
    };
    lease.leaks_in(begun) || answer.headers.values().any(|value| lease.leaks_in(value.as_bytes()))
}

/// When the operation's own time for this attempt is up.
fn operation_deadline(call: &UpstreamCall, began: Instant) -> Deadline {
    Deadline::after(began, call.operation.timeout)
}

fn bounds(call: &UpstreamCall, began: Instant) -> Bounds {
    let limits = &call.snapshot.limits;
    Bounds {
        began,
        deadline: call.deadline.min(operation_deadline(call, began)).instant(),
        buffer: limits.answer_buffer,
        body: limits.answer_body,
        may_stream: !call.needs_whole_answer(),
    }
}

fn read(call: &UpstreamCall, answer: &Answer) -> Classification {
    let messages = &call.account.messages;
    match &answer.body {
        AnswerBody::Whole(body) if call.needs_whole_answer() => {
            outcome::classify_strictly(answer.status, body, messages)
        }
        AnswerBody::Whole(body) => outcome::classify(answer.status, body, messages),
        AnswerBody::Long(stream) => outcome::classify_beginning(answer.status, stream.beginning(), messages),
    }
}
