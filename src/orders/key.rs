//! Parses `Idempotency-Key`. Pure; fails with [`IdempotencyKeyError`].

use http::HeaderMap;

const NAME: &str = "idempotency-key";

/// Maximum length of a key, characters after unquoting.
const MAX_LENGTH: usize = 255;

/// What is wrong with an `Idempotency-Key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdempotencyKeyError {
    /// More than one header line.
    #[error("Idempotency-Key is sent more than once: send one")]
    Repeated,
    /// Empty, or too long.
    #[error("Idempotency-Key must be 1 to 255 characters long: send such a one")]
    Length,
    /// A character that is not visible ASCII, or a quote or comma.
    #[error(
        "Idempotency-Key has {} at position {position}: send one of visible ASCII characters without quotes and \
         commas, bare or as one string in double quotes",
        named(*found)
    )]
    Character {
        found: u8,
        /// From 1, in the value of the header.
        position: usize,
    },
    /// A string that is not closed, or with an escape that strings do not have, or followed by something.
    #[error(
        "Idempotency-Key begins with a double quote but is not one string in double quotes (RFC 8941): send it as one, or \
         bare"
    )]
    Form,
}

/// The unquoted key of a request; `None` if it has none. A string and a bare value with the same
/// characters are the same key.
///
/// # Errors
/// Anything but one RFC 8941 string without parameters, or one bare value; both of visible ASCII characters without
/// quotes and commas (contract section 6).
pub(super) fn parse(headers: &HeaderMap) -> Result<Option<Vec<u8>>, IdempotencyKeyError> {
    let mut lines = headers.get_all(NAME).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(IdempotencyKeyError::Repeated);
    }
    let text = line.as_bytes().trim_ascii();
    let key = match text.strip_prefix(b"\"") {
        Some(quoted) => unquote(quoted)?,
        None => bare(text)?,
    };
    if key.is_empty() || key.len() > MAX_LENGTH {
        return Err(IdempotencyKeyError::Length);
    }
    Ok(Some(key))
}

/// RFC 8941, section 4.2.5, after the opening quote.
fn unquote(text: &[u8]) -> Result<Vec<u8>, IdempotencyKeyError> {
    let mut key = Vec::with_capacity(text.len());
    // After the quote, the first byte is the second of the value.
    let mut bytes = (2..).zip(text.iter().copied());
    while let Some((position, byte)) = bytes.next() {
        match byte {
            b'"' => return if bytes.next().is_none() { Ok(key) } else { Err(IdempotencyKeyError::Form) },
            b'\\' => match bytes.next() {
                Some((_, b'\\')) => key.push(b'\\'),
                _ => return Err(IdempotencyKeyError::Form),
            },
            found => key.push(allowed(found, position)?),
        }
    }
    Err(IdempotencyKeyError::Form)
}

fn bare(text: &[u8]) -> Result<Vec<u8>, IdempotencyKeyError> {
    (1..).zip(text).map(|(position, byte)| allowed(*byte, position)).collect()
}

/// The byte, if a key may contain it.
fn allowed(found: u8, position: usize) -> Result<u8, IdempotencyKeyError> {
    match found {
        0x21..=0x7e if !b"\",".contains(&found) => Ok(found),
        _ => Err(IdempotencyKeyError::Character { found, position }),
    }
}

/// A byte in words.
fn named(byte: u8) -> String {
    match byte {
        b'"' => "a double quote".to_owned(),
        b',' => "a comma".to_owned(),
        b' ' => "a space".to_owned(),
        b'\t' => "a tab".to_owned(),
        0x80.. => format!("a character that is not ASCII (byte 0x{byte:02x})"),
        _ => format!("a control character (0x{byte:02x})"),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn of(lines: &[&[u8]]) -> Result<Option<Vec<u8>>, IdempotencyKeyError> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(NAME, HeaderValue::from_bytes(line).unwrap());
        }
        parse(&headers)
    }

    #[test]
    fn strings_and_tokens_are_taken() {
        assert_eq!(of(&[]), Ok(None));
        for (line, key) in [
            ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
            ("\"8e03978e\"", "8e03978e"),
            ("  \"b\\\\c\"\t", "b\\c"),
            ("order/2026:17", "order/2026:17"),
            ("\"a=b;d\"", "a=b;d"),
            ("a=b;d@(e)\\", "a=b;d@(e)\\"),
        ] {
            assert_eq!(of(&[line.as_bytes()]), Ok(Some(key.into())), "{line}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for (line, fault) in [
            ("", IdempotencyKeyError::Length),
            ("\"\"", IdempotencyKeyError::Length),
            ("\"open", IdempotencyKeyError::Form),
            ("\"a\"b", IdempotencyKeyError::Form),
            ("\"a\";p=1", IdempotencyKeyError::Form),
            ("\"a\", \"b\"", IdempotencyKeyError::Form),
            ("\"a\\b\"", IdempotencyKeyError::Form),
            ("\"a\\", IdempotencyKeyError::Form),
            ("a,b", IdempotencyKeyError::Character { found: b',', position: 2 }),
            ("a\"b", IdempotencyKeyError::Character { found: b'"', position: 2 }),
            ("\"a,b\"", IdempotencyKeyError::Character { found: b',', position: 3 }),
            ("\"a\\\"b\"", IdempotencyKeyError::Form),
            ("a b", IdempotencyKeyError::Character { found: b' ', position: 2 }),
            ("\"a b\"", IdempotencyKeyError::Character { found: b' ', position: 3 }),
            ("a\u{e9}", IdempotencyKeyError::Character { found: 0xc3, position: 2 }),
            ("\"\u{e9}\"", IdempotencyKeyError::Character { found: 0xc3, position: 2 }),
        ] {
            assert_eq!(of(&[line.as_bytes()]), Err(fault), "{line}");
        }
        assert_eq!(of(&[b"a", b"a"]), Err(IdempotencyKeyError::Repeated));
        assert_eq!(of(&[b"", b"a"]), Err(IdempotencyKeyError::Repeated));
    }

    #[test]
    fn a_refused_character_is_named() {
        for (line, named) in [
            (&b"shop 17"[..], "a space at position 5"),
            (b"\"a\tb\"", "a tab at position 3"),
            (b"3tq2,", "a comma at position 5"),
            (b"caf\xe9", "a character that is not ASCII (byte 0xe9) at position 4"),
        ] {
            let message = of(&[line]).unwrap_err().to_string();
            assert!(message.contains(named), "{message}");
        }
    }

    #[test]
    fn length_counts_the_unquoted_characters() {
        let (fits, too_long) = ("a".repeat(255), "a".repeat(256));
        assert!(of(&[fits.as_bytes()]).is_ok());
        assert!(of(&[format!("\"{}\"", "\\\\".repeat(255)).as_bytes()]).is_ok());
        assert_eq!(of(&[too_long.as_bytes()]), Err(IdempotencyKeyError::Length));
        assert_eq!(of(&[format!("\"{too_long}\"").as_bytes()]), Err(IdempotencyKeyError::Length));
    }

    proptest! {
        #[test]
        fn a_quoted_key_comes_back(key in "[!#-+\\--~]{1,255}") {
            let quoted = format!("\"{}\"", key.replace('\\', "\\\\"));
            prop_assert_eq!(of(&[quoted.as_bytes()]), Ok(Some(key.into_bytes())));
        }

        #[test]
        fn what_is_taken_is_visible_ascii(line in proptest::collection::vec(prop_oneof![32u8..127, 128u8..], 0..300)) {
            if let Ok(Some(key)) = of(&[&line]) {
                prop_assert!(key.iter().all(|byte| (0x21..=0x7e).contains(byte) && !b"\",".contains(byte)));
                prop_assert!((1..=255).contains(&key.len()));
            }
        }
    }
}
