//! The cache key: two requests share one exactly if they are equivalent.

use fastrac_gateway::cache::{Key, KeyParts};
use serde_json::value::RawValue;

/// The parts of a request that a cache key depends on.
#[derive(Debug, Default)]
struct CacheRequest {
    account: String,
    service: Option<String>,
    method: String,
    path: String,
    query: Option<String>,
    vary: Vec<Vec<u8>>,
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
    let same = meaning(&a) == meaning(&b);
    assert_eq!(key(&a) == key(&b), same, "{a:?} {b:?}");
    assert_eq!(key(&a), key(&a));
}

fn set(request: &mut CacheRequest, field: usize, line: &[u8]) {
    // NUL occurs in no configured name and in no parsed head; a line break in a body is written as `~`.
    let text = || String::from_utf8_lossy(line).replace('\0', "");
    let optional = || (line != b"-").then(text);
    match field {
        0 => request.account = text(),
        1 => request.service = optional(),
        2 => request.method = text(),
        3 => request.path = text(),
        4 => request.query = optional(),
        5 | 6 => request.vary.push(line.to_vec()),
        _ => request.body = line.iter().map(|byte| if *byte == b'~' { b'\n' } else { *byte }).collect(),
    }
}

fn key(request: &CacheRequest) -> Key {
    Key::new(KeyParts {
        account: &request.account,
        address: "",
        service: request.service.as_deref(),
        method: &request.method,
        path: &request.path,
        query: request.query.as_deref(),
        vary: &request.vary,
        body: &request.body,
    })
}

/// The meaning of a request, as a value that needs no encoding.
#[derive(Debug, PartialEq)]
struct Meaning<'a> {
    names: [Option<&'a str>; 4],
    query: Option<Vec<&'a str>>,
    vary: &'a [Vec<u8>],
    body: Body<'a>,
}

#[derive(Debug, PartialEq)]
enum Body<'a> {
    Json(Tree),
    Bytes(&'a [u8]),
}

#[derive(Debug, PartialEq)]
enum Tree {
    Object(Vec<(String, Tree)>),
    Array(Vec<Tree>),
    /// A number, string or word, as written.
    Leaf(String),
}

fn meaning(request: &CacheRequest) -> Meaning<'_> {
    let query = request.query.as_deref().map(|query| {
        let mut parameters: Vec<&str> = query.split('&').collect();
        parameters.sort_by_key(|parameter| parameter.split('=').next().unwrap_or_default().to_owned());
        parameters
    });
    let json = serde_json::from_slice::<&RawValue>(&request.body).ok().and_then(|raw| tree(raw.get(), 24));
    Meaning {
        names: [Some(&request.account), request.service.as_deref(), Some(&request.method), Some(&request.path)],
        query,
        vary: &request.vary,
        body: json.map_or(Body::Bytes(&request.body), Body::Json),
    }
}

/// `None` beyond that depth, where bodies are compared as bytes.
fn tree(text: &str, depth: u32) -> Option<Tree> {
    let depth = depth.checked_sub(1)?;
    let text = text.trim();
    if text.starts_with('[') {
        let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
        return items.into_iter().map(|item| tree(item.get(), depth)).collect::<Option<_>>().map(Tree::Array);
    }
    if !text.starts_with('{') {
        return Some(Tree::Leaf(text.to_owned()));
    }
    let mut members = pairs(text)?
        .into_iter()
        .map(|(name, value)| Some((name, tree(value.get(), depth)?)))
        .collect::<Option<Vec<_>>>()?;
    members.sort_by(|a, b| a.0.cmp(&b.0));
    Some(Tree::Object(members))
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
