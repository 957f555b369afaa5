//! The corpus of responses: what Fastrac sends, and what a caller may get. The README beside the corpus explains the
//! format; anything else in a file is an error.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    super::corpus::{self, CaseText},
    Operation,
};

/// Stands for the number of a request, which has as many digits, in what is sent in response to it.
const NUMBER: &str = "@@@@@@@@@@";

/// In a response of its own that no request was sent for.
pub(super) const SMUGGLED: &str = "SMUGGLED!!";

/// One action of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Sends bytes in one write.
    Send(Vec<u8>),
    /// Sends bytes one at a time, with a pause after each.
    Drip(Vec<u8>, Duration),
    /// Sends bytes again and again until the connection is closed.
    Endless(Vec<u8>),
    Wait(Duration),
    Close,
    Reset,
}

/// When Fastrac begins to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// When it has read the whole request.
    Whole,
    /// When it has read the head of the request.
    Head,
    /// When the connection opens.
    Early,
}

/// A result that a caller may get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    pub(super) status: u16,
    /// The outcome of a response that is passed on, the code of a refusal, or `broken-off`: the connection, or the
    /// stream, ends before the response does.
    pub(super) word: String,
    /// The operations for which it is allowed; empty for all.
    pub(super) operations: Vec<Operation>,
}

/// One response with its expected effects.
#[derive(Clone, Debug)]
pub(super) struct ResponseCase {
    /// `family/name` or `family/name/variant`.
    pub(super) name: String,
    pub(super) begin: Begin,
    pub(super) acts: Vec<Act>,
    /// The request is a HEAD.
    pub(super) head: bool,
    /// Only a read is tried: the case takes long.
    pub(super) only_read: bool,
    /// The caller does not wait for the operation's timeout.
    pub(super) late: bool,
    /// No further request may be sent on the connection.
    pub(super) once: bool,
    /// The body that is passed on.
    body: Vec<u8>,
    /// Results, any of which is correct.
    pub(super) allowed: Vec<Allowed>,
}

impl ResponseCase {
    /// The body that the caller of a request with this number gets.
    pub(super) fn body(&self, number: u64) -> Vec<u8> {
        numbered(&self.body, number)
    }
}

/// A correct response to a request with this number.
pub(super) fn correct(number: u64) -> Vec<u8> {
    numbered(&response(NUMBER), number)
}

/// The body of a correct response.
pub(super) fn correct_body(number: u64) -> Vec<u8> {
    numbered(envelope(NUMBER).as_bytes(), number)
}

/// With the number of the request put in.
pub(super) fn numbered(template: &[u8], number: u64) -> Vec<u8> {
    let digits = format!("{number:010}");
    let mut bytes = template.to_vec();
    let places: Vec<usize> = memchr::memmem::find_iter(template, NUMBER).collect();
    for place in places {
        bytes[place..place + NUMBER.len()].copy_from_slice(digits.as_bytes());
    }
    bytes
}

fn envelope(id: &str) -> String {
    format!(r#"{{"success":true,"message":"ok","data":[{{"id":"{id}"}}]}}"#)
}

fn response(id: &str) -> Vec<u8> {
    let body = envelope(id);
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into()
}

/// The cases of one family.
pub(super) fn family(name: &str) -> Vec<ResponseCase> {
    corpus::texts(&folder(), name).into_iter().map(case).collect()
}

/// Every family's name, in order.
pub(super) fn families() -> Vec<String> {
    corpus::families_in(&folder())
}

/// Every case.
pub(super) fn all() -> Vec<ResponseCase> {
    families().iter().flat_map(|name| family(name)).collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway/hostile/responses/corpus")
}

fn case(CaseText { name, lines, value }: CaseText) -> ResponseCase {
    let mut case = ResponseCase {
        name,
        begin: Begin::Whole,
        acts: Vec::new(),
        head: false,
        only_read: false,
        late: false,
        once: false,
        body: envelope(NUMBER).into_bytes(),
        allowed: Vec::new(),
    };
    let bytes = |text: &str| corpus::bytes(&placed(&text.replace("$x", &value)), "");
    let mut drip = None;
    for line in &lines {
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        match mark {
            "for" => {}
            "|" => send(&mut case.acts, [&bytes(rest)[..], b"\r\n"].concat(), drip),
            "/" => send(&mut case.acts, bytes(rest), drip),
            "+" => send(&mut case.acts, with_length(&bytes(rest)), drip),
            "%" => send(&mut case.acts, chunk(&bytes(rest)), drip),
            ">" => case.body = bytes(rest),
            "=" => case.allowed.push(allowed(rest)),
            "!" => match rest.split_once(' ').unwrap_or((rest, "")) {
                ("wait", millis) => case.acts.push(Act::Wait(corpus::duration(millis))),
                ("drip", millis) => drip = Some(corpus::duration(millis)),
                ("endless", text) => case.acts.push(Act::Endless(bytes(text))),
                ("close", _) => case.acts.push(Act::Close),
                ("reset", _) => case.acts.push(Act::Reset),
                ("early", _) => case.begin = Begin::Early,
                ("after-head", _) => case.begin = Begin::Head,
                ("head", _) => case.head = true,
                ("read", _) => case.only_read = true,
                ("late", _) => case.late = true,
                ("once", _) => case.once = true,
                _ => panic!("{}: {line}", case.name),
            },
            _ => panic!("{}: {line}", case.name),
        }
    }
    case
}

/// The last header, the end of the head and the body.
fn with_length(body: &[u8]) -> Vec<u8> {
    [format!("content-length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

/// The words of this corpus, replaced.
fn placed(text: &str) -> String {
    let own = envelope(NUMBER);
    let smuggled = String::from_utf8(response(SMUGGLED)).expect("ASCII");
    text.replace("$smuggled", &smuggled.replace('\r', "\\r").replace('\n', "\\n"))
        .replace("$ok", "HTTP/1.1 200 OK\\r\\ncontent-type: application/json")
        .replace("$length", &own.len().to_string())
        .replace("$size", &format!("{:x}", own.len()))
        .replace("$envelope", &own)
        .replace("$number", NUMBER)
}

fn send(acts: &mut Vec<Act>, bytes: Vec<u8>, drip: Option<Duration>) {
    match (acts.last_mut(), drip) {
        (Some(Act::Send(before)), None) => before.extend_from_slice(&bytes),
        (Some(Act::Drip(before, pause)), Some(now)) if *pause == now => before.extend_from_slice(&bytes),
        (_, None) => acts.push(Act::Send(bytes)),
        (_, Some(pause)) => acts.push(Act::Drip(bytes, pause)),
    }
}

/// `STATUS WORD OPERATION…`
fn allowed(text: &str) -> Allowed {
    let mut words = text.split(' ');
    let status = words.next().and_then(|status| status.parse().ok()).expect("a status");
    let word = words.next().expect("an outcome, a code or `broken-off`").to_owned();
    Allowed { status, word, operations: words.map(Operation::named).collect() }
}
