//! Finding a live secret in an answer.
//!
//! A secret is looked for as it is and in its Basic form, in the bytes as they came and with JSON's
//! escapes undone (three deep: JSON in a string of JSON is common), so every way to escape it is
//! found. A body without a backslash costs two searches. What always holds: an answer that was
//! streamed through [`LeakScan`] never held the secret, not even cut over two chunks. Never fails.

use bytes::{Bytes, BytesMut};
use memchr::memchr;
use zeroize::Zeroizing;

/// Shorter secrets are not looked for: they would be found in innocent answers.
const SHORTEST: usize = 8;
/// How many layers of JSON escapes are undone.
const LAYERS: usize = 3;
/// Most bytes that one character takes under the layers that are in use (`\u0041`, `\\u0041`,
/// `\\\\u0041`); what a stream holds back.
const WIDEST: usize = 12;

/// The forms of a secret that are looked for.
pub(super) struct Forms {
    plain: Needle,
    basic: Needle,
}

/// A text to look for, by the byte of it that is rarest in JSON. Searched by hand, because a prepared
/// finder would keep a copy of the secret that nobody zeroes, and preparing one costs more than the
/// search.
struct Needle {
    text: Zeroizing<Vec<u8>>,
    rarest: u8,
    /// Where it stands in `text`.
    offset: usize,
}

impl Needle {
    fn new(text: &[u8]) -> Self {
        let rarest = text.iter().copied().enumerate().min_by_key(|(_, byte)| commonness(*byte));
        let (offset, rarest) = rarest.unwrap_or_default();
        Needle { text: Zeroizing::new(text.to_vec()), rarest, offset }
    }

    fn stands_in(&self, body: &[u8]) -> bool {
        memchr::memchr_iter(self.rarest, body)
            .any(|at| at.checked_sub(self.offset).is_some_and(|start| body[start..].starts_with(&self.text)))
    }
}

/// How often a byte stands in Fastrac's answers, roughly.
fn commonness(byte: u8) -> u8 {
    match byte {
        b'"' | b',' | b':' | b'_' | b' ' => 4,
        b'a'..=b'z' | b'0'..=b'9' => 3,
        b'{' | b'}' | b'[' | b']' | b'.' | b'-' => 2,
        b'A'..=b'Z' => 1,
        _ => 0,
    }
}

impl Forms {
    /// Prepares the search for `secret` and its Basic form, base64 of `access:secret`.
    pub(super) fn new(secret: &[u8], basic: &[u8]) -> Self {
        Self { plain: Needle::new(secret), basic: Needle::new(basic) }
    }

    /// Whether one of the forms stands in `body`.
    pub(super) fn stand_in(&self, body: &[u8]) -> bool {
        // The Basic form is the longer one, so what is shorter than the secret holds neither.
        if self.plain.text.len() < SHORTEST || body.len() < self.plain.text.len() {
            return false;
        }
        let found = |text: &[u8]| self.plain.stands_in(text) || self.basic.stands_in(text);
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

    /// The most bytes that a form can take in a body.
    fn longest(&self) -> usize {
        self.plain.text.len().max(self.basic.text.len()) * WIDEST
    }
}

/// Undoes one layer of JSON escapes. `first` is where the first backslash stands. What is no escape
/// stays; characters outside ASCII become `?`, since no key holds one.
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

/// A scan of a streamed answer. It holds back as many bytes as a form could take, so that no part of
/// the secret has gone out when the rest of it comes.
pub struct LeakScan {
    pair: std::sync::Arc<super::LoadedPair>,
    held: BytesMut,
}

/// The secret stands in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer holds the live secret key")]
pub struct Leak;

impl LeakScan {
    pub(super) fn new(pair: std::sync::Arc<super::LoadedPair>) -> Self {
        Self { pair, held: BytesMut::new() }
    }

    /// Takes the next chunk and gives what may go out, perhaps nothing.
    ///
    /// # Errors
    /// [`Leak`] when the secret shows; nothing more may go out then.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<Bytes, Leak> {
        self.held.extend_from_slice(chunk);
        if self.pair.pair.forms().stand_in(&self.held) {
            self.held.clear();
            return Err(Leak);
        }
        let keep = self.pair.pair.forms().longest().min(self.held.len());
        let out = self.held.split_to(self.held.len() - keep).freeze();
        Ok(out)
    }

    /// What was held back, at the end of the answer.
    pub fn finish(&mut self) -> Bytes {
        self.held.split().freeze()
    }
}
