//! Reads Fastrac's answer: envelope and status together become one outcome.
//!
//! Only the top-level `success`, `message` and `error` are looked at; the body is never built into
//! a tree and never written anew. What is nested is only passed over, unless something lasting
//! follows from the answer ([`read_closely`]). Whatever bytes come, there is an answer: what is not the envelope
//! is `Reading::enveloped == false`. Pure.

use std::borrow::Cow;

use http::StatusCode;
use serde::de::IgnoredAny;

use super::{
    Outcome,
    scan::{self, Stop},
};
use crate::config::MessagesConfig;

/// What an answer of Fastrac's says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// `Ok`, `NotFound`, `Rejected`, `UpstreamError` or `Throttled`.
    pub outcome: Outcome,
    /// Whether the body is the envelope: a JSON object with exactly one boolean `success`.
    pub enveloped: bool,
    /// Whether it says that the account's key is refused.
    pub key_refused: bool,
}

impl Reading {
    /// Whether it proves what became of an order: a readable answer that is no server error.
    pub fn settles_order(self, status: StatusCode) -> bool {
        self.enveloped && !status.is_server_error() && !status.is_redirection()
    }
}

/// Reads a whole answer that will be stored, or that settles an order: besides, every byte of it must
/// be JSON. It costs a pass over the body, which an answer that only passes is spared.
pub fn read_closely(status: StatusCode, body: &[u8], messages: &MessagesConfig) -> Reading {
    let json = std::str::from_utf8(body).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    read(status, if json { body } else { b"" }, messages)
}

/// Reads a whole answer. The message decides first, then the status.
pub fn read(status: StatusCode, body: &[u8], messages: &MessagesConfig) -> Reading {
    let mut envelope = Envelope::default();
    if envelope.fill(body).is_err() {
        envelope = Envelope::default();
    }
    decide(status, &envelope, messages)
}

/// Reads an answer of which only the beginning is known.
pub fn read_beginning(status: StatusCode, begun: &[u8], messages: &MessagesConfig) -> Reading {
    let mut envelope = Envelope::default();
    if envelope.fill(begun) == Err(Stop::Malformed) {
        envelope = Envelope::default();
    }
    decide(status, &envelope, messages)
}

fn decide(status: StatusCode, envelope: &Envelope<'_>, messages: &MessagesConfig) -> Reading {
    let success = envelope.success.once();
    let enveloped = success.is_some();
    let reading = |outcome, key_refused| Reading { outcome, enveloped, key_refused };
    if success == Some(false) {
        let says = |list: &[String]| envelope.says(list);
        if says(&messages.not_found) {
            return reading(Outcome::NotFound, false);
        }
        if says(&messages.limit) {
            return reading(Outcome::Throttled, false);
        }
        if says(&messages.key) {
            return reading(Outcome::Rejected, true);
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
    reading(outcome, status == StatusCode::UNAUTHORIZED)
}

/// How often a member came, and what it said if it came once and was of the right type.
#[derive(Debug, Default)]
enum Member<T> {
    #[default]
    Absent,
    Once(T),
    /// Twice, or of a type that it must not have.
    Odd,
}

impl<T: Copy> Member<T> {
    fn once(&self) -> Option<T> {
        match self {
            Member::Once(value) => Some(*value),
            _ => None,
        }
    }
}

impl<T> Member<T> {
    fn put(&mut self, value: Option<T>) {
        *self = match (&self, value) {
            (Member::Absent, Some(value)) => Member::Once(value),
            _ => Member::Odd,
        };
    }
}

/// The top-level members that decide.
#[derive(Debug, Default)]
struct Envelope<'a> {
    success: Member<bool>,
    message: Member<Cow<'a, str>>,
    error: Member<Cow<'a, str>>,
}

impl<'a> Envelope<'a> {
    /// Takes in what a body says, as far as it can be read.
    fn fill(&mut self, body: &'a [u8]) -> Result<(), Stop> {
        scan::members(body, |name, value| match name {
            b"success" => self.success.put(value.bool()),
            b"message" => self.message.put(value.text()),
            b"error" => self.error.put(value.text()),
            _ => {}
        })
    }

    /// Whether `message`, or `error` where there is no message, is in the list.
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
        read(StatusCode::from_u16(status).unwrap(), body.as_bytes(), &messages()).outcome
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
        assert_eq!(outcome(200, &deep), Outcome::Ok, "depth alone is no fault, and costs no stack");
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
            let reading = read(StatusCode::OK, body.as_bytes(), &messages());
            assert_eq!((reading.outcome, reading.enveloped), (Outcome::UpstreamError, false), "{body}");
        }
    }

    #[test]
    fn what_lasts_is_read_to_the_last_byte() {
        let reading = |body: &[u8]| read_closely(StatusCode::OK, body, &messages());
        for body in [
            &br#"{"success":true,"data":[tru]}"#[..],
            br#"{"success":true,"data":{"a" 1}}"#,
            b"{\"success\":true,\"data\":[\"\xff\"]}",
            b"{\"success\":true,\"message\":\"a\nb\"}",
        ] {
            let text = String::from_utf8_lossy(body);
            assert_eq!((reading(body).outcome, reading(body).enveloped), (Outcome::UpstreamError, false), "{text}");
        }
        let deep = format!(r#"{{"success":true,"data":{}{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(reading(deep.as_bytes()).outcome, Outcome::Ok);
    }

    #[test]
    fn a_beginning_says_what_it_can() {
        let seen = |text: &str| read_beginning(StatusCode::OK, text.as_bytes(), &messages()).outcome;
        assert_eq!(seen(r#"{"success":true,"data":[{"a":"#), Outcome::Ok);
        assert_eq!(seen(r#"{"data":[{"success":true"#), Outcome::UpstreamError);
        assert_eq!(seen("<html>"), Outcome::UpstreamError);
    }

    #[test]
    fn key_refusals_are_told_apart_from_what_the_caller_did() {
        assert!(read(StatusCode::UNAUTHORIZED, b"", &messages()).key_refused);
        assert!(read(StatusCode::OK, br#"{"success":false,"message":"Unauthorized"}"#, &messages()).key_refused);
        assert!(!read(StatusCode::FORBIDDEN, br#"{"success":false,"message":"no"}"#, &messages()).key_refused);
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_outcome(status in 100u16..600, body in prop::collection::vec(any::<u8>(), 0..200)) {
            let status = StatusCode::from_u16(status).unwrap();
            let reading = read(status, &body, &messages());
            prop_assert!(!matches!(reading.outcome, Outcome::Ok | Outcome::NotFound) || reading.enveloped);
        }

        #[test]
        fn a_close_reading_differs_only_of_what_is_no_json(body in r#"\{("success":(true|false|1)|"data":[\[\]tru0e"]{0,6}|,){0,5}\}"#) {
            let (close, quick) =
                (read_closely(StatusCode::OK, body.as_bytes(), &messages()), read(StatusCode::OK, body.as_bytes(), &messages()));
            prop_assert!(close == quick || serde_json::from_str::<serde_json::Value>(&body).is_err(), "{}", body);
        }

        #[test]
        fn every_cut_of_an_envelope_is_refused(cut in 0usize..44) {
            let body = r#"{"success":true,"message":"","data":[{"a":1}]}"#;
            prop_assert!(!read(StatusCode::OK, &body.as_bytes()[..cut], &messages()).enveloped);
        }
    }
}
