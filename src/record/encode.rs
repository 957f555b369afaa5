//! JSON text into a buffer: strings, numbers, times.
//!
//! Always appends, never allocates but to grow the buffer. Pure. Nothing here can fail: what isn't
//! UTF-8 becomes U+FFFD.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// Bytes that may not stand in a JSON string as they are.
pub(super) const ESCAPES: [bool; 256] = escapes();
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `text` with its quotes.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escape(out, text);
    out.push(b'"');
}

/// Appends `text` as it stands inside quotes.
pub(crate) fn escape(out: &mut Vec<u8>, text: &str) {
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
pub(crate) fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends milliseconds with three decimals.
pub(crate) fn millis(out: &mut Vec<u8>, span: Duration) {
    let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    number(out, micros / 1000);
    let mut decimals = *b".000";
    pad(&mut decimals[1..], micros % 1000);
    out.extend_from_slice(&decimals);
}

/// Appends RFC 3339 in UTC with milliseconds, such as `2026-11-24T09:12:44.120Z`. Times before 1970 become 1970.
pub(crate) fn time(out: &mut Vec<u8>, at: SystemTime) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    let mut text = *b"0000-00-00T00:00:00.000Z";
    for (from, to, value) in [
        (0, 4, year),
        (5, 7, month),
        (8, 10, day),
        (11, 13, of_day / 3600),
        (14, 16, of_day / 60 % 60),
        (17, 19, of_day % 60),
        (20, 23, u64::from(since.subsec_millis())),
    ] {
        pad(&mut text[from..to], value);
    }
    out.extend_from_slice(&text);
}

/// Year, month and day of a day counted from 1970-01-01 (Hinnant's `civil_from_days`): a few
/// divisions, so there is nothing to cache.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// Digits of `value` into the places of `into`, zeros in front.
fn pad(into: &mut [u8], mut value: u64) {
    for place in into.iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
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
