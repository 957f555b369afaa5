//! The control address: HTTP requests that show and change the state of the sandbox.
//!
//! What always holds: it is a socket of its own, so no request to the API reaches it; with a token, every request
//! needs it; a `Host` that is neither an IP address nor `localhost` is refused, so that no web page can reach it
//! through a DNS name (DNS rebinding). Each module below has a table of its routes; `GET /_sandbox/` lists these
//! tables, so every route is documented.
//!
//! How it fails: an error says what is wrong and what is accepted. It never quotes values of a body, which may be
//! secrets.

mod clock;
mod faults;
mod journal;
mod keys;
mod limits;
mod orders;
mod webhooks;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use super::{input, server::SharedSimulation, simulation::Simulation, suggest};

/// Maximum size of a request body, in bytes.
const MAX_BODY: usize = 1 << 20;

/// How long a response waits for due webhooks to be sent; a receiver that does not respond may take longer.
const MAX_WAIT: Duration = Duration::from_secs(10);

const JSON: &str = "application/json";

/// Prefix of all paths.
const ROOT: &str = "/_sandbox/";

/// All routes, in the order in which they are listed.
const ROOMS: &[&[ControlRoute]] =
    &[clock::ROUTES, orders::ROUTES, webhooks::ROUTES, journal::ROUTES, keys::ROUTES, limits::ROUTES, faults::ROUTES];

/// The bearer token, if one is configured.
pub(super) type Token = Option<Arc<Zeroizing<String>>>;

/// A route.
struct ControlRoute {
    method: Method,
    /// Below `/_sandbox/`; a last segment `{…}` matches any segment.
    path: &'static str,
    /// Description, one line, for the list.
    does: &'static str,
    /// Example of a body or query; empty: none.
    example: &'static str,
    act: fn(&mut Simulation, &ControlRequest<'_>) -> ControlResult,
}

struct ControlRequest<'a> {
    /// The segment matched by `{…}`, percent-decoded.
    segment: String,
    query: Option<&'a str>,
    body: &'a [u8],
}

/// A successful response.
enum ControlResponse {
    Json(Value),
    /// JSON that is rendered when all due webhooks have been sent, or after [`MAX_WAIT`].
    AfterDeliveries(fn(&mut Simulation) -> Value),
    /// Content type and body.
    Text(&'static str, String),
}

/// An error response.
struct ControlError {
    status: StatusCode,
    text: String,
}

type ControlResult = Result<ControlResponse, ControlError>;

/// Accepts connections until dropped.
pub(super) async fn accept(listener: TcpListener, token: Token, simulation: SharedSimulation, tasks: TaskTracker) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            continue;
        };
        let (simulation, token) = (Arc::clone(&simulation), token.clone());
        tasks.spawn(async move {
            let service = service_fn(|request| {
                let (simulation, token) = (Arc::clone(&simulation), token.clone());
                async move { Ok::<_, std::convert::Infallible>(answer(&simulation, token, request).await) }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(simulation: &SharedSimulation, token: Token, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let outcome = match guard(&head.headers, token) {
        Err(refusal) => Err(refusal),
        Ok(()) => match Limited::new(body, MAX_BODY).collect().await {
            Err(_) => Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 1 MiB or ended early")),
            Ok(body) => control(simulation, &head.method, &head.uri, &body.to_bytes()),
        },
    };
    let (status, kind, text) = match outcome {
        Ok(ControlResponse::Json(value)) => (StatusCode::OK, JSON, format!("{value}\n")),
        Ok(ControlResponse::AfterDeliveries(render)) => {
            deliveries(simulation).await;
            (StatusCode::OK, JSON, format!("{}\n", render(&mut simulation.lock())))
        }
        Ok(ControlResponse::Text(kind, text)) => (StatusCode::OK, kind, text),
        Err(ControlError { status, text }) => (status, JSON, format!("{}\n", json!({"error": text}))),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Waits until all due webhooks have been sent.
async fn deliveries(simulation: &SharedSimulation) {
    let bell = simulation.lock().idle_signal();
    let until_idle = async {
        loop {
            let notified = bell.notified();
            if simulation.lock().is_idle() {
                return;
            }
            notified.await;
        }
    };
    // A timeout is not an error: the list of deliveries shows what is pending.
    let _ = tokio::time::timeout(MAX_WAIT, until_idle).await;
}

fn guard(headers: &HeaderMap, token: Token) -> Result<(), ControlError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let host = text(header::HOST).parse::<http::uri::Authority>();
    let acceptable = host.is_ok_and(|host| {
        let name = host.host().trim_start_matches('[').trim_end_matches(']');
        name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
    });
    if !acceptable {
        return Err(refusal(StatusCode::MISDIRECTED_REQUEST, "Host must be an IP address or localhost"));
    }
    let Some(token) = token else { return Ok(()) };
    let sent = text(header::AUTHORIZATION).strip_prefix("Bearer ").unwrap_or("");
    if bool::from(sent.as_bytes().ct_eq(token.as_bytes())) {
        Ok(())
    } else {
        let text = "send the token of --control-token-file as Authorization: Bearer …";
        Err(refusal(StatusCode::UNAUTHORIZED, text))
    }
}

fn control(simulation: &SharedSimulation, method: &Method, uri: &http::Uri, body: &[u8]) -> ControlResult {
    let Some(path) = uri.path().strip_prefix(ROOT) else { return Err(nowhere()) };
    if path.is_empty() {
        return if method == Method::GET {
            Ok(ControlResponse::Json(index()))
        } else {
            Err(wrong_method(&[Method::GET]))
        };
    }
    let matching: Vec<(&ControlRoute, String)> =
        ROOMS.iter().copied().flatten().filter_map(|route| Some((route, route.segment(path)?))).collect();
    let Some((route, segment)) = matching.iter().find(|(route, _)| route.method == *method) else {
        let methods: Vec<Method> = matching.iter().map(|(route, _)| route.method.clone()).collect();
        return Err(if methods.is_empty() { nowhere() } else { wrong_method(&methods) });
    };
    (route.act)(&mut simulation.lock(), &ControlRequest { segment: segment.clone(), query: uri.query(), body })
}

impl ControlRoute {
    /// The segment matched by `{…}` (empty if the route has none), if the path is this route's.
    fn segment(&self, path: &str) -> Option<String> {
        match self.path.split_once('{') {
            None => (path == self.path).then(String::new),
            Some((before, _)) => {
                let rest = path.strip_prefix(before)?;
                (!rest.is_empty() && !rest.contains('/')).then(|| input::decode(rest))
            }
        }
    }
}

/// The list of routes as JSON.
fn index() -> Value {
    let line = |route: &ControlRoute| {
        json!({"method": route.method.as_str(), "path": format!("{ROOT}{}", route.path),
               "does": route.does, "example": route.example})
    };
    json!({"routes": ROOMS.iter().copied().flatten().map(line).collect::<Vec<_>>()})
}

fn refusal(status: StatusCode, text: impl Into<String>) -> ControlError {
    ControlError { status, text: text.into() }
}

/// 400.
fn wrong(text: impl Into<String>) -> ControlError {
    refusal(StatusCode::BAD_REQUEST, text)
}

/// 404.
fn missing(text: impl Into<String>) -> ControlError {
    refusal(StatusCode::NOT_FOUND, text)
}

fn nowhere() -> ControlError {
    missing("unknown path; GET /_sandbox/ lists all paths")
}

fn wrong_method(methods: &[Method]) -> ControlError {
    let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
    refusal(StatusCode::METHOD_NOT_ALLOWED, format!("allowed here: {}", names.join(", ")))
}

/// A numeric query parameter, or `absent` if it is missing.
fn number(asked: &ControlRequest<'_>, name: &str, absent: u64) -> Result<u64, ControlError> {
    match input::query(asked.query, name) {
        None => Ok(absent),
        Some(text) => text.parse().map_err(|_| wrong(format!("{name} must be a number"))),
    }
}

/// Parses a body. The error names members and types, never values.
fn read<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, ControlError> {
    serde_json::from_slice(body).map_err(|error| {
        let text = error.to_string();
        let what = match text.rsplit_once("expected ") {
            _ if text.contains(" field `") || text.starts_with("unknown variant") => {
                suggest::reword(text.split(" at line ").next().unwrap_or(&text))
            }
            Some((_, wanted)) => format!("expected {wanted}"),
            None => format!("not JSON at line {} column {}", error.line(), error.column()),
        };
        wrong(format!("invalid body: {what}"))
    })
}
