//! The account's budget: what the gateway may ask of Fastrac.
//!
//! What always holds: nothing is sent without a [`Spent`], and only [`Budget::spend`] makes one; it
//! holds a place in flight until it is dropped, also while an answer streams; what was reserved of the
//! day and never sent goes back. Wider limits are asked after narrower ones, and a refused call takes
//! nothing. It must not know what is sent. It fails with [`OverBudget`].

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
    DayReservation, UsageByWindow, WindowUsage,
    bucket::InsufficientTokens,
    ceil_seconds,
    day::{DayCounter, Midnight},
    day_window,
    queue::{Exhausted, Permit, WaitLimit, WaitQueue},
    second_window,
    wall_clock::WallClock,
};
use crate::config::{self, Priority};

/// Longest wait, milliseconds: a day, far above what any caller's deadline allows.
const MAX_WAIT: u64 = 86_400_000;

/// An account's budget, live.
#[derive(Debug)]
pub struct Budget {
    line: Arc<WaitQueue>,
    /// Milliseconds.
    max_wait: AtomicU64,
}

/// The budget is short.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OverBudget {
    /// The second's tokens, longer than the request may wait.
    #[error("the account's budget of the second is used up")]
    Second {
        /// Whole seconds, at least 1.
        retry_after: Duration,
    },
    /// The day's units.
    #[error("the account's budget of the day is used up")]
    Day {
        /// Whole seconds, at least 1.
        retry_after: Duration,
        /// Midnight in the account's zone.
        resets_at: Midnight,
    },
    /// Requests at the same time.
    #[error("too many requests of the account are in flight")]
    InFlight {
        /// Whole seconds, at least 1.
        retry_after: Duration,
    },
}

impl OverBudget {
    /// Whole seconds after which it may go better, at least 1.
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Second { retry_after } | Self::Day { retry_after, .. } | Self::InFlight { retry_after } => {
                *retry_after
            }
        }
    }
}

/// A budget's figures.
#[derive(Clone, Copy, Debug)]
pub struct BudgetUsage {
    /// The windows of the second and the day.
    pub windows: UsageByWindow,
    /// Places in flight: the limit, and what is left; resets in 0.
    pub in_flight: WindowUsage,
    /// Units used today, also where the day has no limit.
    pub used_today: u64,
    /// Requests that wait for their turn.
    pub waiting: usize,
}

impl Budget {
    /// A budget with nothing used. The day turns in `zone`.
    pub fn new(budget: &config::Budget, zone: &TimeZone, wall: WallClock) -> Self {
        let day = Arc::new(DayCounter::new(budget.day, zone, wall));
        let line = Arc::new(WaitQueue::new(budget.second, day, budget.in_flight));
        Self { line, max_wait: AtomicU64::new(millis(budget.max_wait)) }
    }

    /// Takes on new limits; counts, and those in flight, stay.
    pub fn resize(&self, budget: &config::Budget) {
        self.max_wait.store(millis(budget.max_wait), Ordering::Relaxed);
        self.line.day.set_limit(budget.day);
        self.line.resize(budget.second, budget.in_flight);
    }

    /// Takes `cost` out of the budget, waiting for it up to `max_wait` and not beyond `deadline`.
    /// Cancel safe: a caller that leaves takes nothing with it.
    ///
    /// # Errors
    /// [`OverBudget`] names the limit that was short, at once if waiting would be in vain.
    pub async fn spend(&self, cost: u32, priority: Priority, deadline: Instant) -> Result<Spent, OverBudget> {
        let at_most = Duration::from_millis(self.max_wait.load(Ordering::Relaxed));
        match self.line.turn(cost, priority, WaitLimit { at_most, deadline }).await {
            Ok(turn) => Ok(Spent { turn, pass: None }),
            Err(short) => Err(self.refusal(short)),
        }
    }

    fn refusal(&self, short: Exhausted) -> OverBudget {
        let second = Duration::from_secs(1);
        match short {
            Exhausted::InFlight => OverBudget::InFlight { retry_after: second },
            Exhausted::Second(InsufficientTokens::Until(due)) => OverBudget::Second { retry_after: ceil_seconds(due) },
            Exhausted::Second(InsufficientTokens::Never) => OverBudget::Second { retry_after: second },
            Exhausted::Day => OverBudget::Day {
                retry_after: Duration::from_secs(self.line.day.ends_in()),
                resets_at: self.line.day.ends_at(),
            },
        }
    }

    /// Its figures at this moment.
    pub fn usage(&self) -> BudgetUsage {
        let (in_flight, waiting) = self.line.load();
        let cap = self.line.cap();
        BudgetUsage {
            windows: UsageByWindow {
                second: self.line.second().map(|bucket| second_window(&bucket)),
                day: day_window(&self.line.day),
            },
            in_flight: WindowUsage { limit: cap as u64, left: cap.saturating_sub(in_flight) as u64, resets_in: 0 },
            used_today: self.line.day.used(),
            waiting,
        }
    }
}

/// What one request took out of the budget.
#[derive(Debug)]
#[must_use = "dropped unsent, it gives back what was reserved of the day"]
pub struct Spent {
    turn: Permit,
    pass: Option<DayReservation>,
}

impl Spent {
    /// Settles what the service reserved together with this: both are used once it is sent, both go
    /// back if it never is.
    pub fn with(self, pass: Option<DayReservation>) -> Self {
        Self { pass, ..self }
    }

    /// It goes out: what was taken is spent, whatever Fastrac answers. The place in flight is kept
    /// until this is dropped.
    pub fn sent(&mut self) {
        if let Some(day) = self.turn.day.take() {
            day.keep();
        }
        if let Some(pass) = self.pass.take() {
            pass.keep();
        }
    }

    /// The service's reservation, if it was not used.
    pub fn take_quota(&mut self) -> Option<DayReservation> {
        self.pass.take()
    }
}

fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).min(MAX_WAIT)
}
