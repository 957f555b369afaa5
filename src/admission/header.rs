//! The `RateLimit` and `RateLimit-Policy` fields (draft-ietf-httpapi-ratelimit-headers).
//!
//! Written by hand into one small buffer, because one of them is new on every answer. Knows only
//! numbers. Never fails.

use http::HeaderValue;

use super::UsageByWindow;

/// Room for both items with three numbers of twenty digits.
const ROOM: usize = 96;

/// `"second";q=50;w=1, "day";q=40000;w=86400`; `None` without a limit.
pub(super) fn policy(usage: &UsageByWindow) -> Option<HeaderValue> {
    let mut text = HeaderText::new();
    if let Some(second) = usage.second {
        text.item("second").parameter("q", second.limit).parameter("w", 1);
    }
    if let Some(day) = usage.day {
        text.item("day").parameter("q", day.limit).parameter("w", 86_400);
    }
    text.value()
}

/// `"second";r=49;t=1, "day";r=39112;t=51234`; `None` without a limit.
pub(super) fn left(usage: &UsageByWindow) -> Option<HeaderValue> {
    let mut text = HeaderText::new();
    if let Some(second) = usage.second {
        text.item("second").parameter("r", second.left).parameter("t", second.resets_in);
    }
    if let Some(day) = usage.day {
        text.item("day").parameter("r", day.left).parameter("t", day.resets_in);
    }
    text.value()
}

struct HeaderText {
    bytes: [u8; ROOM],
    len: usize,
}

impl HeaderText {
    fn new() -> Self {
        Self { bytes: [0; ROOM], len: 0 }
    }

    fn item(&mut self, name: &str) -> &mut Self {
        if self.len > 0 {
            self.push(b", ");
        }
        self.push(b"\"");
        self.push(name.as_bytes());
        self.push(b"\"");
        self
    }

    fn parameter(&mut self, name: &str, number: u64) -> &mut Self {
        self.push(b";");
        self.push(name.as_bytes());
        self.push(b"=");
        let mut digits = [0_u8; 20];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.push(&digits[at..]);
        self
    }

    fn push(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(bytes);
            self.len = end;
        }
    }

    fn value(&self) -> Option<HeaderValue> {
        if self.len == 0 {
            return None;
        }
        HeaderValue::from_bytes(&self.bytes[..self.len]).ok()
    }
}
