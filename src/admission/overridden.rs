//! A quota's limits as an operator has changed them for a time. Pure.

use std::{fmt, sync::Arc};

use jiff::{Timestamp, tz::TimeZone};

use super::calendar_day::LocalTime;
use crate::config::{QuotaConfig, Rate};

/// Limits that replace those of a service's quota until a certain time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaOverride {
    /// Requests per second, also the burst. `None`: as configured.
    pub second: Option<u32>,
    /// Requests per calendar day. `None`: as configured.
    pub day: Option<u64>,
    /// Whether every request is refused.
    pub block: bool,
    /// It ends by itself then.
    pub until: Timestamp,
    /// Why, for the callers too. Not empty.
    pub reason: Arc<str>,
}

impl QuotaOverride {
    /// The limits in force instead of the configured ones.
    pub(super) fn applied_to(&self, configured: &QuotaConfig) -> QuotaConfig {
        QuotaConfig {
            second: self.second.map(|rate| Rate { per_second: rate, burst: rate }).or(configured.second),
            day: self.day.or(configured.day),
            ..configured.clone()
        }
    }

    pub(super) fn is_over(&self, now_millis: i64) -> bool {
        self.millis_left(now_millis) == 0
    }

    pub(super) fn millis_left(&self, now_millis: i64) -> u64 {
        u64::try_from(self.until.as_millisecond().saturating_sub(now_millis)).unwrap_or(0)
    }

    /// For a refusal.
    pub(super) fn notice(&self, zone: &TimeZone) -> OverrideNotice {
        let until = LocalTime::of(self.until.as_millisecond(), zone).to_string();
        OverrideNotice { until, reason: self.reason.clone() }
    }
}

/// That a limit is not the configured one: `(set by the operators until 2026-11-25T00:00:00+07:00: REASON)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverrideNotice {
    /// RFC 3339, in the account's zone; whole seconds, rounded up.
    pub until: String,
    pub reason: Arc<str>,
}

impl fmt::Display for OverrideNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set by the operators until {}: {}", self.until, self.reason)
    }
}
