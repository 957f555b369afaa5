//! Whether a request may be remembered as it was written: the cache's key has its query and body, and is in the snapshot on the
//! disk.
//!
//! Not if it holds a credential, of whatever kind the exchange log masks: one that the request has presented or that the
//! configuration knows by its digest, a live one of an account, or what is named or looks like one. Pure; never fails.

use http::{HeaderMap, uri::PathAndQuery};
use serde_json::Value;

use super::{
    CallersText, Masker, Presented,
    credential::{is_secret_name, looks_secret, may_name},
    decoded,
    names::is_secret,
};

/// What a stored response is found by, of a request.
pub struct RememberedRequest<'a> {
    pub target: &'a PathAndQuery,
    /// JSON, or empty.
    pub body: &'a [u8],
    /// Those that its operation declares.
    pub headers: &'a HeaderMap,
}

impl Masker {
    /// Whether one of these texts holds a credential, as it is or encoded.
    pub(in crate::record) fn holds_credential(&self, presented: &Presented, request: &RememberedRequest<'_>) -> bool {
        let &RememberedRequest { target, body, headers } = request;
        let parts = [target.path(), target.query().unwrap_or_default()];
        let written = CallersText { target: parts.map(str::as_bytes), request_body: body, answer_body: b"" };
        self.any_holds_live_secret(None, &[parts[0].as_bytes(), parts[1].as_bytes(), body])
            || parts.into_iter().any(|part| self.uri_holds_live_secret(None, part) || pairs_hold(part))
            || self.holds_encoded_secret(None, presented, &written)
            || body_holds(body)
            || headers.values().any(|value| self.header_holds(presented, value.as_bytes()))
    }

    /// The same of the value of a header, which may be encoded as a part of a URI is.
    fn header_holds(&self, presented: &Presented, value: &[u8]) -> bool {
        let written = CallersText { target: [value, b""], request_body: b"", answer_body: b"" };
        let text = String::from_utf8_lossy(value);
        self.holds_live_secret(None, value)
            || self.uri_holds_live_secret(None, &text)
            || self.holds_encoded_secret(None, presented, &written)
            || self.holds_callers_secret(presented, value)
            || pairs_hold(&text)
    }
}

/// Whether one of the parameters in a query, or in a path, is a credential by its name or its look.
fn pairs_hold(pairs: &str) -> bool {
    pairs.split(['&', ';', '/']).any(|pair| match pair.split_once('=') {
        Some((name, value)) => is_credential(&decoded(name), &decoded(value)),
        None => looks_secret(&decoded(pair)),
    })
}

/// The same of a body.
fn body_holds(body: &[u8]) -> bool {
    serde_json::from_slice(body).is_ok_and(|body| value_holds(Name::default(), &body))
}

/// The same of what a member has, and of what is in it.
fn value_holds(name: Name, value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(_) | Value::Number(_) => name.is_secret,
        Value::String(value) => name.is_of(value),
        Value::Array(elements) => elements.iter().any(|element| value_holds(name, element)),
        Value::Object(members) => members.iter().any(|(own, value)| {
            looks_secret(own) || value_holds(Name::new(own), value) || name.is_secret && !value.is_null()
        }),
    }
}

/// Whether a value is a credential by its name or its look, or says that another one is.
fn is_credential(name: &str, value: &str) -> bool {
    Name::new(name).is_of(value) || looks_secret(name)
}

/// What a name says of its value; of several, as of an array's elements, it is found out once.
#[derive(Clone, Copy, Default)]
struct Name {
    is_secret: bool,
    may_name: bool,
}

impl Name {
    fn new(name: &str) -> Self {
        Name { is_secret: names_secret(name), may_name: may_name(name) }
    }

    fn is_of(self, value: &str) -> bool {
        (self.is_secret && !value.is_empty()) || (self.may_name && is_secret_name(value)) || looks_secret(value)
    }
}

/// Whether what has this name is a credential: as one of them in a text, or as the log masks it.
fn names_secret(name: &str) -> bool {
    is_secret_name(name) || is_secret(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It would not end: it was looked at again for each of them.
    #[test]
    fn a_long_name_of_many_values_is_looked_at_once() {
        let name = "aB_".repeat(100_000);
        let members: Vec<_> = (0..100_000).map(|number| format!("\"{number}\":1")).collect();
        for values in [format!("[{}]", vec!["\"\""; 100_000].join(",")), format!("{{{}}}", members.join(","))] {
            assert!(!body_holds(format!("{{\"{name}\":{values}}}").as_bytes()));
        }
    }
}
