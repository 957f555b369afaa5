//! Rewrites requests on their way to Fastrac, and response heads on their way back (contract, section 4).
//!
//! Requests lose the headers that `Connection` names and all that `headers` removes; only afterwards is the key pair added
//! (`upstream/inject`), so no caller can have an injected header dropped by naming it. Responses lose the same kinds, and
//! `Location` leads to the gateway or is removed. Path, query and body are passed on byte for byte. It must not know keys.
//! Pure; cannot fail.

use std::fmt;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri,
    header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_TYPE, LOCATION},
    uri::PathAndQuery,
};

use super::{Answer, location};
use crate::{
    body::BufferedRequest,
    catalog::Operation,
    config::Endpoint,
    headers::{Nominated, reaches_caller, reaches_fastrac},
};

/// Capacity of an outgoing request's header map. hyper reuses the map for the response, to which the gateway adds its
/// headers: it should not have to grow for that.
const HEADER_CAPACITY: usize = 24;

/// A request without its caller's credentials, ready for the account's key pair.
pub struct Rewritten {
    pub(super) method: Method,
    pub(super) target: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl fmt::Debug for Rewritten {
    /// Shows neither target nor values nor body: they may hold the caller's data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (headers, bytes) = (self.headers.len(), self.body.len());
        write!(f, "Rewritten({}, {headers} headers, {bytes} bytes)", self.method)
    }
}

#[cfg(any(test, fuzzing))]
impl Rewritten {
    /// For tests; otherwise only `inject` takes a request apart.
    pub fn seen(&self) -> (&Method, &Uri, &HeaderMap, &Bytes) {
        (&self.method, &self.target, &self.headers, &self.body)
    }
}

/// Re-addresses a request and removes what must not reach Fastrac.
pub fn request(request: &BufferedRequest, operation: &Operation, endpoint: &Endpoint) -> Rewritten {
    let mut headers = HeaderMap::with_capacity(HEADER_CAPACITY.max(request.headers.len() + 4));
    let nominated = Nominated::of(&request.headers);
    let passes = |name: &HeaderName| reaches_fastrac(name.as_str()) && !nominated.contains(name.as_str());
    if operation.cache.is_some() {
        // Nothing that could vary the response, unless the operation declares it.
        for name in operation.vary.iter().filter(|name| passes(name)) {
            for value in request.headers.get_all(name) {
                headers.append(name, value.clone());
            }
        }
        if !request.body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
    } else {
        let mut last: Option<&HeaderName> = None;
        for (name, value) in &request.headers {
            let same = last == Some(name);
            if same || passes(name) {
                headers.append(name, value.clone());
                last = Some(name);
            }
        }
    }
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if request.body.is_empty() && matches!(request.method, Method::POST | Method::PUT | Method::PATCH) {
        // RFC 9110, section 8.6: on methods whose requests usually have a body. hyper leaves it out; some servers answer 411
        // then.
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    let method = operation.method_sent(&request.method).clone();
    Rewritten { method, target: target(request, endpoint), headers, body: request.body.clone() }
}

fn target(request: &BufferedRequest, endpoint: &Endpoint) -> Uri {
    let own = request.target.clone();
    let target = if endpoint.prefix.is_empty() {
        own
    } else {
        // Both parts have been parsed, so their concatenation parses.
        PathAndQuery::from_maybe_shared(Bytes::from(format!("{}{own}", endpoint.prefix))).unwrap_or(own)
    };
    Uri::from(target)
}

/// Removes from the head of a response what is not passed on to the caller, whose request had this target.
pub fn answer(answer: &mut Answer, endpoint: &Endpoint, target: &PathAndQuery) {
    clean(&mut answer.headers, endpoint, target);
    if let Some(length) = answer.described_length {
        answer.headers.insert(CONTENT_LENGTH, length.into());
    }
}

fn clean(headers: &mut HeaderMap, endpoint: &Endpoint, target: &PathAndQuery) {
    let nominated = Nominated::of(headers);
    let stays = |name: &str| reaches_caller(name) && !nominated.contains(name);
    let removed: Vec<HeaderName> = headers.keys().filter(|name| !stays(name.as_str())).cloned().collect();
    for name in removed {
        headers.remove(name);
    }
    for name in [LOCATION, CONTENT_LOCATION] {
        if headers.contains_key(&name) {
            let one = (headers.get_all(&name).iter().count() == 1).then(|| headers.remove(&name)).flatten();
            headers.remove(&name);
            if let Some(value) = one.and_then(|value| location::to_gateway(&value, endpoint, target)) {
                headers.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{
        AuthStyle, CachePolicy, Class,
        file::{TextValue, VaryHeader},
    };

    fn endpoint(prefix: &str) -> Endpoint {
        Endpoint {
            tls: true,
            host: "b2b.example".into(),
            port: 443,
            authority: "b2b.example".into(),
            prefix: prefix.into(),
            auth: AuthStyle::Both,
        }
    }

    fn operation(cached: bool) -> Operation {
        let hour = Duration::from_secs(3600);
        Operation {
            index: 0,
            name: "x".into(),
            label: "x".into(),
            path: String::new(),
            class: Class::Lookup,
            api: None,
            cache: cached.then_some(CachePolicy {
                fresh: hour,
                stale_if_error: hour,
                refresh_ahead: 1.0,
                not_found: hour,
            }),
            timeout: hour,
            cost: 1,
            urgent: false,
            vary: vec![],
        }
    }

    fn asked(target: &'static str, headers: &[(&'static str, &'static str)]) -> BufferedRequest {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        BufferedRequest {
            method: Method::GET,
            target: PathAndQuery::from_static(target),
            headers: map,
            body: Bytes::from_static(b"{}"),
        }
    }

    #[test]
    fn headers_of_the_caller_are_removed() {
        let headers = [
            ("authorization", "Basic c2VjcmV0"),
            ("Access-Key", "a"),
            ("secret_key", "b"),
            ("x_secret_key", "b"),
            ("cookie", "c"),
            ("x-forwarded-for", "1.2.3.4"),
            ("X_Forwarded_Host", "h"),
            ("traceparent", "t"),
            ("x-b3-traceid", "t"),
            ("x-gateway-timeout", "5"),
            ("idempotency-key", "k"),
            ("te", "trailers"),
            ("connection", "close, X-Private"),
            ("x-private", "p"),
            ("transfer-encoding", "chunked"),
            ("host", "evil"),
        ];
        let sent = request(&asked("/order/track", &headers), &operation(false), &endpoint(""));
        assert_eq!(sent.headers.len(), 1, "{:?}", sent.headers);
        assert_eq!(sent.headers[ACCEPT_ENCODING], "identity");
    }

    #[test]
    fn other_characters_do_not_hide_a_credential() {
        let headers = ["secret.key", "access!key", "x*secret~key", "proxy+authorization", "transfer.encoding"];
        let sent = request(&asked("/order/track", &headers.map(|name| (name, "a"))), &operation(false), &endpoint(""));
        assert_eq!(sent.headers.len(), 1, "{:?}", sent.headers);
    }

    #[test]
    fn the_rest_is_passed_on_unchanged() {
        let headers = [
            ("content-type", "application/json"),
            ("method", "x"),
            ("x-custom", "1"),
            ("x-custom", "2"),
            ("accept", "*/*"),
        ];
        let sent = request(&asked("/a%20b?b=2&a=%31&&x", &headers), &operation(false), &endpoint("/v2"));
        assert_eq!(sent.target.to_string(), "/v2/a%20b?b=2&a=%31&&x");
        assert_eq!(sent.headers.get_all("x-custom").iter().count(), 2);
        assert_eq!(sent.headers["method"], "x");
        assert_eq!(sent.body, "{}");
    }

    #[test]
    fn a_cached_request_has_no_header_that_could_vary_its_response() {
        let headers = [("content-type", "text/plain"), ("accept-language", "id"), ("accept", "text/html")];
        let sent = request(&asked("/region/search", &headers), &operation(true), &endpoint(""));
        assert_eq!(sent.headers.len(), 2);
        assert_eq!(sent.headers[CONTENT_TYPE], "application/json");
    }

    #[test]
    fn responses_lose_what_must_not_reach_the_caller() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("set-cookie", "s"),
            ("secret-key", "k"),
            ("x-gateway-sent", "yes"),
            ("x-request-id", "theirs"),
            ("content-type", "application/json"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        clean(&mut headers, &endpoint(""), &PathAndQuery::from_static("/"));
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["content-type"]);
    }

    #[test]
    fn a_location_leads_to_the_gateway_and_there_is_only_one() {
        for name in [LOCATION, CONTENT_LOCATION] {
            let mut headers = HeaderMap::new();
            headers.append(&name, HeaderValue::from_static("https://b2b.example/v2/x"));
            clean(&mut headers, &endpoint("/v2"), &PathAndQuery::from_static("/"));
            assert_eq!(headers[&name], "/x");
            headers.append(&name, HeaderValue::from_static("/v2/y"));
            clean(&mut headers, &endpoint("/v2"), &PathAndQuery::from_static("/"));
            assert!(headers.is_empty(), "{headers:?}");
        }
    }

    proptest! {
        /// Names near those that are removed, and any others.
        #[test]
        fn a_header_accepted_for_vary_is_passed_on(
            name in "(x[-_])?(forwarded|b3|envoy|gateway|http2?|method|access|secret|content|cache|accept|te|via|host|[a-z0-9_-]{1,9})([-_](for|method|settings|override|key|type|control|encoding|id))?([-_](override|x))?"
        ) {
            let Ok(VaryHeader(name)) = VaryHeader::parse(&name) else { return Ok(()) };
            let mut asked = asked("/region/search", &[]);
            let name = HeaderName::try_from(name).unwrap();
            asked.headers.insert(&name, HeaderValue::from_static("sent"));
            let operation = Operation { vary: vec![name.clone()], ..operation(true) };
            let sent = request(&asked, &operation, &endpoint(""));
            prop_assert_eq!(sent.headers.get_all(&name).iter().collect::<Vec<_>>(), ["sent"], "{}", name);
        }
    }
}
