//! The rows of the archive: compact, because there are millions, and each with a checksum, because the file is not checked
//! as a whole.
//!
//! Always holds: what is written reads back unchanged, and a damaged row decodes to `None`, without a panic. Pure.

use sha2::{Digest as _, Sha256};

use crate::{
    orders::{
        fingerprint::OrderDigest,
        journal::{AnswerResult, ArchivedRow, parse_outcome, parse_sent, put, take},
    },
    store::StoredRow,
};

/// Length of a checksum, bytes.
const CHECKSUM: usize = 8;

/// An ended order with a key: what a repeat of the key needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::orders) struct EndedOrder {
    /// Milliseconds of the order clock.
    pub(in crate::orders) ended: i64,
    pub(in crate::orders) request_id: String,
    pub(in crate::orders) fingerprint: OrderDigest,
    /// `None`: the gateway ended while it was in flight, and it was settled later.
    pub(in crate::orders) result: Option<AnswerResult>,
    /// Size of its answer, which may have been dropped since, bytes; 0: there was none.
    pub(in crate::orders) answer_bytes: u64,
}

/// The numbers are eight big-endian bytes; each part is preceded by its length.
impl StoredRow for EndedOrder {
    fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(160);
        let (outcome, sent) = self.result.map_or(("", ""), |result| (result.outcome.as_str(), result.sent.as_str()));
        put(&mut row, &self.ended.to_be_bytes());
        put(&mut row, &self.answer_bytes.to_be_bytes());
        put(&mut row, self.fingerprint.as_bytes());
        put(&mut row, self.request_id.as_bytes());
        put(&mut row, outcome.as_bytes());
        put(&mut row, sent.as_bytes());
        row
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = &mut { bytes };
        let ended = i64::from_be_bytes(take(rest)?.try_into().ok()?);
        let answer_bytes = u64::from_be_bytes(take(rest)?.try_into().ok()?);
        let fingerprint = OrderDigest::from_bytes(take(rest)?)?;
        let request_id = String::from_utf8(take(rest)?.to_owned()).ok()?;
        let (outcome, sent) = (std::str::from_utf8(take(rest)?).ok()?, std::str::from_utf8(take(rest)?).ok()?);
        let result = match outcome {
            "" => None,
            outcome => Some(AnswerResult { outcome: parse_outcome(outcome)?, sent: parse_sent(sent)? }),
        };
        Some(EndedOrder { ended, request_id, fingerprint, result, answer_bytes })
    }
}

/// What is known of the archive as a whole, without a look at its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::orders) struct ArchiveTotals {
    /// Batches that were ever written.
    pub(in crate::orders) batches: u64,
    /// Size of all answers.
    pub(in crate::orders) answer_bytes: u64,
    /// When the order that ended last has ended; 0: there was none.
    pub(in crate::orders) newest: i64,
    /// A random number that the archive has from its beginning.
    pub(in crate::orders) id: u64,
}

impl ArchiveTotals {
    /// What the journal must say of this archive once it has left all orders to it.
    pub(in crate::orders) fn archived(&self) -> ArchivedRow {
        ArchivedRow { batch: if self.newest == 0 { 0 } else { self.batches }, archive: self.id }
    }
}

impl StoredRow for ArchiveTotals {
    fn encode(&self) -> Vec<u8> {
        let numbers = [self.batches, self.answer_bytes, self.newest.cast_unsigned(), self.id];
        numbers.map(u64::to_be_bytes).concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (batches, bytes) = bytes.split_first_chunk()?;
        let (answer_bytes, bytes) = bytes.split_first_chunk()?;
        let (newest, id) = bytes.split_first_chunk()?;
        Some(ArchiveTotals {
            batches: u64::from_be_bytes(*batches),
            answer_bytes: u64::from_be_bytes(*answer_bytes),
            newest: i64::from_be_bytes(*newest),
            id: u64::from_be_bytes(id.try_into().ok()?),
        })
    }
}

/// Size of a stored answer; 0: there is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerBytes(pub(super) u64);

impl StoredRow for AnswerBytes {
    fn encode(&self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(AnswerBytes(u64::from_be_bytes(bytes.try_into().ok()?)))
    }
}

/// That there is an order with this key. Empty.
#[derive(Debug)]
pub(super) struct ListedKey;

impl StoredRow for ListedKey {
    fn encode(&self) -> Vec<u8> {
        Vec::new()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        bytes.is_empty().then_some(ListedKey)
    }
}

/// A row with the first bytes of its SHA-256 digest before it.
#[derive(Debug)]
pub(super) struct Checksummed<R>(pub(super) R);

impl<R: StoredRow> StoredRow for Checksummed<R> {
    fn encode(&self) -> Vec<u8> {
        let mut row = self.0.encode();
        // In place: it may be long.
        row.splice(..0, checksum(&row));
        row
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (expected, row) = bytes.split_first_chunk::<CHECKSUM>()?;
        if *expected == checksum(row) { R::decode(row).map(Checksummed) } else { None }
    }
}

fn checksum(row: &[u8]) -> [u8; CHECKSUM] {
    let digest = Sha256::digest(row);
    std::array::from_fn(|index| digest[index])
}

/// Time of an order's end, and its key: sorts by time.
pub(super) fn end_key(ended: i64, key: OrderDigest) -> Vec<u8> {
    [&ended.to_be_bytes()[..], key.as_bytes()].concat()
}

/// The time in an [`end_key`].
pub(super) fn ended_at(end: &[u8]) -> Option<i64> {
    end.first_chunk().map(|time| i64::from_be_bytes(*time))
}

/// The key in an [`end_key`].
pub(super) fn key_of(end: &[u8]) -> &[u8] {
    end.get(size_of::<i64>()..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::outcome::{Outcome, Sent};

    fn order(result: Option<AnswerResult>) -> EndedOrder {
        let fingerprint = OrderDigest::fingerprint("POST", "/order/express", b"{}");
        EndedOrder { ended: 1_764_000_000_000, request_id: "r-1".into(), fingerprint, result, answer_bytes: 17 }
    }

    #[test]
    fn an_order_comes_back() {
        for result in [None, Some(AnswerResult { outcome: Outcome::Ok, sent: Sent::Yes })] {
            let encoded = Checksummed(order(result)).encode();
            assert_eq!(Checksummed::<EndedOrder>::decode(&encoded).map(|row| row.0), Some(order(result)));
        }
        let totals = ArchiveTotals { batches: 1, answer_bytes: 2, newest: 3, id: 4 };
        assert_eq!(ArchiveTotals::decode(&totals.encode()), Some(totals));
    }

    proptest! {
        #[test]
        fn a_changed_byte_or_a_cut_is_noticed(at in any::<prop::sample::Index>(), bit in 0u32..8, cut in any::<bool>()) {
            let mut encoded = Checksummed(order(None)).encode();
            let at = at.index(encoded.len());
            if cut {
                encoded.truncate(at);
            } else {
                encoded[at] ^= 1 << bit;
            }
            prop_assert!(Checksummed::<EndedOrder>::decode(&encoded).is_none());
        }

        #[test]
        fn ends_sort_by_time(earlier in 0..i64::MAX, later in 0..i64::MAX) {
            prop_assume!(earlier < later);
            let key = |name: &[u8]| OrderDigest::key("s", name);
            prop_assert!(end_key(earlier, key(b"1")) < end_key(later, key(b"2")));
        }
    }
}
