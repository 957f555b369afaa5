//! The top-level members of a JSON object, without reading what is nested in them.
//!
//! A response of Fastrac's is read for two or three members; to build a tree of it, or only to check all of it, would cost
//! more than the rest of the path. So nested values are skipped by their strings and brackets: the brackets must match
//! (of the innermost [`u128::BITS`] also by kind), what is between them is not checked. The top level is read strictly.
//! Takes no stack and no memory, however deep the nesting. Pure. Fails with [`ScanError`].
//!
//! Nested values were found sixteen bytes at a time before (crate `wide`). Measured on the 1,536-byte envelope of
//! `benches/peers`, `opt-level = 2` without LTO, both forms in one binary: 9,540 instructions and 0.75 us against 13,810
//! and 1.18 us for this form (callgrind, 1,000 scans; wall clock, 200,000). That gained 0.4 us of the 31 us of CPU that a
//! miss takes, 1.4 %, and did not pay for itself. `cargo bench --bench rooms -- outcome` measures this form.

use std::borrow::Cow;

/// Why the end of the object was not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScanError {
    /// The text ends too early.
    Truncated,
    /// It is not a JSON object.
    Malformed,
}

/// The text of a member's value.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawValue<'a>(&'a [u8]);

impl<'a> RawValue<'a> {
    pub(super) fn bool(self) -> Option<bool> {
        match self.0 {
            b"true" => Some(true),
            b"false" => Some(false),
            _ => None,
        }
    }

    pub(super) fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Borrowed if it has no escape sequence.
    pub(super) fn text(self) -> Option<Cow<'a, str>> {
        let inner = self.0.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        if memchr::memchr(b'\\', inner).is_none() {
            return std::str::from_utf8(inner).ok().map(Cow::Borrowed);
        }
        serde_json::from_slice(self.0).ok().map(Cow::Owned)
    }
}

/// Passes every member of the object to `each`, in order, with its name unescaped.
///
/// # Errors
/// [`ScanError`]; the members before the error have been passed on.
pub(super) fn members<'a>(text: &'a [u8], mut each: impl FnMut(&[u8], RawValue<'a>)) -> Result<(), ScanError> {
    let mut scan = Scanner { text, at: 0 };
    scan.expect(b'{')?;
    if scan.peek()? != b'}' {
        loop {
            let name = scan.string()?;
            scan.expect(b':')?;
            let value = RawValue(scan.value()?);
            match &name[1..name.len() - 1] {
                plain if plain.iter().all(|byte| byte.is_ascii() && *byte != b'\\') => each(plain, value),
                _ => each(RawValue(name).text().ok_or(ScanError::Malformed)?.as_bytes(), value),
            }
            match scan.peek()? {
                b',' => scan.at += 1,
                b'}' => break,
                _ => return Err(ScanError::Malformed),
            }
        }
    }
    scan.at += 1;
    match scan.peek() {
        Err(ScanError::Truncated) => Ok(()),
        _ => Err(ScanError::Malformed),
    }
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    /// The next byte that is not white space.
    fn peek(&mut self) -> Result<u8, ScanError> {
        while let Some(byte) = self.text.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Ok(*byte);
            }
            self.at += 1;
        }
        Err(ScanError::Truncated)
    }

    fn expect(&mut self, byte: u8) -> Result<(), ScanError> {
        if self.peek()? != byte {
            return Err(ScanError::Malformed);
        }
        self.at += 1;
        Ok(())
    }

    /// A string with its quotes.
    fn string(&mut self) -> Result<&'a [u8], ScanError> {
        if self.peek()? != b'"' {
            return Err(ScanError::Malformed);
        }
        let start = self.at;
        self.at = string_end(self.text, start + 1).ok_or(ScanError::Truncated)?;
        Ok(&self.text[start..self.at])
    }

    fn value(&mut self) -> Result<&'a [u8], ScanError> {
        match self.peek()? {
            b'"' => self.string(),
            b'{' | b'[' => self.nested(),
            _ => self.plain(),
        }
    }

    /// A number or a literal: short, so it is checked.
    fn plain(&mut self) -> Result<&'a [u8], ScanError> {
        let rest = &self.text[self.at..];
        let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
        let length = rest.iter().position(ends).ok_or(ScanError::Truncated)?;
        let value = &rest[..length];
        if serde_json::from_slice::<serde::de::IgnoredAny>(value).is_err() {
            return Err(ScanError::Malformed);
        }
        self.at += length;
        Ok(value)
    }

    /// An object or an array, by its brackets.
    fn nested(&mut self) -> Result<&'a [u8], ScanError> {
        let start = self.at;
        // Which of the innermost brackets are braces, one bit each; those further out are only counted.
        let (mut depth, mut braces, mut known) = (0u32, 0u128, 0u32);
        while let Some(byte) = self.text.get(self.at) {
            self.at += 1;
            match byte {
                b'"' => self.at = string_end(self.text, self.at).ok_or(ScanError::Truncated)?,
                b'{' | b'[' => {
                    depth += 1;
                    braces = braces << 1 | u128::from(*byte == b'{');
                    known = (known + 1).min(u128::BITS);
                }
                b'}' | b']' => {
                    if known > 0 && (braces & 1 == 1) != (*byte == b'}') {
                        return Err(ScanError::Malformed);
                    }
                    (depth, braces, known) = (depth - 1, braces >> 1, known.saturating_sub(1));
                    if depth == 0 {
                        return Ok(&self.text[start..self.at]);
                    }
                }
                _ => {}
            }
        }
        Err(ScanError::Truncated)
    }
}

/// The position after the quote that ends a string; `inside` is in the string and not after a backslash.
fn string_end(text: &[u8], inside: usize) -> Option<usize> {
    let mut at = inside;
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Vec<(String, String)>, ScanError> {
        let mut found = Vec::new();
        members(text.as_bytes(), |name, value| {
            found.push((String::from_utf8_lossy(name).into_owned(), String::from_utf8_lossy(value.0).into_owned()));
        })?;
        Ok(found)
    }

    #[test]
    fn passes_on_each_member() {
        let text = r#" { "a" : true , "b\u0063":[1,{"x":"]}\"\\"}], "d":"e", "f":-1.5e3 } "#;
        let found = read(text).unwrap();
        let expected = [("a", "true"), ("bc", r#"[1,{"x":"]}\"\\"}]"#), ("d", "\"e\""), ("f", "-1.5e3")];
        assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(read("{}"), Ok(vec![]));
    }

    #[test]
    fn strings_of_any_length_end_at_their_quote() {
        for length in 0..80 {
            for inside in ["", "\\\\", "\\\"", "]}", "\\\\\\\""] {
                let text =
                    format!(r#"{{"a":["{}{inside}{}",{{}}],"b":1}}"#, "x".repeat(length), "y".repeat(length % 7));
                let value = text.strip_prefix(r#"{"a":"#).and_then(|rest| rest.strip_suffix(r#","b":1}"#)).unwrap();
                assert_eq!(read(&text), Ok(vec![("a".into(), value.into()), ("b".into(), "1".into())]), "{text}");
                let open = text.split_once("\",{}").unwrap().0;
                assert_eq!(read(open), Err(ScanError::Truncated), "{open}");
            }
        }
    }

    #[test]
    fn a_truncated_object_is_told_from_a_malformed_one() {
        for text in ["", "{", r#"{"a"#, r#"{"a":"#, r#"{"a":tr"#, r#"{"a":[1"#, r#"{"a":1,"#, r#"{"a":"x\"#] {
            assert_eq!(read(text), Err(ScanError::Truncated), "{text}");
        }
        for text in ["[]", "x", r#"{"a":1}x"#, r#"{"a" 1}"#, r#"{"a":nope}"#, r#"{"a":[}"#, r#"{"a":1 "b":2}"#, "{a:1}"]
        {
            assert_eq!(read(text), Err(ScanError::Malformed), "{text}");
        }
    }

    #[test]
    fn brackets_may_be_nested_deeper_than_their_kinds_are_known() {
        for depth in [127, 128, 129, 300] {
            let whole = format!(r#"{{"a":{}1{}}}"#, r#"[{"b":"#.repeat(depth / 2), "}]".repeat(depth / 2));
            assert_eq!(read(&whole).map(|found| found.len()), Ok(1), "{depth}");
            let objects = format!(r#"{{"a":{}1{}}}"#, r#"{"b":"#.repeat(depth), "}".repeat(depth));
            assert_eq!(read(&objects).map(|found| found.len()), Ok(1), "{depth}");
            assert_eq!(
                read(&objects.replace("1}", "1]")),
                Err(ScanError::Malformed),
                "{depth}: the innermost is known"
            );
        }
    }

    proptest! {
        /// An object for serde is an object here, with the same members.
        #[test]
        fn agrees_with_serde(text in r#"\{("[a-c]":(true|null|[0-9]{1,3}|"[a-z"\\]{0,3}"|\[[0-9,\[\]]{0,4}\]),?){0,4}\}"#) {
            if let Ok(serde_json::Value::Object(object)) = serde_json::from_str(&text) {
                let found = read(&text).unwrap();
                for (name, value) in &object {
                    let last = found.iter().rev().find(|(found, _)| found == name).unwrap();
                    prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(&last.1).unwrap(), value);
                }
            }
        }

        #[test]
        fn never_panics(text in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = members(&text, |_, _| {});
        }
    }
}
