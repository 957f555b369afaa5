//! Orders: placed, tracked, cancelled.
//!
//! Booking ids, air waybills and order codes come from the seed and a running number, so the same
//! orders in the same order get the same ones. An express order starts at `PENDING_PICKUP` or
//! `PENDING_DROPOFF`, an instant one at `PENDING_PICKUP`; what happens later comes with the flows.
//!
//! What always holds: an order is there if and only if its charge (tariff and insurance; the COD fee
//! is the receiver's) was taken from the wallet; only an order that nobody has collected can be
//! cancelled, once, and gives its charge back; the newest `MOST` orders are kept.

mod read;

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::{
    chance::{Purpose, draw, letters},
    clock,
    couriers::{Courier, percent},
    envelope::{Failure, Reply},
    input::{Checked, Fields},
    quotes::{Quotes, Validity},
    wallet::Wallet,
};

/// Orders kept; the oldest go first.
const MOST: usize = 1_000_000;

/// Different five-letter words.
const WORDS: u64 = 26_u64.pow(5);

/// Where an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Status {
    PendingPickup,
    PendingDropoff,
    Cancelled,
}

/// An order.
#[derive(Debug)]
struct Order {
    number: u64,
    at: i64,
    courier: &'static Courier,
    service: &'static str,
    instant: bool,
    charge: u64,
    people: People,
    events: Vec<(i64, Status)>,
}

/// Who sends and who receives.
#[derive(Clone, Debug)]
struct People {
    shipper_name: Box<str>,
    shipper_address: Box<str>,
    receiver_name: Box<str>,
    receiver_address: Box<str>,
}

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

/// Cash to collect.
struct Collect {
    item_value: u64,
    custom: u64,
}

/// What placing and cancelling need beside the orders.
pub struct Desk<'a> {
    /// Pays and is refunded.
    pub wallet: &'a mut Wallet,
    /// Offers of instant couriers.
    pub quotes: &'a mut Quotes,
    /// How long these are good.
    pub validity: Validity,
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
}

impl Orders {
    /// No orders yet.
    pub fn new(seed: u64) -> Self {
        Orders { seed, placed: 0, kept: VecDeque::new() }
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
        let history: Vec<Value> = order
            .events
            .iter()
            .rev()
            .map(|(at, status)| {
                json!({"timestamp": clock::business(*at), "status": status.wire(order.instant), "description": status.text()})
            })
            .collect();
        let data = json!({
            "awb": awb, "courier": order.courier.name, "courier_code": order.courier.code,
            "service": order.service,
            "shipper_name": order.people.shipper_name, "shipper_address": order.people.shipper_address,
            "receiver_name": order.people.receiver_name, "receiver_address": order.people.receiver_address,
            "history": history,
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
        let seed = self.seed;
        let order = &mut self.kept[position];
        if order.status() == Status::Cancelled {
            return Err(Failure::Cancel);
        }
        order.events.push((desk.now, Status::Cancelled));
        let line = (order.code(seed), format!("Pembatalan order {awb}"));
        desk.wallet.credit(order.charge, desk.now, "order", line);
        let data =
            json!({"awb": awb, "booking_id": order.booking_id(seed), "status": Status::Cancelled.wire(order.instant)});
        Ok(Reply::of("Order successfully canceled", &data).executed())
    }

    fn place(&mut self, draft: Draft, desk: &mut Desk<'_>) -> Checked<Reply> {
        let insurance = draft.insured.map(|value| draft.courier.insurance_fee(value));
        let charge = draft.tariff.saturating_add(insurance.unwrap_or(0));
        let first = if draft.pickup { Status::PendingPickup } else { Status::PendingDropoff };
        let order = Order {
            number: self.placed + 1,
            at: desk.now,
            courier: draft.courier,
            service: draft.service,
            instant: draft.instant,
            charge,
            people: draft.people.clone(),
            events: vec![(desk.now, first)],
        };
        let awb = order.awb(self.seed);
        if !desk.wallet.debit(charge, desk.now, (order.code(self.seed), format!("Pembayaran order {awb}"))) {
            return Err(Failure::Shortage(desk.shortage.to_owned()));
        }
        let data = receipt(&draft, insurance.unwrap_or(0), [order.booking_id(self.seed), awb]);
        self.placed += 1;
        if self.kept.len() == MOST {
            self.kept.pop_front();
        }
        self.kept.push_back(order);
        Ok(Reply::of("Order successfully created", &data).executed())
    }

    fn find(&self, courier_code: &str, awb: &str) -> Option<usize> {
        let number = number_of(awb)?;
        let position = usize::try_from(number.checked_sub(self.kept.front()?.number)?).ok()?;
        let order = self.kept.get(position)?;
        (order.courier.code == courier_code && order.awb(self.seed) == awb).then_some(position)
    }
}

/// What Order Express and Order Instant answer.
fn receipt(draft: &Draft, insurance: u64, [booking_id, awb]: [String; 2]) -> Value {
    let mut data = json!({"booking_id": booking_id, "awb": awb});
    if let Some((start, end)) = &draft.window {
        data["expect_pickup_start"] = json!(start);
        data["expect_pickup_end"] = json!(end);
    }
    data["tariff"] = json!(draft.tariff);
    data["insurance"] = json!(draft.insured.is_some());
    if draft.insured.is_some() {
        data["insurance_detail"] = json!({
            "insurance_percent": percent(draft.courier.insurance),
            "insurance_minimum": draft.courier.insurance_minimum, "insurance": insurance,
        });
    }
    data["cod"] = json!(draft.collect.is_some());
    if let Some(collect) = &draft.collect {
        data["cod_detail"] = bill(draft.courier, collect, draft.tariff, insurance);
    }
    data
}

/// `cod_detail`: what the receiver pays and what the merchant gets.
fn bill(courier: &Courier, collect: &Collect, tariff: u64, insurance: u64) -> Value {
    let value = if collect.custom > 0 { collect.custom } else { collect.item_value };
    let fee = courier.cod_fee(value).unwrap_or(0);
    let billed = [tariff, insurance, fee].into_iter().fold(value, u64::saturating_add);
    json!({
        "item_value": collect.item_value, "cod_fee_percent": percent(courier.cod.map_or(0, |cod| cod.0)),
        "cod_fee": fee, "cod_custom": collect.custom, "cod_billed": billed, "cod_disbursement": value,
    })
}

/// The running number in an air waybill.
fn number_of(awb: &str) -> Option<u64> {
    match awb.strip_prefix("FSTRA") {
        Some(digits) => digits.parse::<u64>().ok().map(|number| number % BLOCK),
        None => awb.split('-').nth(2)?.parse().ok(),
    }
}

/// Room for running numbers in an express air waybill; what is above comes from the seed.
const BLOCK: u64 = 10_u64.pow(10);

impl Order {
    fn status(&self) -> Status {
        self.events.last().map_or(Status::PendingPickup, |(_, status)| *status)
    }

    /// Five letters that no two of `WORDS` orders in a row share.
    fn word(&self, seed: u64) -> String {
        let first = draw(seed, Purpose::Letters, &[]) % WORDS;
        letters((first + self.number) % WORDS).map(char::from).iter().collect()
    }

    fn awb(&self, seed: u64) -> String {
        if self.instant {
            let day = clock::jakarta(self.at).strftime("%Y%m%d").to_string();
            return format!("CO.FASTRAC-{day}-{}-{}", self.number, self.word(seed));
        }
        let block = draw(seed, Purpose::Awb, &[]) % 1_000_000_000;
        format!("FSTRA{:019}", block * BLOCK + self.number)
    }

    fn booking_id(&self, seed: u64) -> String {
        format!("FSTR.CO-{}{}", clock::jakarta(self.at).strftime("%Y%m%d"), self.word(seed))
    }

    fn code(&self, seed: u64) -> String {
        format!("PSN-{}{}", clock::jakarta(self.at).strftime("%y%m%d"), self.word(seed))
    }
}

impl Status {
    /// As the API writes it; the two diagrams spell the last one differently.
    fn wire(self, instant: bool) -> &'static str {
        match self {
            Status::PendingPickup => "PENDING_PICKUP",
            Status::PendingDropoff => "PENDING_DROPOFF",
            Status::Cancelled if instant => "CANCELLED",
            Status::Cancelled => "CANCELED",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Status::PendingPickup => "Menunggu penjemputan oleh kurir",
            Status::PendingDropoff => "Menunggu paket diantar ke agen",
            Status::Cancelled => "Pesanan dibatalkan",
        }
    }
}

#[cfg(test)]
mod tests;
