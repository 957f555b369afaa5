//! Fastrac's envelope around results and refusals.
//!
//! What always holds: a result is `success`, `message`, `data`; a refusal is `success`, `message`;
//! both end with `timestamp` where the caller of this room asks for it. `data` arrives rendered.

use bytes::Bytes;
use serde::Serialize;

use super::limits::Refused;

/// What an operation gives: the text of `message`, and `data` as JSON.
#[derive(Debug)]
pub struct Reply {
    /// `message`; needs no escaping.
    pub message: &'static str,
    /// `data`.
    pub data: Bytes,
    /// Whether an order was placed or cancelled.
    pub executed: bool,
}

/// Why an operation gives nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The input is missing or wrong: 400.
    Invalid(String),
    /// No good key pair: 401.
    Unauthorized,
    /// `Data not found`: 404, or 200 by configuration.
    NotFound,
    /// No such address: 404.
    NoRoute,
    /// No courier serves the pair: 404 (seen on V1).
    Unserved,
    /// The order can't be cancelled: 404, as published.
    Cancel,
    /// The account's balance is too small: 400, its message by configuration.
    Shortage(String),
    /// The body is longer than the sandbox reads: 413.
    TooLong,
    /// A limit is used up: as the limit says.
    Limited(Refused),
    /// What a fault says: this status, this message.
    Said(u16, String),
}

impl Reply {
    /// A result from JSON.
    pub fn json(message: &'static str, data: impl Into<Bytes>) -> Self {
        Reply { message, data: data.into(), executed: false }
    }

    /// A result from something that can be written as JSON.
    pub fn of(message: &'static str, data: &impl Serialize) -> Self {
        // Our own types have string keys only, so writing them can't fail.
        Reply::json(message, serde_json::to_vec(data).unwrap_or_default())
    }

    /// The same, of an operation that placed or cancelled an order.
    pub fn executed(self) -> Self {
        Reply { executed: true, ..self }
    }

    /// The body.
    pub fn body(&self, timestamp: Option<&str>) -> Bytes {
        let mut out = Vec::with_capacity(self.data.len() + 128);
        out.extend_from_slice(br#"{"success":true,"message":""#);
        out.extend_from_slice(self.message.as_bytes());
        out.extend_from_slice(br#"","data":"#);
        out.extend_from_slice(&self.data);
        close(out, timestamp)
    }
}

impl Failure {
    /// The status, given that of `Data not found`.
    pub fn status(&self, not_found: u16) -> u16 {
        match self {
            Failure::Invalid(_) | Failure::Shortage(_) => 400,
            Failure::Unauthorized => 401,
            Failure::NotFound => not_found,
            Failure::NoRoute | Failure::Unserved | Failure::Cancel => 404,
            Failure::TooLong => 413,
            Failure::Limited(refused) => refused.status,
            Failure::Said(status, _) => *status,
        }
    }

    /// The text of `message`.
    pub fn message(&self) -> &str {
        match self {
            Failure::Invalid(text) | Failure::Shortage(text) | Failure::Said(_, text) => text,
            Failure::Unauthorized => "Unauthorized",
            Failure::NotFound | Failure::Unserved => "Data not found",
            Failure::NoRoute => "Not Found",
            // Grammar as published.
            Failure::Cancel => "An error occurred while placing an cancel",
            Failure::TooLong => "Request entity too large",
            Failure::Limited(refused) => &refused.message,
        }
    }

    /// Seconds of `Retry-After`, if it says so.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Failure::Limited(refused) => refused.retry_after,
            _ => None,
        }
    }

    /// The body.
    pub fn body(&self, timestamp: Option<&str>) -> Bytes {
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
