//! The passing of time: what is due is carried out, and waiting tasks are woken.
//!
//! What always holds: steps happen at their own times, however late they are carried out; the sleeping task
//! (`webhook::send`) is woken when something is due earlier than it assumed.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

use super::Simulation;
use crate::{
    clock::Pace,
    orders::{OrderContext, Orders},
    webhook::{AttemptResult, DeliveryJob},
};

impl Simulation {
    /// Carries out everything that is due.
    pub(crate) fn catch_up(&mut self) {
        let now = self.clock.now();
        if self.orders.next_due().is_none_or(|due| due > now) {
            return;
        }
        let (orders, mut context) = self.order_context(now);
        while orders.run_next_due(&mut context) {}
    }

    /// Calls `act` with the orders and their context.
    pub(crate) fn with_orders<T>(&mut self, act: impl FnOnce(&mut Orders, &mut OrderContext<'_>) -> T) -> T {
        self.catch_up();
        let now = self.clock.now();
        let (orders, mut context) = self.order_context(now);
        let done = act(orders, &mut context);
        self.wake_if_earlier();
        done
    }

    pub(super) fn order_context(&mut self, now: i64) -> (&mut Orders, OrderContext<'_>) {
        let context = OrderContext {
            wallet: &mut self.wallet,
            quotes: &mut self.quotes,
            outbox: &mut self.outbox,
            validity: self.switches.validity,
            flow: &self.switches.flow,
            shortage: &self.switches.shortage,
            now,
        };
        (&mut self.orders, context)
    }

    /// When the next step or webhook is due, Unix milliseconds.
    pub(crate) fn next_due(&mut self) -> Option<i64> {
        [self.orders.next_due(), self.outbox.next_due()].into_iter().flatten().min()
    }

    /// Wakes the task that lets time pass if something is due before it wakes.
    pub(crate) fn wake_if_earlier(&mut self) {
        if self.next_due().is_some_and(|due| due < self.asleep_until) {
            self.wake();
        }
    }

    pub(crate) fn wake(&mut self) {
        self.asleep_until = i64::MIN;
        self.bell.notify_one();
    }

    pub(crate) fn wake_signal(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }

    /// Notified each time when nothing is due any more.
    pub(crate) fn idle_signal(&self) -> Arc<Notify> {
        Arc::clone(&self.calm)
    }

    /// Whether everything due has happened and was sent.
    pub(crate) fn is_idle(&mut self) -> bool {
        let now = self.clock.now();
        self.orders.next_due().is_none_or(|due| due > now) && self.outbox.is_idle(now)
    }

    /// How long the task that lets time pass may sleep; `None`: until it is woken. Notifies those who wait for
    /// idleness.
    pub(crate) fn next_wakeup(&mut self) -> Option<Duration> {
        let next = self.next_due();
        self.asleep_until = next.unwrap_or(i64::MAX);
        if self.is_idle() {
            self.calm.notify_waiters();
        }
        next.and_then(|due| self.clock.time_until(due))
    }

    /// The webhook that is due, if there is one.
    pub(crate) fn next_delivery(&mut self) -> Option<DeliveryJob> {
        let runs = self.clock.pace() != Pace::Stepped;
        self.outbox.start_next(self.clock.now(), runs)
    }

    /// Records the result of a delivery.
    pub(crate) fn finish_delivery(&mut self, job: &DeliveryJob, outcome: AttemptResult) {
        let now = (self.clock.pace() != Pace::Stepped).then(|| self.clock.now());
        self.outbox.finish(job, outcome, now);
    }
}
