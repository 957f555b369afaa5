//! Reads a page of Fastrac's balance history, and the response of tracking.
//!
//! The format of the history's response is not published: the names of its members are those that the request's `search`
//! names, and a few plausible ones for the time. Always holds: what cannot be understood completely is an error, never a
//! shorter history. Pure. Fails with [`FormatError`].

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

use crate::orders::Parties;

/// Members of a row that may hold its time. None is published.
const TIMES: [&str; 9] =
    ["created_at", "timestamp", "tanggal", "tgl", "waktu", "date", "datetime", "created", "tanggal_transaksi"];

/// Members of a row, besides its note, that may name its shipment. None is published.
const SHIPMENTS: [&str; 4] = ["awb", "resi", "no_resi", "booking_id"];

/// Members that may hold the rows. None is published.
const HISTORIES: [&str; 6] = ["history", "riwayat", "data", "rows", "items", "transactions"];

/// Members that may say how many rows there are.
const TOTALS: [&str; 8] =
    ["total", "count", "total_data", "total_rows", "total_count", "total_items", "totaldata", "recordstotal"];

/// Members that may say that there are more pages.
const PAGES: [&str; 13] = [
    "page",
    "current_page",
    "last_page",
    "total_pages",
    "total_page",
    "pages",
    "next",
    "next_page",
    "next_page_url",
    "next_cursor",
    "cursor",
    "has_more",
    "has_next",
];

/// Values of `status` of movements that are no orders.
const NO_ORDERS: [&str; 4] = ["tarik_tunai", "dana_cod", "bonus_referal", "topup"];

/// Longest order code or air waybill that is kept, bytes.
const LONGEST: usize = 64;

/// The response is not a history as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FormatError {
    #[error("the response is not JSON with rows in `data`")]
    Rows,
    #[error("a row has no amounts (`saldo_masuk`, `saldo_keluar`)")]
    Amount,
    #[error("a row has no time")]
    Time,
    #[error("it says that there is more than the rows that it has, or what it says of their number is not understood")]
    Partial,
}

/// A movement of the balance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct HistoryRow {
    /// `kd_pesanan`; may be empty.
    pub(super) code: String,
    /// IDR taken; 0: it is a credit, or unclear.
    pub(super) debit: u64,
    /// IDR given; 0: it is a debit, or unclear.
    pub(super) credit: u64,
    /// It names an amount in both columns or none, or is said to be of no order.
    pub(super) is_unclear: bool,
    /// Milliseconds since 1970.
    pub(super) at: i64,
    /// What may be air waybills or booking ids in it.
    pub(super) shipments: Vec<String>,
}

/// A page of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HistoryPage {
    pub(super) rows: Vec<HistoryRow>,
    /// Number of rows of all pages, if it says so.
    pub(super) total: Option<u64>,
    /// What Fastrac's clock showed, milliseconds since 1970, if it says so.
    pub(super) clock: Option<i64>,
}

/// Reads a page whose times are in `zone`.
///
/// # Errors
/// [`FormatError`] if any row is not understood.
pub(super) fn read_page(body: &[u8], zone: &TimeZone) -> Result<HistoryPage, FormatError> {
    let Unique(body) = serde_json::from_slice(body).map_err(|_| FormatError::Rows)?;
    let rows = rows(&body["data"]).ok_or(FormatError::Rows)?;
    let mut total = None;
    read_extent(&body, &mut total)?;
    if total.is_some_and(|total| total < rows.len() as u64) {
        return Err(FormatError::Partial);
    }
    let clock = body["timestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    Ok(HistoryPage {
        rows: rows.iter().map(|row| read_row(row, zone)).collect::<Result<_, _>>()?,
        total,
        clock: clock.map(Timestamp::as_millisecond),
    })
}

/// Reads the number of rows into `total` from all objects outside of the rows.
///
/// # Errors
/// [`FormatError::Partial`] if it is not understood or given twice differently, or if there are more pages.
fn read_extent(value: &Value, total: &mut Option<u64>) -> Result<(), FormatError> {
    let Value::Object(members) = value else { return Ok(()) };
    for (name, value) in members {
        let name = name.to_ascii_lowercase();
        if TOTALS.contains(&name.as_str()) && !value.is_null() {
            let text = || value.as_str().and_then(|text| text.trim().parse().ok());
            let found = value.as_u64().or_else(text).ok_or(FormatError::Partial)?;
            if total.replace(found).is_some_and(|before| before != found) {
                return Err(FormatError::Partial);
            }
        }
        let is_only_page = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Number(number) => number.as_u64().is_some_and(|page| page <= 1),
            Value::String(text) => ["", "0", "1"].contains(&text.as_str()),
            _ => false,
        };
        if PAGES.contains(&name.as_str()) && !is_only_page {
            return Err(FormatError::Partial);
        }
        read_extent(value, total)?;
    }
    Ok(())
}

/// JSON in which no object has a member twice.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Unique)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("JSON without duplicate members")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unique(value)) = access.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut members = serde_json::Map::new();
        while let Some((name, Unique(value))) = access.next_entry::<String, Unique>()? {
            if members.insert(name, value).is_some() {
                return Err(serde::de::Error::custom("a member is there twice"));
            }
        }
        Ok(members.into())
    }
}

/// `data` itself, or its only member that may be the history; no other member may be a list of movements.
fn rows(data: &Value) -> Option<&Vec<Value>> {
    if let Value::Array(rows) = data {
        return Some(rows);
    }
    let lists = data.as_object()?.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_array()?)));
    let is_movement = |row: &Value| ["saldo_keluar", "saldo_masuk"].iter().any(|name| row.get(name).is_some());
    let candidate = |(name, rows): &(&str, &Vec<Value>)| HISTORIES.contains(name) || rows.iter().any(is_movement);
    match lists.filter(candidate).collect::<Vec<_>>().as_slice() {
        &[(name, rows)] if HISTORIES.contains(&name) => Some(rows),
        _ => None,
    }
}

fn read_row(row: &Value, zone: &TimeZone) -> Result<HistoryRow, FormatError> {
    let (debit, credit) = (amount(&row["saldo_keluar"])?, amount(&row["saldo_masuk"])?);
    if row.get("saldo_keluar").is_none() && row.get("saldo_masuk").is_none() {
        return Err(FormatError::Amount);
    }
    let at = TIMES.iter().find_map(|name| time(row[name].as_str()?, zone)).ok_or(FormatError::Time)?;
    let note = row["keterangan"].as_str().unwrap_or_default();
    let named = SHIPMENTS.iter().filter_map(|name| row[name].as_str()).filter(|text| is_code(text));
    let in_note = note.split(|c: char| c.is_whitespace() || ",;:()[]#\"'".contains(c)).filter(|it| names_shipment(it));
    let code = row["kd_pesanan"].as_str().filter(|text| is_code(text)).unwrap_or_default().to_owned();
    let is_of_no_order = row["status"].as_str().is_some_and(|status| {
        NO_ORDERS.contains(&status.to_ascii_lowercase().replace([' ', '-'], "_").replace("top_up", "topup").as_str())
    });
    let is_unclear = is_of_no_order || (debit == 0) == (credit == 0);
    let shipments = named.chain(in_note).map(str::to_owned).collect();
    Ok(HistoryRow { code, debit, credit, is_unclear, at, shipments })
}

/// Whole IDR. Absent and `null` are 0.
fn amount(value: &Value) -> Result<u64, FormatError> {
    let amount = match value {
        Value::Null => Some(0),
        Value::Number(number) => number.as_u64().or_else(|| whole(number.as_f64()?)),
        Value::String(text) if text.trim().is_empty() => Some(0),
        Value::String(text) => text.trim().parse().ok().or_else(|| whole(text.trim().parse().ok()?)),
        _ => None,
    };
    amount.ok_or(FormatError::Amount)
}

fn whole(amount: f64) -> Option<u64> {
    ((0.0..1e15).contains(&amount) && amount.fract() == 0.0).then_some(amount as u64)
}

/// `YYYY-MM-DD HH:mm:ss` in `zone`, or with an offset of its own.
fn time(text: &str, zone: &TimeZone) -> Option<i64> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time.as_millisecond());
    }
    // A date alone says nothing of the minute.
    let local = text.parse::<DateTime>().ok().filter(|_| text.contains(':'))?;
    Some(local.to_zoned_datetime(zone.clone()).ok()?.timestamp().as_millisecond())
}

/// Whether a text may be an order code or an air waybill, and so no personal data: one short word, no telephone number.
fn is_code(text: &str) -> bool {
    let is_word = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_/".contains(&byte));
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && (10..=14).contains(&text.len());
    let is_telephone = is_number && ["08", "628"].iter().any(|prefix| text.starts_with(prefix));
    is_word && !is_telephone && (1..=LONGEST).contains(&text.len())
}

/// Whether a word of a note may be an air waybill: they differ by courier, but are long and have digits.
fn names_shipment(word: &str) -> bool {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    is_code(word) && digits >= 4 && word.len() >= 8
}

/// What tracking says of a shipment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TrackedShipment {
    /// [`Parties::digest`]; `None` if it does not name all of them.
    pub(super) parties: Option<String>,
    /// Whether it was cancelled.
    pub(super) is_cancelled: bool,
    /// One of its statuses, for the reader.
    pub(super) status: Option<String>,
    /// `courier_code`
    pub(super) courier: Option<String>,
    /// When the first of its events was, milliseconds since 1970, as far as their times are understood.
    pub(super) since: Option<i64>,
}

/// Reads the response of tracking for this air waybill.
///
/// # Errors
/// [`FormatError::Rows`] if it is not one, or is of another shipment.
pub(super) fn read_tracking(body: &[u8], awb: &str, zone: &TimeZone) -> Result<TrackedShipment, FormatError> {
    let Unique(body) = serde_json::from_slice(body).map_err(|_| FormatError::Rows)?;
    let data = &body["data"];
    if data["awb"].as_str() != Some(awb) {
        return Err(FormatError::Rows);
    }
    let text = |name: &str| data[name].as_str();
    let parties = || {
        Some(Parties {
            shipper_name: text("shipper_name")?,
            shipper_address: text("shipper_address")?,
            receiver_name: text("receiver_name")?,
            receiver_address: text("receiver_address")?,
        })
    };
    let steps = data["history"].as_array().into_iter().flatten();
    let since = steps.clone().filter_map(|step| time(step["timestamp"].as_str()?, zone)).min();
    let statuses: Vec<_> = steps.filter_map(|step| step["status"].as_str()).chain(text("status")).collect();
    // The documents spell it in both ways.
    let cancelled = |status: &&str| ["canceled", "cancelled"].iter().any(|word| status.eq_ignore_ascii_case(word));
    Ok(TrackedShipment {
        parties: parties().map(|parties| parties.digest()),
        is_cancelled: statuses.iter().any(cancelled),
        status: statuses.first().map(|status| status.chars().filter(|c| c.is_ascii_graphic()).take(LONGEST).collect()),
        courier: text("courier_code").map(str::to_owned),
        since,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn jakarta() -> TimeZone {
        TimeZone::get("Asia/Jakarta").unwrap()
    }

    fn page(body: &Value) -> Result<HistoryPage, FormatError> {
        read_page(body.to_string().as_bytes(), &jakarta())
    }

    #[test]
    fn a_row_says_what_was_taken_when_and_for_which_shipment() {
        let row = json!({"kd_pesanan": "PSN-260102ABCDE", "saldo_masuk": 0, "saldo_keluar": 18000,
            "keterangan": "Pembayaran order FSTRA0000000000000000001", "created_at": "2026-01-02 10:04:05"});
        let read = page(
            &json!({"success": true, "data": {"total": 1, "history": [row]}, "timestamp": "2026-01-02T03:04:06.500Z"}),
        );
        let read = read.unwrap();
        let at = 1_767_323_045_000;
        let code = "PSN-260102ABCDE".to_owned();
        let shipments = vec!["FSTRA0000000000000000001".to_owned()];
        assert_eq!(read.rows, [HistoryRow { code, debit: 18_000, credit: 0, is_unclear: false, at, shipments }]);
        assert_eq!((read.total, read.clock), (Some(1), Some(at + 1_500)));
    }

    #[test]
    fn amounts_and_times_may_be_written_in_several_ways() {
        for (amount, time) in [
            (json!("18000"), "2026-01-02 10:04:05"),
            (json!("18000.00"), "2026-01-02T10:04:05"),
            (json!(18000.0), "2026-01-02T03:04:05Z"),
        ] {
            let read = page(&json!({"data": [{"saldo_keluar": amount, "tanggal": time}]})).unwrap();
            assert_eq!((read.rows[0].debit, read.rows[0].at), (18_000, 1_767_323_045_000));
        }
        let awb = json!({"data": [{"saldo_keluar": 1, "waktu": "2026-01-02T03:04:05Z", "resi": "JX1", "keterangan": "Order 12 (CO.FASTRAC-20260102-7-ABCDE)"}]});
        assert_eq!(page(&awb).unwrap().rows[0].shipments, ["JX1", "CO.FASTRAC-20260102-7-ABCDE"]);
    }

    #[test]
    fn the_rows_are_found_beside_other_lists() {
        let row = json!({"saldo_keluar": 1, "created_at": "2026-01-02 10:04:05"});
        let body = json!({"data": {"data": [row], "links": [{"url": null}], "total": 7}});
        let read = page(&body).unwrap();
        assert_eq!((read.rows.len(), read.total), (1, Some(7)));
    }

    #[test]
    fn what_is_not_understood_is_never_a_shorter_history() {
        let row = json!({"saldo_keluar": 1, "created_at": "2026-01-02 10:04:05"});
        for (body, error) in [
            (json!({"data": null}), FormatError::Rows),
            (json!({"data": {"a": [row.clone()], "b": [row.clone()]}}), FormatError::Rows),
            (json!({"data": [row.clone(), {"saldo_keluar": 1, "created_at": "2026-01-02"}]}), FormatError::Time),
            (json!({"data": [row.clone(), {"saldo_keluar": 1}]}), FormatError::Time),
            (json!({"data": [{"created_at": "2026-01-02 10:04:05"}]}), FormatError::Amount),
            (json!({"data": [{"saldo_keluar": -1, "created_at": "2026-01-02 10:04:05"}]}), FormatError::Amount),
            (json!({"data": [{"saldo_keluar": "Rp 1", "created_at": "2026-01-02 10:04:05"}]}), FormatError::Amount),
            (json!({"data": ["x"]}), FormatError::Amount),
        ] {
            assert_eq!(page(&body), Err(error), "{body}");
        }
        assert_eq!(read_page(b"<html>", &jakarta()), Err(FormatError::Rows));
        assert_eq!(page(&json!({"data": []})).unwrap().rows, []);
    }

    #[test]
    fn a_history_that_may_not_be_whole_is_not_understood() {
        for (data, error) in [
            (json!({"total": -1, "history": []}), FormatError::Partial),
            (json!({"total": "many", "history": []}), FormatError::Partial),
            (json!({"history": [], "page": 1, "last_page": 3}), FormatError::Partial),
            (json!({"history": [], "meta": {"next": "/2"}}), FormatError::Partial),
            (json!({"history": [], "total": 0, "total_data": 9}), FormatError::Partial),
            (json!({"banners": [], "history_url": "x"}), FormatError::Rows),
            (json!({"history": [], "other": [{"saldo_masuk": 1}]}), FormatError::Rows),
        ] {
            assert_eq!(page(&json!({ "data": data.clone() })), Err(error), "{data}");
        }
        assert_eq!(read_page(br#"{"data":{"history":[1],"history":[]}}"#, &jakarta()), Err(FormatError::Rows));
        for total in [json!({"total": "5", "history": []}), json!({"history": [], "total_data": 5})] {
            assert_eq!(page(&json!({ "data": total })).unwrap().total, Some(5));
        }
    }

    #[test]
    fn a_row_without_one_amount_is_unclear_and_only_a_code_is_kept() {
        for (row, unclear) in [
            (json!({"saldo_keluar": 5, "saldo_masuk": 0, "status": "order"}), false),
            (json!({"saldo_keluar": null}), true),
            (json!({"saldo_keluar": "", "saldo_masuk": 0}), true),
            (json!({"saldo_keluar": 0}), true),
            (json!({"saldo_keluar": 5, "saldo_masuk": 5}), true),
            (json!({"saldo_keluar": 5, "status": "topup"}), true),
        ] {
            let mut row = row;
            row["created_at"] = json!("2026-01-02 10:04:05");
            assert_eq!(page(&json!({ "data": [row.clone()] })).unwrap().rows[0].is_unclear, unclear, "{row}");
        }
        for code in ["P".repeat(65).as_str(), "Budi 0812 b@x.id", "081234567890", "P\u{1b}[2J"] {
            let row = json!({"kd_pesanan": code, "saldo_keluar": 1, "created_at": "2026-01-02 10:04:05"});
            assert_eq!(page(&json!({ "data": [row] })).unwrap().rows[0].code, "", "{code}");
        }
    }

    #[test]
    fn tracking_names_the_parties_as_the_order_did() {
        let body = json!({"data": {"awb": "A1", "shipper_name": "Toko  contoh", "shipper_address": "Jl. 1",
            "receiver_name": "BUDI", "receiver_address": "Jl. 2",
            "history": [{"status": "Canceled"}, {"status": "PENDING_PICKUP"}]}});
        let read = read_tracking(body.to_string().as_bytes(), "A1", &jakarta()).unwrap();
        let parties = Parties {
            shipper_name: "Toko Contoh",
            shipper_address: "jl. 1",
            receiver_name: "Budi",
            receiver_address: "Jl. 2",
        };
        assert_eq!(read.parties, Some(parties.digest()));
        assert!(read.is_cancelled);
        assert!(read_tracking(body.to_string().as_bytes(), "A2", &jakarta()).is_err());
    }
}
