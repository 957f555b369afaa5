//! Fastrac's envelope around results and errors.
//!
//! What always holds: a result has `success`, `message`, `data`; an error has `success`, `message`. Both end with
//! `timestamp` if the caller passes one.

use bytes::Bytes;
use serde::Serialize;

use super::limits::LimitExceeded;

/// A successful result: the text of `message`, and `data` as JSON.
#[derive(Debug)]
pub(crate) struct Success {
    /// Needs no escaping in JSON.
    pub message: &'static str,
    pub data: Bytes,
    /// Whether an order was placed or cancelled.
    pub executed: bool,
}

/// An error of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ApiError {
    /// Missing or wrong input: 400.
    Invalid(String),
    /// No valid key pair: 401.
    Unauthorized,
    /// `Data not found`: 404, or 200 by [`Switches::not_found`](crate::Switches).
    NotFound,
    /// Unknown path: 404.
    NoSuchPath,
    /// No courier serves the two places: 404 (seen on V1).
    NoCourier,
    /// The order cannot be cancelled: 404, as published.
    NotCancellable,
    /// The balance is too small: 400, with a configured message.
    InsufficientBalance(String),
    /// The body is longer than the sandbox reads: 413.
    BodyTooLong,
    /// A limit is exceeded: status as the limit says.
    LimitExceeded(LimitExceeded),
    /// Status and message of a fault.
    Custom(u16, String),
}

impl Success {
    pub(crate) fn json(message: &'static str, data: impl Into<Bytes>) -> Self {
        Success { message, data: data.into(), executed: false }
    }

    /// Serializes `data`.
    pub(crate) fn of(message: &'static str, data: &impl Serialize) -> Self {
        // Types of this crate have string keys only, so serializing cannot fail.
        Success::json(message, serde_json::to_vec(data).unwrap_or_default())
    }

    /// Marks a result as that of an operation that placed or cancelled an order.
    pub(crate) fn executed(self) -> Self {
        Success { executed: true, ..self }
    }

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
    /// The status; `not_found` is that of `Data not found`.
    pub(crate) fn status(&self, not_found: u16) -> u16 {
        match self {
            ApiError::Invalid(_) | ApiError::InsufficientBalance(_) => 400,
            ApiError::Unauthorized => 401,
            ApiError::NotFound => not_found,
            ApiError::NoSuchPath | ApiError::NoCourier | ApiError::NotCancellable => 404,
            ApiError::BodyTooLong => 413,
            ApiError::LimitExceeded(limit) => limit.status,
            ApiError::Custom(status, _) => *status,
        }
    }

    pub(crate) fn message(&self) -> &str {
        match self {
            ApiError::Invalid(text) | ApiError::InsufficientBalance(text) | ApiError::Custom(_, text) => text,
            ApiError::Unauthorized => "Unauthorized",
            ApiError::NotFound | ApiError::NoCourier => "Data not found",
            ApiError::NoSuchPath => "Not Found",
            // Spelled as published.
            ApiError::NotCancellable => "An error occurred while placing an cancel",
            ApiError::BodyTooLong => "Request entity too large",
            ApiError::LimitExceeded(limit) => &limit.message,
        }
    }

    /// Value of `Retry-After` in seconds; absent: no such header.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        match self {
            ApiError::LimitExceeded(limit) => limit.retry_after,
            _ => None,
        }
    }

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
