//! Checks that no two rows match the same request, and that no other row uses a path of a built-in order or account
//! operation.

use super::{
    super::{Diagnostics, KeyPath, pattern::overlap},
    BuiltIn, Rows,
};
use crate::config::{Class, OperationConfig};

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
                let message = format!("is reserved: it is a path of the built-in {owner}");
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
fn reserved_by<'b>(pattern: &str, name: &str, built_in: &'b BuiltIn) -> Option<&'b str> {
    let mut owners = built_in
        .rows
        .iter()
        .filter(|row| matches!(row.class, Class::Order | Class::Account))
        .filter(|row| patterns(row).any(|reserved| overlap(reserved, pattern)))
        .map(|row| row.name.as_str());
    let first = owners.next()?;
    // two built-in rows share a path under different methods
    if first == name || owners.any(|owner| owner == name) { None } else { Some(first) }
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
