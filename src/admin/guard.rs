//! Access control of the admin port.
//!
//! Health and metrics are open to everyone who reaches the port. For every other path, existing or not,
//! the checks are, in this order: the `Host` must name this server (421; this stops DNS rebinding); a
//! token must be configured (403); the request must carry one of them (401), whose role allows the method (403).
//! From the eleventh wrong token within a minute on, wrong tokens of the same peer get 429. A correct token never
//! meets the throttle: only requests with a wrong one are passed to it. The rules are read from the configuration
//! in force at each request. Every request that is checked is counted (a page whose client leaves before it comes may not be), and those that change something or have a
//! wrong token are a line of the audit log; a request of an allowed client runs in a task of its own, so that both
//! happen even if the client leaves. A stop waits for these tasks as long as the drain lasts; what it then cuts off, or a
//! panic, is recorded too, with a result that is `unknown`.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Bytes,
    extract::{ConnectInfo, FromRequest as _, Request, State},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{AUTHORIZATION, HOST, RETRY_AFTER, WWW_AUTHENTICATE},
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tower::{Layer as _, ServiceExt as _, service_fn, util::BoxCloneSyncService};
use tower_governor::GovernorError;

use super::{
    AdminState,
    audit::{AuditLine, AuditSubject},
    error::{AdminError, unreadable},
};
use crate::{
    config::{self, AdminRole},
    peer::{PeerAddress, PeerLimit},
};

/// Health: open, and with capacity of its own.
const HEALTH: [&str; 2] = ["/livez", "/readyz"];
/// Open like health.
const METRICS: &str = "/metrics";
/// The console page: empty until a person enters the token.
const CONSOLE: &str = "/";

/// Wrong tokens of one peer that get 401 before the first 429.
const WRONG_TOKEN_BURST: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// After how long one more wrong token gets 401 instead of 429.
const WRONG_TOKEN_PERIOD: Duration = Duration::from_secs(6);

/// The pages and commands, and their names in metrics and audit log.
pub(super) const ACTIONS: [(&str, &str); 15] = [
    ("/", "console"),
    ("/status", "status"),
    ("/config", "config"),
    ("/reload", "reload"),
    ("/cache/purge", "cache_purge"),
    ("/cache/warm", "cache_warm"),
    ("/keys/rotate", "keys_rotate"),
    ("/keys/verify", "keys_verify"),
    ("/keys/revoke", "keys_revoke"),
    ("/quota", "quota"),
    ("/quota/count", "quota_count"),
    ("/orders", "orders"),
    ("/orders/{id}", "orders_show"),
    ("/orders/settle", "orders_settle"),
    ("/state/backup", "state_backup"),
];
/// Name of every other path.
const OTHER_ACTION: &str = "other";

/// Name of the token that a request has: an extension of each request of its holder.
#[derive(Clone)]
pub(super) struct TokenName(pub(super) String);

/// Middleware: passes an allowed request on, answers any other, and records both.
pub(super) async fn check(State(state): State<Arc<AdminState>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if is_health(path) || path == METRICS {
        return next.run(request).await;
    }
    let access = authorize(&state.admin.gateway.in_force.load().config.admin, state.admin.address.ip(), &request);
    let wrong_token = matches!(access, Access::WrongToken | Access::WrongRole { .. });
    let mut entry = AuditEntry {
        state: state.clone(),
        action: action(path),
        audited: wrong_token || !reads(&request),
        wrong_token,
        peer: request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip().to_canonical()),
        token: None,
        subject: AuditSubject::default(),
        progress: CommandProgress::Received,
    };
    let response = match access {
        Access::Open => next.run(request).await,
        Access::Granted(token) => {
            entry.token = Some(token.clone());
            let drain = &state.admin.drain;
            match drain.cut.run_until_cancelled(whole(request)).await {
                Some(Ok(mut request)) => {
                    request.extensions_mut().insert(TokenName(token));
                    request.extensions_mut().insert(entry.subject.clone());
                    entry.progress = CommandProgress::Begun;
                    let run = drain.admin_tasks.spawn(async move {
                        let response = next.run(request).await;
                        entry.record(response.status());
                        response
                    });
                    let Some(done) = drain.cut.run_until_cancelled(run).await else { return cut_off().into_response() };
                    return done.unwrap_or_else(|_| AdminError::internal().into_response());
                }
                Some(Err(error)) => error.into_response(),
                None => cut_off().into_response(),
            }
        }
        Access::WrongToken => state.throttle.answer(request, entry.peer).await,
        Access::WrongRole { token } => {
            entry.token = Some(token);
            let message = "the role of this token is \"read\": it may change nothing";
            AdminError::new(StatusCode::FORBIDDEN, "token.role", message).into_response()
        }
        Access::Refused(error) => error.into_response(),
    };
    entry.record(response.status());
    response
}

/// The response to a request that the end of the drain has cut off.
fn cut_off() -> AdminError {
    let message = "the gateway stops and waits no longer; the command may have taken effect: its line in the audit log, of \
                   the result `unknown` if that was not known in time, says what it acted on";
    AdminError::new(StatusCode::SERVICE_UNAVAILABLE, "admin.draining", message)
}

/// The request with its whole body: a client that sends it slowly is waited for here, not in the request's task.
async fn whole(request: Request) -> Result<Request, AdminError> {
    let (head, body) = request.into_parts();
    // The limit is in the extensions.
    let body = Bytes::from_request(Request::from_parts(head.clone(), body), &()).await.map_err(unreadable)?;
    Ok(Request::from_parts(head, body.into()))
}

/// The name of what a path is for.
fn action(path: &str) -> &'static str {
    let known = ACTIONS.iter().find(|(known, _)| *known == path);
    let is_order = path.strip_prefix("/orders/").is_some_and(|id| !id.is_empty() && !id.contains('/'));
    known.map_or(if is_order { "orders_show" } else { OTHER_ACTION }, |(_, action)| *action)
}

/// What is recorded of a request: once, however it ends.
pub(super) struct AuditEntry {
    pub(super) state: Arc<AdminState>,
    pub(super) action: &'static str,
    /// Whether it is a line of the audit log.
    pub(super) audited: bool,
    pub(super) wrong_token: bool,
    pub(super) peer: Option<IpAddr>,
    /// Name of its token, if that is right.
    pub(super) token: Option<String>,
    /// Filled in by the command.
    pub(super) subject: AuditSubject,
    pub(super) progress: CommandProgress,
}

/// How far a request has come.
#[derive(Clone, Copy)]
pub(super) enum CommandProgress {
    /// It has done nothing.
    Received,
    /// The command has begun.
    Begun,
    Recorded,
}

impl AuditEntry {
    fn record(mut self, status: StatusCode) {
        self.write(result_of(status), status);
    }

    /// Writes the line of a request, and counts it: a command of unknown result as what its client was told.
    fn write(&mut self, result: &'static str, status: StatusCode) {
        self.progress = CommandProgress::Recorded;
        self.state.admin.gateway.live.metrics.admin_request(self.action, result_of(status));
        if self.audited {
            self.state.admin.audit.write(AuditLine {
                token: self.token.as_deref(),
                peer: self.peer,
                action: self.action,
                result,
                status: status.as_u16(),
                compared: self.wrong_token && status == StatusCode::UNAUTHORIZED,
                subject: self.subject.take(),
            });
        }
    }
}

impl Drop for AuditEntry {
    fn drop(&mut self) {
        match self.progress {
            CommandProgress::Recorded => {}
            // A page that nobody waits for: nothing was done or refused.
            CommandProgress::Received if !self.audited => {}
            // The client has left before its request was complete.
            CommandProgress::Received => self.write("refused", StatusCode::BAD_REQUEST),
            CommandProgress::Begun if std::thread::panicking() => {
                self.write("unknown", StatusCode::INTERNAL_SERVER_ERROR)
            }
            // The runtime has ended.
            CommandProgress::Begun => self.write("unknown", StatusCode::SERVICE_UNAVAILABLE),
        }
    }
}

/// The result that its client is told.
fn result_of(status: StatusCode) -> &'static str {
    if status.is_success() { "done" } else { "refused" }
}

/// Whether this is a health check.
pub(super) fn is_health(path: &str) -> bool {
    HEALTH.contains(&path)
}

enum Access {
    /// Needs no token.
    Open,
    /// To the holder of the token of this name.
    Granted(String),
    WrongToken,
    WrongRole {
        token: String,
    },
    Refused(AdminError),
}

/// Whether the request changes nothing.
fn reads(request: &Request) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
}

fn authorize(rules: &config::AdminConfig, bound: IpAddr, request: &Request) -> Access {
    if !names_this_server(request, &rules.hosts) {
        let message = "this Host is not an IP address, not localhost and not in admin.hosts";
        return Access::Refused(AdminError::new(StatusCode::MISDIRECTED_REQUEST, "host.unknown", message));
    }
    let reads = reads(request);
    if rules.tokens.is_empty() {
        return if !bound.to_canonical().is_loopback() {
            Access::Refused(no_token_configured(
                "on an address other than loopback, only health and metrics are served while admin.tokens is not set",
            ))
        } else if !reads {
            Access::Refused(no_token_configured(
                "nothing can be changed here while admin.tokens is not set; `fastrac-gateway admin issue` makes a token",
            ))
        } else {
            Access::Open
        };
    }
    if reads && request.uri().path() == CONSOLE {
        return Access::Open;
    }
    match bearer_token(request.headers()) {
        BearerToken::None => {
            Access::Refused(unauthorized("token.missing", "send an admin token: `Authorization: Bearer TOKEN`"))
        }
        BearerToken::Unreadable => Access::WrongToken,
        BearerToken::Token(sent) => match holder(&rules.tokens, sent) {
            None => Access::WrongToken,
            Some(token) if reads || token.role == AdminRole::Operate => Access::Granted(token.name.clone()),
            Some(token) => Access::WrongRole { token: token.name.clone() },
        },
    }
}

/// The token with this digest. Takes the same time whichever it is.
fn holder<'a>(tokens: &'a [config::AdminTokenConfig], sent: &[u8]) -> Option<&'a config::AdminTokenConfig> {
    let digest = Sha256::digest(sent);
    let is = |token: &config::AdminTokenConfig| bool::from(digest[..].ct_eq(&token.sha256[..]));
    tokens.iter().fold(None, |found, token| if is(token) { Some(token) } else { found })
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
    // The parser accepts anything after the colon.
    let port = authority.as_str().strip_prefix(host);
    if !port.is_some_and(|port| port.is_empty() || authority.port_u16().is_some()) {
        return false;
    }
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
pub(super) struct TokenThrottle(BoxCloneSyncService<Request, Response, Infallible>);

impl Default for TokenThrottle {
    fn default() -> Self {
        let limit = PeerLimit::new(WRONG_TOKEN_BURST, WRONG_TOKEN_PERIOD);
        let wrong = |_| async { Ok(unauthorized("token.wrong", "this is no admin token").into_response()) };
        let throttled = limit.layer().error_handler(too_many).layer(service_fn(wrong));
        Self(BoxCloneSyncService::new(throttled))
    }
}

impl TokenThrottle {
    async fn answer(&self, mut request: Request, peer: Option<IpAddr>) -> Response {
        if let Some(peer) = peer {
            request.extensions_mut().insert(PeerAddress(peer));
        }
        match self.0.clone().oneshot(request).await {
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
