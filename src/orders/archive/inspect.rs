//! Whether journal and archive are whole and belong together: for `state check`.
//!
//! Reads everything and changes nothing; may take minutes for millions of orders. Fails with [`OrdersOpenError`] where a
//! gateway would, and where the archive says two things of one order.

use std::path::Path;

use super::{
    ANSWERS, ENDED, ENDS, KEYS, TOTALS,
    rows::{ArchiveTotals, Checksummed, EndedOrder, ended_at, key_of},
};
use crate::{
    orders::{
        journal::{ARCHIVED, AnswerRow, ArchivedRow},
        open_error::OrdersOpenError,
    },
    store::{self, OpenError, StoreKind, StoredRow, TableSummary},
};

/// The tables of the two stores.
#[derive(Debug)]
pub struct StoreSummaries {
    pub state: Vec<TableSummary>,
    /// `None`: there is no archive.
    pub archive: Option<Vec<TableSummary>>,
}

/// Reads a state store and the archive that belongs to it, also while a gateway uses them. Blocks.
///
/// # Errors
/// [`OrdersOpenError`] if a gateway could not use them, or a row is damaged.
pub fn inspect(state: &Path, archive: &Path) -> Result<StoreSummaries, OrdersOpenError> {
    let mut moved = None;
    let tables = store::inspect(StoreKind::STATE, state, &mut |table, _, row| {
        if table == ARCHIVED.name() {
            moved = ArchivedRow::decode(row);
        }
    })?;
    // After the state store: what leaves that meanwhile is in the archive before.
    let archived = if archive.exists() { Some(inspect_archive(archive)?) } else { None };
    let totals = archived.as_ref().map_or_else(ArchiveTotals::default, |(_, totals)| *totals);
    if moved.is_some_and(|moved| !moved.is_in(totals.id, totals.batches)) {
        return Err(OrdersOpenError::ArchiveLost);
    }
    Ok(StoreSummaries { state: tables, archive: archived.map(|(tables, _)| tables) })
}

/// The keys of one table, as a sum in which their order does not matter.
#[derive(Default, PartialEq)]
struct KeySum {
    rows: u64,
    sum: u64,
}

impl KeySum {
    fn add(&mut self, time: i64, key: &[u8]) {
        let digest = key.first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
        self.rows += 1;
        self.sum = self.sum.wrapping_add(time.cast_unsigned().wrapping_mul(digest | 1));
    }
}

fn inspect_archive(file: &Path) -> Result<(Vec<TableSummary>, ArchiveTotals), OpenError> {
    let (mut ended, mut ends, mut keys, mut listed) =
        (KeySum::default(), KeySum::default(), KeySum::default(), KeySum::default());
    let (mut damaged, mut totals) = (0_u64, ArchiveTotals::default());
    let tables = store::inspect(StoreKind::ORDERS, file, &mut |table, key, row| {
        let is_whole = if table == ENDED.name() {
            keys.add(1, key);
            let order = Checksummed::<EndedOrder>::decode(row);
            order.inspect(|order| ended.add(order.0.ended, key)).is_some()
        } else if table == KEYS.name() {
            listed.add(1, key);
            true
        } else if table == ENDS.name() {
            ended_at(key).inspect(|time| ends.add(*time, key_of(key))).is_some()
        } else if table == ANSWERS.name() {
            Checksummed::<AnswerRow>::decode(row).is_some()
        } else if table == TOTALS.name() {
            Checksummed::<ArchiveTotals>::decode(row).inspect(|row| totals = row.0).is_some()
        } else {
            true
        };
        damaged += u64::from(!is_whole);
    })?;
    let reason = match damaged {
        0 if keys != listed || ended != ends => "its tables list different orders".to_owned(),
        0 => return Ok((tables, totals)),
        damaged => format!("{damaged} rows are damaged"),
    };
    Err(OpenError::Damaged { file: file.to_owned(), reason })
}
