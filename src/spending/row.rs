//! The rows of the store: units by date, account, service and operation. Pure.

use jiff::civil::Date;

use super::SpenderKey;
use crate::store::{StoreTable, StoredRow};

pub(super) const SPENT: StoreTable<SpentRow> = StoreTable::new("spending.by_day");

/// Encoded as eight bytes, big endian.
pub(super) struct SpentRow {
    pub(super) units: u64,
}

impl StoredRow for SpentRow {
    fn encode(&self) -> Vec<u8> {
        self.units.to_be_bytes().to_vec()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(SpentRow { units: u64::from_be_bytes(*bytes.first_chunk()?) })
    }
}

/// The date, then the names, separated by NUL, which no name contains. So the rows of a date follow each other.
pub(super) fn encode_key(date: Date, key: &SpenderKey) -> Vec<u8> {
    [&*date.to_string(), &*key.account, &*key.service, &*key.operation].join("\0").into_bytes()
}

pub(super) fn decode_key(bytes: &[u8]) -> Option<(Date, SpenderKey)> {
    let mut parts = std::str::from_utf8(bytes).ok()?.split('\0').map(str::to_owned);
    let (date, account, service, operation) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some((date.parse().ok()?, SpenderKey { account, service, operation }))
}
