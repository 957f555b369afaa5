//! Puts the account's key pair into a request that has been cleaned before.

use std::sync::Arc;

use http::{
    HeaderName, HeaderValue, Request, Version,
    header::{AUTHORIZATION, HOST},
};
use http_body_util::Full;

use super::{dial::Destination, rewrite::Rewritten};
use crate::{
    config::{AuthStyle, Endpoint},
    keys::Lease,
};
use bytes::Bytes;

const ACCESS_KEY: HeaderName = HeaderName::from_static("access-key");
const SECRET_KEY: HeaderName = HeaderName::from_static("secret-key");

/// A signed request, bound to where it may go. Only [`inject`] makes one.
pub struct Keyed {
    pub(super) destination: Arc<Destination>,
    pub(super) request: Request<Full<Bytes>>,
    pub(super) lease: Lease,
}

/// Signs a request with the pair of a lease, in the style of its endpoint.
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

/// One of an account's addresses, with all that asking there needs.
#[derive(Clone, Debug)]
pub struct Route {
    /// The address as configured.
    pub endpoint: Endpoint,
    /// The `host` header.
    pub host: HeaderValue,
    /// Where connections go.
    pub destination: Arc<Destination>,
}
