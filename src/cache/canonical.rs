//! The canonical form of a JSON text, for the cache key and for comparisons. Pure.
//!
//! What always holds: two bodies have the same form exactly if they are the same JSON value, where strings are compared by
//! their value, numbers by their text, and members without their order. The form is JSON itself and not longer than the
//! body, except that some control characters grow. Each byte of the body is read once; a level of nesting copies what is
//! in it at most twice, to sort it. Must not know the cache. Fails by giving no form, with [`append`]: the body is no JSON
//! (RFC 8259), too long or too deep, an object has two members of one name, or a string has half a surrogate pair, which
//! has no value.

use std::ops::Range;

/// Maximum number of arrays and objects around a value.
pub(super) const MAX_DEPTH: u32 = 64;

/// Maximum size of a body in bytes. The body is a part of the key, which is kept with the entry.
pub(super) const MAX_BODY: usize = 16 << 10;

/// Maximum size of a text that is compared by its value, in bytes. It takes some milliseconds.
const MAX_COMPARED: usize = 256 << 10;

/// Appends the canonical form of a body. `None`: it has none, and what was appended is to be discarded.
pub(super) fn append(out: &mut Vec<u8>, body: &[u8]) -> Option<()> {
    if body.len() > MAX_BODY { None } else { write(out, body) }
}

/// Whether two texts are the same JSON value, as far as they have canonical forms.
pub(super) fn same_value(a: &[u8], b: &[u8]) -> bool {
    let form = |text: &[u8]| {
        let mut out = Vec::with_capacity(text.len());
        write(&mut out, text).map(|()| out)
    };
    a == b || (a.len().max(b.len()) <= MAX_COMPARED && form(a).is_some_and(|a| form(b) == Some(a)))
}

fn write(out: &mut Vec<u8>, text: &[u8]) -> Option<()> {
    // All tokens but strings are ASCII, so that a string can be copied byte by byte.
    let text = std::str::from_utf8(text).ok()?;
    let mut canonical = Canonical { text: text.as_bytes(), at: 0, out, sorted: Vec::new() };
    canonical.value(MAX_DEPTH)?;
    canonical.skip_white_space();
    (canonical.at == canonical.text.len()).then_some(())
}

/// A member of an object in the output: its name with quotes, then a colon and the value.
struct WrittenMember {
    name: Range<usize>,
    end: usize,
}

struct Canonical<'a> {
    text: &'a [u8],
    at: usize,
    out: &'a mut Vec<u8>,
    /// Room to sort members in.
    sorted: Vec<u8>,
}

impl Canonical<'_> {
    fn value(&mut self, depth: u32) -> Option<()> {
        self.skip_white_space();
        match self.peek()? {
            b'{' => self.object(depth.checked_sub(1)?),
            b'[' => self.array(depth.checked_sub(1)?),
            b'"' => self.string(),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => self.number(),
        }
    }

    fn array(&mut self, depth: u32) -> Option<()> {
        self.copy(b'[')?;
        if !self.closes(b']') {
            loop {
                self.value(depth)?;
                if self.ends(b']')? {
                    break;
                }
                self.out.push(b',');
            }
        }
        self.out.push(b']');
        Some(())
    }

    fn object(&mut self, depth: u32) -> Option<()> {
        self.copy(b'{')?;
        let mut members = Vec::new();
        if !self.closes(b'}') {
            loop {
                self.skip_white_space();
                let start = self.out.len();
                self.string()?;
                let name = start..self.out.len();
                self.skip_white_space();
                self.copy(b':')?;
                self.value(depth)?;
                members.push(WrittenMember { name, end: self.out.len() });
                if self.ends(b'}')? {
                    break;
                }
                self.out.push(b',');
            }
        }
        self.sort(members)?;
        self.out.push(b'}');
        Some(())
    }

    /// Sorts the members that end the output. `None`: two have the same name.
    fn sort(&mut self, mut members: Vec<WrittenMember>) -> Option<()> {
        let Some(start) = members.first().map(|member| member.name.start) else { return Some(()) };
        let out = &mut *self.out;
        if !members.is_sorted_by(|a, b| out[a.name.clone()] < out[b.name.clone()]) {
            members.sort_unstable_by(|a, b| out[a.name.clone()].cmp(&out[b.name.clone()]));
            if members.windows(2).any(|pair| out[pair[0].name.clone()] == out[pair[1].name.clone()]) {
                return None;
            }
            self.sorted.clear();
            for (at, member) in members.iter().enumerate() {
                if at > 0 {
                    self.sorted.push(b',');
                }
                self.sorted.extend_from_slice(&out[member.name.start..member.end]);
            }
            out.truncate(start);
            out.extend_from_slice(&self.sorted);
        }
        Some(())
    }

    /// A string: only what must be escaped is, in one way.
    fn string(&mut self) -> Option<()> {
        self.copy(b'"')?;
        loop {
            let rest = &self.text[self.at..];
            let plain = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..=0x1f))?;
            self.out.extend_from_slice(&rest[..plain]);
            self.at += plain;
            match self.next()? {
                b'"' => break,
                b'\\' => {
                    let character = self.escaped()?;
                    self.character(character);
                }
                _ => return None,
            }
        }
        self.out.push(b'"');
        Some(())
    }

    /// The character that an escape sequence means, after its backslash.
    fn escaped(&mut self) -> Option<char> {
        Some(match self.next()? {
            byte @ (b'"' | b'\\' | b'/') => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.hexadecimal()?;
                if !(0xd800..0xdc00).contains(&first) {
                    return char::from_u32(first);
                }
                (self.next()? == b'\\' && self.next()? == b'u').then_some(())?;
                let second = self.hexadecimal()?;
                let low = (0xdc00..0xe000).contains(&second).then(|| second - 0xdc00)?;
                char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + low)?
            }
            _ => return None,
        })
    }

    fn hexadecimal(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        self.at += 4;
        digits.iter().try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
    }

    /// Writes a character of a string.
    fn character(&mut self, character: char) {
        match character {
            '"' => self.out.extend_from_slice(b"\\\""),
            '\\' => self.out.extend_from_slice(b"\\\\"),
            '\0'..='\u{1f}' => self.out.extend_from_slice(format!("\\u{:04x}", u32::from(character)).as_bytes()),
            _ => self.out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.text[self.at..].starts_with(word).then_some(())?;
        self.at += word.len();
        self.out.extend_from_slice(word);
        Some(())
    }

    /// A number, as written.
    fn number(&mut self) -> Option<()> {
        let start = self.at;
        self.skip(|byte| *byte == b'-', 1);
        let zero = self.peek()? == b'0';
        (self.skip(u8::is_ascii_digit, if zero { 1 } else { usize::MAX }) > 0).then_some(())?;
        if self.skip(|byte| *byte == b'.', 1) > 0 {
            (self.skip(u8::is_ascii_digit, usize::MAX) > 0).then_some(())?;
        }
        if self.skip(|byte| matches!(byte, b'e' | b'E'), 1) > 0 {
            self.skip(|byte| matches!(byte, b'+' | b'-'), 1);
            (self.skip(u8::is_ascii_digit, usize::MAX) > 0).then_some(())?;
        }
        self.out.extend_from_slice(&self.text[start..self.at]);
        Some(())
    }

    /// Whether the list that has just begun is empty.
    fn closes(&mut self, bracket: u8) -> bool {
        self.skip_white_space();
        self.skip(|byte| *byte == bracket, 1) > 0
    }

    /// Whether a list ends after a value; otherwise a comma follows.
    fn ends(&mut self, bracket: u8) -> Option<bool> {
        self.skip_white_space();
        match self.next()? {
            b',' => Some(false),
            byte => (byte == bracket).then_some(true),
        }
    }

    fn copy(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())?;
        self.out.push(byte);
        Some(())
    }

    fn skip_white_space(&mut self) {
        self.skip(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'), usize::MAX);
    }

    /// Skips at most `limit` bytes of a kind and returns their number.
    fn skip(&mut self, kind: impl Fn(&u8) -> bool, limit: usize) -> usize {
        let count = self.text[self.at..].iter().take(limit).take_while(|byte| kind(byte)).count();
        self.at += count;
        count
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(body: &str) -> Option<String> {
        let mut out = b"before ".to_vec();
        append(&mut out, body.as_bytes())?;
        Some(String::from_utf8(out).unwrap().strip_prefix("before ").unwrap().to_owned())
    }

    #[test]
    fn a_value_has_one_form() {
        for (body, expected) in [
            (" { } ", "{}"),
            ("[ ]", "[]"),
            (r#"{"b":[1, 2],"\u0061":{"d":null,"c":true}}"#, r#"{"a":{"c":true,"d":null},"b":[1,2]}"#),
            (r#""\u0078\/\ud83d\ude00\u00e9\t\"\\\u0000""#, "\"x/😀é\\u0009\\\"\\\\\\u0000\""),
            ("-0.10e+05", "-0.10e+05"),
            ("\t false\r\n", "false"),
        ] {
            assert_eq!(form(body).as_deref(), Some(expected), "{body}");
            assert_eq!(form(expected).as_deref(), Some(expected), "the form is its own form");
        }
    }

    #[test]
    fn what_is_ambiguous_has_none() {
        for body in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"c":1,"b":{"x":[{"y":1,"z":2,"y":3}]}}"#,
            r#""\ud83d""#,
            r#""\ude00\ud83d""#,
            r#""\ud83d\ud83d""#,
            r#""\ud83dx""#,
            "\"\u{1}\"",
            "\"\\x\"",
            "\"\\u00g0\"",
            "\"\\u+123\"",
            "\"",
            "'a'",
            "",
            " ",
            "\u{feff}{}",
            "{}{}",
            "[1,]",
            "[,1]",
            "{\"a\":1,}",
            "{\"a\"}",
            "{a:1}",
            "01",
            "-",
            "+1",
            ".5",
            "1.",
            "1e",
            "1e+",
            "0x1",
            "NaN",
            "nul",
            "nullx",
            "true false",
            "/**/1",
        ] {
            assert_eq!(form(body), None, "{body}");
        }
        assert_eq!(append(&mut Vec::new(), b"\"\xff\""), None);
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(form(&deep(MAX_DEPTH as usize)).is_some());
        assert_eq!(form(&deep(MAX_DEPTH as usize + 1)), None);
        assert_eq!(form(&r#"{"a":"#.repeat(MAX_BODY / 5)), None);
        let long = |length| format!("\"{}\"", "x".repeat(length));
        assert!(form(&long(MAX_BODY - 2)).is_some());
        assert_eq!(form(&long(MAX_BODY - 1)), None);
    }
}
