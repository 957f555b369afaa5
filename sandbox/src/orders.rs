//! Orders: placing, tracking, cancelling, and their progress.
//!
//! Ids come from the seed and a running number, so the same orders in the same sequence get the same ids. The initial
//! status is configurable ([`steps::InitialStatus`]); an order can be cancelled until the parcel is handed over, and
//! gets the published 404 afterwards.
//!
//! What always holds: an order exists if and only if its charge (tariff and insurance; the COD fee is paid by the
//! receiver) was debited; a cancelled order is refunded, once; the newest orders are kept
//! ([`branches::FlowSettings::kept`]), older ones remain only in the balance history.

pub(crate) mod branches;
pub(crate) mod ids;
pub(crate) mod progress;
mod read;
mod receipt;
mod record;
pub(crate) mod steps;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use serde_json::{Value, json};

use super::{
    clock,
    couriers::{Courier, texts},
    envelope::{ApiError, Success},
    input::{ApiResult, Fields},
    quotes::{Quotes, Validity},
    wallet::{MovementKind, Wallet},
    webhook::Outbox,
};
use branches::{FlowSettings, PlannedBranches};
use progress::TimedStep;
use receipt::{CashOnDelivery, receipt};
use record::{NEVER, NewOrder, Order, Parties};
use steps::{OrderFlow, Step};

/// An order, validated and about to be placed.
struct Draft {
    courier: &'static Courier,
    service: &'static str,
    instant: bool,
    pickup: bool,
    parties: Parties,
    tariff: u64,
    insured: Option<u64>,
    cash: Option<CashOnDelivery>,
    window: Option<(String, String)>,
}

/// Other state that orders use.
pub(crate) struct OrderContext<'a> {
    pub wallet: &'a mut Wallet,
    pub quotes: &'a mut Quotes,
    pub outbox: &'a mut Outbox,
    pub validity: Validity,
    pub flow: &'a FlowSettings,
    /// `message` of the error if the balance is too small.
    pub shortage: &'a str,
    /// The current time, Unix milliseconds.
    pub now: i64,
}

#[derive(Debug)]
pub(crate) struct Orders {
    seed: u64,
    placed: u64,
    kept: VecDeque<Order>,
    /// Bytes of the kept orders' names and addresses.
    texts: usize,
    /// When the next step of each order is due, with its number.
    schedule: BinaryHeap<Reverse<(i64, u64)>>,
    /// Steps made, by kind (express, instant) and step.
    made: [[u64; Step::ALL.len()]; 2],
    /// Branches for the next orders.
    pub planned: PlannedBranches,
}

impl Orders {
    pub(crate) fn new(seed: u64) -> Self {
        Orders {
            seed,
            placed: 0,
            kept: VecDeque::new(),
            texts: 0,
            schedule: BinaryHeap::new(),
            made: Default::default(),
            planned: PlannedBranches::default(),
        }
    }

    /// The operation Order Express.
    ///
    /// # Errors
    ///
    /// If the body is wrong or the balance too small; nothing has happened then.
    pub(crate) fn express(&mut self, fields: &Fields<'_>, context: &mut OrderContext<'_>) -> ApiResult<Success> {
        let draft = read::express(fields, self.seed)?;
        self.place(draft, context)
    }

    /// The operation Order Instant.
    ///
    /// # Errors
    ///
    /// As [`Orders::express`]; also if the `tariff_id` is unknown, used or expired.
    pub(crate) fn instant(&mut self, fields: &Fields<'_>, context: &mut OrderContext<'_>) -> ApiResult<Success> {
        let (draft, tariff_id) = read::instant(fields, context)?;
        let reply = self.place(draft, context)?;
        context.quotes.spend(tariff_id, context.validity);
        Ok(reply)
    }

    /// The operation Tracking Order.
    ///
    /// # Errors
    ///
    /// If the courier has no such order.
    pub(crate) fn track(&self, fields: &Fields<'_>) -> ApiResult<Success> {
        let (code, awb) = (fields.text("courier_code")?, fields.text("awb")?);
        let order = self.find(code, awb).map(|position| &self.kept[position]).ok_or(ApiError::NotFound)?;
        let [shipper_name, shipper_address, receiver_name, receiver_address] = order.parties.texts();
        let data = json!({
            "awb": awb, "courier": order.courier().name, "courier_code": order.courier().code,
            "service": order.service(),
            "shipper_name": shipper_name, "shipper_address": shipper_address,
            "receiver_name": receiver_name, "receiver_address": receiver_address,
            "history": history(order),
        });
        Ok(Success::of("success", &data))
    }

    /// The operation Cancel Order.
    ///
    /// # Errors
    ///
    /// If the body is wrong; the published 404 if the order is unknown or cannot be cancelled any more.
    pub(crate) fn cancel(&mut self, fields: &Fields<'_>, context: &mut OrderContext<'_>) -> ApiResult<Success> {
        let (code, awb, reason) = (fields.text("courier_code")?, fields.text("awb")?, fields.text("cancel_reason")?);
        if !(5..=150).contains(&reason.chars().count()) {
            return Err(ApiError::Invalid("cancel_reason must be 5 to 150 characters".to_owned()));
        }
        let position = self.find(code, awb).ok_or(ApiError::NotCancellable)?;
        if !self.kept[position].history.last().cancellable() {
            return Err(ApiError::NotCancellable);
        }
        self.record_step(position, TimedStep { at: context.now, step: Step::Cancelled }, context);
        let order = &self.kept[position];
        let (booking_id, status) = (order.ids().booking_id(self.seed), Step::Cancelled.status(order.instant));
        let data = json!({"awb": awb, "booking_id": booking_id, "status": status});
        Ok(Success::of("Order successfully canceled", &data).executed())
    }

    /// An order as the control address shows it.
    pub(crate) fn json_of(&self, awb: &str) -> Option<Value> {
        self.named(awb).map(|position| self.show(&self.kept[position]))
    }

    /// An order's last step, and when its next one is due (`None`: none is scheduled).
    pub(crate) fn last(&self, awb: &str) -> Option<(Step, Option<i64>)> {
        let order = &self.kept[self.named(awb)?];
        Some((order.history.last(), (order.due < NEVER).then_some(order.due)))
    }

    /// Orders after a number, oldest first, at most `limit`; only those with a status, if given.
    pub(crate) fn page(&self, after: u64, limit: usize, status: Option<&str>) -> Value {
        let first = self.kept.front().map_or(1, |order| order.number);
        let skip = usize::try_from(after.saturating_add(1).saturating_sub(first)).unwrap_or(usize::MAX);
        let fits = |order: &&Order| status.is_none_or(|status| order.history.last().status(order.instant) == status);
        let page: Vec<Value> =
            self.kept.iter().skip(skip).filter(fits).take(limit).map(|order| self.show(order)).collect();
        let gone = self.placed - self.kept.len() as u64;
        json!({"orders": page, "placed": self.placed, "kept": self.kept.len(), "gone": gone})
    }

    /// How often orders reached a status: kind, status, count. Each step of `IN_TRANSIT` counts.
    pub(crate) fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        let mut all: Vec<(&str, &str, u64)> = Vec::new();
        for (kind, name, instant) in [(0, "express", false), (1, "instant", true)] {
            for (step, count) in Step::ALL.into_iter().zip(self.made[kind]).filter(|(_, count)| *count > 0) {
                let status = step.status(instant);
                match all.last_mut().filter(|last| (last.0, last.1) == (name, status)) {
                    Some(last) => last.2 += count,
                    None => all.push((name, status, count)),
                }
            }
        }
        all
    }

    /// Memory of the orders, in bytes.
    pub(crate) fn memory(&self) -> usize {
        let entries = self.schedule.capacity() * size_of::<Reverse<(i64, u64)>>();
        self.kept.capacity() * size_of::<Order>() + self.texts + entries
    }

    fn show(&self, order: &Order) -> Value {
        let due = (order.due < NEVER).then(|| clock::utc(order.due));
        let ahead: Vec<&str> = progress::ahead(order).into_iter().map(|step| step.status(order.instant)).collect();
        json!({
            "number": order.number, "awb": order.ids().awb(self.seed),
            "booking_id": order.ids().booking_id(self.seed), "courier_code": order.courier().code,
            "kind": if order.instant { "instant" } else { "express" }, "branch": order.branch,
            "status": order.history.last().status(order.instant), "charge": order.charge,
            "next": due, "ahead": ahead, "history": history(order),
        })
    }

    fn place(&mut self, draft: Draft, context: &mut OrderContext<'_>) -> ApiResult<Success> {
        let insurance = draft.insured.map(|value| draft.courier.insurance_fee(value));
        let charge = draft.tariff.saturating_add(insurance.unwrap_or(0));
        let number = self.placed + 1;
        if context.wallet.balance() < charge {
            return Err(ApiError::InsufficientBalance(context.shortage.to_owned()));
        }
        let wished = self.planned.take(draft.instant);
        let branch = wished.unwrap_or_else(|| context.flow.branch(self.seed, number, draft.instant));
        let flow = OrderFlow { instant: draft.instant, pickup: draft.pickup, branch };
        let proceeds = draft.cash.as_ref().map_or(0, CashOnDelivery::proceeds);
        let order = Order::new(NewOrder {
            number,
            at: context.now,
            charge,
            proceeds,
            parties: draft.parties.clone(),
            courier: draft.courier,
            service: draft.service,
            flow,
        });
        let name = order.ids();
        if !context.wallet.debit(charge, context.now, MovementKind::Order, Some(name)) {
            return Err(ApiError::InsufficientBalance(context.shortage.to_owned()));
        }
        context.wallet.add_pending(proceeds);
        let data = receipt(&draft, insurance.unwrap_or(0), [name.booking_id(self.seed), name.awb(self.seed)]);
        self.placed = number;
        if self.kept.len() >= context.flow.kept.max(1)
            && let Some(gone) = self.kept.pop_front()
        {
            self.texts -= gone.heap();
            if !gone.history.last().is_final() {
                context.wallet.remove_pending(gone.proceeds);
            }
        }
        self.texts += order.heap();
        self.kept.push_back(order);
        let first = TimedStep { at: context.now, step: flow.first(context.flow.begin) };
        self.record_step(self.kept.len() - 1, first, context);
        Ok(Success::of("Order successfully created", &data).executed())
    }

    fn position(&self, number: u64) -> Option<usize> {
        let position = usize::try_from(number.checked_sub(self.kept.front()?.number)?).ok()?;
        (position < self.kept.len()).then_some(position)
    }

    fn named(&self, awb: &str) -> Option<usize> {
        let position = self.position(ids::number_in(awb)?)?;
        (self.kept[position].ids().awb(self.seed) == awb).then_some(position)
    }

    fn find(&self, courier_code: &str, awb: &str) -> Option<usize> {
        self.named(awb).filter(|position| self.kept[*position].courier().code == courier_code)
    }
}

/// Newest first; the documentation does not say.
fn history(order: &Order) -> Vec<Value> {
    let line = |(after, step): (i64, Step)| {
        let at = order.at.saturating_add(after);
        json!({"timestamp": clock::local(at), "status": step.status(order.instant),
               "description": texts::text(order.courier().code, step)})
    };
    order.history.iter().rev().map(line).collect()
}

#[cfg(test)]
mod tests;
