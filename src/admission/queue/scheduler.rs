//! Who is served next, and when somebody can be: the wait queue of an account as a value, without a lock and without a
//! clock.
//!
//! Always holds: no request waits while it may take what it needs of the [`Supply`], unless one that comes first waits for
//! the same tokens or place; a request never waits for a place that is kept for its kind; what only one service lacks
//! keeps no other waiting; a request that cannot be served in time is refused when it arrives. Times are nanoseconds that
//! only grow. Must not know requests or counters. It fails with [`Exhausted`].

use std::time::Duration;

use super::{
    lanes::{Lane, LaneLine, Lanes},
    lines::{Demand, Position, Standing, Waiting},
    supply::{Ahead, At, Days, Exhausted, Limits, Served, Stop, Supply, Taken},
};
use crate::admission::share::GATEWAY;

/// How long a request waits for units of the day that the ledger has not granted yet, at most, nanoseconds.
const LEASE_WAIT: u64 = 1_000_000_000;

/// Of the head of the line that is served next.
const NOTHING_AHEAD: Ahead = Ahead { own: 0, all: 0 };

/// What becomes of a request that arrives.
pub(super) enum QueueArrival<T> {
    Granted(Served<T>),
    Refused(Exhausted),
    /// It may enter the queue, and wait until then.
    Waits {
        expires: u64,
    },
}

/// A waiter's place in the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueTicket {
    line: LaneLine,
    position: Position,
}

#[derive(Debug)]
pub(super) struct Scheduler<W, Q> {
    pub(super) supply: Supply,
    lines: Lanes<W, Q>,
    members: usize,
}

impl<W, Q> Scheduler<W, Q> {
    pub(super) fn new(limits: Limits) -> Self {
        let mut scheduler = Scheduler { supply: Supply::new(limits), lines: Lanes::default(), members: 0 };
        scheduler.set_share(GATEWAY, 0, 0);
        scheduler
    }

    pub(super) fn limit(&mut self, limits: Limits, now: u64) {
        self.supply.limit(limits, now);
        self.relist(now);
    }

    /// Gives a service another share. A new number is a new service, and must be the next one.
    pub(super) fn set_share(&mut self, member: usize, share: u64, now: u64) {
        if member == self.members {
            self.members += 1;
            self.lines.add_service();
        }
        self.supply.set_share(member, share, now);
        self.list(member, now);
    }

    /// Whether services of the account may place orders: then some places are kept for them, and some for all others.
    pub(super) fn place_orders(&mut self, orders: bool) {
        self.supply.places.place_orders(orders);
    }

    pub(super) fn members(&self) -> usize {
        self.members
    }

    pub(super) fn waiting(&self) -> usize {
        self.lines.waiting()
    }

    /// A request arrives: it is served at once, refused, or may [`enter`](Scheduler::enter) the queue.
    pub(super) fn arrive<D: Days<Q>>(&mut self, demand: &Demand<Q>, now: u64, days: &D) -> QueueArrival<D::Output> {
        self.climb(now);
        self.supply.asks(demand, now);
        let mut expires = demand.expires;
        if self.lines.waiting() == 0 || self.overtakes(demand, now) {
            let borrows = !self.supply.covers(demand, now);
            match self.supply.take(demand, now, days) {
                Ok(grant) => {
                    if borrows {
                        self.lines.has_borrowed(demand.member, demand.cost);
                    }
                    self.supply.admits(demand, now);
                    return QueueArrival::Granted(grant);
                }
                Err(Stop::Final(exhausted)) => return QueueArrival::Refused(exhausted),
                Err(Stop::Day(refused, at)) if at > expires => return QueueArrival::Refused(Exhausted::Day(refused)),
                Err(Stop::NotLeased) => expires = expires.max(now + LEASE_WAIT).min(demand.deadline),
                Err(Stop::Until(_) | Stop::Place(_) | Stop::Day(..)) => {}
            }
        }
        // A token is of no use to it without the day.
        let (ahead, at) = (self.ahead(demand), At { now, days });
        expires = expires.max(self.supply.guaranteed_until(demand, ahead, now));
        expires = expires.max(self.supply.delayed_until(demand, ahead, now));
        let of_day = self.supply.closed_day(demand, &at);
        let day_comes = of_day.map_or(now, |day| day.free_at);
        let due = now.saturating_add(self.supply.due_in(demand, ahead, now));
        if expires <= now || due.max(day_comes) > expires {
            return QueueArrival::Refused(self.supply.longest_shortage(demand, ahead, &at, of_day));
        }
        self.supply.admits(demand, now);
        QueueArrival::Waits { expires }
    }

    /// Puts a request into the queue, which must be served then.
    pub(super) fn enter(&mut self, demand: Demand<Q>, waiter: W, now: u64) -> QueueTicket {
        let line = LaneLine { lane: Lane::of(&demand), member: demand.member };
        let position = self.lines.enter(Waiting { demand, waiter });
        self.list(line.member, now);
        QueueTicket { line, position }
    }

    /// Takes a request out of the queue, if it is still there; the queue must be served then.
    pub(super) fn leave(&mut self, ticket: QueueTicket, now: u64) -> Option<Demand<Q>> {
        let waiting = self.lines.remove(ticket.line, ticket.position)?;
        self.list(ticket.line.member, now);
        Some(waiting.demand)
    }

    /// Decides all waiters that can be decided now. Returns when it must be called again at the latest.
    pub(super) fn serve<D: Days<Q>>(
        &mut self,
        now: u64,
        days: &D,
        mut decide: impl FnMut(W, Result<Served<D::Output>, Exhausted>),
    ) -> Option<u64> {
        self.climb(now);
        if self.lines.waiting() == 0 || self.supply.places.are_many() {
            self.places_are_few(false, now);
        }
        while let Some(member) = self.lines.change_due(now) {
            self.list(member, now);
        }
        let (mut next, mut only) = (None, None);
        while let Some(line) = self.lines.first(only) {
            let Some((position, Waiting { demand, .. })) = self.lines.head(line) else { break };
            let (cost, expires) = (demand.cost, demand.expires);
            let taken = self.supply.take(demand, now, days);
            let of_day = match taken {
                // The day may have been used up since it came.
                Err(Stop::Until(_) | Stop::Place(_)) => self.supply.closed_day(demand, &At { now, days }),
                _ => None,
            };
            let decision = match taken {
                Ok(grant) => Ok(grant),
                Err(_) if of_day.is_some_and(|day| day.free_at > expires) => {
                    Err(self.supply.shortage(demand, NOTHING_AHEAD, &At { now, days }))
                }
                Err(Stop::Final(exhausted)) => Err(exhausted),
                Err(Stop::Day(refused, at)) if at > expires => Err(Exhausted::Day(refused)),
                Err(Stop::Day(_, at)) => {
                    self.lines.list(line, Standing::SetAside { until: at.max(now + 1) });
                    continue;
                }
                Err(Stop::NotLeased) => {
                    self.lines.list(line, Standing::SetAside { until: now + LEASE_WAIT });
                    continue;
                }
                Err(Stop::Until(at)) => {
                    next = next.into_iter().chain([at]).min();
                    break;
                }
                Err(Stop::Place(until)) => {
                    if self.places_are_few(true, now) {
                        // Those that have places left of their part come first now.
                        continue;
                    }
                    next = until.into_iter().chain(next).min();
                    if only.is_some() {
                        break;
                    }
                    // Those that are kept for the other kind may be free.
                    only = Some(line.lane.other());
                    continue;
                }
            };
            if decision.is_ok() {
                // The other kind may have to leave fewer places for its service now.
                only = None;
            }
            if decision.is_ok() && self.lines.borrows(line) {
                self.lines.has_borrowed(line.member, cost);
            }
            let waiting = self.lines.remove(line, position);
            self.list(line.member, now);
            if let Some(Waiting { waiter, .. }) = waiting {
                decide(waiter, decision);
            }
        }
        let next = next.map(|at| at.min(self.supply.climbs_at()));
        next.into_iter().chain(self.lines.next_change()).min()
    }

    /// A counter has units again: the lines that were set aside are looked at, and the queue must be served.
    pub(super) fn leased(&mut self, now: u64) {
        for member in self.lines.set_aside() {
            self.list(member, now);
        }
    }

    /// The waiter to be served next, as far as is known.
    pub(super) fn next_waiter(&self) -> Option<&W> {
        self.lines.next_waiter()
    }

    /// Says what became of what was taken: it was used, or comes back; the queue must be served then.
    pub(super) fn decide(&mut self, taken: Taken, kept: bool, now: u64) {
        self.supply.decide(taken, kept, now);
        if !kept {
            self.list(taken.member(), now);
            self.leased(now);
        }
    }

    /// The place in flight is free again; the queue must be served.
    pub(super) fn release(&mut self, taken: Taken, now: u64) {
        self.supply.release(taken, now);
        if self.supply.few_places() {
            self.list(taken.member(), now);
        }
    }

    /// A request that was sent at `sent` got a limit response of Fastrac; the queue must be served.
    pub(super) fn throttled(&mut self, now: u64, sent: u64, wait: Option<Duration>) {
        self.supply.throttled(now, sent, wait);
        self.relist(now);
    }

    /// Why no request like this is served for a while, whatever the tokens: a pause, or the day.
    pub(super) fn closed<D: Days<Q>>(&mut self, demand: &Demand<Q>, now: u64, days: &D) -> Option<Exhausted> {
        let (ahead, at) = (self.ahead(demand), At { now, days });
        let of_day = self.supply.closed_day(demand, &at);
        let is_closed = of_day.is_some() || now < self.supply.paused_until();
        is_closed.then(|| self.supply.longest_shortage(demand, ahead, &at, of_day))
    }

    /// Time after which a request will be served that has not come yet, nanoseconds.
    pub(super) fn served_in(&mut self, demand: &Demand<Q>, now: u64) -> u64 {
        let ahead = self.ahead(demand);
        self.supply.served_in(demand, ahead, now)
    }

    /// Of the limits that a request lacks now, the one that lasts longest.
    pub(super) fn shortage<D: Days<Q>>(&mut self, demand: &Demand<Q>, now: u64, days: &D) -> Exhausted {
        let ahead = self.ahead(demand);
        self.supply.shortage(demand, ahead, &At { now, days })
    }

    /// Whether the waiter that comes first may have what is there.
    #[cfg(test)]
    pub(super) fn could_serve(&mut self, now: u64) -> bool {
        let mut is_served = |only| {
            let line = self.lines.first(only)?;
            let (_, head) = self.lines.head(line)?;
            let has_place = self.supply.check_place(&head.demand, now).is_ok();
            Some((line.lane, has_place, has_place && self.supply.check_tokens(&head.demand, now).is_ok()))
        };
        match is_served(None) {
            Some((lane, false, _)) => is_served(Some(lane.other())).is_some_and(|(.., is_served)| is_served),
            first => first.is_some_and(|(.., is_served)| is_served),
        }
    }

    fn ahead(&self, demand: &Demand<Q>) -> Ahead {
        let ahead = |borrows| self.lines.cost_ahead(demand, borrows, self.supply.places.only());
        Ahead { own: ahead(false), all: ahead(true) }
    }

    /// Whether a request is served before all that wait.
    fn overtakes(&self, demand: &Demand<Q>, now: u64) -> bool {
        !self.lines.any_covered() && !self.lines.waits(demand.member) && self.supply.covers(demand, now)
    }

    /// Lists a service's lines as they are now.
    fn list(&mut self, member: usize, now: u64) {
        for lane in [Lane::Orders, Lane::Others] {
            let line = LaneLine { lane, member };
            match self.lines.head(line) {
                None => self.lines.unlist(line),
                Some((_, Waiting { demand, .. })) => {
                    let standing = self.supply.standing(demand, now);
                    self.lines.list(line, standing);
                }
            }
        }
        self.supply.waits(member, self.lines.waits(member));
    }

    fn relist(&mut self, now: u64) {
        for member in self.lines.listed() {
            self.list(member, now);
        }
    }

    /// Returns whether that is new.
    fn places_are_few(&mut self, few: bool, now: u64) -> bool {
        let is_new = self.supply.places_are_few(few);
        if is_new {
            self.relist(now);
        }
        is_new
    }

    /// Raises the rate if it is time; the queue is served when it has said that it must be.
    pub(super) fn climb(&mut self, now: u64) {
        if self.supply.climb(now) {
            self.relist(now);
        }
    }
}
