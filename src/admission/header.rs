//! The `RateLimit` and `RateLimit-Policy` fields (draft-ietf-httpapi-ratelimit-headers).
//!
//! Pure: knows only numbers. Never fails.

use std::fmt::Write as _;

use bytes::Bytes;
use http::HeaderValue;

use super::usage::UsageByWindow;

/// Capacity for both items with three numbers of twenty digits.
const CAPACITY: usize = 96;

/// `"second";q=50;w=1, "day";q=40000;w=86400`; `None` without a limit.
pub(super) fn policy(usage: &UsageByWindow) -> Option<HeaderValue> {
    let mut list = String::new();
    if let Some(second) = usage.second {
        item(&mut list, format_args!("\"second\";q={};w=1", second.limit));
    }
    if let Some(day) = usage.day {
        item(&mut list, format_args!("\"day\";q={};w=86400", day.limit));
    }
    value(list)
}

/// `"second";r=49;t=1, "day";r=39112;t=51234`; `None` without a limit.
pub(super) fn left(usage: &UsageByWindow) -> Option<HeaderValue> {
    let mut list = String::with_capacity(CAPACITY);
    if let Some(second) = usage.second {
        item(&mut list, format_args!("\"second\";r={};t={}", second.left, second.resets_in));
    }
    if let Some(day) = usage.day {
        item(&mut list, format_args!("\"day\";r={};t={}", day.left, day.resets_in));
    }
    value(list)
}

fn item(list: &mut String, item: std::fmt::Arguments<'_>) {
    if !list.is_empty() {
        list.push_str(", ");
    }
    // Writing to a String cannot fail.
    let _ = list.write_fmt(item);
}

fn value(list: String) -> Option<HeaderValue> {
    if list.is_empty() {
        return None;
    }
    HeaderValue::from_maybe_shared(Bytes::from(list)).ok()
}
