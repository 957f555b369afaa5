//! The records of the file of day marks: of fixed size, each with a checksum. Pure.
//!
//! What always holds: bytes that were not written by [`Slot::encode`] are not decoded. Never fails.

use sha2::{Digest as _, Sha256};

use crate::admission::{CalendarDay, CounterId};

/// Size of a record, in bytes: a divisor of the page size, so that no record is in two pages.
pub(super) const SIZE: usize = 64;

/// The first record of the file.
pub(super) const HEADER: [u8; SIZE] = *b"fastrac-gateway day marks 1 (64 bytes a record, see README)....\n";

/// Names a counter in at most 16 bytes.
pub(super) type CounterHash = [u8; 16];

/// One day of one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SlotKey {
    pub(super) counter: CounterHash,
    pub(super) date: i32,
}

/// What is recorded of a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) counter: CounterHash,
    pub(super) day: CalendarDay,
    /// Units used, at most. Written without fsync: valid while the system has not been restarted.
    pub(super) mark: u64,
    /// Units used, at most, whatever happens; the store holds the same value before it is used.
    pub(super) lease: u64,
    /// The run of the system in which it was written.
    pub(super) boot: u64,
}

impl SlotKey {
    pub(super) fn new(counter: &CounterId, date: i32) -> Self {
        SlotKey { counter: counter_hash(counter), date }
    }
}

pub(super) fn counter_hash(counter: &CounterId) -> CounterHash {
    let (kind, name) = counter.parts();
    let digest = Sha256::new().chain_update([kind]).chain_update(name.as_bytes()).finalize();
    let mut hash = CounterHash::default();
    hash.copy_from_slice(&digest[..16]);
    hash
}

impl Slot {
    pub(super) fn key(&self) -> SlotKey {
        SlotKey { counter: self.counter, date: self.day.date }
    }

    pub(super) fn encode(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let CalendarDay { date, starts, ends } = self.day;
        let fields: [&[u8]; 7] = [
            &self.counter,
            &date.to_be_bytes(),
            &starts.to_be_bytes(),
            &ends.to_be_bytes(),
            &self.mark.to_be_bytes(),
            &self.lease.to_be_bytes(),
            &self.boot.to_be_bytes(),
        ];
        let mut at = 0;
        for field in fields {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        let sum = checksum(&bytes[..at]);
        bytes[at..].copy_from_slice(&sum);
        bytes
    }

    /// `None`: it is not a record, or damaged.
    pub(super) fn decode(bytes: &[u8; SIZE]) -> Option<Self> {
        let (fields, sum) = bytes.split_at(SIZE - 4);
        if checksum(fields) != sum {
            return None;
        }
        let (counter, rest) = fields.split_first_chunk::<16>()?;
        let (date, rest) = rest.split_first_chunk::<4>()?;
        let mut numbers = rest.as_chunks::<8>().0.iter();
        let mut number = || numbers.next().copied();
        Some(Slot {
            counter: *counter,
            day: CalendarDay {
                date: i32::from_be_bytes(*date),
                starts: i64::from_be_bytes(number()?),
                ends: i64::from_be_bytes(number()?),
            },
            mark: u64::from_be_bytes(number()?),
            lease: u64::from_be_bytes(number()?),
            boot: u64::from_be_bytes(number()?),
        })
    }
}

/// The first four bytes of a SHA-256.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    let digest = Sha256::digest(bytes);
    [digest[0], digest[1], digest[2], digest[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_survives_and_a_damaged_one_does_not() {
        let day = CalendarDay { date: -3, starts: i64::MIN, ends: i64::MAX };
        let counter = counter_hash(&CounterId::Service("checkout".into()));
        let slot = Slot { counter, day, mark: 1, lease: u64::MAX, boot: 7 };
        let bytes = slot.encode();
        assert_eq!(Slot::decode(&bytes), Some(slot));
        for at in 0..SIZE {
            let mut damaged = bytes;
            damaged[at] ^= 1;
            assert_eq!(Slot::decode(&damaged), None, "byte {at}");
        }
        assert_eq!(Slot::decode(&[0; SIZE]), None);
        assert_ne!(counter, counter_hash(&CounterId::Account("checkout".into())));
    }
}
