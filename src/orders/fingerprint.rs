//! Digests that tell whether two orders are the same.
//!
//! Each is taken over length-prefixed parts, so that different lists of parts never have the same
//! bytes. The journal stores digests instead of keys and bodies, which may contain personal data.
//! Pure; never fails.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct OrderDigest([u8; 32]);

impl OrderDigest {
    fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        OrderDigest(hash.finalize().into())
    }

    /// Identifies an `Idempotency-Key` of a service.
    pub(super) fn key(service: &str, key: &[u8]) -> Self {
        OrderDigest::of(&[service.as_bytes(), key])
    }

    /// Identifies the request that a key was used for.
    pub(super) fn fingerprint(method: &str, target: &str, body: &[u8]) -> Self {
        OrderDigest::of(&[method.as_bytes(), target.as_bytes(), body])
    }

    /// Identifies equal orders: the same service, target and raw body.
    pub(super) fn content(service: &str, target: &str, body: &[u8]) -> Self {
        OrderDigest::of(&[service.as_bytes(), target.as_bytes(), body])
    }

    /// Base64, as stored in a row.
    pub(super) fn to_text(self) -> String {
        STANDARD_NO_PAD.encode(self.0)
    }

    /// Reads [`OrderDigest::to_text`].
    pub(super) fn from_text(text: &str) -> Option<Self> {
        STANDARD_NO_PAD.decode(text).ok()?.try_into().ok().map(OrderDigest)
    }
}

impl fmt::Debug for OrderDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text()[..8])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn different_parts_never_meet(a in proptest::array::uniform3("[ab]{0,3}"), b in proptest::array::uniform3("[ab]{0,3}")) {
            let of = |parts: &[String; 3]| OrderDigest::fingerprint(&parts[0], &parts[1], parts[2].as_bytes());
            prop_assert_eq!(of(&a) == of(&b), a == b);
        }

        #[test]
        fn text_comes_back(service in ".*", key in ".*") {
            let digest = OrderDigest::key(&service, key.as_bytes());
            prop_assert_eq!(OrderDigest::from_text(&digest.to_text()), Some(digest));
        }
    }
}
