//! Headers that are never passed on, in either direction (contract section 4): the only list.
//!
//! `check` and the rewriting both decide with these functions, so a header that a configuration may name is one that
//! is passed on. Names are given in lower case, as `http::HeaderName` holds them, and compared with every character
//! that is neither a letter nor a digit treated as `-`: CGI and many servers make no difference between `secret_key`,
//! `secret.key` and `secret-key`. What the values mean, and which headers are set afterwards, is the business of
//! `upstream/rewrite` and `upstream/inject`. Pure; no name makes it fail.

use http::{HeaderMap, header::CONNECTION};

/// Families of request headers that stop at the gateway: what proxies, meshes and tracers add, and the gateway's own.
/// `x-forwarded` has no hyphen at its end, so that the header of this very name is included.
const REQUEST_FAMILIES: [&str; 6] = ["x-forwarded", "x-b3-", "x-envoy-", "x-amzn-", "x-datadog-", "x-gateway-"];

/// Whether a caller's header may be sent to Fastrac.
pub fn reaches_fastrac(name: &str) -> bool {
    with_hyphens(name, |name| {
        let removed = is_hop_by_hop(name)
            || is_credential(name)
            || matches!(
                name,
                // framing and target, both made anew
                "content-length" | "host"
                // negotiated by the gateway itself
                | "accept-encoding" | "expect"
                // about the caller and the proxies before the gateway
                | "cookie" | "forwarded" | "via" | "x-real-ip"
                // would change the meaning of the request
                | "x-original-url" | "x-rewrite-url"
                | "x-http-method-override" | "x-http-method" | "x-method-override"
                // tracing, and the gateway's own
                | "x-request-id" | "traceparent" | "tracestate" | "baggage" | "b3" | "idempotency-key"
            )
            || name.starts_with("x-") && REQUEST_FAMILIES.iter().any(|family| name.starts_with(family));
        !removed
    })
}

/// Whether a header of Fastrac's response may be sent to the caller.
pub fn reaches_caller(name: &str) -> bool {
    with_hyphens(name, |name| {
        let removed = is_hop_by_hop(name)
            || is_credential(name)
            || matches!(
                name,
                // framing, made anew on each leg
                "content-length"
                | "set-cookie" | "set-cookie2" | "alt-svc" | "x-request-id"
                // about this hop, of which only the gateway knows
                | "cache-status" | "proxy-status" | "idempotent-replayed" | "age"
            );
        // Fastrac's limits are the account's, whichever draft of the fields it uses.
        !removed && !name.starts_with("x-gateway-") && !name.starts_with("ratelimit")
    })
}

/// Whether a cached operation may declare that its response varies by this request header: it reaches Fastrac, and
/// the gateway neither sets it (`content-type`) nor acts on it (`cache-control`) on a cached operation. Conditions and
/// ranges are not about the whole response, which is stored.
pub fn may_vary(name: &str) -> bool {
    with_hyphens(name, |name| {
        let is_of_gateway = matches!(name, "content-type" | "cache-control" | "pragma" | "range");
        reaches_fastrac(name) && !is_of_gateway && !name.starts_with("if-")
    })
}

/// Headers of one connection (RFC 9110, section 7.6.1).
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "alt-used"
            | "proxy-authentication-info"
    )
}

/// Headers that carry keys, the caller's or Fastrac's, or that ask for them.
fn is_credential(name: &str) -> bool {
    matches!(
        name,
        "authorization"
            | "access-key"
            | "secret-key"
            | "x-access-key"
            | "x-secret-key"
            | "proxy-authorization"
            | "proxy-authenticate"
    )
}

/// Applies a test to the name with hyphens; copies it only if it has other characters.
fn with_hyphens(name: &str, test: impl Fn(&str) -> bool) -> bool {
    if name.bytes().any(|byte| READ_AS_HYPHEN[usize::from(byte)]) {
        test(&name.replace(|c: char| !c.is_ascii_alphanumeric(), "-"))
    } else {
        test(name)
    }
}

/// By byte: whether it is neither a letter nor a digit nor a hyphen. A table, because every name is tested byte by byte.
const READ_AS_HYPHEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = byte != b'-' as usize && !(byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    table
};

/// The headers that `Connection` names: hop-by-hop as well (RFC 9110, section 7.6.1).
pub struct Nominated<'h>(Vec<&'h str>);

impl<'h> Nominated<'h> {
    pub fn of(headers: &'h HeaderMap) -> Self {
        let values = headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        // An item that is not a name must not hide the others.
        let names = values.filter_map(|name| std::str::from_utf8(name.trim_ascii()).ok());
        // `keep-alive`, in most responses, is removed anyway.
        Nominated(names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("keep-alive")).collect())
    }

    pub fn contains(&self, name: &str) -> bool {
        let fold = |byte: u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
        self.0.iter().any(|nominated| nominated.bytes().map(fold).eq(name.bytes().map(fold)))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// "On the way to Fastrac" of the contract, in its words and order; the hop-by-hop headers are those of RFC 9110,
    /// section 7.6.1, and RFC 9113, section 8.2.2. `*` matches any ending.
    const REMOVED_ON_THE_WAY_TO_FASTRAC: &str = "connection keep-alive proxy-connection te trailer transfer-encoding \
        upgrade http2-settings alt-used proxy-authentication-info content-length host authorization access-key secret-key x-access-key x-secret-key proxy-authorization \
        cookie forwarded x-forwarded-* x-real-ip via expect x-original-url x-rewrite-url x-http-method-override \
        x-request-id traceparent tracestate baggage b3 x-b3-* x-envoy-* x-amzn-* x-datadog-* idempotency-key \
        x-gateway-* accept-encoding";

    /// "On the way back" of the contract.
    const REMOVED_ON_THE_WAY_BACK: &str = "connection keep-alive proxy-connection te trailer transfer-encoding upgrade \
        http2-settings alt-used proxy-authentication-info content-length set-cookie authorization access-key secret-key x-access-key x-secret-key x-request-id x-gateway-* \
        cache-status proxy-status ratelimit ratelimit-* idempotent-replayed age";

    fn spellings(names: &str) -> impl Iterator<Item = String> {
        let names = names.split_whitespace().flat_map(|name| match name.strip_suffix('*') {
            Some(family) => vec![format!("{family}x"), format!("{family}for-y")],
            None => vec![name.to_owned()],
        });
        names.flat_map(|name| ["-", "_", ".", "~"].map(|mark| name.replace('-', mark)))
    }

    #[test]
    fn what_the_contract_removes_is_removed_in_every_spelling() {
        for name in spellings(REMOVED_ON_THE_WAY_TO_FASTRAC) {
            assert!(!reaches_fastrac(&name) && !may_vary(&name), "{name}");
        }
        for name in spellings(REMOVED_ON_THE_WAY_BACK) {
            assert!(!reaches_caller(&name), "{name}");
        }
    }

    #[test]
    fn the_rest_passes() {
        for name in ["accept", "accept-language", "user-agent", "x-custom", "method", "x_custom", "x-b3"] {
            assert!(reaches_fastrac(name) && may_vary(name), "{name}");
        }
        for name in ["if-none-match", "If_Modified-Since", "range", "pragma"] {
            let name = name.to_ascii_lowercase();
            assert!(reaches_fastrac(&name) && !may_vary(&name), "{name}");
        }
        assert!(reaches_fastrac("content-type") && !may_vary("content-type") && !may_vary("cache_control"));
        for name in ["content-type", "etag", "retry-after", "location", "x-custom", "date", "server"] {
            assert!(reaches_caller(name), "{name}");
        }
    }

    #[test]
    fn a_nominated_header_is_meant_in_every_spelling() {
        for nominated in ["x-a-b", "x_a_b", "X_A-b", "x.a.b"] {
            let headers = HeaderMap::from_iter([(CONNECTION, HeaderValue::from_static(nominated))]);
            for name in ["x-a-b", "x_a_b", "x-a_b", "x.a~b"] {
                assert!(Nominated::of(&headers).contains(name), "{nominated} {name}");
            }
            assert!(!Nominated::of(&headers).contains("x-a-c") && !Nominated::of(&headers).contains("x-ab"));
        }
    }

    #[test]
    fn a_byte_that_is_not_text_hides_no_nominated_header() {
        let mut headers = HeaderMap::new();
        headers.append(CONNECTION, HeaderValue::from_bytes(b"x-private, \xff").unwrap());
        headers.append(CONNECTION, HeaderValue::from_static(", X-Other ,"));
        let nominated = Nominated::of(&headers);
        assert!(nominated.contains("x-private") && nominated.contains("x-other") && !nominated.contains(""));
    }
}
