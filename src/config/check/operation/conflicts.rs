//! Checks that no two rows match the same request, that no other row uses a path of a built-in order or account
//! operation, and that no row spells a path of such an operation differently.

use super::{
    super::{Diagnostics, KeyPath, pattern::overlap},
    BuiltIn, Rows,
};
use crate::config::{Class, OperationConfig, lenient_path::plain};

/// Checks the rows of the file against each other and against the built-in ones.
pub(super) fn check(written: &Rows, table: &[OperationConfig], built_in: &BuiltIn, diagnostics: &mut Diagnostics) {
    for row in table {
        let Some((name, own)) = written.iter().find(|(name, _)| name.0.0 == row.name) else { continue };
        let place = KeyPath::at(["operations", &name.0.0]);
        let path = own.path.iter().map(|path| (place.key("path"), path.0.0.as_str()));
        let aliases = own.aliases.iter().flatten().enumerate();
        let aliases = aliases.map(|(index, alias)| (place.key("aliases").index(index), alias.0.0.as_str()));
        for (place, pattern) in path.chain(aliases) {
            if let Some(owner) = reserved_by(pattern, &row.name, built_in) {
                let exact = patterns(owner).any(|reserved| overlap(reserved, pattern));
                let what = if exact { "a path" } else { "another spelling of a path" };
                let message = format!("is reserved: it is {what} of the built-in {}", owner.name);
                diagnostics.error(&place, message);
            } else if let Some(other) = respells(pattern, row, table) {
                let message = format!("is another spelling of a path of {other}: one of them moves money, or may");
                diagnostics.error(&place, message);
            } else if let Some(other) = taken_by(pattern, row, table, written) {
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

/// The built-in order or account operation that has this path, whatever the method: a path that is an order with one
/// method must not be a cached lookup with another.
fn reserved_by<'b>(pattern: &str, name: &str, built_in: &'b BuiltIn) -> Option<&'b OperationConfig> {
    let spelling = plain(pattern);
    let mut owners = built_in
        .rows
        .iter()
        .filter(|row| is_reserved(row))
        .filter(|row| patterns(row).any(|reserved| overlap(&plain(reserved), &spelling)));
    let first = owners.next()?;
    // the row's own paths, also if it spells them in several ways; two built-in rows share a path under different methods
    if first.name == name || owners.any(|owner| owner.name == name) { None } else { Some(first) }
}

/// The other row of which the pattern is another spelling, if one of the two is an order or account operation: a server
/// may take both for the same.
fn respells<'t>(pattern: &str, row: &OperationConfig, table: &'t [OperationConfig]) -> Option<&'t str> {
    let spelling = plain(pattern);
    let others = table.iter().filter(|other| other.name != row.name && (is_reserved(other) || is_reserved(row)));
    let respelled = |path: &str| !overlap(path, pattern) && overlap(&plain(path), &spelling);
    others.filter(|other| patterns(other).any(respelled)).map(|other| other.name.as_str()).next()
}

fn is_reserved(row: &OperationConfig) -> bool {
    matches!(row.class, Class::Order | Class::Account)
}

/// The other row that matches a request that the pattern matches. Of two rows of the file, the error is reported for
/// one only.
fn taken_by<'t>(
    pattern: &str,
    row: &OperationConfig,
    table: &'t [OperationConfig],
    written: &Rows,
) -> Option<&'t OperationConfig> {
    table.iter().filter(|other| other.name != row.name && other.method == row.method).find(|other| {
        let own = written.iter().find(|(name, _)| name.0.0 == other.name).map(|(_, own)| own);
        let told_there = |path: &str| {
            other.name > row.name
                && own.is_some_and(|own| {
                    own.path.iter().chain(own.aliases.iter().flatten()).any(|written| written.0.0 == path)
                })
        };
        patterns(other).any(|path| overlap(path, pattern) && !told_there(path))
    })
}

fn patterns(row: &OperationConfig) -> impl Iterator<Item = &str> {
    std::iter::once(&row.path).chain(&row.aliases).map(String::as_str)
}
