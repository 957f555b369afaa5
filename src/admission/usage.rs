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
    /// Units left while none is used: fewer than `limit` if the bucket holds fewer.
    pub most_left: u64,
    /// Whole seconds until the window starts again.
    pub resets_in: u64,
}

impl WindowUsage {
    /// Of a window that begins with all its units.
    pub fn of(limit: u64, left: u64, resets_in: u64) -> Self {
        WindowUsage { limit, left, most_left: limit, resets_in }
    }

    pub fn used(&self) -> u64 {
        self.most_left.saturating_sub(self.left)
    }
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
        let most_left = limit.min(self.rate.burst.into());
        WindowUsage { most_left, ..WindowUsage::of(limit, self.left.min(limit), 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_bucket_is_unused_whatever_it_holds() {
        let window = |burst, left| TokensLeft { rate: Rate { per_second: 100, burst }, left }.window();
        let shown = |burst, left| (window(burst, left).limit, window(burst, left).left, window(burst, left).used());
        assert_eq!([shown(50, 50), shown(50, 30), shown(50, 0)], [(100, 50, 0), (100, 30, 20), (100, 0, 50)]);
        assert_eq!([shown(200, 200), shown(200, 99), shown(200, 0)], [(100, 100, 0), (100, 99, 1), (100, 0, 100)]);
    }
}
