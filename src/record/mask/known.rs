//! Secrets that are known when a line is written: those that the request itself has presented, and those that the
//! configuration knows by their digests.
//!
//! A presented secret is searched for anywhere in what the caller wrote; one that is known by its digest can be recognized
//! as a whole word, or behind the access key that it belongs to (`access.secret`, `access:secret`). All are found as they are,
//! percent-encoded, JSON-escaped, in base64 and in hex ([`any_view`]). Work on digests is bounded by [`MAX_DIGESTS`] for each
//! line: a text with more words that could be secrets counts as one that contains one. Pure; never fails.

use std::{
    borrow::Cow,
    cell::Cell,
    collections::{BTreeSet, HashSet},
};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Shortest presented secret that is searched for, in bytes: shorter ones occur by chance.
const MIN_PRESENTED: usize = 8;

/// Shortest and longest word that is compared with the digests, in bytes; one behind an access key may be shorter.
const DIGESTED: std::ops::RangeInclusive<usize> = 16..=256;

/// Words of one line that are compared with the digests.
pub(super) const MAX_DIGESTS: usize = 4096;

/// Longest base64 or hex that is decoded, in characters: a longer one is a picture or a file.
const LONGEST_RUN: usize = 2048;

/// Layers of percent-encoding and JSON escapes that are undone.
const LAYERS: usize = 3;

/// Headers in which a caller presents a secret, or believes that it does.
static CREDENTIALS: [http::HeaderName; 4] = [
    http::HeaderName::from_static("secret-key"),
    AUTHORIZATION,
    http::HeaderName::from_static("x-secret-key"),
    http::HeaderName::from_static("secret_key"),
];

/// The values of a request's credential headers, as they came: they are read only if a line is written.
#[derive(Clone, Default)]
pub(in crate::record) struct Presented(Vec<HeaderValue>);

impl Presented {
    pub(in crate::record) fn read(headers: &HeaderMap) -> Presented {
        // One that is repeated is no proof, and yet a secret. One pass takes less than four look-ups.
        let presented = headers.iter().filter(|(name, _)| CREDENTIALS.contains(name));
        // Almost all requests have one: the usual list has room for four, for which the allocator must look longer.
        let mut values = Vec::with_capacity(1);
        values.extend(presented.map(|(_, value)| value.clone()));
        Presented(values)
    }

    /// Calls `found` with each secret, until it returns true.
    fn any(&self, found: impl Fn(&[u8]) -> bool) -> bool {
        let found = |secret: &[u8]| secret.len() >= MIN_PRESENTED && found(secret);
        self.0.iter().any(|value| {
            let value = value.as_bytes();
            let Some((scheme, sent)) = split(value, b' ') else { return found(value) };
            let sent = sent.trim_ascii();
            if scheme.eq_ignore_ascii_case(b"basic") {
                let pair = BASE64.decode(sent).map(Zeroizing::new).unwrap_or_default();
                return found(sent) || split(&pair, b':').is_some_and(|(_, secret)| found(secret));
            }
            found(sent) || split(sent, b'.').is_some_and(|(_, secret)| found(secret))
        })
    }

    /// Whether a text contains one of the secrets as it is.
    pub(super) fn is_in(&self, text: &[u8]) -> bool {
        self.any(|secret| {
            // Random secrets end with a byte that is rarer than their first one, which is often that of a prefix.
            let Some((last, before)) = secret.split_last() else { return false };
            let ends = text.get(before.len()..).unwrap_or_default();
            memchr::memchr_iter(*last, ends).any(|start| text[start..].starts_with(before))
        })
    }

    /// Length of the shortest secret, in bytes; `usize::MAX`: there is none.
    pub(super) fn shortest(&self) -> usize {
        let shortest = Cell::new(usize::MAX);
        self.any(|secret| {
            shortest.set(shortest.get().min(secret.len()));
            false
        });
        shortest.get()
    }
}

/// Digests of secrets that callers and operators use, and the access keys of callers.
#[derive(Default)]
pub(super) struct KnownDigests {
    digests: HashSet<[u8; 32]>,
    access_keys: HashSet<Box<[u8]>>,
    /// Of the access keys, in bytes, ascending.
    lengths: Vec<usize>,
}

impl KnownDigests {
    pub(super) fn new<'a>(
        access_keys: impl IntoIterator<Item = &'a str>,
        digests: impl IntoIterator<Item = [u8; 32]>,
    ) -> KnownDigests {
        let access_keys: HashSet<Box<[u8]>> = access_keys.into_iter().map(|key| key.as_bytes().into()).collect();
        let lengths: BTreeSet<_> = access_keys.iter().map(|key| key.len()).collect();
        KnownDigests { digests: digests.into_iter().collect(), access_keys, lengths: lengths.into_iter().collect() }
    }

    /// Length of the shortest `access.secret`, in bytes; `usize::MAX`: there is no access key.
    pub(super) fn shortest_pair(&self) -> usize {
        self.lengths.first().map_or(usize::MAX, |length| length + 2)
    }

    /// Whether a text, or a word of it, is a secret, as it is, or it contains an access key with its secret. `left`: how many
    /// words may still be compared.
    pub(super) fn any_in(&self, text: &[u8], left: &mut usize) -> bool {
        self.any_pair_in(text, left) || self.any_word_in(text, left) || self.is(text, left)
    }

    /// Whether a text contains an access key and, after a `.` (as in `Bearer`) or a `:` (as in `Basic`), a secret of any
    /// length.
    pub(super) fn any_pair_in(&self, text: &[u8], left: &mut usize) -> bool {
        memchr::memchr2_iter(b'.', b':', text)
            .any(|at| self.ends_with_access_key(&text[..at]) && self.begins_with_secret(&text[at + 1..], left))
    }

    fn ends_with_access_key(&self, text: &[u8]) -> bool {
        // After most colons of JSON there is none: a quote comes before.
        text.last().is_some_and(|last| last.is_ascii_alphanumeric() || b"-_".contains(last))
            && self.lengths.iter().any(|length| {
                text.len().checked_sub(*length).is_some_and(|start| self.access_keys.contains(&text[start..]))
            })
    }

    /// A secret may have any visible character: it can end before each that is neither a letter nor a digit.
    fn begins_with_secret(&self, text: &[u8], left: &mut usize) -> bool {
        let visible = text.iter().take(*DIGESTED.end()).take_while(|byte| byte.is_ascii_graphic()).count();
        (1..=visible)
            .filter(|end| !text.get(*end).is_some_and(u8::is_ascii_alphanumeric))
            .any(|end| self.is_digested(&text[..end], left))
    }

    /// Whether a word of a text that is no secret as a whole is one.
    pub(super) fn any_word_in(&self, text: &[u8], left: &mut usize) -> bool {
        // A word, or what it assigns, which is shorter.
        let mut is_word = |word: &[u8]| {
            let assigned = || split(word, b'=').filter(|(_, value)| !value.starts_with(b"="));
            word.len() >= *DIGESTED.start()
                && (word.len() < text.len() && self.is(word, left)
                    || assigned().is_some_and(|(_, value)| self.is(value, left)))
        };
        !self.digests.is_empty() && text.split(|byte| SEPARATORS[usize::from(*byte)]).any(&mut is_word)
    }

    fn is(&self, word: &[u8], left: &mut usize) -> bool {
        // What is sent in a header is visible; what is decoded by chance is not.
        DIGESTED.contains(&word.len()) && word.iter().all(u8::is_ascii_graphic) && self.is_digested(word, left)
    }

    fn is_digested(&self, word: &[u8], left: &mut usize) -> bool {
        if self.digests.is_empty() {
            return false;
        }
        *left = left.saturating_sub(1);
        *left == 0 || self.digests.contains::<[u8; 32]>(&Sha256::digest(word).into())
    }
}

/// Bytes that end a word.
const SEPARATORS: [bool; 256] = {
    let mut table = [false; 256];
    let bytes = b" \t\n\r\"'`,;:&?<>()[]{}|\\";
    let mut at = 0;
    while at < bytes.len() {
        table[bytes[at] as usize] = true;
        at += 1;
    }
    table
};

fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let position = memchr::memchr(at, text)?;
    Some((&text[..position], &text[position + 1..]))
}

/// Calls `found` with a text, and with what it encodes ([`any_encoded`]), until it returns true.
pub(super) fn any_view(text: &[u8], shortest: usize, found: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    found(text) || any_encoded(text, shortest, found)
}

/// Calls `found` with what a text encodes, until it returns true: up to [`LAYERS`] of JSON escapes and percent-encoding; in
/// each of them, base64 (also URL-safe, in the middle of other base64, and without padding) and hex of at least `shortest`
/// bytes and at most [`LONGEST_RUN`] characters.
pub(super) fn any_encoded(text: &[u8], shortest: usize, found: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    if any_run(text, shortest, found) {
        return true;
    }
    let mut text = Cow::Borrowed(text);
    for _ in 0..LAYERS {
        let Some(next) = undone(&text) else { return false };
        if found(&next) || any_run(&next, shortest, found) {
            return true;
        }
        text = Cow::Owned(next);
    }
    false
}

/// What the runs of base64 and hex in a text encode.
fn any_run(text: &[u8], shortest: usize, found: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    let shortest = shortest.saturating_mul(4).div_ceil(3).max(1);
    let mut rest = text;
    while let Some(window) = rest.get(..shortest) {
        // From its end: few texts have a run so long, and what comes before a gap need not be looked at.
        if let Some(gap) = window.iter().rposition(|byte| !super::value::is_base64(*byte)) {
            rest = &rest[gap + 1..];
            continue;
        }
        let length = rest.iter().take_while(|byte| super::value::is_base64(**byte)).count();
        if length <= LONGEST_RUN && encodes(&rest[..length], found) {
            return true;
        }
        rest = rest.get(length + 1..).unwrap_or_default();
    }
    false
}

fn encodes(run: &[u8], found: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    let standard: Zeroizing<Vec<u8>> = Zeroizing::new(run.iter().map(|byte| super::value::standard(*byte)).collect());
    // What is encoded may begin in the middle of a run: `key-` or a segment of a path before it.
    let base64 = |from: usize| {
        let run = standard.get(from..).unwrap_or_default();
        BASE64.decode(&run[..run.len() - usize::from(run.len() % 4 == 1)]).map(Zeroizing::new).ok()
    };
    let hex = |from: usize| {
        let run = run.get(from..).unwrap_or_default();
        let length = run.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        // A shorter one is no secret that is searched for.
        let is_long = length / 2 >= MIN_PRESENTED;
        is_long.then(|| hex::decode(&run[..length - length % 2]).map(Zeroizing::new).ok())?
    };
    let starts_hex = |at: &usize| run[*at].is_ascii_hexdigit() && (*at == 0 || !run[*at - 1].is_ascii_hexdigit());
    (0..4).filter_map(base64).any(|decoded| found(&decoded))
        || (0..run.len()).filter(starts_hex).flat_map(|at| [at, at + 1]).filter_map(hex).any(|decoded| found(&decoded))
}

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A text with one layer of percent-encoding and JSON escapes undone; `None`: it has none.
fn undone(text: &[u8]) -> Option<Vec<u8>> {
    let first = memchr::memchr2(b'%', b'\\', text)?;
    let mut out = Vec::with_capacity(text.len());
    out.extend_from_slice(&text[..first]);
    let digits = |digits: Option<&[u8]>| u32::from_str_radix(std::str::from_utf8(digits?).ok()?, 16).ok();
    let mut at = first;
    while let Some(&byte) = text.get(at) {
        let (code, length) = match (byte, text.get(at + 1)) {
            (b'%', _) => (digits(text.get(at + 1..at + 3)), 3),
            (b'\\', Some(b'u')) => (digits(text.get(at + 2..at + 6)), 6),
            (b'\\', Some(escaped)) => (Some(u32::from(*escaped)), 2),
            _ => (None, 1),
        };
        // No secret has a character outside ASCII.
        out.push(code.map_or(byte, |code| u8::try_from(code).unwrap_or(b'?')));
        at += if code.is_some() { length } else { 1 };
    }
    Some(out)
}
