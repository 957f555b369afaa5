//! One pass over an account's unknown orders: reads what it needs, and proposes.
//!
//! Always holds: one reading of the balance history serves all orders of a day; a pass sends at most [`MAX_PAGES`] reads
//! of the history for each day, and [`MAX_TRACKED`] of tracking. What cannot be read is the reason of a proposal, never an
//! error.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use jiff::{Timestamp, ToSpan as _, civil::Date, tz::TimeZone};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    history::{self, FormatError, HistoryRow, TrackedShipment},
    judge::{AROUND, Case, Debit, Judgement, OtherOrder, Scene, Shipment, judge},
    proposal::{Proposal, ProposedFinding},
    reader::{Reader, Unread},
};
use crate::{
    orders::{OrderKind, PlacedOrder, UnderWayOrder, UnknownOrder},
    outcome::Outcome,
};

const HISTORY: &str = "v2.balance_history";

/// Rows of a page of the history.
const PAGE: usize = 500;
/// Maximum number of pages that are read of one history.
const MAX_PAGES: usize = 20;
/// Maximum number of shipments that are tracked in one pass.
const MAX_TRACKED: usize = 200;
/// Maximum number of couriers that a shipment is looked for with.
const MAX_COURIERS: usize = 3;
/// Sizes of pages that APIs usually have: a history of so many rows may be cut off.
const USUAL_PAGES: [usize; 9] = [10, 15, 20, 25, 30, 50, 100, 200, 250];

/// How much longer than an order's own time the wall clock may have run, milliseconds.
const CLOCK_SLACK: i64 = 30_000;

/// Tracked shipments with their parties, by where they were tracked and air waybill. What is used of them does not change.
pub(super) type TrackedParties = Mutex<HashMap<(String, String), Shipment>>;
/// Maximum number of them.
const MAX_REMEMBERED: usize = 10_000;

pub(super) struct Pass<'a> {
    pub(super) reader: &'a Reader,
    pub(super) tracked: &'a TrackedParties,
    /// The orders that it is for; others of their days are proposed too, as far as that costs nothing.
    pub(super) wanted: HashSet<u64>,
}

/// An unknown order with what is read of its request.
struct Suspect {
    order: UnknownOrder,
    case: Case,
    /// Of the operation's name: `v2`.
    api: String,
}

/// What the wall clock and the monotonic one say of an order, milliseconds.
#[derive(Clone, Copy)]
struct OrderAges {
    came: i64,
    now: i64,
    /// When the process started.
    started: i64,
    /// By the monotonic clock, while the gateway ran.
    unknown_for: i64,
    timeout: i64,
}

impl OrderAges {
    /// Whether the wall clock was not changed since the order came. A change before the process started is not seen.
    fn agree(&self) -> bool {
        let passed = self.now - self.came;
        let is_of_this_process = self.came >= self.started;
        let most = self.unknown_for + self.timeout + CLOCK_SLACK;
        self.came > 0 && passed >= self.unknown_for - CLOCK_SLACK && !(is_of_this_process && passed > most)
    }
}

impl Pass<'_> {
    /// Proposals for these orders of the account, which are all of its unknown orders.
    pub(super) async fn run(&self, orders: Vec<UnknownOrder>) -> Vec<(u64, Proposal)> {
        let mut proposals = Vec::new();
        let mut purchases = Vec::new();
        for order in orders {
            match OrderKind::of(&order.description.operation) {
                OrderKind::Purchase => purchases.push(order),
                OrderKind::Cancellation if !self.wanted.contains(&order.number) => {}
                OrderKind::Cancellation => {
                    let judgement = self.cancellation(&order).await.unwrap_or_else(unread);
                    proposals.push(proposal(&order, judgement));
                }
                OrderKind::Other => {
                    let reason = "the gateway does not know what this operation does to the balance";
                    proposals.push(proposal(&order, Judgement::cannot_tell(reason)));
                }
            }
        }
        if !purchases.is_empty() {
            self.purchases(purchases, &mut proposals).await;
        }
        proposals
    }

    /// Of a cancellation, tracking says whether it was executed, but not whether it will be.
    async fn cancellation(&self, order: &UnknownOrder) -> Result<Judgement, Unread> {
        let request = request(order);
        let named = |name: &str| request[name].as_str().filter(|text| !text.contains('*')).map(str::to_owned);
        let (Some(awb), Some(courier)) = (named("awb"), named("courier_code")) else {
            return Ok(Judgement::cannot_tell("its air waybill or courier is not known"));
        };
        let operation = track(&api(order));
        let Some(shipment) = self.track(&operation, &awb, &courier).await? else {
            return Ok(Judgement::cannot_tell(format!("tracking does not know {awb}")));
        };
        let status = shipment.status.unwrap_or_else(|| "no status".to_owned());
        if !shipment.is_cancelled {
            let reason = format!("tracking of {awb} says {status}; it may still be cancelled");
            return Ok(Judgement { is_whole: false, ..Judgement::cannot_tell(reason) });
        }
        let reason = format!("tracking of {awb} says {status}");
        Ok(Judgement { finding: ProposedFinding::Executed, reason, debit: None, is_whole: true })
    }

    /// Groups the purchases by day.
    async fn purchases(&self, orders: Vec<UnknownOrder>, proposals: &mut Vec<(u64, Proposal)>) {
        let zone = match self.reader.zone() {
            Ok(zone) => zone,
            Err(error) => {
                proposals.extend(orders.iter().map(|order| proposal(order, unread(error.clone()))));
                return;
            }
        };
        let mut days: BTreeMap<Date, Vec<Suspect>> = BTreeMap::new();
        for order in orders {
            match self.case(&order) {
                Ok(case) => {
                    let suspect = Suspect { case, api: api(&order), order };
                    days.entry(date(suspect.case.came, &zone)).or_default().push(suspect);
                }
                Err(error) => proposals.push(proposal(&order, unread(error))),
            }
        }
        let cases: Vec<Case> = days.values().flatten().map(|suspect| suspect.case.clone()).collect();
        // The newest first.
        for (day, suspects) in days.into_iter().rev() {
            if !suspects.iter().any(|suspect| self.wanted.contains(&suspect.case.number)) {
                continue;
            }
            let judged = self.scene(day, &zone, &cases, &suspects).await.map(|scene| judge(&scene));
            let judged = judged
                .map(|judgements| cases.iter().map(|case| case.number).zip(judgements).collect::<HashMap<_, _>>());
            for suspect in &suspects {
                let judgement = match &judged {
                    Ok(judgements) => judgements.get(&suspect.case.number).cloned(),
                    Err(error) => Some(unread(error.clone())),
                };
                proposals.extend(judgement.map(|judgement| proposal(&suspect.order, judgement)));
            }
        }
    }

    fn case(&self, order: &UnknownOrder) -> Result<Case, Unread> {
        let described = &order.description;
        let timeout = millis(self.reader.timeout(&described.operation));
        let ages = OrderAges {
            came: described.at,
            now: Timestamp::now().as_millisecond(),
            started: self.reader.started,
            unknown_for: millis(order.age),
            timeout,
        };
        if !ages.agree() {
            return Err(Unread::ClockChanged);
        }
        let (number, came, parties) = (order.number, described.at, described.parties.clone());
        let courier = request(order)["courier_code"].as_str().map(str::to_owned);
        Ok(Case { number, came, latest: came + timeout, parties, courier })
    }

    /// Reads all that is needed to judge the orders of one day: some of `cases`, which are all unknown purchases.
    async fn scene(&self, day: Date, zone: &TimeZone, cases: &[Case], suspects: &[Suspect]) -> Result<Scene, Unread> {
        let orders = &self.reader.gateway.live.orders;
        let mut others = self.under_way();
        let read_at = Timestamp::now().as_millisecond();
        let oldest = suspects.iter().map(|suspect| *suspect.case.window().start()).min().unwrap_or(read_at);
        let rows = self.history(day, zone, oldest).await?;
        // Those that began or ended meanwhile are in one of these.
        others.extend(self.under_way());
        others.extend(self.unknown_besides(cases));
        let placed = orders.placed(&self.reader.account);
        let (debits, unlinked) = link(rows, &placed)?;
        others.extend(unlinked);
        let known_since = orders.placed_since();
        let (cases, zone) = (cases.to_vec(), Some(zone.clone()));
        let mut scene = Scene { cases, debits, others, known_since, read_at, unread: None, zone };
        self.track_debits(&mut scene, suspects).await;
        Ok(scene)
    }

    fn under_way(&self) -> Vec<OtherOrder> {
        let orders = self.reader.gateway.live.orders.under_way();
        let own = orders.into_iter().filter(|order| order.account == self.reader.account);
        own.map(|UnderWayOrder { description, .. }| OtherOrder {
            came: description.at,
            until: i64::MAX,
            parties: description.parties,
        })
        .collect()
    }

    /// The unknown orders that may have bought something and are not judged.
    fn unknown_besides(&self, cases: &[Case]) -> Vec<OtherOrder> {
        let judged: HashSet<u64> = cases.iter().map(|case| case.number).collect();
        let orders = self.reader.gateway.live.orders.unknown();
        let may_buy = |order: &UnknownOrder| match OrderKind::of(&order.description.operation) {
            OrderKind::Purchase => true,
            OrderKind::Cancellation => false,
            OrderKind::Other => order.description.parties.is_some(),
        };
        let others = orders
            .into_iter()
            .filter(|order| order.account == self.reader.account && !judged.contains(&order.number) && may_buy(order));
        // Its time may be wrong: that may be why it is not judged.
        others.map(|order| OtherOrder { came: i64::MIN, until: i64::MAX, parties: order.description.parties }).collect()
    }

    /// The rows of the days around one, at least from `oldest` on.
    async fn history(&self, day: Date, zone: &TimeZone, oldest: i64) -> Result<Vec<HistoryRow>, Unread> {
        let (mut rows, mut seen) = (Vec::new(), HashSet::new());
        let (mut offset, mut newest_first) = (0, true);
        for _ in 0..MAX_PAGES {
            // A day more on both sides, in case the history's days begin elsewhere.
            let body = json!({
                "start_date": day.saturating_sub(1.day()).to_string(), "end_date": day.saturating_add(1.day()).to_string(),
                "filter_status": "order", "limit": PAGE, "offset": offset,
            });
            let bytes = self.reader.read(HISTORY, &body).await?;
            let malformed = |fault| Unread::Malformed { operation: HISTORY.to_owned(), fault };
            let page = history::read_page(&bytes, zone).map_err(malformed)?;
            let count = page.rows.len();
            offset += count;
            let is_end = page.total.is_some_and(|total| offset as u64 == total);
            if page.total.is_some_and(|total| total < offset as u64 || (count == 0 && !is_end)) {
                return Err(malformed(FormatError::Partial));
            }
            let before = rows.len();
            for row in page.rows {
                if seen.insert(row.clone()) {
                    newest_first &= rows.last().is_none_or(|last: &HistoryRow| last.at >= row.at);
                    rows.push(row);
                }
            }
            let is_past = newest_first && rows.last().is_some_and(|last| last.at < oldest);
            if count == 0 || is_past || is_end {
                return Ok(rows);
            }
            if rows.len() == before {
                let is_whole = !USUAL_PAGES.contains(&count) && count < PAGE;
                return if is_whole { Ok(rows) } else { Err(Unread::SamePage) };
            }
        }
        Err(Unread::TooLong)
    }

    /// Finds out whose the debits are that no known order explains.
    async fn track_debits(&self, scene: &mut Scene, suspects: &[Suspect]) {
        let wanted: Vec<i64> = suspects
            .iter()
            .filter(|suspect| self.wanted.contains(&suspect.case.number))
            .map(|suspect| suspect.case.came)
            .collect();
        let mut order: Vec<usize> = (0..scene.debits.len()).collect();
        // The nearest to one that somebody waits for first.
        if let &[came] = wanted.as_slice() {
            order.sort_by_key(|index| scene.debits[*index].row.at.abs_diff(came));
        }
        let mut left = MAX_TRACKED;
        for index in order {
            let debit = &scene.debits[index];
            let near: Vec<_> =
                suspects.iter().filter(|suspect| suspect.case.window().contains(&debit.row.at)).collect();
            if debit.is_known || near.is_empty() {
                continue;
            }
            let names = debit.row.shipments.clone();
            scene.debits[index].shipment = match self.shipment(&names, &near, &mut left).await {
                Ok(shipment) => shipment,
                Err(error) => {
                    left = 0;
                    scene.unread.get_or_insert_with(|| error.to_string());
                    Shipment::Unread
                }
            };
        }
    }

    /// The first of these names that tracking knows.
    async fn shipment(&self, names: &[String], near: &[&Suspect], left: &mut usize) -> Result<Shipment, Unread> {
        let origin = self.reader.origin()?;
        for awb in names {
            if let Some(shipment) = self.tracked.lock().get(&(origin.clone(), awb.clone())).cloned() {
                return Ok(shipment);
            }
        }
        let mut couriers: Vec<(String, &str)> = Vec::new();
        for suspect in near {
            if let Some(courier) = &suspect.case.courier
                && !couriers.iter().any(|(_, known)| known == courier)
            {
                couriers.push((track(&suspect.api), courier));
            }
        }
        for awb in names {
            for (operation, courier) in couriers.iter().take(MAX_COURIERS) {
                if *left == 0 {
                    return Err(Unread::Late);
                }
                *left -= 1;
                let tracked = self.track(operation, awb, courier).await?;
                let Some(TrackedShipment { parties: Some(parties), courier, since, .. }) = tracked else {
                    continue;
                };
                let mut tracked = self.tracked.lock();
                if tracked.len() >= MAX_REMEMBERED {
                    tracked.clear();
                }
                let shipment = Shipment::Tracked { awb: awb.clone(), parties, courier, since };
                tracked.insert((origin, awb.clone()), shipment.clone());
                return Ok(shipment);
            }
        }
        Ok(Shipment::Nameless)
    }

    /// What tracking says; `None` if it does not know the shipment.
    async fn track(&self, operation: &str, awb: &str, courier: &str) -> Result<Option<TrackedShipment>, Unread> {
        let answer = self.reader.send(operation, &json!({ "courier_code": courier, "awb": awb })).await?;
        let zone = self.reader.zone()?;
        match (answer.outcome, answer.body) {
            (Outcome::Ok, Some(body)) => Ok(history::read_tracking(&body, awb, &zone).ok()),
            (Outcome::NotFound | Outcome::Rejected, _) => Ok(None),
            (outcome, _) => Err(Unread::Rejected { operation: operation.to_owned(), status: answer.status, outcome }),
        }
    }
}

/// The debits of a history, by time; and the orders of `placed` that no debit was found for.
fn link(rows: Vec<HistoryRow>, placed: &[PlacedOrder]) -> Result<(Vec<Debit>, Vec<OtherOrder>), Unread> {
    let ids = placed.iter().enumerate().flat_map(|(index, order)| order.ids.iter().map(move |id| (id.as_str(), index)));
    let by_id: HashMap<&str, usize> = ids.filter(|(id, _)| !id.is_empty()).collect();
    let refunded: HashSet<String> =
        rows.iter().filter(|row| row.credit > 0 && !row.code.is_empty()).map(|row| row.code.clone()).collect();
    let mut linked = HashSet::new();
    let mut debits = Vec::new();
    let debited: HashSet<String> =
        rows.iter().filter(|row| row.debit > 0 && !row.is_unclear).map(|row| row.code.clone()).collect();
    let is_refund =
        |row: &HistoryRow| !row.is_unclear && row.credit > 0 && debited.contains(&row.code) && !row.code.is_empty();
    for row in rows.into_iter().filter(|row| !is_refund(row)) {
        // It may be the debit of any order of its time.
        if row.is_unclear || row.debit == 0 {
            debits.push(Debit { row, is_known: false, is_refunded: false, shipment: Shipment::Nameless });
            continue;
        }
        let names = row.shipments.iter().chain([&row.code]);
        let order = names.into_iter().find_map(|name| by_id.get(name.as_str()).copied());
        if let Some(index) = order {
            let PlacedOrder { came, ended, .. } = placed[index];
            if !(came - AROUND..=ended + AROUND).contains(&row.at) {
                return Err(Unread::OtherTimes);
            }
            linked.insert(index);
        }
        let shipment = match row.shipments.as_slice() {
            _ if order.is_some() => Shipment::NotNeeded,
            [] => Shipment::Nameless,
            _ => Shipment::Unread,
        };
        let is_refunded = refunded.contains(&row.code);
        debits.push(Debit { row, is_known: order.is_some(), is_refunded, shipment });
    }
    debits.sort_by_key(|debit| debit.row.at);
    let unlinked = placed.iter().enumerate().filter(|(index, _)| !linked.contains(index));
    let others = unlinked.map(|(_, order)| OtherOrder {
        came: order.came,
        until: order.ended + AROUND,
        parties: order.parties.clone(),
    });
    Ok((debits, others.collect()))
}

fn proposal(order: &UnknownOrder, judgement: Judgement) -> (u64, Proposal) {
    let Judgement { finding, reason, debit, is_whole } = judgement;
    let made_at = Timestamp::now();
    (order.number, Proposal { finding, reason, debit, made_at, age: order.age, is_whole })
}

fn unread(error: Unread) -> Judgement {
    Judgement { is_whole: false, ..Judgement::cannot_tell(error.to_string()) }
}

/// The masked request; `null` if it is not known.
fn request(order: &UnknownOrder) -> Value {
    let text = order.description.request.as_deref();
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// `v2` of `v2.order_express`.
fn api(order: &UnknownOrder) -> String {
    order.description.operation.split('.').next().unwrap_or_default().to_owned()
}

fn track(api: &str) -> String {
    format!("{api}.track")
}

fn date(millis: i64, zone: &TimeZone) -> Date {
    let at = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH);
    at.to_zoned_datetime(zone.clone()).date()
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_changed_since_is_noticed() {
        let minute = 60_000;
        let sound = OrderAges {
            came: 1_000 * minute,
            now: 1_003 * minute,
            started: 900 * minute,
            unknown_for: 2 * minute,
            timeout: minute,
        };
        assert!(sound.agree());
        assert!(!OrderAges { now: 1_001 * minute, ..sound }.agree(), "set back");
        assert!(!OrderAges { now: 1_010 * minute, ..sound }.agree(), "set ahead");
        assert!(
            OrderAges { now: 1_010 * minute, started: 1_005 * minute, ..sound }.agree(),
            "it did not run meanwhile"
        );
        assert!(!OrderAges { came: 0, ..sound }.agree(), "of an earlier version");
    }
}
