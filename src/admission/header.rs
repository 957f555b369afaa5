//! The `RateLimit` and `RateLimit-Policy` fields (draft-ietf-httpapi-ratelimit-headers).
//!
//! Pure: knows only numbers. Never fails.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;

use super::usage::{LimitWindow, UsageByWindow};

/// The largest integer of a structured field (RFC 9651, section 3.3.1).
const MAX: u64 = 999_999_999_999_999;

/// Capacity for both items with three numbers of twenty digits.
const CAPACITY: usize = 96;

/// `"second";q=50;w=1, "day";q=40000;w=86400`; `None` without a limit.
pub(super) fn policy(usage: &UsageByWindow) -> Option<HeaderValue> {
    let mut list = String::new();
    if let Some(second) = usage.second {
        item(&mut list, "second", [("q", second.limit), ("w", 1)]);
    }
    if let Some(day) = usage.day {
        item(&mut list, "day", [("q", day.limit), ("w", 86_400)]);
    }
    value(list)
}

/// `"second";r=49;t=1, "day";r=39112;t=51234`; `None` without a limit.
pub(super) fn left(usage: &UsageByWindow) -> Option<HeaderValue> {
    let mut list = String::with_capacity(CAPACITY);
    if let Some(second) = usage.second {
        item(&mut list, "second", [("r", second.left), ("t", second.resets_in)]);
    }
    if let Some(day) = usage.day {
        item(&mut list, "day", [("r", day.left), ("t", day.resets_in)]);
    }
    value(list)
}

/// A window of an account's budget with its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowLimit {
    pub window: LimitWindow,
    /// Units per window.
    pub limit: u64,
}

impl WindowLimit {
    /// `RateLimit-Policy` with this window as well: `…, "account-second";q=20;w=1`.
    pub fn append_policy(&self, fields: Option<&HeaderValue>) -> Option<HeaderValue> {
        let (name, seconds) = self.name();
        append(fields, name, [("q", self.limit), ("w", seconds)])
    }

    /// `RateLimit` with this window as well, of which nothing is left for `wait`: `…, "account-second";r=0;t=1`.
    pub fn append_used_up(&self, fields: Option<&HeaderValue>, wait: Duration) -> Option<HeaderValue> {
        append(fields, self.name().0, [("r", 0), ("t", wait.as_secs())])
    }

    /// Its name, and its length in seconds.
    fn name(&self) -> (&'static str, u64) {
        match self.window {
            LimitWindow::Second => ("account-second", 1),
            LimitWindow::Day => ("account-day", 86_400),
        }
    }
}

fn append(fields: Option<&HeaderValue>, name: &str, parameters: [(&str, u64); 2]) -> Option<HeaderValue> {
    let mut list = fields.and_then(|fields| fields.to_str().ok()).unwrap_or_default().to_owned();
    item(&mut list, name, parameters);
    value(list)
}

/// Without `std::fmt`: it takes 500 instructions for an item, of which each response has one or two.
fn item(list: &mut String, name: &str, parameters: [(&str, u64); 2]) {
    list.push_str(if list.is_empty() { "\"" } else { ", \"" });
    list.push_str(name);
    list.push('"');
    for (key, value) in parameters {
        list.push(';');
        list.push_str(key);
        list.push('=');
        list.push_str(itoa::Buffer::new().format(value.min(MAX)));
    }
}

fn value(list: String) -> Option<HeaderValue> {
    if list.is_empty() {
        return None;
    }
    HeaderValue::from_maybe_shared(Bytes::from(list)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_the_account_is_added() {
        let fields = HeaderValue::from_static("\"day\";q=9;w=86400");
        let second = WindowLimit { window: LimitWindow::Second, limit: 20 };
        assert_eq!(second.append_policy(Some(&fields)).unwrap(), "\"day\";q=9;w=86400, \"account-second\";q=20;w=1");
        assert_eq!(second.append_used_up(None, Duration::from_secs(3)).unwrap(), "\"account-second\";r=0;t=3");
        let day = WindowLimit { window: LimitWindow::Day, limit: 7 };
        assert_eq!(day.append_policy(None).unwrap(), "\"account-day\";q=7;w=86400");
    }
}
