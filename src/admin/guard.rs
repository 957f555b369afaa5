//! Access control of the admin port.
//!
//! Health and metrics are open to everyone who reaches the port. For every other path, existing or not,
//! the checks are, in this order: the `Host` must name this server (421; this stops DNS rebinding); a
//! token must be configured (403); the request must carry it (401). From the eleventh wrong token within a
//! minute on, wrong tokens of the same peer get 429. A correct token never meets the throttle: only
//! requests with a wrong one are passed to it. The rules are read from the configuration in force at each
//! request.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{AUTHORIZATION, HOST, RETRY_AFTER, WWW_AUTHENTICATE},
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use governor::{clock::QuantaInstant, middleware::NoOpMiddleware};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tower::{Layer as _, ServiceExt as _, service_fn, util::BoxCloneSyncService};
use tower_governor::{
    GovernorError, GovernorLayer,
    governor::{GovernorConfig, GovernorConfigBuilder},
    key_extractor::KeyExtractor,
};

use super::{AdminState, error::AdminError};
use crate::config;

/// Health: open, and with capacity of its own.
const HEALTH: [&str; 2] = ["/livez", "/readyz"];
/// Open like health.
const METRICS: &str = "/metrics";
/// The console page: empty until a person enters the token.
const CONSOLE: &str = "/";

/// Wrong tokens of one peer that get 401 before the first 429.
const WRONG_TOKEN_BURST: u32 = 10;
/// After how long one more wrong token gets 401 instead of 429.
const WRONG_TOKEN_PERIOD: Duration = Duration::from_secs(6);
/// Number of peers in the throttle above which those with a full burst are removed.
const MAX_PEERS: usize = 1024;

/// Middleware: passes an allowed request on and answers any other.
pub(super) async fn check(State(state): State<Arc<AdminState>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if is_health(path) || path == METRICS {
        return next.run(request).await;
    }
    let access = authorize(&state.admin.gateway.in_force.load().config.admin, state.admin.address.ip(), &request);
    match access {
        Ok(()) => next.run(request).await,
        Err(Denied::WrongToken) => state.throttle.answer(request).await,
        Err(Denied::Error(error)) => error.into_response(),
    }
}

/// Whether this is a health check.
pub(super) fn is_health(path: &str) -> bool {
    HEALTH.contains(&path)
}

enum Denied {
    WrongToken,
    Error(AdminError),
}

fn authorize(rules: &config::AdminConfig, bound: IpAddr, request: &Request) -> Result<(), Denied> {
    if !names_this_server(request, &rules.hosts) {
        let message = "this Host is not an IP address, not localhost and not in admin.hosts";
        return Err(Denied::Error(AdminError::new(StatusCode::MISDIRECTED_REQUEST, "host.unknown", message)));
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match rules.token_sha256 {
        None if !bound.to_canonical().is_loopback() => Err(Denied::Error(no_token_configured(
            "on an address other than loopback, only health and metrics are served while admin.token_sha256 is not set",
        ))),
        None if !reads => Err(Denied::Error(no_token_configured(
            "nothing can be changed here while admin.token_sha256 is not set; `fastrac-gateway admin issue` makes a token",
        ))),
        None => Ok(()),
        Some(_) if reads && request.uri().path() == CONSOLE => Ok(()),
        Some(digest) => match bearer_token(request.headers()) {
            BearerToken::None => {
                let message = "send the admin token: `Authorization: Bearer TOKEN`";
                Err(Denied::Error(unauthorized("token.missing", message)))
            }
            BearerToken::Token(token) if bool::from(Sha256::digest(token)[..].ct_eq(&digest[..])) => Ok(()),
            BearerToken::Token(_) | BearerToken::Unreadable => Err(Denied::WrongToken),
        },
    }
}

fn no_token_configured(message: &'static str) -> AdminError {
    AdminError::new(StatusCode::FORBIDDEN, "token.unset", message)
}

fn unauthorized(code: &'static str, message: &'static str) -> AdminError {
    let challenge = HeaderValue::from_static("Bearer realm=\"fastrac-gateway admin\"");
    AdminError::new(StatusCode::UNAUTHORIZED, code, message).header(WWW_AUTHENTICATE, challenge)
}

/// Whether the request names a host, and every host that it names is this server.
fn names_this_server(request: &Request, hosts: &[String]) -> bool {
    let named = request.headers().get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let mut named = named.chain(request.uri().authority().map(Authority::as_str)).peekable();
    named.peek().is_some() && named.all(|authority| is_allowed_host(authority, hosts))
}

fn is_allowed_host(authority: &str, hosts: &[String]) -> bool {
    if authority.contains('@') {
        return false;
    }
    let Ok(authority) = authority.parse::<Authority>() else { return false };
    let host = authority.host();
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    host.parse::<Ipv4Addr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
}

enum BearerToken<'a> {
    None,
    Token(&'a [u8]),
    /// Another scheme, or more than one.
    Unreadable,
}

fn bearer_token(headers: &HeaderMap) -> BearerToken<'_> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return BearerToken::None };
    let token = value.as_bytes().split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    match (token, values.next()) {
        (Some((_, token)), None) => BearerToken::Token(token.trim_ascii()),
        _ => BearerToken::Unreadable,
    }
}

/// Answers requests with a wrong token: 401, or 429 for a peer that has sent many.
pub(super) struct TokenThrottle {
    config: Arc<GovernorConfig<PeerKey, NoOpMiddleware<QuantaInstant>>>,
    service: BoxCloneSyncService<Request, Response, Infallible>,
}

impl Default for TokenThrottle {
    #[expect(clippy::expect_used, reason = "two constants, at start-up")]
    fn default() -> Self {
        let config = GovernorConfigBuilder::default()
            .period(WRONG_TOKEN_PERIOD)
            .burst_size(WRONG_TOKEN_BURST)
            .key_extractor(PeerKey)
            .finish()
            .expect("period and burst are above zero");
        let config = Arc::new(config);
        let wrong = |_| async { Ok(unauthorized("token.wrong", "this is not the admin token").into_response()) };
        let throttled = GovernorLayer::new(config.clone()).error_handler(too_many).layer(service_fn(wrong));
        Self { config, service: BoxCloneSyncService::new(throttled) }
    }
}

impl TokenThrottle {
    async fn answer(&self, request: Request) -> Response {
        // The limiter never removes a key by itself.
        if self.config.limiter().len() > MAX_PEERS {
            self.config.limiter().retain_recent();
            self.config.limiter().shrink_to_fit();
        }
        match self.service.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

fn too_many(error: GovernorError) -> Response {
    // The layer rounds the wait down.
    let wait = if let GovernorError::TooManyRequests { wait_time, .. } = error { wait_time + 1 } else { 1 };
    AdminError::new(StatusCode::TOO_MANY_REQUESTS, "token.guesses", "too many wrong tokens from this address")
        .header(RETRY_AFTER, wait.into())
        .into_response()
}

/// The key of the throttle: an IPv4 address, or the /64 prefix of an IPv6 address.
#[derive(Clone, Copy, Debug)]
struct PeerKey;

impl KeyExtractor for PeerKey {
    type Key = IpAddr;

    fn extract<T>(&self, request: &axum::http::Request<T>) -> Result<IpAddr, GovernorError> {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        Ok(match peer.map(|peer| peer.0.ip().to_canonical()) {
            Some(IpAddr::V6(address)) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
            Some(address) => address,
            None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        })
    }
}
