//! Responses that the gateway itself generates (contract section 6).
//!
//! The error of each room becomes a [`Refusal`] here and nowhere else. What always holds: a refusal is Fastrac's
//! envelope with `error` beside it, or RFC 9457 if the caller accepts that. Whether the request was sent is not kept
//! here but in its `Attempts`. Must not know the path. Never fails.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;

use crate::{
    admission::{Exceeded, LimitWindow, OverBudget},
    body::BodyError,
    caller::Unknown,
    catalog::{Forbidden, route::Malformed, target::Misaddressed},
    deadline::InvalidTimeout,
    keys::NoKey,
    orders::{FirstSent, JournalError, OrderRefusal},
    outcome::{Code, Outcome, Sent},
    record::RequestId,
    reply::{Reply, ReplyBody, seconds},
    upstream::{Failure, breaker::Open},
};

/// Why the gateway responds itself, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: Code,
    /// That of the code unless set otherwise.
    pub status: StatusCode,
    /// For a person: what happened, and what to do.
    pub message: Cow<'static, str>,
    /// Set if the refusal speaks of an earlier request with the same `Idempotency-Key`; else the attempts of this
    /// request say whether it was sent.
    pub first_sent: Option<FirstSent>,
    /// How long to wait before trying again.
    pub retry_after: Option<Duration>,
    /// That of the code unless set otherwise.
    pub outcome: Outcome,
}

impl Refusal {
    /// A refusal with the status of its code.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        let (status, outcome) = (code.status(), code.outcome());
        Refusal { code, status, message: message.into(), first_sent: None, retry_after: None, outcome }
    }

    pub fn status(self, status: StatusCode) -> Self {
        Refusal { status, ..self }
    }

    pub fn retry_after(self, wait: Duration) -> Self {
        Refusal { retry_after: Some(wait), ..self }
    }

    /// The quota of `service` is used up.
    pub fn over_quota(exceeded: &Exceeded, service: &str) -> Self {
        let wait = exceeded.retry_after;
        match (exceeded.window, &exceeded.resets_at) {
            (LimitWindow::Second, _) => {
                let message =
                    format!("Quota of {service} for this second is used up; try again in {} s", seconds(wait));
                Refusal::new(Code::QuotaSecond, message).retry_after(wait)
            }
            (LimitWindow::Day, at) => {
                let when = at.as_ref().map(|at| format!("; it starts again at {at}")).unwrap_or_default();
                Refusal::new(Code::QuotaDay, format!("Daily quota of {service} is used up{when}")).retry_after(wait)
            }
        }
    }

    /// As many requests are being served as may be.
    pub(crate) fn overloaded() -> Self {
        let message = "The gateway is serving as many requests as it can; try again";
        Refusal::new(Code::GatewayOverloaded, message).retry_after(Duration::from_secs(1))
    }

    /// No line of the exchange log became free in time.
    pub(crate) fn log_full() -> Self {
        let message = "The exchange log can't keep up; try again";
        Refusal::new(Code::GatewayOverloaded, message).retry_after(Duration::from_secs(1))
    }

    /// The gateway itself failed.
    pub(crate) fn internal() -> Self {
        Refusal::new(Code::GatewayInternal, "The gateway failed; its operators find this request under its id")
    }

    /// The caller accepts only a stored response, and there is none.
    pub(crate) fn only_if_cached() -> Self {
        Refusal::new(Code::CacheOnly, "No fresh answer is stored, and the request says only-if-cached")
    }

    /// The response that another task waits for did not come before the caller's deadline.
    pub(crate) fn late() -> Self {
        Refusal::new(Code::UpstreamTimeout, Failure::Timeout.to_string())
    }

    /// The response holds the account's secret key.
    pub(crate) fn leak() -> Self {
        Refusal::new(Code::UpstreamLeak, "Fastrac's answer holds the account's secret key and was withheld")
    }

    /// Fastrac accepts no key pair of the account.
    pub(crate) fn key_rejected() -> Self {
        let message = "Fastrac refuses the account's key pair; the operators have been told, nothing was executed";
        Refusal::new(Code::KeysRejected, message)
    }

    /// The response in the given format. `sent`: whether Fastrac may have received the request.
    pub(crate) fn reply(&self, request_id: &RequestId, sent: Sent, format: RefusalFormat) -> Reply {
        let mut error = json!({
            "code": self.code.as_str(), "by": "gateway", "sent": sent.as_str(), "request_id": request_id.as_str(),
        });
        if let Some(wait) = self.retry_after {
            error["retry_after"] = seconds(wait).into();
        }
        let (kind, body) = if format == RefusalFormat::Problem {
            let title = self.status.canonical_reason().unwrap_or("Refused");
            let kind = format!("urn:fastrac-gateway:{}", self.code.as_str());
            let body = json!({
                "type": kind, "title": title, "status": self.status.as_u16(), "detail": self.message, "error": error,
            });
            ("application/problem+json", body)
        } else {
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
            let body = json!({
                "success": false, "message": self.message, "data": null, "timestamp": now, "error": error,
            });
            ("application/json", body)
        };
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
            body: ReplyBody::Whole(Bytes::from(body.to_string())),
            outcome: self.outcome,
            code: Some(self.code),
            first_sent: self.first_sent,
            retry_after: self.retry_after,
            cached: None,
            stored_from: None,
        }
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
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut types = values.flat_map(|value| value.split(',')).map(|range| range.split(';').next().unwrap_or(""));
        let problem = types.any(|kind| kind.trim().eq_ignore_ascii_case("application/problem+json"));
        if problem { RefusalFormat::Problem } else { RefusalFormat::Envelope }
    }
}

impl From<Unknown> for Refusal {
    fn from(_: Unknown) -> Self {
        let message = "The request carries no valid credentials of the gateway: send the service's own access-key and \
                       secret-key, Basic or Bearer (never Fastrac's)";
        Refusal::new(Code::CallerUnknown, message)
    }
}

impl From<Forbidden> for Refusal {
    fn from(forbidden: Forbidden) -> Self {
        Refusal::new(Code::CallerClass, forbidden.to_string())
    }
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Refusal::new(Code::RequestMalformed, malformed.to_string())
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        let code = match error {
            BodyError::TooLarge(_) => Code::RequestTooLarge,
            BodyError::TooSlow => Code::RequestTimeout,
            BodyError::Broken => Code::RequestMalformed,
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<InvalidTimeout> for Refusal {
    fn from(invalid: InvalidTimeout) -> Self {
        Refusal::new(Code::RequestMalformed, invalid.to_string())
    }
}

impl From<OverBudget> for Refusal {
    fn from(over: OverBudget) -> Self {
        let code = match &over {
            OverBudget::Second { .. } => Code::BudgetSecond,
            OverBudget::Day { .. } => Code::BudgetDay,
            OverBudget::InFlight { .. } => Code::BudgetInFlight,
        };
        let message = match &over {
            OverBudget::Day { resets_at, .. } => format!("{over}; it starts again at {resets_at}"),
            _ => format!("{over}; try again in {} s", seconds(over.retry_after())),
        };
        Refusal::new(code, message).retry_after(over.retry_after())
    }
}

impl From<Misaddressed> for Refusal {
    fn from(misaddressed: Misaddressed) -> Self {
        let code = match misaddressed {
            Misaddressed::Upgrade => Code::RequestUpgrade,
            _ => Code::RequestMalformed,
        };
        Refusal::new(code, misaddressed.to_string())
    }
}

impl From<OrderRefusal> for Refusal {
    fn from(refused: OrderRefusal) -> Self {
        let refusal = Refusal::new(refused.code(), refused.to_string()).status(refused.status());
        // A repeat has the outcome of the first request, even if its response is no longer kept.
        Refusal { outcome: refused.outcome(), first_sent: refused.first_sent(), ..refusal }
    }
}

impl From<JournalError> for Refusal {
    fn from(error: JournalError) -> Self {
        Refusal::new(Code::GatewayInternal, format!("The order was not sent: {error}"))
    }
}

impl From<NoKey> for Refusal {
    fn from(no_key: NoKey) -> Self {
        Refusal::new(Code::KeysUnavailable, no_key.to_string()).retry_after(Duration::from_secs(1))
    }
}

impl From<Open> for Refusal {
    fn from(open: Open) -> Self {
        let message = format!("Fastrac is failing and is given a rest; try again in {} s", seconds(open.retry_after));
        Refusal::new(Code::UpstreamBreaker, message).retry_after(open.retry_after)
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let code = match failure {
            Failure::Connect(_) => Code::UpstreamConnect,
            Failure::Timeout => Code::UpstreamTimeout,
            Failure::Cut | Failure::TooLong(_) => Code::UpstreamCut,
        };
        Refusal::new(code, failure.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(refusal: &Refusal, format: RefusalFormat) -> (Reply, serde_json::Value) {
        let reply = refusal.reply(&"req-12345".parse().unwrap(), Sent::No, format);
        let ReplyBody::Whole(bytes) = &reply.body else { panic!("whole") };
        let body = serde_json::from_slice(bytes).unwrap();
        (reply, body)
    }

    #[test]
    fn is_fastracs_envelope() {
        let refusal = Refusal::new(Code::QuotaDay, "used up").retry_after(Duration::from_secs(7));
        let (reply, body) = body(&refusal, RefusalFormat::Envelope);
        assert_eq!(reply.status, 429);
        assert_eq!((&body["success"], &body["data"]), (&json!(false), &json!(null)));
        assert_eq!(
            body["error"],
            json!({"code": "quota.day", "by": "gateway", "sent": "no", "retry_after": 7, "request_id": "req-12345"})
        );
        assert!(body["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn is_problem_json_if_accepted() {
        let wanted = |accept: &'static str| {
            RefusalFormat::wanted(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]))
        };
        assert_eq!(wanted("text/html, application/problem+json;q=0.9"), RefusalFormat::Problem);
        assert_eq!(wanted("application/json, */*"), RefusalFormat::Envelope);
        let (reply, body) = body(&Unknown.into(), RefusalFormat::Problem);
        assert_eq!(reply.headers.get_all(header::WWW_AUTHENTICATE).iter().count(), 2);
        assert_eq!((&body["status"], &body["title"]), (&json!(401), &json!("Unauthorized")));
        assert_eq!(body["error"]["code"], "caller.unknown");
    }
}
