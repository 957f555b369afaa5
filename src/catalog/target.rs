//! Validates a request's head and returns its target. Pure.
//!
//! A head that two servers could interpret differently is refused before anything is spent on it. Fails with
//! [`Misaddressed`].

use http::{
    HeaderMap, HeaderValue, Method, Version,
    header::{HOST, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
    uri::{Authority, PathAndQuery},
};

/// Why a head is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misaddressed {
    /// CONNECT, TRACE, or `Upgrade`.
    #[error("CONNECT, TRACE and Upgrade are not served: send an ordinary request")]
    Upgrade,
    /// A method in lower case, which another server might take for its upper-case form.
    #[error("the request's method must be in upper case: send it so")]
    Method,
    /// A transfer coding other than one `chunked`.
    #[error("Transfer-Encoding must be chunked and nothing else: send it so, or a Content-Length")]
    Framing,
    /// Not exactly one `Host`.
    #[error("the request needs exactly one Host header with a host name in it: send one")]
    Host,
    /// The target names another host than `Host`.
    #[error("the request's target and its Host header name different hosts: send a path, and one host")]
    TwoHosts,
    /// No path.
    #[error("the request's target must be a path: send one that begins with a slash")]
    NoPath,
}

/// The target in origin form.
///
/// # Errors
/// [`Misaddressed`] for a head that another server might interpret differently.
pub fn target(head: &Parts) -> Result<PathAndQuery, Misaddressed> {
    let fields = TargetFields::read(&head.headers);
    if !served(&head.method) || fields.upgrades {
        return Err(Misaddressed::Upgrade);
    }
    if head.method.as_str().bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(Misaddressed::Method);
    }
    if !fields.framed() {
        return Err(Misaddressed::Framing);
    }
    let named = host(head, &fields.hosts)?;
    if let Some(authority) = head.uri.authority() {
        let scheme = head.uri.scheme_str().unwrap_or_default();
        if !matches!(scheme, "http" | "https") || !names_one(authority) {
            return Err(Misaddressed::NoPath);
        }
        if named.is_some_and(|named| !named.eq_ignore_ascii_case(authority.as_str())) {
            return Err(Misaddressed::TwoHosts);
        }
    }
    match head.uri.path_and_query() {
        // `http` shows an empty path (`http://gw`, `http://gw#x`) as `/` but would write nothing.
        Some(target) if target.as_str() == "/" => Ok(PathAndQuery::from_static("/")),
        Some(target) => Ok(target.clone()),
        None => Err(Misaddressed::NoPath),
    }
}

/// TRACE would return the account's key pair to the caller.
fn served(method: &Method) -> bool {
    *method != Method::CONNECT && *method != Method::TRACE && method.as_str() != "TRACK"
}

/// The header fields that say what a request is for. One pass takes less than three look-ups.
#[derive(Default)]
struct TargetFields<'h> {
    /// The first two of each.
    hosts: [Option<&'h HeaderValue>; 2],
    codings: [Option<&'h HeaderValue>; 2],
    /// `Upgrade` offers something. `h2c` is ignored, as RFC 9110 section 7.8 allows: some clients always offer it on
    /// cleartext connections and continue with HTTP/1.1.
    upgrades: bool,
}

impl<'h> TargetFields<'h> {
    fn read(headers: &'h HeaderMap) -> Self {
        let mut fields = TargetFields::default();
        for (name, value) in headers {
            match name {
                name if *name == HOST => note(&mut fields.hosts, value),
                name if *name == TRANSFER_ENCODING => note(&mut fields.codings, value),
                name if *name == UPGRADE => fields.upgrades |= !is(value, b"h2c"),
                _ => {}
            }
        }
        fields
    }

    /// hyper requires only that the last coding is `chunked`. Other codings are not decoded here, so a body that has them
    /// must not be passed on.
    fn framed(&self) -> bool {
        match self.codings {
            [None, _] => true,
            [Some(coding), None] => is(coding, b"chunked"),
            [Some(_), Some(_)] => false,
        }
    }
}

fn note<'h>([first, second]: &mut [Option<&'h HeaderValue>; 2], value: &'h HeaderValue) {
    *if first.is_none() { first } else { second } = Some(value);
}

fn is(value: &HeaderValue, word: &[u8]) -> bool {
    value.as_bytes().trim_ascii().eq_ignore_ascii_case(word)
}

fn host<'h>(head: &Parts, hosts: &[Option<&'h HeaderValue>; 2]) -> Result<Option<&'h str>, Misaddressed> {
    match hosts {
        [_, Some(_)] => Err(Misaddressed::Host),
        [None, _] if head.version == Version::HTTP_11 => Err(Misaddressed::Host),
        // In HTTP/2, `:authority` takes the place of Host.
        [None, _] if head.version == Version::HTTP_2 && head.uri.authority().is_none() => Err(Misaddressed::Host),
        [None, _] => Ok(None),
        [Some(host), None] => {
            let host = host.to_str().map_err(|_| Misaddressed::Host)?;
            // Most hosts are plain names; only others need the full parser.
            let good = is_plain(host) || host.parse().is_ok_and(|host| names_one(&host));
            if good { Ok(Some(host)) } else { Err(Misaddressed::Host) }
        }
    }
}

/// Letters, digits, hyphens and dots, with an optional port.
fn is_plain(host: &str) -> bool {
    let (name, number) = host.split_once(':').unwrap_or((host, ""));
    let of_names = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    !name.is_empty() && name.bytes().all(of_names) && port(number)
}

fn port(number: &str) -> bool {
    number.bytes().all(|byte| byte.is_ascii_digit()) && (number.is_empty() || number.parse::<u16>().is_ok())
}

/// A name with an optional port; `Authority` itself accepts more.
fn names_one(host: &Authority) -> bool {
    let (name, text) = (host.host(), host.as_str());
    !name.is_empty()
        && match text.strip_prefix(name) {
            Some("") => true,
            Some(rest) => rest.strip_prefix(':').is_some_and(port),
            // There is something before the name: user and password.
            None => false,
        }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn of(method: &str, uri: &str, headers: &[(&str, &str)]) -> Result<String, Misaddressed> {
        let mut builder = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        target(&builder.body(()).unwrap().into_parts().0).map(|target| target.to_string())
    }

    const GOOD: (&str, &str) = ("host", "gw:8080");

    #[test]
    fn takes_origin_form_and_absolute_form_to_itself() {
        assert_eq!(of("GET", "/a?b=%31", &[GOOD]), Ok("/a?b=%31".into()));
        assert_eq!(of("GET", "http://GW:8080/a", &[GOOD]), Ok("/a".into()));
        assert_eq!(of("GET", "http://gw:8080?a=b", &[GOOD]), Ok("/?a=b".into()));
        assert_eq!(of("POST", "/a", &[GOOD, ("upgrade", "h2c")]), Ok("/a".into()));
    }

    #[test]
    fn an_empty_path_is_written_as_a_slash() {
        for uri in ["http://gw:8080", "http://gw:8080#x", "http://gw:8080/#x"] {
            let head = Request::builder().uri(uri).header("host", "gw:8080").body(()).unwrap().into_parts().0;
            assert_eq!(http::Uri::from(target(&head).unwrap()).to_string(), "/", "{uri}");
        }
    }

    #[test]
    fn refuses_what_is_ambiguous() {
        assert_eq!(of("GET", "http://other/a", &[GOOD]), Err(Misaddressed::TwoHosts));
        assert_eq!(of("GET", "http://gw:80/a", &[GOOD]), Err(Misaddressed::TwoHosts));
        assert_eq!(of("GET", "/a", &[]), Err(Misaddressed::Host));
        assert_eq!(of("GET", "/a", &[GOOD, GOOD]), Err(Misaddressed::Host));
        assert_eq!(of("GET", "/a", &[("host", "u@gw")]), Err(Misaddressed::Host));
        assert_eq!(of("GET", "/a", &[("host", "")]), Err(Misaddressed::Host));
        assert_eq!(of("GET", "/a", &[("host", "a b")]), Err(Misaddressed::Host));
        assert_eq!(of("CONNECT", "gw:8080", &[GOOD]), Err(Misaddressed::Upgrade));
        assert_eq!(of("GET", "/a", &[GOOD, ("upgrade", "websocket")]), Err(Misaddressed::Upgrade));
        assert_eq!(of("GET", "ftp://gw:8080/a", &[GOOD]), Err(Misaddressed::NoPath));
    }

    #[test]
    fn a_host_is_a_name_and_perhaps_a_port() {
        for good in ["gw", "gw:", "gw:0", "gw:65535", "[::1]", "[::1]:80", "a-b.c_d"] {
            assert_eq!(of("GET", "/a", &[("host", good)]), Ok("/a".into()), "{good}");
        }
        for bad in ["gw:http", "gw:65536", "gw:-1", "gw:+80", ":80", ":", "[::1]x", "u:p@gw"] {
            assert_eq!(of("GET", "/a", &[("host", bad)]), Err(Misaddressed::Host), "{bad}");
        }
    }

    #[test]
    fn a_method_in_lower_case_is_no_other_method() {
        for method in ["get", "Post", "POSt"] {
            assert_eq!(of(method, "/a", &[GOOD]), Err(Misaddressed::Method), "{method}");
        }
        assert_eq!(of("M-SEARCH", "/a", &[GOOD]), Ok("/a".into()));
    }

    #[test]
    fn trace_would_bring_the_key_back() {
        for method in ["TRACE", "TRACK"] {
            assert_eq!(of(method, "/a", &[GOOD]), Err(Misaddressed::Upgrade), "{method}");
        }
    }

    #[test]
    fn a_body_is_chunked_and_nothing_else() {
        for good in ["chunked", "Chunked"] {
            assert_eq!(of("POST", "/a", &[GOOD, ("transfer-encoding", good)]), Ok("/a".into()), "{good}");
        }
        for bad in ["gzip, chunked", "chunked, chunked", ", chunked", "cow"] {
            assert_eq!(of("POST", "/a", &[GOOD, ("transfer-encoding", bad)]), Err(Misaddressed::Framing), "{bad}");
        }
        let twice = [GOOD, ("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")];
        assert_eq!(of("POST", "/a", &twice), Err(Misaddressed::Framing));
    }
}
