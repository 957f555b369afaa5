//! Copies of the store, and what is in one: for backups and `state check`.
//!
//! Always holds: the store that is copied or looked at is not changed; a copy is that of one instant. Reading may take long
//! and blocks. Fails with [`OpenError`] or redb's errors.

use std::{
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use redb::{
    ConcurrencyMode, Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, TableHandle,
    backends::FileBackend,
};

use super::{error::OpenError, folder::StoreKind, table::definition};

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
    let copied = Database::builder().create_with_backend(FileBackend::new(to)?)?;
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

/// Reads the whole store of this kind in `dir`, also while a gateway uses it. One that a killed process left is recovered in a copy.
///
/// # Errors
/// [`OpenError`] if a gateway could not use it.
pub fn inspect(dir: &Path, kind: StoreKind) -> Result<Vec<TableSummary>, OpenError> {
    let path = dir.join(kind.file);
    let damaged = |reason: String| OpenError::Damaged { file: path.clone(), reason };
    let unreadable = |source: io::Error| OpenError::Folder { dir: dir.to_owned(), source };
    if File::open(&path).and_then(|file| file.metadata()).map_err(unreadable)?.len() == 0 {
        return Err(damaged("it is empty".to_owned()));
    }
    // redb may panic on a file that another program has written to.
    let read = catch_unwind(AssertUnwindSafe(|| {
        let mut builder = Database::builder();
        builder.set_concurrency_mode(ConcurrencyMode::SingleWriter);
        match builder.open_read_only(&path) {
            Ok(database) => summaries(&database.begin_read()?),
            Err(error @ DatabaseError::DatabaseAlreadyOpen) => Err(error.into()),
            Err(_) => {
                let mut copied = tempfile::tempfile()?;
                io::copy(&mut File::open(&path)?, &mut copied)?;
                builder.set_check_integrity_on_open(true);
                summaries(&builder.create_with_backend(FileBackend::new(copied)?)?.begin_read()?)
            }
        }
    }));
    match read {
        Ok(Ok(tables)) => Ok(tables),
        Ok(Err(error)) => Err(damaged(error.to_string())),
        Err(_) => Err(damaged("its pages are inconsistent".to_owned())),
    }
}

fn summaries(from: &ReadTransaction) -> Result<Vec<TableSummary>, redb::Error> {
    let mut summaries = Vec::new();
    for table in from.list_tables()? {
        let definition = definition(table.name());
        let mut summary = TableSummary { name: table.name().to_owned(), rows: 0, bytes: 0 };
        for row in from.open_table(definition)?.iter()? {
            let (key, row) = row?;
            summary.rows += 1;
            summary.bytes += (key.value().len() + row.value().len()) as u64;
        }
        summaries.push(summary);
    }
    Ok(summaries)
}
