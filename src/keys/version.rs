//! The version of a key pair: a digest that may be shown in metrics, logs and `/status`.
//!
//! The same pair has the same version on every replica and after every restart. Fails with
//! [`NotAVersion`].

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

use super::secret::Secret;

/// Rounds of hashing behind a version, which makes each guess at a weak secret cost half a millisecond.
const STRETCH: u32 = 1 << 12;

/// Eight hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PairVersion([u8; 8]);

impl PairVersion {
    pub(super) fn of(access: &Secret, secret: &Secret) -> Self {
        let mut digest = Sha256::new_with_prefix(b"fastrac-gateway key pair version 1\0");
        for half in [access, secret] {
            // Its length first, so that no two pairs have the same bytes.
            digest.update((half.expose().len() as u64).to_be_bytes());
            digest.update(half.expose());
        }
        let mut bytes = digest.finalize();
        for _ in 0..STRETCH {
            bytes = Sha256::digest(bytes);
        }
        let mut text = [0; 8];
        // Four bytes are eight digits.
        let _ = hex::encode_to_slice(&bytes[..4], &mut text);
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

/// The text is not a version.
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
