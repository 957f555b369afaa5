//! The cache key: two requests share one exactly if they are equivalent, and a key's request has that key.

use std::collections::BTreeMap;

use fastrac_gateway::cache::{Key, KeyParts, VaryValues};
use http::{HeaderName, HeaderValue};
use serde_json::value::RawValue;

/// The parts of a request that a cache key depends on.
#[derive(Debug, Default)]
struct CacheRequest {
    account: String,
    service: Option<String>,
    method: String,
    path: String,
    query: Option<String>,
    vary: Vec<Option<HeaderValue>>,
    body: Vec<u8>,
}

/// Lines of two requests, alternately; a line that is missing in the second is as in the first.
pub fn run(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let (mut a, mut b) = (CacheRequest::default(), CacheRequest::default());
    for field in 0..8 {
        let first = lines.next().unwrap_or_default();
        let second = lines.next().unwrap_or(first);
        set(&mut a, field, first);
        // A single equals sign means "the same".
        set(&mut b, field, if second == b"=" { first } else { second });
    }
    let (first, second) = (key(&a), key(&b));
    for (request, key) in [(&a, &first), (&b, &second)] {
        assert_eq!(key.is_some(), body(&request.body).is_some(), "{request:?}");
        key.iter().for_each(is_that_of_its_request);
    }
    if first.is_some() && second.is_some() {
        assert_eq!(first == second, meaning(&a) == meaning(&b), "{a:?} {b:?}");
    }
}

fn set(request: &mut CacheRequest, field: usize, line: &[u8]) {
    // A line break in a body is written as `~`.
    let text = || String::from_utf8_lossy(line).into_owned();
    let optional = || (line != b"-").then(text);
    match field {
        0 => request.account = text(),
        1 => request.service = optional(),
        2 => request.method = text(),
        3 => request.path = text(),
        4 => request.query = optional(),
        5 | 6 => request.vary.push(HeaderValue::from_bytes(line).ok()),
        _ => request.body = line.iter().map(|byte| if *byte == b'~' { b'\n' } else { *byte }).collect(),
    }
}

const NAMES: [HeaderName; 2] = [http::header::ACCEPT_LANGUAGE, http::header::ACCEPT];

fn key(request: &CacheRequest) -> Option<Key> {
    let vary = NAMES.iter().zip(&request.vary);
    let vary: Vec<_> = vary.map(|(name, value)| VaryValues { name, values: value.iter().collect() }).collect();
    Key::new(KeyParts {
        account: &request.account,
        address: "",
        operation: "v2.city",
        service: request.service.as_deref(),
        method: &request.method,
        path: &request.path,
        query: request.query.as_deref(),
        vary: &vary,
        body: &request.body,
    })
}

/// A refresh must ask for what the key stands for.
fn is_that_of_its_request(key: &Key) {
    let Some(request) = key.request() else { return };
    let vary = NAMES.iter().map(|name| VaryValues { name, values: request.headers.get_all(name).iter().collect() });
    let vary: Vec<_> = vary.collect();
    let again = Key::new(KeyParts {
        account: request.account,
        address: request.address,
        operation: request.operation,
        service: request.service,
        method: request.method.as_str(),
        path: request.target.path(),
        query: request.target.query(),
        vary: &vary,
        body: &request.body,
    });
    assert_eq!(again.as_ref(), Some(key), "{request:?}");
    assert_eq!(Key::from_bytes(key.as_bytes()).as_ref(), Some(key));
}

/// The meaning of a request, as a value that needs no encoding.
#[derive(Debug, PartialEq)]
struct Meaning<'a> {
    names: [Option<&'a str>; 4],
    query: Option<Vec<&'a str>>,
    vary: &'a [Option<HeaderValue>],
    body: Option<Body>,
}

#[derive(Debug, PartialEq)]
enum Body {
    Empty,
    Json(Tree),
}

#[derive(Debug, PartialEq)]
enum Tree {
    Object(BTreeMap<String, Tree>),
    Array(Vec<Tree>),
    String(String),
    /// A number or word, as written.
    Plain(String),
}

fn meaning(request: &CacheRequest) -> Meaning<'_> {
    let query = request.query.as_deref().map(|query| {
        let mut parameters: Vec<&str> = query.split('&').collect();
        parameters.sort_by_key(|parameter| parameter.split('=').next().unwrap_or_default().to_owned());
        parameters
    });
    Meaning {
        names: [Some(&request.account), request.service.as_deref(), Some(&request.method), Some(&request.path)],
        query,
        vary: &request.vary,
        body: body(&request.body),
    }
}

/// `None`: it has no canonical form.
fn body(body: &[u8]) -> Option<Body> {
    if body.is_empty() {
        return Some(Body::Empty);
    }
    let raw = serde_json::from_slice::<&RawValue>(body).ok().filter(|_| body.len() <= 16 << 10)?;
    tree(raw.get(), 64).map(Body::Json)
}

/// The tree of a JSON value by serde. `None` if it is too deep, or a name occurs twice.
fn tree(text: &str, depth: u32) -> Option<Tree> {
    let text = text.trim();
    match text.as_bytes().first()? {
        b'[' => {
            let depth = depth.checked_sub(1)?;
            let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            items.into_iter().map(|item| tree(item.get(), depth)).collect::<Option<_>>().map(Tree::Array)
        }
        b'{' => {
            let depth = depth.checked_sub(1)?;
            let mut members = BTreeMap::new();
            for (name, value) in pairs(text)? {
                if members.insert(name, tree(value.get(), depth)?).is_some() {
                    return None;
                }
            }
            Some(Tree::Object(members))
        }
        b'"' => serde_json::from_str(text).ok().map(Tree::String),
        _ => Some(Tree::Plain(text.to_owned())),
    }
}

/// An object's members in their order, duplicates included.
fn pairs(text: &str) -> Option<Vec<(String, &RawValue)>> {
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
    serde::Deserializer::deserialize_map(&mut serde_json::Deserializer::from_str(text), Members).ok()
}
