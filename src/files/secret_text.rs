//! Parses texts that may contain secrets: TOML and PEM.
//!
//! The parsers' own errors quote the line that they complain about: of a PEM file without line breaks, that is the whole
//! private key. Here an error is a [`TextFault`], which cannot be displayed and has nothing of the text; calling the
//! parsers directly is banned (`clippy.toml`). Fails with [`TextFault`].

#![allow(clippy::disallowed_methods, reason = "the only place that calls the parsers; their errors are dropped here")]

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde::de::DeserializeOwned;

/// A text that cannot be parsed. Has neither `Display` nor `Debug`: the reader says what the text should be.
pub(crate) struct TextFault {
    /// The line, counted from 1; `None`: unknown.
    pub(crate) line: Option<usize>,
}

/// The value of a TOML text.
///
/// # Errors
/// [`TextFault`] with its line.
pub(crate) fn toml<T: DeserializeOwned>(text: &str) -> Result<T, TextFault> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        TextFault { line: Some(1 + memchr::memchr_iter(b'\n', &text.as_bytes()[..at]).count()) }
    })
}

/// Every `CERTIFICATE` block of a PEM text.
///
/// # Errors
/// [`TextFault`] if any part of the text is broken.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TextFault> {
    let blocks: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    blocks.map_err(|_| TextFault { line: None })
}

/// The first private key of a PEM text.
///
/// # Errors
/// [`TextFault`] if there is none, or the text before it is broken.
pub(super) fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TextFault> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| TextFault { line: None })
}
