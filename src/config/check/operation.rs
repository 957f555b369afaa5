//! Checks `[operations.NAME]` and builds the operation table: the built-in rows, with the file's rows merged into them
//! field by field. No two rows of the result match the same request.

mod conflicts;

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use super::{Diagnostics, KeyPath, read};
use crate::config::{
    CachePolicy, Class, OperationConfig,
    file::{self, Name, Parsed, PathPattern},
};

/// The built-in rows.
const BUILT_IN: &str = include_str!("../../../config/operations.toml");

/// Default timeout of a row that is not built in.
const TIMEOUT: Duration = Duration::from_secs(10);

type Rows = BTreeMap<Parsed<Name>, file::OperationTable>;

/// The built-in table.
pub(super) struct BuiltIn {
    pub(super) rows: Vec<OperationConfig>,
}

impl BuiltIn {
    fn row(&self, name: &str) -> Option<&OperationConfig> {
        self.rows.iter().find(|row| row.name == name)
    }
}

/// The built-in rows, sorted by name.
pub(super) fn built_in() -> BuiltIn {
    static ROWS: LazyLock<Vec<OperationConfig>> = LazyLock::new(|| read_built_in().0);
    BuiltIn { rows: ROWS.clone() }
}

/// The built-in rows and the errors in them; a test checks that there are none.
fn read_built_in() -> (Vec<OperationConfig>, Diagnostics) {
    let tree = read::parse(BUILT_IN, &[]);
    let mut diagnostics = Diagnostics::new(tree.lines());
    let file = tree.read(&mut diagnostics);
    let row = |(name, row): (&Parsed<Name>, &file::OperationTable)| {
        let place = KeyPath::at(["operations", &name.0.0]);
        new_row(&name.0.0, row, &place, &mut diagnostics)
    };
    let rows: Vec<_> = file.operations.iter().filter_map(row).collect();
    (rows, diagnostics)
}

pub(super) fn names(operations: &[OperationConfig]) -> impl Iterator<Item = &str> {
    operations.iter().map(|operation| operation.name.as_str())
}

/// The whole table, sorted by name.
pub(super) fn table(written: &Rows, diagnostics: &mut Diagnostics) -> Vec<OperationConfig> {
    let built_in = built_in();
    let mut table: BTreeMap<String, OperationConfig> =
        built_in.rows.iter().map(|row| (row.name.clone(), row.clone())).collect();
    for (name, row) in written {
        let (name, place) = (name.0.0.as_str(), KeyPath::at(["operations", &name.0.0]));
        let made = match built_in.row(name) {
            Some(base) => override_built_in(base, row, &place, diagnostics),
            None => new_row(name, row, &place, diagnostics),
        };
        if let Some(row) = made {
            check_row(&row, &place, diagnostics);
            table.insert(row.name.clone(), row);
        }
    }
    let table: Vec<OperationConfig> = table.into_values().collect();
    conflicts::check(written, &table, &built_in, diagnostics);
    table
}

/// A row that is not built in.
fn new_row(
    name: &str,
    row: &file::OperationTable,
    place: &KeyPath,
    diagnostics: &mut Diagnostics,
) -> Option<OperationConfig> {
    if Class::named(name).is_some() {
        diagnostics.error(place, "must not have the name of a class: `allow` could not tell them apart");
    }
    let method = diagnostics.require(&row.method, &place.key("method"), "a new operation needs it");
    let path = diagnostics.require(&row.path, &place.key("path"), "a new operation needs it");
    let class = diagnostics.require(&row.class, &place.key("class"), "a new operation needs it");
    if let Some(cache) = &row.cache {
        diagnostics.require(&cache.fresh, &place.key("cache").key("fresh"), "say how long a stored response is used");
    }
    let base = OperationConfig {
        name: name.to_owned(),
        api: None,
        method: method?.0.0.clone(),
        path: path?.0.0.clone(),
        aliases: Vec::new(),
        class: *class?,
        cache: None,
        timeout: TIMEOUT,
        cost: 1,
        urgent: false,
        vary: Vec::new(),
    };
    Some(merge(base, row))
}

/// A built-in row with the fields that the file sets.
fn override_built_in(
    base: &OperationConfig,
    row: &file::OperationTable,
    place: &KeyPath,
    diagnostics: &mut Diagnostics,
) -> Option<OperationConfig> {
    if let (Class::Order | Class::Account, Some(class)) = (base.class, row.class)
        && class != base.class
    {
        let message = format!(
            "must stay {:?}: the class of a built-in operation of class order or account cannot be changed",
            base.class.as_str()
        );
        diagnostics.error(&place.key("class"), message);
    }
    if base.cache.is_none()
        && let Some(cache) = &row.cache
    {
        diagnostics.require(&cache.fresh, &place.key("cache").key("fresh"), "say how long a stored response is used");
    }
    Some(merge(base.clone(), row))
}

fn merge(base: OperationConfig, row: &file::OperationTable) -> OperationConfig {
    let patterns = |list: &Vec<Parsed<PathPattern>>| list.iter().map(|pattern| pattern.0.0.clone()).collect();
    OperationConfig {
        name: base.name,
        api: row.api.or(base.api),
        method: row.method.as_ref().map_or(base.method, |method| method.0.0.clone()),
        path: row.path.as_ref().map_or(base.path, |path| path.0.0.clone()),
        aliases: row.aliases.as_ref().map_or(base.aliases, patterns),
        class: row.class.unwrap_or(base.class),
        cache: row.cache.as_ref().map_or(base.cache.clone(), |cache| merge_cache(base.cache, cache)),
        timeout: row.timeout.as_ref().map_or(base.timeout, |timeout| timeout.0.0),
        urgent: row.urgent.unwrap_or(base.urgent),
        cost: row.cost.map_or(base.cost, |cost| u32::try_from(cost.0).unwrap_or(u32::MAX)),
        vary: row.vary.as_ref().map_or(base.vary, |vary| vary.iter().map(|name| name.0.0.clone()).collect()),
    }
}

/// A cache policy with the fields that the file sets; `None` if nothing is to be stored.
fn merge_cache(base: Option<CachePolicy>, cache: &file::CachePolicyTable) -> Option<CachePolicy> {
    let unset = CachePolicy {
        fresh: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        refresh_ahead: 1.0,
        not_found: Duration::ZERO,
    };
    let base = base.unwrap_or(unset);
    let policy = CachePolicy {
        fresh: cache.fresh.as_ref().map_or(base.fresh, |fresh| fresh.0.0),
        stale_if_error: cache.stale_if_error.as_ref().map_or(base.stale_if_error, |stale| stale.0.0),
        refresh_ahead: cache.refresh_ahead.map_or(base.refresh_ahead, |part| part.0),
        not_found: cache.not_found.as_ref().map_or(base.not_found, |not_found| not_found.0.0),
    };
    (!policy.fresh.is_zero()).then_some(policy)
}

/// Checks that apply to every row.
fn check_row(row: &OperationConfig, place: &KeyPath, diagnostics: &mut Diagnostics) {
    match row.class {
        Class::Unlisted => {
            diagnostics.error(&place.key("class"), "must be another class: \"unlisted\" is what no row matches");
        }
        Class::Order | Class::Account if row.cache.is_some() => {
            diagnostics
                .error(&place.key("cache"), "must be absent: answers of class order and account are never stored");
        }
        _ => {}
    }
    if let Some(cache) = &row.cache {
        if !cache.stale_if_error.is_zero() && cache.stale_if_error < cache.fresh {
            let message = "is shorter than fresh, so it has no effect: both count from when the response was stored";
            diagnostics.warn(&place.key("cache").key("stale_if_error"), message);
        }
        if row.name.ends_with(".tariff_instant") {
            let message =
                "stores quotes with a tariff_id, which expires after five minutes and is good for one order only";
            diagnostics.warn(&place.key("cache"), message);
        }
    }
}

/// Checks the built-in table itself.
#[cfg(test)]
pub(super) fn built_in_faults() -> Vec<super::Diagnostic> {
    let (rows, mut diagnostics) = read_built_in();
    for row in &rows {
        check_row(row, &KeyPath::at(["operations", &row.name]), &mut diagnostics);
    }
    let file = read::parse(BUILT_IN, &[]).read(&mut diagnostics);
    conflicts::check(&file.operations, &rows, &BuiltIn { rows: rows.clone() }, &mut diagnostics);
    let found = diagnostics.finish();
    found.errors.into_iter().chain(found.warnings).collect()
}
