//! Values that are recognized as secret or personal whatever their name. Pure; never fails.

/// Beginning of the secrets that the gateway issues to services: masked wherever they occur.
const OWN_SECRET: &str = "fgw_";

/// Whether a value looks secret under any name: a secret issued by the gateway, an `Authorization`
/// value, or JSON packed into a string, whose contents are not examined.
pub(super) fn looks_secret(value: &str) -> bool {
    starts_like_secret(value) || contains_own_secret(value)
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
    contains_email(text.as_bytes()) || contains_phone(text.as_bytes())
}

fn contains_email(text: &[u8]) -> bool {
    let local = |byte: &u8| byte.is_ascii_alphanumeric() || b"._%+-".contains(byte) || !byte.is_ascii();
    let domain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-' || !byte.is_ascii();
    memchr::memchr_iter(b'@', text).any(|at| {
        let label = text[at + 1..].iter().take_while(|byte| domain(byte)).count();
        let rest = &text[at + 1 + label..];
        text[..at].last().is_some_and(local)
            && label > 0
            && rest.first() == Some(&b'.')
            && rest.get(1).is_some_and(domain)
    })
}

/// Digits of a phone number, with its country code.
const PHONE_DIGITS: std::ops::RangeInclusive<usize> = 10..=15;

/// Indonesian mobile numbers, `08…` and `+62 8…`, also in groups (`0812-3456-7890`); anything with `+` and as many
/// digits.
fn contains_phone(text: &[u8]) -> bool {
    let mut at = 0;
    while let Some(start) = text[at..].iter().position(u8::is_ascii_digit).map(|found| at + found) {
        let before = start.checked_sub(1).map(|before| text[before]);
        let end = phone_end(text, start);
        let digits = || text[start..end].iter().filter(|byte| byte.is_ascii_digit());
        let fraction = start > 1 && before == Some(b'.') && text[start - 2].is_ascii_digit();
        let alone = !fraction
            && !before.is_some_and(|byte| byte.is_ascii_alphanumeric())
            && !text.get(end).is_some_and(u8::is_ascii_alphanumeric);
        let is_phone = || {
            let [first, second, third] = [0, 1, 2].map(|index| digits().nth(index).copied());
            before == Some(b'+')
                || (first, second) == (Some(b'0'), Some(b'8'))
                || (first, second, third) == (Some(b'6'), Some(b'2'), Some(b'8'))
        };
        if alone && PHONE_DIGITS.contains(&digits().count()) && is_phone() {
            return true;
        }
        at = end;
    }
    false
}

/// End of the digits that begin at `start`, with single separators between groups of at least three, after a first
/// group that is not that of a date.
fn phone_end(text: &[u8], start: usize) -> usize {
    let group = |from: usize| text[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut end = start + group(start);
    if &text[start..end] != b"62" && end - start < 4 {
        return end;
    }
    while text.get(end).is_some_and(|byte| b" -.".contains(byte)) && group(end + 1) >= 3 {
        end += 1 + group(end + 1);
    }
    end
}
