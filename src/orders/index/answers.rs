//! The stored answers: which order has one, whether it is in memory, and their size, by service and in total. Beyond the limit,
//! the service whose answers take most loses its oldest ones: long answers of one service are no matter of another's.
//! Pure; never fails.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

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
        order.stored_at = self.stored.insert(&order.row.description.service, number, bytes);
    }

    /// Undoes [`Index::insert_stored`], if it was done.
    pub(super) fn remove_stored(&mut self, number: u64) {
        let Some(order) = self.orders.get_mut(&number) else { return };
        let bytes = order.row.answer_bytes.unwrap_or(0);
        if self.stored.remove(&order.row.description.service, order.stored_at, number, bytes) {
            order.row.answer_bytes = None;
        }
    }

    /// Drops answers beyond the limit of bytes; their keys stay.
    pub(super) fn enforce_answer_limit(&mut self, batch: &mut WriteBatch) {
        while self.stored.bytes > self.limits.bytes {
            let Some(number) = self.stored.oldest_of_largest() else { break };
            self.remove_stored(number);
            if let Some(order) = self.orders.get_mut(&number) {
                order.answer = AnswerLocation::None;
                batch.put(&ORDERS, &number.to_be_bytes(), &order.row);
                batch.remove(&ANSWERS, &number.to_be_bytes());
            }
        }
    }
}

/// Which orders have a stored answer.
#[derive(Debug, Default)]
pub(super) struct StoredAnswers {
    services: HashMap<String, AnswersOfService>,
    next: u64,
    /// Of all of them.
    pub(super) bytes: u64,
}

#[derive(Debug, Default)]
struct AnswersOfService {
    /// Numbers of the orders, the oldest answer first.
    orders: BTreeMap<u64, u64>,
    bytes: u64,
}

impl StoredAnswers {
    /// Returns its position.
    fn insert(&mut self, service: &str, number: u64, bytes: u64) -> u64 {
        let at = self.next;
        self.next += 1;
        self.bytes += bytes;
        let of = self.services.entry(service.to_owned()).or_default();
        of.orders.insert(at, number);
        of.bytes += bytes;
        at
    }

    /// Returns whether it was there.
    fn remove(&mut self, service: &str, at: u64, number: u64, bytes: u64) -> bool {
        let Some(of) = self.services.get_mut(service).filter(|of| of.orders.get(&at) == Some(&number)) else {
            return false;
        };
        of.orders.remove(&at);
        of.bytes -= bytes;
        self.bytes -= bytes;
        if of.orders.is_empty() {
            self.services.remove(service);
        }
        true
    }

    /// The order with the oldest answer of the service whose answers take most.
    fn oldest_of_largest(&self) -> Option<u64> {
        let largest = self.services.values().max_by_key(|of| of.bytes)?;
        largest.orders.first_key_value().map(|(_, number)| *number)
    }

    /// Position and number of each.
    #[cfg(test)]
    pub(super) fn each(&self) -> impl Iterator<Item = (u64, u64)> {
        self.services.values().flat_map(|of| of.orders.iter().map(|(at, number)| (*at, *number)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_whose_answers_take_most_loses_its_oldest() {
        let mut stored = StoredAnswers::default();
        let small = stored.insert("small", 1, 70);
        for number in 2..6 {
            stored.insert("large", number, 1_000);
        }
        assert_eq!((stored.bytes, stored.oldest_of_largest()), (4_070, Some(2)));
        assert!(stored.remove("large", 1, 2, 1_000) && !stored.remove("large", 1, 2, 1_000));
        assert_eq!((stored.bytes, stored.oldest_of_largest()), (3_070, Some(3)));
        assert!(stored.remove("small", small, 1, 70));
        assert_eq!((stored.bytes, stored.each().count()), (3_000, 3));
    }
}
