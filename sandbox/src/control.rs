//! The control address: what a test in another process asks and tells the sandbox.
//!
//! What always holds: it is a socket of its own, so no request that comes in for Fastrac reaches
//! it; with a token, every request needs it; a `Host` that is neither an address nor `localhost` is
//! refused, so that no web page reaches it by a name of its own. Each room below keeps a table of
//! its routes; together they are what `GET /_sandbox/` lists, so nothing is served that isn't told.
//!
//! How it fails: a refusal says what is wrong and what is possible; it quotes no value of a body,
//! which may be a secret.

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

/// The longest body, in bytes.
const LONGEST: usize = 1 << 20;

/// How long an answer waits for webhooks to be sent; a receiver that doesn't answer may take longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The content type of nearly everything.
const JSON: &str = "application/json";

/// What stands before every path.
const ROOT: &str = "/_sandbox/";

/// The routes of all rooms, in the order in which they are listed.
const ROOMS: &[&[ControlRoute]] =
    &[clock::ROUTES, orders::ROUTES, webhooks::ROUTES, journal::ROUTES, keys::ROUTES, limits::ROUTES, faults::ROUTES];

/// The control address's own token, if it has one.
pub(super) type Token = Option<Arc<Zeroizing<String>>>;

/// Something that can be asked or told.
struct ControlRoute {
    method: Method,
    /// Below `/_sandbox/`; a last segment `{…}` stands for any one.
    path: &'static str,
    /// What it does, in one line.
    does: &'static str,
    /// A body that works, or query parameters, or nothing.
    example: &'static str,
    act: fn(&mut Simulation, &ControlRequest<'_>) -> ControlResult,
}

/// What came with a request.
struct ControlRequest<'a> {
    /// The last segment, where the route leaves it open; percent-decoded.
    segment: String,
    query: Option<&'a str>,
    body: &'a [u8],
}

/// A good answer.
enum ControlResponse {
    /// JSON.
    Json(Value),
    /// The same, made when everything due was sent, or `PATIENCE` is over.
    AfterDeliveries(fn(&mut Simulation) -> Value),
    /// Anything else: its content type and itself.
    Text(&'static str, String),
}

/// Why not: the status, and what is said.
struct ControlError {
    status: StatusCode,
    text: String,
}

type ControlResult = Result<ControlResponse, ControlError>;

/// Serves the control address until it is dropped.
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
        Ok(()) => match Limited::new(body, LONGEST).collect().await {
            Err(_) => Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 1 MiB or broke off")),
            Ok(body) => control(simulation, &head.method, &head.uri, &body.to_bytes()),
        },
    };
    let (status, kind, text) = match outcome {
        Ok(ControlResponse::Json(value)) => (StatusCode::OK, JSON, format!("{value}\n")),
        Ok(ControlResponse::AfterDeliveries(say)) => {
            deliveries(simulation).await;
            (StatusCode::OK, JSON, format!("{}\n", say(&mut simulation.lock())))
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

/// Waits until everything due was sent.
async fn deliveries(simulation: &SharedSimulation) {
    let bell = simulation.lock().idle_signal();
    let calm = async {
        loop {
            let told = bell.notified();
            if simulation.lock().is_idle() {
                return;
            }
            told.await;
        }
    };
    // Too late is no error: the list tells what waits.
    let _ = tokio::time::timeout(PATIENCE, calm).await;
}

fn guard(headers: &HeaderMap, token: Token) -> Result<(), ControlError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let host = text(header::HOST).parse::<http::uri::Authority>();
    let good = host.is_ok_and(|host| {
        let name = host.host().trim_start_matches('[').trim_end_matches(']');
        name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
    });
    if !good {
        return Err(refusal(StatusCode::MISDIRECTED_REQUEST, "Host must be an IP address or localhost"));
    }
    let Some(token) = token else { return Ok(()) };
    let given = text(header::AUTHORIZATION).strip_prefix("Bearer ").unwrap_or("");
    if bool::from(given.as_bytes().ct_eq(token.as_bytes())) {
        Ok(())
    } else {
        let text = "the token of --control-token-file is needed, as Authorization: Bearer …";
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
    let here: Vec<(&ControlRoute, String)> =
        ROOMS.iter().copied().flatten().filter_map(|route| Some((route, route.segment(path)?))).collect();
    let Some((route, segment)) = here.iter().find(|(route, _)| route.method == *method) else {
        let methods: Vec<Method> = here.iter().map(|(route, _)| route.method.clone()).collect();
        return Err(if methods.is_empty() { nowhere() } else { wrong_method(&methods) });
    };
    (route.act)(&mut simulation.lock(), &ControlRequest { segment: segment.clone(), query: uri.query(), body })
}

impl ControlRoute {
    /// What stands in the open segment (nothing, if there is none), if the path is this route's.
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

/// Every route as JSON.
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

/// 400, with what is wrong.
fn wrong(text: impl Into<String>) -> ControlError {
    refusal(StatusCode::BAD_REQUEST, text)
}

/// 404, with what isn't there.
fn missing(text: impl Into<String>) -> ControlError {
    refusal(StatusCode::NOT_FOUND, text)
}

fn nowhere() -> ControlError {
    missing("there is nothing here; GET /_sandbox/ lists what there is")
}

fn wrong_method(methods: &[Method]) -> ControlError {
    let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
    refusal(StatusCode::METHOD_NOT_ALLOWED, format!("here works {}", names.join(", ")))
}

/// A number of the query, or another if it is missing.
fn number(asked: &ControlRequest<'_>, name: &str, absent: u64) -> Result<u64, ControlError> {
    match input::query(asked.query, name) {
        None => Ok(absent),
        Some(text) => text.parse().map_err(|_| wrong(format!("{name} must be a number"))),
    }
}

/// Reads a body. What is said of a faulty one names members and types, never values.
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
        wrong(format!("the body can't be read: {what}"))
    })
}
