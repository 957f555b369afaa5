//! One attempt at a request to Fastrac: steps 9 to 11 prepare it, steps 12 and 13 send it and read the response.
//!
//! The only place that performs these steps. What always holds: an attempt is counted however it ends; what was
//! reserved for an attempt that is not sent goes back; the breaker's permit is taken once nothing is waited for any
//! more, so that no probe is held by a request that waits. Must not know who waits for the response. Fails with the
//! refusal of the budget, the keys or the breaker, or with [`AttemptResult::Failed`].

use std::{iter, pin::pin};

use http::{HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use super::{UpstreamCall, spend::spend};
use crate::{
    admission::{Claim, LimitResponse, Spent},
    attempts::{Attempts, WaitFor},
    config::Class,
    keys::Lease,
    outcome::{self, Classification, Outcome},
    record::AttemptTimer,
    refusal::Refusal,
    reply::Reply,
    upstream::{
        self, Accounting, Answer, AnswerBody, Bounds, Failure, Keyed, THROTTLED, breaker::BreakerPermit,
        inject::inject, rewrite,
    },
};

/// An attempt that has passed step 7.
pub(super) struct AdmittedAttempt {
    /// The service's part. Empty: the attempt is the gateway's own, or the service has paid.
    pub(super) claim: Claim,
    /// The pair to sign with; absent: the account's current one.
    pub(super) pair: Option<Lease>,
}

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
    /// Occupies the account's place in flight while the response is being received; absent once it is whole.
    /// On the heap: only a streamed response has it.
    spent: Option<Box<Spent>>,
}

/// What a call came to. On the heap, because it is handed on several times.
pub(super) type CallResult = Result<Box<ClassifiedAnswer>, Refusal>;

impl ClassifiedAnswer {
    /// Gives its place in flight back: it is kept while something else is waited for, which may need the place.
    pub(super) fn free_place(&mut self) {
        self.spent = None;
    }

    pub(super) fn reply(self) -> Reply {
        Reply::of_answer(self.response, self.reading.outcome, self.spent.map(|spent| *spent))
    }
}

/// What is kept of a response that may not be passed on.
pub(super) struct WithheldAnswer {
    pub(super) reading: Classification,
    pub(super) status: StatusCode,
}

/// What an attempt came to.
pub(super) enum AttemptResult {
    Answered(Box<ClassifiedAnswer>),
    /// No response; with the service's claim, empty if it was used.
    Failed(Failure, Claim),
    /// The response holds the secret key of the account: nothing of it may be passed on.
    Leaked(WithheldAnswer),
}

impl PreparedAttempt {
    /// Steps 9 to 11. The key pair is taken after the budget, so that one that was revoked meanwhile is not used; nor is
    /// the pair to sign with, if it was. The breaker is asked again at the end: it may have opened meanwhile. Nor is an order
    /// sent if others have filled the memory meanwhile, because its response is read in any case.
    ///
    /// # Errors
    /// The refusal of the budget, the memory, the keys or the breaker; what was reserved has gone back.
    pub(super) async fn new(
        call: &UpstreamCall,
        admitted: AdmittedAttempt,
        attempts: &Attempts,
    ) -> Result<Self, Refusal> {
        let AdmittedAttempt { claim, pair } = admitted;
        let spent = attempts.wait(WaitFor::Budget, pin!(spend(call, &claim, attempts))).await; // 9
        let spent = spent.map_err(|not_spent| call.not_spent(not_spent))?.with_claim(claim);
        if call.moves_money() {
            call.allowance().check_response()?;
        }
        // 10
        let lease = match pair.filter(|pair| !pair.is_revoked()) {
            Some(pair) => pair,
            None => {
                let lease = pin!(call.account.keys.lease_by(call.deadlines.next(attempts.sent())));
                attempts.wait(WaitFor::NextAttempt, lease).await?
            }
        };
        call.account.check_pair(&lease)?;
        let permit = call.breaker_permit()?;
        let route = call.account.route(call.operation.api);
        let rewritten = rewrite::request(&call.request, &call.operation, &route.endpoint); // 11
        let keyed = inject(rewritten, lease.clone(), route);
        Ok(PreparedAttempt { keyed, lease, permit, spent })
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Steps 12 and 13.
    pub(super) async fn send(self, call: &UpstreamCall, attempts: &Attempts) -> AttemptResult {
        let PreparedAttempt { keyed, lease, permit, mut spent } = self;
        let mut timer =
            AttemptTimer::start(&call.snapshot.recorder, attempts, call.account.index, call.operation.index);
        let began = timer.began();
        let bounds = bounds(call, attempts, began);
        attempts.begin(lease.version_text());
        let count = || {
            timer.sent();
            call.count_sent();
        };
        let accounting = Accounting { spent: &mut spent, attempts, count: &count };
        let sent = upstream::send(&call.worker.pool, keyed, accounting, bounds).await;
        let status = sent.as_ref().ok().map(|answer| answer.status.as_u16());
        timer.stop(status);
        // The response to the attempt before is the last one, if nothing was sent.
        if !sent.as_ref().is_err_and(Failure::is_unsent) {
            attempts.responded(status);
        }
        match sent {
            Err(failure) => {
                // Without a report, the permit counts for nothing.
                if is_evidence(call, attempts, began) {
                    permit.report(failure.evidence(), began.elapsed());
                }
                AttemptResult::Failed(failure, spent.take_claim())
            }
            Ok(mut answer) => {
                let reading = read(call, &answer);
                // Any other `Retry-After` concerns this request: maintenance of one operation must not stop the others.
                if reading.outcome == Outcome::Throttled {
                    let limit = LimitResponse { sent: began, wait: answer.wait_named() };
                    let again = call.budget_request(call.priority(), attempts.sent());
                    let due = call.account.throttled(limit, again);
                    answer.wait_at_least(due.max(THROTTLED));
                }
                permit.report(reading.evidence(answer.status), answer.took);
                if proves_pair(call, &reading) {
                    call.account.accepted(&lease, began);
                }
                let endpoint = &call.account.route(call.operation.api).endpoint;
                rewrite::answer(&mut answer, endpoint, &call.request.target);
                if leaks(&lease, &answer) {
                    let account = call.account.name.as_str();
                    tracing::warn!(account, "a response of Fastrac's contains the live secret key; it is withheld");
                    return AttemptResult::Leaked(WithheldAnswer { reading, status: answer.status });
                }
                let spent = matches!(answer.body, AnswerBody::Long(_)).then(|| Box::new(spent));
                AttemptResult::Answered(Box::new(ClassifiedAnswer { response: answer, reading, spent }))
            }
        }
    }
}

/// Whether a failed attempt says something about Fastrac: not if the caller's wait ended it, nor if other waits had left
/// Fastrac less than half of the operation's timeout.
fn is_evidence(call: &UpstreamCall, attempts: &Attempts, began: Instant) -> bool {
    let (now, end) = (Instant::now(), call.deadlines.next(attempts.sent()));
    let had_half = now - began >= call.operation.timeout / 2;
    !end.is_over(now) || (had_half && !call.deadlines.is_callers(end))
}

/// Whether a response shows that Fastrac accepts the pair. Unlisted operations may need none.
fn proves_pair(call: &UpstreamCall, reading: &Classification) -> bool {
    call.operation.class != Class::Unlisted && matches!(reading.outcome, Outcome::Ok | Outcome::NotFound)
}

/// Whether a response holds the live secret, as far as it has come.
fn leaks(lease: &Lease, answer: &Answer) -> bool {
    let begun = match &answer.body {
        AnswerBody::Whole(body) => &body[..],
        AnswerBody::Long(stream) => stream.beginning(),
    };
    lease.any_leaks_in(iter::once(begun).chain(answer.headers.values().map(HeaderValue::as_bytes)))
}

fn bounds(call: &UpstreamCall, attempts: &Attempts, began: Instant) -> Bounds {
    let limits = &call.snapshot.limits;
    Bounds {
        began,
        start_by: call.deadlines.next(attempts.sent()).instant(),
        deadline: call.deadlines.complete_by().instant(),
        buffer: limits.answer_buffer,
        body: limits.answer_body,
        may_stream: !call.needs_whole_answer(),
        memory: call.allowance(),
        is_order: call.moves_money(),
    }
}

fn read(call: &UpstreamCall, answer: &Answer) -> Classification {
    let messages = &call.account.messages;
    match &answer.body {
        _ if *call.operation.method_sent(&call.request.method) == Method::HEAD => {
            outcome::classify_head(answer.status, messages)
        }
        AnswerBody::Whole(body) if call.needs_whole_answer() => {
            outcome::classify_strictly(answer.status, body, messages)
        }
        AnswerBody::Whole(body) => outcome::classify(answer.status, body, messages),
        AnswerBody::Long(stream) => outcome::classify_beginning(answer.status, stream.beginning(), messages),
    }
}
