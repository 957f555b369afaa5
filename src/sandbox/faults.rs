//! Misbehaviour on request.
//!
//! What always holds: the first fault that matches a request (in the order of adding) meets it, at
//! most one does, and it is used up after its count. A fault only changes how an answer is given
//! or whether the request is executed; what was executed is always in the journal.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::route::{Operation, Routes};

/// Which requests are met, how often, and by what.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fault {
    /// Name of an operation, such as `v2.order_express`; absent: any, unlisted requests too.
    pub operation: Option<String>,
    /// Path as received, without query; absent: any.
    pub path: Option<String>,
    /// Label of a key pair; absent: any, also none.
    pub key: Option<String>,
    /// How many requests it meets; absent: all until it is cleared.
    pub times: Option<u64>,
    /// Milliseconds to wait before anything is executed.
    pub wait_ms: u64,
    /// Milliseconds to wait after execution, before the answer.
    pub delay_ms: u64,
    /// What happens.
    pub act: Act,
}

/// What happens to a request that a fault meets.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// Nothing but the waiting.
    #[default]
    Pass,
    /// Not executed; the connection is reset (RST).
    Reset,
    /// Not executed; the connection is closed without an answer (FIN).
    Close,
    /// Executed; the connection is closed without an answer (FIN): the case that matters most.
    Lose,
    /// Executed; the connection is reset without an answer (RST).
    LoseReset,
    /// Another answer in place of the right one.
    Answer(Canned),
    /// Executed; the first bytes of the right body under its full `content-length`, then the end.
    Cut {
        /// Bytes of the body that are sent.
        after: usize,
        /// Whether the end is a reset.
        #[serde(default)]
        reset: bool,
    },
    /// Executed; the right body under a `content-length` that is wrong by `by`, then the end.
    WrongLength {
        /// Added to the true length; a negative one leaves surplus bytes on the wire.
        by: i64,
    },
    /// Executed; the right body, whole, in small pieces.
    Drip {
        /// Bytes of a piece, at least 1.
        bytes: usize,
        /// Milliseconds between pieces.
        every_ms: u64,
    },
    /// Executed; the right envelope with a member `padding` that makes the body this many bytes longer.
    Long {
        /// Bytes added.
        bytes: usize,
    },
}

/// An answer that is given in place of the right one.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Canned {
    /// Its status, 200 to 599.
    pub status: u16,
    /// Further headers, or another `content-type` than JSON's.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// Its body.
    #[serde(default)]
    pub body: String,
    /// Whether the request is executed all the same.
    #[serde(default)]
    pub execute: bool,
}

impl Fault {
    /// A fault for an operation, forever.
    pub fn on(operation: &str, act: Act) -> Self {
        Fault { operation: Some(operation.to_owned()), act, ..Fault::default() }
    }

    /// A fault for every request, forever.
    pub fn everywhere(act: Act) -> Self {
        Fault { act, ..Fault::default() }
    }

    /// The same, for so many requests only.
    pub fn times(self, times: u64) -> Self {
        Fault { times: Some(times), ..self }
    }

    /// The same, only for requests under this key label.
    pub fn key(self, label: &str) -> Self {
        Fault { key: Some(label.to_owned()), ..self }
    }

    /// The same, waiting before execution.
    pub fn wait(self, time: Duration) -> Self {
        Fault { wait_ms: time.as_millis() as u64, ..self }
    }

    /// The same, waiting between execution and answer.
    pub fn delay(self, time: Duration) -> Self {
        Fault { delay_ms: time.as_millis() as u64, ..self }
    }
}

impl Act {
    /// An answer with this status and JSON body, without execution.
    pub fn answer(status: u16, body: &str) -> Self {
        Act::Answer(Canned { status, headers: Vec::new(), body: body.to_owned(), execute: false })
    }

    /// An HTML page, as a proxy in front of Fastrac would give it.
    pub fn html(status: u16) -> Self {
        let body = format!("<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>");
        let headers = vec![("content-type".to_owned(), "text/html".to_owned())];
        Act::Answer(Canned { status, headers, body, execute: false })
    }

    /// 429, with `Retry-After` if given (seconds).
    pub fn throttle(retry_after: Option<u64>) -> Self {
        let headers = retry_after.map(|seconds| ("retry-after".to_owned(), seconds.to_string())).into_iter().collect();
        let body = r#"{"success":false,"message":"Too Many Requests"}"#.to_owned();
        Act::Answer(Canned { status: 429, headers, body, execute: false })
    }

    /// `success:false` with this message under HTTP 200.
    pub fn refuse(message: &str) -> Self {
        let body = serde_json::json!({"success": false, "message": message}).to_string();
        Act::answer(200, &body)
    }

    /// Whether the request is executed.
    pub fn executes(&self) -> bool {
        match self {
            Act::Reset | Act::Close => false,
            Act::Answer(canned) => canned.execute,
            _ => true,
        }
    }
}

/// The faults in force.
#[derive(Debug, Default)]
pub struct Faults {
    next: u64,
    armed: Vec<(u64, Fault)>,
}

impl Faults {
    /// Adds a fault; gives its number.
    pub fn add(&mut self, fault: Fault) -> u64 {
        self.next += 1;
        self.armed.push((self.next, fault));
        self.next
    }

    /// Ends a fault; false if it isn't in force.
    pub fn remove(&mut self, number: u64) -> bool {
        let before = self.armed.len();
        self.armed.retain(|(known, _)| *known != number);
        self.armed.len() < before
    }

    /// Ends all faults.
    pub fn clear(&mut self) {
        self.armed.clear();
    }

    /// The faults in force, with what is left of their counts, as JSON.
    pub fn json(&self) -> serde_json::Value {
        let line = |(number, fault): &(u64, Fault)| serde_json::json!({"id": number, "fault": fault});
        serde_json::json!({"faults": self.armed.iter().map(line).collect::<Vec<_>>()})
    }

    /// The fault that meets a request, with its number; counts it.
    pub fn take(&mut self, operation: Option<Operation>, path: &str, key: Option<&str>) -> Option<(u64, Fault)> {
        if self.armed.is_empty() {
            return None;
        }
        let name = operation.map(Operation::name);
        let matches = |fault: &Fault| {
            fault.operation.as_deref().is_none_or(|wanted| name == Some(wanted))
                && fault.path.as_deref().is_none_or(|wanted| path == wanted)
                && fault.key.as_deref().is_none_or(|wanted| key == Some(wanted))
                && fault.times != Some(0)
        };
        let position = self.armed.iter().position(|(_, fault)| matches(fault))?;
        let (number, fault) = &mut self.armed[position];
        let met = (*number, fault.clone());
        if let Some(times) = &mut fault.times {
            *times -= 1;
            if *times == 0 {
                self.armed.remove(position);
            }
        }
        Some(met)
    }
}

/// What is wrong with a fault, if anything.
pub fn check(fault: &Fault) -> Result<(), String> {
    let known = |name: &str| Routes::get().rows().iter().any(|row| row.operation.name() == name);
    if let Some(name) = fault.operation.as_deref().filter(|name| !known(name)) {
        return Err(format!("operation: no operation is called {name}"));
    }
    match &fault.act {
        Act::Answer(canned) if !(200..=599).contains(&canned.status) => Err("act.answer.status: 200 to 599".to_owned()),
        Act::Answer(canned) => canned.headers.iter().try_for_each(|(name, value)| {
            let good = http::HeaderName::try_from(name).is_ok() && http::HeaderValue::try_from(value).is_ok();
            if good { Ok(()) } else { Err(format!("act.answer.headers: {name} can't be sent")) }
        }),
        Act::Drip { bytes: 0, .. } => Err("act.drip.bytes: at least 1".to_owned()),
        Act::Long { bytes } if *bytes > MOST => Err(format!("act.long.bytes: at most {MOST}")),
        _ => Ok(()),
    }
}

/// The longest padding, in bytes: a body is in memory once.
pub const MOST: usize = 1 << 28;

/// The right body with `bytes` bytes more in it, still the same envelope.
pub fn pad(body: &Bytes, bytes: usize) -> Bytes {
    const FRAME: usize = r#"{"padding":"","#.len() - 1; // the body's own brace is replaced
    let mut out = Vec::with_capacity(body.len() + bytes + FRAME);
    out.extend_from_slice(br#"{"padding":""#);
    out.resize(out.len() + bytes.saturating_sub(FRAME), b'x');
    out.extend_from_slice(br#"","#);
    out.extend_from_slice(body.get(1..).unwrap_or_default());
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::route::{Kind, Version};

    const TRACK: Option<Operation> = Some(Operation { version: Version::V2, kind: Kind::Track });

    #[test]
    fn a_fault_meets_as_many_requests_as_it_says_in_order_of_adding() {
        let mut faults = Faults::default();
        let first = faults.add(Fault::on("v2.track", Act::Reset).times(2));
        let second = faults.add(Fault::everywhere(Act::Close));
        let numbers: Vec<u64> =
            (0..3).filter_map(|_| faults.take(TRACK, "/order/track", None)).map(|(number, _)| number).collect();
        assert_eq!(numbers, [first, first, second]);
        assert_eq!(faults.take(None, "/nowhere", None).map(|(n, _)| n), Some(second));
        assert!(faults.remove(second) && !faults.remove(second));
        assert!(faults.take(TRACK, "/order/track", None).is_none());
    }

    #[test]
    fn operation_path_and_key_must_all_match() {
        let mut faults = Faults::default();
        faults.add(Fault { path: Some("/order/track".into()), ..Fault::on("v2.track", Act::Reset) }.key("one"));
        assert!(faults.take(TRACK, "/order/track", None).is_none());
        assert!(faults.take(TRACK, "/apiOrder/trackingOrder", Some("one")).is_none());
        assert!(faults.take(None, "/order/track", Some("one")).is_none());
        assert!(faults.take(TRACK, "/order/track", Some("one")).is_some());
    }

    #[test]
    fn every_act_can_be_written_as_json() {
        for text in [
            r#"{"act": "lose"}"#,
            r#"{"act": {"answer": {"status": 429, "headers": [["retry-after", "3"]], "body": "x"}}}"#,
            r#"{"act": {"cut": {"after": 10}}, "times": 1, "operation": "v2.city"}"#,
            r#"{"act": {"wrong_length": {"by": -3}}, "key": "k", "path": "/x"}"#,
            r#"{"act": {"drip": {"bytes": 1, "every_ms": 5}}, "delay_ms": 2, "wait_ms": 1}"#,
            r#"{"act": {"long": {"bytes": 100000}}}"#,
        ] {
            let fault: Fault = serde_json::from_str(text).unwrap();
            assert_eq!(check(&fault), Ok(()), "{text}");
        }
        for text in [
            r#"{"operation": "v2.nothing"}"#,
            r#"{"act": {"answer": {"status": 99}}}"#,
            r#"{"act": {"answer": {"status": 200, "headers": [["a b", "c"]]}}}"#,
            r#"{"act": {"drip": {"bytes": 0, "every_ms": 5}}}"#,
        ] {
            assert!(check(&serde_json::from_str(text).unwrap()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_padded_body_is_the_same_envelope_and_exactly_as_much_longer() {
        let body = Bytes::from_static(br#"{"success":true,"message":"","data":[1]}"#);
        let long = pad(&body, 1_000);
        assert_eq!(long.len(), body.len() + 1_000);
        let value: serde_json::Value = serde_json::from_slice(&long).unwrap();
        assert_eq!(value["success"], true);
        assert_eq!(value["data"][0], 1);
    }
}
