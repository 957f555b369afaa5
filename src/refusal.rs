//! Responses that the gateway generates itself (contract, section 6).
//!
//! Every room's error becomes a [`Refusal`] here and nowhere else; so do the refusals of connections on which no request
//! could be read (`to_http1`). Each has Fastrac's envelope plus `error`, or is an RFC 9457 problem if the
//! caller prefers that, and each names the request. It must not know where a refusal goes. Cannot fail.

mod errors;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, fmt::Write as _, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use serde_json::json;

use crate::{
    accept::weight,
    admission::{BudgetLimit, Exceeded, LimitWindow, OverBudget, OverrideNotice},
    memory::MemoryExhausted,
    orders::FirstSent,
    outcome::{Code, Outcome, Sent},
    record::RequestId,
    reply::{GatewayHeaders, Reply, ReplyBody},
    retry_after::whole_seconds,
};

/// Problem type of a refusal by a limit (draft-ietf-httpapi-ratelimit-headers).
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// A refusal of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: Code,
    /// The code's, unless the room that refuses chooses another.
    pub status: StatusCode,
    /// For a person: what is wrong, and what to do next.
    pub message: Cow<'static, str>,
    /// Set if the refusal speaks of an earlier request with the same `Idempotency-Key`; else the attempts of this
    /// request say whether it was sent.
    pub first_sent: Option<FirstSent>,
    /// How long to wait before trying again; `None`: waiting does not help.
    pub retry_after: Option<Duration>,
    /// The code's, except for a repeat, which has the outcome of the first request.
    pub outcome: Outcome,
    /// Whether the same request may succeed at another time.
    may_succeed: bool,
    /// The service that asked holds too much memory.
    memory_share_used: bool,
    /// Fastrac has received the request and executed nothing.
    nothing_executed: bool,
    advice: Advice,
}

/// What the caller is told to do next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Advice {
    /// The message says it.
    #[default]
    Said,
    /// It is added to the message, because it depends on the request: see [`RepeatRule`].
    ByRepeatRule,
}

impl Refusal {
    /// A refusal with the status of its code.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        let (status, outcome) = (code.status(), code.outcome());
        let may_succeed = !matches!(
            code,
            Code::CallerUnknown
                | Code::CallerClass
                | Code::UpstreamLeak
                | Code::KeysRejected
                | Code::RequestMalformed
                | Code::RequestTooLarge
                | Code::RequestHeaders
                | Code::RequestUpgrade
                | Code::RequestIdempotency
        );
        Refusal {
            code,
            status,
            message: message.into(),
            first_sent: None,
            retry_after: None,
            outcome,
            may_succeed,
            memory_share_used: false,
            nothing_executed: code == Code::KeysRejected,
            advice: Advice::Said,
        }
    }

    pub fn status(self, status: StatusCode) -> Self {
        Refusal { status, ..self }
    }

    /// Whether the request was refused because of its form. What follows it on an HTTP/1.1 connection may not be a
    /// request then.
    pub fn concerns_form(&self) -> bool {
        // With these, its key belongs to another request.
        let is_conflict = matches!(self.status, StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY);
        self.outcome == Outcome::BadRequest && !is_conflict
    }

    pub fn retry_after(self, wait: Duration) -> Self {
        Refusal { retry_after: Some(wait), ..self }
    }

    /// It is refused for want of memory.
    fn without_memory(self, exhausted: MemoryExhausted) -> Self {
        let memory_share_used = exhausted == MemoryExhausted::ShareUsed;
        Refusal { memory_share_used, ..self.retry_after(Duration::from_secs(1)) }
    }

    /// A quota of `service` is used up.
    pub fn over_quota(exceeded: &Exceeded, service: &str) -> Self {
        let changed =
            |notice: &Option<OverrideNotice>| notice.as_ref().map(|notice| format!(" ({notice})")).unwrap_or_default();
        match exceeded {
            Exceeded::Second { retry_after, notice } => {
                let (changed, seconds) = (changed(notice), whole_seconds(*retry_after).as_secs());
                let message = format!("Per-second quota of {service}{changed} is used up; try again in {seconds} s");
                Refusal::new(Code::QuotaSecond, message).retry_after(*retry_after)
            }
            Exceeded::Day { retry_after, resets_at, notice } => {
                let changed = changed(notice);
                let message = format!("Daily quota of {service}{changed} is used up; it starts again at {resets_at}");
                Refusal::new(Code::QuotaDay, message).retry_after(*retry_after)
            }
            Exceeded::Blocked { retry_after, frees_at, notice } => {
                let message = format!("{service} is blocked ({notice}) until {frees_at}; ask the gateway's operators");
                Refusal::new(Code::QuotaDay, message).retry_after(*retry_after)
            }
            Exceeded::Unrecorded(unrecorded) => Refusal::from(*unrecorded),
        }
    }

    /// The budget of `account` is used up. 429 tells a service that it has used its own share. The message names neither
    /// the service, because others may share the response, nor who else uses the account.
    pub(crate) fn over_budget(over: &OverBudget, account: &str) -> Self {
        let code = match &over.what {
            BudgetLimit::Second | BudgetLimit::Paused => Code::BudgetSecond,
            BudgetLimit::Day { .. } | BudgetLimit::PartOfDay { .. } => Code::BudgetDay,
            BudgetLimit::InFlight => Code::BudgetInFlight,
        };
        let what = match &over.what {
            BudgetLimit::Second => format!("Per-second budget of account {account} is used up"),
            BudgetLimit::Paused => format!("Fastrac throttles account {account}, so nothing is sent for a while"),
            BudgetLimit::Day { resets_at } => {
                format!("Daily budget of account {account} is used up; it starts again at {resets_at}")
            }
            // A service without a share has no part.
            BudgetLimit::PartOfDay { free_at } if !over.own_share_used => format!(
                "What is left of the daily budget of account {account} is kept for others, or for later in the day; the next \
                 unit is free at {free_at}"
            ),
            BudgetLimit::PartOfDay { free_at } => format!(
                "The service's part of the daily budget of account {account} is used up for now; the next unit is free at \
                 {free_at}"
            ),
            BudgetLimit::InFlight => format!("Too many requests of account {account} are in flight"),
        };
        let own = if over.own_share_used { "; the service has used its own share" } else { "" };
        let message = match &over.what {
            BudgetLimit::Day { .. } | BudgetLimit::PartOfDay { .. } => format!("{what}{own}"),
            _ => format!("{what}{own}; try again in {} s", whole_seconds(over.retry_after).as_secs()),
        };
        let status = if over.own_share_used { StatusCode::TOO_MANY_REQUESTS } else { code.status() };
        Refusal::new(code, message).status(status).retry_after(over.retry_after)
    }

    /// Nobody waits for the call, and no budget of `account` is spare.
    pub(crate) fn not_spare(account: &str) -> Self {
        let message = format!(
            "Nobody waits for this call, and account {account} has no budget to spare for it; try again in 1 s"
        );
        Refusal::new(Code::BudgetSecond, message).retry_after(Duration::from_secs(1))
    }

    /// No place in the queue of the exchange log became free in time.
    pub(crate) fn log_full() -> Self {
        let message = "The exchange log cannot keep up; try again in 1 s";
        Refusal::new(Code::GatewayOverloaded, message).retry_after(Duration::from_secs(1))
    }

    /// The gateway itself failed.
    pub(crate) fn internal() -> Self {
        Refusal::new(Code::GatewayInternal, "The gateway failed; give its operators this request id")
    }

    /// Whether a quota or the budget refuses.
    fn is_of_quota_or_budget(&self) -> bool {
        use Code::{BudgetDay, BudgetInFlight, BudgetSecond, QuotaDay, QuotaSecond};
        matches!(self.code, QuotaSecond | QuotaDay | BudgetSecond | BudgetDay | BudgetInFlight)
    }

    /// Whether a limit refuses, which may let others ask: another service with a share, another priority.
    pub(crate) fn is_of_limit(&self) -> bool {
        self.is_of_quota_or_budget() || self.code == Code::GatewayOverloaded
    }

    /// Whether a limit refuses of which other services have their own part: what is short of memory is so for all, unless
    /// only the share of who asked is used up.
    pub(crate) fn concerns_who_asked(&self) -> bool {
        self.is_of_quota_or_budget() || self.memory_share_used
    }

    /// The caller accepts only a stored response, and there is none that it takes. `may_be_stored`: there may be one at
    /// another time.
    pub(crate) fn only_if_cached(may_be_stored: bool) -> Self {
        let message = match may_be_stored {
            true => {
                "The request says only-if-cached, and no response is stored that it takes; repeat it without that to have \
                 Fastrac asked"
            }
            false => {
                "The request says only-if-cached, and a response that it takes is never stored; send it without that to have \
                 Fastrac asked"
            }
        };
        Refusal { may_succeed: may_be_stored, ..Refusal::new(Code::CacheOnly, message) }
    }

    /// The response holds the account's secret key.
    pub(crate) fn leak() -> Self {
        Refusal::new(
            Code::UpstreamLeak,
            "Fastrac's response contains the account's secret key and was withheld; tell the operators",
        )
    }

    /// Fastrac accepts no key pair of the account.
    pub(crate) fn key_rejected() -> Self {
        let message = "Fastrac refuses the account's key pair; nothing was executed; tell the operators, who must replace the pair";
        Refusal::new(Code::KeysRejected, message)
    }

    /// Fastrac refused a pair, and which one it accepts is not known: there is another one, the account has another address
    /// now, or a canary brought no verdict.
    pub(crate) fn key_unsettled() -> Self {
        let message = "Fastrac refused the account's key pair, and which pair it accepts is not known yet (pair or address are \
                       being changed, or a check of the pair brought no verdict); nothing was executed; try again, and \
                       tell the gateway's operators if this lasts";
        Refusal { may_succeed: true, ..Refusal::new(Code::KeysRejected, message) }
    }

    /// Fastrac refused the pair that an order was signed with, and `resend_orders` is off: whether another pair is good is
    /// not known.
    pub(crate) fn key_rejected_order() -> Self {
        let message = "Fastrac refused the account's key pair, and orders are not sent again with another one \
                       (`resend_orders`); nothing was executed; try again, and tell the gateway's operators if this lasts";
        Refusal { may_succeed: true, ..Refusal::new(Code::KeysRejected, message) }
    }

    /// Fastrac refused the key pair, and the time was up before it was known whether another one is good.
    pub(crate) fn key_undecided() -> Self {
        let message = "Fastrac refused the account's key pair, and the time was up before another was found; nothing was \
                       executed; try again";
        Refusal { nothing_executed: true, ..Refusal::new(Code::UpstreamTimeout, message) }
    }

    /// The order journal did not respond in time.
    pub(crate) fn journal_stalled() -> Self {
        let message = "The order journal did not respond in time; nothing was sent; try again in 1 s";
        Refusal::new(Code::GatewayOverloaded, message).retry_after(Duration::from_secs(1))
    }

    /// The response in the given format.
    pub(crate) fn reply(&self, request: RefusedRequestFacts<'_>, format: RefusalFormat) -> Reply {
        let (kind, body) = self.body(request, format);
        self.with_body(kind, body)
    }

    /// `error.retry`: what a client may do (contract, section 6).
    fn retry(&self, sent: Sent, repeat: RepeatRule) -> &'static str {
        let may_be_executed = sent != Sent::No && !self.nothing_executed;
        match (self.code, repeat) {
            (Code::OrderUnknown, _) => "ask",
            (_, RepeatRule::Keyed) if may_be_executed => "same_key",
            (_, RepeatRule::Unkeyed) if may_be_executed => "ask",
            _ if self.retry_after.is_some() => "after",
            _ if self.may_succeed => "now",
            _ => "never",
        }
    }

    /// The message, with what to do next. `retry`: the word for that.
    fn told(&self, retry: &str) -> Cow<'static, str> {
        if self.advice == Advice::Said {
            return self.message.clone();
        }
        let step = match retry {
            "same_key" => "check its outcome with Fastrac; under the same Idempotency-Key it is not sent twice",
            "ask" => "check its outcome with Fastrac before you send it again",
            "after" => &format!("try again in {} s", whole_seconds(self.retry_after.unwrap_or_default()).as_secs()),
            _ => "try again",
        };
        format!("{}; {step}", self.message).into()
    }

    /// The policies of `RateLimit-Policy` that a refusal by a limit violates.
    fn violated_policy(&self) -> Option<&'static str> {
        match self.code {
            Code::QuotaSecond => Some("second"),
            Code::QuotaDay => Some("day"),
            Code::BudgetSecond => Some("account-second"),
            Code::BudgetDay => Some("account-day"),
            _ => None,
        }
    }

    fn with_body(&self, kind: &'static str, body: Bytes) -> Reply {
        let mut headers = HeaderMap::with_capacity(12);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"fastrac-gateway\""));
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"fastrac-gateway\""));
        }
        Reply {
            status: self.status,
            headers,
            body: ReplyBody::Whole(body),
            outcome: self.outcome,
            code: Some(self.code),
            first_sent: self.first_sent,
            first_request: None,
            retry_after: self.retry_after,
            cached: None,
            stored_from: None,
            receipt: None,
        }
    }

    /// The whole response as HTTP/1.1, for a connection on which no request could be read. It says that the connection is
    /// closed. `id`: that of its line in the exchange log.
    pub(crate) fn to_http1(&self, id: &RequestId) -> Bytes {
        let sent = Sent::No;
        let request = RefusedRequestFacts { request_id: id, sent, repeat: RepeatRule::Safe };
        let (kind, body) = self.body(request, RefusalFormat::Envelope);
        let mut reply = self.with_body(kind, body.clone());
        reply.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        reply.stamp(GatewayHeaders { request_id: id, sent, limits: None, close: true });
        let reason = self.status.canonical_reason().unwrap_or_default();
        let mut response = format!("HTTP/1.1 {} {reason}\r\n", self.status.as_u16());
        for (name, value) in &reply.headers {
            // Every value was made by the gateway, of visible ASCII.
            let _ = write!(response, "{name}: {}\r\n", value.to_str().unwrap_or_default());
        }
        response.push_str("\r\n");
        let mut response = response.into_bytes();
        response.extend_from_slice(&body);
        Bytes::from(response)
    }

    /// Media type and bytes.
    fn body(&self, request: RefusedRequestFacts<'_>, format: RefusalFormat) -> (&'static str, Bytes) {
        let RefusedRequestFacts { request_id, sent, repeat } = request;
        let retry = self.retry(sent, repeat);
        let message = self.told(retry);
        let mut error = json!({
            "code": self.code.as_str(), "by": self.code.outcome().by().as_str(), "sent": sent.as_str(),
            "retry": retry, "request_id": request_id.as_str(),
        });
        if let Some(wait) = self.retry_after {
            error["retry_after"] = whole_seconds(wait).as_secs().into();
        }
        let (kind, body) = match format {
            RefusalFormat::Problem => {
                let title = self.status.canonical_reason().unwrap_or("Refused");
                let violated = self.violated_policy();
                let kind = match violated {
                    Some(_) => QUOTA_EXCEEDED.to_owned(),
                    None => format!("{}#{}", error_reference(), self.code.as_str()),
                };
                let mut body = json!({
                    "type": kind, "title": title, "status": self.status.as_u16(), "detail": message,
                    "error": error,
                });
                if let Some(policy) = violated {
                    body["violated-policies"] = json!([policy]);
                }
                ("application/problem+json", body)
            }
            RefusalFormat::Envelope => {
                let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
                let body = json!({
                    "success": false, "message": message, "data": null, "timestamp": now, "error": error,
                });
                ("application/json", body)
            }
        };
        (kind, Bytes::from(body.to_string()))
    }
}

/// What the body of a refusal says of the request.
#[derive(Clone, Copy)]
pub(crate) struct RefusedRequestFacts<'a> {
    pub(crate) request_id: &'a RequestId,
    /// Whether Fastrac may have received it.
    pub(crate) sent: Sent,
    pub(crate) repeat: RepeatRule,
}

/// How a request may be repeated that Fastrac may have executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RepeatRule {
    /// At will.
    #[default]
    Safe,
    /// It must not be executed twice, and has an `Idempotency-Key`.
    Keyed,
    /// It must not be executed twice, and has none; or a repeat under its key would only get this refusal again.
    Unkeyed,
}

/// Address of the README, whose table of refusals has an anchor for each code: the problem types.
fn error_reference() -> &'static str {
    match env!("CARGO_PKG_HOMEPAGE") {
        "" => "https://fastrac-gateway.invalid/README.md",
        homepage => homepage,
    }
}

/// The code of a service's quota.
pub(crate) fn quota_code(window: LimitWindow) -> Code {
    match window {
        LimitWindow::Second => Code::QuotaSecond,
        LimitWindow::Day => Code::QuotaDay,
    }
}

/// How the body of a refusal is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalFormat {
    /// Fastrac's envelope with `error` beside it.
    Envelope,
    /// RFC 9457.
    Problem,
}

impl RefusalFormat {
    /// The format that the caller's `Accept` asks for.
    pub(crate) fn wanted(headers: &HeaderMap) -> Self {
        let problem = weight(headers, "application/problem+json");
        let wanted = problem > 0.0 && problem >= weight(headers, "application/json");
        if wanted { RefusalFormat::Problem } else { RefusalFormat::Envelope }
    }
}
