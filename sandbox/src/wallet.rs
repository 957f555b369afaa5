//! The account's balance and its history, shared by all key pairs.
//!
//! Orders are debited and refunded when cancelled; cash that a courier collected is credited on delivery, and is
//! pending until then. The format of the response is not public: members have the names that the fact sheet assumes.
//!
//! What always holds: the balance is the opening balance plus all movements, and never negative; the newest movements
//! are kept, [`MAX_MOVEMENTS`] of them, 48 bytes each: a movement stores its order's number, and its texts are made when it is
//! shown.

use std::collections::VecDeque;

use jiff::{ToSpan, civil::Date};
use serde::{Deserialize, Serialize};

use super::{
    clock,
    envelope::{ApiError, Success},
    input::{ApiResult, Fields},
    orders::ids::OrderIds,
};

/// Maximum number of movements kept.
const MAX_MOVEMENTS: usize = 1 << 20;

/// Default and maximum number of rows of a response.
const PAGE: (u64, u64) = (100, 1_000);

/// What changed the balance: `filter_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MovementKind {
    /// An order or its refund.
    Order,
    /// A withdrawal.
    TarikTunai,
    /// Cash collected on delivery.
    DanaCod,
    /// A referral bonus.
    BonusReferal,
    /// A deposit.
    Topup,
}

/// A change of the balance.
#[derive(Clone, Copy, Debug)]
struct Movement {
    at: i64,
    /// The order's number and time; number 0: none.
    order: (u64, i64),
    amount: u64,
    after: u64,
    kind: MovementKind,
    instant: bool,
    credit: bool,
}

/// A movement that is about to be recorded.
struct Booking {
    at: i64,
    kind: MovementKind,
    credit: bool,
    amount: u64,
    order: Option<OrderIds>,
}

#[derive(Serialize)]
struct HistoryRow {
    kd_pesanan: String,
    saldo_masuk: u64,
    saldo_keluar: u64,
    saldo_akhir: u64,
    keterangan: String,
    status: &'static str,
    created_at: String,
}

#[derive(Serialize)]
struct History {
    balance: u64,
    pending_balance: u64,
    total: usize,
    history: Vec<HistoryRow>,
}

#[derive(Debug)]
pub(crate) struct Wallet {
    seed: u64,
    balance: u64,
    pending: u64,
    rows: VecDeque<Movement>,
}

impl Wallet {
    /// `balance` is the opening balance in IDR.
    pub(crate) fn new(balance: u64, now: i64, seed: u64) -> Self {
        let mut wallet = Wallet { seed, balance: 0, pending: 0, rows: VecDeque::new() };
        wallet.credit(balance, now, MovementKind::Topup, None);
        wallet
    }

    /// In IDR.
    pub(crate) fn balance(&self) -> u64 {
        self.balance
    }

    /// Debits an amount; false, without effect, if the balance is too small.
    #[must_use]
    pub(crate) fn debit(&mut self, amount: u64, now: i64, kind: MovementKind, order: Option<OrderIds>) -> bool {
        let Some(after) = self.balance.checked_sub(amount) else { return false };
        self.balance = after;
        self.push(Booking { at: now, kind, credit: false, amount, order });
        true
    }

    pub(crate) fn credit(&mut self, amount: u64, now: i64, kind: MovementKind, order: Option<OrderIds>) {
        self.balance = self.balance.saturating_add(amount);
        self.push(Booking { at: now, kind, credit: true, amount, order });
    }

    /// Adds an amount that a courier will collect.
    pub(crate) fn add_pending(&mut self, amount: u64) {
        self.pending = self.pending.saturating_add(amount);
    }

    /// Removes an amount that was collected or will not be.
    pub(crate) fn remove_pending(&mut self, amount: u64) {
        self.pending = self.pending.saturating_sub(amount);
    }

    /// The operation Balance History, newest first.
    ///
    /// # Errors
    ///
    /// If a filter is wrong.
    pub(crate) fn history(&self, fields: &Fields<'_>, now: i64) -> ApiResult<Success> {
        let today = clock::jakarta(now).date();
        let first = day(fields, "start_date", today.saturating_sub(1.month()))?;
        let last = day(fields, "end_date", today)?;
        let (begin, end) = (clock::midnight(first), clock::midnight(last.saturating_add(1.day())));
        let kind = kind(fields.text_or_empty("filter_status")?)?;
        let search = fields.text_or_empty("search")?;
        let limit = fields.number_or("limit", PAGE.0)?.min(PAGE.1) as usize;
        let offset = usize::try_from(fields.number_or("offset", 0)?).unwrap_or(usize::MAX);
        let mut total = 0;
        let mut history = Vec::new();
        for row in self.rows.iter().rev() {
            let in_time = (begin..end).contains(&row.at);
            if !in_time || kind.is_some_and(|kind| kind != row.kind) {
                continue;
            }
            if !search.is_empty() && !self.line(row).matches(search) {
                continue;
            }
            if total >= offset && history.len() < limit {
                history.push(self.line(row));
            }
            total += 1;
        }
        let data = History { balance: self.balance, pending_balance: self.pending, total, history };
        Ok(Success::of("success", &data))
    }

    /// Memory of the movements, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.rows.capacity() * size_of::<Movement>()
    }

    fn push(&mut self, booking: Booking) {
        let Booking { at, kind, credit, amount, order } = booking;
        if self.rows.len() == MAX_MOVEMENTS {
            self.rows.pop_front();
        }
        let (number, placed, instant) = order.map_or((0, 0, false), |name| (name.number, name.at, name.instant));
        self.rows.push_back(Movement {
            at,
            order: (number, placed),
            amount,
            after: self.balance,
            kind,
            instant,
            credit,
        });
    }

    fn line(&self, row: &Movement) -> HistoryRow {
        let (number, at) = row.order;
        let name = OrderIds { number, at, instant: row.instant };
        let what = match (row.kind, row.credit) {
            (MovementKind::Order, false) => "Pembayaran order",
            (MovementKind::Order, true) => "Pembatalan order",
            (MovementKind::TarikTunai, _) => "Tarik tunai",
            (MovementKind::DanaCod, _) => "Dana COD order",
            (MovementKind::BonusReferal, _) => "Bonus referal",
            (MovementKind::Topup, _) => "Topup saldo",
        };
        let (code, note) = match number {
            0 => (String::new(), what.to_owned()),
            _ => (name.code(self.seed), format!("{what} {}", name.awb(self.seed))),
        };
        HistoryRow {
            kd_pesanan: code,
            saldo_masuk: if row.credit { row.amount } else { 0 },
            saldo_keluar: if row.credit { 0 } else { row.amount },
            saldo_akhir: row.after,
            keterangan: note,
            status: row.kind.name(),
            created_at: clock::local(row.at),
        }
    }
}

impl MovementKind {
    const ALL: [MovementKind; 5] = [
        MovementKind::Order,
        MovementKind::TarikTunai,
        MovementKind::DanaCod,
        MovementKind::BonusReferal,
        MovementKind::Topup,
    ];

    /// Value of `filter_status`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            MovementKind::Order => "order",
            MovementKind::TarikTunai => "tarik_tunai",
            MovementKind::DanaCod => "dana_cod",
            MovementKind::BonusReferal => "bonus_referal",
            MovementKind::Topup => "topup",
        }
    }
}

impl HistoryRow {
    fn matches(&self, search: &str) -> bool {
        self.kd_pesanan.contains(search)
            || self.keterangan.contains(search)
            || self.saldo_masuk.to_string().contains(search)
            || self.saldo_keluar.to_string().contains(search)
    }
}

fn kind(text: &str) -> ApiResult<Option<MovementKind>> {
    match text {
        "" => Ok(None),
        text => match MovementKind::ALL.into_iter().find(|kind| kind.name() == text) {
            Some(kind) => Ok(Some(kind)),
            None => Err(ApiError::Invalid(format!("filter_status {text} is unknown"))),
        },
    }
}

fn day(fields: &Fields<'_>, name: &str, absent: Date) -> ApiResult<Date> {
    match fields.text_or_empty(name)? {
        "" => Ok(absent),
        text => text.parse().map_err(|_| ApiError::Invalid(format!("{name} must be yyyy-mm-dd"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const DAY: i64 = 86_400_000;

    fn name(number: u64) -> OrderIds {
        OrderIds { number, at: DAY, instant: false }
    }

    fn wallet() -> Wallet {
        let mut wallet = Wallet::new(100_000, 0, 1);
        assert!(wallet.debit(30_000, DAY, MovementKind::Order, Some(name(1))));
        assert!(!wallet.debit(70_001, DAY, MovementKind::Order, Some(name(2))));
        wallet.credit(30_000, 2 * DAY, MovementKind::Order, Some(name(1)));
        wallet
    }

    fn ask_of(wallet: &Wallet, body: Value) -> ApiResult<Value> {
        let reply = wallet.history(&Fields::of(&body).unwrap(), 3 * DAY)?;
        Ok(serde_json::from_slice(&reply.data).unwrap())
    }

    fn ask(body: Value) -> ApiResult<Value> {
        ask_of(&wallet(), body)
    }

    #[test]
    fn rows_add_up_to_the_balance() {
        let data = ask(json!({})).unwrap();
        assert_eq!(data["balance"], 100_000);
        let sum: i64 = data["history"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["saldo_masuk"].as_i64().unwrap() - row["saldo_keluar"].as_i64().unwrap())
            .sum();
        assert_eq!(sum, 100_000);
        assert_eq!(data["history"][0]["keterangan"], format!("Pembatalan order {}", name(1).awb(1)));
        assert_eq!(data["history"][0]["kd_pesanan"], name(1).code(1));
    }

    #[test]
    fn filters_narrow() {
        let notes = |body| {
            let data = ask(body).unwrap();
            let rows = data["history"].as_array().unwrap();
            rows.iter().map(|row| row["keterangan"].as_str().unwrap()[..10].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(notes(json!({"filter_status": "topup"})), ["Topup sald"]);
        assert_eq!(notes(json!({"search": name(1).code(1)})), ["Pembatalan", "Pembayaran"]);
        assert_eq!(notes(json!({"search": "30000", "limit": 1, "offset": 1})), ["Pembayaran"]);
        assert_eq!(notes(json!({"start_date": "1970-01-02", "end_date": "1970-01-02"})), ["Pembayaran"]);
        assert!(ask(json!({"start_date": "yesterday"})).is_err() && ask(json!({"filter_status": "x"})).is_err());
    }

    proptest! {
        #[test]
        fn pages_are_the_whole_in_pieces(rows in 1_u64..40, limit in 1_usize..12) {
            let mut wallet = Wallet::new(1_000_000, 0, 1);
            for number in 1..=rows {
                assert!(wallet.debit(number, DAY + i64::try_from(number).unwrap() * 1_000, MovementKind::Order, Some(name(number))));
            }
            let whole = ask_of(&wallet, json!({"limit": 1_000})).unwrap();
            let mut pieces = Vec::new();
            loop {
                let page = ask_of(&wallet, json!({"limit": limit, "offset": pieces.len()})).unwrap();
                prop_assert_eq!(&page["total"], &whole["total"]);
                let page = page["history"].as_array().unwrap().clone();
                if page.is_empty() {
                    break;
                }
                prop_assert!(page.len() <= limit);
                pieces.extend(page);
            }
            prop_assert_eq!(&Value::Array(pieces), &whole["history"]);
        }
    }
}
