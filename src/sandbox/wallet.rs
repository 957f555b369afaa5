//! The account's balance and its history. All key pairs share it, as one account does.
//!
//! What always holds: the balance is the opening balance and the sum of all rows, and never falls
//! below zero; the newest rows are kept, `MOST` of them.

use std::collections::VecDeque;

use serde::Serialize;

use super::{
    clock,
    envelope::{Failure, Reply},
    input::{Checked, Fields},
};

/// Rows kept.
const MOST: usize = 1 << 20;

/// Rows of an answer if no `limit` is given, and at most.
const PAGE: (u64, u64) = (100, 1_000);

/// A movement of the balance.
#[derive(Clone, Debug)]
struct Row {
    at: i64,
    code: String,
    credit: u64,
    debit: u64,
    after: u64,
    kind: &'static str,
    note: String,
}

#[derive(Serialize)]
struct Line<'a> {
    kd_pesanan: &'a str,
    saldo_masuk: u64,
    saldo_keluar: u64,
    saldo_akhir: u64,
    keterangan: &'a str,
    status: &'a str,
    created_at: String,
}

#[derive(Serialize)]
struct History<'a> {
    balance: u64,
    pending_balance: u64,
    total: usize,
    history: Vec<Line<'a>>,
}

/// The account's money.
#[derive(Debug)]
pub struct Wallet {
    balance: u64,
    rows: VecDeque<Row>,
}

impl Wallet {
    /// A wallet with an opening balance in IDR.
    pub fn new(balance: u64, now: i64) -> Self {
        let mut wallet = Wallet { balance: 0, rows: VecDeque::new() };
        wallet.credit(balance, now, "topup", ("TOPUP-0".to_owned(), "Saldo awal".to_owned()));
        wallet
    }

    /// IDR in hand.
    pub fn balance(&self) -> u64 {
        self.balance
    }

    /// Pays for an order; false, and nothing happens, if the balance is too small.
    #[must_use]
    pub fn debit(&mut self, amount: u64, now: i64, (code, note): (String, String)) -> bool {
        let Some(after) = self.balance.checked_sub(amount) else { return false };
        self.balance = after;
        self.push(Row { at: now, code, credit: 0, debit: amount, after, kind: "order", note });
        true
    }

    /// Gives money back or in.
    pub fn credit(&mut self, amount: u64, now: i64, kind: &'static str, (code, note): (String, String)) {
        self.balance = self.balance.saturating_add(amount);
        let after = self.balance;
        self.push(Row { at: now, code, credit: amount, debit: 0, after, kind, note });
    }

    /// Balance History, newest first.
    ///
    /// # Errors
    ///
    /// A complaint about a filter.
    pub fn history(&self, fields: &Fields<'_>, now: i64) -> Checked<Reply> {
        let first = day(fields, "start_date", now.saturating_sub(31 * 86_400_000))?;
        let last = day(fields, "end_date", now)?;
        let (status, search) = (fields.text_or_empty("filter_status")?, fields.text_or_empty("search")?);
        let limit = fields.number_or("limit", PAGE.0)?.min(PAGE.1) as usize;
        let offset = usize::try_from(fields.number_or("offset", 0)?).unwrap_or(usize::MAX);
        let known = ["", "order", "tarik_tunai", "dana_cod", "bonus_referal", "topup"];
        if !known.contains(&status) {
            return Err(Failure::Invalid(format!("filter_status {status} is unknown")));
        }
        let found: Vec<&Row> = self
            .rows
            .iter()
            .rev()
            .filter(|row| status.is_empty() || row.kind == status)
            .filter(|row| (first..=last).contains(&clock::jakarta(row.at).date()))
            .filter(|row| search.is_empty() || row.matches(search))
            .collect();
        let history = found.iter().skip(offset).take(limit).map(|row| row.line()).collect();
        let data = History { balance: self.balance, pending_balance: 0, total: found.len(), history };
        Ok(Reply::of("success", &data))
    }

    fn push(&mut self, row: Row) {
        if self.rows.len() == MOST {
            self.rows.pop_front();
        }
        self.rows.push_back(row);
    }
}

impl Row {
    fn matches(&self, search: &str) -> bool {
        self.code.contains(search)
            || self.note.contains(search)
            || self.credit.to_string().contains(search)
            || self.debit.to_string().contains(search)
    }

    fn line(&self) -> Line<'_> {
        Line {
            kd_pesanan: &self.code,
            saldo_masuk: self.credit,
            saldo_keluar: self.debit,
            saldo_akhir: self.after,
            keterangan: &self.note,
            status: self.kind,
            created_at: clock::business(self.at),
        }
    }
}

fn day(fields: &Fields<'_>, name: &str, absent: i64) -> Checked<jiff::civil::Date> {
    match fields.text_or_empty(name)? {
        "" => Ok(clock::jakarta(absent).date()),
        text => text.parse().map_err(|_| Failure::Invalid(format!("{name} must be yyyy-mm-dd"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const DAY: i64 = 86_400_000;

    fn wallet() -> Wallet {
        let mut wallet = Wallet::new(100_000, 0);
        assert!(wallet.debit(30_000, DAY, ("PSN-1".into(), "Order A".into())));
        assert!(!wallet.debit(70_001, DAY, ("PSN-2".into(), "Order B".into())));
        wallet.credit(30_000, 2 * DAY, "order", ("PSN-1".into(), "Refund A".into()));
        wallet
    }

    fn ask(body: Value) -> Checked<Value> {
        let reply = wallet().history(&Fields::of(&body).unwrap(), 3 * DAY)?;
        Ok(serde_json::from_slice(&reply.data).unwrap())
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
        assert_eq!(data["history"][0]["keterangan"], "Refund A");
    }

    #[test]
    fn filters_narrow_and_pages_page() {
        let codes = |body| {
            let data = ask(body).unwrap();
            data["history"]
                .as_array()
                .unwrap()
                .iter()
                .map(|r| r["keterangan"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(codes(json!({"filter_status": "topup"})), ["Saldo awal"]);
        assert_eq!(codes(json!({"search": "PSN-1"})), ["Refund A", "Order A"]);
        assert_eq!(codes(json!({"search": "30000", "limit": 1, "offset": 1})), ["Order A"]);
        assert_eq!(codes(json!({"start_date": "1970-01-02", "end_date": "1970-01-02"})), ["Order A"]);
        assert!(ask(json!({"start_date": "yesterday"})).is_err() && ask(json!({"filter_status": "x"})).is_err());
    }
}
