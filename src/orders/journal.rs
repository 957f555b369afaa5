//! The order journal on the disk: one row an order, and the answers of those that had a key.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use super::{FirstSent, fingerprint::OrderDigest};
use crate::outcome::{Outcome, Sent};
use crate::store::{StoreTable, StoredRow};

/// Orders by number, which rises with time; eight bytes, big end first.
pub(super) const ORDERS: StoreTable<OrderRow> = StoreTable::new("orders");

/// Answers by the number of their order.
pub(super) const ANSWERS: StoreTable<AnswerRow> = StoreTable::new("orders.answers");

/// Where an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OrderPhase {
    /// Perhaps sent. Found at the start: the process ended in between, so it is unknown.
    Open,
    /// It may have been executed.
    Unknown,
    /// Its answer is known, or it was settled.
    Ended,
}

/// One order. Members that later versions add are ignored, so a downgrade can read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OrderRow {
    pub(super) phase: OrderPhase,
    /// Since when, in milliseconds since 1970.
    pub(super) since: i64,
    pub(super) request_id: String,
    pub(super) account: String,
    /// Absent: it had no `Idempotency-Key`.
    pub(super) key: Option<OrderDigest>,
    pub(super) fingerprint: OrderDigest,
    pub(super) twin: OrderDigest,
    /// What its answer was called; absent without one.
    pub(super) verdict: Option<(Outcome, Sent)>,
    /// Bytes of its answer in [`ANSWERS`]; absent if it is not kept.
    pub(super) answer: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct OrderRowJson {
    phase: OrderPhase,
    since: i64,
    request_id: String,
    account: String,
    key: Option<String>,
    fingerprint: String,
    twin: String,
    outcome: Option<String>,
    sent: Option<String>,
    answer: Option<u64>,
}

impl StoredRow for OrderRow {
    fn encode(&self) -> Vec<u8> {
        let written = OrderRowJson {
            phase: self.phase,
            since: self.since,
            request_id: self.request_id.clone(),
            account: self.account.clone(),
            key: self.key.map(OrderDigest::to_text),
            fingerprint: self.fingerprint.to_text(),
            twin: self.twin.to_text(),
            outcome: self.verdict.map(|(outcome, _)| outcome.as_str().to_owned()),
            sent: self.verdict.map(|(_, sent)| sent.as_str().to_owned()),
            answer: self.answer,
        };
        // Strings, numbers and no maps: this cannot fail.
        serde_json::to_vec(&written).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let written: OrderRowJson = serde_json::from_slice(bytes).ok()?;
        let key = match written.key {
            Some(text) => Some(OrderDigest::from_text(&text)?),
            None => None,
        };
        let verdict = match (&written.outcome, &written.sent) {
            (Some(outcome), Some(sent)) => Some((outcome_of(outcome)?, sent_of(sent)?)),
            _ => None,
        };
        Some(OrderRow {
            phase: written.phase,
            since: written.since,
            request_id: written.request_id,
            account: written.account,
            key,
            fingerprint: OrderDigest::from_text(&written.fingerprint)?,
            twin: OrderDigest::from_text(&written.twin)?,
            verdict,
            answer: written.answer,
        })
    }
}

/// An answer as a repeat of its key gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredAnswer {
    /// Status of the answer.
    pub status: StatusCode,
    /// Its headers, as they were handed to [`super::Written::end`].
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Bytes,
    /// Outcome of the first attempt.
    pub outcome: Outcome,
    /// Whether the first attempt was sent.
    pub sent: Sent,
    /// Id of the request that was sent.
    pub request_id: String,
}

impl StoredAnswer {
    /// Whether the request that it answers was sent, for a repeat.
    pub fn first_sent(&self) -> FirstSent {
        FirstSent(self.sent)
    }

    /// Bytes that it takes, roughly.
    pub(super) fn size(&self) -> u64 {
        let headers: usize = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        (headers + self.body.len()) as u64
    }
}

/// [`StoredAnswer`] as bytes: status, outcome, sent, request id, count of headers, their names and
/// values, each after its length in four bytes; then the body.
pub(super) struct AnswerRow(pub(super) StoredAnswer);

impl StoredRow for AnswerRow {
    fn encode(&self) -> Vec<u8> {
        let answer = &self.0;
        let mut row = Vec::with_capacity(answer.body.len() + 512);
        put(&mut row, &answer.status.as_u16().to_be_bytes());
        put(&mut row, answer.outcome.as_str().as_bytes());
        put(&mut row, answer.sent.as_str().as_bytes());
        put(&mut row, answer.request_id.as_bytes());
        put(&mut row, &(answer.headers.len() as u32).to_be_bytes());
        for (name, value) in &answer.headers {
            put(&mut row, name.as_str().as_bytes());
            put(&mut row, value.as_bytes());
        }
        row.extend_from_slice(&answer.body);
        row
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = &mut { bytes };
        let status = StatusCode::from_u16(u16::from_be_bytes(take(rest)?.try_into().ok()?)).ok()?;
        let outcome = outcome_of(std::str::from_utf8(take(rest)?).ok()?)?;
        let sent = sent_of(std::str::from_utf8(take(rest)?).ok()?)?;
        let request_id = String::from_utf8(take(rest)?.to_owned()).ok()?;
        let count = u32::from_be_bytes(take(rest)?.try_into().ok()?);
        let mut headers = HeaderMap::new();
        for _ in 0..count {
            let name = HeaderName::from_bytes(take(rest)?).ok()?;
            headers.append(name, HeaderValue::from_bytes(take(rest)?).ok()?);
        }
        let body = Bytes::copy_from_slice(rest);
        Some(AnswerRow(StoredAnswer { status, headers, body, outcome, sent, request_id }))
    }
}

fn put(row: &mut Vec<u8>, part: &[u8]) {
    row.extend_from_slice(&(part.len() as u32).to_be_bytes());
    row.extend_from_slice(part);
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (part, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *rest = after;
    Some(part)
}

fn outcome_of(word: &str) -> Option<Outcome> {
    Outcome::ALL.into_iter().find(|outcome| outcome.as_str() == word)
}

fn sent_of(word: &str) -> Option<Sent> {
    [Sent::No, Sent::Yes, Sent::Unknown].into_iter().find(|sent| sent.as_str() == word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(headers: &[(&str, &[u8])], body: &[u8]) -> StoredAnswer {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value).unwrap()));
        StoredAnswer {
            status: StatusCode::CREATED,
            headers: headers.collect(),
            body: Bytes::copy_from_slice(body),
            outcome: Outcome::Ok,
            sent: Sent::Yes,
            request_id: "first-request".into(),
        }
    }

    #[test]
    fn an_answer_comes_back_byte_for_byte() {
        let stored = answer(&[("x-a", b"1"), ("x-a", b"2"), ("x-b", b"\xe9 \"")], b"{\"success\":true}\0\xff");
        assert_eq!(AnswerRow::decode(&AnswerRow(stored.clone()).encode()).unwrap().0, stored);
    }

    #[test]
    fn an_order_comes_back() {
        for (key, verdict) in
            [(None, None), (Some(OrderDigest::key("s", b"k")), Some((Outcome::Timeout, Sent::Unknown)))]
        {
            let row = OrderRow {
                phase: OrderPhase::Unknown,
                since: 1_764_000_000_000,
                request_id: "r-1".into(),
                account: "main".into(),
                key,
                fingerprint: OrderDigest::fingerprint("POST", "/order/express", b"{}"),
                twin: OrderDigest::twin("checkout", "/order/express", b"{}"),
                verdict,
                answer: verdict.map(|_| 17),
            };
            assert_eq!(OrderRow::decode(&row.encode()), Some(row));
        }
    }

    proptest! {
        #[test]
        fn damaged_rows_are_no_rows_and_no_panic(cut in 0usize..60, bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let whole = AnswerRow(answer(&[("x-a", b"1")], b"")).encode();
            prop_assume!(cut < whole.len());
            prop_assert!(AnswerRow::decode(&whole[..cut]).is_none());
            let _ = AnswerRow::decode(&bytes);
            prop_assert!(OrderRow::decode(&bytes).is_none());
        }
    }
}
