//! The ids that a response of the region tree names, and those that a level has. Pure.
//!
//! What always holds: an id is given as its text in the response, never as a number, because ids of ten digits must not
//! lose any; an id that would have to be encoded in a query is left out; a level has each id once, and at most as many as it
//! may. Never fails: what cannot be read is left out, and [`RegionIds`] says so.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde::Deserialize;
use serde_json::value::RawValue;

/// Longest id, in bytes. Real ones have at most ten.
const LONGEST: usize = 32;

/// Most ids that one response may name. A district has a few dozen villages.
const MOST_OF_A_RESPONSE: usize = 10_000;

/// The members of an element that have its id, for the level below.
#[derive(Clone, Copy)]
pub(super) struct IdMembers {
    /// The first of these that an element has; each is also the parameter that takes the id.
    pub(super) names: &'static [&'static str],
    /// Whether each element has one.
    pub(super) required: bool,
}

/// An id, and the parameter that takes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Found {
    pub(super) parameter: &'static str,
    pub(super) value: Arc<str>,
}

/// What one response names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RegionIds {
    pub(super) found: Vec<Found>,
    /// Whether it is a list of which every element could be read.
    pub(super) understood: bool,
}

/// More ids than a response or a walk may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooManyIds;

#[derive(Deserialize)]
struct RegionList<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
}

/// The ids in a response.
///
/// # Errors
/// [`TooManyIds`].
pub(super) fn ids(body: &[u8], members: IdMembers) -> Result<RegionIds, TooManyIds> {
    let mut ids = RegionIds { found: Vec::new(), understood: true };
    let Ok(RegionList { data }) = serde_json::from_slice(body) else {
        return Ok(RegionIds { understood: false, ..ids });
    };
    for element in data {
        match id(element.get(), members) {
            ElementId::Found(_) if ids.found.len() == MOST_OF_A_RESPONSE => return Err(TooManyIds),
            ElementId::Found(found) => ids.found.push(found),
            ElementId::Absent => {}
            ElementId::Unreadable => ids.understood = false,
        }
    }
    Ok(ids)
}

enum ElementId {
    Found(Found),
    /// The element need not have one.
    Absent,
    Unreadable,
}

fn id(element: &str, members: IdMembers) -> ElementId {
    let Ok(element) = serde_json::from_str::<HashMap<Cow<'_, str>, &RawValue>>(element) else {
        return ElementId::Unreadable;
    };
    let mut is_absent = !members.required;
    for parameter in members.names {
        let Some(json) = element.get(*parameter) else { continue };
        if let Some(value) = text(json.get()) {
            return ElementId::Found(Found { parameter, value: value.into() });
        }
        is_absent &= matches!(json.get(), "null" | "\"\"");
    }
    if is_absent { ElementId::Absent } else { ElementId::Unreadable }
}

/// The ids of one level, in the order in which they were found.
#[derive(Default)]
pub(super) struct LevelIds {
    ids: Vec<Found>,
    seen: HashSet<Found>,
}

impl LevelIds {
    /// Adds those that are new, up to `most` in all.
    ///
    /// # Errors
    /// [`TooManyIds`].
    pub(super) fn add(&mut self, found: Vec<Found>, most: usize) -> Result<(), TooManyIds> {
        for id in found {
            if self.seen.contains(&id) {
                continue;
            }
            if self.ids.len() >= most {
                return Err(TooManyIds);
            }
            self.seen.insert(id.clone());
            self.ids.push(id);
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn into_ids(self) -> Vec<Found> {
        self.ids
    }
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

    const CITY: IdMembers = IdMembers { names: &["city_id"], required: true };
    const CODES: IdMembers = IdMembers { names: &["post_code", "postal_code"], required: false };

    /// The values, and whether the response was understood.
    fn read(body: &str, members: IdMembers) -> (Vec<String>, bool) {
        let RegionIds { found, understood } = ids(body.as_bytes(), members).expect("not too many");
        (found.into_iter().map(|found| found.value.to_string()).collect(), understood)
    }

    /// A response that lists cities with ids in this range.
    fn cities(range: std::ops::Range<usize>) -> String {
        let elements: Vec<_> = range.map(|id| format!(r#"{{"city_id":{id}}}"#)).collect();
        format!(r#"{{"success":true,"data":[{}]}}"#, elements.join(","))
    }

    #[test]
    fn ids_keep_their_text() {
        let body = r#"{"success":true,"message":"","data":[
            {"city_id":3171031001,"name":"A","district_id":3171030},
            {"city_id":"0123","name":"B"},
            {"city_id":31710310019999999999,"name":"C","postal_code":"10620"},
            {"city_id":1,"post_code":"10110","postal_code":"x"},
            {"city_id":2,"post_code":"","postal_code":"10120"}
        ]}"#;
        let (values, understood) = read(body, CITY);
        assert_eq!(
            (&values[..3], understood),
            (&["3171031001", "0123", "31710310019999999999"].map(String::from)[..], true)
        );
        let codes = ids(body.as_bytes(), CODES).expect("not too many").found;
        let codes: Vec<_> = codes.iter().map(|found| (found.parameter, &*found.value)).collect();
        assert_eq!(codes, [("postal_code", "10620"), ("post_code", "10110"), ("postal_code", "10120")]);
    }

    #[test]
    fn what_is_no_id_is_left_out_and_said() {
        for id in ["null", "true", "[1]", "{}", "-1", "\"\"", "\"a b\"", "\"a&b=c\"", "\"\\u00e9\"", "\"..%2f\""] {
            let body = format!(r#"{{"data":[{{"city_id":{id}}},{{"city_id":7}}]}}"#);
            assert_eq!(read(&body, CITY), (vec!["7".to_owned()], false), "{id}");
        }
        let long = "1".repeat(LONGEST + 1);
        assert_eq!(read(&format!(r#"{{"data":[{{"city_id":{long}}}]}}"#), CITY), (Vec::new(), false));
        for element in ["1", "null", "\"x\"", "[{\"city_id\":8}]", "{\"id\":8}", "{}"] {
            for body in [format!(r#"[{element},{{"city_id":7}}]"#), format!(r#"[{{"city_id":7}},{element}]"#)] {
                assert_eq!(read(&format!(r#"{{"data":{body}}}"#), CITY), (vec!["7".to_owned()], false), "{body}");
            }
        }
        for body in ["", "[]", "{}", r#"{"data":{"city_id":7}}"#, r#"{"data":null}"#, r#"{"data":"x"}"#] {
            assert_eq!(read(body, CITY), (Vec::new(), false), "{body}");
        }
        assert_eq!(read(r#"{"data":[]}"#, CITY), (Vec::new(), true));
    }

    #[test]
    fn what_an_element_need_not_have_may_be_absent() {
        let read = |element: &str| read(&format!(r#"{{"data":[{element}]}}"#), CODES);
        for element in ["{}", r#"{"post_code":null}"#, r#"{"post_code":"","postal_code":""}"#] {
            assert_eq!(read(element), (Vec::new(), true), "{element}");
        }
        for element in ["1", "null", r#"{"post_code":"1 2"}"#, r#"{"post_code":[1],"postal_code":""}"#] {
            assert_eq!(read(element), (Vec::new(), false), "{element}");
        }
    }

    #[test]
    fn a_response_names_a_bounded_number_of_ids() {
        let most = ids(cities(0..MOST_OF_A_RESPONSE).as_bytes(), CITY).map(|ids| ids.found.len());
        assert_eq!(most, Ok(MOST_OF_A_RESPONSE));
        assert_eq!(ids(cities(0..MOST_OF_A_RESPONSE + 1).as_bytes(), CITY), Err(TooManyIds));
    }

    #[test]
    fn a_level_has_each_id_once_and_a_bounded_number() {
        let found = |range| ids(cities(range).as_bytes(), CITY).expect("not too many").found;
        let mut level = LevelIds::default();
        assert_eq!((level.add(found(0..6), 10), level.add(found(3..10), 10), level.len()), (Ok(()), Ok(()), 10));
        assert_eq!(
            (level.add(found(0..10), 10), level.add(found(9..12), 10), level.len()),
            (Ok(()), Err(TooManyIds), 10)
        );
        assert_eq!(level.into_ids(), found(0..10));
    }
}
