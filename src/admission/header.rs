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
        item(&mut list, ["\"second\";q=", ";w="], [second.limit, 1]);
    }
    if let Some(day) = usage.day {
        item(&mut list, ["\"day\";q=", ";w="], [day.limit, 86_400]);
    }
    value(list)
}

/// `"second";r=49;t=1, "day";r=39112;t=51234`; `None` without a limit.
pub(super) fn left(usage: &UsageByWindow) -> Option<HeaderValue> {
    let mut list = String::with_capacity(CAPACITY);
    if let Some(second) = usage.second {
        item(&mut list, ["\"second\";r=", ";t="], [second.left, second.resets_in]);
    }
    if let Some(day) = usage.day {
        item(&mut list, ["\"day\";r=", ";t="], [day.left, day.resets_in]);
    }
    value(list)
}

impl LimitWindow {
    /// `RateLimit-Policy` with this window of the account's budget and its limit as well: `…, "account-second";q=20;w=1`.
    pub(crate) fn append_policy(self, fields: Option<&HeaderValue>, limit: u64) -> Option<HeaderValue> {
        let (quota, seconds) = match self {
            LimitWindow::Second => ("\"account-second\";q=", 1),
            LimitWindow::Day => ("\"account-day\";q=", 86_400),
        };
        append(fields, [quota, ";w="], [limit, seconds])
    }

    /// `RateLimit` with this window of the account's budget as well, of which nothing is left for `wait`:
    /// `…, "account-second";r=0;t=1`.
    pub(crate) fn append_used_up(self, fields: Option<&HeaderValue>, wait: Duration) -> Option<HeaderValue> {
        let left = match self {
            LimitWindow::Second => "\"account-second\";r=",
            LimitWindow::Day => "\"account-day\";r=",
        };
        append(fields, [left, ";t="], [0, wait.as_secs()])
    }
}

fn append(fields: Option<&HeaderValue>, texts: [&str; 2], numbers: [u64; 2]) -> Option<HeaderValue> {
    let mut list = fields.and_then(|fields| fields.to_str().ok()).unwrap_or_default().to_owned();
    item(&mut list, texts, numbers);
    value(list)
}

/// Each text before its number. Without `std::fmt`: it takes 500 instructions for an item, of which each response has one
/// or two.
fn item(list: &mut String, texts: [&str; 2], numbers: [u64; 2]) {
    if !list.is_empty() {
        list.push_str(", ");
    }
    for (text, number) in texts.into_iter().zip(numbers) {
        list.push_str(text);
        list.push_str(itoa::Buffer::new().format(number.min(MAX)));
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
        let (second, day) = (LimitWindow::Second, LimitWindow::Day);
        assert_eq!(
            second.append_policy(Some(&fields), 20).unwrap(),
            "\"day\";q=9;w=86400, \"account-second\";q=20;w=1"
        );
        assert_eq!(second.append_used_up(None, Duration::from_secs(3)).unwrap(), "\"account-second\";r=0;t=3");
        assert_eq!(day.append_policy(None, 7).unwrap(), "\"account-day\";q=7;w=86400");
    }
}
