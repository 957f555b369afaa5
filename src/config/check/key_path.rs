//! Keys of the file, their lines, and the errors and warnings about them.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Bound,
};

/// A key of the file: `services.checkout.credentials[0].access_key`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyPath(Vec<KeySegment>);

/// One step of a [`KeyPath`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum KeySegment {
    /// Into a table.
    Key(String),
    /// Into an array.
    Index(usize),
}

impl KeyPath {
    /// `at(["limits", "drain"])` is `limits.drain`.
    pub fn at<const N: usize>(keys: [&str; N]) -> Self {
        Self(keys.into_iter().map(|key| KeySegment::Key(key.to_owned())).collect())
    }

    /// A key of this table.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.and(KeySegment::Key(key.to_owned()))
    }

    /// An element of this array.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.and(KeySegment::Index(index))
    }

    pub(super) fn and(&self, segment: KeySegment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }

    pub(super) fn segments(&self) -> &[KeySegment] {
        &self.0
    }

    fn min_by_length<'k>(&'k self, other: &'k Self) -> &'k Self {
        if other.0.len() < self.0.len() { other } else { self }
    }

    /// This key, then the tables around it, innermost first.
    fn outwards(&self) -> impl Iterator<Item = &[KeySegment]> {
        (0..=self.0.len()).rev().map(|length| &self.0[..length])
    }
}

impl Borrow<[KeySegment]> for KeyPath {
    fn borrow(&self) -> &[KeySegment] {
        &self.0
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, segment) in self.0.iter().enumerate() {
            match segment {
                KeySegment::Index(index) => write!(f, "[{index}]")?,
                KeySegment::Key(key) => {
                    let dot = if at == 0 { "" } else { "." };
                    let bare =
                        !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
                    if looks_secret(key) {
                        write!(f, "{dot}…")?;
                    } else if bare {
                        write!(f, "{dot}{key}")?;
                    } else {
                        write!(f, "{dot}{key:?}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether a key may be a secret that got into the file, such as a line of a PEM key or a token: to the parser, base64
/// with `=` at its end is a key. No message shows it; the line number says where it is.
fn looks_secret(key: &str) -> bool {
    let has = |kind: fn(&u8) -> bool| key.bytes().any(|byte| kind(&byte));
    let mixed = has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_digit);
    let hex = key.bytes().all(|byte| byte.is_ascii_hexdigit());
    key.len() >= 20 && (mixed || hex || has(|byte| matches!(byte, b'+' | b'/')))
}

/// A line of the configuration or of a file that it includes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line {
    /// 0: the configuration itself; then the included files, in their order.
    pub(super) file: usize,
    /// Counted from 1.
    pub(super) number: usize,
}

/// The line of each key.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    pub(super) keys: BTreeMap<KeyPath, Line>,
    /// Names of the included files.
    pub(super) included: Vec<String>,
}

impl Lines {
    /// The line of the key, or of the nearest table around it; `None` if none of them is in the file.
    pub(super) fn of(&self, key: &KeyPath) -> Option<Line> {
        key.outwards().find_map(|key| self.keys.get(key).copied())
    }

    /// The outermost key on each line.
    fn outermost(&self) -> BTreeMap<Line, KeyPath> {
        let mut outermost: BTreeMap<Line, &KeyPath> = BTreeMap::new();
        for (key, line) in &self.keys {
            outermost.entry(*line).and_modify(|first| *first = (*first).min_by_length(key)).or_insert(key);
        }
        outermost.into_iter().map(|(line, key)| (line, key.clone())).collect()
    }

    /// Whether the key is in the file.
    pub fn contains(&self, key: &KeyPath) -> bool {
        self.keys.contains_key(key)
    }

    /// Whether the file has a key in this table.
    pub(super) fn contains_below(&self, table: &KeyPath) -> bool {
        let mut after = self.keys.range::<KeyPath, _>((Bound::Excluded(table), Bound::Unbounded));
        after.next().is_some_and(|(key, _)| key.0.starts_with(&table.0))
    }

    /// A diagnostic about a key, with its line.
    pub fn diagnostic(&self, key: &KeyPath, message: impl Into<String>) -> Diagnostic {
        self.diagnostic_on(self.of(key), key.to_string(), message)
    }

    fn diagnostic_on(&self, line: Option<Line>, key: String, message: impl Into<String>) -> Diagnostic {
        let file = line.and_then(|line| self.included.get(line.file.checked_sub(1)?)).cloned();
        Diagnostic { key, message: message.into(), line: line.map(|line| line.number), file }
    }

    /// `line 3`, or `line 3 of FILE`, of a key.
    pub(super) fn text(&self, key: &KeyPath) -> Option<String> {
        self.diagnostic(key, "").place()
    }
}

/// An error or a warning; displayed as `key: message (line n)`, or `(line n of FILE)` for an included file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// The dotted key.
    pub key: String,
    /// What is wrong, and what would be right. Never contains a value of the file.
    pub message: String,
    /// The line of the key, or of its table if the key is missing.
    pub line: Option<usize>,
    /// The included file that has this line; `None`: it is in the configuration itself.
    pub file: Option<String>,
}

impl Diagnostic {
    fn place(&self) -> Option<String> {
        let line = self.line?;
        Some(self.file.as_ref().map_or_else(|| format!("line {line}"), |file| format!("line {line} of {file}")))
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)?;
        match self.place() {
            Some(place) => write!(f, " ({place})"),
            None => Ok(()),
        }
    }
}

/// The diagnostics so far.
#[derive(Debug)]
pub(super) struct Diagnostics {
    lines: Lines,
    /// The outermost key on each line, once a line is not TOML.
    outermost: Option<BTreeMap<Line, KeyPath>>,
    /// Keys whose value cannot be used: later checks report nothing about them or about what is below them.
    broken: BTreeSet<KeyPath>,
    /// For each broken element of an array, in their order: the number of good elements before it.
    broken_elements: BTreeMap<KeyPath, Vec<usize>>,
    /// Lines that are not TOML: a key that seems to be missing may be on one of them.
    syntax_errors: BTreeSet<Line>,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

/// What [`Diagnostics::finish`] returns: both lists are in the order of the lines.
#[derive(Debug)]
pub(super) struct FinishedDiagnostics {
    pub(super) errors: Vec<Diagnostic>,
    pub(super) warnings: Vec<Diagnostic>,
    pub(super) lines: Lines,
}

impl Diagnostics {
    pub(super) fn new(lines: Lines) -> Self {
        Self {
            lines,
            outermost: None,
            broken: BTreeSet::new(),
            broken_elements: BTreeMap::new(),
            syntax_errors: BTreeSet::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub(super) fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Reports a line that is not TOML, under the key that begins on it if there is one.
    pub(super) fn syntax_error(&mut self, line: Line, message: &str) {
        if self.syntax_errors.insert(line) {
            let outermost = self.outermost.get_or_insert_with(|| self.lines.outermost());
            let key = outermost.get(&line).map_or_else(|| "syntax".to_owned(), KeyPath::to_string);
            self.error_on(line, key, format!("is not TOML: {message}"));
        }
    }

    /// Reports a line that sets a key again. Nothing else of the file is lost by it. To be called after
    /// [`Diagnostics::syntax_error`]: what follows on a line with such an error is not reported.
    pub(super) fn duplicate(&mut self, key: Option<&KeyPath>, line: Line) {
        if !self.syntax_errors.contains(&line) {
            let key = key.map_or_else(|| "syntax".to_owned(), KeyPath::to_string);
            self.error_on(line, key, "is not TOML: duplicate key".to_owned());
        }
    }

    /// Reports an error on a line, whatever else is known of its key.
    pub(super) fn error_on(&mut self, line: Line, key: String, message: String) {
        self.errors.push(self.lines.diagnostic_on(Some(line), key, message));
    }

    /// Reports a value that cannot be used. `key` counts all elements of arrays; the elements of an array are reported in
    /// their order.
    pub(super) fn broken(&mut self, key: &KeyPath, message: String) {
        self.add(key, message);
        self.broken.insert(key.clone());
        if let Some((KeySegment::Index(index), array)) = key.0.split_last() {
            let elements = self.broken_elements.entry(KeyPath(array.to_vec())).or_default();
            elements.push(index.saturating_sub(elements.len()));
        }
    }

    pub(super) fn error(&mut self, key: &KeyPath, message: impl Into<String>) {
        self.add(&self.as_written(key), message.into());
    }

    /// Reports an error about a key that counts all elements of arrays, also broken ones.
    pub(super) fn error_as_written(&mut self, key: &KeyPath, message: &str) {
        self.add(key, message.to_owned());
    }

    /// The key as it is in the file. Broken elements of arrays are left out when the file is read, so an index into
    /// what was read counts only the others.
    fn as_written(&self, key: &KeyPath) -> KeyPath {
        let mut written = KeyPath::default();
        for segment in key.segments() {
            written = match segment {
                KeySegment::Key(_) => written.and(segment.clone()),
                KeySegment::Index(read) => {
                    let broken = self.broken_elements.get(&written).map_or(&[][..], Vec::as_slice);
                    written.index(read + broken.partition_point(|good_before| good_before <= read))
                }
            };
        }
        written
    }

    fn add(&mut self, key: &KeyPath, message: String) {
        let reported = !self.broken.is_empty() && key.outwards().any(|key| self.broken.contains(key));
        let on_bad_line = self.lines.of(key).is_some_and(|line| self.syntax_errors.contains(&line));
        if !reported && !on_bad_line {
            self.errors.push(self.lines.diagnostic(key, message));
        }
    }

    /// Reports a mandatory key that is missing; says nothing if a part of the file is not TOML, because the key may be
    /// in that part.
    pub(super) fn missing(&mut self, key: &KeyPath, remedy: &str) {
        if self.syntax_errors.is_empty() {
            self.error(key, format!("is missing: {remedy}"));
        }
    }

    /// The value of a mandatory key; reports that it is missing if there is none.
    pub(super) fn require<'v, T>(&mut self, value: &'v Option<T>, key: &KeyPath, remedy: &str) -> Option<&'v T> {
        if value.is_none() {
            self.missing(key, remedy);
        }
        value.as_ref()
    }

    pub(super) fn warn(&mut self, key: &KeyPath, message: impl Into<String>) {
        let key = self.as_written(key);
        self.warnings.push(self.lines.diagnostic(&key, message));
    }

    /// Warns about a key that counts all elements of arrays, also broken ones.
    pub(super) fn warn_as_written(&mut self, key: &KeyPath, message: &str) {
        self.warnings.push(self.lines.diagnostic(key, message));
    }

    /// Everything that was reported, in the order of the lines.
    pub(super) fn finish(mut self) -> FinishedDiagnostics {
        sort(&mut self.errors);
        sort(&mut self.warnings);
        FinishedDiagnostics { errors: self.errors, warnings: self.warnings, lines: self.lines }
    }
}

/// Sorts by file, then by line, then by key, and removes what is said twice.
pub(super) fn sort(found: &mut Vec<Diagnostic>) {
    found.sort_by(|a, b| (&a.file, a.line, &a.key).cmp(&(&b.file, b.line, &b.key)));
    found.dedup();
}
