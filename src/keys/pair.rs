//! A key pair: as it was read ([`RawPair`]), checked and prepared for signing ([`KeyPair`]), and loaded for
//! an account ([`LoadedPair`]).
//!
//! Both halves come from one reading of the source and are never recombined. Knows no file and no
//! source. Fails with [`PairError`], which names the half and quotes nothing.

use std::{fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderValue;
use jiff::Timestamp;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{
    account_pairs::AccountPairs,
    last_accepted::LastAccepted,
    leak::SecretForms,
    read_at::ReadAt,
    secret::{Secret, sensitive_header},
    source_traits::{LatestSource, SourceId},
    version::PairVersion,
};

/// Maximum length of a half, in bytes.
const MAX_HALF: usize = 4096;

/// Both halves as they were read together, not checked yet.
pub(crate) struct RawPair {
    pub(crate) access: Secret,
    pub(crate) secret: Secret,
    /// Where they were read, for error messages.
    pub(crate) place: String,
    /// The source's own version number; `None`: it numbers none.
    pub(crate) version: Option<u64>,
}

/// Two values are not a key pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PairError {
    #[error("{0} is empty")]
    Empty(&'static str),
    #[error("{0} is longer than 4096 bytes")]
    TooLong(&'static str),
    /// A half has a space, a control or a non-ASCII character.
    #[error("{0} holds a character other than visible ASCII")]
    Character(&'static str),
    /// The access key has a colon, where Basic authentication would split it (RFC 7617).
    #[error("access_key holds a colon")]
    Colon,
}

/// An access key and its secret key, with what signing needs, prepared once.
#[cfg_attr(test, derive(Clone))]
pub(crate) struct KeyPair {
    access: Secret,
    secret: Secret,
    version: PairVersion,
    version_text: Arc<str>,
    /// The source's own version number; `None`: it numbers none.
    number: Option<u64>,
    headers: PairHeaders,
    forms: Arc<SecretForms>,
}

/// A pair's header values: sensitive, each in one shared buffer that is zeroed.
#[derive(Clone)]
pub(super) struct PairHeaders {
    pub(super) access_key: HeaderValue,
    pub(super) secret_key: HeaderValue,
    pub(super) basic: HeaderValue,
}

impl KeyPair {
    /// Checks two values of one reading, and prepares the pair for signing. Takes half a millisecond.
    ///
    /// # Errors
    /// [`PairError`]
    pub(crate) fn new(access: Secret, secret: Secret) -> Result<Self, PairError> {
        check_access_key(&access)?;
        check_secret_key(&secret)?;
        let joined = Zeroizing::new([access.expose(), ":", secret.expose()].concat());
        // Encoded in place: a growing string would leave unzeroed copies behind.
        let mut encoded = Zeroizing::new(vec![0; joined.len().div_ceil(3) * 4]);
        let len = STANDARD.encode_slice(joined.as_bytes(), &mut encoded).unwrap_or_default();
        encoded.truncate(len);
        let header = |name, bytes| sensitive_header(bytes).map_err(|_| PairError::Character(name));
        let headers = PairHeaders {
            access_key: header("access_key", access.expose().as_bytes().to_vec())?,
            secret_key: header("secret_key", secret.expose().as_bytes().to_vec())?,
            basic: header("secret_key", [b"Basic ", encoded.as_slice()].concat())?,
        };
        let forms = Arc::new(SecretForms::new(secret.expose().as_bytes(), &encoded));
        let version = PairVersion::of(&access, &secret);
        Ok(Self { version, version_text: version.as_str().into(), number: None, access, secret, headers, forms })
    }

    pub(crate) fn version(&self) -> PairVersion {
        self.version
    }

    /// The version as text, shared by all records.
    pub(super) fn version_text(&self) -> &Arc<str> {
        &self.version_text
    }

    /// Sets the number that its source gave it.
    pub(super) fn numbered(mut self, number: Option<u64>) -> Self {
        self.number = number;
        self
    }

    /// The source's own version number, if it has one.
    pub(crate) fn number(&self) -> Option<u64> {
        self.number
    }

    pub(crate) fn same(&self, access: &Secret, secret: &Secret) -> bool {
        self.access.expose() == access.expose() && self.secret.expose() == secret.expose()
    }

    /// Access key and secret key.
    pub(super) fn halves(&self) -> (&Secret, &Secret) {
        (&self.access, &self.secret)
    }

    pub(super) fn headers(&self) -> &PairHeaders {
        &self.headers
    }

    pub(super) fn forms(&self) -> &Arc<SecretForms> {
        &self.forms
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Checks one half.
///
/// # Errors
/// [`PairError`]
pub(super) fn check_access_key(half: &Secret) -> Result<(), PairError> {
    check("access_key", half)?;
    if half.expose().contains(':') { Err(PairError::Colon) } else { Ok(()) }
}

/// Checks the other half.
///
/// # Errors
/// [`PairError`]
pub(super) fn check_secret_key(half: &Secret) -> Result<(), PairError> {
    check("secret_key", half)
}

fn check(name: &'static str, half: &Secret) -> Result<(), PairError> {
    let bytes = half.expose().as_bytes();
    match bytes.len() {
        0 => Err(PairError::Empty(name)),
        len if len > MAX_HALF => Err(PairError::TooLong(name)),
        _ if !bytes.iter().all(u8::is_ascii_graphic) => Err(PairError::Character(name)),
        _ => Ok(()),
    }
}

/// A pair as it was loaded for an account.
pub(crate) struct LoadedPair {
    pub(crate) pair: KeyPair,
    pub(crate) loaded_at: Timestamp,
    accepted: LastAccepted,
    source: LatestSource,
    /// What all pairs of the account share.
    shared: Arc<AccountPairs>,
}

impl LoadedPair {
    pub(crate) fn new(pair: KeyPair, read: ReadAt, source: SourceId, shared: Arc<AccountPairs>) -> Self {
        let (accepted, source) = (LastAccepted::new(read.instant), LatestSource::new(source));
        Self { pair, loaded_at: read.wall, accepted, source, shared }
    }

    /// Name of the account.
    pub(super) fn account(&self) -> &str {
        &self.shared.account
    }

    /// Fastrac accepted a request that was signed with it and sent at `sent`.
    pub(super) fn note_accepted(&self, sent: Instant) {
        self.accepted.note(sent);
    }

    /// When the last such request was sent.
    pub(super) fn last_accepted(&self) -> Option<Instant> {
        self.accepted.get()
    }

    /// Notes that a source has returned it too.
    pub(super) fn note_source(&self, source: SourceId) {
        self.source.note(source);
    }

    /// The latest source that has returned it.
    pub(super) fn source(&self) -> SourceId {
        self.source.get()
    }

    pub(super) fn was_read_before(&self, instant: Instant) -> bool {
        self.accepted.loaded() < instant
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.shared.revoked.contains(self.version())
    }

    /// Whether one of these texts contains the secret, or another live one of the account.
    pub(super) fn any_leaks_in<'t>(&self, texts: impl Iterator<Item = &'t [u8]>) -> bool {
        self.shared.any_leaks_in(texts, self.pair.forms())
    }

    /// Maximum length of a form of these secrets in a body, in bytes.
    pub(super) fn max_secret_len(&self) -> usize {
        self.pair.forms().max_len().max(self.shared.max_len())
    }

    pub(crate) fn version(&self) -> PairVersion {
        self.pair.version()
    }
}
