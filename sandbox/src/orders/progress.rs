//! Progress of orders: as time passes, and by request.
//!
//! What always holds: steps are made in the order of their times (then of the orders' numbers), each at the time it
//! was due, however late it is carried out. An order has one valid entry in the schedule; older entries are ignored.
//! A cancelled order is refunded, and a delivered one credits what was collected, once.

use std::cmp::Reverse;

use super::{
    OrderContext, Orders,
    record::{NEVER, Order},
    steps::{Branch, Step},
};
use crate::{wallet::MovementKind, webhook::OrderEvent};

/// A step and when it is made.
pub(super) struct TimedStep {
    /// Unix milliseconds.
    pub(super) at: i64,
    pub(super) step: Step,
}

/// Why a request to change an order is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrderCommandError {
    /// No order with this air waybill is kept.
    #[error("no order has this air waybill; GET /_sandbox/orders lists them")]
    UnknownOrder,
    /// The branch cannot be taken from the order's status, or not by its kind.
    #[error("the order is {status}; possible branches: {open}")]
    BranchClosed { status: &'static str, open: String },
    /// The order's branch does not lead to the status.
    #[error("the order is {status} and its branch {branch} does not lead to {wanted}; ahead: {ahead}")]
    StatusNotAhead { status: &'static str, branch: &'static str, wanted: String, ahead: String },
}

impl Orders {
    /// When the next step of any order is due, Unix milliseconds.
    pub(crate) fn next_due(&mut self) -> Option<i64> {
        loop {
            let Reverse((at, number)) = *self.schedule.peek()?;
            if self.position(number).is_some_and(|position| self.kept[position].due == at) {
                return Some(at);
            }
            self.schedule.pop();
        }
    }

    /// Makes the next step that is due; false if there is none.
    pub(crate) fn run_next_due(&mut self, context: &mut OrderContext<'_>) -> bool {
        let Some(at) = self.next_due().filter(|at| *at <= context.now) else { return false };
        let Some(Reverse((_, number))) = self.schedule.pop() else { return false };
        if let Some(position) = self.position(number) {
            self.step(position, at, context);
        }
        true
    }

    /// Makes an order's next step at `at`; false if there is none.
    fn step(&mut self, position: usize, at: i64, context: &mut OrderContext<'_>) -> bool {
        let order = &self.kept[position];
        let (steps, made) = order.history.steps();
        let Some(next) = order.flow().next(&steps[..made]) else { return false };
        self.record_step(position, TimedStep { at, step: next }, context);
        true
    }

    /// Makes a step, and schedules the next one.
    pub(super) fn record_step(&mut self, position: usize, timed: TimedStep, context: &mut OrderContext<'_>) {
        let TimedStep { at, step } = timed;
        let order = &mut self.kept[position];
        order.history.push(at.saturating_sub(order.at), step);
        self.made[usize::from(order.instant)][step as usize] += 1;
        match step {
            Step::Cancelled => {
                context.wallet.remove_pending(order.proceeds);
                context.wallet.credit(order.charge, at, MovementKind::Order, Some(order.ids()));
            }
            Step::Delivered if order.proceeds > 0 => {
                context.wallet.remove_pending(order.proceeds);
                context.wallet.credit(order.proceeds, at, MovementKind::DanaCod, Some(order.ids()));
            }
            Step::Returned => context.wallet.remove_pending(order.proceeds),
            _ => {}
        }
        context.outbox.record(&OrderEvent { ids: order.ids(), courier: order.courier(), step, at });
        self.schedule_next(position, at);
    }

    /// Schedules an order's next step, counted from `at`.
    fn schedule_next(&mut self, position: usize, at: i64) {
        let seed = self.seed;
        let order = &mut self.kept[position];
        let (steps, made) = order.history.steps();
        let flow = order.flow();
        order.due = match flow.next(&steps[..made]) {
            None => NEVER,
            Some(next) => at.saturating_add(flow.wait(seed, order.number, next, order.etd())),
        };
        let (due, number) = (order.due, order.number);
        if due < NEVER {
            self.schedule.push(Reverse((due, number)));
        }
        // Obsolete entries are few, unless branches are changed very often.
        if self.schedule.len() > 2 * self.kept.len() + 1_024 {
            let live = self.kept.iter().filter(|order| order.due < NEVER);
            self.schedule = live.map(|order| Reverse((order.due, order.number))).collect();
        }
    }

    /// Changes the branch of an order.
    ///
    /// # Errors
    ///
    /// If the order is unknown or the branch is not open to it.
    pub(crate) fn set_branch(&mut self, awb: &str, branch: Branch, now: i64) -> Result<(), OrderCommandError> {
        let position = self.named(awb).ok_or(OrderCommandError::UnknownOrder)?;
        let order = &mut self.kept[position];
        let last = order.history.last();
        if !branch.allowed_for(order.instant) || !branch.reachable_from(last) {
            let open: Vec<&str> = super::steps::BRANCHES
                .iter()
                .filter(|(branch, _)| branch.allowed_for(order.instant) && branch.reachable_from(last))
                .map(|(_, name)| *name)
                .collect();
            let open = if open.is_empty() { "none, it has ended".to_owned() } else { open.join(", ") };
            return Err(OrderCommandError::BranchClosed { status: last.status(order.instant), open });
        }
        order.branch = branch;
        self.schedule_next(position, now);
        Ok(())
    }

    /// Makes an order's next steps now, until it has reached a status.
    ///
    /// # Errors
    ///
    /// If the order is unknown or its branch does not lead there.
    pub(crate) fn advance_to_status(
        &mut self,
        awb: &str,
        status: &str,
        context: &mut OrderContext<'_>,
    ) -> Result<(), OrderCommandError> {
        let position = self.named(awb).ok_or(OrderCommandError::UnknownOrder)?;
        let order = &self.kept[position];
        let instant = order.instant;
        let is =
            |step: &Step| step.status(instant) == status || (*step == Step::Cancelled && status.starts_with("CANCEL"));
        let ahead = ahead(order);
        let Some(count) = ahead.iter().position(is) else {
            let mut names: Vec<&str> = ahead.iter().map(|step| step.status(instant)).collect();
            names.dedup();
            let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
            return Err(OrderCommandError::StatusNotAhead {
                status: order.history.last().status(instant),
                branch: order.branch.name(),
                wanted: status.to_owned(),
                ahead: names,
            });
        };
        for step in &ahead[..=count] {
            self.record_step(position, TimedStep { at: context.now, step: *step }, context);
        }
        Ok(())
    }
}

/// The steps that an order will make.
pub(super) fn ahead(order: &Order) -> Vec<Step> {
    let (steps, made) = order.history.steps();
    let mut all = steps[..made].to_vec();
    while let Some(next) = order.flow().next(&all) {
        all.push(next);
    }
    all.split_off(made)
}
