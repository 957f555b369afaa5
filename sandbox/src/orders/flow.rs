//! What happens to orders as time passes, and what somebody makes happen.
//!
//! What always holds: steps are made in the order of their times (then of the orders' numbers),
//! each at the time it was due however late it is looked at; an order stands once in the schedule
//! for its next step, and older entries of it mean nothing; a cancelled order gives its charge back
//! and a delivered one brings what was collected, once.

use std::cmp::Reverse;

use super::{
    Desk, Orders,
    kept::{NEVER, Order},
    way::{Branch, Step},
};
use crate::wallet::Kind;

/// Why somebody's wish for an order can't be met.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// No order of this air waybill is kept.
    #[error("no order has this air waybill; GET /_sandbox/orders lists them")]
    Unknown,
    /// The branch isn't open from where the order stands, or not for its kind.
    #[error("the order is {status}; from there go: {open}")]
    Closed {
        /// Where it stands.
        status: &'static str,
        /// The branches that it can take.
        open: String,
    },
    /// The order's way doesn't lead there.
    #[error("the order is {status} and its branch {branch} doesn't lead to {wanted}; ahead lie: {ahead}")]
    Astray {
        /// Where it stands.
        status: &'static str,
        /// Its branch.
        branch: &'static str,
        /// What was wished.
        wanted: String,
        /// What lies ahead.
        ahead: String,
    },
}

impl Orders {
    /// When the next step is due; Unix milliseconds.
    pub fn next_due(&mut self) -> Option<i64> {
        loop {
            let Reverse((at, number)) = *self.schedule.peek()?;
            if self.position(number).is_some_and(|position| self.kept[position].due == at) {
                return Some(at);
            }
            self.schedule.pop();
        }
    }

    /// Makes the next step that is due until now, if there is one.
    pub fn pass(&mut self, desk: &mut Desk<'_>) -> bool {
        let Some(at) = self.next_due().filter(|at| *at <= desk.now) else { return false };
        let Some(Reverse((_, number))) = self.schedule.pop() else { return false };
        if let Some(position) = self.position(number) {
            self.step(position, at, desk);
        }
        true
    }

    /// Makes an order's next step at `at`; false if there is none.
    fn step(&mut self, position: usize, at: i64, desk: &mut Desk<'_>) -> bool {
        let order = &self.kept[position];
        let (steps, made) = order.trail.steps();
        let Some(next) = order.walker().next(&steps[..made]) else { return false };
        self.make(position, (at, next), desk);
        true
    }

    /// Makes a step of an order, and schedules what follows.
    pub(super) fn make(&mut self, position: usize, (at, step): (i64, Step), desk: &mut Desk<'_>) {
        let seed = self.seed;
        let order = &mut self.kept[position];
        order.trail.push(at.saturating_sub(order.at), step);
        self.made[usize::from(order.instant)][step as usize] += 1;
        match step {
            Step::Cancelled => {
                desk.wallet.settle(order.proceeds);
                desk.wallet.credit(order.charge, at, Kind::Order, Some(order.name()));
            }
            Step::Delivered if order.proceeds > 0 => {
                desk.wallet.settle(order.proceeds);
                desk.wallet.credit(order.proceeds, at, Kind::DanaCod, Some(order.name()));
            }
            Step::Returned => desk.wallet.settle(order.proceeds),
            _ => {}
        }
        desk.outbox.happened((seed, order.name()), order.courier(), (at, step));
        self.reckon(position, at);
    }

    /// Schedules an order's next step, counted from `at`.
    fn reckon(&mut self, position: usize, at: i64) {
        let seed = self.seed;
        let order = &mut self.kept[position];
        let (steps, made) = order.trail.steps();
        let walker = order.walker();
        order.due = match walker.next(&steps[..made]) {
            None => NEVER,
            Some(next) => at.saturating_add(walker.wait((seed, order.number), next, order.etd())),
        };
        let (due, number) = (order.due, order.number);
        if due < NEVER {
            self.schedule.push(Reverse((due, number)));
        }
        // Entries that mean nothing are few, unless somebody steers without end.
        if self.schedule.len() > 2 * self.kept.len() + 1_024 {
            let live = self.kept.iter().filter(|order| order.due < NEVER);
            self.schedule = live.map(|order| Reverse((order.due, order.number))).collect();
        }
    }

    /// Sends an order another way.
    ///
    /// # Errors
    ///
    /// If it is unknown, or the branch isn't open any more.
    pub fn send(&mut self, awb: &str, branch: Branch, now: i64) -> Result<(), MoveError> {
        let position = self.named(awb).ok_or(MoveError::Unknown)?;
        let order = &mut self.kept[position];
        let last = order.trail.last();
        if !branch.fits(order.instant) || !branch.open_from(last) {
            let open: Vec<&str> = super::way::BRANCHES
                .iter()
                .filter(|(branch, _)| branch.fits(order.instant) && branch.open_from(last))
                .map(|(_, name)| *name)
                .collect();
            let open = if open.is_empty() { "nowhere, it has ended".to_owned() } else { open.join(", ") };
            return Err(MoveError::Closed { status: last.wire(order.instant), open });
        }
        order.branch = branch;
        self.reckon(position, now);
        Ok(())
    }

    /// Makes an order's next steps now, until it has a status.
    ///
    /// # Errors
    ///
    /// If it is unknown, or its branch doesn't lead there.
    pub fn hurry(&mut self, awb: &str, status: &str, desk: &mut Desk<'_>) -> Result<(), MoveError> {
        let position = self.named(awb).ok_or(MoveError::Unknown)?;
        let order = &self.kept[position];
        let instant = order.instant;
        let is =
            |step: &Step| step.wire(instant) == status || (*step == Step::Cancelled && status.starts_with("CANCEL"));
        let ahead = ahead(order);
        let Some(count) = ahead.iter().position(is) else {
            let mut names: Vec<&str> = ahead.iter().map(|step| step.wire(instant)).collect();
            names.dedup();
            let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
            return Err(MoveError::Astray {
                status: order.trail.last().wire(instant),
                branch: order.branch.name(),
                wanted: status.to_owned(),
                ahead: names,
            });
        };
        for step in &ahead[..=count] {
            self.make(position, (desk.now, *step), desk);
        }
        Ok(())
    }
}

/// The steps that lie ahead of an order.
pub(super) fn ahead(order: &Order) -> Vec<Step> {
    let (steps, made) = order.trail.steps();
    let mut all = steps[..made].to_vec();
    while let Some(next) = order.walker().next(&all) {
        all.push(next);
    }
    all.split_off(made)
}
