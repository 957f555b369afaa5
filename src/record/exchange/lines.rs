//! The form of lines and events. Pure; never fails.
//!
//! In the queue a line is an object without its end, followed by a line break. When it is written it gets
//! `,"seq":N}`: only then is it known which file it goes to.

use std::time::SystemTime;

use crate::record::encode;

/// Most bytes that a line grows by when it is numbered: `,"seq":`, 20 digits, `}`.
const NUMBER: usize = 28;

/// The beginning of an event; a member `event` begins no other line.
const EVENT: &[u8] = b"{\"event\":";

/// Appends a queued line with its number and its end.
pub(super) fn number(out: &mut Vec<u8>, line: &[u8], seq: u64) {
    out.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
    out.extend_from_slice(b",\"seq\":");
    encode::number(out, seq);
    out.extend_from_slice(b"}\n");
}

/// Upper bound of the length of a queued line when it is written, bytes.
pub(super) fn numbered_length(line: &[u8]) -> u64 {
    (line.len() + NUMBER) as u64
}

/// Queued lines, each with its line break.
pub(super) fn split(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    // `split_inclusive` looks at one byte at a time, which was an eighth of what a request costs.
    let mut rest = lines;
    std::iter::from_fn(move || {
        let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        let (line, after) = rest.split_at(end);
        rest = after;
        (!line.is_empty()).then_some(line)
    })
}

/// Number of lines that describe requests: all but events.
pub(super) fn count_records(lines: &[u8]) -> u64 {
    split(lines).filter(|line| !line.starts_with(EVENT)).count() as u64
}

/// A queued line for something that happened to the log, with a number that says how much.
pub(super) fn event(name: &str, member: &str, value: u64) -> Vec<u8> {
    let mut line = EVENT.to_vec();
    encode::string(&mut line, name);
    line.extend_from_slice(b",\"time\":\"");
    encode::time(&mut line, SystemTime::now());
    line.extend_from_slice(b"\",");
    encode::string(&mut line, member);
    line.push(b':');
    encode::number(&mut line, value);
    line.push(b'\n');
    line
}
