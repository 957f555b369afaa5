//! A connection's bytes, through hyper's parser and every pure room up to the head that goes out: what
//! is forwarded is one request with the caller's own content, without credentials or headers of the caller, and without
//! anything that could conflict with the headers injected afterwards.

use std::{convert::Infallible, path::Path, sync::OnceLock, time::Duration};

use bytes::Bytes;
use fastrac_gateway::{
    body::{BodyError, BufferedRequest, collect},
    caller::Callers,
    catalog::{Catalog, Operation, target::target},
    config::{
        Endpoint, Priority,
        check::{Environment, check},
    },
    deadline::Deadline,
    memory::Memory,
    upstream::rewrite,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, request::Parts};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::{io::AsyncWriteExt as _, time::Instant};

#[path = "../../gateway/hostile/strict.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the hostile corpus")]
mod strict;

/// Headers that are injected or regenerated after the rewrite: each exactly once.
const PUT_IN: [&str; 5] = ["host", "access-key", "secret-key", "authorization", "content-length"];

/// Headers that the contract (section 4) removes; names are compared with every special character as a hyphen.
/// Hand-written on purpose: an independent list, not the gateway's own.
const TAKEN_OUT: [&str; 33] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "authorization",
    "access-key",
    "secret-key",
    "x-access-key",
    "x-secret-key",
    "proxy-authorization",
    "proxy-authenticate",
    "cookie",
    "forwarded",
    "x-real-ip",
    "via",
    "expect",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-request-id",
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "idempotency-key",
    "host",
    "content-length",
];
const FAMILIES: [&str; 6] = ["x-forwarded", "x-b3-", "x-envoy-", "x-amzn-", "x-datadog-", "x-gateway-"];

/// The data is what a client sends on one connection.
pub fn run(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(serve(data));
}

async fn serve(data: &[u8]) {
    const BUFFER: usize = 64 * 1024;
    let (mut client, server) = tokio::io::duplex(1 << 20);
    if data.len() > 1 << 19 || client.write_all(data).await.is_err() {
        return;
    }
    let service = service_fn(|request| ask(request, data));
    let connection = http1::Builder::new()
        .half_close(false)
        .max_header_size(BUFFER)
        .max_buf_size(BUFFER)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(server), service);
    // Time is paused, so it advances only when nothing else can run.
    let _ = tokio::time::timeout(Duration::from_secs(60), connection).await;
    drop(client);
}

/// The rooms, in the order of the path.
async fn ask(request: Request<Incoming>, data: &[u8]) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let status = match cross(head, body, data).await {
        Some(()) => 200,
        None => 400,
    };
    let mut response = Response::new(Full::new(Bytes::from_static(b"x")));
    *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
    Ok(response)
}

async fn cross(head: Parts, body: Incoming, data: &[u8]) -> Option<()> {
    let rooms = rooms();
    let path_and_query = target(&head).ok()?;
    let service = rooms.callers.identify(&head.headers, &Default::default(), std::time::SystemTime::now()).ok()?;
    let operation = rooms.catalog.classify(&head.method, path_and_query.path()).ok()?;
    rooms.catalog.permit(service, operation).ok()?;
    let memory = || Memory::new(1 << 20).share(None).allowance(Priority::Normal);
    let deadline = Deadline::after(Instant::now(), Duration::from_secs(30));
    let body = collect(body.map_err(|_| BodyError::Broken), 64 * 1024, deadline, memory).await.ok()?;
    let asked = BufferedRequest { method: head.method, target: path_and_query, headers: head.headers, body };
    let sent = rewrite::request(&asked, operation, &rooms.endpoint);
    let (method, target, headers, body) = sent.seen();
    assert_eq!(*body, asked.body);
    right_target(&asked, target, data);
    right_operation(&asked, method, operation);
    right_headers(&asked, headers, operation);
    one_request(method, target, headers, body);
    Some(())
}

struct Rooms {
    callers: Callers,
    catalog: Catalog,
    endpoint: Endpoint,
}

fn rooms() -> &'static Rooms {
    static ROOMS: OnceLock<Rooms> = OnceLock::new();
    ROOMS.get_or_init(|| {
        let digest: String = Sha256::digest("fgw_canary_shop").iter().map(|byte| format!("{byte:02x}")).collect();
        let text = format!(
            "[accounts.main]\nbase_url = \"http://127.0.0.1:1/base\"\n\
             keys = {{ source = \"file\", path = \"keys.toml\" }}\n[services.shop]\naccount = \"main\"\n\
             allow = [\"lookup\", \"read\", \"quote\", \"order\", \"account\", \"unlisted\"]\n\
             credentials = [{{ access_key = \"svc-shop-1\", secret_sha256 = \"{digest}\" }}]\n"
        );
        let config = check(&text, Path::new("/"), &Environment::default()).config.expect("no fault");
        let (callers, catalog) = (Callers::new(&config.services, None), Catalog::new(&config));
        Rooms { callers, catalog, endpoint: config.accounts[0].base.clone() }
    })
}

/// The target consists of the bytes that the caller sent, after the account's prefix.
fn right_target(asked: &BufferedRequest, target: &Uri, data: &[u8]) {
    let written = target.to_string();
    let own = written.strip_prefix("/base").expect("the prefix");
    assert!(own.starts_with('/'), "{own}");
    // An absolute target may have no path.
    let plain = own.strip_prefix("/?").map_or(own, |_| &own[1..]);
    assert!(own == "/" || memchr::memmem::find(data, plain.as_bytes()).is_some(), "{own} was not asked");
    let path = asked.target.path();
    let lower = path.to_ascii_lowercase();
    for never in ["/../", "/./", "%2e", "%2f", "%5c", "%00", "\\"] {
        assert!(!lower.contains(never), "{path}");
    }
    assert!(!path.ends_with("/..") && !path.ends_with("/."), "{path}");
}

/// A path that can be read as a listed one is that path, byte for byte.
fn right_operation(asked: &BufferedRequest, method: &Method, operation: &Operation) {
    let path = asked.target.path();
    let kind = reading(path);
    for row in rooms().catalog.operations.iter().filter(|row| !row.path.is_empty() && !row.path.contains('{')) {
        if kind == row.path.to_ascii_lowercase() {
            let known = |row: &Operation| row.path == path || row.name == operation.name;
            assert!(rooms().catalog.operations.iter().any(|row| known(row)), "{path} reads like {}", row.path);
        }
        if row.path == path && row.name == "v2.order_express" && *method == Method::POST {
            assert_eq!(operation.name, row.name);
        }
    }
    let stored_head = operation.cache.is_some() && asked.method == Method::HEAD;
    assert_eq!(*method, if stored_head { Method::GET } else { asked.method.clone() });
    assert!(!matches!(method.as_str(), "CONNECT" | "TRACE"));
}

/// The path percent-decoded once, in lower case, without empty segments. Hand-written on purpose, as an
/// independent oracle.
fn reading(path: &str) -> String {
    let mut text = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                text.push(byte);
                rest = &after[2..];
            }
            _ => {
                text.push(*first);
                rest = after;
            }
        }
    }
    let text = String::from_utf8_lossy(&text).to_ascii_lowercase();
    text.split('/').filter(|segment| !segment.is_empty()).fold(String::new(), |all, segment| all + "/" + segment)
}

fn right_headers(asked: &BufferedRequest, sent: &HeaderMap, operation: &Operation) {
    let encodings: Vec<_> = sent.get_all("accept-encoding").iter().collect();
    assert_eq!(encodings, ["identity"]);
    // The gateway's own: an empty body is announced.
    let is_framing = |name: &HeaderName, value: &HeaderValue| name == "content-length" && value == "0";
    let others = sent.iter().filter(|(name, value)| *name != "accept-encoding" && !is_framing(name, value));
    assert!(!sent.contains_key("content-length") || asked.body.is_empty());
    for (name, value) in others {
        assert!(may_cross(name.as_str()), "{name} crosses");
        let own = operation.cache.is_some() && name == "content-type";
        assert!(own || asked.headers.get_all(name).iter().any(|known| known == value), "{name} was not asked");
        assert!(own || !nominated(&asked.headers, name.as_str()), "{name} is nominated, and crosses");
    }
    if operation.cache.is_some() {
        return;
    }
    for name in asked.headers.keys() {
        if may_cross(name.as_str()) && !nominated(&asked.headers, name.as_str()) && name != "accept-encoding" {
            let (before, after) = (asked.headers.get_all(name).iter(), sent.get_all(name).iter());
            assert!(before.eq(after), "{name} vanished or changed");
        }
    }
}

fn may_cross(name: &str) -> bool {
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    !TAKEN_OUT.contains(&plain.as_str()) && !FAMILIES.iter().any(|family| plain.starts_with(family))
}

fn nominated(headers: &HeaderMap, name: &str) -> bool {
    headers.get_all("connection").iter().any(|value| {
        value.as_bytes().split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
    })
}

/// Serialised with the injected headers, it is exactly this one request to a strict parser.
fn one_request(method: &Method, target: &Uri, headers: &HeaderMap, body: &[u8]) {
    let mut wire = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
    for name in &PUT_IN[..4] {
        wire.extend(format!("{name}: put-in\r\n").bytes());
    }
    if !headers.contains_key("content-length") {
        wire.extend(format!("content-length: {}\r\n", body.len()).bytes());
    }
    for (name, value) in headers {
        wire.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    wire.extend(b"\r\n");
    wire.extend(body);
    match strict::read(&wire) {
        strict::Read::Whole(request, length) => {
            assert_eq!((request.method.as_str(), length), (method.as_str(), wire.len()));
            assert_eq!((request.target, request.body.as_slice()), (target.to_string().into_bytes(), body));
            for name in PUT_IN {
                assert_eq!(request.headers.iter().filter(|(known, _)| known == name).count(), 1, "{name}");
            }
        }
        other => panic!("{other:?}: {}", wire.escape_ascii()),
    }
}
