//! Fastrac's envelope around results and refusals.
//!
//! What always holds: a result is `success`, `message`, `data`; a refusal is `success`, `message`;
//! both end with `timestamp` where the caller of this room asks for it. `data` arrives rendered.

use bytes::Bytes;
use serde::Serialize;

use super::limits::LimitExceeded;

/// What an operation gives: the text of `message`, and `data` as JSON.
#[derive(Debug)]
pub(crate) struct Success {
    /// `message`; needs no escaping.
    pub message: &'static str,
    /// `data`.
    pub data: Bytes,
    /// Whether an order was placed or cancelled.
    pub executed: bool,
}

/// Why an operation gives nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ApiError {
    /// The input is missing or wrong: 400.
    Invalid(String),
    /// No good key pair: 401.
    Unauthorized,
    /// `Data not found`: 404, or 200 by configuration.
    NotFound,
    /// No such address: 404.
    NoSuchPath,
    /// No courier serves the pair: 404 (seen on V1).
    NoCourier,
    /// The order can't be cancelled: 404, as published.
    NotCancellable,
    /// The account's balance is too small: 400, its message by configuration.
    InsufficientBalance(String),
    /// The body is longer than the sandbox reads: 413.
    BodyTooLong,
    /// A limit is used up: as the limit says.
    LimitExceeded(LimitExceeded),
    /// What a fault says: this status, this message.
    Custom(u16, String),
}

impl Success {
    /// A result from JSON.
    pub(crate) fn json(message: &'static str, data: impl Into<Bytes>) -> Self {
        Success { message, data: data.into(), executed: false }
    }

    /// A result from something that can be written as JSON.
    pub(crate) fn of(message: &'static str, data: &impl Serialize) -> Self {
        // Our own types have string keys only, so writing them can't fail.
        Success::json(message, serde_json::to_vec(data).unwrap_or_default())
    }

    /// The same, of an operation that placed or cancelled an order.
    pub(crate) fn executed(self) -> Self {
        Success { executed: true, ..self }
    }

    /// The body.
    pub(crate) fn body(&self, timestamp: Option<&str>) -> Bytes {
        let mut out = Vec::with_capacity(self.data.len() + 128);
        out.extend_from_slice(br#"{"success":true,"message":""#);
        out.extend_from_slice(self.message.as_bytes());
        out.extend_from_slice(br#"","data":"#);
        out.extend_from_slice(&self.data);
        close(out, timestamp)
    }
}

impl ApiError {
    /// The status, given that of `Data not found`.
    pub(crate) fn status(&self, not_found: u16) -> u16 {
        match self {
            ApiError::Invalid(_) | ApiError::InsufficientBalance(_) => 400,
            ApiError::Unauthorized => 401,
            ApiError::NotFound => not_found,
            ApiError::NoSuchPath | ApiError::NoCourier | ApiError::NotCancellable => 404,
            ApiError::BodyTooLong => 413,
            ApiError::LimitExceeded(refused) => refused.status,
            ApiError::Custom(status, _) => *status,
        }
    }

    /// The text of `message`.
    pub(crate) fn message(&self) -> &str {
        match self {
            ApiError::Invalid(text) | ApiError::InsufficientBalance(text) | ApiError::Custom(_, text) => text,
            ApiError::Unauthorized => "Unauthorized",
            ApiError::NotFound | ApiError::NoCourier => "Data not found",
            ApiError::NoSuchPath => "Not Found",
            // Grammar as published.
            ApiError::NotCancellable => "An error occurred while placing an cancel",
            ApiError::BodyTooLong => "Request entity too large",
            ApiError::LimitExceeded(refused) => &refused.message,
        }
    }

    /// Seconds of `Retry-After`, if it says so.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        match self {
            ApiError::LimitExceeded(refused) => refused.retry_after,
            _ => None,
        }
    }

    /// The body.
    pub(crate) fn body(&self, timestamp: Option<&str>) -> Bytes {
        let mut out = br#"{"success":false,"message":"#.to_vec();
        out.extend_from_slice(serde_json::Value::from(self.message()).to_string().as_bytes());
        close(out, timestamp)
    }
}

fn close(mut out: Vec<u8>, timestamp: Option<&str>) -> Bytes {
    if let Some(timestamp) = timestamp {
        out.extend_from_slice(br#","timestamp":""#);
        out.extend_from_slice(timestamp.as_bytes());
        out.push(b'"');
    }
    out.push(b'}');
    out.into()
}
