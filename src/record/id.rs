//! The id of a request: the caller's `x-request-id`, or a UUIDv7.
//!
//! Always holds: an id is 8 to 128 characters of `[A-Za-z0-9._-]`, so it needs no escaping anywhere.
//! Pure, but for the random bits of a new id. Parsing fails with [`InvalidRequestId`].

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderValue;

use super::mask::is_credential;

/// 8 to 128 characters of `[A-Za-z0-9._-]`. Cheap to clone; ready to be sent as a header.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The header that carries it.
    pub const HEADER: http::HeaderName = http::HeaderName::from_static("x-request-id");

    /// A new id, a UUIDv7: ids sort by `at`.
    pub fn generate(at: SystemTime) -> RequestId {
        let mut text = [0u8; 36];
        let millis = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        // Ids are not secrets: a fast generator suffices and needs no system call.
        let random = fastrand::u128(..).to_ne_bytes();
        let mut bits = [0; 10];
        bits.copy_from_slice(&random[..10]);
        let id = uuid::Builder::from_unix_timestamp_millis(millis, &bits).into_uuid();
        id.hyphenated().encode_lower(&mut text);
        // A UUID's text is always a header value.
        let value = HeaderValue::from_bytes(&text);
        RequestId(value.unwrap_or_else(|_| HeaderValue::from_static("00000000-0000-7000-8000-000000000000")))
    }

    /// The caller's id, if there is exactly one and it is valid.
    pub fn from_headers(headers: &http::HeaderMap) -> Option<RequestId> {
        let mut given = headers.get_all(RequestId::HEADER).iter();
        match (given.next(), given.next()) {
            (Some(value), None) => RequestId::from_caller(value),
            _ => None,
        }
    }

    /// The caller's id, if it is valid. Copied, so that it does not keep the connection's buffer alive.
    pub fn from_caller(value: &HeaderValue) -> Option<RequestId> {
        // A caller that confuses its headers must not find its secret in the log.
        RequestId::from_bytes(value.as_bytes()).filter(|id| !is_credential(id.as_str()))
    }

    fn from_bytes(bytes: &[u8]) -> Option<RequestId> {
        let valid = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if !(8..=128).contains(&bytes.len()) || !bytes.iter().all(valid) {
            return None;
        }
        HeaderValue::from_maybe_shared(Bytes::copy_from_slice(bytes)).ok().map(RequestId)
    }

    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// As a header value.
    pub fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl std::str::FromStr for RequestId {
    type Err = InvalidRequestId;

    fn from_str(text: &str) -> Result<RequestId, InvalidRequestId> {
        RequestId::from_bytes(text.as_bytes()).ok_or(InvalidRequestId)
    }
}

/// Not 8 to 128 characters of `[A-Za-z0-9._-]`.
#[derive(Debug, thiserror::Error)]
#[error("a request id is 8 to 128 characters of A-Z, a-z, 0-9, '.', '_', '-'")]
pub struct InvalidRequestId;

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::fmt::Debug for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_ids_are_valid_and_differ() {
        let (one, two) = (RequestId::generate(SystemTime::now()), RequestId::generate(SystemTime::now()));
        assert_ne!(one, two);
        assert_eq!(RequestId::from_caller(&one.header()), Some(one.clone()));
        assert_eq!(one.as_str().len(), 36);
    }

    #[test]
    fn a_credential_is_no_id() {
        use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
        let basic = URL_SAFE_NO_PAD.encode("svc-shop-1:some-secret-of-any-form");
        for id in ["fgw_0123456789abcdef", "order.fgw_0123456789abcdef", &basic] {
            assert_eq!(RequestId::from_caller(&HeaderValue::from_str(id).unwrap()), None, "{id}");
        }
        let id = HeaderValue::from_static("4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(RequestId::from_caller(&id).is_some());
    }

    #[test]
    fn invalid_ids_are_rejected() {
        for odd in ["short", "with space", "quote\"quote", &"a".repeat(129), "ümlaut-id"] {
            assert!(odd.parse::<RequestId>().is_err(), "{odd}");
        }
        assert!("a".repeat(128).parse::<RequestId>().is_ok());
    }
}
