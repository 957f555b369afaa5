//! Configuration of webhooks.
//!
//! What always holds: a payload template gives JSON, whatever is filled in.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The payload assumed by the fact sheet; Fastrac's own is not public.
const PAYLOAD: &str = r#"{"awb": "{awb}", "booking_id": "{booking_id}", "courier_code": "{courier_code}", "status": "{status}", "timestamp": "{timestamp}", "description": "{description}"}"#;

/// Placeholders of a template.
const NAMES: [&str; 8] =
    ["awb", "booking_id", "kd_pesanan", "courier_code", "status", "timestamp", "at", "description"];

/// Hosts to which webhooks are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AllowedHosts {
    /// Loopback addresses and `localhost`; no name is resolved.
    #[default]
    Loopback,
    /// Any.
    Any,
}

/// A JSON payload with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadTemplate(String);

#[derive(Clone)]
pub struct WebhookSettings {
    /// Address until a merchant sets another.
    pub url: Option<String>,
    /// Key for signing each body; absent: unsigned.
    pub secret: Option<Zeroizing<String>>,
    pub hosts: AllowedHosts,
    /// Timeout of an attempt, in milliseconds of the machine's clock.
    pub timeout_ms: u64,
    /// Pauses before each retry, in milliseconds of the sandbox's clock.
    pub retries_ms: Vec<u64>,
    pub payload: PayloadTemplate,
    /// Maximum number of deliveries stored, at least 1.
    pub kept: usize,
    /// Rules from the start.
    pub rules: Vec<Rule>,
}

/// Which events are treated differently, and how.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The effect; the configuration key is `act`.
    pub act: RuleAct,
    /// Events with this status; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Events of this order; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awb: Option<String>,
    /// How many events it applies to; absent: all until it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// Probability that it applies to a matching event, 0 to 1; absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
}

/// The effect of a rule on an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RuleAct {
    /// Never sent.
    Lose,
    /// Sent twice.
    Duplicate,
    /// Sent after the order's next event, or after an hour if there is none.
    Reorder,
    /// Sent later.
    Delay {
        /// Milliseconds of the sandbox's clock.
        by_ms: u64,
    },
}

impl Default for WebhookSettings {
    fn default() -> Self {
        WebhookSettings {
            url: None,
            secret: None,
            hosts: AllowedHosts::default(),
            timeout_ms: 5_000,
            retries_ms: vec![10_000, 60_000, 600_000, 3_600_000],
            payload: PayloadTemplate(PAYLOAD.to_owned()),
            kept: 10_000,
            rules: Vec::new(),
        }
    }
}

impl fmt::Debug for WebhookSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookSettings").field("url", &self.url).field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

impl PayloadTemplate {
    /// A template: JSON whose strings may contain `{awb}`, `{booking_id}`, `{kd_pesanan}`, `{courier_code}`,
    /// `{status}`, `{timestamp}` (Jakarta), `{at}` (UTC) and `{description}`.
    ///
    /// # Errors
    ///
    /// If it is not JSON.
    pub fn of(text: &str) -> Result<PayloadTemplate, String> {
        let payload = PayloadTemplate(text.to_owned());
        let tried = NAMES.map(|name| (name, "\"\\"));
        match serde_json::from_slice::<serde_json::Value>(&payload.fill(&tried)) {
            Ok(_) => Ok(payload),
            Err(_) => Err(format!("must be JSON, with {{{}}} within strings", NAMES.join("}, {"))),
        }
    }

    pub(super) fn fill(&self, values: &[(&str, &str)]) -> Bytes {
        let mut out = String::with_capacity(self.0.len() + 128);
        let mut rest = self.0.as_str();
        while let Some(open) = rest.find('{') {
            let (before, after) = rest.split_at(open);
            out.push_str(before);
            let known =
                values.iter().find(|(name, _)| after[1..].strip_prefix(name).is_some_and(|end| end.starts_with('}')));
            match known {
                Some((name, value)) => {
                    let quoted = serde_json::Value::from(*value).to_string();
                    out.push_str(&quoted[1..quoted.len() - 1]);
                    rest = &after[name.len() + 2..];
                }
                None => {
                    out.push('{');
                    rest = &after[1..];
                }
            }
        }
        out.push_str(rest);
        out.into()
    }
}

impl Rule {
    /// Checks that it can be applied.
    ///
    /// # Errors
    ///
    /// If its chance is not from 0 to 1.
    pub fn check(&self) -> Result<(), String> {
        match self.chance {
            Some(chance) if !(0.0..=1.0).contains(&chance) => Err("chance: 0 to 1".to_owned()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_template_that_is_no_json_is_refused() {
        assert!(PayloadTemplate::of(PAYLOAD).is_ok());
        assert!(PayloadTemplate::of(r#"{"order": {"awb": "{awb}"}, "n": 1, "text": "a {b} {"}"#).is_ok());
        for wrong in ["", "awb={awb}", r#"{"awb": {awb}}"#, r#"{"awb": "{awb}""#] {
            assert!(PayloadTemplate::of(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_filled_in_it_stays_json(awb: String, status: String) {
            let body = PayloadTemplate(PAYLOAD.to_owned()).fill(&[("awb", &awb), ("status", &status)]);
            let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
            prop_assert_eq!(value["awb"].as_str(), Some(&*awb));
            prop_assert_eq!(value["status"].as_str(), Some(&*status));
        }
    }
}
