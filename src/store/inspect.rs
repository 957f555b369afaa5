//! Copies of the store, and what is in one: for backups and `state check`.
//!
//! Always holds: the store that is copied or looked at is not changed; a copy is that of one instant. Reading may take long
//! and blocks. Fails with [`OpenError`] or redb's errors.

use std::{fs::File, io, path::Path};

use redb::{
    ConcurrencyMode, Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableHandle, backends::FileBackend,
};

use super::{
    damage,
    error::OpenError,
    folder::{self, PAGE_CACHE, StoreKind},
    overlay_file::OverlayFile,
    table::definition,
};

/// One table of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSummary {
    pub name: String,
    pub rows: u64,
    /// Of keys and rows.
    pub bytes: u64,
}

/// Copies all tables into a new, empty file.
pub(super) fn copy(from: &ReadTransaction, to: File) -> Result<(), redb::Error> {
    let copied = Database::builder().set_cache_size(PAGE_CACHE).create_with_backend(FileBackend::new(to)?)?;
    let write = copied.begin_write()?;
    for table in from.list_tables()? {
        let definition = definition(table.name());
        let mut target = write.open_table(definition)?;
        for row in from.open_table(definition)?.iter()? {
            let (key, row) = row?;
            target.insert(key.value(), row.value())?;
        }
    }
    write.commit()?;
    Ok(())
}

/// Called with the table, the key and the bytes of each row.
pub type VisitRow<'a> = &'a mut dyn FnMut(&str, &[u8], &[u8]);

/// Reads the whole store in a file, also while a gateway uses it. Else it is opened as a gateway would, which finds more
/// than a reader does, but without a change of it.
///
/// # Errors
/// [`OpenError`] if a gateway could not use it, or a lookup would miss one of its rows.
pub fn inspect(kind: StoreKind, path: &Path, visit: VisitRow<'_>) -> Result<Vec<TableSummary>, OpenError> {
    let damaged = |reason: String| OpenError::Damaged { file: path.to_owned(), reason };
    let unreadable = |source: io::Error| OpenError::Folder { dir: path.to_owned(), source };
    if File::open(path).and_then(|file| file.metadata()).map_err(unreadable)?.len() == 0 {
        return Err(damaged("it is empty".to_owned()));
    }
    match damage::catch(|| read(kind, path, visit)) {
        Some(Ok(tables)) => Ok(tables),
        Some(Err(error)) => Err(damaged(error.to_string())),
        None => Err(damaged("its pages are inconsistent".to_owned())),
    }
}

fn read(kind: StoreKind, path: &Path, visit: VisitRow<'_>) -> Result<Vec<TableSummary>, redb::Error> {
    if folder::is_in_use(path) {
        let mut builder = Database::builder();
        builder.set_concurrency_mode(ConcurrencyMode::SingleWriter).set_cache_size(PAGE_CACHE);
        match builder.open_read_only(path) {
            Ok(database) => return summaries(&database.begin_read()?, visit),
            Err(error @ DatabaseError::DatabaseAlreadyOpen) => return Err(error.into()),
            // It is being repaired.
            Err(_) => {}
        }
    }
    let database = folder::open_database(kind, OverlayFile::open(path)?)?;
    // Only a write shows whether what is known of the free pages can be read.
    let mut write = database.begin_write()?;
    write.set_quick_repair(kind.quick_repair());
    write.commit()?;
    summaries(&database.begin_read()?, visit)
}

fn summaries(from: &ReadTransaction, visit: VisitRow<'_>) -> Result<Vec<TableSummary>, redb::Error> {
    let mut summaries = Vec::new();
    for found in from.list_tables()? {
        let definition = definition(found.name());
        let table = from.open_table(definition)?;
        let mut summary = TableSummary { name: found.name().to_owned(), rows: 0, bytes: 0 };
        for row in table.iter()? {
            let (key, row) = row?;
            // The pages above the rows, which only a lookup uses, may be damaged.
            if table.get(key.value())?.is_none() {
                return Err(redb::Error::Corrupted(format!("a lookup misses a row of {}", found.name())));
            }
            summary.rows += 1;
            summary.bytes += (key.value().len() + row.value().len()) as u64;
            visit(found.name(), key.value(), row.value());
        }
        if table.len()? != summary.rows {
            return Err(redb::Error::Corrupted(format!("{} lacks rows", found.name())));
        }
        summaries.push(summary);
    }
    Ok(summaries)
}
