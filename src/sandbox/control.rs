//! The control address: what a test in another process asks and tells the sandbox.
//!
//! What always holds: it is a socket of its own, so no request that comes in for Fastrac reaches
//! it; with a token, every request needs it; a `Host` that is neither an address nor `localhost` is
//! refused, so that no web page reaches it by a name of its own.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use super::{
    faults::{self, Fault},
    input,
    server::Shared,
    world::World,
};

/// The longest body, in bytes.
const LONGEST: usize = 1 << 20;

/// Entries of a journal page, if not said.
const PAGE: usize = 1_000;

/// The control address's own token, if it has one.
pub(super) type Token = Option<Arc<Zeroizing<String>>>;

type Outcome = Result<Value, (StatusCode, String)>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKey {
    label: String,
    access_key: String,
    secret_key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    access_key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    advance_ms: u64,
}

/// Serves the control address until it is dropped.
pub(super) async fn accept(listener: TcpListener, token: Token, world: Shared, tasks: TaskTracker) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            continue;
        };
        let (world, token) = (Arc::clone(&world), token.clone());
        tasks.spawn(async move {
            let service = service_fn(|request| {
                let (world, token) = (Arc::clone(&world), token.clone());
                async move { Ok::<_, std::convert::Infallible>(answer(&world, token, request).await) }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(world: &Shared, token: Token, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let outcome = match guard(&head.headers, token) {
        Err(refusal) => Err(refusal),
        Ok(()) => match Limited::new(body, LONGEST).collect().await {
            Err(_) => Err((StatusCode::PAYLOAD_TOO_LARGE, "the body is too long or broke off".to_owned())),
            Ok(body) => control(&mut world.lock(), &head.method, &head.uri, &body.to_bytes()),
        },
    };
    let (status, value) = match outcome {
        Ok(value) => (StatusCode::OK, value),
        Err((status, error)) => (status, json!({"error": error})),
    };
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

fn guard(headers: &HeaderMap, token: Token) -> Result<(), (StatusCode, String)> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let host = text(header::HOST).parse::<http::uri::Authority>();
    let good = host.is_ok_and(|host| {
        let name = host.host().trim_start_matches('[').trim_end_matches(']');
        name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
    });
    if !good {
        return Err((StatusCode::MISDIRECTED_REQUEST, "Host must be an IP address or localhost".to_owned()));
    }
    let Some(token) = token else { return Ok(()) };
    let given = text(header::AUTHORIZATION).strip_prefix("Bearer ").unwrap_or("");
    if bool::from(given.as_bytes().ct_eq(token.as_bytes())) {
        Ok(())
    } else {
        Err((StatusCode::UNAUTHORIZED, "the token of --control-token-file is needed".to_owned()))
    }
}

fn control(world: &mut World, method: &Method, uri: &http::Uri, body: &[u8]) -> Outcome {
    let path = uri.path().strip_prefix("/_sandbox/").unwrap_or("");
    let (room, rest) = path.split_once('/').unwrap_or((path, ""));
    match (method.as_str(), room, rest) {
        ("GET", "journal", "") => journal(world, uri.query()),
        ("GET", "counters", "") => {
            let mut counters = world.journal.counters_json();
            counters["balance"] = json!(world.balance());
            Ok(counters)
        }
        ("GET", "keys", "") => Ok(world.keys.json()),
        ("POST", "keys", "") => {
            let key: NewKey = read(body)?;
            world.keys.add(&key.label, &key.access_key, &key.secret_key);
            Ok(world.keys.json())
        }
        ("POST", "keys", "revoke") => revoke(world, &read::<Revoke>(body)?.access_key),
        ("DELETE", "keys", access) => revoke(world, access),
        ("GET", "faults", "") => Ok(world.faults.json()),
        ("POST", "faults", "") => {
            let fault: Fault = read(body)?;
            faults::check(&fault).map_err(|error| (StatusCode::BAD_REQUEST, error))?;
            Ok(json!({"id": world.faults.add(fault)}))
        }
        ("DELETE", "faults", "") => {
            world.faults.clear();
            Ok(json!({}))
        }
        ("DELETE", "faults", number) => {
            let found = number.parse().is_ok_and(|number| world.faults.remove(number));
            if found { Ok(json!({})) } else { Err(nothing()) }
        }
        ("POST", "clock", "") => {
            world.clock.advance(std::time::Duration::from_millis(read::<Advance>(body)?.advance_ms));
            Ok(json!({"now": super::clock::envelope(world.clock.now())}))
        }
        ("POST", "reset", "") => {
            world.reset();
            Ok(json!({}))
        }
        _ => Err(nothing()),
    }
}

fn nothing() -> (StatusCode, String) {
    (StatusCode::NOT_FOUND, "there is nothing here".to_owned())
}

fn read<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, (StatusCode, String)> {
    // serde's text may quote a value of the body, which may be a secret: only the place is told.
    serde_json::from_slice(body).map_err(|error| {
        let text = format!("the body can't be read (line {}, column {})", error.line(), error.column());
        (StatusCode::BAD_REQUEST, text)
    })
}

fn revoke(world: &mut World, access: &str) -> Outcome {
    if world.keys.revoke(access) { Ok(world.keys.json()) } else { Err(nothing()) }
}

/// `?after=SEQ` (entries above it), `&limit=N`, `&operation=NAME`, `&executed=true`.
fn journal(world: &World, query: Option<&str>) -> Outcome {
    let number = |name| input::query(query, name).and_then(|text| text.parse::<u64>().ok());
    let (after, limit) = (number("after").unwrap_or(0), number("limit").map_or(PAGE, |limit| limit as usize));
    let operation = input::query(query, "operation");
    let executed = input::query(query, "executed").is_some_and(|text| text == "true");
    let entries: Vec<Value> = world
        .journal
        .entries()
        .filter(|entry| entry.seq > after && (!executed || entry.executed))
        .filter(|entry| operation.is_none() || operation.as_deref() == entry.operation().map(|known| known.name()))
        .take(limit)
        .map(|entry| entry.json())
        .collect();
    Ok(json!({"entries": entries}))
}
