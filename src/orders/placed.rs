//! The orders that have bought a shipment lately, or may have and were settled: which debits of a balance history belong
//! to orders that are not unknown.
//!
//! Always holds: what was added is on disk in the same write as the end of its order; at most [`MAX_PLACED`] are
//! remembered, and [`PlacedOrders::complete_since`] says from when on none is missing. Knows no history. Never fails; a
//! row that cannot be read is ignored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::journal::OrderRow;
use crate::{
    outcome::Outcome,
    store::{Store, StoreError, StoreTable, StoredRow, WriteBatch},
};

/// By the number of the order as eight big-endian bytes; [`SINCE`] has the time of the first start.
const PLACED: StoreTable<PlacedOrder> = StoreTable::new("orders.placed");
const SINCE: &[u8] = b"since";

/// Number of orders that are remembered; each takes about 300 bytes of memory.
const MAX_PLACED: usize = 20_000;

/// Members of a response that name its shipment. The rest is skipped: it may be long, and takes many times as much when it is parsed.
#[derive(Deserialize)]
struct Response {
    data: Ids,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Ids {
    awb: Id,
    booking_id: Id,
    kd_pesanan: Id,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Other(IgnoredAny),
}

impl Default for Id {
    fn default() -> Self {
        Id::Other(IgnoredAny)
    }
}

/// What names the shipment of an order's response: air waybill, booking id and order code.
pub(super) fn ids_in(body: &[u8]) -> Vec<String> {
    let Ok(Response { data: Ids { awb, booking_id, kd_pesanan } }) = serde_json::from_slice(body) else {
        return Vec::new();
    };
    let text = |id| match id {
        Id::Text(text) => Some(text),
        Id::Other(_) => None,
    };
    [awb, booking_id, kd_pesanan].into_iter().filter_map(text).collect()
}

/// An order that has bought a shipment, or may have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlacedOrder {
    pub account: String,
    /// When it came, milliseconds since 1970 by the wall clock of that moment.
    pub came: i64,
    /// When its outcome was known, likewise.
    pub ended: i64,
    /// Air waybill, booking id and order code, as far as they are known.
    pub ids: Vec<String>,
    /// [`Parties::digest`](super::Parties::digest), if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parties: Option<String>,
}

impl StoredRow for PlacedOrder {
    fn encode(&self) -> Vec<u8> {
        // Serializing strings and numbers cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

impl PlacedOrder {
    /// An order with a response of this outcome and [`ids_in`] it; `None` if it has bought nothing.
    pub(super) fn of(row: &OrderRow, outcome: Outcome, ids: Vec<String>, now: i64) -> Option<PlacedOrder> {
        let order = Some(row).filter(|_| outcome == Outcome::Ok).and_then(|row| Self::settled(row, now))?;
        let is_purchase = OrderKind::of(&row.description.operation) == OrderKind::Purchase;
        Some(PlacedOrder { ids: if is_purchase { ids } else { Vec::new() }, ..order })
    }

    /// An unknown order that is settled; `None` if it can have bought nothing.
    pub(super) fn settled(row: &OrderRow, now: i64) -> Option<PlacedOrder> {
        let described = &row.description;
        let buys = match OrderKind::of(&described.operation) {
            OrderKind::Purchase => true,
            OrderKind::Cancellation => false,
            // An operation of the configuration may buy too.
            OrderKind::Other => described.parties.is_some(),
        };
        let (account, parties) = (row.account.clone(), described.parties.clone());
        buys.then_some(PlacedOrder { account, came: described.at, ended: now, ids: Vec::new(), parties })
    }
}

/// What an order does, as far as the gateway knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderKind {
    /// It buys a shipment.
    Purchase,
    /// It cancels one.
    Cancellation,
    /// Anything else: unlisted requests, operations of the configuration.
    Other,
}

impl OrderKind {
    /// By the name of its operation.
    pub fn of(operation: &str) -> OrderKind {
        match operation.rsplit('.').next().unwrap_or_default() {
            "order_express" | "order_instant" => OrderKind::Purchase,
            "order_cancel" => OrderKind::Cancellation,
            _ => OrderKind::Other,
        }
    }
}

#[derive(Debug)]
pub(super) struct PlacedOrders {
    orders: BTreeMap<u64, PlacedOrder>,
    since: i64,
}

impl PlacedOrders {
    /// Reads what is remembered. `began`: from when on it lacks nothing at its first start, milliseconds since 1970: now,
    /// if there were orders before it was kept.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read or written.
    pub(super) async fn open(store: &Store, began: i64) -> Result<PlacedOrders, StoreError> {
        let mut placed = PlacedOrders { orders: BTreeMap::new(), since: began };
        let mut is_first = true;
        for loaded in store.load(&PLACED).await?.rows {
            match <[u8; 8]>::try_from(loaded.key.as_slice()) {
                Ok(number) => drop(placed.orders.insert(u64::from_be_bytes(number), loaded.row)),
                Err(_) => (placed.since, is_first) = (loaded.row.came, false),
            }
        }
        if is_first {
            let mut batch = WriteBatch::default();
            batch.put(&PLACED, SINCE, &PlacedOrder { came: began, ..PlacedOrder::default() });
            store.write(batch).await?;
        }
        if placed.orders.len() >= MAX_PLACED {
            placed.since = placed.orders.values().next().map_or(began, |oldest| oldest.ended);
        }
        Ok(placed)
    }

    pub(super) fn add(&mut self, number: u64, order: PlacedOrder, batch: &mut WriteBatch) {
        batch.put(&PLACED, &number.to_be_bytes(), &order);
        self.orders.insert(number, order);
        while self.orders.len() > MAX_PLACED
            && let Some((oldest, order)) = self.orders.pop_first()
        {
            self.since = self.since.max(order.ended);
            batch.remove(&PLACED, &oldest.to_be_bytes());
        }
    }

    /// Adds an order that was settled, unless its shipment is known.
    pub(super) fn add_settled(&mut self, number: u64, row: &OrderRow, now: i64, batch: &mut WriteBatch) {
        if let Some(order) = PlacedOrder::settled(row, now).filter(|_| !self.orders.contains_key(&number)) {
            self.add(number, order, batch);
        }
    }

    /// Those of an account.
    pub(super) fn of_account(&self, account: &str) -> Vec<PlacedOrder> {
        self.orders.values().filter(|order| order.account == account).cloned().collect()
    }

    /// A number that is higher than that of each of them.
    pub(super) fn next_number(&self) -> u64 {
        self.orders.keys().next_back().map_or(0, |last| last + 1)
    }

    /// From when on every order that ended is here, milliseconds since 1970.
    pub(super) fn complete_since(&self) -> i64 {
        self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(account: &str, came: i64) -> PlacedOrder {
        PlacedOrder { account: account.into(), came, ended: came + 1, ids: vec![format!("AWB{came}")], parties: None }
    }

    #[test]
    fn the_ids_of_a_shipment_are_read_whatever_is_beside_them() {
        let ids = |body: &str| ids_in(body.as_bytes());
        assert_eq!(
            ids(r#"{"success":true,"data":{"x":[{"awb":"no"}],"kd_pesanan":"K","awb":"A","booking_id":7}}"#),
            ["A", "K"]
        );
        for none in [r#"{"data":null}"#, r#"{"data":[]}"#, r#"{"awb":"A"}"#, r#"{"data":{"awb":null}}"#, "[]", "", "x"]
        {
            assert_eq!(ids(none), [""; 0], "{none}");
        }
    }

    #[tokio::test]
    async fn they_survive_a_restart_and_the_oldest_go_first() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let mut orders = PlacedOrders::open(&store, 7).await.unwrap();
        let mut batch = WriteBatch::default();
        orders.add(1, placed("main", 10), &mut batch);
        orders.add(2, placed("other", 20), &mut batch);
        store.write(batch).await.unwrap();
        let mut again = PlacedOrders::open(&store, 99).await.unwrap();
        assert_eq!((again.of_account("main"), again.complete_since()), (vec![placed("main", 10)], 7));
        let mut batch = WriteBatch::default();
        for number in 3..=MAX_PLACED as u64 + 2 {
            again.add(number, placed("main", 1_000), &mut batch);
        }
        assert_eq!((again.orders.len(), again.complete_since()), (MAX_PLACED, 21));
        store.write(batch).await.unwrap();
        assert_eq!(store.load(&PLACED).await.unwrap().rows.len(), MAX_PLACED + 1);
    }
}
