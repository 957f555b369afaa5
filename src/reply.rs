//! The response to a caller, and the headers that the gateway adds to it (contract section 5).
//!
//! What always holds: every response is stamped once, so it carries its request id, outcome and `sent`. Whether this
//! request was sent is not kept here but in its `Attempts`. No I/O. Never fails.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::{
    admission::{LimitWindow, Spent},
    body::Receipt,
    cache::{CacheEntry, validator::IfNoneMatch},
    date,
    orders::{FirstSent, StoredAnswer},
    outcome::{Code, Outcome, Sent},
    record::{CacheResult, RequestId},
    retry_after::whole_seconds,
    upstream::{Answer, AnswerBody, Stream},
};

const OUTCOME: HeaderName = HeaderName::from_static("x-gateway-outcome");
const SENT: HeaderName = HeaderName::from_static("x-gateway-sent");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const FIRST_REQUEST: HeaderName = HeaderName::from_static("x-gateway-first-request");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Headers about a body, which a 304 does not have.
const DESCRIBE_BODY: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_RANGE,
    header::LAST_MODIFIED,
];

/// Number of headers that the gateway usually adds.
pub(crate) const ADDED: usize = 8;

/// The response to a caller.
pub struct Reply {
    pub status: StatusCode,
    /// Those of Fastrac, cleaned, or of a refusal.
    pub headers: HeaderMap,
    pub body: ReplyBody,
    pub outcome: Outcome,
    /// Set if the gateway or a limit of Fastrac's decided.
    pub code: Option<Code>,
    /// Set if the response is that of an earlier request with the same `Idempotency-Key`.
    pub first_sent: Option<FirstSent>,
    /// On a replay, the id of the request that was sent.
    pub first_request: Option<HeaderValue>,
    /// How long to wait before trying again.
    pub retry_after: Option<Duration>,
    /// Absent if the operation is not cached.
    pub cached: Option<CacheStatusHeader>,
    /// Id of the request whose response was stored, on a hit.
    pub stored_from: Option<HeaderValue>,
    /// Told when the response has reached the caller.
    pub receipt: Option<Box<dyn Receipt>>,
}

/// The body of a reply.
pub enum ReplyBody {
    Whole(Bytes),
    /// A long response, still being received.
    Stream(Box<Stream>),
}

/// Why no stored response is given, and Fastrac is asked (RFC 9211, section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardReason {
    /// There is none.
    Miss,
    Stale,
    /// It is fresh, and the caller does not accept it.
    Request,
}

/// `Cache-Status` (RFC 9211).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheStatusHeader {
    /// A fresh stored response. In seconds: how long it stays fresh, and its age.
    Hit { ttl: u64, age: u64 },
    /// Fetched from Fastrac.
    Fetched { reason: ForwardReason, stored: bool },
    /// Shares the response to another request.
    Joined { reason: ForwardReason },
    /// A stale stored response, given at once. In seconds: since when it is stale, and its age.
    StaleHit { since: u64, age: u64 },
    /// A stale stored response, because nothing better came. With the status of Fastrac's response, if there was one, whether
    /// it would have been shared, and its age in seconds.
    Fallback { status: Option<u16>, joined: bool, age: u64 },
    /// Fetched without the cache: the operation is not cached, or the request has no key.
    Bypass,
    /// Refused before it was known whether a response is stored, or before that was given: neither a hit nor forwarded.
    NotAsked { code: Code },
}

impl CacheStatusHeader {
    /// The word in metrics and log, if the cache was asked.
    pub(crate) fn result(self) -> Option<CacheResult> {
        Some(match self {
            CacheStatusHeader::Hit { .. } => CacheResult::Hit,
            CacheStatusHeader::Fetched { .. } => CacheResult::Miss,
            CacheStatusHeader::Joined { .. } => CacheResult::Joined,
            CacheStatusHeader::StaleHit { .. } | CacheStatusHeader::Fallback { .. } => CacheResult::Stale,
            CacheStatusHeader::Bypass => CacheResult::Bypass,
            CacheStatusHeader::NotAsked { .. } => return None,
        })
    }

    /// Age of a stored response, in seconds.
    fn age(self) -> Option<u64> {
        match self {
            CacheStatusHeader::Hit { age, .. }
            | CacheStatusHeader::StaleHit { age, .. }
            | CacheStatusHeader::Fallback { age, .. } => Some(age),
            _ => None,
        }
    }

    fn status(self) -> HeaderValue {
        let fixed = match self {
            CacheStatusHeader::Hit { ttl, .. } => return numbered("fastrac-gateway; hit; ttl=", ttl),
            CacheStatusHeader::Fetched { reason, stored: true } => match reason {
                ForwardReason::Miss => "fastrac-gateway; fwd=uri-miss; stored",
                ForwardReason::Stale => "fastrac-gateway; fwd=stale; stored",
                ForwardReason::Request => "fastrac-gateway; fwd=request; stored",
            },
            CacheStatusHeader::Fetched { reason, stored: false } => match reason {
                ForwardReason::Miss => "fastrac-gateway; fwd=uri-miss",
                ForwardReason::Stale => "fastrac-gateway; fwd=stale",
                ForwardReason::Request => "fastrac-gateway; fwd=request",
            },
            CacheStatusHeader::Joined { reason } => match reason {
                ForwardReason::Miss => "fastrac-gateway; fwd=uri-miss; collapsed",
                ForwardReason::Stale => "fastrac-gateway; fwd=stale; collapsed",
                ForwardReason::Request => "fastrac-gateway; fwd=request; collapsed",
            },
            CacheStatusHeader::StaleHit { since, .. } => return numbered("fastrac-gateway; hit; ttl=-", since),
            CacheStatusHeader::Fallback { status: Some(status), joined: false, .. } => {
                return numbered("fastrac-gateway; fwd=stale; fwd-status=", status.into());
            }
            CacheStatusHeader::Fallback { status: Some(status), joined: true, .. } => {
                return numbered("fastrac-gateway; fwd=stale; collapsed; fwd-status=", status.into());
            }
            CacheStatusHeader::Fallback { status: None, joined: false, .. } => "fastrac-gateway; fwd=stale",
            CacheStatusHeader::Fallback { status: None, joined: true, .. } => "fastrac-gateway; fwd=stale; collapsed",
            CacheStatusHeader::Bypass => "fastrac-gateway; fwd=bypass",
            CacheStatusHeader::NotAsked { code } => {
                return text(format!("fastrac-gateway; detail=\"{}\"", code.as_str()));
            }
        };
        HeaderValue::from_static(fixed)
    }
}

/// What is added to the headers of a reply.
pub(crate) struct GatewayHeaders<'a> {
    pub(crate) request_id: &'a RequestId,
    /// Whether Fastrac may have received the request that the reply speaks of.
    pub(crate) sent: Sent,
    /// Absent if the service is not known.
    pub(crate) limits: Option<RateLimitHeaders>,
    /// The connection is closed after the response.
    pub(crate) close: bool,
}

/// The rate limits of a service; each header is absent if there is no limit.
pub(crate) struct RateLimitHeaders {
    /// `RateLimit-Policy`.
    pub(crate) policy: Option<HeaderValue>,
    /// `RateLimit`.
    pub(crate) limit: Option<HeaderValue>,
}

impl RateLimitHeaders {
    /// Adds the window of the account's budget that has refused the request, and its limit; it has none while Fastrac
    /// pauses an account without one.
    pub(crate) fn with_account(self, window: LimitWindow, limit: Option<u64>, retry_after: Option<Duration>) -> Self {
        let wait = whole_seconds(retry_after.unwrap_or_default());
        let policy = limit.and_then(|limit| window.append_policy(self.policy.as_ref(), limit));
        RateLimitHeaders { policy: policy.or(self.policy), limit: window.append_used_up(self.limit.as_ref(), wait) }
    }
}

impl Reply {
    /// A response of Fastrac that is passed on. A streamed one keeps its place in flight (`spent`) until its end.
    pub(crate) fn of_answer(answer: Answer, outcome: Outcome, spent: Option<Spent>) -> Self {
        let throttled = outcome == Outcome::Throttled;
        Reply {
            status: answer.status,
            headers: answer.headers,
            body: match answer.body {
                AnswerBody::Whole(body) => ReplyBody::Whole(body),
                AnswerBody::Long(stream) => ReplyBody::Stream(Box::new(stream.holding(spent))),
            },
            outcome,
            code: throttled.then_some(Code::UpstreamLimit),
            first_sent: None,
            first_request: None,
            retry_after: None,
            cached: None,
            stored_from: None,
            receipt: None,
        }
    }

    /// A copy of a stored or shared response.
    pub(crate) fn of_entry(entry: &CacheEntry, cached: CacheStatusHeader) -> Self {
        let body = ReplyBody::Whole(entry.body());
        Reply { cached: Some(cached), ..Reply::whole(entry.status(), entry.headers(ADDED), body, entry.outcome()) }
    }

    /// The response to the first request with an `Idempotency-Key`, again.
    pub(crate) fn of_first(answer: &StoredAnswer) -> Self {
        let body = ReplyBody::Whole(answer.body.clone());
        let (first_sent, first_request) = (Some(answer.first_sent()), Some(text(answer.request_id.clone())));
        let code = Code::of(answer.outcome);
        let reply = Reply::whole(answer.status, answer.headers.clone(), body, answer.outcome);
        Reply { first_sent, first_request, code, ..reply }
    }

    fn whole(status: StatusCode, headers: HeaderMap, body: ReplyBody, outcome: Outcome) -> Self {
        Reply {
            status,
            headers,
            body,
            outcome,
            code: None,
            first_sent: None,
            first_request: None,
            retry_after: None,
            cached: None,
            stored_from: None,
            receipt: None,
        }
    }

    /// The window of the account's budget that has refused the request.
    pub(crate) fn budget_window(&self) -> Option<LimitWindow> {
        match self.code {
            Some(Code::BudgetSecond) => Some(LimitWindow::Second),
            Some(Code::BudgetDay) => Some(LimitWindow::Day),
            _ => None,
        }
    }

    /// Whether it is a stored response, or one like it, that the caller has already.
    pub(crate) fn is_known_to(&self, condition: &IfNoneMatch) -> bool {
        let is_good = matches!(self.outcome, Outcome::Ok | Outcome::Hit | Outcome::Stale | Outcome::NotFound);
        let is_cached = self.cached.is_some() && matches!(self.body, ReplyBody::Whole(_));
        is_cached && is_good && self.status.is_success() && condition.has(&self.headers)
    }

    /// Says that the caller has the response already, instead of giving it (RFC 9110, section 15.4.5).
    pub(crate) fn not_modified(&mut self) {
        self.status = StatusCode::NOT_MODIFIED;
        self.body = ReplyBody::Whole(Bytes::new());
        for name in DESCRIBE_BODY {
            self.headers.remove(name);
        }
    }

    /// Leaves out the body, in response to HEAD (RFC 9110, section 9.3.2): hyper would send it over HTTP/2.
    pub(crate) fn leave_out_body(&mut self) {
        if let ReplyBody::Whole(body) = std::mem::replace(&mut self.body, ReplyBody::Whole(Bytes::new()))
            && !body.is_empty()
        {
            self.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
    }

    /// Has an HTTP/2 connection remember no header value (RFC 7541, section 7.1.3): each would keep the buffer that it is a
    /// part of, which may be as long as a response, until the connection ends.
    pub(crate) fn keep_out_of_tables(&mut self) {
        self.headers.values_mut().for_each(|value| value.set_sensitive(true));
    }

    /// Adds the gateway's headers.
    pub(crate) fn stamp(&mut self, added: GatewayHeaders<'_>) {
        let GatewayHeaders { request_id, sent, limits, close } = added;
        let headers = &mut self.headers;
        headers.reserve(ADDED);
        headers.entry(header::DATE).or_insert_with(date::now);
        headers.insert(RequestId::HEADER, request_id.header());
        headers.insert(OUTCOME, HeaderValue::from_static(self.outcome.as_str()));
        headers.insert(SENT, HeaderValue::from_static(sent.as_str()));
        if let Some(cached) = self.cached {
            headers.insert(CACHE_STATUS, cached.status());
            if let Some(age) = cached.age() {
                headers.insert(header::AGE, HeaderValue::from(age));
            }
        }
        if let Some(first) = self.first_request.take() {
            headers.insert(REPLAYED, HeaderValue::from_static("true"));
            headers.insert(FIRST_REQUEST, first);
        }
        if let Some(RateLimitHeaders { policy, limit }) = limits {
            if let Some(policy) = policy {
                headers.insert(RATE_LIMIT_POLICY, policy);
            }
            if let Some(limit) = limit {
                headers.insert(RATE_LIMIT, limit);
            }
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait).as_secs()));
        }
        if let Some(status) = proxy_status(self.outcome, self.code) {
            headers.insert(PROXY_STATUS, status);
        }
        if close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
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

/// The same with a number at its end. Without `std::fmt`: it takes 400 instructions, of which a hit has 45,000.
fn numbered(words: &str, number: u64) -> HeaderValue {
    text([words, itoa::Buffer::new().format(number)].concat())
}

/// A header value made of words of the closed lists, or a request id: all are valid in headers.
fn text(value: String) -> HeaderValue {
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("fastrac-gateway"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::reaches_caller;

    #[test]
    fn says_what_became_of_the_request() {
        let body = ReplyBody::Whole(Bytes::new());
        let mut reply = Reply {
            code: Some(Code::QuotaDay),
            retry_after: Some(Duration::from_millis(1200)),
            cached: Some(CacheStatusHeader::Hit { ttl: 7, age: 3 }),
            first_request: Some(HeaderValue::from_static("id-of-first")),
            ..Reply::whole(StatusCode::OK, HeaderMap::new(), body, Outcome::OverQuota)
        };
        let request_id = "id-12345".parse().unwrap();
        let policy = HeaderValue::from_static("\"day\";q=9;w=86400");
        let limits =
            RateLimitHeaders { policy: Some(policy), limit: Some(HeaderValue::from_static("\"day\";r=8;t=7")) };
        reply.stamp(GatewayHeaders { request_id: &request_id, sent: Sent::No, limits: Some(limits), close: true });
        let shown = |name: &str| reply.headers[name].to_str().unwrap();
        assert_eq!(shown("x-request-id"), "id-12345");
        assert_eq!(shown("x-gateway-outcome"), "over_quota");
        assert_eq!(shown("x-gateway-sent"), "no");
        assert_eq!(shown("cache-status"), "fastrac-gateway; hit; ttl=7");
        assert_eq!(shown("age"), "3");
        assert_eq!(shown("retry-after"), "2");
        assert_eq!(shown("proxy-status"), "fastrac-gateway; error=http_request_denied; details=\"quota.day\"");
        assert_eq!(shown("connection"), "close");
        assert_eq!((shown("idempotent-replayed"), shown("x-gateway-first-request")), ("true", "id-of-first"));
        // Only these two may also be Fastrac's own.
        let passed_on: Vec<_> = reply.headers.keys().filter(|name| reaches_caller(name.as_str())).collect();
        assert_eq!(passed_on, [header::DATE, header::RETRY_AFTER]);
    }

    #[test]
    fn the_date_is_fastracs_or_the_present_one() {
        let date = |headers: HeaderMap| {
            let mut reply = Reply::whole(StatusCode::OK, headers, ReplyBody::Whole(Bytes::new()), Outcome::Ok);
            let request_id = "id-12345".parse().unwrap();
            reply.stamp(GatewayHeaders { request_id: &request_id, sent: Sent::Yes, limits: None, close: false });
            assert_eq!(reply.headers.get_all(header::DATE).iter().count(), 1);
            reply.headers[header::DATE].to_str().unwrap().to_owned()
        };
        let old = HeaderValue::from_static("Mon, 01 Jan 2001 00:00:00 GMT");
        assert_eq!(date(HeaderMap::from_iter([(header::DATE, old)])), "Mon, 01 Jan 2001 00:00:00 GMT");
        assert_ne!(date(HeaderMap::new()), "Mon, 01 Jan 2001 00:00:00 GMT");
    }
}
