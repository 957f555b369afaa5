//! The stored answers: which order has one, whether it is in memory, and their size in total. Pure; never fails.

use std::sync::Arc;

use super::{Index, entry::AnswerLocation};
use crate::{
    orders::journal::{ANSWERS, ORDERS, StoredAnswer},
    store::WriteBatch,
};

impl Index {
    /// `answer` is on disk. It leaves the memory if it is still the answer of this order.
    pub(in crate::orders) fn answer_written(&mut self, number: u64, answer: &Arc<StoredAnswer>) {
        if let Some(order) = self.orders.get_mut(&number)
            && matches!(&order.answer, AnswerLocation::Memory(current) if Arc::ptr_eq(current, answer))
        {
            order.answer = AnswerLocation::Disk;
        }
    }

    /// The answer of an order, while it is in memory.
    pub(in crate::orders) fn answer_in_memory(&self, number: u64) -> Option<Arc<StoredAnswer>> {
        match &self.orders.get(&number)?.answer {
            AnswerLocation::Memory(answer) => Some(Arc::clone(answer)),
            AnswerLocation::Disk | AnswerLocation::None => None,
        }
    }

    pub(super) fn insert_stored(&mut self, number: u64, bytes: u64) {
        self.remove_stored(number);
        let Some(order) = self.orders.get_mut(&number) else { return };
        order.row.answer_bytes = Some(bytes);
        order.stored_at = self.next_stored;
        self.stored.insert(self.next_stored, number);
        self.next_stored += 1;
        self.stored_bytes += bytes;
    }

    /// Undoes [`Index::insert_stored`], if it was done.
    pub(super) fn remove_stored(&mut self, number: u64) {
        let Some(order) = self.orders.get_mut(&number) else { return };
        if self.stored.get(&order.stored_at) == Some(&number) {
            self.stored.remove(&order.stored_at);
            self.stored_bytes -= order.row.answer_bytes.take().unwrap_or(0);
        }
    }

    /// Drops the oldest answers beyond the limit of bytes; their keys stay.
    pub(super) fn enforce_answer_limit(&mut self, batch: &mut WriteBatch) {
        while self.stored_bytes > self.limits.bytes {
            let Some(number) = self.stored.first_key_value().map(|(_, number)| *number) else { break };
            self.remove_stored(number);
            if let Some(order) = self.orders.get_mut(&number) {
                order.answer = AnswerLocation::None;
                batch.put(&ORDERS, &number.to_be_bytes(), &order.row);
                batch.remove(&ANSWERS, &number.to_be_bytes());
            }
        }
    }
}
