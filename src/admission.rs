//! Limits on how often a service may call the gateway and how often the gateway may call Fastrac.
//!
//! A [`Quota`] belongs to a service and is charged for its requests. A [`Budget`] belongs to an
//! account and is charged for what is sent to Fastrac.
//!
//! Always holds: no window admits more than its limit; a refused request takes nothing; what was
//! taken and not used is given back, to the window that it came from. Both live beside the configuration snapshot, so a reload
//! keeps their counts. The room knows no requests, metrics or stores, and no headers except the two
//! `RateLimit` fields. It fails with [`Exceeded`] and [`OverBudget`].

mod bucket;
mod budget;
mod claim;
mod day;
mod header;
mod in_flight;
mod queue;
mod quota;
#[cfg(test)]
mod tests;
mod usage;
mod wall_clock;

pub use self::{
    budget::{Budget, BudgetUsage, OverBudget, Spent},
    claim::Claim,
    day::Midnight,
    in_flight::{InFlightLimit, InFlightPermit},
    quota::{Exceeded, LimitWindow, Quota},
    usage::{UsageByWindow, WindowUsage},
    wall_clock::WallClock,
};
