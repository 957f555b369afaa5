//! The steps of an order: which follows which, and after how long.
//!
//! The steps are those of Fastrac's two flow diagrams. Of the statuses only `PENDING_PICKUP` is public; the others
//! are the diagrams' labels in upper case, and the last one is spelled as each diagram spells it (`CANCELED` express,
//! `CANCELLED` instant). "No courier found" has no status there: here it is `COURIER_NOT_FOUND`. In transit is three
//! steps of one status.
//!
//! ```text
//! express  WAITING_PAYMENT → PAID → CONFIRMED → PENDING_PICKUP  → PICKED  → IN_TRANSIT → DELIVERED
//!                                             → PENDING_DROPOFF → DROPPED → IN_TRANSIT
//!          PENDING_… → CANCELED        IN_TRANSIT → PROBLEM_SHIPMENT → RTS → RETURNED
//! instant  WAITING_PAYMENT → PAID → CONFIRMED → PENDING_PICKUP → PICKED → IN_TRANSIT → DELIVERED
//!          PAID → SCHEDULED → CONFIRMED | CANCELLED      CONFIRMED → COURIER_NOT_FOUND → CONFIRMED | CANCELLED
//!          IN_TRANSIT → PROBLEM_SHIPMENT → RTS → RETURNED | CANCELLED
//! ```
//!
//! What always holds: pure; the next step depends on the previous steps, the kind and the branch only; every flow
//! ends, or stops where its branch says so.

use serde::{Deserialize, Serialize};

use crate::{
    couriers::Minutes,
    random::{Purpose, draw},
};

/// A minute in milliseconds.
const MINUTE: i64 = 60_000;

/// Maximum number of steps of an order whose branch is not changed on the way.
pub(crate) const MAX_STEPS: usize = 12;

/// A step of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Step {
    WaitingPayment,
    Paid,
    Scheduled,
    Confirmed,
    CourierNotFound,
    PendingPickup,
    PendingDropoff,
    Picked,
    Dropped,
    /// In transit: left the place of hand-over.
    Departed,
    /// In transit: reached the receiver's city (express only).
    Arrived,
    /// In transit: out for delivery (express only).
    Out,
    Delivered,
    Problem,
    Rts,
    Returned,
    Cancelled,
}

/// Which course an order takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Branch {
    /// Delivered.
    #[default]
    Deliver,
    /// To `PROBLEM_SHIPMENT`, where it stays.
    Problem,
    /// Through `PROBLEM_SHIPMENT` and `RTS` to `RETURNED`.
    Return,
    /// Cancelled by the courier before hand-over.
    Cancel,
    /// No further steps.
    Hold,
    /// Instant: through `SCHEDULED`, then delivered.
    Scheduled,
    /// Instant: `SCHEDULED`, then cancelled.
    Unscheduled,
    /// Instant: no courier at first, one at the second search, then delivered.
    Searched,
    /// Instant: no courier, then cancelled.
    NoCourier,
    /// Instant: through `PROBLEM_SHIPMENT` to cancelled.
    ProblemCancel,
}

/// Status of a new order. Not public; the least surprising is the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InitialStatus {
    /// `PENDING_PICKUP` or `PENDING_DROPOFF`, by the order's `pickup` flag.
    #[default]
    Pending,
    /// `CONFIRMED`.
    Confirmed,
    /// `PAID`: the balance has paid.
    Paid,
    /// `WAITING_PAYMENT`, although the balance has paid.
    WaitingPayment,
}

/// The properties of an order that determine its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OrderFlow {
    /// True: instant; false: express.
    pub instant: bool,
    /// True: collected from the sender; false: brought to an agent.
    pub pickup: bool,
    pub branch: Branch,
}

/// All branches, with their names in files and requests.
pub(crate) const BRANCHES: [(Branch, &str); 10] = [
    (Branch::Deliver, "deliver"),
    (Branch::Problem, "problem"),
    (Branch::Return, "return"),
    (Branch::Cancel, "cancel"),
    (Branch::Hold, "hold"),
    (Branch::Scheduled, "scheduled"),
    (Branch::Unscheduled, "unscheduled"),
    (Branch::Searched, "searched"),
    (Branch::NoCourier, "no_courier"),
    (Branch::ProblemCancel, "problem_cancel"),
];

impl Branch {
    pub fn name(self) -> &'static str {
        BRANCHES.iter().find(|(branch, _)| *branch == self).map_or("deliver", |(_, name)| name)
    }

    /// Whether orders of this kind can take it.
    pub fn allowed_for(self, instant: bool) -> bool {
        instant || (self as u8) <= (Branch::Hold as u8)
    }

    /// Whether it differs from the others before the order is pending.
    fn parts_before_pending(self) -> bool {
        matches!(self, Branch::Scheduled | Branch::Unscheduled | Branch::Searched | Branch::NoCourier)
    }

    /// Whether an order whose last step is `last` can still take it.
    pub fn reachable_from(self, last: Step) -> bool {
        match self {
            _ if last.is_final() => false,
            Branch::Deliver => last < Step::Problem,
            Branch::Cancel => last < Step::Picked,
            Branch::Scheduled | Branch::Unscheduled => last <= Step::Scheduled,
            Branch::Searched | Branch::NoCourier => last <= Step::CourierNotFound,
            Branch::Return => true,
            Branch::Problem | Branch::ProblemCancel => last <= Step::Problem,
            Branch::Hold => true,
        }
    }
}

impl Step {
    /// All steps, in the order of their discriminants.
    pub const ALL: [Step; 17] = [
        Step::WaitingPayment,
        Step::Paid,
        Step::Scheduled,
        Step::Confirmed,
        Step::CourierNotFound,
        Step::PendingPickup,
        Step::PendingDropoff,
        Step::Picked,
        Step::Dropped,
        Step::Departed,
        Step::Arrived,
        Step::Out,
        Step::Delivered,
        Step::Problem,
        Step::Rts,
        Step::Returned,
        Step::Cancelled,
    ];

    /// Status in the API.
    pub fn status(self, instant: bool) -> &'static str {
        match self {
            Step::WaitingPayment => "WAITING_PAYMENT",
            Step::Paid => "PAID",
            Step::Scheduled => "SCHEDULED",
            Step::Confirmed => "CONFIRMED",
            Step::CourierNotFound => "COURIER_NOT_FOUND",
            Step::PendingPickup => "PENDING_PICKUP",
            Step::PendingDropoff => "PENDING_DROPOFF",
            Step::Picked => "PICKED",
            Step::Dropped => "DROPPED",
            Step::Departed | Step::Arrived | Step::Out => "IN_TRANSIT",
            Step::Delivered => "DELIVERED",
            Step::Problem => "PROBLEM_SHIPMENT",
            Step::Rts => "RTS",
            Step::Returned => "RETURNED",
            Step::Cancelled if instant => "CANCELLED",
            Step::Cancelled => "CANCELED",
        }
    }

    /// Whether no step follows, whatever the branch.
    pub fn is_final(self) -> bool {
        matches!(self, Step::Delivered | Step::Returned | Step::Cancelled)
    }

    /// Whether a merchant can still cancel: the parcel has not been handed over.
    pub fn cancellable(self) -> bool {
        self < Step::Picked
    }
}

impl OrderFlow {
    pub(crate) fn first(self, begin: InitialStatus) -> Step {
        match begin {
            InitialStatus::WaitingPayment => Step::WaitingPayment,
            InitialStatus::Paid => Step::Paid,
            _ if matches!(self.branch, Branch::Scheduled | Branch::Unscheduled) => Step::Paid,
            InitialStatus::Confirmed => Step::Confirmed,
            InitialStatus::Pending if self.branch.parts_before_pending() => Step::Confirmed,
            InitialStatus::Pending => self.pending(),
        }
    }

    fn pending(self) -> Step {
        if self.pickup { Step::PendingPickup } else { Step::PendingDropoff }
    }

    /// The step after the steps made (oldest first); `None` at the end or where the branch stops.
    pub(crate) fn next(self, made: &[Step]) -> Option<Step> {
        let last = *made.last()?;
        if self.branch == Branch::Hold {
            return None;
        }
        let branch = self.branch;
        let goes_wrong = matches!(branch, Branch::Problem | Branch::Return | Branch::ProblemCancel);
        let searched = made.contains(&Step::CourierNotFound);
        Some(match last {
            Step::WaitingPayment => Step::Paid,
            Step::Paid if matches!(branch, Branch::Scheduled | Branch::Unscheduled) => Step::Scheduled,
            Step::Paid => Step::Confirmed,
            Step::Scheduled if branch == Branch::Unscheduled => Step::Cancelled,
            Step::Scheduled => Step::Confirmed,
            Step::Confirmed if branch == Branch::NoCourier => Step::CourierNotFound,
            Step::Confirmed if branch == Branch::Searched && !searched => Step::CourierNotFound,
            Step::Confirmed => self.pending(),
            Step::CourierNotFound if branch == Branch::NoCourier => Step::Cancelled,
            Step::CourierNotFound => Step::Confirmed,
            Step::PendingPickup | Step::PendingDropoff if branch == Branch::Cancel => Step::Cancelled,
            Step::PendingPickup => Step::Picked,
            Step::PendingDropoff => Step::Dropped,
            Step::Picked | Step::Dropped => Step::Departed,
            Step::Departed if !self.instant => Step::Arrived,
            Step::Arrived => Step::Out,
            Step::Departed | Step::Out if goes_wrong => Step::Problem,
            Step::Departed | Step::Out => Step::Delivered,
            Step::Problem if branch == Branch::Return => Step::Rts,
            Step::Problem if branch == Branch::ProblemCancel => Step::Cancelled,
            Step::Problem => return None,
            Step::Rts => Step::Returned,
            Step::Delivered | Step::Returned | Step::Cancelled => return None,
        })
    }

    /// Milliseconds until `next` is made, drawn from the seed and the order's number; `etd` is the service's time of
    /// delivery.
    pub(crate) fn wait(self, seed: u64, number: u64, next: Step, etd: Minutes) -> i64 {
        let (least, most) = if self.instant { instant_minutes(next, etd) } else { express_minutes(next, etd) };
        let least = least.max(1) * MINUTE;
        let room = (most.max(1) * MINUTE - least).max(0).unsigned_abs();
        let drawn = draw(seed, Purpose::Pace, &[number, next as u64]) % (room + 1);
        // At most a few weeks in milliseconds. Whole seconds, as the API shows no fractions.
        least.saturating_add(i64::try_from(drawn).unwrap_or(0)) / 1_000 * 1_000
    }
}

/// Minimum and maximum minutes before an express step. The long leg takes the service's time.
fn express_minutes(next: Step, etd: Minutes) -> (i64, i64) {
    let Minutes { earliest, latest } = etd;
    match next {
        Step::WaitingPayment | Step::Paid | Step::Confirmed | Step::PendingPickup | Step::PendingDropoff => (1, 5),
        Step::Scheduled => (5, 30),
        Step::CourierNotFound => (10, 15),
        Step::Picked => (60, 360),
        Step::Dropped => (120, 1_440),
        Step::Departed => (60, 300),
        Step::Arrived => (earliest * 2 / 3, latest * 2 / 3),
        Step::Out => (60, 300),
        Step::Delivered | Step::Problem => (60, 360),
        Step::Rts => (720, 2_880),
        Step::Returned => (1_440, 4_320),
        Step::Cancelled => (30, 240),
    }
}

/// Minimum and maximum minutes before an instant step.
fn instant_minutes(next: Step, etd: Minutes) -> (i64, i64) {
    let Minutes { earliest, latest } = etd;
    match next {
        Step::WaitingPayment | Step::Paid | Step::Confirmed | Step::PendingPickup | Step::PendingDropoff => (1, 2),
        Step::Scheduled => (5, 30),
        Step::CourierNotFound => (5, 10),
        Step::Picked | Step::Dropped => (10, 40),
        Step::Departed | Step::Arrived | Step::Out => (1, 5),
        Step::Delivered | Step::Problem => (earliest / 3, latest * 2 / 3),
        Step::Rts => (5, 20),
        Step::Returned => (30, 120),
        Step::Cancelled => (10, 30),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn walk(flow: OrderFlow, begin: InitialStatus) -> Vec<Step> {
        let mut made = vec![flow.first(begin)];
        while let Some(next) = flow.next(&made) {
            made.push(next);
            assert!(made.len() <= MAX_STEPS, "{flow:?}: {made:?}");
        }
        made
    }

    fn wires(instant: bool, pickup: bool, branch: Branch) -> Vec<&'static str> {
        let mut all: Vec<&str> = walk(OrderFlow { instant, pickup, branch }, InitialStatus::WaitingPayment)
            .into_iter()
            .map(|step| step.status(instant))
            .collect();
        all.dedup();
        all
    }

    #[test]
    fn the_published_diagrams_are_walked() {
        let express = |branch, pickup| wires(false, pickup, branch)[3..].join(" ");
        assert_eq!(express(Branch::Deliver, true), "PENDING_PICKUP PICKED IN_TRANSIT DELIVERED");
        assert_eq!(express(Branch::Deliver, false), "PENDING_DROPOFF DROPPED IN_TRANSIT DELIVERED");
        assert_eq!(express(Branch::Cancel, false), "PENDING_DROPOFF CANCELED");
        assert_eq!(express(Branch::Problem, true), "PENDING_PICKUP PICKED IN_TRANSIT PROBLEM_SHIPMENT");
        assert_eq!(express(Branch::Return, true), "PENDING_PICKUP PICKED IN_TRANSIT PROBLEM_SHIPMENT RTS RETURNED");
        let instant = |branch| wires(true, true, branch)[2..].join(" ");
        assert_eq!(instant(Branch::Deliver), "CONFIRMED PENDING_PICKUP PICKED IN_TRANSIT DELIVERED");
        assert_eq!(instant(Branch::Scheduled), "SCHEDULED CONFIRMED PENDING_PICKUP PICKED IN_TRANSIT DELIVERED");
        assert_eq!(instant(Branch::Unscheduled), "SCHEDULED CANCELLED");
        assert_eq!(instant(Branch::NoCourier), "CONFIRMED COURIER_NOT_FOUND CANCELLED");
        assert_eq!(
            instant(Branch::Searched),
            "CONFIRMED COURIER_NOT_FOUND CONFIRMED PENDING_PICKUP PICKED IN_TRANSIT DELIVERED"
        );
        assert_eq!(
            instant(Branch::ProblemCancel),
            "CONFIRMED PENDING_PICKUP PICKED IN_TRANSIT PROBLEM_SHIPMENT CANCELLED"
        );
    }

    #[test]
    fn a_branch_that_parts_early_begins_early_enough() {
        let first = |branch| OrderFlow { instant: true, pickup: true, branch }.first(InitialStatus::Pending);
        assert_eq!(first(Branch::Deliver), Step::PendingPickup);
        assert_eq!(first(Branch::NoCourier), Step::Confirmed);
        assert_eq!(first(Branch::Unscheduled), Step::Paid);
    }

    #[test]
    fn every_way_ends_or_stands_still_where_its_branch_says_so() {
        for (branch, _) in BRANCHES {
            for (instant, pickup) in [(false, false), (false, true), (true, true)] {
                if branch.allowed_for(instant) {
                    let last =
                        *walk(OrderFlow { instant, pickup, branch }, InitialStatus::WaitingPayment).last().unwrap();
                    assert_eq!(last.is_final(), !matches!(branch, Branch::Problem | Branch::Hold), "{branch:?}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn an_open_branch_leads_on_or_holds(at in 0_usize..16, old in 0_usize..10, new in 0_usize..10, instant: bool) {
            let (old, new) = (BRANCHES[old].0, BRANCHES[new].0);
            prop_assume!(old.allowed_for(instant) && new.allowed_for(instant) && old != Branch::Hold);
            let mut made = walk(OrderFlow { instant, pickup: true, branch: old }, InitialStatus::WaitingPayment);
            made.truncate(at % made.len() + 1);
            if new.reachable_from(made[made.len() - 1]) {
                let flow = OrderFlow { instant, pickup: true, branch: new };
                while let Some(next) = flow.next(&made) {
                    made.push(next);
                }
                prop_assert!(made.len() <= MAX_STEPS + 4, "{:?}", made);
                let last = made[made.len() - 1];
                prop_assert_eq!(last.is_final(), !matches!(new, Branch::Problem | Branch::Hold));
            }
        }

        #[test]
        fn waits_are_the_seeds_and_within_bounds(seed: u64, number: u64, step in 0_usize..17, instant: bool) {
            let flow = OrderFlow { instant, pickup: true, branch: Branch::Deliver };
            let etd = Minutes { earliest: 2_880, latest: 5_760 };
            let wait = flow.wait(seed, number, Step::ALL[step], etd);
            prop_assert_eq!(wait, flow.wait(seed, number, Step::ALL[step], etd));
            prop_assert!((MINUTE..=5_760 * MINUTE).contains(&wait) && wait % 1_000 == 0);
        }
    }
}
