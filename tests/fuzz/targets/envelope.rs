//! The envelope classifier: any bytes give a classification, and if serde can parse them too,
//! it is the one that RFC 8259 and the contract (section 6) give.

use fastrac_gateway::{
    cache::rules,
    config::MessagesConfig,
    outcome::{Classification, Outcome, classify, classify_beginning},
};
use http::StatusCode;
use serde::de::{Deserializer as _, MapAccess, Visitor};

/// The first byte chooses a status, the rest is an answer's body.
pub fn run(data: &[u8]) {
    const STATUSES: [u16; 12] = [200, 201, 204, 301, 302, 400, 401, 403, 404, 429, 500, 503];
    let Some((first, body)) = data.split_first() else { return };
    let status = StatusCode::from_u16(STATUSES[usize::from(*first) % STATUSES.len()]).expect("a status");
    let messages = messages();
    let reading = classify(status, body, &messages);
    holds_always(status, reading);
    if let Some(members) = members(body) {
        assert_eq!(reading, model(status, &members, &messages));
        // Classifying the beginning gives the same result if it is the whole body.
        assert_eq!(classify_beginning(status, body, &messages), reading);
    }
    for end in [body.len() / 2, body.len().saturating_sub(1)] {
        holds_always(status, classify_beginning(status, &body[..end], &messages));
    }
}

fn messages() -> MessagesConfig {
    MessagesConfig {
        not_found: vec!["data not found".into()],
        key: vec!["unauthorized".into(), "invalid key".into()],
        limit: vec!["too many requests".into()],
    }
}

fn holds_always(status: StatusCode, reading: Classification) {
    let known = [Outcome::Ok, Outcome::NotFound, Outcome::Rejected, Outcome::UpstreamError, Outcome::Throttled];
    assert!(known.contains(&reading.outcome));
    assert!(reading.outcome != Outcome::Ok || (reading.is_envelope && status.is_success()));
    assert!(reading.outcome != Outcome::NotFound || reading.is_envelope);
    assert!(!rules::storable(reading, status) || reading.is_envelope);
    assert!(!reading.settles_order(status) || reading.is_envelope);
}

/// The top-level members in order; `None` if the body is not a JSON object.
fn members(body: &[u8]) -> Option<Vec<(String, serde_json::Value)>> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(String, serde_json::Value)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(entry) = map.next_entry()? {
                members.push(entry);
            }
            Ok(members)
        }
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let members = json.deserialize_map(Members).ok()?;
    json.end().ok().map(|()| members)
}

/// A model that follows the contract's text literally.
fn model(status: StatusCode, members: &[(String, serde_json::Value)], messages: &MessagesConfig) -> Classification {
    let all =
        |name: &str| members.iter().filter(|(known, _)| known == name).map(|(_, value)| value).collect::<Vec<_>>();
    let success = match all("success").as_slice() {
        [value] => value.as_bool(),
        _ => None,
    };
    let text = match (all("message").as_slice(), all("error").as_slice()) {
        ([message], _) => message.as_str(),
        ([], [error]) => error.as_str(),
        _ => None,
    };
    let says = |list: &[String]| text.is_some_and(|text| list.contains(&lower(text.trim())));
    let reading = |outcome, key_refused| Classification { outcome, is_envelope: success.is_some(), key_refused };
    if success == Some(false) {
        if says(&messages.not_found) {
            return reading(Outcome::NotFound, false);
        } else if says(&messages.limit) {
            return reading(Outcome::Throttled, false);
        } else if says(&messages.key) {
            return reading(Outcome::Rejected, true);
        }
    }
    let outcome = match (status.as_u16(), success) {
        (429, _) => Outcome::Throttled,
        (400..=499, _) => Outcome::Rejected,
        (200..=299, Some(true)) => Outcome::Ok,
        (200..=299, Some(false)) => Outcome::Rejected,
        _ => Outcome::UpstreamError,
    };
    reading(outcome, status == StatusCode::UNAUTHORIZED)
}

/// Character by character: `str::to_lowercase` treats a final sigma differently.
fn lower(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}
