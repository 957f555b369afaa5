//! Parses the text of the file into its tables (`config::file`), leaving out what cannot be used.
//!
//! serde stops at the first error. This deserializer therefore knows the key of every value: what serde rejects is
//! reported and skipped in the next round, until the rest is accepted. Unknown keys are skipped in the same round. Unlike
//! `toml`'s own deserializer, it accepts no array where a table is expected, and its errors never contain a value.

mod node;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use serde::Deserialize as _;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use self::node::{Node, ReadError};
use super::key_path::{Diagnostics, KeyPath, KeySegment, Lines};
use crate::config::file::ConfigFile;

/// A parsed file.
pub(super) struct Tree<'t> {
    root: Spanned<DeTable<'t>>,
    errors: Vec<toml::de::Error>,
}

/// Parses the text; what is not TOML is left out of the tree.
pub(super) fn parse(text: &str) -> Tree<'_> {
    let (root, errors) = DeTable::parse_recoverable(text);
    Tree { root, errors }
}

impl Tree<'_> {
    /// The line of every key and element.
    pub(super) fn lines(&self, text: &str) -> Lines {
        let counter = LineCounter::new(text);
        let mut lines = BTreeMap::new();
        self.walk(|place, start| {
            lines.insert(place.clone(), counter.line(start));
        });
        Lines(lines)
    }

    /// Calls `visit` with every key and array element, and the byte offset where it starts.
    pub(super) fn walk(&self, mut visit: impl FnMut(&KeyPath, usize)) {
        walk_table(self.root.get_ref(), &KeyPath::default(), &mut visit);
    }

    /// The tables of the file. What cannot be used is reported and left out.
    pub(super) fn read(&self, text: &str, diagnostics: &mut Diagnostics) -> ConfigFile {
        let counter = LineCounter::new(text);
        // keys below a table header with a syntax error belong to the table before it, and look unknown there
        let mut broken_header = false;
        for error in &self.errors {
            let at = error.span().map_or(text.len(), |span| span.start);
            let line = counter.line(at);
            diagnostics.syntax_error(line, &syntax(error.message()));
            broken_header |= counter.rest(text, line).trim_start_matches([' ', '\t']).starts_with('[');
        }
        let skipped = SkippedPaths::default();
        for _ in 0..rounds(diagnostics.lines()) {
            let round = ConfigFile::deserialize(Node::root(self.root.get_ref(), &skipped));
            for unknown in skipped.take_notes() {
                let place = unknown.place.unwrap_or_default();
                if skipped.skip(&place) && !broken_header {
                    diagnostics.broken(&place, unknown.message);
                }
            }
            if let Err(error) = &round {
                let place = error.place.clone().unwrap_or_default();
                if !skipped.skip(&place) {
                    // a skipped value cannot be rejected again; if it is, stop instead of looping forever
                    return ConfigFile::default();
                }
                diagnostics.broken(&place, error.message.clone());
            }
            if let Ok(file) = round {
                return file;
            }
        }
        diagnostics.stop();
        ConfigFile::default()
    }
}

/// How often the file is read: each round finds one value that cannot be used, and reads all others. Bounded in all by
/// two million values, so that a file with many errors does not take quadratic time.
fn rounds(lines: &Lines) -> usize {
    (2_000_000 / (lines.0.len() + 1)).max(20)
}

/// The parser's message, or a clearer one for a text without quotes, which the parser takes for a boolean.
fn syntax(message: &str) -> String {
    if message.starts_with("invalid boolean") { "a text must be in quotes".to_owned() } else { message.to_owned() }
}

fn walk_table(table: &DeTable<'_>, place: &KeyPath, visit: &mut impl FnMut(&KeyPath, usize)) {
    for (key, value) in table {
        let place = place.key(key.get_ref());
        visit(&place, key.span().start);
        walk_value(value.get_ref(), &place, visit);
    }
}

fn walk_value(value: &DeValue<'_>, place: &KeyPath, visit: &mut impl FnMut(&KeyPath, usize)) {
    match value {
        DeValue::Table(table) => walk_table(table, place, visit),
        DeValue::Array(array) => {
            for (index, element) in array.iter().enumerate() {
                let place = place.and(KeySegment::Index(index));
                visit(&place, element.span().start);
                walk_value(element.get_ref(), &place, visit);
            }
        }
        _ => {}
    }
}

/// Keys that are left out, and those that are to be reported after this round.
#[derive(Default)]
pub(super) struct SkippedPaths {
    error: RefCell<BTreeSet<KeyPath>>,
    notes: RefCell<Vec<ReadError>>,
}

impl SkippedPaths {
    /// Leaves a key out from now on; false if it was already left out.
    fn skip(&self, place: &KeyPath) -> bool {
        self.error.borrow_mut().insert(place.clone())
    }

    /// Whether the key is not left out.
    fn is_good(&self, place: &KeyPath) -> bool {
        !self.error.borrow().contains(place)
    }

    fn note(&self, error: ReadError) {
        self.notes.borrow_mut().push(error);
    }

    fn take_notes(&self) -> Vec<ReadError> {
        self.notes.take()
    }
}

/// Byte offset → line.
struct LineCounter(Vec<usize>);

impl LineCounter {
    fn new(text: &str) -> Self {
        Self(memchr::memchr_iter(b'\n', text.as_bytes()).collect())
    }

    /// Counted from 1.
    fn line(&self, offset: usize) -> usize {
        self.0.partition_point(|newline| *newline < offset) + 1
    }

    /// The text from the beginning of this line on.
    fn rest<'t>(&self, text: &'t str, line: usize) -> &'t str {
        let newline = line.checked_sub(2).and_then(|before| self.0.get(before));
        newline.map_or(text, |newline| &text[newline + 1..])
    }
}
