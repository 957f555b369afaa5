//! Checks that no two rows match the same request, that no other row uses a path of a built-in order or account
//! operation, and that no row spells a path of such an operation differently.

use std::collections::BTreeMap;

use super::{
    super::{
        Diagnostics, KeyPath,
        pattern::{any, overlap},
    },
    BuiltIn, Rows,
};
use crate::config::{Class, OperationConfig, file::OperationTable, lenient_path::plain};

/// Checks the rows of the file against each other and against the built-in ones.
pub(super) fn check(written: &Rows, table: &[OperationConfig], built_in: &BuiltIn, diagnostics: &mut Diagnostics) {
    let written: BTreeMap<&str, &OperationTable> = written.iter().map(|(name, own)| (name.0.0.as_str(), own)).collect();
    let operations = Operations::new(table, &written, built_in);
    for row in table {
        let Some(own) = written.get(row.name.as_str()) else { continue };
        let place = KeyPath::at(["operations", &row.name]);
        let path = own.path.iter().map(|path| (place.key("path"), path.0.0.as_str()));
        let aliases = own.aliases.iter().flatten().enumerate();
        let aliases = aliases.map(|(index, alias)| (place.key("aliases").index(index), alias.0.0.as_str()));
        for (place, pattern) in path.chain(aliases) {
            if let Some(owner) = operations.reserved_by(pattern, &row.name) {
                let exact = patterns(owner).any(|reserved| overlap(reserved, pattern));
                let what = if exact { "a path" } else { "another spelling of a path" };
                let message = format!("is reserved: it is {what} of the built-in {}", owner.name);
                diagnostics.error(&place, message);
            } else if let Some(other) = operations.respelled_by(pattern, row) {
                let message =
                    format!("is another spelling of a path of {}: one of them moves money, or may", other.name);
                diagnostics.error(&place, message);
            } else if let Some(other) = operations.taken_by(pattern, row) {
                let remedy = if built_in.row(&other.name).is_some() {
                    format!("to change that operation, name this row {}", other.name)
                } else {
                    "a request can be only one operation".to_owned()
                };
                diagnostics.error(&place, format!("matches the same requests as {}: {remedy}", other.name));
            }
        }
    }
}

/// The operation table, prepared for looking paths up.
struct Operations<'t> {
    written: &'t BTreeMap<&'t str, &'t OperationTable>,
    /// The paths of built-in order and account operations as [`plain`] spells them.
    reserved: Vec<(String, &'t OperationConfig)>,
    exact: PathIndex<'t>,
    /// By their plain spelling.
    spelled: PathIndex<'t>,
}

impl<'t> Operations<'t> {
    fn new(
        table: &'t [OperationConfig],
        written: &'t BTreeMap<&'t str, &'t OperationTable>,
        built_in: &'t BuiltIn,
    ) -> Self {
        let reserved = built_in.rows.iter().filter(|row| is_reserved(row));
        let reserved = reserved.flat_map(|row| patterns(row).map(move |path| (plain(path), row))).collect();
        let (mut exact, mut spelled) = (PathIndex::default(), PathIndex::default());
        for row in table {
            for path in patterns(row) {
                exact.insert(path, path, row);
                spelled.insert(&plain(path), path, row);
            }
        }
        Operations { written, reserved, exact, spelled }
    }

    /// The built-in order or account operation that has this path, whatever the method: a path that is an order with
    /// one method must not be a cached lookup with another.
    fn reserved_by(&self, pattern: &str, name: &str) -> Option<&'t OperationConfig> {
        let spelling = plain(pattern);
        let mut owners = self.reserved.iter().filter(|(path, _)| overlap(path, &spelling)).map(|(_, owner)| *owner);
        let first = owners.next()?;
        // the row's own paths, also if it spells them in several ways; two built-in rows share a path under different
        // methods
        if first.name == name || owners.any(|owner| owner.name == name) { None } else { Some(first) }
    }

    /// The other row of which the pattern is another spelling, if one of the two is an order or account operation: a
    /// server may take both for the same.
    fn respelled_by(&self, pattern: &str, row: &OperationConfig) -> Option<&'t OperationConfig> {
        self.spelled.find(&plain(pattern), &mut |path, rows| {
            let mut others = rows.iter().filter(|other| other.name != row.name);
            let found = others.find(|other| is_reserved(other) || is_reserved(row)).copied();
            found.filter(|_| !overlap(path, pattern))
        })
    }

    /// The other row that matches a request that the pattern matches. Of two rows of the file, the error is reported
    /// for one only.
    fn taken_by(&self, pattern: &str, row: &OperationConfig) -> Option<&'t OperationConfig> {
        let reported_there = |path: &str, other: &OperationConfig| {
            let written = |own: &&OperationTable| {
                own.path.iter().chain(own.aliases.iter().flatten()).any(|written| written.0.0 == path)
            };
            other.name > row.name && self.written.get(other.name.as_str()).is_some_and(written)
        };
        self.exact.find(pattern, &mut |path, rows| {
            let mut others = rows.iter().filter(|other| other.name != row.name && other.method == row.method);
            others.find(|other| !reported_there(path, other)).copied()
        })
    }
}

/// Rows by the segments of their paths: which have a path that overlaps a pattern.
#[derive(Default)]
struct PathIndex<'t> {
    literal: BTreeMap<String, PathIndex<'t>>,
    /// Below a segment that matches any.
    any: Option<Box<PathIndex<'t>>>,
    /// The rows whose path ends here, by the path as it is written.
    ends: BTreeMap<&'t str, Vec<&'t OperationConfig>>,
}

impl<'t> PathIndex<'t> {
    fn insert(&mut self, key: &str, path: &'t str, row: &'t OperationConfig) {
        let node = key.split('/').fold(self, |node, segment| {
            if any(segment) {
                node.any.get_or_insert_default()
            } else {
                node.literal.entry(segment.to_owned()).or_default()
            }
        });
        node.ends.entry(path).or_default().push(row);
    }

    /// The first row that `choose` chooses among those that have a path.
    fn find(
        &self,
        pattern: &str,
        choose: &mut impl FnMut(&str, &[&'t OperationConfig]) -> Option<&'t OperationConfig>,
    ) -> Option<&'t OperationConfig> {
        let (segment, rest) = match pattern.split_once('/') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (pattern, None),
        };
        let (named, all) =
            if any(segment) { (None, Some(self.literal.values())) } else { (self.literal.get(segment), None) };
        let mut below = named.into_iter().chain(all.into_iter().flatten()).chain(self.any.as_deref());
        below.find_map(|node| match rest {
            Some(rest) => node.find(rest, choose),
            None => node.ends.iter().find_map(|(path, rows)| choose(path, rows)),
        })
    }
}

fn is_reserved(row: &OperationConfig) -> bool {
    matches!(row.class, Class::Order | Class::Account)
}

fn patterns(row: &OperationConfig) -> impl Iterator<Item = &str> {
    std::iter::once(&row.path).chain(&row.aliases).map(String::as_str)
}
