//! Orders: placed, tracked, cancelled, and on their way.
//!
//! Names come from the seed and a running number, so the same orders in the same order get the same
//! ones. Where an order stands when it is answered is a switch ([`way::Begin`]); a merchant can
//! cancel until the parcel is handed over, and gets the published 404 afterwards.
//!
//! What always holds: an order is there if and only if its charge (tariff and insurance; the COD fee
//! is the receiver's) was taken from the wallet; a cancelled one has given it back, once; the newest
//! orders are kept ([`plan::Plan::kept`]), older ones are as if they had never been, but for the
//! balance history.

pub mod flow;
mod kept;
pub mod name;
pub mod plan;
mod read;
mod receipt;
pub mod way;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use serde_json::{Value, json};

use super::{
    clock,
    couriers::{Courier, texts},
    envelope::{Failure, Reply},
    input::{Checked, Fields},
    quotes::{Quotes, Validity},
    wallet::{Kind, Wallet},
    webhook::Outbox,
};
use kept::{Birth, NEVER, Order, People};
use plan::{Plan, Wishes};
use receipt::{Collect, receipt};
use way::{Step, Walker};

/// What both kinds of order have when they are about to be placed.
struct Draft {
    courier: &'static Courier,
    service: &'static str,
    instant: bool,
    pickup: bool,
    people: People,
    tariff: u64,
    insured: Option<u64>,
    collect: Option<Collect>,
    window: Option<(String, String)>,
}

/// What orders need beside themselves.
pub struct Desk<'a> {
    /// Pays and is refunded.
    pub wallet: &'a mut Wallet,
    /// Offers of instant couriers.
    pub quotes: &'a mut Quotes,
    /// Learns what happens.
    pub outbox: &'a mut Outbox,
    /// How long offers are good.
    pub validity: Validity,
    /// Which ways orders take.
    pub plan: &'a Plan,
    /// Said when the balance is too small.
    pub shortage: &'a str,
    /// Unix milliseconds.
    pub now: i64,
}

/// All orders of the account.
#[derive(Debug)]
pub struct Orders {
    seed: u64,
    placed: u64,
    kept: VecDeque<Order>,
    /// Bytes of the kept orders' texts.
    texts: usize,
    /// When each order's next step is due.
    schedule: BinaryHeap<Reverse<(i64, u64)>>,
    /// Steps made, by kind (express, instant) and step.
    made: [[u64; Step::ALL.len()]; 2],
    /// Branches for orders to come.
    pub wishes: Wishes,
}

impl Orders {
    /// No orders yet.
    pub fn new(seed: u64) -> Self {
        Orders {
            seed,
            placed: 0,
            kept: VecDeque::new(),
            texts: 0,
            schedule: BinaryHeap::new(),
            made: Default::default(),
            wishes: Wishes::default(),
        }
    }

    /// Order Express.
    ///
    /// # Errors
    ///
    /// A complaint about the body, or a balance that is too small; nothing has happened then.
    pub fn express(&mut self, fields: &Fields<'_>, desk: &mut Desk<'_>) -> Checked<Reply> {
        let draft = read::express(fields, self.seed)?;
        self.place(draft, desk)
    }

    /// Order Instant.
    ///
    /// # Errors
    ///
    /// As above; also a `tariff_id` that is unknown, spent or too old.
    pub fn instant(&mut self, fields: &Fields<'_>, desk: &mut Desk<'_>) -> Checked<Reply> {
        let (draft, tariff_id) = read::instant(fields, desk)?;
        let reply = self.place(draft, desk)?;
        desk.quotes.spend(tariff_id, desk.validity);
        Ok(reply)
    }

    /// Tracking Order.
    ///
    /// # Errors
    ///
    /// If there is no such order with that courier.
    pub fn track(&self, fields: &Fields<'_>) -> Checked<Reply> {
        let (code, awb) = (fields.text("courier_code")?, fields.text("awb")?);
        let order = self.find(code, awb).map(|position| &self.kept[position]).ok_or(Failure::NotFound)?;
        let [shipper_name, shipper_address, receiver_name, receiver_address] = order.people.texts();
        let data = json!({
            "awb": awb, "courier": order.courier().name, "courier_code": order.courier().code,
            "service": order.service(),
            "shipper_name": shipper_name, "shipper_address": shipper_address,
            "receiver_name": receiver_name, "receiver_address": receiver_address,
            "history": history(order),
        });
        Ok(Reply::of("success", &data))
    }

    /// Cancel Order.
    ///
    /// # Errors
    ///
    /// A complaint about the body, or the published 404 if the order is unknown or too far on.
    pub fn cancel(&mut self, fields: &Fields<'_>, desk: &mut Desk<'_>) -> Checked<Reply> {
        let (code, awb, reason) = (fields.text("courier_code")?, fields.text("awb")?, fields.text("cancel_reason")?);
        if !(5..=150).contains(&reason.chars().count()) {
            return Err(Failure::Invalid("cancel_reason must be 5 to 150 characters".to_owned()));
        }
        let position = self.find(code, awb).ok_or(Failure::Cancel)?;
        if !self.kept[position].trail.last().cancellable() {
            return Err(Failure::Cancel);
        }
        self.make(position, (desk.now, Step::Cancelled), desk);
        let order = &self.kept[position];
        let (booking_id, status) = (order.name().booking_id(self.seed), Step::Cancelled.wire(order.instant));
        let data = json!({"awb": awb, "booking_id": booking_id, "status": status});
        Ok(Reply::of("Order successfully canceled", &data).executed())
    }

    /// The order of an air waybill, as the control address shows it.
    pub fn shown(&self, awb: &str) -> Option<Value> {
        self.named(awb).map(|position| self.show(&self.kept[position]))
    }

    /// An order's last step, and when its next one is due.
    pub fn last(&self, awb: &str) -> Option<(Step, Option<i64>)> {
        let order = &self.kept[self.named(awb)?];
        Some((order.trail.last(), (order.due < NEVER).then_some(order.due)))
    }

    /// Orders after a number, oldest first, at most `limit`; of one status, if it is given.
    pub fn page(&self, after: u64, limit: usize, status: Option<&str>) -> Value {
        let first = self.kept.front().map_or(1, |order| order.number);
        let skip = usize::try_from(after.saturating_add(1).saturating_sub(first)).unwrap_or(usize::MAX);
        let fits = |order: &&Order| status.is_none_or(|status| order.trail.last().wire(order.instant) == status);
        let page: Vec<Value> =
            self.kept.iter().skip(skip).filter(fits).take(limit).map(|order| self.show(order)).collect();
        let gone = self.placed - self.kept.len() as u64;
        json!({"orders": page, "placed": self.placed, "kept": self.kept.len(), "gone": gone})
    }

    /// How often orders came to a status: kind, status, count. In transit counts each of its steps.
    pub fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        let mut all: Vec<(&str, &str, u64)> = Vec::new();
        for (kind, name, instant) in [(0, "express", false), (1, "instant", true)] {
            for (step, count) in Step::ALL.into_iter().zip(self.made[kind]).filter(|(_, count)| *count > 0) {
                let status = step.wire(instant);
                match all.last_mut().filter(|last| (last.0, last.1) == (name, status)) {
                    Some(last) => last.2 += count,
                    None => all.push((name, status, count)),
                }
            }
        }
        all
    }

    /// Bytes that the orders take, by their sizes.
    pub fn memory(&self) -> usize {
        let entries = self.schedule.capacity() * size_of::<Reverse<(i64, u64)>>();
        self.kept.capacity() * size_of::<Order>() + self.texts + entries
    }

    fn show(&self, order: &Order) -> Value {
        let due = (order.due < NEVER).then(|| clock::envelope(order.due));
        let ahead: Vec<&str> = flow::ahead(order).into_iter().map(|step| step.wire(order.instant)).collect();
        json!({
            "number": order.number, "awb": order.name().awb(self.seed),
            "booking_id": order.name().booking_id(self.seed), "courier_code": order.courier().code,
            "kind": if order.instant { "instant" } else { "express" }, "branch": order.branch,
            "status": order.trail.last().wire(order.instant), "charge": order.charge,
            "next": due, "ahead": ahead, "history": history(order),
        })
    }

    fn place(&mut self, draft: Draft, desk: &mut Desk<'_>) -> Checked<Reply> {
        let insurance = draft.insured.map(|value| draft.courier.insurance_fee(value));
        let charge = draft.tariff.saturating_add(insurance.unwrap_or(0));
        let number = self.placed + 1;
        if desk.wallet.balance() < charge {
            return Err(Failure::Shortage(desk.shortage.to_owned()));
        }
        let wished = self.wishes.take(draft.instant);
        let branch = wished.unwrap_or_else(|| desk.plan.branch((self.seed, number), draft.instant));
        let walker = Walker { instant: draft.instant, pickup: draft.pickup, branch };
        let proceeds = draft.collect.as_ref().map_or(0, Collect::proceeds);
        let order = Order::new(Birth {
            number,
            at: desk.now,
            charge,
            proceeds,
            people: draft.people.clone(),
            courier: draft.courier,
            service: draft.service,
            walker,
        });
        let name = order.name();
        if !desk.wallet.debit(charge, desk.now, Kind::Order, Some(name)) {
            return Err(Failure::Shortage(desk.shortage.to_owned()));
        }
        desk.wallet.expect(proceeds);
        let data = receipt(&draft, insurance.unwrap_or(0), [name.booking_id(self.seed), name.awb(self.seed)]);
        self.placed = number;
        if self.kept.len() >= desk.plan.kept.max(1)
            && let Some(gone) = self.kept.pop_front()
        {
            self.texts -= gone.heap();
            if !gone.trail.last().ends() {
                desk.wallet.settle(gone.proceeds);
            }
        }
        self.texts += order.heap();
        self.kept.push_back(order);
        self.make(self.kept.len() - 1, (desk.now, walker.first(desk.plan.begin)), desk);
        Ok(Reply::of("Order successfully created", &data).executed())
    }

    fn position(&self, number: u64) -> Option<usize> {
        let position = usize::try_from(number.checked_sub(self.kept.front()?.number)?).ok()?;
        (position < self.kept.len()).then_some(position)
    }

    fn named(&self, awb: &str) -> Option<usize> {
        let position = self.position(name::number_of(awb)?)?;
        (self.kept[position].name().awb(self.seed) == awb).then_some(position)
    }

    fn find(&self, courier_code: &str, awb: &str) -> Option<usize> {
        self.named(awb).filter(|position| self.kept[*position].courier().code == courier_code)
    }
}

/// Newest first: the documentation doesn't say.
fn history(order: &Order) -> Vec<Value> {
    let line = |(after, step): (i64, Step)| {
        let at = order.at.saturating_add(after);
        json!({"timestamp": clock::business(at), "status": step.wire(order.instant),
               "description": texts::text(order.courier().code, step)})
    };
    order.trail.iter().rev().map(line).collect()
}

#[cfg(test)]
mod tests;
