//! Branches of orders: their shares, and branches planned for the next orders.
//!
//! What always holds: an order's branch depends on the seed and its number only, unless a branch was planned for it.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::steps::{BRANCHES, Branch, InitialStatus};
use crate::random::{Purpose, draw, fraction};

/// Maximum number of planned entries.
const MAX_PLANNED: usize = 1_000;

/// How orders progress.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowSettings {
    /// Status of a new order.
    pub begin: InitialStatus,
    /// Shares of the branches of express orders; the rest is delivered.
    pub express: BranchShares,
    /// Shares of the branches of instant orders; the rest is delivered.
    pub instant: BranchShares,
    /// Maximum number of orders kept, at least 1.
    pub kept: usize,
}

/// Shares of branches, each from 0 to 1, in the order of [`BRANCHES`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BranchShares(Vec<(Branch, f64)>);

/// A branch for the next orders.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlannedBranch {
    pub branch: Branch,
    /// Number of orders.
    #[serde(default = "one")]
    pub times: u64,
}

/// Planned branches, first in, first out.
#[derive(Debug, Default)]
pub(crate) struct PlannedBranches(VecDeque<PlannedBranch>);

fn one() -> u64 {
    1
}

impl Default for FlowSettings {
    fn default() -> Self {
        FlowSettings {
            begin: InitialStatus::default(),
            express: BranchShares(vec![(Branch::Problem, 0.01), (Branch::Return, 0.03), (Branch::Cancel, 0.02)]),
            instant: BranchShares(vec![
                (Branch::Problem, 0.01),
                (Branch::Return, 0.01),
                (Branch::Cancel, 0.02),
                (Branch::ProblemCancel, 0.01),
            ]),
            kept: 1_000_000,
        }
    }
}

impl BranchShares {
    /// Shares by branch name.
    ///
    /// # Errors
    ///
    /// If a name is unknown or not of this kind, or if the shares or their sum are not from 0 to 1.
    pub fn of(named: &BTreeMap<String, f64>, instant: bool) -> Result<BranchShares, String> {
        let possible: Vec<&str> =
            BRANCHES.iter().filter(|(branch, _)| branch.allowed_for(instant)).map(|(_, name)| *name).collect();
        if let Some(name) = named.keys().find(|name| !possible.contains(&name.as_str())) {
            return Err(format!("{name} is not a branch; possible: {}", possible.join(", ")));
        }
        let sum: f64 = named.values().sum();
        if named.values().any(|share| !(0.0..=1.0).contains(share)) || !(0.0..=1.000_001).contains(&sum) {
            return Err("each share and their sum must be from 0 to 1".to_owned());
        }
        let all = BRANCHES.iter().filter_map(|(branch, name)| Some((*branch, *named.get(*name)?)));
        Ok(BranchShares(all.collect()))
    }

    fn draw(&self, seed: u64, number: u64) -> Branch {
        let mut left = fraction(draw(seed, Purpose::Branch, &[number]));
        for (branch, share) in &self.0 {
            if left < *share {
                return *branch;
            }
            left -= share;
        }
        Branch::Deliver
    }
}

impl FlowSettings {
    /// The branch of order `number`.
    pub fn branch(&self, seed: u64, number: u64, instant: bool) -> Branch {
        if instant { self.instant.draw(seed, number) } else { self.express.draw(seed, number) }
    }
}

impl PlannedBranches {
    /// Adds an entry; false if there are too many.
    pub(crate) fn add(&mut self, planned: PlannedBranch) -> bool {
        let room = self.0.len() < MAX_PLANNED;
        if room && planned.times > 0 {
            self.0.push_back(planned);
        }
        room
    }

    /// Takes the first branch that this kind of order can take.
    pub(crate) fn take(&mut self, instant: bool) -> Option<Branch> {
        let position = self.0.iter().position(|planned| planned.branch.allowed_for(instant))?;
        let planned = &mut self.0[position];
        let branch = planned.branch;
        planned.times -= 1;
        if planned.times == 0 {
            self.0.remove(position);
        }
        Some(branch)
    }

    /// The entries, oldest first.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &PlannedBranch> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_met_and_the_same_seed_draws_the_same() {
        let plan = FlowSettings::default();
        let count = |seed: u64, branch: Branch| {
            (1..=10_000).filter(|number| plan.branch(seed, *number, false) == branch).count()
        };
        assert!((200..400).contains(&count(1, Branch::Return)) && (9_200..9_600).contains(&count(1, Branch::Deliver)));
        assert_eq!(count(1, Branch::Cancel), count(1, Branch::Cancel));
        let drawn = |seed| (1..=1_000).map(|number| plan.branch(seed, number, true)).collect::<Vec<_>>();
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
    }

    #[test]
    fn the_first_orders_of_the_default_seed_are_delivered() {
        // The README's first hour begins with one.
        let drawn: Vec<Branch> = (1..=3).map(|number| FlowSettings::default().branch(1, number, false)).collect();
        assert_eq!(drawn, [Branch::Deliver; 3]);
    }

    #[test]
    fn wrong_shares_are_told() {
        let shares = |pairs: &[(&str, f64)], instant| {
            BranchShares::of(&pairs.iter().map(|(name, share)| ((*name).to_owned(), *share)).collect(), instant)
        };
        assert!(shares(&[("return", 0.5), ("cancel", 0.5)], false).is_ok());
        assert!(shares(&[("no_courier", 0.5)], true).is_ok());
        for (pairs, instant) in [
            (&[("no_courier", 0.5)][..], false),
            (&[("retrun", 0.1)], false),
            (&[("return", 0.6), ("cancel", 0.6)], true),
        ] {
            assert!(shares(pairs, instant).is_err(), "{pairs:?}");
        }
        assert!(shares(&[("return", f64::NAN)], true).is_err());
    }

    #[test]
    fn wishes_are_used_up_by_orders_that_they_fit() {
        let mut planned = PlannedBranches::default();
        assert!(
            planned.add(PlannedBranch { branch: Branch::NoCourier, times: 1 })
                && planned.add(PlannedBranch { branch: Branch::Return, times: 2 })
        );
        assert_eq!(planned.take(false), Some(Branch::Return));
        assert_eq!(planned.take(true), Some(Branch::NoCourier));
        assert_eq!((planned.take(true), planned.take(false)), (Some(Branch::Return), None));
    }
}
