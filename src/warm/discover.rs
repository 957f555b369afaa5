//! The ids that a response of the region tree names. Pure.
//!
//! What always holds: an id is given as its text in the response, never as a number, because ids of ten digits must not
//! lose any; an id that would have to be encoded in a query is left out. Never fails: a response that is no envelope with a
//! list names none.

use std::{borrow::Cow, collections::HashMap};

use serde::Deserialize;
use serde_json::value::RawValue;

/// Longest id, in bytes. Real ones have at most ten.
const LONGEST: usize = 32;

/// An id, and the parameter that takes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Found {
    pub(super) parameter: &'static str,
    pub(super) value: String,
}

#[derive(Deserialize)]
struct RegionList<'a> {
    #[serde(borrow)]
    data: Vec<HashMap<Cow<'a, str>, &'a RawValue>>,
}

/// The ids in a response, each under the first of these members that an element has.
pub(super) fn ids(body: &[u8], members: &[&'static str]) -> Vec<Found> {
    let Ok(RegionList { data }) = serde_json::from_slice(body) else { return Vec::new() };
    let id = |element: HashMap<Cow<'_, str>, &RawValue>| {
        members.iter().find_map(|parameter| {
            let value = text(element.get(*parameter)?.get())?;
            Some(Found { parameter, value })
        })
    };
    data.into_iter().filter_map(id).collect()
}

/// The text of a number or a string, if it needs no encoding.
fn text(json: &str) -> Option<String> {
    let plain = |text: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        (1..=LONGEST).contains(&text.len()) && text.bytes().all(plain)
    };
    let text = match json.starts_with('"') {
        true => serde_json::from_str(json).ok()?,
        false => json.starts_with(|c: char| c.is_ascii_digit()).then(|| json.to_owned())?,
    };
    plain(&text).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_their_text() {
        let body = br#"{"success":true,"message":"","data":[
            {"subdistrict_id":3171031001,"name":"A","district_id":3171030},
            {"subdistrict_id":"0123","name":"B"},
            {"subdistrict_id":31710310019999999999,"name":"C","postal_code":"10620"},
            {"post_code":"10110","postal_code":"x"}, {}
        ]}"#;
        let values = |members| ids(body, members).into_iter().map(|found| found.value).collect::<Vec<_>>();
        assert_eq!(values(&["subdistrict_id"]), ["3171031001", "0123", "31710310019999999999"]);
        let codes = ids(body, &["post_code", "postal_code"]);
        let codes: Vec<_> = codes.iter().map(|found| (found.parameter, found.value.as_str())).collect();
        assert_eq!(codes, [("postal_code", "10620"), ("post_code", "10110")]);
        assert!(values(&[]).is_empty());
    }

    #[test]
    fn what_is_no_id_is_left_out() {
        for id in ["null", "true", "[1]", "{}", "-1", "\"\"", "\"a b\"", "\"a&b=c\"", "\"\\u00e9\"", "\"..%2f\""] {
            let body = format!(r#"{{"data":[{{"city_id":{id}}}]}}"#);
            assert_eq!(ids(body.as_bytes(), &["city_id"]), [], "{id}");
        }
        for body in ["", "[]", r#"{"data":{}}"#, r#"{"data":[1]}"#, r#"{"data":null}"#] {
            assert_eq!(ids(body.as_bytes(), &["city_id"]), [], "{body}");
        }
    }
}
