//! The leases of day counters in the state store.
//!
//! Pure. A row that another version wrote and this one cannot decode is left alone.

use std::str;

use crate::{
    admission::{CalendarDay, CounterId},
    store::{StoreTable, StoredRow},
};

/// By kind, date and name of the counter.
pub(super) const LEASES: StoreTable<LeaseRow> = StoreTable::new("ledger.leases");

/// A row of [`LEASES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeaseRow {
    /// Units that may be used.
    pub(super) units: u64,
    pub(super) starts: i64,
    pub(super) ends: i64,
}

impl StoredRow for LeaseRow {
    fn encode(&self) -> Vec<u8> {
        [self.units.to_be_bytes(), self.starts.to_be_bytes(), self.ends.to_be_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let numbers = bytes.as_chunks::<8>().0;
        Some(LeaseRow {
            units: u64::from_be_bytes(*numbers.first()?),
            starts: i64::from_be_bytes(*numbers.get(1)?),
            ends: i64::from_be_bytes(*numbers.get(2)?),
        })
    }
}

/// A lease as it was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredLease {
    pub(super) id: CounterId,
    pub(super) day: CalendarDay,
    pub(super) units: u64,
}

impl StoredLease {
    pub(super) fn new(key: &[u8], row: LeaseRow) -> Option<Self> {
        let (kind, rest) = key.split_first()?;
        let (date, name) = rest.split_first_chunk::<4>()?;
        let id = CounterId::from_parts(*kind, str::from_utf8(name).ok()?)?;
        let day = CalendarDay { date: i32::from_be_bytes(*date), starts: row.starts, ends: row.ends };
        Some(StoredLease { id, day, units: row.units })
    }
}

pub(super) fn row_key(id: &CounterId, date: i32) -> Vec<u8> {
    let (kind, name) = id.parts();
    [&[kind][..], &date.to_be_bytes(), name.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_survives() {
        let part = CounterId::Part("main\0checkout".into());
        for id in [CounterId::Service("checkout".into()), CounterId::Account("main".into()), part] {
            let row = LeaseRow { units: 5, starts: -1, ends: i64::MAX };
            let day = CalendarDay { date: -2, starts: -1, ends: i64::MAX };
            let loaded = StoredLease::new(&row_key(&id, -2), LeaseRow::decode(&row.encode()).unwrap());
            assert_eq!(loaded, Some(StoredLease { id, day, units: 5 }));
        }
        assert_eq!(
            (LeaseRow::decode(&[1; 23]), StoredLease::new(b"x", LeaseRow { units: 0, starts: 0, ends: 0 })),
            (None, None)
        );
    }
}
