//! The head of an answer: what the gateway adds to it (contract section 5). Pure.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::{
    outcome::{Code, Outcome, Sent},
    record::CacheResult,
    upstream::Stream,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const OUTCOME: HeaderName = HeaderName::from_static("x-gateway-outcome");
const SENT: HeaderName = HeaderName::from_static("x-gateway-sent");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Room that a head needs for what the gateway adds to it, in the usual case.
pub const ADDED: usize = 8;

/// What a caller will be told.
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Fastrac's headers, cleaned, or a refusal's.
    pub headers: HeaderMap,
    /// Body.
    pub content: Content,
    /// What became of the request.
    pub outcome: Outcome,
    /// Why, if the gateway or a limit of Fastrac's decided.
    pub code: Option<Code>,
    /// Whether Fastrac saw this request.
    pub sent: Sent,
    /// How long to wait before trying again.
    pub retry_after: Option<Duration>,
    /// What the cache did.
    pub cached: Option<Cached>,
    /// Id of the exchange that brought a stored answer.
    pub stored_from: Option<HeaderValue>,
}

/// The body of a reply.
pub enum Content {
    /// All of it.
    Whole(Bytes),
    /// On its way.
    Stream(Box<Stream>),
}

/// What the cache did (RFC 9211).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// A fresh stored answer.
    Hit {
        /// Seconds it stays fresh.
        ttl: u64,
        /// Seconds since it came.
        age: u64,
    },
    /// Asked for, and stored if `stored`.
    Miss {
        /// Whether the answer was stored.
        stored: bool,
    },
    /// Shared the answer to another request.
    Joined,
    /// Asked for because the caller wanted it so.
    Forced {
        /// Whether the answer was stored.
        stored: bool,
    },
    /// Not looked up.
    Bypass,
}

impl Cached {
    /// The word for metrics and log.
    pub fn result(self) -> CacheResult {
        match self {
            Cached::Hit { .. } => CacheResult::Hit,
            Cached::Miss { .. } | Cached::Forced { .. } => CacheResult::Miss,
            Cached::Joined => CacheResult::Joined,
            Cached::Bypass => CacheResult::Bypass,
        }
    }

    fn status(self) -> HeaderValue {
        let fixed = match self {
            Cached::Hit { ttl, .. } => return text(format!("fastrac-gateway; hit; ttl={ttl}")),
            Cached::Miss { stored: true } => "fastrac-gateway; fwd=uri-miss; stored",
            Cached::Miss { stored: false } => "fastrac-gateway; fwd=uri-miss",
            Cached::Joined => "fastrac-gateway; fwd=uri-miss; collapsed",
            Cached::Forced { stored: true } => "fastrac-gateway; fwd=request; stored",
            Cached::Forced { stored: false } => "fastrac-gateway; fwd=request",
            Cached::Bypass => "fastrac-gateway; fwd=bypass",
        };
        HeaderValue::from_static(fixed)
    }
}

/// The limits of a known service, as headers.
pub struct Limits<'a> {
    /// `RateLimit-Policy`.
    pub policy: Option<&'a HeaderValue>,
    /// `RateLimit`.
    pub left: Option<HeaderValue>,
}

impl Reply {
    /// Writes what the gateway adds into the headers.
    pub fn stamp(&mut self, request_id: HeaderValue, limits: Option<Limits<'_>>, close: bool) {
        let headers = &mut self.headers;
        headers.reserve(ADDED);
        headers.insert(REQUEST_ID, request_id);
        headers.insert(OUTCOME, HeaderValue::from_static(self.outcome.as_str()));
        headers.insert(SENT, HeaderValue::from_static(self.sent.as_str()));
        if let Some(cached) = self.cached {
            headers.insert(CACHE_STATUS, cached.status());
            if let Cached::Hit { age, .. } = cached {
                headers.insert(header::AGE, HeaderValue::from(age));
            }
        }
        if let Some(Limits { policy, left }) = limits {
            if let Some(policy) = policy {
                headers.insert(RATE_LIMIT_POLICY, policy.clone());
            }
            if let Some(left) = left {
                headers.insert(RATE_LIMIT, left);
            }
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(wait)));
        }
        if let Some(status) = proxy_status(self.outcome, self.code) {
            headers.insert(PROXY_STATUS, status);
        }
        if close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// Whole seconds, rounded up, at least 1.
pub fn seconds(wait: Duration) -> u64 {
    let up = u64::from(wait.subsec_nanos() > 0);
    (wait.as_secs() + up).max(1)
}

/// RFC 9209: on every refusal and upstream failure.
fn proxy_status(outcome: Outcome, code: Option<Code>) -> Option<HeaderValue> {
    match (code, outcome) {
        (Some(code), _) => {
            Some(text(format!("fastrac-gateway; error={}; details=\"{}\"", code.proxy_error(), code.as_str())))
        }
        (None, Outcome::UpstreamError) => Some(HeaderValue::from_static("fastrac-gateway; error=http_protocol_error")),
        _ => None,
    }
}

/// A header value made of the closed lists, which hold nothing that a header can't.
fn text(value: String) -> HeaderValue {
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("fastrac-gateway"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(outcome: Outcome, code: Option<Code>) -> Reply {
        Reply {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            content: Content::Whole(Bytes::new()),
            outcome,
            code,
            sent: Sent::No,
            retry_after: None,
            cached: None,
            stored_from: None,
        }
    }

    #[test]
    fn says_what_became_of_the_request() {
        let mut reply =
            Reply { retry_after: Some(Duration::from_millis(1200)), ..reply(Outcome::OverQuota, Some(Code::QuotaDay)) };
        reply.cached = Some(Cached::Hit { ttl: 7, age: 3 });
        reply.stamp(HeaderValue::from_static("id-12345"), None, true);
        let shown = |name: &str| reply.headers[name].to_str().unwrap();
        assert_eq!(shown("x-request-id"), "id-12345");
        assert_eq!(shown("x-gateway-outcome"), "over_quota");
        assert_eq!(shown("x-gateway-sent"), "no");
        assert_eq!(shown("cache-status"), "fastrac-gateway; hit; ttl=7");
        assert_eq!(shown("age"), "3");
        assert_eq!(shown("retry-after"), "2");
        assert_eq!(shown("proxy-status"), "fastrac-gateway; error=http_request_denied; details=\"quota.day\"");
        assert_eq!(shown("connection"), "close");
    }

    #[test]
    fn waits_are_never_zero() {
        assert_eq!([Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(2)].map(seconds), [1, 1, 2]);
    }
}
