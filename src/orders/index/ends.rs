//! When the phase of an order ends that is no longer in flight, and what follows. Pure; never fails.

use super::{Index, entry::OrderEntry};
use crate::{
    orders::{
        journal::{ORDERS, OrderPhase},
        limits::OrderLimits,
    },
    store::WriteBatch,
};

impl Index {
    /// Changes how long orders are remembered.
    pub(in crate::orders) fn set_limits(&mut self, limits: OrderLimits) {
        if self.limits == limits {
            return;
        }
        self.limits = limits;
        let ended =
            self.ends.iter().filter_map(|(_, number)| Some((self.orders.get(number)?.ends_at(limits), *number)));
        self.ends = ended.collect();
    }

    /// Ends the phases of orders whose time is over.
    pub(in crate::orders) fn expire(&mut self, now: i64) -> WriteBatch {
        let mut batch = WriteBatch::default();
        while let Some((until, number)) = self.ends.first().copied()
            && now >= until
        {
            match self.row(number).map(|row| row.phase) {
                Some(OrderPhase::Undelivered) => self.end_delivery(number, &mut batch),
                _ => self.remove(number, &mut batch),
            }
        }
        batch
    }

    /// The answer of an order has reached its caller, or is given to no equal order any more: only its key has to do with
    /// it from now on.
    pub(super) fn end_delivery(&mut self, number: u64, batch: &mut WriteBatch) {
        if self.row(number).is_none_or(|row| row.key.is_none()) {
            return self.remove(number, batch);
        }
        self.remove_end(number);
        self.remove_content(number);
        let Some(order) = self.orders.get_mut(&number) else { return };
        order.row.phase = OrderPhase::Ended;
        order.caller = None;
        order.changed();
        batch.put(&ORDERS, &number.to_be_bytes(), &order.row);
        self.insert_end(number);
    }

    /// Adds an order that is no longer in flight to `ends`, and to `ended` or the unknown ones.
    pub(super) fn insert_end(&mut self, number: u64) {
        let Some(order @ OrderEntry { row, .. }) = self.orders.get(&number) else { return };
        self.ends.insert((order.ends_at(self.limits), number));
        match row.phase {
            OrderPhase::Unknown => {
                self.unknown.insert(number);
                *self.unknown_by_account.entry(row.account.clone()).or_default() += 1;
            }
            OrderPhase::Ended => drop(self.ended.insert(number)),
            OrderPhase::Open | OrderPhase::Undelivered => {}
        }
    }

    /// Undoes [`Index::insert_end`], if it was done.
    pub(super) fn remove_end(&mut self, number: u64) {
        let Some(order @ OrderEntry { row, .. }) = self.orders.get(&number) else { return };
        self.ended.remove(&number);
        if !self.ends.remove(&(order.ends_at(self.limits), number)) || row.phase != OrderPhase::Unknown {
            return;
        }
        self.unknown.remove(&number);
        if let Some(count) = self.unknown_by_account.get_mut(&row.account) {
            *count -= 1;
        }
    }
}
