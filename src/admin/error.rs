//! What all responses of the admin port have in common: JSON errors, headers, a time limit.

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
use serde::{Deserialize as _, Deserializer, de::DeserializeOwned};
use serde_json::{Value, json};

/// How long one request may take: two canaries (10 s each), one after the other, and some slack.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(25);

/// An error response.
#[derive(Debug)]
pub(super) struct AdminError(Box<ErrorParts>);

#[derive(Debug)]
struct ErrorParts {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// One more member beside `error`.
    more: Option<(&'static str, Value)>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl AdminError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(ErrorParts { status, code, message: message.into(), more: None, header: None }))
    }

    pub(super) fn with(mut self, name: &'static str, value: Value) -> Self {
        self.0.more = Some((name, value));
        self
    }

    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.header = Some((name, value));
        self
    }

    /// An internal error; its cause is in the log.
    pub(super) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the response could not be made; see the gateway's log",
        )
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let ErrorParts { status, code, message, more, header } = *self.0;
        let mut body = json!({ "error": { "code": code, "message": message } });
        if let Some((name, value)) = more {
            body[name] = value;
        }
        let headers: HeaderMap = header.into_iter().collect();
        (status, headers, Json(body)).into_response()
    }
}

/// An optional member whose absence makes a command mean more. Null, which a script may leave for a name, is an error.
pub(super) fn given_text<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    String::deserialize(value).map(Some)
}

/// Extractor: a JSON body. An empty body means the defaults.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = AdminError;

    async fn from_request(request: Request, state: &S) -> Result<Self, AdminError> {
        // Ignored, it would make a command mean more: `/cache/purge?operation=NAME` would purge everything.
        if request.uri().query().is_some_and(|query| !query.is_empty()) {
            let message =
                "a command takes its arguments from a JSON object in the body, and no query; nothing was done";
            return Err(AdminError::new(StatusCode::BAD_REQUEST, "request.query", message));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(unreadable)?;
        if bytes.trim_ascii().is_empty() {
            return Ok(JsonBody(T::default()));
        }
        // The message of serde can quote the body, which may contain a misplaced secret.
        let unfit = || {
            let message = "the body must be a JSON object with the members of this command";
            AdminError::new(StatusCode::BAD_REQUEST, "request.body", message)
        };
        // serde reads an array too, member by member: `[]` would purge everything.
        if !bytes.trim_ascii().starts_with(b"{") {
            return Err(unfit());
        }
        serde_json::from_slice(&bytes).map(JsonBody).map_err(|_| unfit())
    }
}

pub(super) fn unreadable(rejection: BytesRejection) -> AdminError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let message = format!("the body is longer than {} bytes", super::MAX_BODY);
        return AdminError::new(StatusCode::PAYLOAD_TOO_LARGE, "request.too_large", message);
    }
    AdminError::new(StatusCode::BAD_REQUEST, "request.body", "the body could not be read")
}

/// Answers a path without a page.
pub(super) async fn not_found() -> AdminError {
    AdminError::new(StatusCode::NOT_FOUND, "request.path", "there is no such page")
}

/// Answers a page requested with a wrong method; the router sets `Allow`.
pub(super) async fn not_allowed() -> AdminError {
    AdminError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "request.method",
        "this page does not support the method; see `Allow`",
    )
}

/// Middleware: limits a request's time and sets the headers that every response carries.
pub(super) async fn limit_and_mark(request: Request<Body>, next: Next) -> Response {
    let mut response = match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let message = "no response in time; the command may still take effect";
            AdminError::new(StatusCode::SERVICE_UNAVAILABLE, "request.timeout", message).into_response()
        }
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Runs work that may take long or wait for a disk on a blocking thread: the control thread accepts the
/// connections of all callers.
pub(super) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, AdminError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| AdminError::internal())
}
