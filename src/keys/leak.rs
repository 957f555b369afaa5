//! Searches a text for a live secret.
//!
//! The secret is searched for as it is and in its Basic form, in the bytes as they came and with up to
//! three layers of JSON escapes undone (JSON in a string of JSON is common). A body without a backslash
//! costs two searches. Never fails.

use memchr::memchr;
use zeroize::Zeroizing;

/// Minimum length of a secret that is searched for, in bytes: shorter ones occur in responses by chance.
const MIN_SECRET: usize = 8;
/// Layers of JSON escapes that are undone.
const LAYERS: usize = 3;
/// Maximum length of one escaped character in a streamed response, in bytes (`\u0041`, `\\u0041`,
/// `\\\\u0041`).
const MAX_ESCAPED: usize = 12;

/// In so few bytes, a byte is found sooner one by one: each search with `memchr` takes 60 instructions to begin.
const SHORT: usize = 64;

/// The forms of a secret that are searched for.
#[cfg_attr(test, derive(Clone))]
pub(super) struct SecretForms {
    plain: Needle,
    basic: Needle,
}

/// A text to search for, by its byte that is rarest in JSON. `memchr::memmem::Finder` was rejected: it keeps
/// a copy of the secret that is not zeroed, and preparing it costs more than the search.
#[cfg_attr(test, derive(Clone))]
struct Needle {
    text: Zeroizing<Vec<u8>>,
    rarest: u8,
    /// Index of `rarest` in `text`.
    offset: usize,
}

impl Needle {
    fn new(text: &[u8]) -> Self {
        let rarest = text.iter().copied().enumerate().min_by_key(|(_, byte)| commonness(*byte));
        let (offset, rarest) = rarest.unwrap_or_default();
        Needle { text: Zeroizing::new(text.to_vec()), rarest, offset }
    }

    fn is_in(&self, body: &[u8]) -> bool {
        // Elsewhere in the body, the rarest byte has no room for what comes before and after it.
        let room = body.len().checked_sub(self.text.len());
        let places = room.and_then(|room| body.get(self.offset..=self.offset + room)).unwrap_or_default();
        let begins = |start: usize| body[start..].starts_with(&self.text);
        if places.len() <= SHORT {
            return places.iter().enumerate().any(|(start, byte)| *byte == self.rarest && begins(start));
        }
        memchr::memchr_iter(self.rarest, places).any(begins)
    }
}

/// How common a byte is in Fastrac's responses; 0: rare.
fn commonness(byte: u8) -> u8 {
    match byte {
        b'"' | b',' | b':' | b'_' | b' ' => 4,
        b'a'..=b'z' | b'0'..=b'9' => 3,
        b'{' | b'}' | b'[' | b']' | b'.' | b'-' => 2,
        b'A'..=b'Z' => 1,
        _ => 0,
    }
}

impl SecretForms {
    /// `basic` is base64 of `access:secret`.
    pub(super) fn new(secret: &[u8], basic: &[u8]) -> Self {
        Self { plain: Needle::new(secret), basic: Needle::new(basic) }
    }

    /// Whether `body` contains one of the forms.
    pub(super) fn found_in(&self, body: &[u8]) -> bool {
        // The Basic form is longer than the secret.
        if self.plain.text.len() < MIN_SECRET || body.len() < self.plain.text.len() {
            return false;
        }
        let found = |text: &[u8]| self.plain.is_in(text) || self.basic.is_in(text);
        if found(body) {
            return true;
        }
        let mut layer = None;
        for _ in 0..LAYERS {
            let text = layer.as_deref().map_or(body, Vec::as_slice);
            let Some(first) = memchr(b'\\', text) else { return false };
            let undone = Zeroizing::new(undo_escapes(text, first));
            if found(&undone) {
                return true;
            }
            layer = Some(undone);
        }
        false
    }

    /// Maximum length of a form in a body, escaped, in bytes.
    pub(super) fn max_len(&self) -> usize {
        self.plain.text.len().max(self.basic.text.len()) * MAX_ESCAPED
    }
}

/// Undoes one layer of JSON escapes. `first` is the index of the first backslash. Invalid escapes are kept;
/// characters outside ASCII become `?`, since no key has one.
fn undo_escapes(text: &[u8], first: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    out.extend_from_slice(&text[..first]);
    let mut rest = &text[first..];
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let Some((&escaped, after)) = rest.split_first() else {
            out.push(byte);
            break;
        };
        rest = after;
        match escaped {
            b'u' => {
                let code = rest.get(..4).and_then(|hex| std::str::from_utf8(hex).ok());
                match code.and_then(|hex| u16::from_str_radix(hex, 16).ok()) {
                    Some(code) => {
                        out.push(u8::try_from(code).ok().filter(u8::is_ascii).unwrap_or(b'?'));
                        rest = &rest[4..];
                    }
                    None => out.extend_from_slice(b"\\u"),
                }
            }
            b'n' | b't' | b'r' | b'b' | b'f' => out.push(b' '),
            other => out.push(other),
        }
    }
    out
}
