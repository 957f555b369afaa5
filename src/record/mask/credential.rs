//! Credentials inside ordinary texts: assignments, URLs, `Authorization` values, tokens and keys that show what they are.
//!
//! README, "What the exchange log masks", has the table of these forms; each has a test in `mask/tests/credentials.rs`.
//! One pass over a text, with few bytes that are looked at more closely. Pure; never fails.

use memchr::{memchr2_iter, memchr3_iter, memmem};

use super::value::{begins_with_basic_of, contains_basic, contains_own_secret, starts_like_secret};

/// A name that contains one of these, without case, `-`, `_` and spaces, is that of a credential.
const SECRET_NAMES: &[&str] = &[
    "secret",
    "passw",
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "token",
    "credential",
    "cookie",
    "apikey",
    "accesskey",
    "privatekey",
    "signingkey",
    "authorization",
    "authkey",
    "katasandi",
    "kredensial",
];

/// The letters of each of them ([`letters`]).
const NAMES_LETTERS: [u32; SECRET_NAMES.len()] = {
    let mut table = [0; SECRET_NAMES.len()];
    let mut at = 0;
    while at < table.len() {
        table[at] = letters(SECRET_NAMES[at].as_bytes());
        at += 1;
    }
    table
};

/// Members whose value may be the name that their sibling's value belongs to: `{"name":"Authorization","value":"…"}`.
const NAMING: &[&str] =
    &["name", "key", "header", "field", "param", "parameter", "property", "attribute", "variable", "label", "n", "k"];

/// Longest name of a credential, in bytes.
const LONGEST_NAME: usize = 40;

/// Where a text comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A value.
    Value,
    /// A whole JSON text without escapes: what `"` encloses before a `:` is a member's name, which has rules of its own.
    Json,
}

/// Whether a value looks secret under any name: a secret issued by the gateway, credentials in Basic form or in one of the
/// forms of [`contains_credential`], or JSON packed into a string, whose contents are not examined.
pub(super) fn looks_secret(value: &str) -> bool {
    starts_like_secret(value)
        || contains_own_secret(value)
        || contains_basic(value)
        || contains_credential(value, Source::Value)
}

/// Whether a text contains a credential.
pub(super) fn contains_credential(text: &str, source: Source) -> bool {
    let bytes = text.as_bytes();
    let assigned = memchr3_iter(b'=', b':', b'%', bytes).any(|at| {
        let separator = match bytes[at] {
            b'%' if is_encoded_separator(&bytes[at + 1..]) => 3,
            b'%' => return false,
            b':' if bytes[at + 1..].starts_with(b"//") => return has_userinfo(&bytes[at + 3..]),
            _ => 1,
        };
        let colon = bytes[at] == b':';
        names_credential(&bytes[..at], source, colon) && has_value(&bytes[at + separator..])
    });
    assigned || contains_authorization(bytes) || contains_token(bytes)
}

/// Whether a text is the name of a credential.
pub(super) fn is_secret_name(text: &str) -> bool {
    let characters = |byte: u8| byte.is_ascii_alphanumeric() || b"_-. ".contains(&byte);
    if !(3..=LONGEST_NAME).contains(&text.len()) || !text.bytes().all(characters) {
        return false;
    }
    let mut names = names_spelled(text.as_bytes()).peekable();
    if names.peek().is_none() {
        return false;
    }
    let folded = fold(text.as_bytes());
    match text.split(' ').count() {
        1 => names.any(|name| memmem::find(&folded, name.as_bytes()).is_some()),
        // `Secret Garden` is no credential, `Secret key` is.
        2 | 3 => names.any(|name| folded.ends_with(name.as_bytes())) || folded.ends_with(b"secretkey"),
        _ => false,
    }
}

/// Names of credentials all of whose letters a text has. Few texts have them, so few are searched.
fn names_spelled(text: &[u8]) -> impl Iterator<Item = &'static str> {
    let there = letters(text);
    SECRET_NAMES.iter().zip(NAMES_LETTERS).filter(move |(_, needed)| needed & !there == 0).map(|(name, _)| *name)
}

/// Which letters a text has, one bit for each, without case; other bytes count as some letter.
const fn letters(text: &[u8]) -> u32 {
    let (mut set, mut at) = (0, 0);
    while at < text.len() {
        set |= 1 << (text[at] & 31);
        at += 1;
    }
    set
}

/// Whether a member or parameter of this name may name its siblings.
pub(super) fn may_name(name: &str) -> bool {
    name.len() <= 9 && NAMING.iter().any(|naming| naming.eq_ignore_ascii_case(name))
}

/// `3D` or `3A`: what follows a percent sign that encodes `=` or `:`.
fn is_encoded_separator(after: &[u8]) -> bool {
    matches!(after, [b'3', b'd' | b'D' | b'a' | b'A', ..])
}

/// Whether what follows `://` has a user or password before its host.
fn has_userinfo(after: &[u8]) -> bool {
    let ends = |byte: &u8| byte.is_ascii_whitespace() || b"/?#\"'<>\\".contains(byte);
    let authority = &after[..after.iter().position(ends).unwrap_or(after.len())];
    memchr::memrchr(b'@', authority).is_some_and(|at| at > 0)
        || memmem::find(authority, b"%40").is_some_and(|at| at > 0)
}

/// Whether a text ends with the name of a credential. `colon`: a colon follows, as it does words that are no names.
fn names_credential(before: &[u8], source: Source, colon: bool) -> bool {
    let before = before.trim_ascii_end();
    if source == Source::Json && before.last() == Some(&b'"') {
        return false;
    }
    let quoted = before.iter().rev().take_while(|byte| b"\"'\\`".contains(byte)).count();
    let before = &before[..before.len() - quoted];
    let part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b' ');
    let length = before.iter().rev().take(LONGEST_NAME).take_while(|byte| part(byte)).count();
    let phrase = &before[before.len() - length..];
    let mut names = names_spelled(phrase).peekable();
    if names.peek().is_none() {
        return false;
    }
    let folded = fold(phrase);
    let last = phrase.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    let identifier = !colon || last.iter().any(|byte| matches!(byte, b'_' | b'-'));
    let last = fold(if identifier { last } else { &[] });
    names.any(|name| {
        folded.ends_with(name.as_bytes())
            || folded.strip_suffix(b"key").is_some_and(|folded| folded.ends_with(name.as_bytes()))
            || memmem::find(&last, name.as_bytes()).is_some()
    })
}

/// Whether an assigned value is there.
fn has_value(after: &[u8]) -> bool {
    let mut value = after.iter().skip_while(|byte| byte.is_ascii_whitespace() || b"\"'\\`".contains(byte));
    value.next().is_some_and(|byte| !b",;&)]}.".contains(byte))
}

/// Lower case, without `-`, `_`, `.` and spaces.
fn fold(name: &[u8]) -> Vec<u8> {
    name.iter().filter(|byte| !b"-_. ".contains(byte)).map(u8::to_ascii_lowercase).collect()
}

/// Whether a text contains `Bearer` and a token (one with a digit, or too long for a word), or `Basic` and credentials.
fn contains_authorization(text: &[u8]) -> bool {
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    let after = |at: usize, scheme: &[u8]| {
        let (found, rest) = text[at..].split_at_checked(scheme.len())?;
        let rest = found.eq_ignore_ascii_case(scheme).then_some(rest)?.trim_ascii_start();
        Some(&rest[..rest.iter().take_while(|byte| token(byte)).count()])
    };
    memchr2_iter(b'b', b'B', text).any(|at| match text.get(at + 1) {
        Some(b'e' | b'E') => after(at, b"bearer ")
            .is_some_and(|sent| sent.len() >= 20 || sent.len() >= 6 && sent.iter().any(u8::is_ascii_digit)),
        Some(b'a' | b'A') => after(at, b"basic ").is_some_and(begins_with_basic_of::<4>),
        _ => false,
    })
}

/// Whether a text contains a private key in PEM form, a JSON Web Token, or a token of Vault.
fn contains_token(text: &[u8]) -> bool {
    let base64url = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let run = |text: &[u8]| text.iter().take_while(|byte| base64url(byte)).count();
    let jwt = |at: usize| {
        let header = at + run(&text[at..]);
        header >= at + 10 && text.get(header) == Some(&b'.') && run(&text[header + 1..]) >= 10
    };
    let vault = |at: usize| {
        let before = at.checked_sub(1).and_then(|before| text.get(before));
        let kind = matches!(text.get(at + 2), Some(b's' | b'b' | b'r')) && text.get(at + 3) == Some(&b'.');
        kind && !before.is_some_and(u8::is_ascii_alphanumeric) && run(text.get(at + 4..).unwrap_or_default()) >= 20
    };
    memmem::find(text, b"PRIVATE KEY-----").is_some()
        || memmem::find_iter(text, b"eyJ").any(jwt)
        || memmem::find_iter(text, b"hv").any(vault)
}
