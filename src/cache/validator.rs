//! The validator of a stored response, and the condition that a caller makes of it (RFC 9110, sections 8.8.3 and 13.1.2).
//! Pure.
//!
//! What always holds: the `ETag` is strong: it is a digest of the body's bytes, so that it survives a restart and a fetch
//! that brings the same bytes. Must not know the cache. Never fails: what is no list of entity tags matches nothing.

use http::{
    HeaderMap, HeaderValue, Method,
    header::{ETAG, IF_NONE_MATCH},
};
use sha2::{Digest, Sha256};

/// Bytes of the digest that are used: two bodies of one URL have the same ones with a probability of 2^-128.
const DIGEST: usize = 16;

/// Gives a response its `ETag`, in place of one that Fastrac has given it.
pub(crate) fn set_etag(headers: &mut HeaderMap, body: &[u8]) {
    let mut tag = String::with_capacity(2 * DIGEST + 2);
    tag.push('"');
    for byte in &Sha256::digest(body)[..DIGEST] {
        tag.push_str(&format!("{byte:02x}"));
    }
    tag.push('"');
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(ETAG, tag);
    }
}

/// The condition of a request: its caller has no response with one of these entity tags.
#[derive(Debug)]
pub(crate) struct IfNoneMatch(Vec<HeaderValue>);

impl IfNoneMatch {
    /// `None`: there is no condition. Methods other than GET and HEAD have none that is answered from the cache.
    pub(crate) fn read(method: &Method, headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(IF_NONE_MATCH);
        let is_read = *method == Method::GET || *method == Method::HEAD;
        (is_read && values.iter().next().is_some()).then(|| IfNoneMatch(values.iter().cloned().collect()))
    }

    /// Whether the caller has the response with these headers.
    pub(crate) fn has(&self, headers: &HeaderMap) -> bool {
        let Some(etag) = headers.get(ETAG) else { return false };
        if let [only] = self.0.as_slice()
            && only.as_bytes().trim_ascii() == b"*"
        {
            return true;
        }
        let own = opaque(etag.as_bytes()).map(|(tag, _)| tag);
        own.is_some() && self.0.iter().any(|list| tags(list.as_bytes()).any(|tag| Some(tag) == own))
    }
}

/// The opaque part of the entity tag at the start of a text, which weak comparison compares, and what follows the tag.
fn opaque(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let quoted = text.strip_prefix(b"W/").unwrap_or(text).strip_prefix(b"\"")?;
    let length = quoted.iter().position(|byte| *byte == b'"')?;
    Some((&quoted[..length], &quoted[length + 1..]))
}

/// The opaque parts of a list of entity tags, up to where it is none.
fn tags(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = list;
    std::iter::from_fn(move || {
        while let [b',' | b' ' | b'\t', after @ ..] = rest {
            rest = after;
        }
        let (tag, after) = opaque(rest)?;
        rest = after;
        Some(tag)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a caller with this condition has a response with this entity tag.
    fn has(condition: &[&'static str], etag: &'static str) -> bool {
        let lines = condition.iter().map(|value| (IF_NONE_MATCH, HeaderValue::from_static(value)));
        let condition = IfNoneMatch::read(&Method::GET, &lines.collect());
        let response = HeaderMap::from_iter([(ETAG, HeaderValue::from_static(etag))]);
        condition.is_some_and(|condition| condition.has(&response))
    }

    #[test]
    fn equal_bodies_have_equal_tags() {
        let tag = |body: &str| {
            let mut headers = HeaderMap::from_iter([(ETAG, HeaderValue::from_static("W/\"of-fastrac\""))]);
            set_etag(&mut headers, body.as_bytes());
            assert_eq!(headers.len(), 1);
            headers[ETAG].clone()
        };
        assert_eq!(tag("a"), tag("a"));
        assert_ne!(tag("a"), tag("b"));
        assert_eq!(tag(""), "\"e3b0c44298fc1c149afbf4c8996fb924\"");
    }

    #[test]
    fn lists_stars_and_weak_tags_are_compared() {
        for condition in [
            &["\"a\""][..],
            &["W/\"a\""],
            &["*"],
            &[" * "],
            &["\"x\", \"a\""],
            &["\"x\",,W/\"y\" ,\t\"a\","],
            &["\"x\"", "\"a\""],
            &["\"x,\\\", \"a\""],
        ] {
            assert!(has(condition, "\"a\"") && has(condition, "W/\"a\""), "{condition:?}");
        }
        for condition in [
            &[][..],
            &[""],
            &["a"],
            &["\"A\""],
            &["\"a"],
            &["w/\"a\""],
            &["\"x, a\""],
            &["\"x\", *"],
            &["*", "\"x\""],
            &["**"],
            &["x, \"a\""],
            &["W/"],
        ] {
            assert!(!has(condition, "\"a\""), "{condition:?}");
        }
        assert!(!has(&["*", "\"x\""], "\"a\"") && has(&["*", "\"a\""], "\"a\""));
        assert!(!has(&["\"\""], "not a tag") && has(&["*"], "not a tag"));
    }

    #[test]
    fn only_get_and_head_have_a_condition() {
        let headers = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static("*"))]);
        for (method, expected) in [(Method::GET, true), (Method::HEAD, true), (Method::POST, false)] {
            assert_eq!(IfNoneMatch::read(&method, &headers).is_some(), expected, "{method}");
        }
        assert!(IfNoneMatch::read(&Method::GET, &HeaderMap::new()).is_none());
        let condition = IfNoneMatch::read(&Method::GET, &headers).unwrap();
        assert!(!condition.has(&HeaderMap::new()), "there is nothing to compare with");
    }
}
