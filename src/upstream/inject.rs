//! Adds the account's key pair to a request whose headers have been cleaned.
//!
//! [`inject`] takes a [`Rewritten`], so no header of the caller can be confused with an injected one, and it is the only
//! place that makes a [`Keyed`]. Types that hold the pair cannot be printed. It must not know the caller. Cannot fail.

use std::sync::Arc;

use http::{
    HeaderName, HeaderValue, Request, Version,
    header::{AUTHORIZATION, HOST},
};
use http_body_util::Full;

use super::{connect::Destination, rewrite::Rewritten};
use crate::{
    config::{AuthStyle, Endpoint},
    keys::Lease,
};
use bytes::Bytes;

const ACCESS_KEY: HeaderName = HeaderName::from_static("access-key");
const SECRET_KEY: HeaderName = HeaderName::from_static("secret-key");

/// A request with a key pair, bound to the destination that the pair is for.
pub struct Keyed {
    pub(super) destination: Arc<Destination>,
    pub(super) request: Request<Full<Bytes>>,
    pub(super) lease: Lease,
}

/// Adds the pair of a lease to a request, in the endpoint's auth style.
pub fn inject(rewritten: Rewritten, lease: Lease, route: &Route) -> Keyed {
    let Rewritten { method, target, mut headers, body } = rewritten;
    headers.insert(HOST, route.host.clone());
    if matches!(route.endpoint.auth, AuthStyle::Headers | AuthStyle::Both) {
        headers.insert(ACCESS_KEY, lease.access_key().clone());
        headers.insert(SECRET_KEY, lease.secret_key().clone());
    }
    if matches!(route.endpoint.auth, AuthStyle::Basic | AuthStyle::Both) {
        headers.insert(AUTHORIZATION, lease.basic().clone());
    }
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = target;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = headers;
    Keyed { destination: route.destination.clone(), request, lease }
}

/// An address of an account, resolved to what sending a request there needs.
#[derive(Clone, Debug)]
pub struct Route {
    pub endpoint: Endpoint,
    /// The endpoint as a URL, for cache keys.
    pub url: Arc<str>,
    /// Value of the `host` header.
    pub host: HeaderValue,
    pub destination: Arc<Destination>,
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method, uri::PathAndQuery};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        body::BufferedRequest,
        catalog::Operation,
        config::Class,
        keys::{AccountPairs, KeyPair, LoadedPair, ReadAt, Secret, SourceId},
        record::Metrics,
        upstream::{connect::Dialer, rewrite},
    };

    /// Compiles only for a type that can't be printed.
    macro_rules! has_no_debug {
        ($($name:ty),*) => {
            trait Ambiguous<Which> { fn known() {} }
            impl<T: ?Sized> Ambiguous<()> for T {}
            impl<T: ?Sized + std::fmt::Debug> Ambiguous<u8> for T {}
            $(let () = <$name as Ambiguous<_>>::known();)*
        };
    }

    fn lease(access: &str, secret: &str) -> Lease {
        let pair = KeyPair::new(Secret::new(access.to_owned()), Secret::new(secret.to_owned())).unwrap();
        Lease::new(Arc::new(LoadedPair::new(pair, ReadAt::now(), SourceId::next(), AccountPairs::of("main"))))
    }

    fn route() -> Route {
        let (host, authority) = ("b2b.example".to_owned(), "b2b.example:1".to_owned());
        let endpoint = Endpoint { tls: false, host, port: 1, authority, prefix: String::new(), auth: AuthStyle::Both };
        let connections = Metrics::new().unwrap().upstream_connections("main");
        let destination = Arc::new(Destination::new(&endpoint, None, Dialer::default(), connections).unwrap());
        let (url, host) = (endpoint.to_string().into(), HeaderValue::from_static("b2b.example:1"));
        Route { endpoint, url, host, destination }
    }

    fn operation() -> Operation {
        Operation {
            index: 0,
            name: "x".into(),
            label: "x".into(),
            path: String::new(),
            class: Class::Quote,
            api: None,
            cache: None,
            timeout: std::time::Duration::from_secs(1),
            cost: 1,
            urgent: false,
            vary: vec![],
        }
    }

    /// A caller's request with the caller's secret in each place that could hold one.
    fn asked(secret: &str) -> BufferedRequest {
        let mut headers = HeaderMap::new();
        for name in ["access-key", "secret-key", "authorization", "x-secret-key"] {
            headers.insert(name, HeaderValue::from_str(secret).unwrap());
        }
        let target = PathAndQuery::try_from(format!("/tariff?secret_key={secret}")).unwrap();
        BufferedRequest { method: Method::POST, target, headers, body: Bytes::from(secret.to_owned()) }
    }

    #[test]
    fn types_that_hold_the_pair_cannot_be_printed() {
        has_no_debug!(Keyed, LoadedPair, crate::keys::LeakScan, crate::path::PreparedAttempt, crate::keys::Vault);
    }

    proptest! {
        #[test]
        fn no_debug_output_shows_a_key(
            access in "canary-[!-9;-~]{8,60}",
            secret in "canary/[!-~]{8,60}",
            callers in "fgw_[A-Za-z0-9_-]{43}",
        ) {
            use base64::{Engine as _, engine::general_purpose::STANDARD};
            let (asked, lease, route) = (asked(&callers), lease(&access, &secret), route());
            let rewritten = rewrite::request(&asked, &operation(), &route.endpoint);
            let mut shown = format!("{asked:?} {asked:#?} {rewritten:?} {rewritten:#?} {lease:?} {lease:#?} {route:#?}");
            let keyed = inject(rewritten, lease, &route);
            prop_assert_eq!(keyed.request.headers()[SECRET_KEY].as_bytes(), secret.as_bytes());
            // The target is the caller's and unchanged; the caller's headers are removed.
            let (head, headers) = (keyed.request.headers(), format!("{:#?}", keyed.request.headers()));
            prop_assert!([ACCESS_KEY, SECRET_KEY, AUTHORIZATION].iter().all(|name| head[name].is_sensitive()));
            shown.push_str(&format!("{head:?} {headers}"));
            let basic = STANDARD.encode(format!("{access}:{secret}"));
            // As it is, and as it would be quoted.
            for hidden in [access, secret, callers, basic] {
                let quoted = format!("{hidden:?}");
                let quoted = quoted.trim_matches('"').to_owned();
                prop_assert!(![hidden, quoted].iter().any(|hidden| shown.contains(hidden.as_str())), "{shown}");
            }
        }
    }
}
