//! A JSON text in one pass, with what must not be seen replaced by `"***"`.
//!
//! Works on raw bytes: what stands keeps its bytes (numbers of any length, escapes, duplicate
//! members), only white space between tokens goes, so that the result is one line. Validates as it
//! goes, without recursion. Pure. Fails with [`Unmaskable`] on anything that a reader of the log
//! could take differently than this one: then nothing of the body may be written.

use std::borrow::Cow;

use super::names::{MaskRule, MaskRules, looks_like_region};
use crate::record::encode;

/// Deeper bodies are not written: readers of the log give up at about 128.
const DEPTH: usize = 100;

/// Names remembered during one body; a power of two.
const JUDGED: usize = 32;

const MASKED: &[u8] = b"\"***\"";

/// Not JSON, not an object or array, nested too deep, or with half a surrogate pair.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unmaskable;

#[derive(Clone, Copy)]
struct Container {
    object: bool,
    /// What holds for members of an object (`Person`: the strict list) and elements of an array.
    ruling: MaskRule,
}

/// Appends the masked body to `out`; on failure `out` may end in a part of it.
pub(super) fn mask(out: &mut Vec<u8>, body: &[u8], rules: &MaskRules) -> Result<(), Unmaskable> {
    let text = std::str::from_utf8(body).map_err(|_| Unmaskable)?;
    // Looked for once, not in each value; an escape may spell it too.
    let plain = memchr::memchr(b'\\', body).is_none() && !super::holds_own_secret(text);
    let judged = [("", MaskRule::Keep); JUDGED];
    let mut walk = JsonMasker { text, at: 0, out, rules, stack: Vec::with_capacity(16), muted: None, plain, judged };
    walk.space();
    // A bare string has no name to judge it by.
    if !matches!(walk.peek(), Some(b'{' | b'[')) {
        return Err(Unmaskable);
    }
    walk.run()
}

struct JsonMasker<'a> {
    text: &'a str,
    at: usize,
    out: &'a mut Vec<u8>,
    rules: &'a MaskRules,
    stack: Vec<Container>,
    /// Depth of the container that is masked whole, while inside it.
    muted: Option<usize>,
    /// Neither an escape nor a secret of the gateway's is anywhere in it.
    plain: bool,
    /// Names judged already, as written, by their length and last byte: rows of a list repeat theirs.
    judged: [(&'a str, MaskRule); JUDGED],
}

impl<'a> JsonMasker<'a> {
    fn run(mut self) -> Result<(), Unmaskable> {
        let mut ruling = MaskRule::Keep;
        loop {
            let opened = self.value(ruling)?;
            if opened {
                // An empty container ends at once; else its first element follows.
                if !self.closes() {
                    ruling = self.element()?;
                    continue;
                }
                self.close();
            }
            loop {
                self.space();
                if self.stack.is_empty() {
                    return if self.at == self.text.len() { Ok(()) } else { Err(Unmaskable) };
                }
                if self.peek() == Some(b',') {
                    self.at += 1;
                    self.emit(b",");
                    ruling = self.element()?;
                    break;
                }
                if !self.closes() {
                    return Err(Unmaskable);
                }
                self.close();
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn emit(&mut self, bytes: &[u8]) {
        if self.muted.is_none() {
            self.out.extend_from_slice(bytes);
        }
    }

    /// Whether the innermost container ends here.
    fn closes(&mut self) -> bool {
        self.space();
        match self.stack.last() {
            Some(frame) => self.peek() == Some(if frame.object { b'}' } else { b']' }),
            None => false,
        }
    }

    fn close(&mut self) {
        let closing = self.text.as_bytes()[self.at];
        self.at += 1;
        self.stack.pop();
        if self.muted == Some(self.stack.len()) {
            self.muted = None;
        } else {
            self.emit(&[closing]);
        }
    }

    /// Up to the next value: in an object over its name. Returns what holds for the value.
    fn element(&mut self) -> Result<MaskRule, Unmaskable> {
        let Some(&frame) = self.stack.last() else { return Err(Unmaskable) };
        if !frame.object {
            return Ok(frame.ruling);
        }
        self.space();
        let raw = self.string()?;
        self.space();
        if self.peek() != Some(b':') {
            return Err(Unmaskable);
        }
        self.at += 1;
        if self.muted.is_some() {
            return Ok(MaskRule::Mask);
        }
        let ruling =
            if frame.ruling == MaskRule::Keep { self.judge(raw)? } else { self.rules.inside_person(&decode(raw)?) };
        self.out.push(b'"');
        self.out.extend_from_slice(raw.as_bytes());
        self.out.extend_from_slice(b"\":");
        Ok(ruling)
    }

    fn judge(&mut self, raw: &'a str) -> Result<MaskRule, Unmaskable> {
        let last = raw.as_bytes().last().copied().unwrap_or_default();
        let place = (usize::from(last) ^ (raw.len() << 1)) & (JUDGED - 1);
        let (known, ruling) = self.judged[place];
        if known == raw && !raw.is_empty() {
            return Ok(ruling);
        }
        let ruling = self.rules.of(&decode(raw)?);
        self.judged[place] = (raw, ruling);
        Ok(ruling)
    }

    /// One value, or the beginning of a container (then true).
    fn value(&mut self, ruling: MaskRule) -> Result<bool, Unmaskable> {
        self.space();
        match self.peek().ok_or(Unmaskable)? {
            open @ (b'{' | b'[') => {
                self.at += 1;
                self.open(open, ruling)?;
                return Ok(true);
            }
            b'"' => {
                let raw = self.string()?;
                self.text_value(raw, ruling)?;
            }
            b't' => self.literal("true", ruling)?,
            b'f' => self.literal("false", ruling)?,
            b'n' => self.literal("null", MaskRule::Keep)?,
            _ => {
                let raw = self.number()?;
                let stands = match ruling {
                    MaskRule::Keep => true,
                    MaskRule::Place | MaskRule::Region => looks_like_region(raw.as_bytes()),
                    MaskRule::Mask | MaskRule::Person => false,
                };
                self.emit(if stands { raw.as_bytes() } else { MASKED });
            }
        }
        Ok(false)
    }

    fn open(&mut self, open: u8, ruling: MaskRule) -> Result<(), Unmaskable> {
        if self.stack.len() >= DEPTH {
            return Err(Unmaskable);
        }
        if self.muted.is_none() && matches!(ruling, MaskRule::Mask | MaskRule::Region) {
            self.emit(MASKED);
            self.muted = Some(self.stack.len());
        }
        self.emit(&[open]);
        self.stack.push(Container { object: open == b'{', ruling });
        Ok(())
    }

    fn text_value(&mut self, raw: &'a str, ruling: MaskRule) -> Result<(), Unmaskable> {
        if self.muted.is_some() {
            return Ok(());
        }
        let stands = match ruling {
            MaskRule::Keep if self.plain => !super::betrays_by_its_head(raw),
            MaskRule::Keep => !super::betrays(&decode(raw)?),
            MaskRule::Place | MaskRule::Region => looks_like_region(raw.as_bytes()),
            MaskRule::Mask | MaskRule::Person => false,
        };
        if stands {
            self.out.push(b'"');
            self.out.extend_from_slice(raw.as_bytes());
            self.out.push(b'"');
        } else {
            self.out.extend_from_slice(MASKED);
        }
        Ok(())
    }

    fn literal(&mut self, word: &'static str, ruling: MaskRule) -> Result<(), Unmaskable> {
        if !self.text[self.at..].starts_with(word) {
            return Err(Unmaskable);
        }
        self.at += word.len();
        self.emit(if ruling == MaskRule::Keep { word.as_bytes() } else { MASKED });
        Ok(())
    }

    /// The raw text between the quotes, its escapes checked.
    fn string(&mut self) -> Result<&'a str, Unmaskable> {
        if self.peek() != Some(b'"') {
            return Err(Unmaskable);
        }
        let bytes = self.text.as_bytes();
        let start = self.at + 1;
        let mut at = start;
        loop {
            // What needs no look: anything but the quote, the backslash, and control characters.
            at += bytes[at..].iter().take_while(|byte| !encode::ESCAPES[usize::from(**byte)]).count();
            match bytes.get(at).ok_or(Unmaskable)? {
                b'"' => break,
                b'\\' => at += escape_length(&bytes[at..])?,
                _ => return Err(Unmaskable),
            }
        }
        self.at = at + 1;
        Ok(&self.text[start..at])
    }

    fn number(&mut self) -> Result<&'a str, Unmaskable> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let whole = self.at;
        self.digits()?;
        if self.text.as_bytes()[whole] == b'0' && self.at - whole > 1 {
            return Err(Unmaskable);
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    /// At least one digit.
    fn digits(&mut self) -> Result<(), Unmaskable> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(Unmaskable) } else { Ok(()) }
    }
}

/// Length of the escape at the beginning of `bytes`; a surrogate pair is one.
fn escape_length(bytes: &[u8]) -> Result<usize, Unmaskable> {
    match bytes.get(1).ok_or(Unmaskable)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(2),
        b'u' => match unit(bytes)? {
            0xd800..=0xdbff => match unit(bytes.get(6..).ok_or(Unmaskable)?)? {
                0xdc00..=0xdfff => Ok(12),
                _ => Err(Unmaskable),
            },
            0xdc00..=0xdfff => Err(Unmaskable),
            _ => Ok(6),
        },
        _ => Err(Unmaskable),
    }
}

/// The UTF-16 unit of `\uXXXX`.
fn unit(bytes: &[u8]) -> Result<u32, Unmaskable> {
    let [b'\\', b'u', hex @ ..] = bytes else { return Err(Unmaskable) };
    let mut value = 0;
    for digit in hex.get(..4).ok_or(Unmaskable)? {
        value = value * 16 + char::from(*digit).to_digit(16).ok_or(Unmaskable)?;
    }
    Ok(value)
}

/// The text that a checked raw string stands for.
fn decode(raw: &str) -> Result<Cow<'_, str>, Unmaskable> {
    if memchr::memchr(b'\\', raw.as_bytes()).is_none() {
        return Ok(Cow::Borrowed(raw));
    }
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let escape = &rest[at..];
        let length = escape_length(escape.as_bytes())?;
        text.push(unescape(&escape.as_bytes()[..length])?);
        rest = &escape[length..];
    }
    text.push_str(rest);
    Ok(Cow::Owned(text))
}

fn unescape(escape: &[u8]) -> Result<char, Unmaskable> {
    Ok(match escape[1] {
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let mut value = unit(escape)?;
            if escape.len() == 12 {
                value = 0x10000 + ((value - 0xd800) << 10) + (unit(&escape[6..])? - 0xdc00);
            }
            char::from_u32(value).ok_or(Unmaskable)?
        }
        other => char::from(other),
    })
}
