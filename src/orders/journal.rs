//! The order journal on disk: one row per order, and the answers of orders that have a key or have reached nobody.
//!
//! Always holds: what is written reads back unchanged, and a damaged row decodes to `None`, without a
//! panic. Pure; knows no store but its row types.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use strum::VariantArray as _;

use super::fingerprint::OrderDigest;
use crate::{
    outcome::{Outcome, Sent},
    store::{StoreTable, StoredRow},
};

/// Orders by number, which grows with time; the key is the number as eight big-endian bytes.
pub(super) const ORDERS: StoreTable<OrderRow> = StoreTable::new("orders");

/// Answers of orders that have a key, or that have not reached their caller, by the number of the order, encoded as in [`ORDERS`].
pub(super) const ANSWERS: StoreTable<AnswerRow> = StoreTable::new("orders.answers");

/// Which archive has the orders that have left the journal, under [`ARCHIVED_KEY`].
pub(super) const ARCHIVED: StoreTable<ArchivedRow> = StoreTable::new("orders.archived");
pub(super) const ARCHIVED_KEY: &[u8] = b"";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OrderPhase {
    /// In flight: it may have been sent. If found at start, the process ended meanwhile, so the order
    /// is unknown.
    Open,
    /// It may have been executed.
    Unknown,
    /// Its outcome is known, or it was settled.
    Ended,
    /// Its outcome is known, and its answer has reached nobody so far.
    Undelivered,
}

/// One order. Members added by later versions are ignored, so a downgrade can read the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OrderRow {
    pub(super) phase: OrderPhase,
    /// Start of the phase, milliseconds since 1970.
    pub(super) since: i64,
    pub(super) request_id: String,
    pub(super) account: String,
    /// `None` without an `Idempotency-Key`.
    pub(super) key: Option<OrderDigest>,
    pub(super) fingerprint: OrderDigest,
    pub(super) content: OrderDigest,
    /// `None` without an answer.
    pub(super) result: Option<AnswerResult>,
    /// Size of its answer in [`ANSWERS`], bytes; `None` if none is stored.
    pub(super) answer_bytes: Option<u64>,
    /// For operators.
    pub(super) description: OrderDescription,
}

/// What operators are shown of an order; empty in rows of earlier versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OrderDescription {
    /// Name of the service.
    pub service: String,
    /// Its request's method; `other` if it is not registered.
    pub method: String,
    /// Its request's path, without query. Masked; in rows of earlier versions it is not.
    pub path: String,
    /// When it came, milliseconds since 1970 by the wall clock of that moment.
    pub at: i64,
    /// Name of its operation.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operation: String,
    /// Its body, masked; absent once its outcome is known, and if it cannot be masked or is too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// [`Parties::digest`](super::Parties::digest) of its shipper and receiver; absent like `request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parties: Option<String>,
}

impl OrderDescription {
    /// Its outcome is known: what only serves to find it out is forgotten.
    pub(super) fn known(&mut self) {
        (self.request, self.parties) = (None, None);
    }
}

/// Outcome and `sent` of an answer; remembered even when the answer itself is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AnswerResult {
    pub(super) outcome: Outcome,
    pub(super) sent: Sent,
}

/// The row as written. Its names are on disk: they must not change.
#[derive(Serialize, Deserialize)]
struct OrderRowJson {
    phase: OrderPhase,
    since: i64,
    request_id: String,
    account: String,
    key: Option<String>,
    fingerprint: String,
    #[serde(rename = "twin")]
    content: String,
    outcome: Option<String>,
    sent: Option<String>,
    answer: Option<u64>,
    #[serde(default)]
    description: OrderDescription,
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
            content: self.content.to_text(),
            outcome: self.result.map(|result| result.outcome.as_str().to_owned()),
            sent: self.result.map(|result| result.sent.as_str().to_owned()),
            answer: self.answer_bytes,
            description: self.description.clone(),
        };
        // Serializing strings and numbers cannot fail.
        serde_json::to_vec(&written).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let written: OrderRowJson = serde_json::from_slice(bytes).ok()?;
        let key = match written.key {
            Some(text) => Some(OrderDigest::from_text(&text)?),
            None => None,
        };
        let result = match (&written.outcome, &written.sent) {
            (Some(outcome), Some(sent)) => {
                Some(AnswerResult { outcome: parse_outcome(outcome)?, sent: parse_sent(sent)? })
            }
            _ => None,
        };
        Some(OrderRow {
            phase: written.phase,
            since: written.since,
            request_id: written.request_id,
            account: written.account,
            key,
            fingerprint: OrderDigest::from_text(&written.fingerprint)?,
            content: OrderDigest::from_text(&written.content)?,
            result,
            answer_bytes: written.answer,
            description: written.description,
        })
    }
}

/// An answer as a repeat of its key receives it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredAnswer {
    /// Status of the answer.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Bytes,
    /// Outcome of the first request.
    pub outcome: Outcome,
    /// Whether the first request was sent.
    pub sent: Sent,
    /// Id of the first request.
    pub request_id: String,
}

/// Whether the first request with an `Idempotency-Key` was sent. Only this room creates one, so it
/// cannot be confused with what became of the repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstSent(Sent);

impl FirstSent {
    pub(super) fn new(sent: Sent) -> Self {
        FirstSent(sent)
    }

    /// Whether Fastrac may have received the first request.
    pub fn get(self) -> Sent {
        self.0
    }
}

impl StoredAnswer {
    /// Whether the request that it answers was sent, for a repeat.
    pub fn first_sent(&self) -> FirstSent {
        FirstSent(self.sent)
    }

    /// Size of headers and body, bytes.
    pub(super) fn size(&self) -> u64 {
        let headers: usize = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        (headers + self.body.len()) as u64
    }
}

/// A [`StoredAnswer`] as bytes: status, outcome, sent, request id, number of headers, their names and
/// values, each preceded by its length in four bytes; then the body.
#[derive(Debug)]
pub(super) struct AnswerRow(pub(super) Arc<StoredAnswer>);

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
        let outcome = parse_outcome(std::str::from_utf8(take(rest)?).ok()?)?;
        let sent = parse_sent(std::str::from_utf8(take(rest)?).ok()?)?;
        let request_id = String::from_utf8(take(rest)?.to_owned()).ok()?;
        let count = u32::from_be_bytes(take(rest)?.try_into().ok()?);
        let mut headers = HeaderMap::new();
        for _ in 0..count {
            let name = HeaderName::from_bytes(take(rest)?).ok()?;
            headers.append(name, HeaderValue::from_bytes(take(rest)?).ok()?);
        }
        let body = Bytes::copy_from_slice(rest);
        Some(AnswerRow(Arc::new(StoredAnswer { status, headers, body, outcome, sent, request_id })))
    }
}

/// Which archive belongs to the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ArchivedRow {
    /// The last of its batches whose orders have left the journal; 0: none has left it.
    pub(super) batch: u64,
    /// Its id.
    pub(super) archive: u64,
}

impl ArchivedRow {
    /// Whether an archive with this id and so many batches has all orders that have left the journal.
    pub(super) fn is_in(self, archive: u64, batches: u64) -> bool {
        self.batch == 0 || (self.batch <= batches && self.archive == archive)
    }
}

impl StoredRow for ArchivedRow {
    fn encode(&self) -> Vec<u8> {
        [self.batch.to_be_bytes(), self.archive.to_be_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (batch, archive) = bytes.split_first_chunk()?;
        Some(ArchivedRow { batch: u64::from_be_bytes(*batch), archive: u64::from_be_bytes(archive.try_into().ok()?) })
    }
}

/// Appends a part, preceded by its length in four bytes.
pub(super) fn put(row: &mut Vec<u8>, part: &[u8]) {
    row.extend_from_slice(&(part.len() as u32).to_be_bytes());
    row.extend_from_slice(part);
}

/// Takes a part that [`put`] has appended.
pub(super) fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (part, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *rest = after;
    Some(part)
}

pub(super) fn parse_outcome(word: &str) -> Option<Outcome> {
    Outcome::VARIANTS.iter().copied().find(|outcome| outcome.as_str() == word)
}

pub(super) fn parse_sent(word: &str) -> Option<Sent> {
    Sent::VARIANTS.iter().copied().find(|sent| sent.as_str() == word)
}

#[cfg(test)]
mod tests {
    use http::Method;
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

    fn description() -> OrderDescription {
        OrderDescription {
            service: "shop".into(),
            method: "POST".into(),
            path: "/order/express".into(),
            at: 7,
            ..OrderDescription::default()
        }
    }

    #[test]
    fn an_answer_comes_back_byte_for_byte() {
        let stored = answer(&[("x-a", b"1"), ("x-a", b"2"), ("x-b", b"\xe9 \"")], b"{\"success\":true}\0\xff");
        let stored = Arc::new(stored);
        assert_eq!(AnswerRow::decode(&AnswerRow(stored.clone()).encode()).unwrap().0, stored);
    }

    #[test]
    fn an_order_comes_back() {
        let timeout = AnswerResult { outcome: Outcome::Timeout, sent: Sent::Unknown };
        for (key, result) in [(None, None), (Some(OrderDigest::key("s", b"k")), Some(timeout))] {
            let row = OrderRow {
                phase: OrderPhase::Unknown,
                since: 1_764_000_000_000,
                request_id: "r-1".into(),
                account: "main".into(),
                key,
                fingerprint: OrderDigest::fingerprint("POST", "/order/express", b"{}"),
                content: OrderDigest::content("checkout", &Method::POST, "/order/express", b"{}"),
                result,
                answer_bytes: result.map(|_| 17),
                description: description(),
            };
            assert_eq!(OrderRow::decode(&row.encode()), Some(row));
        }
    }

    /// The names are on disk in every installation: a renamed field would lose its journal.
    #[test]
    fn the_names_of_a_row_stay() {
        let digest = OrderDigest::key("s", b"k");
        let row = OrderRow {
            phase: OrderPhase::Open,
            since: 1,
            request_id: "r-1".into(),
            account: "main".into(),
            key: None,
            fingerprint: digest,
            content: digest,
            result: Some(AnswerResult { outcome: Outcome::Ok, sent: Sent::Yes }),
            answer_bytes: Some(2),
            description: description(),
        };
        let text = digest.to_text();
        let json = serde_json::json!({
            "phase": "open", "since": 1, "request_id": "r-1", "account": "main", "key": null, "fingerprint": text,
            "twin": text, "outcome": "ok", "sent": "yes", "answer": 2,
            "description": { "service": "shop", "method": "POST", "path": "/order/express", "at": 7 },
        });
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&row.encode()).unwrap(), json);
        // Those of earlier versions have no description.
        let mut earlier = json;
        earlier.as_object_mut().unwrap().remove("description");
        let earlier = OrderRow::decode(earlier.to_string().as_bytes()).unwrap();
        assert_eq!(earlier, OrderRow { description: OrderDescription::default(), ..row });
    }

    proptest! {
        #[test]
        fn damaged_rows_are_no_rows_and_no_panic(cut in 0usize..60, bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let whole = AnswerRow(Arc::new(answer(&[("x-a", b"1")], b""))).encode();
            prop_assume!(cut < whole.len());
            prop_assert!(AnswerRow::decode(&whole[..cut]).is_none());
            let _ = AnswerRow::decode(&bytes);
            prop_assert!(OrderRow::decode(&bytes).is_none());
        }
    }
}
