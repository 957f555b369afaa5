//! The ended orders with a key, which leave the index once the archive has them. Pure; never fails.

use std::sync::Arc;

use super::{FoundAnswer, Index, entry::AnswerLocation};
use crate::{
    orders::{archive::EndedOrder, fingerprint::OrderDigest, journal::OrderPhase, limits::OrderLimits},
    store::WriteBatch,
};

/// An ended order as the archive keeps it.
#[derive(Debug)]
pub(in crate::orders) struct ArchivedOrder {
    pub(in crate::orders) number: u64,
    pub(in crate::orders) key: OrderDigest,
    pub(in crate::orders) order: EndedOrder,
    /// `None`: there is none, or it was dropped.
    pub(in crate::orders) answer: Option<FoundAnswer>,
}

impl Index {
    /// The first of those that have ended, `limit` of them at most, and no further one once their answers take `bytes`.
    pub(in crate::orders) fn archivable(&self, limit: usize, bytes: u64) -> Vec<ArchivedOrder> {
        let ended = self.ended.iter().filter_map(|number| {
            let entry = self.orders.get(number)?;
            let row = &entry.row;
            let bytes = row.answer_bytes.unwrap_or(0);
            let answer = match &entry.answer {
                AnswerLocation::None => None,
                AnswerLocation::Memory(answer) => Some(FoundAnswer::InMemory(Arc::clone(answer))),
                AnswerLocation::Disk => {
                    Some(FoundAnswer::OnDisk { bytes: usize::try_from(bytes).unwrap_or(usize::MAX) })
                }
            };
            let order = EndedOrder {
                ended: row.since,
                request_id: row.request_id.clone(),
                fingerprint: row.fingerprint,
                result: row.result,
                answer_bytes: bytes,
            };
            Some(ArchivedOrder { number: *number, key: row.key?, order, answer })
        });
        let mut taken = 0;
        let fits = |order: &ArchivedOrder| {
            let fits = taken < bytes;
            taken += order.order.answer_bytes;
            fits
        };
        ended.take(limit).take_while(fits).collect()
    }

    /// How many have ended.
    pub(in crate::orders) fn archivable_count(&self) -> usize {
        self.ended.len()
    }

    /// The archive has these orders. Those that have not been forgotten meanwhile leave.
    pub(in crate::orders) fn archived(&mut self, orders: &[ArchivedOrder]) -> WriteBatch {
        let mut batch = WriteBatch::default();
        for ArchivedOrder { number, .. } in orders {
            if self.row(*number).is_some_and(|row| row.phase == OrderPhase::Ended) {
                self.remove(*number, &mut batch);
            }
        }
        self.moves += 1;
        batch
    }

    pub(in crate::orders) fn limits(&self) -> OrderLimits {
        self.limits
    }
}
