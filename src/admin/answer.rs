//! How the admin port answers: JSON, never stored, never guessed at, never late.

use std::time::Duration;

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{FromRequest, Request, rejection::BytesRejection},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How long one request may take: two canaries (10 s each), one after the other, and a little.
pub(super) const REQUEST: Duration = Duration::from_secs(25);

/// An answer that says why not.
#[derive(Debug)]
pub(super) struct Fault(Box<Parts>);

#[derive(Debug)]
struct Parts {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// Further members beside `error`.
    more: Option<(&'static str, Value)>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Fault {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Parts { status, code, message: message.into(), more: None, header: None }))
    }

    pub(super) fn with(mut self, name: &'static str, value: Value) -> Self {
        self.0.more = Some((name, value));
        self
    }

    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.header = Some((name, value));
        self
    }

    /// Something that should not happen has happened.
    pub(super) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the answer could not be made; see the gateway's log")
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let Parts { status, code, message, more, header } = *self.0;
        let mut body = json!({ "error": { "code": code, "message": message } });
        if let Some((name, value)) = more {
            body[name] = value;
        }
        let headers: HeaderMap = header.into_iter().collect();
        (status, headers, Json(body)).into_response()
    }
}

/// A body of JSON; none at all means the defaults.
pub(super) struct Wanted<T>(pub(super) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for Wanted<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &S) -> Result<Self, Fault> {
        let bytes = Bytes::from_request(request, state).await.map_err(unread)?;
        if bytes.trim_ascii().is_empty() {
            return Ok(Wanted(T::default()));
        }
        // What serde would say may repeat what was sent, which may be a secret in the wrong place.
        let unfit = |_| {
            let message = "the body must be a JSON object with members that this page knows";
            Fault::new(StatusCode::BAD_REQUEST, "request.body", message)
        };
        serde_json::from_slice(&bytes).map(Wanted).map_err(unfit)
    }
}

fn unread(rejection: BytesRejection) -> Fault {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let message = format!("the body is longer than {} bytes", super::BODY);
        return Fault::new(StatusCode::PAYLOAD_TOO_LARGE, "request.too_large", message);
    }
    Fault::new(StatusCode::BAD_REQUEST, "request.body", "the body could not be read")
}

/// Whatever has no page.
pub(super) async fn not_found() -> Fault {
    Fault::new(StatusCode::NOT_FOUND, "request.path", "there is no such page")
}

/// A page that is asked for with another method; `Allow` is set by the router.
pub(super) async fn not_allowed() -> Fault {
    Fault::new(StatusCode::METHOD_NOT_ALLOWED, "request.method", "this page has another method: see `Allow`")
}

/// Bounds a request's time, and says of every answer how it may be used.
pub(super) async fn frame(request: Request<Body>, next: Next) -> Response {
    let mut response = match tokio::time::timeout(REQUEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let message = "no answer in time; what was asked for may still happen";
            Fault::new(StatusCode::SERVICE_UNAVAILABLE, "request.timeout", message).into_response()
        }
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Does work that may take a while, or waits for a disk, away from the control thread, which accepts
/// everybody's connections.
pub(super) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Fault::internal())
}
