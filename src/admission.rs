//! Limits on how often a service may call the gateway and how often the gateway may call Fastrac.
//!
//! A [`Quota`] belongs to a service and is charged for its requests. A [`Budget`] belongs to an
//! account and is charged for what is sent to Fastrac.
//!
//! Always holds: no window admits more than its limit; a refused request takes nothing; what was taken and not used is given
//! back, to the window that it came from. Quotas and budgets live beside the configuration snapshot, so a reload keeps their
//! counts; a [`DayLedger`] decides what of a day outlives the process. The room knows no requests, metrics or stores, and no
//! headers except the two `RateLimit` fields. It fails with [`Exceeded`], [`OverBudget`] and [`Unrecorded`].

mod bucket;
mod bucket_start;
mod budget;
mod calendar_day;
mod claim;
mod day;
mod day_parts;
mod day_row;
mod day_share;
mod header;
mod learned;
mod lease;
mod lease_line;
mod outlook;
mod overridden;
mod queue;
mod quota;
mod share;
#[cfg(test)]
mod tests;
mod tokens;
mod usage;
mod wall_clock;

pub use self::{
    bucket_start::{BucketMark, BucketStart},
    budget::{Budget, BudgetLimit, BudgetMember, BudgetRequest, BudgetUsage, NotSpent, OverBudget, Spent},
    calendar_day::{CalendarDay, LocalTime},
    claim::Claim,
    day::{DayCount, DayCounter, LastCounts, Unrecorded},
    lease::{CounterContext, CounterId, DayLedger, Grant, LeaseHolder, LeaseRequest, LeaseTarget, Level, RestoredDay},
    outlook::{DayProgress, DayUse, UseHistory, WARNINGS},
    overridden::{OverrideNotice, QuotaOverride},
    queue::{LimitResponse, Sharer, Urgency},
    quota::{Exceeded, Quota},
    usage::{LimitWindow, UsageByWindow, WindowUsage},
    wall_clock::WallClock,
};
