//! Answers that the gateway makes itself (contract section 6).
//!
//! Every room's error becomes a [`Refusal`] here and nowhere else. A refusal is Fastrac's envelope
//! plus `error`, or RFC 9457 where the caller asks for it.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;

use crate::{
    admission::{Exceeded, LimitWindow, OverBudget},
    body::Unread,
    caller::Unknown,
    catalog::{Forbidden, route::Malformed, target::Misaddressed},
    keys::NoKey,
    orders::{JournalError, OrderRefusal},
    outcome::{Code, Outcome, Sent},
    reply::{Content, Reply, seconds},
    upstream::{Failure, breaker::Open},
};

/// Why the gateway answers itself, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: Code,
    /// Usually the code's.
    pub status: StatusCode,
    /// For a person: what, and what to do.
    pub message: Cow<'static, str>,
    /// Whether Fastrac may have seen the request.
    pub sent: Sent,
    /// How long to wait before trying again.
    pub retry_after: Option<Duration>,
    /// Usually the code's.
    pub outcome: Outcome,
}

impl Refusal {
    /// A refusal with the status of its code, of a request that Fastrac never saw.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        let (status, outcome) = (code.status(), code.outcome());
        Refusal { code, status, message: message.into(), sent: Sent::No, retry_after: None, outcome }
    }

    /// With another status than its code's.
    pub fn status(self, status: StatusCode) -> Self {
        Refusal { status, ..self }
    }

    /// Of a request that Fastrac saw, or may have seen.
    pub fn sent(self, sent: Sent) -> Self {
        Refusal { sent, ..self }
    }

    /// To be tried again after a while.
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

    /// The body and headers of it; `problem` for RFC 9457.
    pub fn reply(&self, request_id: &HeaderValue, problem: bool) -> Reply {
        let request_id = request_id.to_str().unwrap_or_default();
        let mut error = json!({
            "code": self.code.as_str(), "by": "gateway", "sent": self.sent.as_str(), "request_id": request_id,
        });
        if let Some(wait) = self.retry_after {
            error["retry_after"] = seconds(wait).into();
        }
        let (kind, body) = if problem {
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
            content: Content::Whole(Bytes::from(body.to_string())),
            outcome: self.outcome,
            code: Some(self.code),
            sent: self.sent,
            retry_after: self.retry_after,
            cached: None,
            stored_from: None,
        }
    }
}

/// Whether a caller prefers RFC 9457.
pub fn wants_problem(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = values.flat_map(|value| value.split(',')).map(|range| range.split(';').next().unwrap_or(""));
    types.any(|kind| kind.trim().eq_ignore_ascii_case("application/problem+json"))
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

impl From<Unread> for Refusal {
    fn from(unread: Unread) -> Self {
        let code = match unread {
            Unread::TooLarge(_) => Code::RequestTooLarge,
            Unread::TooSlow => Code::RequestTimeout,
            Unread::Broken => Code::RequestMalformed,
        };
        Refusal::new(code, unread.to_string())
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
        let refusal = Refusal::new(refused.code(), refused.to_string()).status(refused.status()).sent(refused.sent());
        // A repeat has the outcome of the first, also where its answer is kept no longer.
        Refusal { outcome: refused.outcome(), ..refusal }
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
        Refusal::new(code, failure.to_string()).sent(failure.sent())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(refusal: &Refusal, problem: bool) -> (Reply, serde_json::Value) {
        let reply = refusal.reply(&HeaderValue::from_static("req-12345"), problem);
        let Content::Whole(bytes) = &reply.content else { panic!("whole") };
        let body = serde_json::from_slice(bytes).unwrap();
        (reply, body)
    }

    #[test]
    fn speaks_fastracs_envelope() {
        let refusal = Refusal::new(Code::QuotaDay, "used up").retry_after(Duration::from_secs(7));
        let (reply, body) = body(&refusal, false);
        assert_eq!(reply.status, 429);
        assert_eq!((&body["success"], &body["data"]), (&json!(false), &json!(null)));
        assert_eq!(
            body["error"],
            json!({"code": "quota.day", "by": "gateway", "sent": "no", "retry_after": 7, "request_id": "req-12345"})
        );
        assert!(body["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn speaks_problem_json_where_asked() {
        let accept =
            |value: &'static str| wants_problem(&HeaderMap::from_iter([(header::ACCEPT, value.parse().unwrap())]));
        assert!(accept("text/html, application/problem+json;q=0.9") && !accept("application/json, */*"));
        let (reply, body) = body(&Unknown.into(), true);
        assert_eq!(reply.headers.get_all(header::WWW_AUTHENTICATE).iter().count(), 2);
        assert_eq!((&body["status"], &body["title"]), (&json!(401), &json!("Unauthorized")));
        assert_eq!(body["error"]["code"], "caller.unknown");
    }
}
