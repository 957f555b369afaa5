//! Values that are recognized as secret or personal whatever their name. Pure; never fails.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD as BASE64};

/// Beginning of the secrets that the gateway issues to services: masked wherever they occur.
const OWN_SECRET: &str = "fgw_";

/// Bytes that a text needs for a token, an address, packed JSON or an escape; those of other scripts count too, because
/// their digits and signs are read as ASCII's.
const SUSPECT: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let character = byte as u8;
        table[byte] = !(character.is_ascii_alphanumeric() || matches!(character, b'/' | b'-' | b'_' | b'.' | b','));
        byte += 1;
    }
    table
};

/// Whether a text is so plain that it need not be examined: neither `looks_secret` nor [`contains_personal`], also when
/// it is percent-decoded; nor has it anything to escape. One pass, for almost all paths and parameters of lookups.
pub(super) fn is_harmless(text: &str) -> bool {
    let (mut digits, mut run) = (0, 0);
    for (at, byte) in text.bytes().enumerate() {
        if SUSPECT[usize::from(byte)] || byte == b'_' && text.as_bytes()[..=at].ends_with(OWN_SECRET.as_bytes()) {
            return false;
        }
        digits += usize::from(byte.is_ascii_digit());
        run = if is_base64(byte) { run + 1 } else { 0 };
        if run == MIN_BASIC {
            return false;
        }
    }
    digits < *INTERNATIONAL_DIGITS.start()
}

/// Minimum length of credentials in Basic form, in characters: shorter texts decode to visible characters by chance.
const MIN_BASIC: usize = 16;

/// Bytes of base64, also URL-safe.
const BASE64_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let character = byte as u8;
        table[byte] = character.is_ascii_alphanumeric() || matches!(character, b'+' | b'/' | b'-' | b'_');
        byte += 1;
    }
    table
};

pub(super) fn is_base64(byte: u8) -> bool {
    BASE64_BYTES[usize::from(byte)]
}

/// Whether a text contains base64 of `access:secret`, also URL-safe or without padding.
pub(super) fn contains_basic(text: &str) -> bool {
    let mut rest = text.as_bytes();
    while rest.len() >= MIN_BASIC {
        if begins_with_basic(rest) {
            return true;
        }
        // The next run begins after what ends this one.
        let Some(end) = rest.iter().position(|byte| !is_base64(*byte)) else { return false };
        rest = &rest[end + 1..];
    }
    false
}

/// Whether a text begins with base64 of `access:secret`; something else may follow. Takes long for nothing else: the first
/// characters decide.
pub(super) fn begins_with_basic(text: &[u8]) -> bool {
    begins_with_basic_of::<MIN_BASIC>(text)
}

/// The same, of at least so many characters, a multiple of four.
pub(super) fn begins_with_basic_of<const MIN: usize>(text: &[u8]) -> bool {
    let visible = |byte: &u8| matches!(byte, b' '..=b'~');
    let first = text.get(..MIN).filter(|first| first.iter().all(|byte| is_base64(*byte)));
    if !first.and_then(decode).is_some_and(|bytes| bytes.iter().all(visible)) {
        return false;
    }
    let run = &text[..text.iter().take_while(|byte| is_base64(**byte)).count()];
    let decoded = decode(&run[..run.len() - run.len() % 4]).unwrap_or_default();
    decoded.iter().take_while(|byte| visible(byte)).skip(1).any(|byte| *byte == b':')
}

fn decode(run: &[u8]) -> Option<Vec<u8>> {
    BASE64.decode(run.iter().map(|byte| standard(*byte)).collect::<Vec<u8>>()).ok()
}

/// A character of URL-safe base64 as that of standard base64.
pub(super) fn standard(byte: u8) -> u8 {
    match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    }
}

pub(super) fn starts_like_secret(value: &str) -> bool {
    let trimmed = value.trim_start();
    let scheme = |scheme: &str| trimmed.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme));
    match trimmed.as_bytes().first() {
        Some(b'{' | b'[') => trimmed.contains(['"', ':']),
        Some(b'b' | b'B') => scheme("basic ") || scheme("bearer "),
        _ => false,
    }
}

pub(super) fn contains_own_secret(text: &str) -> bool {
    memchr::memmem::find(text.as_bytes(), OWN_SECRET.as_bytes()).is_some()
}

/// Whether a text contains an e-mail address or a phone number.
pub(super) fn contains_personal(text: &str) -> bool {
    let contains = |text: &[u8]| contains_email(text) || contains_phone(text);
    if text.is_ascii() { contains(text.as_bytes()) } else { contains(plain(text).as_bytes()) }
}

/// The text with the digits, signs, dashes and spaces of ASCII instead of those that look or mean the same.
fn plain(text: &str) -> String {
    let plain = |c: char| match c {
        '\u{ff10}'..='\u{ff19}' => digit(c, 0xff10),
        '\u{660}'..='\u{669}' => digit(c, 0x660),
        '\u{6f0}'..='\u{6f9}' => digit(c, 0x6f0),
        '\u{ff0b}' => '+',
        '\u{ff20}' => '@',
        '\u{ff0e}' => '.',
        '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{ff0d}' => '-',
        c if c.is_whitespace() => ' ',
        c => c,
    };
    // What cannot be seen separates nothing.
    let unseen = |c: &char| matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}');
    text.chars().filter(|c| !unseen(c)).map(plain).collect()
}

fn digit(c: char, zero: u32) -> char {
    char::from_digit(c as u32 - zero, 10).unwrap_or(c)
}

fn contains_email(text: &[u8]) -> bool {
    has_address(text, b"@") || has_address(text, b"%40")
}

/// `sign`: what separates the local part from the domain.
fn has_address(text: &[u8], sign: &[u8]) -> bool {
    let local = |byte: &u8| byte.is_ascii_alphanumeric() || b"._%+-\"".contains(byte) || !byte.is_ascii();
    let domain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-' || !byte.is_ascii();
    memchr::memmem::find_iter(text, sign).any(|at| {
        let after = &text[at + sign.len()..];
        let label = after.iter().take_while(|byte| domain(byte)).count();
        let rest = &after[label..];
        text[..at].last().is_some_and(local)
            && label > 0
            && rest.first() == Some(&b'.')
            && rest.get(1).is_some_and(domain)
    })
}

/// Digits of a mobile number, with its `0` or country code.
const MOBILE_DIGITS: std::ops::RangeInclusive<usize> = 10..=15;
/// Digits of a number with `+` and a country code (ITU-T E.164: at most 15).
const INTERNATIONAL_DIGITS: std::ops::RangeInclusive<usize> = 8..=15;
/// Digits of a landline number, with its area code.
const LANDLINE_DIGITS: std::ops::RangeInclusive<usize> = 9..=12;
/// Maximum number of digits of a landline number in groups.
const GROUPED_LANDLINE: usize = 13;
/// Digits of a mobile number that has lost its `0`, such as in a JSON number. With ten digits it could be the id of a
/// region in the Moluccas.
const BARE_DIGITS: std::ops::RangeInclusive<usize> = 11..=12;

/// Indonesian mobile numbers, `08…` and `+62 8…`, also in groups (`0812-3456-7890`) and without the `0`; landline
/// numbers with their area code; anything with `+` and as many digits.
fn contains_phone(text: &[u8]) -> bool {
    let mut at = 0;
    while let Some(start) = next_digit(text, at) {
        let before = start.checked_sub(1).map(|before| text[before]);
        let plus = before == Some(b'+');
        let end = phone_end(text, start, plus);
        let fraction = start > 1 && before == Some(b'.') && text[start - 2].is_ascii_digit();
        let alone = !fraction
            && !before.is_some_and(|byte| byte.is_ascii_alphanumeric())
            && !text.get(end).is_some_and(u8::is_ascii_alphanumeric);
        if alone && end - start >= *INTERNATIONAL_DIGITS.start() && is_phone(&text[start..end], plus) {
            return true;
        }
        at = end;
    }
    false
}

/// Position of the next digit. Most texts have few: whole blocks without one are passed over.
fn next_digit(text: &[u8], from: usize) -> Option<usize> {
    let rest = &text[from..];
    // Of a fixed length, so that the compiler looks at all bytes of a block at once.
    let has_digit = |block: &[u8; 16]| block.iter().fold(false, |found, byte| found | byte.is_ascii_digit());
    let blocks = rest.as_chunks().0.iter().take_while(|block| !has_digit(block)).count();
    let passed = blocks * 16;
    rest[passed..].iter().position(u8::is_ascii_digit).map(|within| from + passed + within)
}

/// Whether digits, with separators between them, are a phone number.
fn is_phone(text: &[u8], plus: bool) -> bool {
    let grouped = text.iter().any(|byte| !byte.is_ascii_digit());
    let mut digits = text.iter().copied().filter(u8::is_ascii_digit);
    let mut count = digits.clone().count();
    // The international prefix instead of `+`.
    if text.starts_with(b"0062") {
        digits.nth(1);
        count -= 2;
    }
    let national = match (digits.next(), digits.next(), digits.next()) {
        (Some(b'0'), Some(b'8'), _) | (Some(b'6'), Some(b'2'), Some(b'8')) => MOBILE_DIGITS.contains(&count),
        (Some(b'0'), Some(b'2'..=b'9'), _) => LANDLINE_DIGITS.contains(&count) || grouped && count == GROUPED_LANDLINE,
        (Some(b'8'), Some(b'1'..=b'3' | b'5' | b'7'..=b'9'), Some(b'1'..=b'9')) if !grouped => {
            BARE_DIGITS.contains(&count)
        }
        _ => false,
    };
    national || plus && INTERNATIONAL_DIGITS.contains(&count)
}

/// End of the digits that begin at `start`, with separators (`0812-3456`, `(0812) 3456`) between groups of at least
/// three, after a first group that is not that of a date.
fn phone_end(text: &[u8], start: usize, plus: bool) -> usize {
    let group = |from: usize| text[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut end = start + group(start);
    let first = &text[start..end];
    let begins_number = plus || first == b"62" || first.len() >= 4 || first.len() == 3 && first[0] == b'0';
    if !begins_number {
        return end;
    }
    loop {
        let separators = text[end..].iter().take(3).take_while(|byte| b" -.()/_\t".contains(byte)).count();
        let next = end + separators;
        if separators == 0 || group(next) < 3 {
            return end;
        }
        end = next + group(next);
    }
}
