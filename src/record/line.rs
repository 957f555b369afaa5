//! One line of the exchange log, up to the `seq` that the queue adds.
//!
//! Members and their order are those of contract section 7. An unknown value is `null`, or `-` where
//! the metrics have `-`. Labels are rendered once per snapshot, so a line is copies, a few numbers,
//! and one scan of path and query. Pure; never fails.

use std::time::{Duration, SystemTime};

use super::{
    encode,
    facts::{CapturedBody, RequestFacts, RequestTarget},
    mask::Masker,
    names::Names,
};
use crate::config::Class;

/// The labels of a line, rendered once per snapshot.
pub(super) struct RenderedLabels {
    /// `"service":…,"account":…`, row 0 for `-`.
    services: Vec<Vec<u8>>,
    /// `"operation":…,"class":…`, row 0 for `-`.
    operations: Vec<Vec<u8>>,
}

impl RenderedLabels {
    pub(super) fn new(names: &Names) -> RenderedLabels {
        let members = |members: [(&str, &str); 2]| {
            let mut text = Vec::new();
            for (key, value) in members {
                text.push(b',');
                encode::string(&mut text, key);
                text.push(b':');
                encode::string(&mut text, value);
            }
            text
        };
        let service = |index| members([("service", names.service(index)), ("account", names.account_of(index))]);
        let operation = |index| {
            members([("operation", names.operation(index)), ("class", names.class(index).map_or("-", Class::as_str))])
        };
        RenderedLabels {
            services: std::iter::once(None).chain((0..names.services.len()).map(Some)).map(service).collect(),
            operations: std::iter::once(None).chain((0..names.operations.len()).map(Some)).map(operation).collect(),
        }
    }
}

/// The rendered labels of an index, or those of `-`.
fn labels(rows: &[Vec<u8>], index: Option<usize>) -> &[u8] {
    index.and_then(|index| rows.get(index + 1)).or(rows.first()).map_or(&[], Vec::as_slice)
}

/// What a line needs besides the request.
pub(super) struct LineContext<'a> {
    pub(super) labels: &'a RenderedLabels,
    pub(super) masker: &'a Masker,
    pub(super) began: SystemTime,
    pub(super) took: Duration,
    /// Whether bodies are written: the request was sent to Fastrac.
    pub(super) with_bodies: bool,
    /// Whether contents of bodies may be written: not for `unlisted` operations and leaks.
    pub(super) bodies_readable: bool,
}

/// Appends the line; `,"seq":N}` is to follow.
pub(super) fn write(out: &mut Vec<u8>, facts: &RequestFacts, context: &LineContext<'_>) {
    out.extend_from_slice(b"{\"time\":\"");
    encode::time(out, context.began);
    out.extend_from_slice(b"\",\"request_id\":\"");
    // The characters of an id need no escaping.
    out.extend_from_slice(facts.id.as_str().as_bytes());
    out.push(b'"');
    out.extend_from_slice(labels(&context.labels.services, facts.service));
    out.extend_from_slice(labels(&context.labels.operations, facts.operation));
    target(out, facts, context.masker);
    result(out, facts);
    timings(out, facts, context.took);
    body(out, b",\"request_body\":", &facts.request_body, context);
    body(out, b",\"answer_body\":", &facts.answer_body, context);
    if let Some(from) = &facts.stored_from {
        out.extend_from_slice(b",\"stored_from\":");
        encode::string(out, from);
    }
}

fn target(out: &mut Vec<u8>, facts: &RequestFacts, masker: &Masker) {
    let Some(RequestTarget { method, uri }) = &facts.target else {
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

fn result(out: &mut Vec<u8>, facts: &RequestFacts) {
    out.extend_from_slice(b",\"status\":");
    match facts.status {
        Some(status) => encode::number(out, u64::from(status)),
        None => out.extend_from_slice(b"null"),
    }
    word(out, b",\"outcome\":", Some(facts.outcome.as_str()));
    word(out, b",\"code\":", facts.code.map(|code| code.as_str()));
    word(out, b",\"cache\":", facts.cache.map(|result| result.as_str()));
    word(out, b",\"sent\":", Some(facts.sent.as_str()));
    out.extend_from_slice(b",\"attempts\":");
    encode::number(out, u64::from(facts.attempts));
    out.extend_from_slice(b",\"key_version\":");
    match &facts.key_version {
        Some(version) => encode::string(out, version),
        None => out.extend_from_slice(b"null"),
    }
}

/// A word of a closed list, which needs no escaping.
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

fn timings(out: &mut Vec<u8>, facts: &RequestFacts, took: Duration) {
    out.extend_from_slice(b",\"duration_ms\":");
    encode::millis(out, took);
    out.extend_from_slice(b",\"upstream_ms\":");
    encode::millis(out, facts.upstream);
    out.extend_from_slice(b",\"waited_ms\":");
    encode::millis(out, facts.waited);
}

fn body(out: &mut Vec<u8>, key: &[u8], body: &CapturedBody, context: &LineContext<'_>) {
    out.extend_from_slice(key);
    if !context.with_bodies || body.length == 0 {
        return out.extend_from_slice(b"null");
    }
    let written = context.bodies_readable && body.whole.as_ref().is_some_and(|bytes| context.masker.body(out, bytes));
    if !written {
        out.extend_from_slice(b"{\"bytes\":");
        encode::number(out, body.length);
        out.push(b'}');
    }
}
