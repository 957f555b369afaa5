//! What makes two orders the same: digests over length-prefixed parts, so that no two lists of parts
//! have the same bytes.
//!
//! The journal holds these instead of keys and request bodies, which may name people.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest as _, Sha256};

/// SHA-256 over the parts of one of the three questions below.
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

    /// Which key is it? Keys belong to a service.
    pub(super) fn key(service: &str, key: &[u8]) -> Self {
        OrderDigest::of(&[service.as_bytes(), key])
    }

    /// Is it the request that the key stood on before?
    pub(super) fn fingerprint(method: &str, target: &str, body: &[u8]) -> Self {
        OrderDigest::of(&[method.as_bytes(), target.as_bytes(), body])
    }

    /// Is it the order whose outcome is unknown?
    pub(super) fn twin(service: &str, target: &str, body: &[u8]) -> Self {
        OrderDigest::of(&[service.as_bytes(), target.as_bytes(), body])
    }

    /// As text, for a row.
    pub(super) fn to_text(self) -> String {
        STANDARD_NO_PAD.encode(self.0)
    }

    /// From a row.
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
