//! Tables, rows and batches: bytes with the type of the room that owns them.

use std::marker::PhantomData;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError, WriteTransaction};

/// What a room keeps in one row.
pub trait StoredRow: Sized {
    /// As bytes.
    fn encode(&self) -> Vec<u8>;
    /// From bytes; `None` if they are not such a row. Must accept what earlier versions wrote, and
    /// should ignore what later ones added.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// A table of rows of one type. Names are unique in the store: one room, one prefix.
pub struct StoreTable<R> {
    name: &'static str,
    row: PhantomData<fn() -> R>,
}

impl<R: StoredRow> StoreTable<R> {
    /// The table of this name; it is made by its first write.
    pub const fn new(name: &'static str) -> Self {
        StoreTable { name, row: PhantomData }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }
}

/// Changes that are applied together or not at all, in their order.
#[derive(Debug, Default)]
pub struct WriteBatch {
    changes: Vec<RowChange>,
}

#[derive(Debug)]
struct RowChange {
    table: &'static str,
    key: Vec<u8>,
    /// Absent: the row is removed.
    row: Option<Vec<u8>>,
}

impl WriteBatch {
    /// Writes a row, over the one of that key.
    pub fn put<R: StoredRow>(&mut self, table: &StoreTable<R>, key: &[u8], row: &R) {
        self.changes.push(RowChange { table: table.name, key: key.to_owned(), row: Some(row.encode()) });
    }

    /// Removes a row; one that is not there is no error.
    pub fn remove<R: StoredRow>(&mut self, table: &StoreTable<R>, key: &[u8]) {
        self.changes.push(RowChange { table: table.name, key: key.to_owned(), row: None });
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(super) fn apply(&self, transaction: &WriteTransaction) -> Result<(), redb::Error> {
        // Opening a table costs a look-up: once for each run of changes to the same one.
        for run in self.changes.chunk_by(|a, b| a.table == b.table) {
            let mut table = transaction.open_table(definition(run[0].table))?;
            for change in run {
                match &change.row {
                    Some(row) => drop(table.insert(change.key.as_slice(), row.as_slice())?),
                    None => drop(table.remove(change.key.as_slice())?),
                }
            }
        }
        Ok(())
    }
}

/// The rows of a table as they were read.
#[derive(Debug)]
pub struct LoadedRows<R> {
    /// Key and row, in the order of the keys.
    pub rows: Vec<(Vec<u8>, R)>,
    /// Rows that could not be decoded. They stay where they are.
    pub unreadable: u64,
}

impl<R: StoredRow> LoadedRows<R> {
    pub(super) fn decode(raw: Vec<(Vec<u8>, Vec<u8>)>) -> Self {
        let mut loaded = LoadedRows { rows: Vec::with_capacity(raw.len()), unreadable: 0 };
        for (key, bytes) in raw {
            match R::decode(&bytes) {
                Some(row) => loaded.rows.push((key, row)),
                None => loaded.unreadable += 1,
            }
        }
        loaded
    }
}

/// All tables have one redb type, so that a changed row type never makes a table unopenable.
fn definition(name: &'static str) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(name)
}

pub(super) fn get(database: &Database, name: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, redb::Error> {
    match database.begin_read()?.open_table(definition(name)) {
        Ok(table) => Ok(table.get(key)?.map(|row| row.value().to_owned())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(fault) => Err(fault.into()),
    }
}

/// Key and row.
type RawRow = (Vec<u8>, Vec<u8>);

pub(super) fn all(database: &Database, name: &'static str) -> Result<Vec<RawRow>, redb::Error> {
    let table = match database.begin_read()?.open_table(definition(name)) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(fault) => return Err(fault.into()),
    };
    let mut rows = Vec::new();
    for row in table.iter()? {
        let (key, value) = row?;
        rows.push((key.value().to_owned(), value.value().to_owned()));
    }
    Ok(rows)
}
