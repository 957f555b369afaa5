//! A time in a configuration file or request: `2026-01-02T03:04:05Z`, or `+90s` after it is set.
//!
//! What always holds: it refers to the sandbox's clock, never to the machine's, and is shown as an absolute time.

use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::clock;

/// A time of the sandbox's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum When {
    /// Unix time in milliseconds.
    At(i64),
    /// Milliseconds after it is set.
    In(i64),
}

/// The text is not a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a time is written 2026-01-02T03:04:05Z, or +90s for 90 seconds from now")]
pub struct WhenError;

impl When {
    /// Unix milliseconds, if it is set at `now`.
    pub fn millis(self, now: i64) -> i64 {
        match self {
            When::At(at) => at,
            When::In(millis) => now.saturating_add(millis),
        }
    }
}

impl FromStr for When {
    type Err = WhenError;

    fn from_str(text: &str) -> Result<Self, WhenError> {
        match text.strip_prefix('+') {
            Some(later) => {
                let later = humantime::parse_duration(later).map_err(|_| WhenError)?;
                Ok(When::In(i64::try_from(later.as_millis()).map_err(|_| WhenError)?))
            }
            None => text.parse::<Timestamp>().map(|at| When::At(at.as_millisecond())).map_err(|_| WhenError),
        }
    }
}

impl TryFrom<String> for When {
    type Error = WhenError;

    fn try_from(text: String) -> Result<Self, WhenError> {
        text.parse()
    }
}

impl From<When> for String {
    fn from(when: When) -> String {
        match when {
            When::At(at) => clock::utc(at),
            When::In(millis) => format!("+{millis}ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_read_against_the_given_now() {
        let at = |text: &str| text.parse::<When>().map(|when| when.millis(1_000));
        assert_eq!(at("1970-01-01T00:01:00Z"), Ok(60_000));
        assert_eq!(at("1970-01-01T07:01:00+07:00"), Ok(60_000));
        assert_eq!(at("+90s"), Ok(91_000));
        assert_eq!(at("+250ms"), Ok(1_250));
        for text in ["", "+", "soon", "90s", "2026-01-02", "+-1s", "-1s"] {
            assert_eq!(at(text), Err(WhenError), "{text}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        for when in [When::At(1_767_323_045_678), When::In(1_500)] {
            assert_eq!(String::from(when).parse(), Ok(when));
        }
    }
}
