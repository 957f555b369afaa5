//! Appends JSON to a buffer: strings, numbers, times.
//!
//! Never fails, and allocates only to grow the buffer. Depends on nothing but its arguments: each thread keeps the text of
//! the last second, because jiff takes 650 instructions of the 45,000 of a hit for it.
//!
//! Digits and dates are `itoa`'s and jiff's: by hand they were no faster. `std::fmt` is avoided: the three durations of
//! a line cost it 1,700 instructions of the 48,000 of a hit.

use std::{
    cell::Cell,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jiff::{Timestamp, fmt::temporal::DateTimePrinter};

const RFC_3339: DateTimePrinter = DateTimePrinter::new().precision(Some(0));

/// Length of a time without its fraction: `2026-11-24T09:12:44`.
const SECOND: usize = 19;

thread_local! {
    /// Seconds since 1970, and their text.
    static LAST_SECOND: Cell<(u64, [u8; SECOND])> = const { Cell::new((0, *b"1970-01-01T00:00:00")) };
}

const fn escapes() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table
}

/// Bytes that must be escaped in a JSON string.
pub(super) const ESCAPES: [bool; 256] = escapes();
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `text` as a JSON string.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escape(out, text);
    out.push(b'"');
}

/// Appends `text` escaped, without quotes.
pub(super) fn escape(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if ESCAPES[usize::from(byte)] {
            out.extend_from_slice(&bytes[from..at]);
            escape_byte(out, byte);
            from = at + 1;
        }
    }
    out.extend_from_slice(&bytes[from..]);
}

#[cold]
fn escape_byte(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]])
        }
    }
}

/// Appends a whole number.
pub(super) fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends milliseconds with three decimals.
pub(super) fn millis(out: &mut Vec<u8>, duration: Duration) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    number(out, micros / 1000);
    decimals(out, (micros % 1000) as u32);
}

/// Appends a point and three decimals.
fn decimals(out: &mut Vec<u8>, thousandths: u32) {
    let digit = |power: u32| b'0' + (thousandths / power % 10) as u8;
    out.extend_from_slice(&[b'.', digit(100), digit(10), digit(1)]);
}

/// Appends RFC 3339 in UTC with milliseconds, such as `2026-11-24T09:12:44.120Z`. Times before 1970
/// become 1970.
pub(super) fn time(out: &mut Vec<u8>, at: SystemTime) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (mut second, mut text) = LAST_SECOND.get();
    if second != since.as_secs() {
        (second, text) = (since.as_secs(), second_text(since.as_secs()));
        LAST_SECOND.set((second, text));
    }
    out.extend_from_slice(&text);
    decimals(out, since.subsec_millis());
    out.push(b'Z');
}

/// Years have four digits, up to jiff's last, 9999.
fn second_text(second: u64) -> [u8; SECOND] {
    let time = i64::try_from(second).ok().and_then(|second| Timestamp::from_second(second).ok());
    let text = RFC_3339.timestamp_to_string(&time.unwrap_or(Timestamp::MAX));
    text.as_bytes().first_chunk().copied().unwrap_or(*b"9999-12-31T23:59:59")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn strings_read_back(text in any::<String>()) {
            let mut out = Vec::new();
            string(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn numbers_read_back(value in any::<u64>()) {
            let mut out = Vec::new();
            number(&mut out, value);
            prop_assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }

        #[test]
        fn times_are_rfc_3339(millis in 0u64..253_402_300_799_999) {
            let mut out = Vec::new();
            time(&mut out, UNIX_EPOCH + Duration::from_millis(millis));
            let read: jiff::Timestamp = String::from_utf8(out).unwrap().parse().unwrap();
            prop_assert_eq!(read.as_millisecond(), millis as i64);
        }

        #[test]
        fn millis_keep_the_microseconds(micros in 0u64..10_000_000_000) {
            let mut out = Vec::new();
            super::millis(&mut out, Duration::from_micros(micros));
            let read: f64 = String::from_utf8(out).unwrap().parse().unwrap();
            prop_assert!((read - micros as f64 / 1000.0).abs() < 1e-6);
        }
    }
}
