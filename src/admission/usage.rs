//! How much of a limit is left: what status, metrics and the `RateLimit` fields show.
//!
//! Numbers only: reading them takes nothing from a limit and never fails.

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

impl TokensLeft {
    pub(super) fn window(self) -> WindowUsage {
        let limit = u64::from(self.rate.per_second);
        WindowUsage { limit, left: self.left.min(limit), resets_in: 1 }
    }
}
