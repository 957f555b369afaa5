//! Parses the text of the file, and those that it includes, into its tables (`config::file`), leaving out what cannot be
//! used.
//!
//! serde stops at the first error. This deserializer therefore knows the key of every value, and can read any part of the
//! file alone: if the whole cannot be read, its parts are, and what serde rejects is reported and left out. The time that
//! this takes does not depend on the number of errors. Unknown keys are left out at once. Unlike `toml`'s own
//! deserializer, it accepts no array where a table is expected, and its errors never contain a value.

mod node;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use serde::Deserialize as _;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use self::node::{Node, ReadError, Step};
use super::{
    IncludedFile,
    key_path::{Diagnostics, KeyPath, KeySegment, Line, Lines},
};
use crate::config::file::ConfigFile;

/// The parsed files, merged into one.
pub(super) struct Tree<'t> {
    root: DeTable<'t>,
    lines: Lines,
    /// What is not TOML, in the order of the files.
    syntax: Vec<SyntaxFault>,
    /// What may not be in an included file.
    misplaced: Vec<SyntaxFault>,
}

/// A line that cannot be used.
struct SyntaxFault {
    line: Line,
    /// The key that it sets again, or that may not be there.
    key: Option<KeyPath>,
    message: String,
    duplicate: bool,
    /// Whether it is that of a table header.
    header: bool,
}

/// Tables that may be in an included file.
const INCLUDABLE: [&str; 2] = ["services", "operations"];

/// Parses the text and the files that it includes; what is not TOML is left out of the tree.
pub(super) fn parse<'t>(text: &'t str, included: &'t [IncludedFile]) -> Tree<'t> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let names = included.iter().map(|file| file.name.clone()).collect();
    let lines = Lines { keys: BTreeMap::new(), included: names };
    let mut tree = Tree { root: root.into_inner(), lines, syntax: Vec::new(), misplaced: Vec::new() };
    let counter = LineCounter::new(text, 0);
    tree.syntax = syntax_faults(&tree.root, &errors, &counter);
    walk_table(&tree.root, &KeyPath::default(), &mut |place, start| {
        tree.lines.keys.insert(place.clone(), counter.line(start));
    });
    for (index, file) in included.iter().enumerate() {
        let (root, errors) = DeTable::parse_recoverable(&file.text);
        let (root, counter) = (root.into_inner(), LineCounter::new(&file.text, index + 1));
        tree.syntax.extend(syntax_faults(&root, &errors, &counter));
        tree.include(root, &counter);
    }
    tree
}

impl<'t> Tree<'t> {
    /// Merges an included file.
    fn include(&mut self, root: DeTable<'t>, counter: &LineCounter<'_>) {
        for (section, value) in root {
            let (start, span) = (section.span().start, value.span());
            let place = KeyPath::default().key(section.get_ref());
            match value.into_inner() {
                DeValue::Table(table) if INCLUDABLE.contains(&section.get_ref().as_ref()) => {
                    self.lines.keys.entry(place.clone()).or_insert(counter.line(start));
                    let empty = || Spanned::new(span, DeValue::Table(DeTable::new()));
                    let whole = self.root.entry(section).or_insert_with(empty);
                    // Whatever else it is in the main file is an error there.
                    if let DeValue::Table(whole) = whole.get_mut() {
                        merge(
                            whole,
                            table,
                            &place,
                            &mut Merged { lines: &mut self.lines, faults: &mut self.misplaced, counter },
                        );
                    }
                }
                _ => self.misplaced.push(SyntaxFault {
                    line: counter.line(start),
                    key: Some(place),
                    message: "must not be in an included file: only tables of services and operations may".to_owned(),
                    duplicate: false,
                    header: false,
                }),
            }
        }
    }

    /// The line of every key and element.
    pub(super) fn lines(&self) -> Lines {
        self.lines.clone()
    }

    /// Calls `visit` with every key and array element, and the byte offset where it starts.
    pub(super) fn walk(&self, mut visit: impl FnMut(&KeyPath, usize)) {
        walk_table(&self.root, &KeyPath::default(), &mut visit);
    }

    /// The tables of the file. What cannot be used is reported and left out.
    pub(super) fn read(&self, diagnostics: &mut Diagnostics) -> ConfigFile {
        // keys below a table header with a syntax error belong to the table before it, and look unknown there
        let broken_header = self.syntax.iter().any(|fault| fault.header);
        for fault in &self.syntax {
            if fault.duplicate {
                diagnostics.duplicate(fault.key.as_ref(), fault.line);
            } else {
                diagnostics.syntax_error(fault.line, &fault.message);
            }
        }
        for fault in &self.misplaced {
            let key = fault.key.as_ref().map_or_else(String::new, KeyPath::to_string);
            diagnostics.error_on(fault.line, key, fault.message.clone());
        }
        let skipped = SkippedPaths::default();
        let read = self.file(&[], &skipped).or_else(|error| {
            let mut search = FaultSearch { tree: self, steps: Vec::new(), skipped: &skipped, faults: Vec::new() };
            search.search_after(SearchedPart::File(&self.root), error);
            for fault in search.faults {
                diagnostics.broken(&fault.place.unwrap_or_default(), fault.message);
            }
            self.file(&[], &skipped)
        });
        for unknown in skipped.take_notes() {
            if !broken_header {
                diagnostics.broken(&unknown.place.unwrap_or_default(), unknown.message);
            }
        }
        read.unwrap_or_else(|error| {
            // Every value alone can be read, but not all of them together: no type of the file is like that.
            diagnostics.broken(&error.place.unwrap_or_default(), error.message);
            ConfigFile::default()
        })
    }

    /// Reads the file as if it contained only what the steps lead to.
    fn file(&self, steps: &[Step<'_>], skipped: &SkippedPaths) -> Result<ConfigFile, ReadError> {
        ConfigFile::deserialize(Node::root(&self.root, steps, skipped))
    }
}

/// Finds every value that cannot be used, and leaves it out.
///
/// Reads one part of the file after the other, and the parts of each part that cannot be read: every value is read at
/// most once for each table around it, however many of them are faulty.
struct FaultSearch<'s, 't> {
    tree: &'t Tree<'t>,
    /// The part that is searched.
    steps: Vec<Step<'t>>,
    skipped: &'s SkippedPaths,
    faults: Vec<ReadError>,
}

impl<'t> FaultSearch<'_, 't> {
    /// Searches the value that the steps lead to.
    fn search(&mut self, value: SearchedPart<'t>) {
        if let Err(error) = self.tree.file(&self.steps, self.skipped) {
            self.search_after(value, error);
        }
    }

    /// Searches a value that was read up to this error, from there on.
    fn search_after(&mut self, value: SearchedPart<'t>, error: ReadError) {
        let (found, depth) = (self.faults.len(), self.steps.len());
        let rejected = error.place.as_ref().and_then(|place| place.segments().get(depth)).cloned();
        if let Some(rejected) = rejected {
            // Its own error is known; those after it were not read yet.
            let mut known = Some(error.clone());
            for step in value.steps().skip_while(|step| !step.leads_to(&rejected)) {
                self.steps.push(step);
                match known.take() {
                    Some(error) => self.search_after(SearchedPart::Value(step.value()), error),
                    None => self.search(SearchedPart::Value(step.value())),
                }
                self.steps.pop();
            }
        }
        if self.faults.len() == found {
            self.skipped.skip(error.place.as_ref().unwrap_or(&KeyPath::default()));
            self.faults.push(error);
        }
    }
}

/// A value, or the whole file.
#[derive(Clone, Copy)]
enum SearchedPart<'t> {
    File(&'t DeTable<'t>),
    Value(&'t DeValue<'t>),
}

impl<'t> SearchedPart<'t> {
    /// The steps to what is in it, in the order in which it is read.
    fn steps(self) -> impl Iterator<Item = Step<'t>> {
        let (table, array) = match self {
            SearchedPart::File(table) | SearchedPart::Value(DeValue::Table(table)) => (Some(table), None),
            SearchedPart::Value(DeValue::Array(array)) => (None, Some(array)),
            SearchedPart::Value(_) => (None, None),
        };
        let entries = table.into_iter().flatten().map(|(key, value)| Step::Entry(key.get_ref(), value.get_ref()));
        let elements = array.into_iter().flat_map(|array| array.iter().enumerate());
        entries.chain(elements.map(|(index, element)| Step::Element(index, element.get_ref())))
    }
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

/// Keys that are left out, and the unknown ones among them, which are still to be reported.
#[derive(Default)]
pub(super) struct SkippedPaths {
    skipped: RefCell<BTreeSet<KeyPath>>,
    notes: RefCell<Vec<ReadError>>,
}

/// Each of this many unknown keys is compared with the known ones, which takes longer than everything else.
const SUGGESTIONS: usize = 1_000;

impl SkippedPaths {
    /// Leaves a key out from now on.
    fn skip(&self, place: &KeyPath) {
        self.skipped.borrow_mut().insert(place.clone());
    }

    /// Whether the key is not left out.
    fn is_good(&self, place: &KeyPath) -> bool {
        let skipped = self.skipped.borrow();
        skipped.is_empty() || !skipped.contains(place)
    }

    /// Leaves an unknown key out, and keeps it to be reported.
    fn note_unknown(&self, key: &str, known: &[&str], place: KeyPath) {
        self.skip(&place);
        let mut notes = self.notes.borrow_mut();
        let message = if notes.len() < SUGGESTIONS { node::unknown_key(key, known) } else { "unknown key".to_owned() };
        notes.push(ReadError { place: Some(place), message });
    }

    fn take_notes(&self) -> Vec<ReadError> {
        self.notes.take()
    }
}

/// What the parser says of a key that a table has already.
const DUPLICATE: &str = "duplicate key";

/// The keys of the file by their last name, each with the byte offset where it starts, in that order.
struct KeyNames(HashMap<String, Vec<(usize, KeyPath)>>);

impl KeyNames {
    fn of(root: &DeTable<'_>) -> Self {
        let mut names: HashMap<String, Vec<(usize, KeyPath)>> = HashMap::new();
        walk_table(root, &KeyPath::default(), &mut |place, start| {
            if let Some(KeySegment::Key(name)) = place.segments().last() {
                names.entry(name.clone()).or_default().push((start, place.clone()));
            }
        });
        names.values_mut().for_each(|places| places.sort_by_key(|(start, _)| *start));
        Self(names)
    }

    /// The last key of this name that starts at this offset or before: the parser keeps the first one of a table.
    fn last_before(&self, name: &str, offset: usize) -> Option<&KeyPath> {
        let places = self.0.get(name)?;
        let after = places.partition_point(|(start, _)| *start <= offset);
        places[..after].last().map(|(_, place)| place)
    }
}

/// What the parser rejected.
fn syntax_faults(root: &DeTable<'_>, errors: &[toml::de::Error], counter: &LineCounter<'_>) -> Vec<SyntaxFault> {
    let mut names = None;
    let mut fault = |error: &toml::de::Error| {
        let text = counter.text;
        let at = error.span().map_or(text.len(), |span| span.start);
        let line = counter.line(at);
        let duplicate = error.message() == DUPLICATE;
        let key = duplicate.then(|| {
            let names = names.get_or_insert_with(|| KeyNames::of(root));
            names.last_before(text[error.span().unwrap_or_default()].trim_matches(['"', '\'']), at).cloned()
        });
        let header = !duplicate && counter.rest(line).trim_start_matches([' ', '\t']).starts_with('[');
        SyntaxFault { line, key: key.flatten(), message: syntax(error.message()), duplicate, header }
    };
    errors.iter().map(&mut fault).collect()
}

/// What is known of merged files.
struct Merged<'m, 't> {
    lines: &'m mut Lines,
    faults: &'m mut Vec<SyntaxFault>,
    counter: &'m LineCounter<'t>,
}

/// Adds the entries of an included table to the whole one.
fn merge<'t>(whole: &mut DeTable<'t>, table: DeTable<'t>, place: &KeyPath, merged: &mut Merged<'_, '_>) {
    for (name, value) in table {
        let (place, start) = (place.key(name.get_ref()), name.span().start);
        if whole.contains_key(name.get_ref().as_ref()) {
            let first = merged.lines.text(&place).unwrap_or_default();
            merged.faults.push(SyntaxFault {
                line: merged.counter.line(start),
                key: Some(place),
                message: format!("is also on {first}: a name may be in one file only"),
                duplicate: false,
                header: false,
            });
            continue;
        }
        let counter = merged.counter;
        merged.lines.keys.insert(place.clone(), counter.line(start));
        walk_value(value.get_ref(), &place, &mut |place, start| {
            merged.lines.keys.insert(place.clone(), counter.line(start));
        });
        whole.insert(name, value);
    }
}

/// Byte offset → line.
struct LineCounter<'t> {
    text: &'t str,
    file: usize,
    newlines: Vec<usize>,
}

impl<'t> LineCounter<'t> {
    fn new(text: &'t str, file: usize) -> Self {
        Self { text, file, newlines: memchr::memchr_iter(b'\n', text.as_bytes()).collect() }
    }

    fn line(&self, offset: usize) -> Line {
        let number = self.newlines.partition_point(|newline| *newline < offset) + 1;
        Line { file: self.file, number }
    }

    /// The text from the beginning of this line on.
    fn rest(&self, line: Line) -> &'t str {
        let newline = line.number.checked_sub(2).and_then(|before| self.newlines.get(before));
        newline.map_or(self.text, |newline| &self.text[newline + 1..])
    }
}
