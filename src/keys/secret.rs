//! The types that hold a key pair.
//!
//! What always holds: a [`Secret`] is zeroed when dropped, prints `[redacted]`, and has one
//! [`Secret::expose`]; a [`KeyPair`]'s halves come from one reading and never part; its header values
//! stand in buffers that are zeroed with their last user and are marked sensitive. The [`PairVersion`] is
//! all that may ever be shown of a pair. Knows no file and no clock. It fails with [`BadPair`].

use std::{fmt, str::FromStr, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::HeaderValue;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::leak::Forms;

/// Longest half, bytes.
const MAX_HALF: usize = 4096;
/// How often the digest behind a version is hashed again: a version is shown in metrics and logs, and
/// each guess at a weak secret shall cost that much. Half a millisecond when a pair is loaded.
const STRETCH: u32 = 1 << 12;

/// A value that must not be seen.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the value over; the caller must not keep a copy.
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value without the newlines at its end that editors and `echo` leave.
    pub(super) fn line(value: String) -> Self {
        let trimmed = value.trim_end_matches(['\r', '\n']).len();
        let mut secret = Self::new(value);
        secret.0.truncate(trimmed);
        secret
    }

    /// The value itself, for the places that write a header or read a source.
    pub fn expose(&self) -> &str {
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

/// The opaque digest of a pair: eight hexadecimal digits, the same on every replica.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PairVersion([u8; 8]);

impl PairVersion {
    fn of(access: &Secret, secret: &Secret) -> Self {
        let start = |half: &Secret| (half.expose().len() as u64).to_be_bytes();
        let mut digest = Sha256::new_with_prefix(b"fastrac-gateway key pair version 1\0");
        for half in [access, secret] {
            digest.update(start(half));
            digest.update(half.expose());
        }
        let mut bytes = digest.finalize();
        for _ in 0..STRETCH {
            bytes = Sha256::digest(bytes);
        }
        let mut text = [0; 8];
        for (at, digit) in text.iter_mut().enumerate() {
            let nibble = (bytes[at / 2] >> (4 * (1 - at % 2))) & 0xf;
            *digit = b"0123456789abcdef"[usize::from(nibble)];
        }
        Self(text)
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for PairVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for PairVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text is not a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key version is eight hexadecimal digits")]
pub struct NotAVersion;

impl FromStr for PairVersion {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let digits: [u8; 8] = text.as_bytes().try_into().map_err(|_| NotAVersion)?;
        let good = digits.iter().all(u8::is_ascii_hexdigit);
        good.then(|| Self(digits.map(|digit| digit.to_ascii_lowercase()))).ok_or(NotAVersion)
    }
}

/// Two values are no pair. Says which half, never what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPair {
    /// A half is empty.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// A half is longer than any key.
    #[error("{0} is longer than 4096 bytes")]
    TooLong(&'static str),
    /// A half has a space, a control or a non-ASCII character, and can't stand in a header.
    #[error("{0} holds a character other than visible ASCII")]
    Character(&'static str),
    /// Basic authentication would split it there (RFC 7617).
    #[error("access_key holds a colon")]
    Colon,
}

/// An access key and its secret key, with all that is made of them once.
pub struct KeyPair {
    access: Secret,
    secret: Secret,
    version: PairVersion,
    version_text: Arc<str>,
    /// The source's own number of it.
    number: Option<u64>,
    headers: Headers,
    forms: Forms,
}

/// A pair's header values, sensitive, sharing one zeroing buffer each.
#[derive(Clone)]
pub(super) struct Headers {
    pub(super) access_key: HeaderValue,
    pub(super) secret_key: HeaderValue,
    pub(super) basic: HeaderValue,
}

impl KeyPair {
    /// Makes a pair of two values of one reading.
    ///
    /// # Errors
    /// [`BadPair`] when a half can't be a key.
    pub fn new(access: Secret, secret: Secret) -> Result<Self, BadPair> {
        check("access_key", &access)?;
        check("secret_key", &secret)?;
        if access.expose().contains(':') {
            return Err(BadPair::Colon);
        }
        let joined = Zeroizing::new([access.expose(), ":", secret.expose()].concat());
        // Encoded in place: a growing string would leave unzeroed copies behind.
        let mut encoded = Zeroizing::new(vec![0; joined.len().div_ceil(3) * 4]);
        let len = STANDARD.encode_slice(joined.as_bytes(), &mut encoded).unwrap_or_default();
        encoded.truncate(len);
        let headers = Headers {
            access_key: header("access_key", access.expose().as_bytes().to_vec())?,
            secret_key: header("secret_key", secret.expose().as_bytes().to_vec())?,
            basic: header("secret_key", [b"Basic ", encoded.as_slice()].concat())?,
        };
        let forms = Forms::new(secret.expose().as_bytes(), &encoded);
        let version = PairVersion::of(&access, &secret);
        Ok(Self { version, version_text: version.as_str().into(), number: None, access, secret, headers, forms })
    }

    /// Its digest.
    pub fn version(&self) -> PairVersion {
        self.version
    }

    /// Its digest as text, for records.
    pub(super) fn version_text(&self) -> &Arc<str> {
        &self.version_text
    }

    /// The same, under the number that its source gave it.
    pub(super) fn numbered(mut self, number: Option<u64>) -> Self {
        self.number = number;
        self
    }

    /// The source's own number of it, if it has one.
    pub fn number(&self) -> Option<u64> {
        self.number
    }

    /// Whether both halves are the same as the other's.
    pub(crate) fn same(&self, access: &Secret, secret: &Secret) -> bool {
        self.access.expose() == access.expose() && self.secret.expose() == secret.expose()
    }

    /// Both halves.
    pub(super) fn halves(&self) -> (&Secret, &Secret) {
        (&self.access, &self.secret)
    }

    pub(super) fn headers(&self) -> &Headers {
        &self.headers
    }

    pub(super) fn forms(&self) -> &Forms {
        &self.forms
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("version", &self.version).finish_non_exhaustive()
    }
}

fn check(name: &'static str, half: &Secret) -> Result<(), BadPair> {
    let bytes = half.expose().as_bytes();
    match bytes.len() {
        0 => Err(BadPair::Empty(name)),
        len if len > MAX_HALF => Err(BadPair::TooLong(name)),
        _ if !bytes.iter().all(u8::is_ascii_graphic) => Err(BadPair::Character(name)),
        _ => Ok(()),
    }
}

/// A header value on a buffer of its own, sensitive and zeroed.
pub(super) fn header(name: &'static str, bytes: Vec<u8>) -> Result<HeaderValue, BadPair> {
    let shared = Bytes::from_owner(Zeroed(bytes));
    let mut value = HeaderValue::from_maybe_shared(shared).map_err(|_| BadPair::Character(name))?;
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
