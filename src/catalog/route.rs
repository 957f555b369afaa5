//! Finds the operation of a request. Pure.
//!
//! Paths match on raw bytes, segment by segment. A path that would match a row only after normalization (percent-
//! decoding, ignoring case, dropping empty segments) is refused, and so is every path with dot segments or encoded
//! separators. So no spelling of an order is `unlisted`. Fails with [`Malformed`].

use std::collections::HashMap;

use http::Method;

use crate::config;

/// A path that another server might interpret differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not an absolute path.
    #[error("the request target must begin with a slash")]
    NotAbsolute,
    /// `.` or `..` as a segment, in any spelling.
    #[error("the path contains a dot segment")]
    DotSegment,
    /// `%2e`, `%2f`, `%5c`, `%00`, a backslash or a NUL.
    #[error("the path contains an encoded dot, slash, backslash or NUL, or a backslash")]
    Separator,
    /// An invalid percent-encoding, or one that does not decode to UTF-8.
    #[error("the path's percent-encoding is invalid, or does not decode to UTF-8")]
    Encoding,
    /// Matches a row only after normalization.
    #[error("the path is another spelling of a listed path: send it exactly as Fastrac's documentation prints it")]
    Spelling,
}

/// The paths of all rows, compiled for lookup.
#[derive(Debug)]
pub struct Routes {
    /// Rows by path, for paths without `{name}`.
    literal: HashMap<String, Vec<(Method, usize)>>,
    /// Paths with `{name}`.
    patterns: Vec<Pattern>,
    /// Literal paths as `plain` normalizes them, to refuse other spellings.
    plain: HashMap<String, ()>,
}

#[derive(Debug)]
struct Pattern {
    method: Method,
    row: usize,
    segments: Vec<Segment>,
}

#[derive(Debug)]
enum Segment {
    Literal(String),
    Any,
}

impl Pattern {
    fn matches<'p>(&self, mut segments: impl Iterator<Item = &'p str>, same: fn(&str, &str) -> bool) -> bool {
        for own in &self.segments {
            match (own, segments.next()) {
                (Segment::Literal(own), Some(segment)) if same(own, segment) => {}
                (Segment::Any, Some(segment)) if !segment.is_empty() => {}
                _ => return false,
            }
        }
        segments.next().is_none()
    }
}

impl Routes {
    /// Compiles the table. A row matches its path and its aliases.
    pub fn new(rows: &[config::OperationConfig]) -> Self {
        let mut routes = Routes { literal: HashMap::new(), patterns: Vec::new(), plain: HashMap::new() };
        for (row, operation) in rows.iter().enumerate() {
            let method = Method::from_bytes(operation.method.as_bytes()).unwrap_or(Method::GET);
            for path in std::iter::once(&operation.path).chain(&operation.aliases) {
                routes.add(method.clone(), path, row);
            }
            // HEAD of a cached operation is answered from the stored GET response.
            if method == Method::GET && operation.cache.is_some() {
                for path in std::iter::once(&operation.path).chain(&operation.aliases) {
                    routes.add(Method::HEAD, path, row);
                }
            }
        }
        routes
    }

    fn add(&mut self, method: Method, path: &str, row: usize) {
        if !path.contains('{') {
            self.literal.entry(path.to_owned()).or_default().push((method, row));
            self.plain.insert(plain(path), ());
            return;
        }
        let segments = path
            .split('/')
            .skip(1)
            .map(|s| if s.starts_with('{') { Segment::Any } else { Segment::Literal(s.to_owned()) })
            .collect();
        self.patterns.push(Pattern { method, row, segments });
    }

    /// The row of a request; `None` if it is unlisted.
    ///
    /// # Errors
    /// [`Malformed`], whatever the method.
    pub fn find(&self, method: &Method, path: &str) -> Result<Option<usize>, Malformed> {
        // Literal paths of the table are valid, so the common case is a single lookup.
        if let Some(rows) = self.literal.get(path) {
            return Ok(rows.iter().find(|(m, _)| m == method).map(|(_, row)| *row));
        }
        clean(path)?;
        let exact: fn(&str, &str) -> bool = |a, b| a == b;
        let mut listed = false;
        for pattern in self.patterns.iter().filter(|p| p.matches(path.split('/').skip(1), exact)) {
            listed = true;
            if pattern.method == *method {
                return Ok(Some(pattern.row));
            }
        }
        if !listed && self.respelled(path) {
            return Err(Malformed::Spelling);
        }
        Ok(None)
    }

    /// Whether the path matches a row after normalization.
    fn respelled(&self, path: &str) -> bool {
        let plain = plain(path);
        let same: fn(&str, &str) -> bool = |own, segment| own.eq_ignore_ascii_case(segment);
        self.plain.contains_key(&plain) || self.patterns.iter().any(|p| p.matches(plain.split('/').skip(1), same))
    }
}

/// Refuses paths that a server might resolve or split differently.
fn clean(path: &str) -> Result<(), Malformed> {
    if !path.starts_with('/') {
        return Err(Malformed::NotAbsolute);
    }
    let bytes = path.as_bytes();
    let mut encoded = false;
    for (i, byte) in bytes.iter().enumerate() {
        match byte {
            b'\\' | 0 => return Err(Malformed::Separator),
            b'%' => match decoded(bytes, i) {
                Some(b'.' | b'/' | b'\\' | 0) => return Err(Malformed::Separator),
                Some(_) => encoded = true,
                None => return Err(Malformed::Encoding),
            },
            _ => {}
        }
    }
    // Overlong encodings of a slash or a dot are not valid UTF-8.
    if encoded && std::str::from_utf8(&all_decoded(bytes)).is_err() {
        return Err(Malformed::Encoding);
    }
    // A path parameter may hide a dot segment, for servers that strip parameters (`/..;x/`).
    let name = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    if path.split('/').any(name) { Err(Malformed::DotSegment) } else { Ok(()) }
}

/// The byte that the `%xy` at `at` encodes.
fn decoded(bytes: &[u8], at: usize) -> Option<u8> {
    let hex = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16));
    Some((hex(at + 1)? * 16 + hex(at + 2)?) as u8)
}

/// Percent-decoded, once.
fn all_decoded(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match (bytes[i], decoded(bytes, i)) {
            (b'%', Some(byte)) => {
                text.push(byte);
                i += 3;
            }
            (byte, _) => {
                text.push(byte);
                i += 1;
            }
        }
    }
    text
}

/// The path as the most lenient server would read it: decoded once, cut at a decoded `?` or `#`, lower
/// case, no empty segments, no path parameters, no white space or control bytes at a segment's end,
/// without PHP's front controller.
fn plain(path: &str) -> String {
    let text = all_decoded(path.as_bytes());
    // Both conversions are needed: some letters exist in only one case.
    let text = String::from_utf8_lossy(&text).to_uppercase().to_lowercase();
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let mut plain = String::with_capacity(text.len());
    for segment in text.split('/') {
        let segment = segment.split(';').next().unwrap_or_default();
        let segment = segment.trim_matches(|c: char| c.is_whitespace() || c.is_control());
        if !segment.is_empty() {
            plain.push('/');
            plain.push_str(segment);
        }
    }
    match plain.strip_prefix("/index.php/") {
        Some(rest) => format!("/{rest}"),
        None => plain,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{Class, OperationConfig};

    fn row(name: &str, method: &str, path: &str, class: Class) -> OperationConfig {
        OperationConfig {
            name: name.into(),
            api: None,
            method: method.into(),
            path: path.into(),
            aliases: vec![],
            class,
            cache: None,
            timeout: Duration::from_secs(1),
            cost: 1,
            vary: vec![],
        }
    }

    fn routes() -> Routes {
        Routes::new(&[
            row("order", "POST", "/order/express", Class::Order),
            row("city", "GET", "/region/city", Class::Lookup),
            row("v1", "GET", "/apiCourier/all-courier", Class::Lookup),
            row("param", "GET", "/parcel/{id}/track", Class::Read),
        ])
    }

    fn find(method: &str, path: &str) -> Result<Option<usize>, Malformed> {
        routes().find(&Method::from_bytes(method.as_bytes()).unwrap(), path)
    }

    #[test]
    fn finds_listed_paths_exactly() {
        assert_eq!(find("POST", "/order/express"), Ok(Some(0)));
        assert_eq!(find("GET", "/order/express"), Ok(None));
        assert_eq!(find("GET", "/apiCourier/all-courier"), Ok(Some(2)));
        assert_eq!(find("GET", "/parcel/a%20b/track"), Ok(Some(3)));
        assert_eq!(find("GET", "/parcel//track"), Ok(None));
        assert_eq!(find("GET", "/nowhere"), Ok(None));
    }

    #[test]
    fn refuses_other_spellings_whatever_the_method() {
        for path in [
            "/order/Express",
            "/order/express/",
            "//order/express",
            "/order//express",
            "/order/expres%73",
            "/order/express;x=1",
            "/order/express%20",
            "/order/express%3fa=b",
            "/order/express%23",
            "/order/expre%c5%bfs",
            "/index.php/order/express",
            "/PARCEL/7/track",
            "/parcel/7/track/",
        ] {
            for method in ["GET", "POST", "PATCH"] {
                assert_eq!(find(method, path), Err(Malformed::Spelling), "{path}");
            }
        }
    }

    #[test]
    fn refuses_dots_and_encoded_separators_everywhere() {
        for path in ["/../order/express", "/x/./y", "/..", "/x/..;a/y"] {
            assert_eq!(find("POST", path), Err(Malformed::DotSegment), "{path}");
        }
        for path in ["/order%2Fexpress", "/x/%2e%2e/y", "/a%5cb", "/a\\b", "/order/express%00", "/parcel/%2f/track"] {
            assert_eq!(find("POST", path), Err(Malformed::Separator), "{path}");
        }
        for path in ["/a%", "/a%2", "/a%zz", "/a%u0065", "/a%c0%af", "/a%ff", "/a%e0%80%af"] {
            assert_eq!(find("POST", path), Err(Malformed::Encoding), "{path}");
        }
        assert_eq!(find("POST", "*"), Err(Malformed::NotAbsolute));
        assert_eq!(find("GET", "/caf%c3%a9/%25"), Ok(None));
        assert_eq!(find("GET", "/a.b/..c/d..e"), Ok(None));
    }

    proptest! {
        /// However an order's path is respelled, it is the order itself or refused; never unlisted.
        #[test]
        fn no_spelling_of_an_order_is_unlisted(choices in prop::collection::vec(0u8..5, 14), slashes in prop::collection::vec(1usize..3, 2), tail in 0usize..2) {
            let mut path = String::new();
            let mut slash = slashes.iter();
            for (letter, choice) in "/order/express".chars().zip(choices.iter()) {
                match (letter, choice) {
                    ('/', _) => path.push_str(&"/".repeat(*slash.next().unwrap())),
                    (c, 0) => path.push(c.to_ascii_uppercase()),
                    (c, 1) => path.push_str(&format!("%{:02x}", c as u32)),
                    (c, 2) => path.push_str(&format!("%{:02X}", c.to_ascii_uppercase() as u32)),
                    (c, _) => path.push(c),
                }
            }
            path.push_str(&"/".repeat(tail));
            let found = routes().find(&Method::POST, &path);
            prop_assert!(matches!(found, Ok(Some(0)) | Err(_)), "{path} is {found:?}");
        }
    }
}
