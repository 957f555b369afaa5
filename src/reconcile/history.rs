//! Reads a page of Fastrac's balance history, and the response of tracking.
//!
//! The format of the history's response is not published: the names of its members are those that the request's `search`
//! names, and a few plausible ones for the time. Always holds: what cannot be understood completely is an error, never a
//! shorter history. Pure. Fails with [`FormatError`].

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde_json::Value;

use crate::orders::Parties;

/// Members of a row that may hold its time. None is published.
const TIMES: [&str; 9] =
    ["created_at", "timestamp", "tanggal", "tgl", "waktu", "date", "datetime", "created", "tanggal_transaksi"];

/// Members of a row, besides its note, that may name its shipment. None is published.
const SHIPMENTS: [&str; 4] = ["awb", "resi", "no_resi", "booking_id"];

/// The response is not a history as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FormatError {
    #[error("the response is not JSON with rows in `data`")]
    Rows,
    #[error("a row has no amounts (`saldo_masuk`, `saldo_keluar`)")]
    Amount,
    #[error("a row has no time")]
    Time,
}

/// A movement of the balance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct HistoryRow {
    /// `kd_pesanan`; may be empty.
    pub(super) code: String,
    /// IDR taken; 0: it is a credit.
    pub(super) debit: u64,
    /// IDR given; 0: it is a debit.
    pub(super) credit: u64,
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
    let body: Value = serde_json::from_slice(body).map_err(|_| FormatError::Rows)?;
    let data = &body["data"];
    let rows = rows(data).ok_or(FormatError::Rows)?;
    let total = ["total", "count"].iter().find_map(|name| data[name].as_u64().or(body[name].as_u64()));
    let clock = body["timestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    Ok(HistoryPage {
        rows: rows.iter().map(|row| read_row(row, zone)).collect::<Result<_, _>>()?,
        total: total.filter(|total| *total >= rows.len() as u64),
        clock: clock.map(Timestamp::as_millisecond),
    })
}

/// `data` itself; or its only member that is a list of movements; or, if it has none, its only member that is a list.
fn rows(data: &Value) -> Option<&Vec<Value>> {
    if let Value::Array(rows) = data {
        return Some(rows);
    }
    let lists: Vec<_> = data.as_object()?.values().filter_map(Value::as_array).collect();
    let has_amounts = |rows: &&&Vec<Value>| rows.first().is_some_and(|row| row.get("saldo_keluar").is_some());
    match lists.iter().filter(has_amounts).collect::<Vec<_>>().as_slice() {
        &[rows] => Some(rows),
        [] if lists.len() == 1 => lists.first().copied(),
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
    let named = SHIPMENTS.iter().filter_map(|name| row[name].as_str());
    let in_note = note.split(|c: char| c.is_whitespace() || ",;:()[]#\"'".contains(c)).filter(|it| names_shipment(it));
    let code = row["kd_pesanan"].as_str().unwrap_or_default().to_owned();
    Ok(HistoryRow { code, debit, credit, at, shipments: named.chain(in_note).map(str::to_owned).collect() })
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

/// Whether a word of a note may be an air waybill: they differ by courier, but are long and have digits.
fn names_shipment(word: &str) -> bool {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    let plain = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_/".contains(&byte));
    plain && digits >= 4 && (8..=64).contains(&word.len())
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
}

/// Reads the response of tracking for this air waybill.
///
/// # Errors
/// [`FormatError::Rows`] if it is not one, or is of another shipment.
pub(super) fn read_tracking(body: &[u8], awb: &str) -> Result<TrackedShipment, FormatError> {
    let body: Value = serde_json::from_slice(body).map_err(|_| FormatError::Rows)?;
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
    let statuses: Vec<_> = steps.filter_map(|step| step["status"].as_str()).chain(text("status")).collect();
    // The documents spell it in both ways.
    let cancelled = |status: &&str| ["canceled", "cancelled"].iter().any(|word| status.eq_ignore_ascii_case(word));
    Ok(TrackedShipment {
        parties: parties().map(|parties| parties.digest()),
        is_cancelled: statuses.iter().any(cancelled),
        status: statuses.first().map(|status| (*status).to_owned()),
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
        assert_eq!(read.rows, [HistoryRow { code, debit: 18_000, credit: 0, at, shipments }]);
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
        assert_eq!(page(&json!({"data": {"data": [], "links": [{"url": null}]}})), Err(FormatError::Rows));
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
    fn tracking_names_the_parties_as_the_order_did() {
        let body = json!({"data": {"awb": "A1", "shipper_name": "Toko  contoh", "shipper_address": "Jl. 1",
            "receiver_name": "BUDI", "receiver_address": "Jl. 2",
            "history": [{"status": "Canceled"}, {"status": "PENDING_PICKUP"}]}});
        let read = read_tracking(body.to_string().as_bytes(), "A1").unwrap();
        let parties = Parties {
            shipper_name: "Toko Contoh",
            shipper_address: "jl. 1",
            receiver_name: "Budi",
            receiver_address: "Jl. 2",
        };
        assert_eq!(read.parties, Some(parties.digest()));
        assert!(read.is_cancelled);
        assert!(read_tracking(body.to_string().as_bytes(), "A2").is_err());
    }
}
