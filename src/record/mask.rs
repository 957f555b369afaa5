//! Masks secrets and personal data in what the exchange log writes.
//!
//! Always holds: a value whose name is listed in `names` or in the configuration is never written;
//! what is written is valid JSON; unmasked values keep their bytes. Pure: knows no record and no
//! file. A body that cannot be parsed to its last byte is not written at all.

mod credential;
mod json;
mod known;
mod names;
pub(crate) mod stored;
#[cfg(test)]
mod tests;
mod value;

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

pub(super) use self::known::Presented;
use self::{
    credential::{is_secret_name, looks_secret, may_name},
    known::{KnownDigests, MAX_DIGESTS, any_encoded, any_view},
    names::{MaskRule, MaskRules, looks_like_region},
    value::{begins_with_basic, contains_basic, contains_own_secret, contains_personal, is_harmless},
};
use super::encode;
use crate::config::LogBodies;

/// Replaces a masked value.
pub const MASKED: &str = "***";

/// How often a parameter is percent-decoded before it is classified: a later reader may decode it
/// again.
const DECODINGS: usize = 3;

/// Shortest secret that is searched for in encoded form, in bytes, unless the request has presented it.
const MIN_KNOWN: usize = 16;

/// What of a text is compared with the digests of known secrets; of what it encodes, more than pairs is all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Digests {
    Nothing,
    /// What follows a known access key.
    Pairs,
    /// Also words.
    Words,
    /// Also the text as a whole.
    All,
}

/// What to mask, and whether bodies are written at all.
pub struct Masker {
    rules: MaskRules,
    bodies: LogBodies,
    live: LiveSecrets,
    known: KnownDigests,
}

/// What the caller wrote, as a line would show it.
pub(super) struct CallersText<'a> {
    /// Path and query.
    pub(super) target: [&'a [u8]; 2],
    /// Bodies, masked.
    pub(super) request_body: &'a [u8],
    pub(super) answer_body: &'a [u8],
}

/// Whether one of these texts contains a live secret of an account, given by its index; `None`: of any account.
pub type LiveSecrets = Box<dyn Fn(Option<usize>, &[&[u8]]) -> bool + Send + Sync>;

impl std::fmt::Debug for Masker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Masker").field("bodies", &self.bodies).finish_non_exhaustive()
    }
}

impl Masker {
    /// `further`: names whose values are masked in addition to the built-in ones, compared without
    /// case, `-` and `_`.
    pub fn new(bodies: LogBodies, further: &[String]) -> Masker {
        Masker { rules: MaskRules::new(further), bodies, live: Box::new(|_, _| false), known: KnownDigests::default() }
    }

    /// The same, and texts that contain a live secret are withheld.
    pub fn withholding(self, live: LiveSecrets) -> Masker {
        Masker { live, ..self }
    }

    /// The same, and texts that contain a secret with one of these SHA-256 digests are withheld. `access_keys`: those that
    /// such secrets belong to.
    pub fn recognizing<'a>(
        self,
        access_keys: impl IntoIterator<Item = &'a str>,
        digests: impl IntoIterator<Item = [u8; 32]>,
    ) -> Masker {
        Masker { known: KnownDigests::new(access_keys, digests), ..self }
    }

    /// Whether a text is or contains a secret that the request has presented or that the configuration knows, as it is or
    /// encoded.
    pub(super) fn holds_callers_secret(&self, presented: &Presented, text: &[u8]) -> bool {
        let mut left = MAX_DIGESTS;
        let mut found = |view: &[u8]| presented.is_in(view) || self.known.any_in(view, &mut left);
        any_view(text, presented.shortest().min(MIN_KNOWN), &mut found)
    }

    /// Whether what would be written contains a secret in any form, of the account, of a caller or of an operator. A live
    /// one is only searched for where it is encoded: [`Self::holds_live_secret`] finds the others.
    pub(super) fn holds_encoded_secret(
        &self,
        account: Option<usize>,
        presented: &Presented,
        written: &CallersText<'_>,
    ) -> bool {
        let mut left = MAX_DIGESTS;
        let shortest = presented.shortest().min(MIN_KNOWN);
        // What is encoded is not shorter.
        let searched = shortest.min(self.known.shortest_pair());
        let mut holds = |text: &[u8], digests: Digests| {
            text.len() >= searched
                && (presented.is_in(text)
                    || match digests {
                        Digests::Nothing => false,
                        Digests::Pairs => self.known.any_pair_in(text, &mut left),
                        Digests::Words => {
                            self.known.any_pair_in(text, &mut left) || self.known.any_word_in(text, &mut left)
                        }
                        Digests::All => self.known.any_in(text, &mut left),
                    }
                    || any_encoded(text, shortest, &mut |view| {
                        presented.is_in(view)
                            || self.holds_live_secret(account, view)
                            || match digests {
                                Digests::Nothing => false,
                                Digests::Pairs => self.known.any_pair_in(view, &mut left),
                                Digests::Words | Digests::All => self.known.any_in(view, &mut left),
                            }
                    }))
        };
        // Nobody sends Fastrac a secret that it could respond with, but in the request. No secret is a JSON object. One behind
        // its access key may have what separates the parts of a target.
        holds(written.request_body, Digests::Words)
            || holds(written.answer_body, Digests::Nothing)
            || written
                .target
                .into_iter()
                .filter(|text| text.len() >= searched)
                .any(|text| holds(text, Digests::Pairs) || parts(text).any(|part| holds(part, Digests::All)))
    }

    /// Whether a text contains a live secret.
    pub fn holds_live_secret(&self, account: Option<usize>, text: &[u8]) -> bool {
        self.any_holds_live_secret(account, &[text])
    }

    /// Whether one of these texts does.
    pub(super) fn any_holds_live_secret(&self, account: Option<usize>, texts: &[&[u8]]) -> bool {
        (self.live)(account, texts)
    }

    /// The same for a part of a URI, also percent-encoded.
    pub fn uri_holds_live_secret(&self, account: Option<usize>, part: &str) -> bool {
        let Cow::Owned(all) = decoded(part) else { return false };
        // Further decoding makes a space of a `+`.
        let once = || percent_decode_str(part).decode_utf8_lossy();
        self.holds_live_secret(account, all.as_bytes()) || self.holds_live_secret(account, once().as_bytes())
    }

    /// Whether bodies are written at all.
    pub fn logs_bodies(&self) -> bool {
        self.bodies == LogBodies::Masked
    }

    /// Appends the masked body as one line of JSON. Returns false and leaves `out` unchanged if it is
    /// not a JSON object or array, or is one that readers may interpret differently.
    pub fn body(&self, out: &mut Vec<u8>, body: &[u8]) -> bool {
        let start = out.len();
        out.reserve(body.len());
        let masked = json::mask(out, body, &self.rules).is_ok();
        if !masked {
            out.truncate(start);
        }
        masked
    }

    /// Appends a query (without `?`), escaped as in a JSON string, with the values of masked parameters
    /// as `***`.
    pub fn query(&self, out: &mut Vec<u8>, query: &str) {
        let names = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or_default();
            may_name(&decoded(name)) && is_secret_name(&decoded(value))
        };
        // `name=Authorization&value=…`: one of the others belongs to it.
        if memchr::memchr(b'&', query.as_bytes()).is_some() && query.split('&').any(names) {
            return encode::escape(out, MASKED);
        }
        self.pairs(out, query);
    }

    /// Appends a path, escaped as in a JSON string; `;name=value` parameters in it are masked as in a
    /// query.
    pub fn path(&self, out: &mut Vec<u8>, path: &str) {
        if is_harmless(path) {
            return out.extend_from_slice(path.as_bytes());
        }
        // Base64 may contain slashes: what follows its first segment is hidden with it.
        let starts = memchr::memchr_iter(b'/', path.as_bytes()).map(|slash| slash + 1);
        let hidden = starts.into_iter().find(|start| begins_with_basic(&path.as_bytes()[*start..]));
        let (path, rest) = path.split_at(hidden.unwrap_or(path.len()));
        let plain = memchr::memchr3(b'=', b'%', b'_', path.as_bytes()).is_none() && !contains_personal(path);
        if plain {
            encode::escape(out, path);
        } else {
            for (index, segment) in path.split('/').enumerate() {
                if index > 0 {
                    out.push(b'/');
                }
                self.pairs(out, segment);
            }
        }
        if !rest.is_empty() {
            encode::escape(out, MASKED);
        }
    }

    fn pairs(&self, out: &mut Vec<u8>, pairs: &str) {
        let (mut rest, mut masked) = (pairs, false);
        loop {
            let end = memchr::memchr2(b'&', b';', rest.as_bytes()).unwrap_or(rest.len());
            // A semicolon separates parameters for some servers and is part of the value for others.
            masked = self.pair(out, &rest[..end], masked);
            let Some(separator) = rest.as_bytes().get(end) else { return };
            out.push(*separator);
            masked &= *separator == b';';
            rest = &rest[end + 1..];
        }
    }

    /// Returns whether its value is masked. `before`: whether the value was masked that a part without
    /// a name may belong to; such a part is masked too.
    fn pair(&self, out: &mut Vec<u8>, pair: &str, before: bool) -> bool {
        let Some((name, value)) = pair.split_once('=') else {
            if before && !pair.is_empty() {
                encode::escape(out, MASKED);
                return true;
            }
            return show(out, pair) == Shown::Masked || before;
        };
        let decoded_name = if show(out, name) == Shown::Harmless { Cow::Borrowed(name) } else { decoded(name) };
        out.push(b'=');
        let rule = self.rules.rule_of(&decoded_name);
        let kept = match rule {
            MaskRule::Keep => return show(out, value) == Shown::Masked,
            MaskRule::Place | MaskRule::Region => looks_like_region(value.as_bytes()),
            MaskRule::Mask | MaskRule::Person => value.is_empty(),
        };
        encode::escape(out, if kept { value } else { MASKED });
        !kept || matches!(rule, MaskRule::Mask | MaskRule::Person)
    }
}

/// The segments of a path, or the names and values of a query, whose values may contain slashes.
fn parts(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = |slash: bool| move |byte: &u8| b"&;=".contains(byte) || slash && *byte == b'/';
    let texts = text.split(|byte| matches!(byte, b'"' | b'?'));
    texts.flat_map(move |text| text.split(ends(text.starts_with(b"/"))))
}

/// Whether a text is or contains a credential that this gateway's callers use.
pub(super) fn is_credential(text: &str) -> bool {
    contains_own_secret(text) || contains_basic(text)
}

/// How a text was written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// As it is, and nothing in it is encoded.
    Harmless,
    Escaped,
    Masked,
}

/// Appends a text, or that it is masked whatever its name.
fn show(out: &mut Vec<u8>, text: &str) -> Shown {
    if is_harmless(text) {
        out.extend_from_slice(text.as_bytes());
        return Shown::Harmless;
    }
    let hidden = is_hidden(text);
    encode::escape(out, if hidden { MASKED } else { text });
    if hidden { Shown::Masked } else { Shown::Escaped }
}

/// Whether a text that is not harmless is masked.
fn is_hidden(text: &str) -> bool {
    // Each decoding makes a space of the `+` that a phone number has got back in the one before.
    let mut text = Cow::Borrowed(text);
    for _ in 0..DECODINGS {
        let Some(next) = decoded_once(&text) else { break };
        if contains_personal(&next) {
            return true;
        }
        text = Cow::Owned(next);
    }
    looks_secret(&text) || contains_personal(&text)
}

/// Percent-decodes; `+` is a space. `None`: nothing is encoded.
fn decoded_once(text: &str) -> Option<String> {
    memchr::memchr2(b'%', b'+', text.as_bytes())?;
    Some(percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned())
}

/// Percent-decodes repeatedly, while something is encoded; `+` is a space.
fn decoded(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    for _ in 0..DECODINGS {
        let Some(next) = decoded_once(&text) else { break };
        text = Cow::Owned(next);
    }
    text
}
