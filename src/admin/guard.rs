//! Who may ask for what.
//!
//! Health and metrics are for everybody who reaches the port. Everything else, also what does not
//! exist, is asked in this order: does the `Host` belong here (421: a page of another site, whose
//! name was pointed at this address, gets no further); is there a token at all (403); is it the right
//! one (401, or 429 after many wrong ones). A right token never meets the limiter, which is a service
//! of its own that only wrong tokens are handed to. The rules are read from the configuration in
//! force at each request.

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

use super::{Desk, answer::Fault};
use crate::config;

/// Pages without any rule.
const OPEN: [&str; 3] = ["/livez", "/readyz", "/metrics"];
/// The empty page, which asks for the token itself.
const CONSOLE: &str = "/";

/// Wrong tokens that one peer may try at once, and how long it waits for one more.
const GUESSES: u32 = 10;
const GUESS_EVERY: Duration = Duration::from_secs(6);
/// Peers remembered before those that have waited long enough are forgotten.
const PEERS: usize = 1024;

/// Lets a request through, or says why not.
pub(super) async fn check(State(desk): State<Arc<Desk>>, request: Request, next: Next) -> Response {
    if OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let judged = judge(&desk.admin.gateway.in_force.load().config.admin, desk.admin.address.ip(), &request);
    match judged {
        Ok(()) => next.run(request).await,
        Err(Refused::Guess) => desk.guesses.wrong(request).await,
        Err(Refused::Fault(fault)) => fault.into_response(),
    }
}

enum Refused {
    /// A wrong token.
    Guess,
    /// Anything else.
    Fault(Fault),
}

fn judge(rules: &config::Admin, bound: IpAddr, request: &Request) -> Result<(), Refused> {
    if !belongs(request, &rules.hosts) {
        let message = "this Host is no IP address, not localhost and not in admin.hosts";
        return Err(Refused::Fault(Fault::new(StatusCode::MISDIRECTED_REQUEST, "host.unknown", message)));
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match rules.token_sha256 {
        None if !bound.to_canonical().is_loopback() => Err(Refused::Fault(unset(
            "on an address other than loopback, only health and metrics are served while admin.token_sha256 is not set",
        ))),
        None if !reads => Err(Refused::Fault(unset(
            "nothing can be changed here while admin.token_sha256 is not set; `fastrac-gateway admin issue` makes a token",
        ))),
        None => Ok(()),
        Some(_) if reads && request.uri().path() == CONSOLE => Ok(()),
        Some(digest) => match offered(request.headers()) {
            Offered::None => {
                let message = "send the admin token: `Authorization: Bearer TOKEN`";
                Err(Refused::Fault(unauthorized("token.missing", message)))
            }
            Offered::Token(token) if bool::from(Sha256::digest(token)[..].ct_eq(&digest[..])) => Ok(()),
            Offered::Token(_) | Offered::Unreadable => Err(Refused::Guess),
        },
    }
}

fn unset(message: &'static str) -> Fault {
    Fault::new(StatusCode::FORBIDDEN, "token.unset", message)
}

fn unauthorized(code: &'static str, message: &'static str) -> Fault {
    let challenge = HeaderValue::from_static("Bearer realm=\"fastrac-gateway admin\"");
    Fault::new(StatusCode::UNAUTHORIZED, code, message).header(WWW_AUTHENTICATE, challenge)
}

/// Every name that the request gives to this server must be one that it answers to; one at least.
fn belongs(request: &Request, hosts: &[String]) -> bool {
    let named = request.headers().get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let mut named = named.chain(request.uri().authority().map(Authority::as_str)).peekable();
    named.peek().is_some() && named.all(|authority| is_ours(authority, hosts))
}

fn is_ours(authority: &str, hosts: &[String]) -> bool {
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

enum Offered<'a> {
    None,
    Token(&'a [u8]),
    /// Another scheme, or more than one.
    Unreadable,
}

fn offered(headers: &HeaderMap) -> Offered<'_> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Offered::None };
    let token = value.as_bytes().split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    match (token, values.next()) {
        (Some((_, token)), None) => Offered::Token(token.trim_ascii()),
        _ => Offered::Unreadable,
    }
}

/// Answers wrong tokens, and slows whoever has sent many.
pub(super) struct Guesses {
    rules: Arc<GovernorConfig<Peer, NoOpMiddleware<QuantaInstant>>>,
    answer: BoxCloneSyncService<Request, Response, Infallible>,
}

impl Default for Guesses {
    #[expect(clippy::expect_used, reason = "at the start, of two constants")]
    fn default() -> Self {
        let rules = GovernorConfigBuilder::default()
            .period(GUESS_EVERY)
            .burst_size(GUESSES)
            .key_extractor(Peer)
            .finish()
            .expect("neither is zero");
        let rules = Arc::new(rules);
        let wrong = |_| async { Ok(unauthorized("token.wrong", "this is not the admin token").into_response()) };
        let slowed = GovernorLayer::new(rules.clone()).error_handler(too_many).layer(service_fn(wrong));
        Self { rules, answer: BoxCloneSyncService::new(slowed) }
    }
}

impl Guesses {
    async fn wrong(&self, request: Request) -> Response {
        // The limiter never forgets by itself.
        if self.rules.limiter().len() > PEERS {
            self.rules.limiter().retain_recent();
            self.rules.limiter().shrink_to_fit();
        }
        match self.answer.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

fn too_many(error: GovernorError) -> Response {
    // The layer rounds down.
    let wait = if let GovernorError::TooManyRequests { wait_time, .. } = error { wait_time + 1 } else { 1 };
    Fault::new(StatusCode::TOO_MANY_REQUESTS, "token.guesses", "too many wrong tokens from this address")
        .header(RETRY_AFTER, wait.into())
        .into_response()
}

/// Whom wrong tokens are charged to: an IPv4 address, or the half of an IPv6 address that one site has.
#[derive(Clone, Copy, Debug)]
struct Peer;

impl KeyExtractor for Peer {
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
