//! Where a `Location` or `Content-Location` of Fastrac's leads: to the gateway, or it is not passed on.
//!
//! What leads to the account's own address, below its prefix, becomes a path on the gateway; a client that follows
//! anything else would send its secret there. All spellings of an address that RFC 3986 (section 6.2) calls equivalent
//! count as that address. User information is an error in a reference from elsewhere (RFC 9110, section 4.2.4). Text
//! that URL parsers don't agree about (backslashes, spaces, control characters) leads nowhere. Pure; cannot fail.

use std::net::IpAddr;

use http::{HeaderValue, uri::PathAndQuery};
use percent_encoding::percent_decode_str;

use crate::config::Endpoint;

/// The reference relative to the gateway; `None` if it leads anywhere else. `target` is the request's, as the caller
/// sent it.
pub(super) fn to_gateway(value: &HeaderValue, endpoint: &Endpoint, target: &PathAndQuery) -> Option<HeaderValue> {
    let text = std::str::from_utf8(value.as_bytes()).ok()?;
    if text.is_empty() || text.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return None;
    }
    let (before, after) = text.split_at(text.find(['?', '#']).unwrap_or(text.len()));
    if before.contains('\\') {
        return None;
    }
    let path = match reference(before, endpoint)? {
        Reference::SamePath => return Some(value.clone()),
        // No dot segment: it is the same relative to the gateway.
        Reference::Relative(path) if !path.split('/').any(is_dot_segment) => return Some(value.clone()),
        Reference::Relative(path) => {
            let base = target.path();
            let folder = &base[..=base.rfind('/')?];
            without_dot_segments(&format!("{}{folder}{path}", endpoint.prefix))
        }
        Reference::Absolute(path) => without_dot_segments(path),
    };
    let rest = below_prefix(&path, &endpoint.prefix)?;
    HeaderValue::from_str(&format!("{rest}{after}")).ok()
}

/// A reference to the account's own address (RFC 3986 section 4.2), without query and fragment.
enum Reference<'t> {
    /// Empty: only query or fragment.
    SamePath,
    /// Relative to the path of the request.
    Relative(&'t str),
    /// Empty, or begins with a slash.
    Absolute(&'t str),
}

/// What `text` refers to; `None`: another address.
fn reference<'t>(text: &'t str, endpoint: &Endpoint) -> Option<Reference<'t>> {
    if text.is_empty() {
        return Some(Reference::SamePath);
    }
    let scheme = if endpoint.tls { "https" } else { "http" };
    let first = text.split('/').next().unwrap_or_default();
    let rest = match first.split_once(':') {
        Some((named, _)) if named.eq_ignore_ascii_case(scheme) => &text[named.len() + 1..],
        Some(_) => return None,
        None => text,
    };
    match rest.strip_prefix("//") {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            is_own(authority, endpoint).then_some(Reference::Absolute(path))
        }
        // `https:path` is an absolute URL for some parsers and a relative one for others.
        None if rest.len() < text.len() => None,
        None if rest.starts_with('/') => Some(Reference::Absolute(rest)),
        None => Some(Reference::Relative(rest)),
    }
}

/// Whether an authority without user information is the endpoint's.
fn is_own(authority: &str, endpoint: &Endpoint) -> bool {
    // The colons of an IPv6 address are in brackets.
    let end_of_host = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    let (host, port) = match authority[end_of_host..].find(':') {
        Some(colon) => (&authority[..end_of_host + colon], &authority[end_of_host + colon + 1..]),
        None => (authority, ""),
    };
    let port = match port {
        "" => Some(if endpoint.tls { 443 } else { 80 }),
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok(),
        _ => None,
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let Ok(host) = percent_decode_str(host).decode_utf8() else { return false };
    port == Some(endpoint.port) && same_host(&host, &endpoint.host)
}

fn same_host(a: &str, b: &str) -> bool {
    let without_root = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    match (a.parse::<IpAddr>(), b.parse::<IpAddr>()) {
        (Ok(a), Ok(b)) => a == b,
        _ => without_root(a) == without_root(b),
    }
}

/// The path on the gateway; `None` if the path is outside the prefix, or what remains would be an address.
fn below_prefix(path: &str, prefix: &str) -> Option<String> {
    let mut rest = path;
    // A prefix has no character that must be encoded, but any character may be.
    for segment in prefix.split('/').skip(1) {
        let (found, after) = next_segment(rest)?;
        if percent_decode_str(found).ne(segment.bytes()) {
            return None;
        }
        rest = after;
    }
    let rest = if rest.is_empty() { "/" } else { rest };
    let begins_like_an_address = next_segment(rest).is_some_and(|(first, after)| {
        let first = first.to_ascii_lowercase();
        first.starts_with("%2f") || first.starts_with("%5c") || (first.is_empty() && !after.is_empty())
    });
    (!begins_like_an_address).then(|| rest.to_owned())
}

/// The first segment of an absolute path, and the rest.
fn next_segment(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix('/')?;
    Some(path.split_at(path.find('/').unwrap_or(path.len())))
}

/// An absolute path after its dot segments have been removed (RFC 3986 section 5.2.4).
fn without_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match dots(segment) {
            0 => kept.push(segment),
            up => {
                if up == 2 {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
        }
    }
    if path.is_empty() { String::new() } else { format!("/{}", kept.join("/")) }
}

fn is_dot_segment(segment: &str) -> bool {
    dots(segment) > 0
}

/// 1 for `.`, 2 for `..`, however they are encoded, else 0.
fn dots(segment: &str) -> usize {
    match segment.to_ascii_lowercase().replace("%2e", ".").as_str() {
        "." => 1,
        ".." => 2,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::AuthStyle;

    fn endpoint(url: &str) -> Endpoint {
        use crate::config::file::{BaseUrl, TextValue as _};
        let url = BaseUrl::parse(url).unwrap();
        Endpoint {
            tls: url.tls,
            authority: url.authority(),
            host: url.host,
            port: url.port,
            prefix: url.prefix,
            auth: AuthStyle::Both,
        }
    }

    fn led(text: &str, base_url: &str) -> Option<String> {
        let target = PathAndQuery::from_static("/region/city?a=1");
        let led = to_gateway(&HeaderValue::from_bytes(text.as_bytes()).ok()?, &endpoint(base_url), &target)?;
        Some(String::from_utf8(led.as_bytes().to_vec()).unwrap())
    }

    const PLAIN: &str = "https://b2b.example";
    const PREFIXED: &str = "https://b2b.example/api/v2";

    #[test]
    fn every_spelling_of_the_own_address_leads_to_the_gateway() {
        for authority in [
            "https://b2b.example",
            "HTTPS://B2B.Example",
            "//b2b.example",
            "https://b2b.example:443",
            "https://b2b.example:",
            "https://b2b.example:00443",
            "https://b2b.example.",
            "https://b%32b%2Eexample",
            "//%42%32%62.example:443",
            "",
        ] {
            for (path, expected) in [
                ("/region/city?a=1#x", "/region/city?a=1#x"),
                ("/", "/"),
                ("/a/../b", "/b"),
                ("/a/%2E/b/.", "/a/b/"),
                ("/../../b", "/b"),
                ("/a//b", "/a//b"),
                ("/a?b=//c/../\\d", "/a?b=//c/../\\d"),
                ("/kota-é", "/kota-é"),
                ("/%41%2f", "/%41%2f"),
            ] {
                let text = format!("{authority}{path}");
                assert_eq!(led(&text, PLAIN).as_deref(), Some(expected), "{text}");
                if path.contains("../..") {
                    continue;
                }
                for prefix in ["/api/v2", "/%61pi/v%32", "/x/../api/./v2"] {
                    let text = format!("{authority}{prefix}{path}");
                    assert_eq!(led(&text, PREFIXED).as_deref(), Some(expected), "{text}");
                }
            }
        }
        assert_eq!(led("https://b2b.example?a", PLAIN).as_deref(), Some("/?a"));
        assert_eq!(led("https://b2b.example/api/v2?a", PREFIXED).as_deref(), Some("/?a"));
        assert_eq!(led("http://127.0.0.1:8090/x", "http://127.0.0.1:8090").as_deref(), Some("/x"));
        assert_eq!(led("//127.0.0.1/x", "http://127.0.0.1").as_deref(), Some("/x"));
        assert_eq!(led("https://[0:0::1]:8443/x", "https://[::1]:8443").as_deref(), Some("/x"));
    }

    #[test]
    fn what_is_relative_to_the_request_stays_so() {
        for text in ["x", "x/y?y=http://z", "?a=1", "#x", "x//y"] {
            assert_eq!(led(text, PREFIXED).as_deref(), Some(text), "{text}");
        }
        for (text, expected) in [("../x", "/x"), ("./x", "/region/x"), ("..", "/"), ("%2e%2e/x?y", "/x?y")] {
            assert_eq!(led(text, PREFIXED).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(led("../../x", PREFIXED), None, "outside the prefix");
        assert_eq!(led("../../x", PLAIN).as_deref(), Some("/x"));
    }

    #[test]
    fn everything_else_leads_nowhere() {
        for text in [
            "",
            "https://evil.example/",
            "//evil.example/x",
            "///evil.example",
            "https:///b2b.example/x",
            "http://b2b.example/x",
            "http://b2b.example:443/x",
            "https://b2b.example:444/x",
            "https://b2b.example:99999999/x",
            "https://b2b.example:443x/x",
            "https://user@b2b.example/x",
            "https://b2b.example@evil.example/x",
            "https://b2b.example:443@evil.example/x",
            "https://b2b.example%40evil.example/x",
            "https://b2b.example%2f.evil.example/x",
            "https://b2b.example.evil.example/x",
            "https://[b2b.example/x",
            "https:/b2b.example/x",
            "https:b2b.example/x",
            "https:x",
            "javascript:alert(1)",
            "mailto:a@b2b.example",
            "/\\evil.example",
            "\\\\evil.example",
            "https:\\\\b2b.example\\x",
            "/ /evil",
            "/\t/evil.example",
            "/.//evil.example",
            "/a/..//evil.example",
            "/%2f/evil.example",
            "/%5Cevil.example",
            "https://b2b.example//evil.example",
        ] {
            assert_eq!(led(text, PLAIN), None, "{text}");
        }
        for text in [
            "https://b2b.example/",
            "https://b2b.example/api/v2x",
            "https://b2b.example/API/v2/x",
            "https://b2b.example/api/v2//evil.example",
            "/api/v2/../x",
            "/api/v2/%2e%2e/x",
            "/api%2fv2/x",
            "/x",
            "/",
        ] {
            assert_eq!(led(text, PREFIXED), None, "{text}");
        }
    }

    proptest! {
        /// No text that is passed on could be an address for any parser of URLs (RFC 3986, or the WHATWG's).
        #[test]
        fn nothing_that_is_passed_on_is_another_address(
            text in "(https?:|HTTPS:|//|/|\\\\)?(//)?(b2b\\.example|evil\\.example|[a-z]{1,2})?([/\\\\.:@?#%25eEfF\\[\\] xé-]{0,12})(/api/v2)?[/\\\\.:%2efax?]{0,10}",
            prefixed in any::<bool>(),
        ) {
            let Some(led) = led(&text, if prefixed { PREFIXED } else { PLAIN }) else { return Ok(()) };
            let first = led.split(['/', '?', '#']).next().unwrap();
            prop_assert!(!led.starts_with("//") && !led.starts_with("/\\") && !led.starts_with('\\'), "{text} → {led}");
            prop_assert!(!first.contains(':') && !led.contains([' ', '\t']), "{text} → {led}");
            let path = led.split(['?', '#']).next().unwrap();
            prop_assert!(!path.split('/').any(is_dot_segment) && !path.contains('\\'), "{text} → {led}");
        }

        /// Whatever the path is, it is passed on byte for byte, and it does not matter how the address is written.
        #[test]
        fn a_path_on_the_own_address_is_passed_on_unchanged(
            path in "(/[a-zA-Z0-9_~!$&'()*+,;=:@-]([a-zA-Z0-9._~!$&'()*+,;=:@-]|%[0-9A-F]{2}){0,6}){1,4}(\\?[a-z0-9=&/?]{0,8})?",
            address in prop::sample::select(vec!["https://b2b.example", "//B2B.EXAMPLE:443", "Https://b2b.example.:", ""]),
        ) {
            prop_assert_eq!(led(&format!("{address}{path}"), PLAIN), Some(path.clone()));
            prop_assert_eq!(led(&format!("{address}/api/v2{path}"), PREFIXED), Some(path.clone()));
        }
    }
}
