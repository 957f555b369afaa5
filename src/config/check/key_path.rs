//! Places in the file, and what was found there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// A key of the file: `services.checkout.credentials[0].access_key`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyPath(Vec<KeySegment>);

/// One step down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum KeySegment {
    /// Into a table.
    Key(String),
    /// Into an array.
    Index(usize),
}

impl KeyPath {
    /// A place from its keys; `at(["limits", "drain"])`.
    pub fn at<const N: usize>(keys: [&str; N]) -> Self {
        Self(keys.into_iter().map(|key| KeySegment::Key(key.to_owned())).collect())
    }

    /// The key below it.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.and(KeySegment::Key(key.to_owned()))
    }

    /// The element of it.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.and(KeySegment::Index(index))
    }

    pub(super) fn and(&self, part: KeySegment) -> Self {
        let mut segments = self.0.clone();
        segments.push(part);
        Self(segments)
    }

    pub(super) fn segments(&self) -> &[KeySegment] {
        &self.0
    }

    /// Itself, then the tables around it, innermost first.
    fn outwards(&self) -> impl Iterator<Item = KeyPath> + '_ {
        (0..=self.0.len()).rev().map(|length| KeyPath(self.0[..length].to_vec()))
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.0.iter().enumerate() {
            match part {
                KeySegment::Index(index) => write!(f, "[{index}]")?,
                KeySegment::Key(key) => {
                    let dot = if at == 0 { "" } else { "." };
                    let bare =
                        !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
                    if bare { write!(f, "{dot}{key}")? } else { write!(f, "{dot}{key:?}")? }
                }
            }
        }
        Ok(())
    }
}

/// The line of each place, counted from 1.
#[derive(Clone, Debug, Default)]
pub struct Lines(pub(super) BTreeMap<KeyPath, usize>);

impl Lines {
    /// The line of the key, or of the nearest table around it; `None` if none of them is written.
    pub fn of(&self, place: &KeyPath) -> Option<usize> {
        place.outwards().find_map(|place| self.0.get(&place).copied())
    }

    /// The outermost key on a line.
    fn on(&self, line: usize) -> Option<&KeyPath> {
        self.0.iter().filter(|(_, at)| **at == line).map(|(place, _)| place).min_by_key(|place| place.0.len())
    }

    /// Whether the key is written.
    pub fn holds(&self, place: &KeyPath) -> bool {
        self.0.contains_key(place)
    }

    /// A finding at a place.
    pub fn diagnostic(&self, place: &KeyPath, message: impl Into<String>) -> Diagnostic {
        Diagnostic { place: place.to_string(), message: message.into(), line: self.of(place) }
    }
}

/// A fault or a warning; `place: message (line n)`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// The dotted key.
    pub place: String,
    /// What is wrong, and what would be right. Never a value of the file.
    pub message: String,
    /// The line of the key, or of its table if the key is missing.
    pub line: Option<usize>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)?;
        match self.line {
            Some(line) => write!(f, " (line {line})"),
            None => Ok(()),
        }
    }
}

/// What was found so far.
#[derive(Debug)]
pub(super) struct Diagnostics {
    lines: Lines,
    /// Places whose value couldn't be used at all: no later check speaks of them, or of what is below.
    broken: BTreeSet<KeyPath>,
    /// Lines that aren't TOML: what is missing may stand there.
    torn: BTreeSet<usize>,
    faults: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl Diagnostics {
    pub(super) fn new(lines: Lines) -> Self {
        let (broken, torn) = (BTreeSet::new(), BTreeSet::new());
        Self { lines, broken, torn, faults: Vec::new(), warnings: Vec::new() }
    }

    pub(super) fn lines(&self) -> &Lines {
        &self.lines
    }

    /// A line that isn't TOML. Its place is the key that begins on it, as far as one could be read.
    pub(super) fn torn(&mut self, line: usize, message: String) {
        if self.torn.insert(line) {
            let place = self.lines.on(line).map_or_else(|| "syntax".to_owned(), KeyPath::to_string);
            self.faults.push(Diagnostic { place, message: format!("is not TOML: {message}"), line: Some(line) });
        }
    }

    /// A value that can't be used at all.
    pub(super) fn broken(&mut self, place: &KeyPath, message: String) {
        self.add(place, message);
        self.broken.insert(place.clone());
    }

    /// A fault.
    pub(super) fn fault(&mut self, place: &KeyPath, message: impl Into<String>) {
        self.add(&self.as_written(place), message.into());
    }

    /// Where a place of the values that were read stands in the file: broken elements of arrays were passed over, so
    /// what was read counts only the others.
    fn as_written(&self, place: &KeyPath) -> KeyPath {
        let mut written = KeyPath::default();
        for part in place.segments() {
            written = match part {
                KeySegment::Key(_) => written.and(part.clone()),
                KeySegment::Index(read) => {
                    let mut good = (0..).map(|index| written.index(index)).filter(|at| !self.broken.contains(at));
                    good.nth(*read).unwrap_or_else(|| written.index(*read))
                }
            };
        }
        written
    }

    fn add(&mut self, place: &KeyPath, message: String) {
        let known = place.outwards().any(|place| self.broken.contains(&place));
        let torn = self.lines.of(place).is_some_and(|line| self.torn.contains(&line));
        if !known && !torn {
            self.faults.push(self.lines.diagnostic(place, message));
        }
    }

    /// A mandatory key that isn't there. Says nothing if the file isn't TOML: the key may stand in the torn part.
    pub(super) fn missing(&mut self, place: &KeyPath, remedy: &str) {
        if self.torn.is_empty() {
            self.fault(place, format!("is missing: {remedy}"));
        }
    }

    /// The value, or a fault that it is missing.
    pub(super) fn need<'v, T>(&mut self, value: &'v Option<T>, place: &KeyPath, remedy: &str) -> Option<&'v T> {
        if value.is_none() {
            self.missing(place, remedy);
        }
        value.as_ref()
    }

    /// A warning.
    pub(super) fn warn(&mut self, place: &KeyPath, message: impl Into<String>) {
        let place = self.as_written(place);
        self.warnings.push(self.lines.diagnostic(&place, message));
    }

    /// A warning about a place that doesn't count past broken elements.
    pub(super) fn warn_as_written(&mut self, place: &KeyPath, message: &str) {
        self.warnings.push(self.lines.diagnostic(place, message));
    }

    /// Everything, in the order of the lines.
    pub(super) fn end(mut self) -> (Vec<Diagnostic>, Vec<Diagnostic>, Lines) {
        for found in [&mut self.faults, &mut self.warnings] {
            found.sort_by(|a, b| (a.line, &a.place).cmp(&(b.line, &b.place)));
            found.dedup();
        }
        (self.faults, self.warnings, self.lines)
    }
}
