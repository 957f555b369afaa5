//! The orders whose outcome is unknown, and how one is settled. Pure; never fails.

use std::time::Duration;

use super::{Index, entry::OrderEntry};
use crate::{
    orders::journal::{ORDERS, OrderDescription, OrderPhase},
    outcome::Outcome,
    store::WriteBatch,
};

/// An order whose outcome is unknown, for operators.
#[derive(Clone, Debug)]
pub struct UnknownOrder {
    /// Grows with time; names the order where several have the same request id.
    pub number: u64,
    pub request_id: String,
    pub account: String,
    pub description: OrderDescription,
    /// Whether it has an `Idempotency-Key`.
    pub has_key: bool,
    /// What its caller was told; `None`: the gateway ended meanwhile.
    pub told: Option<Outcome>,
    /// Since it has been unknown, in time in which the gateway ran.
    pub age: Duration,
    /// Equal orders that it has held since the process started.
    pub held: u64,
}

/// An order that is under way, for operators.
#[derive(Clone, Debug)]
pub struct UnderWayOrder {
    pub request_id: String,
    pub account: String,
    pub description: OrderDescription,
}

impl Index {
    /// The unknown orders, oldest first.
    pub(in crate::orders) fn unknown_orders(&self, now: i64) -> Vec<UnknownOrder> {
        let of = |number: &u64| {
            let OrderEntry { row, held, .. } = self.orders.get(number)?;
            Some(UnknownOrder {
                number: *number,
                request_id: row.request_id.clone(),
                account: row.account.clone(),
                description: row.description.clone(),
                has_key: row.key.is_some(),
                told: row.result.map(|result| result.outcome),
                age: Duration::from_millis((now - row.since).max(0).unsigned_abs()),
                held: *held,
            })
        };
        self.unknown.iter().filter_map(of).collect()
    }

    /// The orders that are under way.
    pub(in crate::orders) fn under_way(&self) -> Vec<UnderWayOrder> {
        // Those that are under way are among those that equal ones have to do with.
        let numbers = self.by_content.values().flatten();
        let under_way = numbers.filter_map(|number| self.orders.get(number)).filter(|order| order.in_flight);
        let of = |OrderEntry { row, .. }: &OrderEntry| UnderWayOrder {
            request_id: row.request_id.clone(),
            account: row.account.clone(),
            description: row.description.clone(),
        };
        under_way.map(of).collect()
    }

    /// An operator has found out what became of an unknown order. Executed: it holds no equal order any more, and its
    /// key keeps its own answer. Not executed: nothing of it is remembered, so its key is free.
    pub(in crate::orders) fn settle_as(&mut self, number: u64, executed: bool, now: i64) -> WriteBatch {
        let mut batch = WriteBatch::default();
        if executed {
            self.settle(number, now, &mut batch);
        } else if self.unknown.contains(&number) {
            self.remove(number, &mut batch);
        }
        batch
    }

    /// The order holds no equal order any more. Its key keeps its own answer: the answer of the order
    /// that settled it says nothing about whether this one was executed.
    pub(super) fn settle(&mut self, number: u64, now: i64, batch: &mut WriteBatch) {
        // It may have been settled by another order or have expired.
        if !self.orders.get(&number).is_some_and(|order| order.row.phase == OrderPhase::Unknown) {
            return;
        }
        self.remove_end(number);
        let Some(order) = self.orders.get_mut(&number) else { return };
        if order.row.key.is_none() {
            self.remove(number, batch);
            return;
        }
        order.row.phase = OrderPhase::Ended;
        order.row.since = now;
        order.row.description.known();
        batch.put(&ORDERS, &number.to_be_bytes(), &order.row);
        self.remove_content(number);
        self.insert_end(number);
    }
}
