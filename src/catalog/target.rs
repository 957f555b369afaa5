//! Is this head one plain request to this server? Pure.
//!
//! Two servers must never read one head in two ways: what is ambiguous is refused before anything
//! is spent on it.

use http::{
    HeaderMap, Method, Version,
    header::{HOST, UPGRADE},
    request::Parts,
    uri::{Authority, PathAndQuery},
};

/// Why a head is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misaddressed {
    /// CONNECT, or a change of protocol.
    #[error("CONNECT and Upgrade are not served: send an ordinary request")]
    Upgrade,
    /// Not exactly one `Host`.
    #[error("the request needs exactly one Host header with a host name in it")]
    Host,
    /// The target names another host than `Host`.
    #[error("the request's target and its Host header name two hosts")]
    TwoHosts,
    /// No path.
    #[error("the request's target must be a path")]
    NoPath,
}

/// The target in origin form.
///
/// # Errors
/// [`Misaddressed`] for what another server might read otherwise.
pub fn target(head: &Parts) -> Result<PathAndQuery, Misaddressed> {
    if head.method == Method::CONNECT || upgrades(&head.headers) {
        return Err(Misaddressed::Upgrade);
    }
    let named = host(head)?;
    if let Some(authority) = head.uri.authority() {
        let scheme = head.uri.scheme_str().unwrap_or_default();
        if !matches!(scheme, "http" | "https") || authority.as_str().contains('@') {
            return Err(Misaddressed::NoPath);
        }
        if named.is_some_and(|named| !named.as_str().eq_ignore_ascii_case(authority.as_str())) {
            return Err(Misaddressed::TwoHosts);
        }
    }
    match head.uri.path_and_query() {
        Some(target) if head.uri.scheme().is_some() && target.as_str().is_empty() => Ok(PathAndQuery::from_static("/")),
        Some(target) => Ok(target.clone()),
        None => Err(Misaddressed::NoPath),
    }
}

/// `Upgrade: h2c` alone is passed over, as RFC 9110 (section 7.8) allows: some clients always offer
/// it on cleartext and go on with HTTP/1.1.
fn upgrades(headers: &HeaderMap) -> bool {
    let mut offers = headers.get_all(UPGRADE).iter();
    offers.any(|offer| !offer.as_bytes().trim_ascii().eq_ignore_ascii_case(b"h2c"))
}

fn host(head: &Parts) -> Result<Option<Authority>, Misaddressed> {
    let mut hosts = head.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => Err(Misaddressed::Host),
        (None, _) if head.version == Version::HTTP_11 => Err(Misaddressed::Host),
        (None, _) => Ok(None),
        (Some(host), None) => {
            let host = Authority::try_from(host.as_bytes()).map_err(|_| Misaddressed::Host)?;
            if host.as_str().contains('@') { Err(Misaddressed::Host) } else { Ok(Some(host)) }
        }
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
        assert_eq!(of("POST", "/a", &[GOOD, ("upgrade", "h2c")]), Ok("/a".into()));
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
}
