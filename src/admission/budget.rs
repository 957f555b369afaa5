//! An account's budget: how much the gateway may send to Fastrac.
//!
//! Always holds: nothing is sent without a [`Spent`], and only [`Budget::spend`] creates one. It
//! occupies one of the account's places in flight until it is dropped, also while a response body
//! streams. What was taken and not sent is given back. A refused request takes
//! nothing. The budget does not know what is sent. It fails with [`OverBudget`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::tz::TimeZone;
use tokio::time::Instant;

use super::{
    bucket::InsufficientTokens,
    calendar_day::Midnight,
    claim::Claim,
    day::{CounterContext, DayCounter, Unrecorded},
    header::WindowLimit,
    outlook::DayUse,
    queue::{Exhausted, Permit, WaitLimit, WaitQueue},
    usage::{LimitWindow, UsageByWindow, WindowUsage},
};
use crate::{
    config::{self, Priority},
    retry_after::whole_seconds,
};

/// Upper bound of `max_wait`, milliseconds: one day, far above any caller's deadline.
const MAX_WAIT: u64 = 86_400_000;

/// An account's budget.
#[derive(Debug)]
pub struct Budget {
    queue: Arc<WaitQueue>,
    /// Milliseconds.
    max_wait: AtomicU64,
}

/// The budget is used up.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OverBudget {
    /// No token of the second within the time that the request may wait.
    #[error("the account's budget for this second is used up")]
    Second {
        /// Whole seconds, at least 1.
        retry_after: Duration,
    },
    /// No units left today.
    #[error("the account's daily budget is used up")]
    Day {
        /// Whole seconds, at least 1.
        retry_after: Duration,
        /// Midnight in the account's zone.
        resets_at: Midnight,
    },
    /// No place in flight within the time that the request may wait.
    #[error("too many requests of the account are in flight")]
    InFlight {
        /// Whole seconds, at least 1.
        retry_after: Duration,
    },
    /// There may be units left today, but taking them cannot be recorded.
    #[error(transparent)]
    Unrecorded(#[from] Unrecorded),
}

impl OverBudget {
    /// Whole seconds after which a retry may succeed, at least 1.
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Second { retry_after } | Self::Day { retry_after, .. } | Self::InFlight { retry_after } => {
                *retry_after
            }
            Self::Unrecorded(_) => Duration::from_secs(1),
        }
    }
}

/// How much of a budget is used.
#[derive(Clone, Copy, Debug)]
pub struct BudgetUsage {
    /// The windows of the second and the day.
    pub windows: UsageByWindow,
    /// Requests in flight: `limit` and `left`; `resets_in` is 0.
    pub in_flight: WindowUsage,
    /// Units used today; counted even without a limit.
    pub used_today: u64,
    /// Requests in the wait queue.
    pub waiting: usize,
}

impl Budget {
    /// An unused budget. The day starts at midnight of `zone`.
    pub fn new(budget: &config::BudgetConfig, zone: &TimeZone, context: impl Into<CounterContext>) -> Self {
        let day = DayCounter::new(budget.day, zone, context);
        let queue = Arc::new(WaitQueue::new(budget.second, day, budget.in_flight));
        Self { queue, max_wait: AtomicU64::new(wait_millis(budget.max_wait)) }
    }

    /// Changes the limits; counts and requests in flight stay.
    pub fn resize(&self, budget: &config::BudgetConfig) {
        self.max_wait.store(wait_millis(budget.max_wait), Ordering::Relaxed);
        self.queue.day.set_limit(budget.day);
        self.queue.resize(budget.second, budget.in_flight);
    }

    /// Changes the time zone; the day keeps its count.
    pub fn set_zone(&self, zone: &TimeZone) {
        self.queue.day.set_zone(zone);
    }

    /// Takes `cost` units, waiting up to `max_wait` and never beyond `deadline`. Cancel safe: a
    /// dropped future has taken nothing.
    ///
    /// # Errors
    /// [`OverBudget`] names the limit that was short; at once if waiting cannot help.
    pub async fn spend(&self, cost: u32, priority: Priority, deadline: Instant) -> Result<Spent, OverBudget> {
        let at_most = Duration::from_millis(self.max_wait.load(Ordering::Relaxed));
        match self.queue.acquire(cost, priority, WaitLimit { at_most, deadline }).await {
            Ok(permit) => Ok(Spent { permit, claim: Claim::default() }),
            Err(exhausted) => Err(self.over_budget(exhausted)),
        }
    }

    fn over_budget(&self, exhausted: Exhausted) -> OverBudget {
        let second = Duration::from_secs(1);
        match exhausted {
            Exhausted::InFlight => OverBudget::InFlight { retry_after: second },
            Exhausted::Second(InsufficientTokens::Until(due)) => OverBudget::Second { retry_after: whole_seconds(due) },
            Exhausted::Second(InsufficientTokens::Never) => OverBudget::Second { retry_after: second },
            Exhausted::NotLeased => OverBudget::Unrecorded(Unrecorded),
            Exhausted::Day => OverBudget::Day {
                retry_after: Duration::from_secs(self.queue.day.today().ends_in),
                resets_at: self.queue.day.ends_at(),
            },
        }
    }

    /// The count of the day.
    pub fn day(&self) -> &Arc<DayCounter> {
        &self.queue.day
    }

    /// The limit of a window.
    pub fn limit(&self, window: LimitWindow) -> Option<WindowLimit> {
        let windows = self.usage().windows;
        let shown = match window {
            LimitWindow::Second => windows.second,
            LimitWindow::Day => windows.day,
        };
        shown.map(|shown| WindowLimit { window, limit: shown.limit })
    }

    /// How far the day is used, for warnings and forecasts.
    pub fn day_use(&self) -> DayUse {
        self.queue.day.day_use(self.queue.day.limit())
    }

    /// How much is used now.
    pub fn usage(&self) -> BudgetUsage {
        let max_in_flight = self.queue.max_in_flight();
        let left = max_in_flight.saturating_sub(self.queue.in_flight());
        BudgetUsage {
            windows: UsageByWindow::of(self.queue.second().as_deref(), self.queue.day.limit(), &self.queue.day),
            in_flight: WindowUsage { limit: max_in_flight as u64, left: left as u64, resets_in: 0 },
            used_today: self.queue.day.today().used,
            waiting: self.queue.waiting(),
        }
    }
}

/// What one request took out of the budget.
#[derive(Debug)]
#[must_use = "dropping it unsent gives everything back"]
pub struct Spent {
    permit: Permit,
    /// The service's.
    claim: Claim,
}

impl Spent {
    /// Ties the service's claim to this: both are used once the request is sent, both are given back
    /// if it never is.
    pub fn with_claim(self, claim: Claim) -> Self {
        Self { claim, ..self }
    }

    /// Records the units of both days, so that a restart counts them; to be called before anything is sent. Waits for the
    /// ledger, at most until `until` and about a second. Cancel safe.
    ///
    /// # Errors
    /// [`Unrecorded`]: nothing may be sent.
    pub async fn record(&mut self, until: Instant) -> Result<(), Unrecorded> {
        self.permit.claim.record(until).await?;
        self.claim.record(until).await
    }

    /// Counts everything as used, because the request may have been sent; Fastrac's response changes
    /// nothing. The place in flight stays occupied until this is dropped.
    pub fn sent(&mut self) {
        self.permit.claim.keep();
        self.claim.keep();
    }

    /// The service's claim; empty if it was used.
    pub fn take_claim(&mut self) -> Claim {
        std::mem::take(&mut self.claim)
    }
}

fn wait_millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).min(MAX_WAIT)
}
