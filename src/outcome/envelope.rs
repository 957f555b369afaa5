//! Classifies a response of Fastrac's by its envelope and its status.
//!
//! Only the top-level members `success`, `message` and `error` are read; no tree is built. Nested values are skipped by
//! their brackets, except in [`classify_strictly`], which checks that every byte is JSON. A byte order mark before the
//! envelope is ignored, as RFC 8259, section 8.1, allows; nothing is decoded (gzip, UTF-16). No input makes it fail:
//! what is not the envelope has `is_envelope == false`. Pure.

use std::borrow::Cow;

use http::StatusCode;
use serde::de::IgnoredAny;

use super::{
    Evidence, Outcome,
    scan::{self, ScanError},
};
use crate::config::MessagesConfig;

/// What a response of Fastrac's means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classification {
    /// `Ok`, `NotFound`, `Rejected`, `UpstreamError` or `Throttled`.
    pub outcome: Outcome,
    /// Whether the body is the envelope: a JSON object with exactly one `success`, a boolean.
    pub is_envelope: bool,
    /// Whether it says that the account's key is refused: by a message, else by 401.
    pub key_refused: bool,
}

impl Classification {
    /// What it says about Fastrac. A refused key says something about the key only.
    pub fn evidence(self, status: StatusCode) -> Evidence {
        if self.key_refused { Evidence::Nothing } else { self.outcome.evidence(Some(status)) }
    }

    /// Whether it proves what became of an order: the envelope, and neither a redirect nor a server error. A status
    /// above 599 is one too (RFC 9110, section 15). A 429 refuses a request before it is executed, whatever its body
    /// (RFC 6585, section 4): mostly a proxy in front of Fastrac gives it, which does not know the envelope.
    pub fn settles_order(self, status: StatusCode) -> bool {
        status == StatusCode::TOO_MANY_REQUESTS
            || (self.is_envelope && (status.is_success() || status.is_client_error()))
    }
}

/// Classifies a whole response that may be stored or that settles an order: every byte of it must be JSON. This costs a
/// second pass over the body, which responses that are only passed on are spared.
pub fn classify_strictly(status: StatusCode, body: &[u8], messages: &MessagesConfig) -> Classification {
    let text = std::str::from_utf8(without_mark(body));
    let json = text.is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    classify(status, if json { body } else { b"" }, messages)
}

/// Classifies a whole response. The message decides first, then the status.
pub fn classify(status: StatusCode, body: &[u8], messages: &MessagesConfig) -> Classification {
    let mut envelope = Envelope::default();
    if envelope.read(body).is_err() {
        envelope = Envelope::default();
    }
    decide(status, &envelope, messages)
}

/// Classifies a response to HEAD, which has no body to say more.
pub fn classify_head(status: StatusCode, messages: &MessagesConfig) -> Classification {
    let by_status = decide(status, &Envelope::default(), messages);
    if status.is_success() { Classification { outcome: Outcome::Ok, ..by_status } } else { by_status }
}

/// Classifies a response by the beginning of its body.
pub fn classify_beginning(status: StatusCode, beginning: &[u8], messages: &MessagesConfig) -> Classification {
    let mut envelope = Envelope::default();
    if envelope.read(beginning) == Err(ScanError::Malformed) {
        envelope = Envelope::default();
    }
    decide(status, &envelope, messages)
}

/// The text of an envelope's `data`. `None`: the body is no object, or has not exactly one.
pub fn data(body: &[u8]) -> Option<&[u8]> {
    let mut data = Member::Absent;
    let read = scan::members(without_mark(body), |name, value| {
        if name == b"data" {
            data.add(Some(value.bytes()));
        }
    });
    read.ok().and(data.value())
}

/// A body without the byte order mark that some servers put before it.
fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body)
}

fn decide(status: StatusCode, envelope: &Envelope<'_>, messages: &MessagesConfig) -> Classification {
    let success = envelope.success.value();
    let is_envelope = success.is_some();
    let classified = |outcome, key_refused| Classification { outcome, is_envelope, key_refused };
    if success == Some(false) {
        let says = |list: &[String]| envelope.says(list);
        if says(&messages.not_found) {
            return classified(Outcome::NotFound, false);
        }
        if says(&messages.limit) {
            return classified(Outcome::Throttled, false);
        }
        if says(&messages.key) {
            return classified(Outcome::Rejected, true);
        }
    }
    let outcome = match status.as_u16() {
        429 => Outcome::Throttled,
        400..=499 => Outcome::Rejected,
        200..=299 => match success {
            Some(true) => Outcome::Ok,
            Some(false) => Outcome::Rejected,
            None => Outcome::UpstreamError,
        },
        _ => Outcome::UpstreamError,
    };
    classified(outcome, status == StatusCode::UNAUTHORIZED)
}

/// A member of the envelope, which must occur at most once.
#[derive(Debug, Default)]
enum Member<T> {
    #[default]
    Absent,
    Once(T),
    /// Repeated, or of the wrong type.
    Invalid,
}

impl<T: Copy> Member<T> {
    fn value(&self) -> Option<T> {
        match self {
            Member::Once(value) => Some(*value),
            _ => None,
        }
    }
}

impl<T> Member<T> {
    fn add(&mut self, value: Option<T>) {
        *self = match (&self, value) {
            (Member::Absent, Some(value)) => Member::Once(value),
            _ => Member::Invalid,
        };
    }
}

/// The top-level members that decide the outcome.
#[derive(Debug, Default)]
struct Envelope<'a> {
    success: Member<bool>,
    message: Member<Cow<'a, str>>,
    error: Member<Cow<'a, str>>,
}

impl<'a> Envelope<'a> {
    /// Adds the members of a body, up to the first that cannot be read.
    fn read(&mut self, body: &'a [u8]) -> Result<(), ScanError> {
        scan::members(without_mark(body), |name, value| match name {
            b"success" => self.success.add(value.bool()),
            b"message" => self.message.add(value.text()),
            b"error" => self.error.add(value.text()),
            _ => {}
        })
    }

    /// Whether `message` (`error`, if there is no message) is in the list; trimmed, ignoring case.
    fn says(&self, list: &[String]) -> bool {
        let text = match (&self.message, &self.error) {
            (Member::Once(text), _) | (Member::Absent, Member::Once(text)) => text.trim(),
            _ => return false,
        };
        list.iter().any(|entry| entry.chars().eq(text.chars().flat_map(char::to_lowercase)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn messages() -> MessagesConfig {
        MessagesConfig {
            not_found: vec!["data not found".into()],
            key: vec!["unauthorized".into()],
            limit: vec!["too many requests".into()],
        }
    }

    fn outcome(status: u16, body: &str) -> Outcome {
        classify(StatusCode::from_u16(status).unwrap(), body.as_bytes(), &messages()).outcome
    }

    #[test]
    fn message_decides_before_status() {
        for status in [200, 400, 404, 500, 503] {
            assert_eq!(outcome(status, r#"{"success":false,"message":" Data Not Found "}"#), Outcome::NotFound);
            assert_eq!(outcome(status, r#"{"success":false,"error":"data not found"}"#), Outcome::NotFound);
            assert_eq!(outcome(status, r#"{"success":false,"message":"Too many requests"}"#), Outcome::Throttled);
        }
        assert_eq!(outcome(200, r#"{"success":true,"message":"Data not found"}"#), Outcome::Ok);
    }

    #[test]
    fn status_decides_the_rest() {
        assert_eq!(outcome(200, r#"{"success":true,"data":[]}"#), Outcome::Ok);
        assert_eq!(outcome(200, r#"{"success":false,"message":"weight"}"#), Outcome::Rejected);
        assert_eq!(outcome(403, "<html>"), Outcome::Rejected);
        assert_eq!(outcome(429, ""), Outcome::Throttled);
        assert_eq!(outcome(302, r#"{"success":true}"#), Outcome::UpstreamError);
        assert_eq!(outcome(500, r#"{"success":false,"message":"x"}"#), Outcome::UpstreamError);
    }

    #[test]
    fn what_is_not_the_envelope_is_an_upstream_error() {
        let deep = format!(r#"{{"success":true,"data":{}{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(outcome(200, &deep), Outcome::Ok, "depth alone is not an error, and costs no stack");
        for body in [
            "",
            "null",
            "[]",
            "<html></html>",
            r#"{"success":true"#,
            r#"{"success":true}x"#,
            r#"{"success":true,"success":true}"#,
            r#"{"success":true,"suc\u0063ess":false}"#,
            r#"{"success":"true"}"#,
            r#"{"success":1}"#,
            r#"{"success":null}"#,
            r#"{"data":{"success":true}}"#,
        ] {
            let reading = classify(StatusCode::OK, body.as_bytes(), &messages());
            assert_eq!((reading.outcome, reading.is_envelope), (Outcome::UpstreamError, false), "{body}");
        }
    }

    #[test]
    fn a_byte_order_mark_before_the_envelope_is_ignored() {
        let all = |body: &[u8]| {
            let status = StatusCode::OK;
            [classify, classify_strictly, classify_beginning].map(|read| read(status, body, &messages()).outcome)
        };
        let marked = |text: &str| all(format!("\u{feff}{text}").as_bytes());
        assert_eq!(marked(r#"{"success":true}"#), [Outcome::Ok; 3]);
        assert_eq!(marked(" \r\n{\"success\":true}\n"), [Outcome::Ok; 3]);
        assert_eq!(marked(r#"{"success":false,"message":"Data not found"}"#), [Outcome::NotFound; 3]);
        for text in ["", "\u{feff}{\"success\":true}", "<html>", "null"] {
            assert_eq!(marked(text), [Outcome::UpstreamError; 3], "{text}");
        }
        // Only at the beginning, only whole, only UTF-8.
        let good = br#"{"success":true}"#;
        for mark in [&b" \xef\xbb\xbf"[..], b"\xef\xbb", b"\xef", b"\xff\xfe", b"\xfe\xff", b"\0"] {
            assert_eq!(all(&[mark, good].concat()), [Outcome::UpstreamError; 3], "{mark:x?}");
        }
    }

    #[test]
    fn strictly_every_byte_must_be_json() {
        let reading = |body: &[u8]| classify_strictly(StatusCode::OK, body, &messages());
        for body in [
            &br#"{"success":true,"data":[tru]}"#[..],
            br#"{"success":true,"data":{"a" 1}}"#,
            b"{\"success\":true,\"data\":[\"\xff\"]}",
            b"{\"success\":true,\"message\":\"a\nb\"}",
        ] {
            let text = String::from_utf8_lossy(body);
            assert_eq!((reading(body).outcome, reading(body).is_envelope), (Outcome::UpstreamError, false), "{text}");
        }
        let deep = format!(r#"{{"success":true,"data":{}{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(reading(deep.as_bytes()).outcome, Outcome::Ok);
    }

    #[test]
    fn a_beginning_is_classified_by_what_it_holds() {
        let seen = |text: &str| classify_beginning(StatusCode::OK, text.as_bytes(), &messages()).outcome;
        assert_eq!(seen(r#"{"success":true,"data":[{"a":"#), Outcome::Ok);
        assert_eq!(seen(r#"{"data":[{"success":true"#), Outcome::UpstreamError);
        assert_eq!(seen("<html>"), Outcome::UpstreamError);
    }

    #[test]
    fn a_refused_key_is_told_from_a_rejected_request() {
        assert!(classify(StatusCode::UNAUTHORIZED, b"", &messages()).key_refused);
        assert!(classify(StatusCode::OK, br#"{"success":false,"message":"Unauthorized"}"#, &messages()).key_refused);
        assert!(!classify(StatusCode::FORBIDDEN, br#"{"success":false,"message":"no"}"#, &messages()).key_refused);
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_outcome(status in 100u16..600, body in prop::collection::vec(any::<u8>(), 0..200)) {
            let status = StatusCode::from_u16(status).unwrap();
            let reading = classify(status, &body, &messages());
            prop_assert!(!matches!(reading.outcome, Outcome::Ok | Outcome::NotFound) || reading.is_envelope);
        }

        #[test]
        fn strictly_differs_only_for_what_is_not_json(body in r#"\{("success":(true|false|1)|"data":[\[\]tru0e"]{0,6}|,){0,5}\}"#) {
            let (strict, quick) =
                (classify_strictly(StatusCode::OK, body.as_bytes(), &messages()), classify(StatusCode::OK, body.as_bytes(), &messages()));
            prop_assert!(strict == quick || serde_json::from_str::<serde_json::Value>(&body).is_err(), "{}", body);
        }

        #[test]
        fn every_cut_of_an_envelope_is_refused(cut in 0usize..44) {
            let body = r#"{"success":true,"message":"","data":[{"a":1}]}"#;
            prop_assert!(!classify(StatusCode::OK, &body.as_bytes()[..cut], &messages()).is_envelope);
        }
    }
}
