//! Rate limits: requests per second and per day.
//!
//! What always holds: a request with a valid key pair is counted when it arrives, whatever its result; a request that
//! one limit refuses is counted by none. Windows are fixed: a second of the sandbox's clock, and a day that ends at
//! midnight in Jakarta. Each starts empty, so up to twice the limit can pass within the second around a boundary.
//! Fastrac's own limits are not public, so the response to an excess request is configurable.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::clock;

/// A second in milliseconds.
const SECOND: i64 = 1_000;

/// A limit, and the response to requests beyond it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limit {
    /// Requests per second; absent: unlimited.
    pub per_second: Option<u64>,
    /// Requests per day; absent: unlimited.
    pub per_day: Option<u64>,
    /// Whose requests are counted together.
    pub by: CountedBy,
    /// Status of the response, 200 to 599.
    pub status: u16,
    /// `message` of the response.
    pub message: String,
    /// Whether the response has `Retry-After`: the seconds until the window ends, at least 1.
    pub retry_after: bool,
}

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CountedBy {
    /// Of all key pairs together: the account's.
    #[default]
    Account,
    /// Of each label separately.
    Key,
}

/// The window whose limit was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Window {
    /// Per second.
    Second,
    /// Per day.
    Day,
}

/// The response to a request beyond a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LimitExceeded {
    /// The window whose limit was exceeded.
    pub window: Window,
    pub status: u16,
    pub message: String,
    /// Value of `Retry-After` in seconds; absent: no such header.
    pub retry_after: Option<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Limits {
    limits: Vec<Limit>,
    /// By position of the limit, and by label if keys are counted separately.
    counts: HashMap<(usize, Option<Arc<str>>), WindowCounts>,
}

/// Requests in the current second and day.
#[derive(Clone, Copy, Debug, Default)]
struct WindowCounts {
    second: WindowCount,
    day: WindowCount,
}

/// Requests in one window.
#[derive(Clone, Copy, Debug, Default)]
struct WindowCount {
    /// Number of the second or day since 1970.
    index: i64,
    requests: u64,
}

impl Default for Limit {
    fn default() -> Self {
        Limit {
            per_second: None,
            per_day: None,
            by: CountedBy::default(),
            status: 429,
            message: "Too Many Requests".to_owned(),
            retry_after: false,
        }
    }
}

impl Limit {
    /// Checks that the limit can be applied.
    ///
    /// # Errors
    /// If it limits nothing or its status is not 200 to 599.
    pub fn check(&self) -> Result<(), String> {
        if self.per_second.is_none() && self.per_day.is_none() {
            return Err("per_second or per_day is required".to_owned());
        }
        if (200..=599).contains(&self.status) { Ok(()) } else { Err("status: must be 200 to 599".to_owned()) }
    }

    /// The window in which `count` has reached the limit.
    fn full(&self, count: WindowCounts) -> Option<Window> {
        let second = self.per_second.is_some_and(|most| count.second.requests >= most);
        let day = self.per_day.is_some_and(|most| count.day.requests >= most);
        // The day's `Retry-After` is the longer one.
        if day { Some(Window::Day) } else { second.then_some(Window::Second) }
    }

    fn refuse(&self, window: Window, at: i64) -> LimitExceeded {
        let left = match window {
            Window::Second => SECOND - at.rem_euclid(SECOND),
            Window::Day => clock::day(at).1,
        };
        let seconds = u64::try_from(left).unwrap_or(0).div_ceil(1_000).max(1);
        let retry_after = self.retry_after.then_some(seconds);
        LimitExceeded { window, status: self.status, message: self.message.clone(), retry_after }
    }
}

/// Checks all limits.
///
/// # Errors
/// As [`Limit::check`]; the message begins with the position of the first wrong limit.
pub(crate) fn check(limits: &[Limit]) -> Result<(), String> {
    let mut each = limits.iter().enumerate();
    each.try_for_each(|(at, limit)| limit.check().map_err(|error| format!("limits[{at}].{error}")))
}

impl Limits {
    /// Limits with nothing counted yet.
    pub(crate) fn new(limits: Vec<Limit>) -> Self {
        Limits { limits, counts: HashMap::new() }
    }

    /// Counts a request of a key at `at` (Unix milliseconds), or returns why it is refused.
    pub(crate) fn admit(&mut self, key: &Arc<str>, at: i64) -> Option<LimitExceeded> {
        let apart = |limit: &Limit| (limit.by == CountedBy::Key).then(|| Arc::clone(key));
        for (position, limit) in self.limits.iter().enumerate() {
            let count = self.counts.entry((position, apart(limit))).or_default().turned(at);
            if let Some(window) = limit.full(count) {
                return Some(limit.refuse(window, at));
            }
        }
        for (position, limit) in self.limits.iter().enumerate() {
            let count = self.counts.entry((position, apart(limit))).or_default();
            *count = count.turned(at);
            count.second.requests += 1;
            count.day.requests += 1;
        }
        None
    }

    /// The limits and the counts of the current windows, as JSON.
    pub(crate) fn json(&self, at: i64) -> Value {
        let used = |position: usize| -> Vec<Value> {
            let own = self.counts.iter().filter(|((which, _), _)| *which == position);
            let mut lines: Vec<Value> = own
                .map(|((_, key), count)| (key, count.turned(at)))
                .map(|(key, count)| json!({"key": key.as_deref(), "second": count.second.requests, "day": count.day.requests}))
                .collect();
            lines.sort_by_key(|line| line["key"].as_str().map(str::to_owned));
            lines
        };
        let lines =
            self.limits.iter().enumerate().map(|(position, limit)| json!({"limit": limit, "used": used(position)}));
        json!({"limits": lines.collect::<Vec<_>>(), "now": clock::utc(at)})
    }
}

impl WindowCounts {
    /// The counts of the windows that contain `at`.
    fn turned(self, at: i64) -> WindowCounts {
        let (second, (day, _)) = (at.div_euclid(SECOND), clock::day(at));
        WindowCounts { second: self.second.at(second), day: self.day.at(day) }
    }
}

impl WindowCount {
    /// Itself, or an empty one if another window has begun.
    fn at(self, index: i64) -> WindowCount {
        if self.index == index { self } else { WindowCount { index, requests: 0 } }
    }
}

impl Window {
    /// Name in counters and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Window::Second => "second",
            Window::Day => "day",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-01-02 23:59:59.500 in Jakarta.
    const LATE: i64 = 1_767_373_199_500;

    fn limits(limit: Limit) -> Limits {
        Limits::new(vec![limit])
    }

    fn admitted(limits: &mut Limits, key: &str, at: i64, times: usize) -> usize {
        let key: Arc<str> = key.into();
        (0..times).filter(|_| limits.admit(&key, at).is_none()).count()
    }

    #[test]
    fn a_second_holds_its_number_and_the_next_one_again() {
        let mut limits = limits(Limit { per_second: Some(3), ..Limit::default() });
        assert_eq!(admitted(&mut limits, "a", 1_000, 5), 3);
        assert_eq!(admitted(&mut limits, "b", 1_999, 1), 0, "one account");
        assert_eq!(admitted(&mut limits, "a", 2_000, 5), 3);
    }

    #[test]
    fn a_day_ends_at_midnight_in_jakarta() {
        let mut limits = limits(Limit { per_day: Some(2), by: CountedBy::Key, retry_after: true, ..Limit::default() });
        assert_eq!(clock::local(LATE), "2026-01-02 23:59:59");
        assert_eq!(admitted(&mut limits, "a", LATE, 5), 2);
        assert_eq!(admitted(&mut limits, "b", LATE, 5), 2, "each key for itself");
        let exceeded = limits.admit(&"a".into(), LATE).unwrap();
        assert_eq!((exceeded.window, exceeded.status, exceeded.retry_after), (Window::Day, 429, Some(1)));
        let earlier = limits.admit(&"a".into(), LATE - 3_600_000).unwrap();
        assert_eq!(earlier.retry_after, Some(3_601));
        assert_eq!(admitted(&mut limits, "a", LATE + 500, 5), 2);
        assert_eq!(limits.json(LATE + 500)["limits"][0]["used"][0], json!({"key": "a", "second": 2, "day": 2}));
    }

    #[test]
    fn what_one_limit_refuses_counts_for_none() {
        let wide = Limit { per_day: Some(4), ..Limit::default() };
        let narrow = Limit { per_second: Some(1), by: CountedBy::Key, ..Limit::default() };
        let mut limits = Limits::new(vec![wide, narrow]);
        assert_eq!(admitted(&mut limits, "a", 0, 10), 1);
        assert_eq!((1..10).map(|second| admitted(&mut limits, "a", second * 1_000, 10)).sum::<usize>(), 3);
    }

    #[test]
    fn a_limit_that_limits_nothing_is_refused() {
        assert!(Limit::default().check().is_err());
        assert!(Limit { per_second: Some(1), status: 99, ..Limit::default() }.check().is_err());
        assert!(Limit { per_second: Some(0), ..Limit::default() }.check().is_ok());
    }

    proptest! {
        #[test]
        fn no_window_ever_admits_more(steps in prop::collection::vec(0_i64..900, 1..200)) {
            let mut limits = limits(Limit { per_second: Some(4), per_day: Some(50), ..Limit::default() });
            let (mut at, mut by_second) = (LATE - 20_000, HashMap::<i64, u64>::new());
            let mut by_day = HashMap::<String, u64>::new();
            for step in steps {
                at += step;
                if limits.admit(&"a".into(), at).is_none() {
                    *by_second.entry(at / 1_000).or_default() += 1;
                    *by_day.entry(clock::local(at)[..10].to_owned()).or_default() += 1;
                }
            }
            prop_assert!(by_second.values().all(|count| *count <= 4));
            prop_assert!(by_day.values().all(|count| *count <= 50));
        }
    }
}
