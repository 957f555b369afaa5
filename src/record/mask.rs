//! Hides secrets and personal data in what the exchange log writes.
//!
//! Always: a value under a name of the lists in `names` (or of the configuration's) never comes
//! out; what does come out is valid JSON; unmasked values keep their bytes. Pure: knows no record
//! and no file. A body that it can't read to the last byte it doesn't let out at all.

mod json;
mod names;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use self::names::{MaskRule, MaskRules, looks_like_region};
use super::encode;
use crate::config::LogBodies;

/// What stands in place of a hidden value.
pub const MASKED: &str = "***";

/// Beginning of the secrets that the gateway issues to services: masked wherever they stand.
const OWN_SECRET: &str = "fgw_";

/// How often a parameter name is percent-decoded before it is judged: whoever reads it later may decode it again.
const DECODINGS: usize = 3;

/// What to hide, and whether bodies are written at all.
#[derive(Debug)]
pub struct Masker {
    rules: MaskRules,
    bodies: LogBodies,
}

impl Masker {
    /// `further`: names whose values are masked beside the built-in ones, compared without case, `-` and `_`.
    pub fn new(bodies: LogBodies, further: &[String]) -> Masker {
        Masker { rules: MaskRules::new(further), bodies }
    }

    /// Whether bodies are written at all.
    pub fn bodies(&self) -> bool {
        self.bodies == LogBodies::Masked
    }

    /// Appends the masked body as one line of JSON. False, and `out` as it was, if it isn't a JSON object or array, or
    /// one that readers may take differently.
    pub fn body(&self, out: &mut Vec<u8>, body: &[u8]) -> bool {
        let start = out.len();
        out.reserve(body.len());
        let masked = json::mask(out, body, &self.rules).is_ok();
        if !masked {
            out.truncate(start);
        }
        masked
    }

    /// Appends a query (without `?`) as it stands inside a JSON string, values of masked parameters as `***`.
    pub fn query(&self, out: &mut Vec<u8>, query: &str) {
        self.pairs(out, query);
    }

    /// Appends a path as it stands inside a JSON string; `;name=value` parameters in it are masked as in a query.
    pub fn path(&self, out: &mut Vec<u8>, path: &str) {
        let plain = memchr::memchr3(b'=', b'%', b'_', path.as_bytes()).is_none();
        if plain {
            return encode::escape(out, path);
        }
        for (index, segment) in path.split('/').enumerate() {
            if index > 0 {
                out.push(b'/');
            }
            self.pairs(out, segment);
        }
    }

    fn pairs(&self, out: &mut Vec<u8>, pairs: &str) {
        let mut masked = false;
        for piece in pairs.split_inclusive(['&', ';']) {
            let (pair, separator) = match piece.strip_suffix(['&', ';']) {
                Some(pair) => (pair, &piece[pair.len()..]),
                None => (piece, ""),
            };
            // A semicolon separates for some servers, and is part of the value for others.
            masked = self.pair(out, pair, masked);
            out.extend_from_slice(separator.as_bytes());
            masked &= separator == ";";
        }
    }

    /// Returns whether its value is masked; so is what has no name, if what it may belong to was.
    fn pair(&self, out: &mut Vec<u8>, pair: &str, before: bool) -> bool {
        let Some((name, value)) = pair.split_once('=') else {
            let masked = betrays(&decoded(pair)) || before && !pair.is_empty();
            encode::escape(out, if masked { MASKED } else { pair });
            return masked || before;
        };
        let name_read = decoded(name);
        let shown = if betrays(&name_read) { MASKED } else { name };
        encode::escape(out, shown);
        out.push(b'=');
        let ruling = self.rules.of(&name_read);
        let stands = match ruling {
            MaskRule::Keep => !betrays(&decoded(value)),
            MaskRule::Place | MaskRule::Region => looks_like_region(value.as_bytes()),
            MaskRule::Mask | MaskRule::Person => value.is_empty(),
        };
        encode::escape(out, if stands { value } else { MASKED });
        !stands || matches!(ruling, MaskRule::Mask | MaskRule::Person)
    }
}

/// Whether a value gives itself away under whatever name: a secret of the gateway's, an `Authorization` value, or JSON
/// packed into a string, which nobody looked into.
fn betrays(value: &str) -> bool {
    betrays_by_its_head(value) || holds_own_secret(value)
}

fn betrays_by_its_head(value: &str) -> bool {
    let trimmed = value.trim_start();
    let scheme = |scheme: &str| trimmed.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme));
    match trimmed.as_bytes().first() {
        Some(b'{' | b'[') => trimmed.contains(['"', ':']),
        Some(b'b' | b'B') => scheme("basic ") || scheme("bearer "),
        _ => false,
    }
}

fn holds_own_secret(text: &str) -> bool {
    memchr::memmem::find(text.as_bytes(), OWN_SECRET.as_bytes()).is_some()
}

/// Percent-decoded, `+` as a space, more than once if it stays encoded.
fn decoded(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    for _ in 0..DECODINGS {
        if memchr::memchr2(b'%', b'+', text.as_bytes()).is_none() {
            break;
        }
        text = Cow::Owned(decode_once(&text));
    }
    text
}

fn decode_once(text: &str) -> String {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut read = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                read.push((high * 16 + low) as u8);
                at += 3;
            }
            (b'+', ..) => {
                read.push(b' ');
                at += 1;
            }
            (byte, ..) => {
                read.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&read).into_owned()
}
