//! How much of a limit is left: what status, metrics and the `RateLimit` fields show.
//!
//! Numbers only: reading them takes nothing from a limit and never fails.

use super::day::DayCounter;
use crate::config::Rate;

/// The window of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitWindow {
    /// Per second: a token bucket.
    Second,
    /// Per calendar day.
    Day,
}

impl LimitWindow {
    /// Its word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            LimitWindow::Second => "second",
            LimitWindow::Day => "day",
        }
    }
}

/// One window of a quota or budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowUsage {
    /// Units per window.
    pub limit: u64,
    /// Units left; never more than `limit`, even if the bucket holds a larger burst.
    pub left: u64,
    /// Whole seconds until the window starts again.
    pub resets_in: u64,
}

/// The windows that have a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageByWindow {
    /// Per second.
    pub second: Option<WindowUsage>,
    /// Per calendar day.
    pub day: Option<WindowUsage>,
}

/// A limited rate, and the tokens left.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokensLeft {
    pub(super) rate: Rate,
    pub(super) left: u64,
}

impl UsageByWindow {
    /// `limit`: of the day; it need not be the counter's own.
    pub(super) fn of(second: Option<TokensLeft>, limit: Option<u64>, day: &DayCounter) -> Self {
        Self { second: second.map(second_window), day: limit.map(|limit| day_window(limit, day)) }
    }
}

fn second_window(TokensLeft { rate, left }: TokensLeft) -> WindowUsage {
    let limit = u64::from(rate.per_second);
    WindowUsage { limit, left: left.min(limit), resets_in: 1 }
}

fn day_window(limit: u64, day: &DayCounter) -> WindowUsage {
    let today = day.today();
    WindowUsage { limit, left: limit.saturating_sub(today.used), resets_in: today.ends_in }
}
