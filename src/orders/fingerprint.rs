//! Digests that tell whether two orders are the same.
//!
//! Each is taken over length-prefixed parts, so that different lists of parts never have the same
//! bytes. The journal stores digests instead of keys and bodies, which may contain personal data.
//! Pure; never fails.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use http::Method;
use serde_json::Value;
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

    /// Identifies equal orders: the same service, method, target and raw body. POST, which every listed order has, is not
    /// part of it, so that journals of earlier versions stay valid.
    pub(super) fn content(service: &str, method: &Method, target: &str, body: &[u8]) -> Self {
        match *method {
            Method::POST => OrderDigest::of(&[service.as_bytes(), target.as_bytes(), body]),
            _ => OrderDigest::of(&[service.as_bytes(), method.as_str().as_bytes(), target.as_bytes(), body]),
        }
    }

    /// Identifies shipper and receiver. Case and spaces do not count: Fastrac may show them differently.
    pub(super) fn parties(parties: &Parties<'_>) -> Self {
        let Parties { shipper_name, shipper_address, receiver_name, receiver_address } = *parties;
        let plain = [shipper_name, shipper_address, receiver_name, receiver_address]
            .map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ").to_uppercase());
        OrderDigest::of(&plain.each_ref().map(String::as_bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads [`OrderDigest::as_bytes`].
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(OrderDigest)
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

/// From whom to whom a shipment goes.
#[derive(Clone, Copy, Debug)]
pub struct Parties<'a> {
    pub shipper_name: &'a str,
    pub shipper_address: &'a str,
    pub receiver_name: &'a str,
    pub receiver_address: &'a str,
}

impl<'a> Parties<'a> {
    /// Those that an order names.
    pub(super) fn of_order(order: &'a Value) -> Option<Self> {
        Some(Parties {
            shipper_name: order["shipper"]["name"].as_str()?,
            shipper_address: order["shipper"]["address"].as_str()?,
            receiver_name: order["receiver"]["name"].as_str()?,
            receiver_address: order["receiver"]["address"].as_str()?,
        })
    }

    /// A text that is equal for equal parties and does not reveal them.
    pub fn digest(&self) -> String {
        OrderDigest::parties(self).to_text()
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

    fn contents() -> impl Strategy<Value = (String, Method, String, String)> {
        let methods = prop_oneof![Just(Method::POST), Just(Method::PUT), Just(Method::from_bytes(b"a").unwrap())];
        ("[ab]{0,2}", methods, "[ab]{0,2}", "[ab]{0,2}")
    }

    proptest! {
        #[test]
        fn different_parts_never_meet(a in proptest::array::uniform3("[ab]{0,3}"), b in proptest::array::uniform3("[ab]{0,3}")) {
            let of = |parts: &[String; 3]| OrderDigest::fingerprint(&parts[0], &parts[1], parts[2].as_bytes());
            prop_assert_eq!(of(&a) == of(&b), a == b);
        }

        #[test]
        fn different_requests_are_not_equal(a in contents(), b in contents()) {
            let of = |(service, method, target, body): &(String, Method, String, String)| {
                OrderDigest::content(service, method, target, body.as_bytes())
            };
            prop_assert_eq!(of(&a) == of(&b), a == b);
        }

        #[test]
        fn text_comes_back(service in ".*", key in ".*") {
            let digest = OrderDigest::key(&service, key.as_bytes());
            prop_assert_eq!(OrderDigest::from_text(&digest.to_text()), Some(digest));
        }
    }
}
