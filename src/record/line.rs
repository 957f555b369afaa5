//! One line of the exchange log, without its end (`seq`), which the queue adds.
//!
//! Members and their order are contract section 7's; what is not known is `null`, and `-` where the
//! metrics say `-`. Labels come rendered, so a line is copies, a few numbers, and one scan of path
//! and query.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{Masker, Names, Record, encode};
use crate::config::Class;

/// A body as the record holds it.
#[derive(Clone, Default)]
pub struct CapturedBody {
    /// Its bytes, if it is whole; else nothing.
    whole: Option<Bytes>,
    /// Bytes that passed.
    length: u64,
}

impl CapturedBody {
    /// All of it. An empty one counts as none.
    pub fn whole(bytes: Bytes) -> CapturedBody {
        CapturedBody { length: bytes.len() as u64, whole: Some(bytes) }
    }

    /// Cut off, or too long to be held: only its length is told.
    pub fn part(length: u64) -> CapturedBody {
        CapturedBody { whole: None, length }
    }
}

impl std::fmt::Debug for CapturedBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CapturedBody({} bytes)", self.length)
    }
}

/// The labels of a line, rendered once for each snapshot.
pub(super) struct RenderedLabels {
    /// `"service":…,"account":…`, row 0 for `-`.
    services: Vec<Vec<u8>>,
    /// `"operation":…,"class":…`, row 0 for `-`.
    operations: Vec<Vec<u8>>,
}

impl RenderedLabels {
    pub(super) fn new(names: &Names) -> RenderedLabels {
        let pair = |(first, value): (&str, &str), (second, other): (&str, &str)| {
            let mut text = Vec::new();
            for (key, value) in [(first, value), (second, other)] {
                text.extend_from_slice(b",");
                encode::string(&mut text, key);
                text.push(b':');
                encode::string(&mut text, value);
            }
            text
        };
        let service = |index| pair(("service", names.service(index)), ("account", names.account_of(index)));
        let operation = |index| pair(("operation", names.operation(index)), ("class", class_name(names.class(index))));
        RenderedLabels {
            services: std::iter::once(None).chain((0..names.services.len()).map(Some)).map(service).collect(),
            operations: std::iter::once(None).chain((0..names.operations.len()).map(Some)).map(operation).collect(),
        }
    }
}

/// The class's word in the log.
fn class_name(class: Option<Class>) -> &'static str {
    match class {
        None => "-",
        Some(Class::Lookup) => "lookup",
        Some(Class::Read) => "read",
        Some(Class::Quote) => "quote",
        Some(Class::Order) => "order",
        Some(Class::Account) => "account",
        Some(Class::Unlisted) => "unlisted",
    }
}

fn of(rows: &[Vec<u8>], index: Option<usize>) -> &[u8] {
    index.and_then(|index| rows.get(index + 1)).or(rows.first()).map_or(&[], Vec::as_slice)
}

/// What a line needs beside the record.
pub(super) struct LineContext<'a> {
    pub(super) labels: &'a RenderedLabels,
    pub(super) masker: &'a Masker,
    pub(super) began: SystemTime,
    pub(super) took: Duration,
    /// Whether bodies stand in it: the exchange went to Fastrac, and its answer was no leak.
    pub(super) bodies: bool,
    /// Whether bodies may be looked into: not for `unlisted`.
    pub(super) readable: bool,
}

/// Appends the line up to where `,"seq":N}` follows.
pub(super) fn write(out: &mut Vec<u8>, record: &Record, page: &LineContext<'_>) {
    out.extend_from_slice(b"{\"time\":\"");
    encode::time(out, page.began);
    out.extend_from_slice(b"\",\"request_id\":\"");
    // The characters of an id need no escape.
    out.extend_from_slice(record.id.as_str().as_bytes());
    out.push(b'"');
    out.extend_from_slice(of(&page.labels.services, record.service));
    out.extend_from_slice(of(&page.labels.operations, record.operation));
    request(out, record, page.masker);
    result(out, record);
    timings(out, record, page.took);
    body(out, b",\"request_body\":", &record.request_body, page);
    body(out, b",\"answer_body\":", &record.answer_body, page);
    if let Some(from) = &record.stored_from {
        out.extend_from_slice(b",\"stored_from\":");
        encode::string(out, from);
    }
}

fn request(out: &mut Vec<u8>, record: &Record, masker: &Masker) {
    let Some((method, uri)) = &record.request else {
        out.extend_from_slice(b",\"method\":\"-\",\"path\":\"-\",\"query\":null");
        return;
    };
    out.extend_from_slice(b",\"method\":");
    encode::string(out, method.as_str());
    out.extend_from_slice(b",\"path\":\"");
    masker.path(out, uri.path());
    match uri.query() {
        None => out.extend_from_slice(b"\",\"query\":null"),
        Some(query) => {
            out.extend_from_slice(b"\",\"query\":\"");
            masker.query(out, query);
            out.push(b'"');
        }
    }
}

fn result(out: &mut Vec<u8>, record: &Record) {
    out.extend_from_slice(b",\"status\":");
    match record.status {
        Some(status) => encode::number(out, u64::from(status)),
        None => out.extend_from_slice(b"null"),
    }
    word(out, b",\"outcome\":", Some(record.outcome.as_str()));
    word(out, b",\"code\":", record.code.map(|code| code.as_str()));
    word(out, b",\"cache\":", record.cache.map(|result| result.as_str()));
    word(out, b",\"sent\":", Some(record.sent.as_str()));
    out.extend_from_slice(b",\"attempts\":");
    encode::number(out, u64::from(record.attempts));
    out.extend_from_slice(b",\"key_version\":");
    match &record.key_version {
        Some(version) => encode::string(out, version),
        None => out.extend_from_slice(b"null"),
    }
}

/// A word of a closed list, which needs no escape.
fn word(out: &mut Vec<u8>, key: &[u8], word: Option<&'static str>) {
    out.extend_from_slice(key);
    match word {
        None => out.extend_from_slice(b"null"),
        Some(word) => {
            out.push(b'"');
            out.extend_from_slice(word.as_bytes());
            out.push(b'"');
        }
    }
}

fn timings(out: &mut Vec<u8>, record: &Record, took: Duration) {
    out.extend_from_slice(b",\"duration_ms\":");
    encode::millis(out, took);
    out.extend_from_slice(b",\"upstream_ms\":");
    encode::millis(out, record.upstream);
    out.extend_from_slice(b",\"waited_ms\":");
    encode::millis(out, record.waited);
}

fn body(out: &mut Vec<u8>, key: &[u8], body: &CapturedBody, page: &LineContext<'_>) {
    out.extend_from_slice(key);
    if !page.bodies || body.length == 0 {
        return out.extend_from_slice(b"null");
    }
    let written = page.readable && body.whole.as_ref().is_some_and(|bytes| page.masker.body(out, bytes));
    if !written {
        out.extend_from_slice(b"{\"bytes\":");
        encode::number(out, body.length);
        out.push(b'}');
    }
}
