//! The top-level members of a JSON object, without reading what lies deeper.
//!
//! An answer of Fastrac's is read for two or three members; building or even checking all of it
//! costs more than the rest of the path. So what is nested is passed over by its brackets and
//! strings alone: they must match, what stands between them is not looked at. The top level is read
//! strictly. Pure; takes no stack and no memory, however deep the nesting.

use std::borrow::Cow;

use wide::u8x16;

/// Why the end was not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The text ends too early.
    Truncated,
    /// It is no JSON object.
    Malformed,
}

/// A member's value, as it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a>(&'a [u8]);

impl<'a> Value<'a> {
    /// If it is a boolean.
    pub(super) fn bool(self) -> Option<bool> {
        match self.0 {
            b"true" => Some(true),
            b"false" => Some(false),
            _ => None,
        }
    }

    /// If it is a string; borrowed where it holds no escape.
    pub(super) fn text(self) -> Option<Cow<'a, str>> {
        let inner = self.0.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        if memchr::memchr(b'\\', inner).is_none() {
            return std::str::from_utf8(inner).ok().map(Cow::Borrowed);
        }
        serde_json::from_slice(self.0).ok().map(Cow::Owned)
    }
}

/// Hands every member of the object to `each`, names unescaped, in their order.
///
/// # Errors
/// [`Stop`]; the members before it were handed on.
pub(super) fn members<'a>(text: &'a [u8], mut each: impl FnMut(&[u8], Value<'a>)) -> Result<(), Stop> {
    let mut scan = Scan { text, at: 0 };
    scan.expect(b'{')?;
    if scan.peek()? != b'}' {
        loop {
            let name = scan.string()?;
            scan.expect(b':')?;
            let value = Value(scan.value()?);
            match &name[1..name.len() - 1] {
                plain if plain.iter().all(|byte| byte.is_ascii() && *byte != b'\\') => each(plain, value),
                _ => each(Value(name).text().ok_or(Stop::Malformed)?.as_bytes(), value),
            }
            match scan.peek()? {
                b',' => scan.at += 1,
                b'}' => break,
                _ => return Err(Stop::Malformed),
            }
        }
    }
    scan.at += 1;
    match scan.peek() {
        Err(Stop::Truncated) => Ok(()),
        _ => Err(Stop::Malformed),
    }
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    /// The next byte that is no white space.
    fn peek(&mut self) -> Result<u8, Stop> {
        while let Some(byte) = self.text.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Ok(*byte);
            }
            self.at += 1;
        }
        Err(Stop::Truncated)
    }

    fn expect(&mut self, byte: u8) -> Result<(), Stop> {
        if self.peek()? != byte {
            return Err(Stop::Malformed);
        }
        self.at += 1;
        Ok(())
    }

    /// A string with its quotes.
    fn string(&mut self) -> Result<&'a [u8], Stop> {
        if self.peek()? != b'"' {
            return Err(Stop::Malformed);
        }
        let start = self.at;
        self.at = string_end(self.text, start + 1).ok_or(Stop::Truncated)?;
        Ok(&self.text[start..self.at])
    }

    fn value(&mut self) -> Result<&'a [u8], Stop> {
        match self.peek()? {
            b'"' => self.string(),
            b'{' | b'[' => self.nested(),
            _ => self.plain(),
        }
    }

    /// A number or a word: short, so it is checked.
    fn plain(&mut self) -> Result<&'a [u8], Stop> {
        let rest = &self.text[self.at..];
        let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
        let length = rest.iter().position(ends).ok_or(Stop::Truncated)?;
        let value = &rest[..length];
        if serde_json::from_slice::<serde::de::IgnoredAny>(value).is_err() {
            return Err(Stop::Malformed);
        }
        self.at += length;
        Ok(value)
    }

    /// An object or an array, by its brackets.
    fn nested(&mut self) -> Result<&'a [u8], Stop> {
        let start = self.at;
        // The kinds of the innermost brackets, as many as are known: those further out are only counted.
        let (mut depth, mut objects, mut known) = (0u32, 0u128, 0u32);
        let mut marks = Marks::of(self.text, start);
        while let Some(at) = marks.next() {
            match self.text[at] {
                b'"' => marks.pass_string().ok_or(Stop::Truncated)?,
                open @ (b'{' | b'[') => {
                    depth += 1;
                    objects = objects << 1 | u128::from(open == b'{');
                    known = (known + 1).min(u128::BITS);
                }
                close @ (b'}' | b']') => {
                    if known > 0 && (objects & 1 == 1) != (close == b'}') {
                        return Err(Stop::Malformed);
                    }
                    (depth, objects, known) = (depth - 1, objects >> 1, known.saturating_sub(1));
                    if depth == 0 {
                        self.at = at + 1;
                        return Ok(&self.text[start..self.at]);
                    }
                }
                // Outside a string a backslash is wrong, and harmless: what follows is looked at all the same.
                _ => {}
            }
        }
        Err(Stop::Truncated)
    }
}

/// Places of quotes, backslashes, brackets and (harmlessly) bars, found sixteen bytes at a time.
struct Marks<'a> {
    text: &'a [u8],
    /// Where the current sixteen begin.
    block: usize,
    /// Those of them that are marks and not handed out yet, the lowest bit first.
    marks: u32,
}

const LANES: usize = 16;

/// Blocks after which a string counts as long, and is worth a search of its own.
const LONG: usize = 3;

impl<'a> Marks<'a> {
    fn of(text: &'a [u8], start: usize) -> Self {
        Marks { text, block: start, marks: marks(text, start) }
    }

    /// The next mark of the current block.
    fn here(&mut self) -> Option<usize> {
        let at = self.block + self.marks.trailing_zeros() as usize;
        let found = self.marks != 0;
        self.marks &= self.marks.wrapping_sub(1);
        found.then_some(at)
    }

    /// Goes on to the block that begins at `block`; `None` at the end of the text.
    fn go_on(&mut self, block: usize) -> Option<()> {
        (self.block, self.marks) = (block, 0);
        self.text.get(block)?;
        self.marks = marks(self.text, block);
        Some(())
    }

    fn next(&mut self) -> Option<usize> {
        loop {
            if let Some(at) = self.here() {
                return Some(at);
            }
            self.go_on(self.block + LANES)?;
        }
    }

    /// Goes past the end of the string whose quote was the last mark; `None` if it has no end.
    fn pass_string(&mut self) -> Option<()> {
        let mut escaped = usize::MAX;
        for _ in 0..LONG {
            while let Some(at) = self.here() {
                match self.text[at] {
                    _ if at == escaped => {}
                    b'"' => return Some(()),
                    b'\\' => escaped = at + 1,
                    _ => {}
                }
            }
            self.go_on(self.block + LANES)?;
        }
        let end = string_end(self.text, self.block + usize::from(escaped == self.block))?;
        // The text may end here: then there is nothing to go on with.
        let _ = self.go_on(end);
        Some(())
    }
}

fn marks(text: &[u8], block: usize) -> u32 {
    let mut lanes = [0; LANES];
    match text[block..].first_chunk() {
        Some(chunk) => lanes = *chunk,
        None => lanes[..text.len() - block].copy_from_slice(&text[block..]),
    }
    let lanes = u8x16::from(lanes);
    // With this bit set, `[ \ ]` are `{ | }`.
    let folded = lanes | u8x16::splat(0x20);
    let is = |byte| folded.simd_eq(u8x16::splat(byte));
    (lanes.simd_eq(u8x16::splat(b'"')) | is(b'{') | is(b'|') | is(b'}')).to_bitmask()
}

/// Behind the quote that ends a string, looked for from a place inside it that is no escaped character.
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

    fn read(text: &str) -> Result<Vec<(String, String)>, Stop> {
        let mut found = Vec::new();
        members(text.as_bytes(), |name, value| {
            found.push((String::from_utf8_lossy(name).into_owned(), String::from_utf8_lossy(value.0).into_owned()));
        })?;
        Ok(found)
    }

    #[test]
    fn hands_on_each_member() {
        let text = r#" { "a" : true , "b\u0063":[1,{"x":"]}\"\\"}], "d":"e", "f":-1.5e3 } "#;
        let found = read(text).unwrap();
        let expected = [("a", "true"), ("bc", r#"[1,{"x":"]}\"\\"}]"#), ("d", "\"e\""), ("f", "-1.5e3")];
        assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(read("{}"), Ok(vec![]));
    }

    #[test]
    fn a_long_string_ends_where_it_ends() {
        for length in 0..80 {
            for inside in ["", "\\\\", "\\\"", "]}", "\\\\\\\""] {
                let text =
                    format!(r#"{{"a":["{}{inside}{}",{{}}],"b":1}}"#, "x".repeat(length), "y".repeat(length % 7));
                let value = text.strip_prefix(r#"{"a":"#).and_then(|rest| rest.strip_suffix(r#","b":1}"#)).unwrap();
                assert_eq!(read(&text), Ok(vec![("a".into(), value.into()), ("b".into(), "1".into())]), "{text}");
                let open = text.split_once("\",{}").unwrap().0;
                assert_eq!(read(open), Err(Stop::Truncated), "{open}");
            }
        }
    }

    #[test]
    fn tells_what_is_cut_off_from_what_is_wrong() {
        for text in ["", "{", r#"{"a"#, r#"{"a":"#, r#"{"a":tr"#, r#"{"a":[1"#, r#"{"a":1,"#, r#"{"a":"x\"#] {
            assert_eq!(read(text), Err(Stop::Truncated), "{text}");
        }
        for text in ["[]", "x", r#"{"a":1}x"#, r#"{"a" 1}"#, r#"{"a":nope}"#, r#"{"a":[}"#, r#"{"a":1 "b":2}"#, "{a:1}"]
        {
            assert_eq!(read(text), Err(Stop::Malformed), "{text}");
        }
    }

    #[test]
    fn brackets_may_be_nested_deeper_than_their_kinds_are_kept() {
        for depth in [127, 128, 129, 300] {
            let whole = format!(r#"{{"a":{}1{}}}"#, r#"[{"b":"#.repeat(depth / 2), "}]".repeat(depth / 2));
            assert_eq!(read(&whole).map(|found| found.len()), Ok(1), "{depth}");
            let objects = format!(r#"{{"a":{}1{}}}"#, r#"{"b":"#.repeat(depth), "}".repeat(depth));
            assert_eq!(read(&objects).map(|found| found.len()), Ok(1), "{depth}");
            assert_eq!(read(&objects.replace("1}", "1]")), Err(Stop::Malformed), "{depth}: the innermost is known");
        }
    }

    proptest! {
        /// What serde takes for an object is one here, with the same members.
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
