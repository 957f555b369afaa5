//! The cache key. Pure.
//!
//! What always holds: a key is a length-prefixed tuple and therefore injective: requests that differ do not share one.
//! Requests that only spell the same thing differently do: query parameters in another order (those with equal names
//! keep theirs, nothing is decoded), JSON bodies of the same value (see `canonical`). A request can be made from its key
//! that Fastrac answers as it would answer the one that the key was made of. Must not know the cache. Fails by making no
//! key, for a body that has no canonical form.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, uri::PathAndQuery};
use serde::{Deserialize, Serialize};

use super::canonical;
use crate::headers::Nominated;

/// What a stored response depends on.
#[derive(Clone, Copy, Debug)]
pub struct KeyParts<'a> {
    pub account: &'a str,
    /// Where the account's operation is called: after a change of the address nothing is answered from the old one.
    pub address: &'a str,
    /// Name of the operation.
    pub operation: &'a str,
    /// Absent if all services of the account share the response.
    pub service: Option<&'a str>,
    /// See `method`.
    pub method: &'a str,
    /// As received.
    pub path: &'a str,
    /// As received, without the question mark.
    pub query: Option<&'a str>,
    /// See `vary`.
    pub vary: &'a [VaryValues<'a>],
    /// As received.
    pub body: &'a [u8],
}

/// The values of one of the headers that an operation declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaryValues<'a> {
    pub name: &'a HeaderName,
    /// In their order; none if the header is absent.
    pub values: Vec<&'a HeaderValue>,
}

/// The method in a key: HEAD is answered from the stored GET.
pub(crate) fn method(method: &Method) -> &str {
    if method == Method::HEAD { Method::GET.as_str() } else { method.as_str() }
}

/// The values of the headers that an operation declares, in its order. An absent header differs from an empty one; one
/// that `Connection` names is not sent, so it counts as absent.
pub(crate) fn vary<'a>(headers: &'a HeaderMap, names: &'a [HeaderName]) -> Vec<VaryValues<'a>> {
    if names.is_empty() {
        return Vec::new();
    }
    let nominated = Nominated::of(headers);
    let values = |name: &'a HeaderName| {
        let values = headers.get_all(name).iter().filter(|_| !nominated.contains(name.as_str()));
        VaryValues { name, values: values.collect() }
    };
    names.iter().map(values).collect()
}

/// A canonical key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Box<[u8]>);

/// The request that a key was made of, in its canonical form.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyRequest<'a> {
    pub account: &'a str,
    pub address: &'a str,
    pub operation: &'a str,
    pub service: Option<&'a str>,
    pub method: Method,
    /// Path and query.
    pub target: PathAndQuery,
    /// Those that the operation declares.
    pub headers: HeaderMap,
    /// Canonical JSON, or empty.
    pub body: Bytes,
}

/// Which keys are meant: those for which all that is given holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurgeScope {
    pub account: Option<String>,
    /// Name of the operation.
    pub operation: Option<String>,
    /// The path, as received, begins with this text.
    pub path_prefix: Option<String>,
}

/// In place of a length: the field is absent.
const ABSENT: u32 = u32::MAX;

impl Key {
    /// `None`: the body has no canonical form, so that it cannot be said which requests are the same.
    pub fn new(parts: KeyParts<'_>) -> Option<Self> {
        let query = parts.query.map(sorted);
        let length = parts.address.len() + parts.path.len() + parts.body.len() + query.as_ref().map_or(0, |q| q.len());
        let mut out = Vec::with_capacity(128 + length);
        field(&mut out, parts.account.as_bytes());
        field(&mut out, parts.address.as_bytes());
        field(&mut out, parts.operation.as_bytes());
        optional(&mut out, parts.service);
        field(&mut out, parts.method.as_bytes());
        field(&mut out, parts.path.as_bytes());
        optional(&mut out, query.as_deref());
        number(&mut out, parts.vary.len());
        for VaryValues { name, values } in parts.vary {
            field(&mut out, name.as_str().as_bytes());
            number(&mut out, values.len());
            values.iter().for_each(|value| field(&mut out, value.as_bytes()));
        }
        // The last field needs no length.
        if !parts.body.is_empty() {
            canonical::append(&mut out, parts.body)?;
        }
        Some(Key(out.into_boxed_slice()))
    }

    /// The key that these bytes are, if they are one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let key = Key(bytes.into());
        key.request().is_some().then_some(key)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The request that it was made of. `None` only if one of its parts is none of an HTTP request.
    pub fn request(&self) -> Option<KeyRequest<'_>> {
        let mut fields = Fields(&self.0);
        let (account, address, operation) = (fields.text()?, fields.text()?, fields.text()?);
        let service = fields.optional()?;
        let method = Method::from_bytes(fields.field()?).ok()?;
        let (path, query) = (fields.text()?, fields.optional()?);
        let target = match query {
            Some(query) => PathAndQuery::try_from(format!("{path}?{query}")).ok()?,
            None => PathAndQuery::try_from(path).ok()?,
        };
        let mut headers = HeaderMap::new();
        for _ in 0..fields.number()? {
            let name = HeaderName::from_bytes(fields.field()?).ok()?;
            for _ in 0..fields.number()? {
                headers.append(&name, HeaderValue::from_bytes(fields.field()?).ok()?);
            }
        }
        let body = Bytes::copy_from_slice(fields.0);
        Some(KeyRequest { account, address, operation, service, method, target, headers, body })
    }

    pub(crate) fn is_within(&self, scope: &PurgeScope) -> bool {
        let mut fields = Fields(&self.0);
        let mut field = || fields.field().unwrap_or_default();
        let (account, _address, operation) = (field(), field(), field());
        let _service = fields.optional();
        let mut field = || fields.field().unwrap_or_default();
        let (_method, path) = (field(), field());
        let is = |wanted: &Option<String>, own: &[u8]| wanted.as_ref().is_none_or(|wanted| wanted.as_bytes() == own);
        let begins = |prefix: &String| path.starts_with(prefix.as_bytes());
        is(&scope.account, account) && is(&scope.operation, operation) && scope.path_prefix.as_ref().is_none_or(begins)
    }

    /// In bytes.
    pub(crate) fn size(&self) -> usize {
        self.0.len()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({} bytes)", self.0.len())
    }
}

/// Lengths fit: heads and bodies of requests have limits far below.
fn number(out: &mut Vec<u8>, number: usize) {
    out.extend_from_slice(&(number as u32).to_be_bytes());
}

fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn optional(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => field(out, text.as_bytes()),
        None => out.extend_from_slice(&ABSENT.to_be_bytes()),
    }
}

/// A query with its parameters sorted by name; stable, so equal names keep their order.
fn sorted(query: &str) -> Cow<'_, str> {
    if !query.contains('&') {
        return Cow::Borrowed(query);
    }
    let mut parameters: Vec<&str> = query.split('&').collect();
    parameters.sort_by_key(|p| p.split_once('=').map_or(*p, |(name, _)| name));
    Cow::Owned(parameters.join("&"))
}

/// What is left of a key that is being read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    fn bytes(&mut self, length: u32) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length as usize)?;
        self.0 = rest;
        Some(bytes)
    }

    fn field(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.bytes(length)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.field()?).ok()
    }

    /// `Some(None)`: it is absent.
    fn optional(&mut self) -> Option<Option<&'a str>> {
        match self.number()? {
            ABSENT => Some(None),
            length => Some(Some(std::str::from_utf8(self.bytes(length)?).ok()?)),
        }
    }
}

/// The key of a plain GET.
#[cfg(test)]
pub(crate) fn key_of_path(path: &str) -> Key {
    let (account, address, operation, method) = ("main", "https://b2b.example", "v2.city", "GET");
    let parts =
        KeyParts { account, address, operation, service: None, method, path, query: None, vary: &[], body: b"" };
    Key::new(parts).expect("there is no body")
}

#[cfg(test)]
mod tests;
