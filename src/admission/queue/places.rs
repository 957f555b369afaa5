//! The places in flight of an account: how many are occupied, and which of the free ones a request may take.
//!
//! Some places are kept for orders and as many for everything else, so that slow requests of one kind cannot hold all of
//! them against the other. Each service with a share has its part of the rest; below its part, it may take any place that
//! is free. A place comes back only when a call ends. So while calls take longer than a request may wait, a service beyond
//! its part, or without one, leaves places free for each service that uses its part: as many as it occupied lately and one
//! more, up to its part, and all of its part if it found no place lately. If there are many places, one is left for the
//! services that sleep, so that the first call of one that wakes finds it.
//!
//! Always holds: at most as many places are occupied as there are; at least half of them can be borrowed; a decision takes
//! logarithmic time. Times are nanoseconds that only grow. Knows services by number only. Never fails.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::lanes::Lane;
use crate::admission::share::WHOLE;

/// A service that has neither asked for a place nor given one back for so long sleeps: nothing is left free for it but what
/// it shares with all others that sleep. Nanoseconds: longer than a request that finds no place is told to wait.
const SLEEP_AFTER: u64 = 2_000_000_000;

/// How long calls count as slow after one was, nanoseconds.
const SLOW_FOR: u64 = 60_000_000_000;

/// From so many places on, one is left for those that sleep.
const MANY: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Places {
    count: usize,
    /// Services of the account may place orders.
    orders_come: bool,
    in_flight: usize,
    /// Of `in_flight`.
    orders_in_flight: usize,
    /// By number.
    services: Vec<ServicePlaces>,
    /// How long a request may wait, nanoseconds.
    max_wait: u64,
    /// Until then calls count as slow: otherwise a place that a request needs comes back while it waits.
    slow_until: u64,
    /// Sum of what borrowers leave for the services.
    left: usize,
    /// Services that sleep and could wake within their parts.
    sleepers: usize,
    /// Services with a share.
    sharers: usize,
    /// When those that are awake fall asleep, possibly too early.
    changes: BinaryHeap<Reverse<(u64, usize)>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct ServicePlaces {
    /// Of [`WHOLE`]; 0: none.
    share: u64,
    /// Its part of the places; 0 without a share.
    part: usize,
    occupied: usize,
    /// How many it occupied, or needed, at the same time, at most, in the window that ends at `window_ends`.
    most: usize,
    /// The same for the window before.
    most_before: usize,
    window_ends: u64,
    /// It is in [`Places::changes`].
    is_awake: bool,
    sleeps_at: u64,
    /// What borrowers leave for it.
    left: usize,
    /// It is one of [`Places::sleepers`].
    is_sleeper: bool,
}

impl ServicePlaces {
    /// Begins a window if the last is over.
    fn turn(&mut self, now: u64) {
        if now >= self.window_ends {
            let is_next = now < self.window_ends.saturating_add(SLEEP_AFTER);
            self.most_before = if is_next { self.most } else { self.occupied };
            self.most = self.occupied;
            self.window_ends = now + SLEEP_AFTER;
        }
    }
}

/// A place that is occupied.
#[derive(Clone, Copy, Debug)]
pub(super) struct OccupiedPlace {
    pub(super) member: usize,
    lane: Lane,
    /// Nanoseconds.
    since: u64,
}

/// What wants a place.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlaceRequest {
    pub(super) member: usize,
    pub(super) lane: Lane,
    /// No other service's part applies to it.
    pub(super) exempt: bool,
}

/// No place may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoPlace {
    /// When those that are left for others may be fewer; `None`: not before a call ends.
    pub(super) until: Option<u64>,
}

impl Places {
    /// `max_wait`: how long a request may wait, nanoseconds.
    pub(super) fn limit(&mut self, count: usize, max_wait: u64) {
        self.count = count;
        self.max_wait = max_wait;
        (0..self.services.len()).for_each(|member| self.divide(member));
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether services of the account may place orders.
    pub(super) fn place_orders(&mut self, orders: bool) {
        self.orders_come = orders;
        (0..self.services.len()).for_each(|member| self.divide(member));
    }

    /// Gives a service another share, of [`WHOLE`].
    pub(super) fn set_share(&mut self, member: usize, share: u64) {
        self.services.resize(self.services.len().max(member + 1), ServicePlaces::default());
        let one = &mut self.services[member];
        self.sharers = self.sharers + usize::from(share > 0) - usize::from(one.share > 0);
        one.share = share;
        if share == 0 && one.is_awake {
            one.is_awake = false;
            self.changes.retain(|Reverse((_, other))| *other != member);
        }
        self.divide(member);
    }

    /// Places that only orders may take, and as many that only others may: an eighth, rounded up. A single place is for all.
    pub(super) fn kept_for_each(&self) -> usize {
        if self.orders_come && self.count > 1 { self.count.div_ceil(8) } else { 0 }
    }

    /// Places that requests other than orders may take, and how many of them are free.
    pub(super) fn of_others(&self) -> (usize, usize) {
        (self.count - self.kept_for_each(), self.free(Lane::Others))
    }

    /// The kind that alone may take a place now, if there is one.
    pub(super) fn only(&self) -> Option<Lane> {
        [Lane::Orders, Lane::Others].into_iter().find(|lane| self.free(lane.other()) == 0)
    }

    /// Whether more than a quarter of the places is free for any request.
    pub(super) fn are_many(&self) -> bool {
        let free = self.free(Lane::Orders).min(self.free(Lane::Others));
        free * 4 > self.count.saturating_sub(self.kept_for_each()) && free > self.left + 1
    }

    /// Whether the service occupies fewer places than its part; a part is at least one.
    pub(super) fn is_guaranteed(&self, member: usize) -> bool {
        self.services[member].occupied < self.services[member].part
    }

    /// Whether a place may be taken.
    ///
    /// # Errors
    /// [`NoPlace`] says when to ask again.
    pub(super) fn check(&mut self, request: PlaceRequest, now: u64) -> Result<(), NoPlace> {
        let PlaceRequest { member, lane, exempt } = request;
        let free = self.free(lane);
        if free == 0 {
            self.lacks(member, now);
            return Err(NoPlace { until: None });
        }
        if exempt || self.sharers == 0 || now >= self.slow_until || self.is_guaranteed(member) {
            return Ok(());
        }
        self.advance(now);
        if free > self.left_by(member) {
            return Ok(());
        }
        let until = self.changes.peek().map_or(u64::MAX, |Reverse((at, _))| *at).min(self.slow_until);
        Err(NoPlace { until: Some(until) })
    }

    /// A service asks for a place.
    pub(super) fn asks(&mut self, member: usize, now: u64) {
        if self.services[member].share > 0 {
            self.touch(member, now);
        }
    }

    pub(super) fn take(&mut self, member: usize, lane: Lane, now: u64) -> OccupiedPlace {
        self.in_flight += 1;
        self.orders_in_flight += usize::from(lane == Lane::Orders);
        let one = &mut self.services[member];
        one.occupied += 1;
        one.most = one.most.max(one.occupied);
        self.leave(member);
        OccupiedPlace { member, lane, since: now }
    }

    /// A call took longer than a request may wait, or a request has waited for a place of its service's part in vain.
    pub(super) fn are_slow(&mut self, now: u64) {
        self.slow_until = now.saturating_add(SLOW_FOR);
    }

    /// A place is free again.
    pub(super) fn release(&mut self, OccupiedPlace { member, lane, since }: OccupiedPlace, now: u64) {
        // Here and not when it asks, because those that wait are looked at afterwards.
        self.services[member].turn(now);
        self.asks(member, now);
        if now.saturating_sub(since) > self.max_wait {
            self.are_slow(now);
        }
        self.in_flight -= 1;
        self.orders_in_flight -= usize::from(lane == Lane::Orders);
        self.services[member].occupied -= 1;
        self.leave(member);
    }

    /// Free places that requests of a kind may take.
    fn free(&self, lane: Lane) -> usize {
        let of_a_kind = match lane {
            Lane::Orders => self.orders_in_flight,
            Lane::Others => self.in_flight - self.orders_in_flight,
        };
        let all = self.count.saturating_sub(self.in_flight);
        all.min((self.count - self.kept_for_each()).saturating_sub(of_a_kind))
    }

    /// What this service leaves free if it borrows.
    fn left_by(&self, member: usize) -> usize {
        let own = &self.services[member];
        let one_sleeps = self.count >= MANY && self.sleepers > usize::from(own.is_sleeper);
        let left = self.left - own.left + usize::from(one_sleeps);
        left.min((self.count - self.kept_for_each()) / 2)
    }

    /// Computes a service's part.
    fn divide(&mut self, member: usize) {
        let places = self.count - self.kept_for_each();
        let one = &mut self.services[member];
        let part = (places as u128 * u128::from(one.share) / u128::from(WHOLE)) as usize;
        one.part = if one.share == 0 { 0 } else { part.max(1) };
        self.leave(member);
    }

    /// The service is awake for a while.
    fn touch(&mut self, member: usize, now: u64) {
        let one = &mut self.services[member];
        one.sleeps_at = now + SLEEP_AFTER;
        if !one.is_awake {
            one.is_awake = true;
            self.changes.push(Reverse((now + SLEEP_AFTER, member)));
        }
        self.leave(member);
    }

    /// The service finds no place: if others have borrowed of its part, it needs all of it.
    fn lacks(&mut self, member: usize, now: u64) {
        if self.is_guaranteed(member) {
            let one = &mut self.services[member];
            (one.most, one.window_ends) = (one.part, now + SLEEP_AFTER);
            self.leave(member);
        }
    }

    /// Borrowers leave for the service what it may need.
    fn leave(&mut self, member: usize) {
        let one = &mut self.services[member];
        let needs = one.part.min(one.most.max(one.most_before) + 1);
        let left = if one.is_awake { needs.saturating_sub(one.occupied) } else { 0 };
        self.left = self.left - one.left + left;
        one.left = left;
        let is_sleeper = !one.is_awake && one.occupied < one.part;
        self.sleepers = self.sleepers + usize::from(is_sleeper) - usize::from(one.is_sleeper);
        one.is_sleeper = is_sleeper;
    }

    /// Services that have not asked for a while fall asleep.
    fn advance(&mut self, now: u64) {
        while let Some(Reverse((at, member))) = self.changes.peek().copied()
            && at <= now
        {
            self.changes.pop();
            let one = &mut self.services[member];
            if one.sleeps_at > now {
                self.changes.push(Reverse((one.sleeps_at, member)));
                continue;
            }
            one.is_awake = false;
            (one.most, one.most_before) = (one.occupied, one.occupied);
            self.leave(member);
        }
    }

    /// Computes the sums anew, and compares them.
    #[cfg(test)]
    pub(super) fn check_sums(&self) {
        let sum = |of: fn(&ServicePlaces) -> usize| self.services.iter().map(of).sum::<usize>();
        assert_eq!((self.left, self.in_flight), (sum(|one| one.left), sum(|one| one.occupied)));
        assert_eq!(self.sleepers, sum(|one| usize::from(!one.is_awake && one.occupied < one.part)));
        assert_eq!(self.sharers, sum(|one| usize::from(one.share > 0)));
        assert_eq!(self.changes.len(), sum(|one| usize::from(one.is_awake)));
        assert!((0..self.services.len()).all(|member| self.services[member].left <= self.services[member].part));
    }
}
