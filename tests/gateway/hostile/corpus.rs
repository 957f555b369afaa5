//! The corpus of requests: what is sent, what must come back, what Fastrac must receive. `README.md` beside it
//! explains the format; anything else in a file is an error. The corpus of responses has the same escapes and variants.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// One action of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Sends bytes in one write.
    Send(Vec<u8>),
    /// Sends bytes one at a time, with a pause after each.
    Drip(Vec<u8>, Duration),
    Wait(Duration),
    /// Closes the sending half.
    HalfClose,
}

/// The statuses received in order, and whether the connection was closed afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Responses {
    pub(crate) statuses: Vec<u16>,
    pub(crate) closed: bool,
}

impl std::fmt::Display for Responses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for status in &self.statuses {
            write!(f, "{status} ")?;
        }
        f.write_str(if self.closed { "close" } else { "open" })
    }
}

/// A request that Fastrac must receive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Forwarded {
    pub(crate) method: String,
    pub(crate) target: Vec<u8>,
    /// Headers other than those that the gateway injects, sorted.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

/// One input with its expected effects.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// `family/name` or `family/name/variant`.
    pub(crate) name: String,
    pub(crate) steps: Vec<Step>,
    /// Whether responses have no bodies, as for HEAD.
    pub(crate) head: bool,
    /// Whether the peer may send HTTP/2 frames.
    pub(crate) frames: bool,
    /// Responses, any of which is correct.
    pub(crate) allowed: Vec<Responses>,
    pub(crate) forwarded: Vec<Forwarded>,
}

/// The lines of one case, or of one of its variants.
pub(crate) struct CaseText {
    /// `family/name` or `family/name/variant`.
    pub(crate) name: String,
    pub(crate) lines: Vec<String>,
    /// What `$x` stands for.
    pub(crate) value: String,
}

/// The texts of a family's cases.
pub(crate) fn texts(folder: &Path, family: &str) -> Vec<CaseText> {
    let file = folder.join(format!("{family}.txt"));
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.split("\ncase ").skip(1).flat_map(|block| variants(family, block)).collect()
}

/// The names of the families in a folder, in order.
pub(crate) fn families_in(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut names: Vec<String> =
        files.map(|file| file.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The cases of one family.
pub(crate) fn family(name: &str) -> Vec<Case> {
    texts(&folder(), name).into_iter().map(case).collect()
}

/// Every family's name, in order.
pub(crate) fn families() -> Vec<String> {
    families_in(&folder())
}

/// Every case.
pub(crate) fn all() -> Vec<Case> {
    families().iter().flat_map(|name| family(name)).collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway/hostile/corpus")
}

fn variants(family: &str, block: &str) -> Vec<CaseText> {
    let (name, lines) = block.split_once('\n').expect("lines");
    let lines: Vec<String> =
        lines.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect();
    let variants: Vec<(&str, &str)> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("for "))
        .map(|line| line.split_once(' ').unwrap_or((line, "")))
        .map(|(label, value)| (label, value.trim_start_matches(' ')))
        .collect();
    let name = format!("{family}/{}", name.trim());
    if variants.is_empty() {
        return vec![CaseText { name, lines, value: String::new() }];
    }
    let variant = |(label, value): &(&str, &str)| {
        let name = format!("{name}/{label}");
        CaseText { name, lines: lines.clone(), value: (*value).to_owned() }
    };
    variants.iter().map(variant).collect()
}

fn case(CaseText { name, lines, value }: CaseText) -> Case {
    let value = value.as_str();
    let mut case =
        Case { name, steps: Vec::new(), head: false, frames: false, allowed: Vec::new(), forwarded: Vec::new() };
    let mut drip = None;
    for line in &lines {
        let place = || format!("{}: {line}", case.name);
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        match mark {
            "for" => {}
            "|" | "/" => {
                let mut bytes = bytes(rest, value);
                if mark == "|" {
                    bytes.extend_from_slice(b"\r\n");
                }
                send(&mut case.steps, bytes, drip);
            }
            "!" => match rest.split_once(' ').unwrap_or((rest, "")) {
                ("half-close", _) => case.steps.push(Step::HalfClose),
                ("head", _) => case.head = true,
                ("frames", _) => case.frames = true,
                ("wait", millis) => case.steps.push(Step::Wait(duration(millis))),
                ("drip", millis) => drip = Some(duration(millis)),
                _ => panic!("{}", place()),
            },
            "=" => case.allowed.push(responses(rest).unwrap_or_else(|| panic!("{}", place()))),
            "->" => case.forwarded.push(forwarded(rest, value)),
            "-" => {
                let rest = rest.replace("$x", value);
                let (header, text) = rest.split_once(": ").unwrap_or_else(|| panic!("{}", place()));
                let known = case.forwarded.last_mut().expect("a request before its headers");
                known.headers.push((header.to_owned(), bytes(text, value)));
                known.headers.sort();
            }
            _ => panic!("{}", place()),
        }
    }
    case
}

fn send(steps: &mut Vec<Step>, bytes: Vec<u8>, drip: Option<Duration>) {
    match (steps.last_mut(), drip) {
        (Some(Step::Send(before)), None) => before.extend_from_slice(&bytes),
        (_, None) => steps.push(Step::Send(bytes)),
        (_, Some(pause)) => steps.push(Step::Drip(bytes, pause)),
    }
}

pub(crate) fn duration(millis: &str) -> Duration {
    Duration::from_millis(millis.parse().expect("milliseconds"))
}

fn responses(text: &str) -> Option<Responses> {
    let mut words: Vec<&str> = text.split(' ').collect();
    let closed = match words.pop()? {
        "close" => true,
        "open" => false,
        _ => return None,
    };
    Some(Responses { statuses: words.iter().map(|word| word.parse().ok()).collect::<Option<_>>()?, closed })
}

/// `METHOD TARGET BODY`
fn forwarded(text: &str, value: &str) -> Forwarded {
    let (method, rest) = text.split_once(' ').expect("a method");
    let (target, body) = rest.split_once(' ').unwrap_or((rest, ""));
    Forwarded {
        method: String::from_utf8(bytes(method, value)).expect("a method"),
        target: bytes(target, value),
        headers: Vec::new(),
        body: bytes(body, value),
    }
}

/// Text with escapes and placeholders replaced.
pub(crate) fn bytes(text: &str, value: &str) -> Vec<u8> {
    let text = text.replace("$x", value);
    let text = text.replace("$auth", &super::auth().replace("\r\n", "\\r\\n"));
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        if let Some(inner) = rest.strip_prefix("$(") {
            // $(COUNT*TEXT)
            let (inner, after) = inner.split_at(closing(inner));
            let after = &after[1..];
            let (count, repeated) = inner.split_once('*').expect("a count");
            out.extend(bytes(repeated, "").repeat(count.parse().expect("a count")));
            rest = after;
        } else if first == '\\' {
            rest = escape(&rest[1..], &mut out);
        } else {
            out.extend_from_slice(&rest.as_bytes()[..first.len_utf8()]);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

/// Position of the parenthesis that closes the one already open.
fn closing(text: &str) -> usize {
    let mut open = 1;
    let at = text.bytes().position(|byte| {
        open += i32::from(byte == b'(') - i32::from(byte == b')');
        open == 0
    });
    at.expect("an end")
}

fn escape<'t>(text: &'t str, out: &mut Vec<u8>) -> &'t str {
    let (byte, length) = match text.as_bytes().first() {
        Some(b'r') => (b'\r', 1),
        Some(b'n') => (b'\n', 1),
        Some(b't') => (b'\t', 1),
        Some(b'0') => (0, 1),
        Some(b's') => (b' ', 1),
        Some(b'\\') => (b'\\', 1),
        Some(b'x') => (u8::from_str_radix(&text[1..3], 16).expect("two digits"), 3),
        _ => panic!("no escape: \\{text}"),
    };
    out.push(byte);
    &text[length..]
}
