//! An account's budget: how much the gateway may send to Fastrac, and which part of it each service is guaranteed.
//!
//! Always holds: nothing is sent without a [`Spent`], and only [`Budget::spend`] creates one. It
//! occupies one of the account's places in flight until it is dropped, also while a response body
//! streams. What was taken and not sent is given back. A refused request takes
//! nothing. The budget does not know what is sent. It fails with [`NotSpent`].

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use jiff::tz::TimeZone;
use tokio::time::Instant;

use super::{
    bucket_start::BucketMark,
    calendar_day::LocalTime,
    claim::{Claim, ClaimedDay},
    day::{DayCounter, Unrecorded},
    day_parts::DayParts,
    day_share::DayRefused,
    lease::CounterContext,
    outlook::DayUse,
    queue::{
        Exhausted, LimitResponse, Limits, Permit, PermitRequest, QueueUsage, ServiceDay, Sharer, Urgency, WaitQueue,
    },
    share::GATEWAY,
    usage::{LimitWindow, TokensLeft, UsageByWindow, WindowUsage},
};
use crate::{
    config::{self, Priority},
    retry_after::whole_seconds,
};

/// An account's budget.
#[derive(Debug)]
pub struct Budget {
    queue: Arc<WaitQueue>,
    context: CounterContext,
}

/// A service among those that share a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetMember(usize);

impl BudgetMember {
    /// The gateway itself. What it calls with [`Priority::High`] is guaranteed.
    pub const GATEWAY: BudgetMember = BudgetMember(GATEWAY);
}

/// A request that is to be sent.
#[derive(Clone, Copy, Debug)]
pub struct BudgetRequest {
    /// Whose share it uses.
    pub member: BudgetMember,
    /// Units of the second and of the day.
    pub cost: u32,
    pub priority: Priority,
    pub urgency: Urgency,
    /// It never waits beyond this.
    pub deadline: Instant,
}

impl BudgetRequest {
    fn permit(self, service_day: ServiceDay) -> PermitRequest {
        let BudgetRequest { member: BudgetMember(member), cost, priority, urgency, deadline } = self;
        PermitRequest { member, cost, priority, urgency, deadline, service_day }
    }
}

/// Why a request may not be sent.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NotSpent {
    #[error(transparent)]
    Budget(#[from] OverBudget),
    /// The service's day was used up in the meantime.
    #[error("the service's daily quota is used up")]
    ServiceDay,
    /// There may be units left today, but taking them cannot be recorded.
    #[error(transparent)]
    Unrecorded(#[from] Unrecorded),
    /// Nobody waits for it any more, and nothing is spare.
    #[error("nobody waits for the call, and no budget is spare")]
    NothingSpare,
}

/// The budget is used up.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{what}")]
pub struct OverBudget {
    pub what: BudgetLimit,
    /// Whole seconds, at least 1.
    pub retry_after: Duration,
    /// The service has a share of the budget, and has used it.
    pub own_share_used: bool,
}

/// A limit of the budget.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BudgetLimit {
    /// No token of the second within the time that the request may wait.
    #[error("the account's budget for this second is used up")]
    Second,
    /// Fastrac has refused requests of the account because there were too many.
    #[error("Fastrac has throttled the account, so that nothing is sent to it for a while")]
    Paused,
    /// No units left today.
    #[error("the account's daily budget is used up; it starts again at {resets_at}")]
    Day {
        /// Start of the next day in the account's zone.
        resets_at: LocalTime,
    },
    /// What is left today is kept for other services, or for later.
    #[error("the service's part of the account's daily budget is used up for now; the next unit is free at {free_at}")]
    PartOfDay {
        /// In the account's zone.
        free_at: LocalTime,
    },
    /// No place in flight that it may take within the time that the request may wait.
    #[error("too many requests of the account are in flight")]
    InFlight,
}

/// How full the bucket of the second is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketUsage {
    /// Capacity in tokens.
    pub burst: u64,
    /// Tokens left.
    pub left: u64,
}

/// How much of a budget is used.
#[derive(Clone, Copy, Debug)]
pub struct BudgetUsage {
    /// The windows of the second and the day.
    pub windows: UsageByWindow,
    /// The bucket of the second; `None` without a limit.
    pub bucket: Option<BucketUsage>,
    /// Requests in flight: `limit` and `left`; `resets_in` is 0.
    pub in_flight: WindowUsage,
    /// Places in flight that only orders may take. As many are kept for all others.
    pub kept_for_each: usize,
    /// As `in_flight`, of what requests other than orders may take.
    pub of_others: WindowUsage,
    /// Units used today; counted even without a limit.
    pub used_today: u64,
    /// Requests in the wait queue.
    pub waiting: usize,
    /// The rate at present, tokens per second: lower than the limit after Fastrac has throttled. `None` without a limit.
    pub learned: Option<f64>,
    /// Rest of the pause that Fastrac has imposed; zero if there is none.
    pub paused_for: Duration,
}

impl Budget {
    /// An unused budget. The day starts at midnight of `zone`.
    pub fn new(budget: &config::BudgetConfig, zone: &TimeZone, context: impl Into<CounterContext>) -> Self {
        let context = context.into();
        let parts = DayParts::new(budget.day, zone, context.clone());
        let queue = WaitQueue::new(limits(budget), DayCounter::new(budget.day, zone, context.clone()), parts);
        queue.begin(context.bucket());
        Self { queue: Arc::new(queue), context }
    }

    /// Changes the limits; counts and requests in flight stay.
    pub fn resize(&self, budget: &config::BudgetConfig) {
        self.queue.limit(limits(budget), budget.day);
    }

    /// Shares the budget among these services. Any other has no share any more. If one of them may place orders, some of
    /// the places in flight are kept for orders.
    pub fn share_among(&self, services: &[Sharer<'_>]) -> Vec<BudgetMember> {
        self.queue.share_among(services).into_iter().map(BudgetMember).collect()
    }

    /// After the start: what services are known to have used of today before. It counts towards their shares of the day, as
    /// does what the counters of [`Budget::parts`] know.
    pub fn restore_day(&self, used: &[(BudgetMember, u64)]) {
        let used: Vec<_> = used.iter().map(|(member, units)| (member.0, *units)).collect();
        self.queue.restore_day(&used);
    }

    /// Before a change of the time zone: leases units of the date there. Returns whether all that is granted.
    pub fn prepare_zone(&self, zone: &TimeZone) -> bool {
        let parts = self.queue.parts();
        // All of them are asked for at once.
        parts.iter().chain([self.day()]).fold(true, |all, day| all & day.prepare_zone(zone))
    }

    /// Changes the time zone; the day keeps its count.
    pub fn set_zone(&self, zone: &TimeZone) {
        self.queue.set_zone(zone);
    }

    /// Takes the request's cost, and what the service's claim still owes, waiting up to `max_wait` and never beyond the
    /// deadline. Cancel safe: a dropped future has taken nothing.
    ///
    /// # Errors
    /// [`NotSpent`] names the limit that was short; at once if waiting cannot help.
    pub async fn spend(&self, request: BudgetRequest, claim: &Claim) -> Result<Spent, NotSpent> {
        let permit =
            self.queue.acquire(request.permit(claim.due())).await.map_err(|exhausted| self.not_spent(exhausted))?;
        Ok(Spent { permit, claim: Claim::default() })
    }

    /// Whether a call that nobody waits for may take so much of a full bucket of the second. If not, callers might lack it.
    pub fn may_spare(&self, cost: u32) -> bool {
        self.queue.may_spare(cost)
    }

    /// How long a request waits for the budget, unless its service's share covers it, or a call that nobody waits for delays
    /// it.
    pub fn max_wait(&self) -> Duration {
        self.queue.max_wait()
    }

    /// Why no request like this may be sent for a while, however full the bucket is: a pause, or the day. Takes nothing.
    pub fn closed(&self, request: BudgetRequest) -> Option<OverBudget> {
        match self.not_spent(self.queue.closed(request.permit(None))?) {
            NotSpent::Budget(over) => Some(over),
            NotSpent::ServiceDay | NotSpent::Unrecorded(_) | NotSpent::NothingSpare => None,
        }
    }

    /// Fastrac has refused a request of the account, because there were too many; it names a time to wait, or none. Nothing
    /// is sent until then, and less after it, also by the processes after this one. Returns how long the same request has to
    /// wait.
    pub fn throttled(&self, limit: LimitResponse, again: BudgetRequest) -> Duration {
        self.queue.throttled(limit, again.permit(None), |mark| {
            if let Some(ledger) = &self.context.ledger {
                ledger.throttled(&self.context.id, mark);
            }
        })
    }

    /// For [`super::DayLedger::bucket`] of the next process.
    pub fn bucket_mark(&self) -> BucketMark {
        self.queue.bucket_mark()
    }

    /// The count of the day.
    pub fn day(&self) -> &Arc<DayCounter> {
        &self.queue.day
    }

    /// The counters of what services have used of the day, if they share it.
    pub fn parts(&self) -> Vec<Arc<DayCounter>> {
        self.queue.parts()
    }

    /// The date of the day: days since 1970, in the account's zone.
    pub fn date(&self) -> i32 {
        self.queue.day.view().date
    }

    /// The limit of a window, in units.
    pub fn limit(&self, window: LimitWindow) -> Option<u64> {
        let windows = self.usage().windows;
        let shown = match window {
            LimitWindow::Second => windows.second,
            LimitWindow::Day => windows.day,
        };
        shown.map(|shown| shown.limit)
    }

    /// How far the day is used, for warnings and forecasts.
    pub fn day_use(&self) -> DayUse {
        self.queue.day.day_use(self.queue.day.limit())
    }

    fn not_spent(&self, exhausted: Exhausted) -> NotSpent {
        let second = Duration::from_secs(1);
        let over = |what, wait: Duration, own_share_used| OverBudget {
            what,
            retry_after: whole_seconds(wait),
            own_share_used,
        };
        let over = match exhausted {
            Exhausted::InFlight { own_share_used } => over(BudgetLimit::InFlight, second, own_share_used),
            Exhausted::Second { wait, own_share_used } => over(BudgetLimit::Second, wait, own_share_used),
            Exhausted::TooLarge => over(BudgetLimit::Second, second, false),
            Exhausted::Paused { wait } => over(BudgetLimit::Paused, wait, false),
            Exhausted::Day(refused) => self.over_day(refused),
            Exhausted::NotLeased => return Unrecorded.into(),
            Exhausted::ServiceDay => return NotSpent::ServiceDay,
        };
        over.into()
    }

    fn over_day(&self, DayRefused { free_at, own_share_used }: DayRefused) -> OverBudget {
        let day = &self.queue.day;
        let view = day.view();
        let what = if free_at < view.ends {
            BudgetLimit::PartOfDay { free_at: day.local(free_at) }
        } else {
            BudgetLimit::Day { resets_at: day.ends_at() }
        };
        let wait = Duration::from_millis(u64::try_from(free_at - view.now).unwrap_or(0));
        OverBudget { what, retry_after: whole_seconds(wait), own_share_used }
    }

    /// How much is used now.
    pub fn usage(&self) -> BudgetUsage {
        let QueueUsage { second, per_second, paused_for, in_flight, places, kept_for_each, of_others, waiting } =
            self.queue.usage();
        let today = self.queue.day.today();
        let left = |limit: u64| limit.saturating_sub(today.used);
        let day = self.queue.day.limit().map(|limit| WindowUsage::of(limit, left(limit), today.ends_in));
        let bucket = second.map(|TokensLeft { rate, left }| BucketUsage { burst: u64::from(rate.burst), left });
        BudgetUsage {
            bucket,
            windows: UsageByWindow { second: second.map(TokensLeft::window), day },
            in_flight: WindowUsage::of(places as u64, places.saturating_sub(in_flight) as u64, 0),
            kept_for_each,
            of_others: WindowUsage::of(of_others.0 as u64, of_others.1 as u64, 0),
            used_today: today.used,
            waiting,
            learned: per_second,
            paused_for,
        }
    }
}

fn limits(budget: &config::BudgetConfig) -> Limits {
    let config::BudgetConfig { second, in_flight, max_wait, pace, .. } = *budget;
    Limits { second, places: in_flight, max_wait, pace }
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
    pub fn with_claim(mut self, mut claim: Claim) -> Self {
        if let Some(unit) = self.permit.service_unit.take() {
            claim.day = ClaimedDay::Taken(unit);
        }
        Self { claim, ..self }
    }

    /// Records the units of both days, so that a restart counts them; to be called before anything is sent. Waits for the
    /// ledger, at most until `until`. Cancel safe.
    ///
    /// # Errors
    /// [`Unrecorded`]: nothing may be sent.
    pub async fn record(&mut self, until: Instant) -> Result<(), Unrecorded> {
        self.permit.record(until).await?;
        self.claim.record(until).await
    }

    /// Counts everything as used, because the request may have been sent; Fastrac's response changes
    /// nothing. The place in flight stays occupied until this is dropped.
    pub fn sent(&mut self) {
        self.permit.keep();
        self.claim.keep();
    }

    /// The service's claim; empty if it was used.
    pub fn take_claim(&mut self) -> Claim {
        std::mem::take(&mut self.claim)
    }
}
