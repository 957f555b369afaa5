//! One line of the exchange log, up to the `seq` that the queue adds.
//!
//! Members and their order are those of contract section 7. An unknown value is `null`, or `-` where
//! the metrics have `-`. Labels are rendered once per snapshot, so a line is copies, a few numbers,
//! and one scan of path and query. Pure; never fails.

use std::{
    ops::Range,
    time::{Duration, SystemTime},
};

use http::uri::PathAndQuery;

use super::{
    encode,
    facts::{CapturedBody, RequestFacts, RequestTarget},
    mask::{CallersText, MASKED, Masker},
    names::Names,
};
use crate::config::Class;

/// Maximum length of a path and of a query, bytes.
pub(super) const TARGET_MAX: usize = 2048;

/// Bytes beyond [`TARGET_MAX`] that are masked too, so that a secret is recognised that crosses the cut. What comes
/// later is not even read: its size is the client's choice.
pub(super) const LOOK_AHEAD: usize = 256;

/// The registered methods (IANA HTTP Method Registry), sorted. Others are written as `other`: a malformed request may
/// have anything in the place of its method.
#[rustfmt::skip]
const METHODS: [&str; 40] = [
    "ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "CONNECT", "COPY", "DELETE", "GET", "HEAD", "LABEL",
    "LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "OPTIONS",
    "ORDERPATCH", "PATCH", "POST", "PRI", "PROPFIND", "PROPPATCH", "PUT", "QUERY", "REBIND", "REPORT", "SEARCH",
    "TRACE", "UNBIND", "UNCHECKOUT", "UNLINK", "UNLOCK", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL",
];

/// The labels of a line, rendered once per snapshot.
pub(super) struct RenderedLabels {
    /// `"service":…,"account":…`, row 0 for `-`.
    services: Vec<Vec<u8>>,
    /// The same for the gateway itself, by account.
    accounts: Vec<Vec<u8>>,
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
            accounts: (0..names.accounts.len())
                .map(|index| members([("service", names.service(None)), ("account", names.account(Some(index)))]))
                .collect(),
            operations: std::iter::once(None).chain((0..names.operations.len()).map(Some)).map(operation).collect(),
        }
    }
}

/// The rendered labels of an index, or those of `-`.
fn labels(rows: &[Vec<u8>], index: Option<usize>) -> &[u8] {
    index.and_then(|index| rows.get(index + 1)).or(rows.first()).map_or(&[], Vec::as_slice)
}

/// What a line needs besides the request.
#[derive(Clone, Copy)]
pub(super) struct LineContext<'a> {
    pub(super) labels: &'a RenderedLabels,
    pub(super) masker: &'a Masker,
    /// Index of the service's account; `None`: the caller was not identified.
    pub(super) account: Option<usize>,
    pub(super) began: SystemTime,
    pub(super) took: Duration,
    /// Whether bodies are written: the request was sent to Fastrac.
    pub(super) with_bodies: bool,
    /// Whether contents of bodies may be written: not for `unlisted` operations and leaks, nor without room.
    pub(super) bodies_readable: bool,
}

/// Appends the line; `,"seq":N}` is to follow.
pub(super) fn write(out: &mut Vec<u8>, facts: &RequestFacts, context: &LineContext<'_>) {
    let start = out.len();
    let parts = members(out, facts, context, false);
    if holds_secret(out, &parts, facts, context) {
        // Where in the line it is does not matter: this is rare, and a mistake of the caller.
        out.truncate(start);
        members(out, facts, context, true);
    }
}

/// Where in the buffer that is which a caller, or Fastrac, wrote; all else is of the gateway and its configuration.
struct CallersParts {
    /// The id of the request; empty if the gateway made it.
    id: Range<usize>,
    target: ShownTarget,
    request_body: Range<usize>,
    answer_body: Range<usize>,
    stored_from: Range<usize>,
}

/// Where path and query are; empty: not written, or withheld.
#[derive(Default)]
struct ShownTarget {
    path: Range<usize>,
    query: Range<usize>,
}

/// Whether what was written contains a secret that is known: a live one of the account, or a caller's; also where a URI
/// or a body encodes it.
fn holds_secret(out: &[u8], parts: &CallersParts, facts: &RequestFacts, context: &LineContext<'_>) -> bool {
    let CallersParts { id, target: ShownTarget { path, query }, request_body, answer_body, stored_from } = parts;
    let texts = [id, path, query, request_body, answer_body, stored_from].map(|part| &out[part.clone()]);
    let [_, path, query, request_body, answer_body, _] = texts;
    let uri = facts.target.as_ref().and_then(|target| target.uri.path_and_query()).map_or("", PathAndQuery::as_str);
    let uri = &uri[..uri.floor_char_boundary(2 * (TARGET_MAX + LOOK_AHEAD))];
    // A secret that crosses the cut is not written whole.
    let target = if uri.len() > TARGET_MAX {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        [path, query].map(str::as_bytes)
    } else {
        [path, query]
    };
    let written = CallersText { target, request_body, answer_body };
    context.masker.any_holds_live_secret(context.account, &texts)
        || context.masker.uri_holds_live_secret(context.account, uri)
        || context.masker.holds_encoded_secret(context.account, &facts.presented, &written)
}

/// Appends the members; `withheld`: without what the caller wrote. Returns where that is.
fn members(out: &mut Vec<u8>, facts: &RequestFacts, context: &LineContext<'_>, withheld: bool) -> CallersParts {
    let shown = |id: &str| !withheld || !context.masker.holds_live_secret(context.account, id.as_bytes());
    out.extend_from_slice(b"{\"time\":\"");
    encode::time(out, context.began);
    out.extend_from_slice(b"\",\"request_id\":\"");
    // The characters of an id need no escaping.
    let (id, start) = (facts.id.as_str(), out.len());
    out.extend_from_slice(if shown(id) { id } else { MASKED }.as_bytes());
    let id = if facts.callers_id { start..out.len() } else { start..start };
    out.push(b'"');
    let own =
        facts.own_account.filter(|_| facts.service.is_none()).and_then(|account| context.labels.accounts.get(account));
    out.extend_from_slice(own.map_or_else(|| labels(&context.labels.services, facts.service), Vec::as_slice));
    out.extend_from_slice(labels(&context.labels.operations, facts.operation));
    let target = target(out, facts, context.masker, withheld);
    result(out, facts);
    timings(out, facts, context.took);
    let context = &LineContext { bodies_readable: context.bodies_readable && !withheld, ..*context };
    let request_body = body(out, b",\"request_body\":", &facts.request_body, context);
    let answer_body = body(out, b",\"answer_body\":", &facts.answer_body, context);
    if let Some(code) = facts.would_refuse {
        word(out, b",\"would_refuse\":", Some(code.as_str()));
    }
    let mut stored_from = out.len()..out.len();
    if let Some(from) = facts.stored_from.as_ref().and_then(|from| from.to_str().ok()) {
        out.extend_from_slice(b",\"stored_from\":");
        stored_from.start = out.len();
        encode::string(out, if shown(from) { from } else { MASKED });
        stored_from.end = out.len();
    }
    CallersParts { id, target, request_body, answer_body, stored_from }
}

fn target(out: &mut Vec<u8>, facts: &RequestFacts, masker: &Masker, withheld: bool) -> ShownTarget {
    let Some(RequestTarget { method, uri }) = &facts.target else {
        out.extend_from_slice(b",\"method\":\"other\",\"path\":\"-\",\"query\":null");
        return ShownTarget::default();
    };
    word(out, b",\"method\":", Some(known_method(method.as_str())));
    if withheld {
        word(out, b",\"path\":", Some(MASKED));
        word(out, b",\"query\":", uri.query().map(|_| MASKED));
        return ShownTarget::default();
    }
    let path = part(out, "path", uri.path(), |out, path| masker.path(out, path));
    let Some(query) = uri.query() else {
        out.extend_from_slice(b",\"query\":null");
        return ShownTarget { path, query: 0..0 };
    };
    ShownTarget { path, query: part(out, "query", query, |out, query| masker.query(out, query)) }
}

/// Whether contents of bodies may be shown: the names in those of `unlisted` operations are not known.
pub(super) fn shows_bodies(class: Option<Class>) -> bool {
    !matches!(class, None | Some(Class::Unlisted))
}

/// A method's name; `other` if it is not registered.
pub(super) fn known_method(method: &str) -> &'static str {
    match method {
        // Almost all requests.
        "GET" => "GET",
        "POST" => "POST",
        _ => METHODS.binary_search(&method).map_or("other", |index| METHODS[index]),
    }
}

/// A member of at most [`TARGET_MAX`] bytes; if it was longer, `NAME_bytes` says how long. Returns where its text is.
fn part(out: &mut Vec<u8>, name: &str, text: &str, mask: impl Fn(&mut Vec<u8>, &str)) -> Range<usize> {
    let member = |out: &mut Vec<u8>, end: &str| {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(end.as_bytes());
        out.extend_from_slice(b"\":");
    };
    member(out, "");
    out.push(b'"');
    let start = out.len();
    if text.len() <= TARGET_MAX {
        mask(out, text);
        out.push(b'"');
        return start..out.len() - 1;
    }
    mask(out, &text[..text.floor_char_boundary(TARGET_MAX + LOOK_AHEAD)]);
    truncate(out, start);
    let shown = start..out.len();
    out.push(b'"');
    member(out, "_bytes");
    encode::number(out, text.len() as u64);
    shown
}

/// Cuts what follows `start`, which is escaped as in a JSON string, to at most [`TARGET_MAX`] bytes. Splits neither a
/// character nor an escape.
fn truncate(out: &mut Vec<u8>, start: usize) {
    let mut end = start + TARGET_MAX;
    if out.len() <= end {
        return;
    }
    while end > start && out[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    // An escape is a backslash and what follows it; URIs contain nothing that needs a longer one.
    let backslashes = out[start..end].iter().rev().take_while(|byte| **byte == b'\\').count();
    out.truncate(end - backslashes % 2);
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

/// Returns where the contents are; empty: they are not written.
fn body(out: &mut Vec<u8>, key: &[u8], body: &CapturedBody, context: &LineContext<'_>) -> Range<usize> {
    out.extend_from_slice(key);
    let start = out.len();
    if !context.with_bodies || body.length == 0 && !body.is_part {
        out.extend_from_slice(b"null");
        return start..start;
    }
    let written = context.bodies_readable && body.whole.as_ref().is_some_and(|bytes| context.masker.body(out, bytes));
    if written {
        return start..out.len();
    }
    out.extend_from_slice(b"{\"bytes\":");
    encode::number(out, body.length);
    out.push(b'}');
    start..start
}
