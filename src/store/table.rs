//! Tables, rows and batches: bytes, typed by the room that owns them.
//!
//! Rows that cannot be decoded are never removed: a later version may be able to read them. Fails
//! only with redb's errors.

use std::{borrow::Cow, fmt, marker::PhantomData};

use redb::{ReadTransaction, ReadableTable, TableDefinition, TableError, WriteTransaction};

/// The contents of one row.
pub trait StoredRow: Sized {
    /// Encodes the row.
    fn encode(&self) -> Vec<u8>;
    /// Decodes a row; `None` if the bytes are not one. Must accept what earlier versions wrote, and
    /// should ignore what later versions added.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// A table of rows of one type. Its name is unique in the store and begins with the room that owns it.
pub struct StoreTable<R> {
    name: &'static str,
    row: PhantomData<fn() -> R>,
}

impl<R: StoredRow> StoreTable<R> {
    /// The table of this name; its first write creates it.
    pub const fn new(name: &'static str) -> Self {
        StoreTable { name, row: PhantomData }
    }

    /// Its name in the file.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// Changes that are applied in order, all or none.
#[derive(Debug, Default)]
pub struct WriteBatch {
    changes: Vec<RowChange>,
}

#[derive(Debug)]
struct RowChange {
    table: &'static str,
    key: Vec<u8>,
    row: NewRow,
}

enum NewRow {
    /// There is none any more.
    Removed,
    Encoded(Vec<u8>),
    /// Is encoded when it is written.
    Deferred {
        row: Box<dyn EncodeRow>,
        /// About how long it will be, bytes.
        size: usize,
    },
}

trait EncodeRow: Send {
    fn encode(&self) -> Vec<u8>;
}

impl<R: StoredRow + Send> EncodeRow for R {
    fn encode(&self) -> Vec<u8> {
        StoredRow::encode(self)
    }
}

impl fmt::Debug for NewRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NewRow::Removed => f.write_str("Removed"),
            NewRow::Encoded(row) => write!(f, "{} bytes", row.len()),
            NewRow::Deferred { size, .. } => write!(f, "about {size} bytes"),
        }
    }
}

impl NewRow {
    fn size(&self) -> usize {
        match self {
            NewRow::Removed => 0,
            NewRow::Encoded(row) => row.len(),
            NewRow::Deferred { size, .. } => *size,
        }
    }

    fn bytes(&self) -> Option<Cow<'_, [u8]>> {
        match self {
            NewRow::Removed => None,
            NewRow::Encoded(row) => Some(Cow::Borrowed(row)),
            NewRow::Deferred { row, .. } => Some(Cow::Owned(row.encode())),
        }
    }
}

impl WriteBatch {
    /// Inserts a row, or replaces the one with this key.
    pub fn put<R: StoredRow>(&mut self, table: &StoreTable<R>, key: &[u8], row: &R) {
        self.changes.push(RowChange { table: table.name, key: key.to_owned(), row: NewRow::Encoded(row.encode()) });
    }

    /// The same for a long row, which shares its bytes with who has them: it is encoded when it is written. `size`: about how
    /// long it will be, bytes.
    pub fn put_long<R: StoredRow + Send + 'static>(&mut self, table: &StoreTable<R>, key: &[u8], row: R, size: usize) {
        let row = NewRow::Deferred { row: Box::new(row), size };
        self.changes.push(RowChange { table: table.name, key: key.to_owned(), row });
    }

    /// Removes a row; a missing one is not an error.
    pub fn remove<R: StoredRow>(&mut self, table: &StoreTable<R>, key: &[u8]) {
        self.changes.push(RowChange { table: table.name, key: key.to_owned(), row: NewRow::Removed });
    }

    /// Creates a table, if it does not exist yet.
    pub fn create<R: StoredRow>(&mut self, table: &StoreTable<R>) {
        // To remove a row opens the table, which creates it.
        self.changes.push(RowChange { table: table.name, key: Vec::new(), row: NewRow::Removed });
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes, in order: key and row, or `None` where a row is removed.
    #[cfg(test)]
    pub(crate) fn changes(&self) -> impl Iterator<Item = (&[u8], Option<Cow<'_, [u8]>>)> {
        self.changes.iter().map(|change| (change.key.as_slice(), change.row.bytes()))
    }

    /// Size of its rows, bytes.
    pub(super) fn size(&self) -> usize {
        self.changes.iter().map(|change| change.row.size()).sum()
    }

    pub(super) fn apply(&self, transaction: &WriteTransaction) -> Result<(), redb::Error> {
        for change in &self.changes {
            let mut table = transaction.open_table(definition(change.table))?;
            match change.row.bytes() {
                Some(row) => drop(table.insert(change.key.as_slice(), &*row)?),
                None => drop(table.remove(change.key.as_slice())?),
            }
        }
        Ok(())
    }
}

/// The rows of a table as they were read.
#[derive(Debug)]
pub struct LoadedRows<R> {
    /// In the order of their keys.
    pub rows: Vec<LoadedRow<R>>,
    /// Rows that could not be decoded. They stay in the table.
    pub unreadable: u64,
}

/// A decoded row with its key.
#[derive(Debug)]
pub struct LoadedRow<R> {
    /// As it was given to [`WriteBatch::put`].
    pub key: Vec<u8>,
    /// The decoded row.
    pub row: R,
}

impl<R: StoredRow> LoadedRows<R> {
    pub(super) fn decode(raw: Vec<RawRow>) -> Self {
        let mut loaded = LoadedRows { rows: Vec::with_capacity(raw.len()), unreadable: 0 };
        for RawRow { key, bytes } in raw {
            match R::decode(&bytes) {
                Some(row) => loaded.rows.push(LoadedRow { key, row }),
                None => loaded.unreadable += 1,
            }
        }
        loaded
    }
}

/// All tables have the same redb type, so that a changed row type never makes a table unreadable.
pub(super) fn definition(name: &str) -> TableDefinition<'_, &'static [u8], &'static [u8]> {
    TableDefinition::new(name)
}

/// A row; `None`: there is none, or no such table.
pub(super) fn get(from: &ReadTransaction, name: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, redb::Error> {
    match from.open_table(definition(name)) {
        Ok(table) => Ok(table.get(key)?.map(|row| row.value().to_owned())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether a table that must be there has a row.
pub(super) fn has(from: &ReadTransaction, name: &'static str, key: &[u8]) -> Result<bool, redb::Error> {
    Ok(from.open_table(definition(name))?.get(key)?.is_some())
}

pub(super) struct RawRow {
    key: Vec<u8>,
    bytes: Vec<u8>,
}

/// The first `limit` rows of a table in the order of their keys: so many that they take `bytes`, or a little more.
pub(super) fn rows(
    from: &ReadTransaction,
    name: &'static str,
    limit: usize,
    bytes: usize,
) -> Result<Vec<RawRow>, redb::Error> {
    let table = match from.open_table(definition(name)) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let (mut rows, mut read) = (Vec::new(), 0);
    for row in table.iter()?.take(limit) {
        let (key, value) = row?;
        rows.push(RawRow { key: key.value().to_owned(), bytes: value.value().to_owned() });
        read += value.value().len();
        if read >= bytes {
            break;
        }
    }
    Ok(rows)
}
