//! Copies a JSON text in one pass and replaces what must not be seen by `"***"`.
//!
//! Works on raw bytes: values that are kept keep their bytes (numbers, escapes, duplicate members); only white space
//! between tokens and a byte order mark are removed, so that the result is one line. A number that common readers cannot
//! hold, and that would make the whole line unreadable for them, is masked.
//! Validates on the way, without recursion. Pure. Fails with [`Unmaskable`] on anything that a reader
//! of the log could interpret differently: then nothing of the body may be written.
//!
//! What the optimisations here and in `names` gain is stated at each of them, as the time to mask a list of
//! 21 cities (1.4 kB), a list of tariffs (3.4 kB), the request for them (0.2 kB), or the response to an order
//! (0.5 kB); masked in this form: 3.0, 21.9, 0.8 and 3.9 µs, not counting the search for credentials in Basic form and
//! for words of names, which came later. A miss with a response of 1.5 kB takes 39 µs
//! of CPU in all (`benches/README.md`). Each form was compiled with `opt-level = 2` and LTO into one binary;
//! the times are the minima of 60 interleaved rounds. `cargo bench --bench record -- mask` measures the
//! present form.

use std::borrow::Cow;

use super::{
    credential::{Source, contains_credential, is_secret_name, looks_secret, may_name},
    names::{MaskRule, MaskRules, looks_like_region},
    value::{contains_basic, contains_own_secret, contains_personal, starts_like_secret},
};
use crate::record::encode;

/// Maximum depth of a body; many JSON parsers stop at 128.
const MAX_DEPTH: usize = 100;

/// Names whose rules are remembered during one body; a power of two.
const REMEMBERED: usize = 32;

/// Maximum length of a number, in bytes: as many digits are a finite double, and Python reads them as an integer.
const MAX_NUMBER: usize = 300;

/// Maximum length of a name, in bytes: Fastrac's have up to 30. To look for words in a longer one takes up to 80 ns for each
/// byte, and the log's thread serves everybody.
const MAX_NAME: usize = 256;

const MASKED: &[u8] = b"\"***\"";

/// Not JSON, not an object or array, nested too deep, or with half a surrogate pair.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unmaskable;

#[derive(Clone, Copy)]
struct Container {
    object: bool,
    /// The rule for the elements of an array, and for the members of an object unless it is `Keep`
    /// (then their names decide).
    rule: MaskRule,
    /// Where its copy begins.
    start: usize,
    /// The next value may name its siblings, as `"name":"Authorization"` does.
    naming: bool,
    /// The element before was the name of a credential.
    named: bool,
}

/// Appends the masked body to `out`; on failure `out` may end with a part of it.
pub(super) fn mask(out: &mut Vec<u8>, body: &[u8], rules: &MaskRules) -> Result<(), Unmaskable> {
    let text = std::str::from_utf8(body).map_err(|_| Unmaskable)?;
    // As the classifier of responses reads it (RFC 8259, section 8.1).
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // Searched for once, not in each value (which takes 25.8 µs for tariffs); escapes could spell a secret too.
    let special = || contains_own_secret(text) || contains_credential(text, Source::Json) || contains_personal(text);
    let plain = memchr::memchr(b'\\', body).is_none() && !special();
    let remembered = [("", MaskRule::Keep); REMEMBERED];
    let mut walk =
        JsonMasker { text, at: 0, out, rules, stack: Vec::with_capacity(16), masked_at: None, plain, remembered };
    walk.space();
    // A bare value has no name that could classify it.
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
    /// Depth of the container that is masked as a whole, while inside it.
    masked_at: Option<usize>,
    /// The text contains neither an escape nor a secret issued by the gateway, an e-mail address or a phone number.
    plain: bool,
    /// Rules of names seen so far, as written, by length and last byte: the objects of a list repeat
    /// their names. Without it, cities take 4.2 µs and tariffs 38 µs.
    remembered: [(&'a str, MaskRule); REMEMBERED],
}

impl<'a> JsonMasker<'a> {
    fn run(mut self) -> Result<(), Unmaskable> {
        let mut rule = MaskRule::Keep;
        loop {
            let opened = self.value(rule)?;
            if opened {
                // An empty container ends at once; otherwise its first element follows.
                if !self.closes() {
                    rule = self.element()?;
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
                    rule = self.element()?;
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
        if self.masked_at.is_none() {
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
        if self.masked_at == Some(self.stack.len()) {
            self.masked_at = None;
        } else {
            self.emit(&[closing]);
        }
    }

    /// Advances to the next value, in an object past its name. Returns the rule for the value.
    fn element(&mut self) -> Result<MaskRule, Unmaskable> {
        let Some(frame) = self.stack.last_mut() else { return Err(Unmaskable) };
        if !frame.object {
            return Ok(if std::mem::take(&mut frame.named) { MaskRule::Mask } else { frame.rule });
        }
        let frame_rule = frame.rule;
        self.space();
        let raw = self.string()?;
        self.space();
        if self.peek() != Some(b':') {
            return Err(Unmaskable);
        }
        self.at += 1;
        if self.masked_at.is_some() {
            return Ok(MaskRule::Mask);
        }
        let is_long = raw.len() > MAX_NAME;
        let rule = match frame_rule {
            _ if is_long => MaskRule::Mask,
            MaskRule::Keep => self.rule_of(raw)?,
            _ => self.rules.inside_person(&decode(raw)?),
        };
        if !is_long && self.is_plain(raw)? {
            self.out.push(b'"');
            self.out.extend_from_slice(raw.as_bytes());
            self.out.push(b'"');
        } else {
            self.out.extend_from_slice(MASKED);
        }
        self.out.push(b':');
        let naming = !is_long && (may_name(raw) || !self.plain && may_name(&decode(raw)?));
        if let Some(frame) = self.stack.last_mut() {
            frame.naming = naming;
        }
        Ok(rule)
    }

    fn rule_of(&mut self, raw: &'a str) -> Result<MaskRule, Unmaskable> {
        let last = raw.as_bytes().last().copied().unwrap_or_default();
        let slot = (usize::from(last) ^ (raw.len() << 1)) & (REMEMBERED - 1);
        let (known, rule) = self.remembered[slot];
        if known == raw && !raw.is_empty() {
            return Ok(rule);
        }
        let rule = self.rules.rule_of(&decode(raw)?);
        self.remembered[slot] = (raw, rule);
        Ok(rule)
    }

    /// Copies a value, or the beginning of a container (then returns true).
    fn value(&mut self, rule: MaskRule) -> Result<bool, Unmaskable> {
        self.space();
        match self.peek().ok_or(Unmaskable)? {
            open @ (b'{' | b'[') => {
                self.at += 1;
                self.open(open, rule)?;
                return Ok(true);
            }
            b'"' => {
                let raw = self.string()?;
                self.text_value(raw, rule)?;
            }
            b't' => self.literal("true", rule)?,
            b'f' => self.literal("false", rule)?,
            b'n' => self.literal("null", MaskRule::Keep)?,
            _ => {
                let raw = self.number()?;
                let kept = match rule {
                    MaskRule::Keep => is_readable(raw) && (self.plain || !contains_personal(raw)),
                    MaskRule::Place | MaskRule::Region => looks_like_region(raw.as_bytes()),
                    MaskRule::Mask | MaskRule::Person => false,
                };
                self.emit(if kept { raw.as_bytes() } else { MASKED });
            }
        }
        Ok(false)
    }

    fn open(&mut self, open: u8, rule: MaskRule) -> Result<(), Unmaskable> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(Unmaskable);
        }
        if self.masked_at.is_none() && matches!(rule, MaskRule::Mask | MaskRule::Region) {
            self.emit(MASKED);
            self.masked_at = Some(self.stack.len());
        }
        let start = self.out.len();
        self.emit(&[open]);
        self.stack.push(Container { object: open == b'{', rule, start, naming: false, named: false });
        Ok(())
    }

    fn text_value(&mut self, raw: &'a str, rule: MaskRule) -> Result<(), Unmaskable> {
        if self.masked_at.is_some() {
            return Ok(());
        }
        if self.names_credential(raw)? {
            return Ok(());
        }
        let kept = match rule {
            MaskRule::Keep if self.plain => !starts_like_secret(raw) && !contains_basic(raw),
            MaskRule::Keep => self.is_plain(raw)?,
            MaskRule::Place | MaskRule::Region => looks_like_region(raw.as_bytes()),
            MaskRule::Mask | MaskRule::Person => false,
        };
        if kept {
            self.out.push(b'"');
            self.out.extend_from_slice(raw.as_bytes());
            self.out.push(b'"');
        } else {
            self.out.extend_from_slice(MASKED);
        }
        Ok(())
    }

    /// Whether a string is the name of a credential, which is in another member of the object: then that is masked as a
    /// whole, because what was before the name is written already. In an array, the next element is masked.
    fn names_credential(&mut self, raw: &str) -> Result<bool, Unmaskable> {
        let depth = self.stack.len();
        let Some(frame) = self.stack.last_mut() else { return Ok(false) };
        let may_name = if frame.object { std::mem::take(&mut frame.naming) } else { true };
        let read = if self.plain { Cow::Borrowed(raw) } else { decode(raw)? };
        if !may_name || !is_secret_name(&read) {
            return Ok(false);
        }
        frame.named = !frame.object;
        if frame.object {
            self.out.truncate(frame.start);
            self.out.extend_from_slice(MASKED);
            self.masked_at = Some(depth - 1);
        }
        Ok(frame.object)
    }

    /// Whether a string, as it is written, contains nothing secret or personal.
    fn is_plain(&self, raw: &str) -> Result<bool, Unmaskable> {
        if self.plain {
            return Ok(!contains_basic(raw));
        }
        let text = decode(raw)?;
        Ok(!looks_secret(&text) && !contains_personal(&text))
    }

    fn literal(&mut self, word: &'static str, rule: MaskRule) -> Result<(), Unmaskable> {
        if !self.text[self.at..].starts_with(word) {
            return Err(Unmaskable);
        }
        self.at += word.len();
        self.emit(if rule == MaskRule::Keep { word.as_bytes() } else { MASKED });
        Ok(())
    }

    /// The raw text between the quotes, with valid escapes.
    fn string(&mut self) -> Result<&'a str, Unmaskable> {
        if self.peek() != Some(b'"') {
            return Err(Unmaskable);
        }
        let bytes = self.text.as_bytes();
        let start = self.at + 1;
        let mut at = start;
        loop {
            // Skips everything but quotes, backslashes and control characters.
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

/// Whether readers can hold a number.
fn is_readable(number: &str) -> bool {
    let exponent = memchr::memchr2(b'e', b'E', number.as_bytes()).is_some();
    number.len() <= MAX_NUMBER && (!exponent || number.parse::<f64>().is_ok_and(f64::is_finite))
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

/// Unescapes a validated raw string.
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
