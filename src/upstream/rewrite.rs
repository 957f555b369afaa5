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

use super::Answer;
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
    if operation.cache.is_some() {
        // Nothing that could vary the response, unless the operation declares it.
        for name in operation.vary.iter().filter(|name| reaches_fastrac(name.as_str())) {
            for value in request.headers.get_all(name) {
                headers.append(name, value.clone());
            }
        }
        if !request.body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
    } else {
        let nominated = Nominated::of(&request.headers);
        let mut last: Option<&HeaderName> = None;
        for (name, value) in &request.headers {
            let same = last == Some(name);
            if same || (reaches_fastrac(name.as_str()) && !nominated.contains(name.as_str())) {
                headers.append(name, value.clone());
                last = Some(name);
            }
        }
    }
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if request.body.is_empty() && announces_empty_body(request) {
        // hyper leaves the field out where there is no body; some servers answer 411 then.
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    let method =
        if operation.cache.is_some() && request.method == Method::HEAD { Method::GET } else { request.method.clone() };
    Rewritten { method, target: target(request, endpoint), headers, body: request.body.clone() }
}

/// `Content-Length: 0` on a method whose requests usually have a body (RFC 9110, section 8.6).
fn announces_empty_body(request: &BufferedRequest) -> bool {
    matches!(request.method, Method::POST | Method::PUT | Method::PATCH) && request.headers.contains_key(CONTENT_LENGTH)
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

/// Removes from the head of a response what is not passed on to the caller.
pub fn answer(answer: &mut Answer, endpoint: &Endpoint) {
    let length = if answer.describes_body { answer.headers.remove(CONTENT_LENGTH) } else { None };
    clean(&mut answer.headers, endpoint);
    if let Some(length) = length.filter(|length| length.as_bytes().iter().all(u8::is_ascii_digit)) {
        answer.headers.insert(CONTENT_LENGTH, length);
    }
}

fn clean(headers: &mut HeaderMap, endpoint: &Endpoint) {
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
            if let Some(value) = one.and_then(|value| location(&value, endpoint)) {
                headers.insert(name, value);
            }
        }
    }
}

/// The address relative to the gateway; `None` if it leads anywhere else, because clients would send their secret there.
fn location(value: &HeaderValue, endpoint: &Endpoint) -> Option<HeaderValue> {
    let text = value.to_str().ok()?;
    // URL parsers drop some characters and turn others into a slash, which could turn a path into another address.
    if text.is_empty() || text.bytes().any(|b| !b.is_ascii_graphic() || b == b'\\') {
        return None;
    }
    let path = if text.starts_with('/') {
        text
    } else if text.starts_with(['?', '#']) {
        return Some(value.clone());
    } else if text.split(['/', '?', '#']).next().is_some_and(|first| first.contains(':')) {
        own_path(text, endpoint)?
    } else if text.split(['?', '#']).next().is_some_and(|path| path.split('/').any(is_dot_segment)) {
        return None;
    } else {
        return Some(value.clone());
    };
    let rest = path.strip_prefix(endpoint.prefix.as_str())?;
    let rest = if rest.is_empty() || rest.starts_with(['?', '#']) { format!("/{rest}") } else { rest.to_owned() };
    let plain = rest.split(['?', '#']).next().unwrap_or_default();
    if !rest.starts_with('/') || rest.starts_with("//") || plain.split('/').any(is_dot_segment) {
        return None;
    }
    HeaderValue::from_str(&rest).ok()
}

fn is_dot_segment(segment: &str) -> bool {
    let segment = segment.to_ascii_lowercase().replace("%2e", ".");
    segment == ".." || segment == "."
}

/// The path of an absolute URL on the account's own address.
fn own_path<'t>(text: &'t str, endpoint: &Endpoint) -> Option<&'t str> {
    let (scheme, rest) = text.split_once("://")?;
    let own_scheme = if endpoint.tls { "https" } else { "http" };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority: http::uri::Authority = authority.parse().ok()?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let port = authority.port_u16().unwrap_or(if endpoint.tls { 443 } else { 80 });
    let own = scheme.eq_ignore_ascii_case(own_scheme)
        && host.eq_ignore_ascii_case(&endpoint.host)
        && port == endpoint.port
        && !authority.as_str().contains('@');
    own.then_some(path)
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
        clean(&mut headers, &endpoint(""));
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["content-type"]);
    }

    #[test]
    fn redirects_stay_on_the_gateway() {
        let seen = |text: &'static str, prefix: &str| {
            let mut headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_static(text))]);
            clean(&mut headers, &endpoint(prefix));
            headers.get(LOCATION).map(|v| v.to_str().unwrap().to_owned())
        };
        assert_eq!(seen("https://b2b.example/region/city?a=1", ""), Some("/region/city?a=1".into()));
        assert_eq!(seen("https://B2B.example:443/v2/x", "/v2"), Some("/x".into()));
        assert_eq!(seen("https://b2b.example/v2", "/v2"), Some("/".into()));
        assert_eq!(seen("/v2/x", "/v2"), Some("/x".into()));
        assert_eq!(seen("x?y=http://z", ""), Some("x?y=http://z".into()));
        for gone in [
            "https://evil.example/",
            "http://b2b.example/x",
            "https://b2b.example:444/x",
            "https://user@b2b.example/x",
            "//evil.example/x",
            "/\\evil.example",
            "\\\\evil.example",
            "/ /evil",
            "javascript:alert(1)",
            "../x",
            "",
        ] {
            assert_eq!(seen(gone, ""), None, "{gone}");
        }
        for gone in ["https://b2b.example/v2x", "/other", "https://b2b.example/v2//evil", "/v2/../x", "/v2/%2e%2e/x"] {
            assert_eq!(seen(gone, "/v2"), None, "{gone}");
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
