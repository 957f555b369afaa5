//! May this service do this now; may this account be asked now.
//!
//! [`Quota`] is a service's, and is charged for what it asks of the gateway; [`Budget`] is an
//! account's, and is charged for what is really sent to Fastrac. What always holds: no window admits
//! more than its limit; a refused call takes nothing; what was reserved and not used goes back. Both
//! live beside the configuration, so a reload keeps their counts. They must not know requests,
//! headers (but their own two), metrics or stores. They fail with [`Exceeded`] and [`OverBudget`].

mod bucket;
mod budget;
mod day;
mod header;
mod queue;
#[cfg(test)]
mod tests;
mod wall_clock;

use std::{sync::Arc, time::Duration};

use http::HeaderValue;
use jiff::tz::TimeZone;

use self::{
    bucket::{InsufficientTokens, TokenBucket},
    day::{DayCounter, Reserved},
};
pub use self::{
    budget::{Budget, BudgetUsage, OverBudget, Spent},
    day::Midnight,
    wall_clock::WallClock,
};
use crate::config;

/// A service's quota, live.
#[derive(Debug)]
pub struct Quota {
    second: Option<Arc<TokenBucket>>,
    day: Arc<DayCounter>,
    policy: Option<HeaderValue>,
}

/// The window of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitWindow {
    /// A token bucket of the second.
    Second,
    /// A calendar day.
    Day,
}

/// A service's quota is used up.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("quota is used up")]
pub struct Exceeded {
    /// Which window.
    pub window: LimitWindow,
    /// Whole seconds, at least 1.
    pub retry_after: Duration,
    /// When the day starts again, in the account's zone; only for [`LimitWindow::Day`].
    pub resets_at: Option<Midnight>,
}

/// One window of a quota or budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowUsage {
    /// Units in a window.
    pub limit: u64,
    /// Units left of it; never more than `limit`, also where a burst is saved up.
    pub left: u64,
    /// Whole seconds until the window starts again.
    pub resets_in: u64,
}

/// The windows that have a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageByWindow {
    /// The second.
    pub second: Option<WindowUsage>,
    /// The day.
    pub day: Option<WindowUsage>,
}

impl Quota {
    /// A quota with nothing used. The day turns in `zone`, the account's.
    pub fn new(quota: &config::Quota, zone: &TimeZone, wall: WallClock) -> Self {
        let day = Arc::new(DayCounter::new(quota.day, zone, wall));
        Self::of(quota.second.map(|rate| Arc::new(TokenBucket::full(rate))), day)
    }

    /// What a reload makes of it: the day's count stays under the new limit; a window of the second
    /// that didn't change goes on, a changed one starts empty. The zone stays.
    pub fn reloaded(&self, quota: &config::Quota) -> Self {
        let kept = self.second.clone().filter(|bucket| Some(bucket.rate()) == quota.second);
        self.day.set_limit(quota.day);
        Self::of(kept.or_else(|| quota.second.map(|rate| Arc::new(TokenBucket::empty(rate)))), self.day.clone())
    }

    fn of(second: Option<Arc<TokenBucket>>, day: Arc<DayCounter>) -> Self {
        let mut made = Self { second, day, policy: None };
        made.policy = header::policy(&made.usage());
        made
    }

    /// Takes one of the second: the narrow window, asked first.
    ///
    /// # Errors
    /// [`Exceeded`] when there is none; nothing is taken then.
    pub fn rate(&self) -> Result<(), Exceeded> {
        let Some(second) = &self.second else { return Ok(()) };
        second.take(1).map_err(|dry| {
            let wait = if let InsufficientTokens::Until(wait) = dry { wait } else { Duration::ZERO };
            Exceeded { window: LimitWindow::Second, retry_after: ceil_seconds(wait), resets_at: None }
        })
    }

    /// Reserves one of the day.
    ///
    /// # Errors
    /// [`Exceeded`] when none is left.
    pub fn day(&self) -> Result<DayReservation, Exceeded> {
        self.day.reserve(1).map(|reserved| DayReservation { reserved }).map_err(|_| Exceeded {
            window: LimitWindow::Day,
            retry_after: Duration::from_secs(self.day.ends_in()),
            resets_at: Some(self.day.ends_at()),
        })
    }

    /// What is left at this moment.
    pub fn usage(&self) -> UsageByWindow {
        UsageByWindow { second: self.second.as_deref().map(second_window), day: day_window(&self.day) }
    }

    /// Units used today, also where the day has no limit.
    pub fn used_today(&self) -> u64 {
        self.day.used()
    }

    /// `RateLimit-Policy`; `None` without a limit.
    pub fn policy_header(&self) -> Option<&HeaderValue> {
        self.policy.as_ref()
    }

    /// `RateLimit` at this moment; `None` without a limit.
    pub fn limit_header(&self) -> Option<HeaderValue> {
        header::left(&self.usage())
    }
}

/// One of a service's day, given back when dropped unless kept.
#[derive(Debug)]
#[must_use = "dropped, it gives back what was reserved"]
pub struct DayReservation {
    reserved: Reserved,
}

impl DayReservation {
    /// It was used.
    pub fn keep(self) {
        self.reserved.keep();
    }
}

fn second_window(bucket: &TokenBucket) -> WindowUsage {
    let limit = u64::from(bucket.rate().per_second);
    WindowUsage { limit, left: u64::from(bucket.left()).min(limit), resets_in: 1 }
}

fn day_window(ledger: &DayCounter) -> Option<WindowUsage> {
    let limit = ledger.limit()?;
    let (used, resets_in) = ledger.look();
    Some(WindowUsage { limit, left: limit.saturating_sub(used), resets_in })
}

/// Rounds up to whole seconds, at least 1: what `Retry-After` can say.
fn ceil_seconds(wait: Duration) -> Duration {
    let up = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    Duration::from_secs(up.max(1))
}
