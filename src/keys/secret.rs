//! A value that must not be seen: zeroed when dropped, printed as `[redacted]`.
//!
//! [`Secret::expose`] is called only where a header is written or a source is read. A header value made
//! here is marked sensitive and is in a buffer that is zeroed when its last user drops it.

use std::fmt;

use bytes::Bytes;
use http::{HeaderValue, header::InvalidHeaderValue};
use zeroize::{Zeroize, Zeroizing};

/// A value that is never printed.
#[derive(Clone)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes ownership of the value; the caller must not keep a copy.
    pub(crate) fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value without newlines at its end, which editors and `echo` leave.
    pub(crate) fn line(value: String) -> Self {
        let trimmed = value.trim_end_matches(['\r', '\n']).len();
        let mut secret = Self::new(value);
        secret.0.truncate(trimmed);
        secret
    }

    /// The value itself, to write a header or to log in to a source.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A sensitive header value in a buffer of its own.
///
/// # Errors
/// A byte that no header value may have.
pub(super) fn sensitive_header(bytes: Vec<u8>) -> Result<HeaderValue, InvalidHeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(Zeroed(bytes)))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The buffer behind a header value.
struct Zeroed(Vec<u8>);

impl AsRef<[u8]> for Zeroed {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Zeroed {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
