//! Finds the operation of a request. Pure.
//!
//! Paths match on raw bytes, segment by segment. A path that would match a row only after normalization (percent-
//! decoding, ignoring case, dropping empty segments) is refused, and so is every path with dot segments or encoded
//! separators. So no spelling of an order is `unlisted`, nor another row: that holds for the built-in paths of orders
//! also where the configuration has moved their rows. Fails with [`Malformed`].

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;
use http::Method;

use crate::config::{
    self, Class,
    lenient_path::{all_decoded, decoded, plain},
};

/// A path that another server might interpret differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not an absolute path.
    #[error("the request target must begin with a slash: send a path")]
    NotAbsolute,
    /// `.` or `..` as a segment, in any spelling.
    #[error("the path contains a dot segment: send the path that it stands for")]
    DotSegment,
    /// `%2e`, `%2f`, `%5c`, `%00`, a backslash or a NUL.
    #[error("the path contains an encoded dot, slash, backslash or NUL, or a backslash: send it without")]
    Separator,
    /// An invalid percent-encoding, or one that does not decode to UTF-8.
    #[error("the path's percent-encoding is invalid, or does not decode to UTF-8: send it as %XX of UTF-8 bytes")]
    Encoding,
    /// Matches a row only after normalization.
    #[error("the path is another spelling of a listed path: send it exactly as Fastrac's documentation prints it")]
    Spelling,
}

/// The paths of all rows, compiled for lookup.
#[derive(Debug)]
pub struct Routes {
    /// Rows by path, for paths without `{name}`.
    literal: HashMap<String, Vec<(Method, usize)>, RandomState>,
    /// Paths with `{name}`.
    patterns: Vec<Pattern>,
    /// Literal paths as `plain` normalizes them, to refuse other spellings.
    plain: HashSet<String>,
    reserved: Reserved,
}

/// The paths of rows of class order and account, also those that built-in rows have moved from.
#[derive(Debug, Default)]
struct Reserved {
    /// Paths without `{name}`, as they are written.
    literal: HashSet<String>,
    /// The same as `plain` normalizes them.
    plain: HashSet<String>,
    /// Paths with `{name}`.
    patterns: Vec<Vec<Segment>>,
}

impl Reserved {
    fn new(rows: &[config::OperationConfig]) -> Self {
        let mut reserved = Self::default();
        let built_in = config::check::built_in_operations();
        let orders = rows.iter().chain(&built_in).filter(|row| matches!(row.class, Class::Order | Class::Account));
        for path in orders.flat_map(|row| std::iter::once(&row.path).chain(&row.aliases)) {
            if path.contains('{') {
                reserved.patterns.push(segments(path));
            } else {
                reserved.plain.insert(plain(path));
                reserved.literal.insert(path.clone());
            }
        }
        reserved
    }

    /// Whether the path is one of these only after normalization.
    fn respelled(&self, path: &str) -> bool {
        let exact: SameSegment = |a, b| a == b;
        if self.literal.contains(path) || self.patterns.iter().any(|own| matches(own, path, exact)) {
            return false;
        }
        let plain = plain(path);
        self.plain.contains(&plain) || self.patterns.iter().any(|own| matches(own, &plain, str::eq_ignore_ascii_case))
    }
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

/// Whether a segment of a row is that of a path.
type SameSegment = fn(&str, &str) -> bool;

fn segments(path: &str) -> Vec<Segment> {
    let segment = |s: &str| if s.starts_with('{') { Segment::Any } else { Segment::Literal(s.to_owned()) };
    path.split('/').skip(1).map(segment).collect()
}

fn matches(pattern: &[Segment], path: &str, same: SameSegment) -> bool {
    let mut segments = path.split('/').skip(1);
    for own in pattern {
        match (own, segments.next()) {
            (Segment::Literal(own), Some(segment)) if same(own, segment) => {}
            (Segment::Any, Some(segment)) if !segment.is_empty() => {}
            _ => return false,
        }
    }
    segments.next().is_none()
}

impl Routes {
    /// Compiles the table. A row matches its path and its aliases.
    pub fn new(rows: &[config::OperationConfig]) -> Self {
        let mut routes = Routes {
            literal: HashMap::default(),
            patterns: Vec::new(),
            plain: HashSet::new(),
            reserved: Reserved::new(rows),
        };
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
            self.plain.insert(plain(path));
            return;
        }
        let segments = segments(path);
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
        if self.reserved.respelled(path) {
            return Err(Malformed::Spelling);
        }
        let exact: SameSegment = |a, b| a == b;
        let mut listed = false;
        for pattern in self.patterns.iter().filter(|p| matches(&p.segments, path, exact)) {
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
        self.plain.contains(&plain)
            || self.patterns.iter().any(|p| matches(&p.segments, &plain, str::eq_ignore_ascii_case))
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
            urgent: false,
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

    /// Contract section 3: the paths of built-in orders stay reserved, even if a row moves to another path.
    #[test]
    fn refuses_spellings_of_an_order_whatever_the_table_says() {
        let routes = Routes::new(&[
            row("v2.order_express", "POST", "/moved/away", Class::Order),
            row("own", "POST", "/label/{id}/Pay", Class::Order),
            row("any", "POST", "/{a}/{b}/{c}", Class::Quote),
            row("more", "POST", "/{a}/{b}/{c}/{d}", Class::Quote),
        ]);
        let find = |path: &str| routes.find(&Method::POST, path);
        for path in [
            "/order/Express",
            "/order/express/",
            "//order/express",
            "/order/;x/express",
            "/order/%20/express",
            "/index.php/order/express",
            "/%20/order/express",
            "/order/expres%73",
            "/moved/Away",
            "/LABEL/7/Pay",
            "/label/7/pay",
            "/;/label/7/Pay",
        ] {
            assert_eq!(find(path), Err(Malformed::Spelling), "{path}");
        }
        assert_eq!((find("/moved/away"), find("/label/7/Pay")), (Ok(Some(0)), Ok(Some(1))));
        assert_eq!((find("/a/b/c"), find("/order/express")), (Ok(Some(2)), Ok(None)));
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
