//! How time passes in the world: what is due happens, and whoever waits for it is woken.
//!
//! What always holds: steps happen at their own times however late they are looked at; the task that
//! sleeps (`webhook::send`) is woken when something is due earlier than it thought.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

use super::World;
use crate::{
    clock::Pace,
    orders::{Desk, Orders},
    webhook::{Job, Outcome},
};

impl World {
    /// Makes happen what is due: afterwards the world is as it must be now.
    pub fn catch_up(&mut self) {
        let now = self.clock.now();
        if self.orders.next_due().is_none_or(|due| due > now) {
            return;
        }
        let (orders, mut desk) = self.desk(now);
        while orders.pass(&mut desk) {}
    }

    /// Does something to the orders, at the desk.
    pub fn at_desk<T>(&mut self, act: impl FnOnce(&mut Orders, &mut Desk<'_>) -> T) -> T {
        self.catch_up();
        let now = self.clock.now();
        let (orders, mut desk) = self.desk(now);
        let done = act(orders, &mut desk);
        self.stir();
        done
    }

    pub(super) fn desk(&mut self, now: i64) -> (&mut Orders, Desk<'_>) {
        let desk = Desk {
            wallet: &mut self.wallet,
            quotes: &mut self.quotes,
            outbox: &mut self.outbox,
            validity: self.rules.validity,
            plan: &self.rules.plan,
            shortage: &self.rules.shortage,
            now,
        };
        (&mut self.orders, desk)
    }

    /// When something happens next by itself: a step or a webhook; Unix milliseconds.
    pub fn next_due(&mut self) -> Option<i64> {
        [self.orders.next_due(), self.outbox.next_due()].into_iter().flatten().min()
    }

    /// Wakes the task that lets time pass if it sleeps too long now.
    pub fn stir(&mut self) {
        if self.next_due().is_some_and(|due| due < self.asleep_until) {
            self.ring();
        }
    }

    /// Wakes that task.
    pub fn ring(&mut self) {
        self.asleep_until = i64::MIN;
        self.bell.notify_one();
    }

    pub(crate) fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }

    /// Told each time when nothing is due any more.
    pub(crate) fn calm_bell(&self) -> Arc<Notify> {
        Arc::clone(&self.calm)
    }

    /// Whether everything due has happened and was sent.
    pub fn calm(&mut self) -> bool {
        let now = self.clock.now();
        self.orders.next_due().is_none_or(|due| due > now) && self.outbox.calm(now)
    }

    /// How long the task that lets time pass may sleep; tells whoever waits for that.
    pub(crate) fn sleep(&mut self) -> Option<Duration> {
        let next = self.next_due();
        self.asleep_until = next.unwrap_or(i64::MAX);
        if self.calm() {
            self.calm.notify_waiters();
        }
        next.and_then(|due| self.clock.until(due))
    }

    /// The webhook to send now.
    pub(crate) fn next_job(&mut self) -> Option<Job> {
        let runs = self.clock.pace() != Pace::Stepped;
        self.outbox.take(self.clock.now(), runs)
    }

    /// Notes how it went.
    pub(crate) fn settle_job(&mut self, job: &Job, outcome: Outcome) {
        let now = (self.clock.pace() != Pace::Stepped).then(|| self.clock.now());
        self.outbox.settle(job, outcome, now);
    }
}
