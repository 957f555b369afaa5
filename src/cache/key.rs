//! The cache key. Pure.
//!
//! What always holds: a key is a length-prefixed tuple and therefore injective: requests that differ do not share one.
//! Requests that only spell the same thing differently do: query parameters in another order (those with equal names
//! keep theirs, nothing is decoded), JSON bodies with other white space or order of members (numbers and strings keep
//! their text, so that no number type loses digits). Must not know the cache. Never fails.

use http::{HeaderMap, HeaderName, Method};
use serde_json::value::RawValue;

use crate::headers::Nominated;

/// What a stored response depends on.
#[derive(Clone, Copy, Debug)]
pub struct KeyParts<'a> {
    pub account: &'a str,
    /// Where the account's operation is called: after a change of the address nothing is answered from the old one.
    pub address: &'a str,
    /// Absent if all services of the account share the response.
    pub service: Option<&'a str>,
    /// See `method`.
    pub method: &'a str,
    /// As received.
    pub path: &'a str,
    /// As received, without the question mark.
    pub query: Option<&'a str>,
    /// See `vary`.
    pub vary: &'a [Vec<u8>],
    /// As received.
    pub body: &'a [u8],
}

/// The method in a key: HEAD is answered from the stored GET.
pub(crate) fn method(method: &Method) -> &str {
    if method == Method::HEAD { Method::GET.as_str() } else { method.as_str() }
}

/// The values of the headers that an operation declares, in its order. An absent header differs from an empty one; one
/// that `Connection` names is not sent, so it counts as absent.
pub(crate) fn vary(headers: &HeaderMap, names: &[HeaderName]) -> Vec<Vec<u8>> {
    if names.is_empty() {
        return Vec::new();
    }
    let nominated = Nominated::of(headers);
    // All values are sent, so all belong to the key; no value contains a NUL.
    let values = |name: &HeaderName| {
        let sent = headers.get_all(name).iter().filter(|_| !nominated.contains(name.as_str()));
        sent.flat_map(|value| [b"\0", value.as_bytes()].concat()).collect()
    };
    names.iter().map(values).collect()
}

/// A canonical key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Box<[u8]>);

impl Key {
    pub fn new(parts: KeyParts<'_>) -> Self {
        let mut out = Vec::with_capacity(96 + parts.address.len() + parts.path.len() + parts.body.len());
        field(&mut out, parts.account.as_bytes());
        field(&mut out, parts.address.as_bytes());
        field(&mut out, parts.service.unwrap_or("\0").as_bytes());
        field(&mut out, parts.method.as_bytes());
        field(&mut out, parts.path.as_bytes());
        query(&mut out, parts.query);
        for value in parts.vary {
            field(&mut out, value);
        }
        match canonical(parts.body) {
            Some(json) => {
                out.push(b'j');
                field(&mut out, &json);
            }
            None => {
                out.push(b'r');
                field(&mut out, parts.body);
            }
        }
        Key(out.into_boxed_slice())
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

fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Parameters sorted by name; stable, so equal names keep their order.
fn query(out: &mut Vec<u8>, query: Option<&str>) {
    let Some(query) = query else { return out.extend_from_slice(&u32::MAX.to_be_bytes()) };
    if !query.contains('&') {
        out.extend_from_slice(&1u32.to_be_bytes());
        return field(out, query.as_bytes());
    }
    let mut parameters: Vec<&str> = query.split('&').collect();
    parameters.sort_by_key(|p| p.split_once('=').map_or(*p, |(name, _)| name));
    out.extend_from_slice(&(parameters.len() as u32).to_be_bytes());
    for parameter in parameters {
        field(out, parameter.as_bytes());
    }
}

/// Levels of nesting; deeper bodies are compared byte by byte.
const MAX_DEPTH: u32 = 24;

/// Size of a body in bytes; longer ones are compared byte by byte. Each level of nesting is scanned once more, so this
/// bounds the work to `MAX_DEPTH` times as many bytes: well under a millisecond.
const MAX_CANONICAL: usize = 16 << 10;

fn canonical(body: &[u8]) -> Option<Vec<u8>> {
    if body.is_empty() || body.len() > MAX_CANONICAL {
        return None;
    }
    let raw: &RawValue = serde_json::from_slice(body).ok()?;
    let mut out = Vec::with_capacity(body.len());
    write(&mut out, raw, MAX_DEPTH)?;
    Some(out)
}

fn write(out: &mut Vec<u8>, value: &RawValue, depth: u32) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    match value.get().as_bytes().first()? {
        b'{' => {
            let mut members = members(value)?;
            members.sort_by(|a, b| a.0.cmp(&b.0));
            out.push(b'{');
            for (i, (name, member)) in members.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                serde_json::to_writer(&mut *out, name).ok()?;
                out.push(b':');
                write(out, member, depth)?;
            }
            out.push(b'}');
        }
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(value.get()).ok()?;
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(out, item, depth)?;
            }
            out.push(b']');
        }
        _ => out.extend_from_slice(value.get().trim().as_bytes()),
    }
    Some(())
}

/// The members of an object in their order, duplicates included.
fn members(value: &RawValue) -> Option<Vec<(String, &RawValue)>> {
    struct Members;
    impl<'de> serde::de::Visitor<'de> for Members {
        type Value = Vec<(String, &'de RawValue)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(entry) = map.next_entry()? {
                members.push(entry);
            }
            Ok(members)
        }
    }
    serde::Deserializer::deserialize_map(&mut serde_json::Deserializer::from_str(value.get()), Members).ok()
}

/// The key of a plain GET.
#[cfg(test)]
pub(super) fn key_of_path(path: &str) -> Key {
    let (account, address, method) = ("main", "https://b2b.example", "GET");
    Key::new(KeyParts { account, address, service: None, method, path, query: None, vary: &[], body: b"" })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(account: &str) -> KeyParts<'_> {
        KeyParts {
            account,
            address: "https://b2b.example",
            service: None,
            method: "GET",
            path: "/p",
            query: None,
            vary: &[],
            body: b"",
        }
    }

    fn key(query: Option<&str>, body: &str) -> Key {
        let method = if body.is_empty() { "GET" } else { "POST" };
        Key::new(KeyParts { method, query, body: body.as_bytes(), ..parts("main") })
    }

    #[test]
    fn spellings_of_one_request_share_a_key() {
        assert_eq!(key(Some("b=1&a=2"), ""), key(Some("a=2&b=1"), ""));
        assert_eq!(key(None, r#"{"a":1,"b":[1, 2]}"#), key(None, " {\"b\":[1,2],\n\"\\u0061\":1}"));
    }

    #[test]
    fn different_requests_never_share_one() {
        assert_ne!(key(Some("a=1&a=2"), ""), key(Some("a=2&a=1"), ""));
        assert_ne!(key(Some("a=%31"), ""), key(Some("a=1"), ""));
        assert_ne!(key(None, ""), key(Some(""), ""));
        for (a, b) in [
            ("[1,2]", "[2,1]"),
            (r#"{"a":1}"#, r#"{"a":1.0}"#),
            (r#"{"a":10000000000000000001}"#, r#"{"a":10000000000000000002}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#),
            (r#"{"a":"1"}"#, r#"{"a":1}"#),
            (r#"{"a":"b c"}"#, r#"{"a":"bc"}"#),
            ("not json", "notjson"),
        ] {
            assert_ne!(key(None, a), key(None, b), "{a} {b}");
        }
        assert_ne!(Key::new(parts("a")), Key::new(parts("b")));
        assert_ne!(Key::new(parts("a")), Key::new(KeyParts { service: Some("s"), ..parts("a") }));
        assert_ne!(Key::new(parts("a")), Key::new(KeyParts { address: "https://b2b.other", ..parts("a") }));
    }

    #[test]
    fn long_bodies_are_compared_byte_by_byte() {
        let long = |space| format!("{{\"a\":{space}\"{}\"}}", "x".repeat(MAX_CANONICAL));
        assert_ne!(key(None, &long("")), key(None, &long(" ")));
        assert_eq!(key(None, &long("")), key(None, &long("")));
    }

    #[test]
    fn a_header_that_connection_names_counts_as_absent() {
        let names = [HeaderName::from_static("accept-language")];
        let value = |text| http::HeaderValue::from_static(text);
        let mut headers = HeaderMap::from_iter([(names[0].clone(), value("id"))]);
        assert_ne!(vary(&headers, &names), vary(&HeaderMap::new(), &names));
        headers.insert(http::header::CONNECTION, value("Accept_Language"));
        assert_eq!(vary(&headers, &names), vary(&HeaderMap::new(), &names));
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(key(None, &deep).size() > 200_000);
    }

    type Tuple = (String, String, Option<String>, Vec<u8>);

    fn tuple() -> impl Strategy<Value = Tuple> {
        ("[a-b/]{0,4}", "/[a-b]{0,4}", prop::option::of("[ab=&]{0,6}"), prop::collection::vec(b'a'..=b'b', 0..5))
    }

    fn of(t: &Tuple) -> Key {
        let (account, path, query, body) = t;
        Key::new(KeyParts { method: "POST", path, query: query.as_deref(), body, ..parts(account) })
    }

    fn sorted(query: &Option<String>) -> Option<Vec<String>> {
        query.as_ref().map(|q| {
            let mut parts: Vec<String> = q.split('&').map(str::to_owned).collect();
            parts.sort_by_key(|p| p.split('=').next().unwrap().to_owned());
            parts
        })
    }

    proptest! {
        #[test]
        fn is_injective_up_to_parameter_order(a in tuple(), b in tuple()) {
            let same = a.0 == b.0 && a.1 == b.1 && sorted(&a.2) == sorted(&b.2) && a.3 == b.3;
            prop_assert_eq!(of(&a) == of(&b), same);
        }

        #[test]
        fn never_panics(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Key::new(KeyParts { body: &body, ..parts("") });
        }
    }
}
