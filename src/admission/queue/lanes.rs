//! Orders and other requests in the wait queue, each kind in lines of its own.
//!
//! Some places in flight are kept for each kind. So when only those of one kind are free, that kind is served and the
//! other waits. Otherwise the first of both kinds is served first.
//!
//! Always holds: a service borrows in one turn for both kinds, so that it gains nothing by mixing them. Knows neither
//! tokens nor places: its owner says who may be served. Never fails.

use super::lines::{Demand, Position, ServiceLines, Standing, Urgency, Waiting};

/// A kind of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Orders,
    Others,
}

impl Lane {
    pub(super) fn of<Q>(demand: &Demand<Q>) -> Self {
        if demand.urgency == Urgency::Order { Lane::Orders } else { Lane::Others }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Lane::Orders => Lane::Others,
            Lane::Others => Lane::Orders,
        }
    }
}

/// A service's line of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LaneLine {
    pub(super) lane: Lane,
    pub(super) member: usize,
}

#[derive(Debug)]
pub(super) struct Lanes<W, Q> {
    orders: ServiceLines<W, Q>,
    others: ServiceLines<W, Q>,
    turns: Turns,
    arrivals: u64,
}

/// Virtual times of borrowing.
#[derive(Debug, Default)]
struct Turns {
    /// That of the borrower that was served last.
    now: u64,
    /// Of each service's next borrowing.
    next: Vec<u64>,
}

impl<W, Q> Default for Lanes<W, Q> {
    fn default() -> Self {
        let (orders, others) = (ServiceLines::default(), ServiceLines::default());
        Lanes { orders, others, turns: Turns::default(), arrivals: 0 }
    }
}

impl<W, Q> Lanes<W, Q> {
    pub(super) fn add_service(&mut self) {
        self.orders.add_line();
        self.others.add_line();
        self.turns.next.push(0);
    }

    fn lane(&self, lane: Lane) -> &ServiceLines<W, Q> {
        match lane {
            Lane::Orders => &self.orders,
            Lane::Others => &self.others,
        }
    }

    fn lane_mut(&mut self, lane: Lane) -> &mut ServiceLines<W, Q> {
        match lane {
            Lane::Orders => &mut self.orders,
            Lane::Others => &mut self.others,
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.orders.waiting() + self.others.waiting()
    }

    pub(super) fn waits(&self, member: usize) -> bool {
        self.orders.waits(member) || self.others.waits(member)
    }

    pub(super) fn any_covered(&self) -> bool {
        self.orders.any_covered() || self.others.any_covered()
    }

    /// Puts a waiter into the line of its service. The line must be listed again.
    pub(super) fn enter(&mut self, waiting: Waiting<W, Q>) -> Position {
        self.arrivals += 1;
        let arrival = self.arrivals;
        self.lane_mut(Lane::of(&waiting.demand)).enter(waiting, arrival)
    }

    /// Takes a waiter out of the line, which must be listed again.
    pub(super) fn remove(&mut self, line: LaneLine, position: Position) -> Option<Waiting<W, Q>> {
        self.lane_mut(line.lane).remove(line.member, position)
    }

    pub(super) fn head(&self, line: LaneLine) -> Option<(Position, &Waiting<W, Q>)> {
        self.lane(line.lane).head(line.member)
    }

    /// The line to be served next, of one kind alone or of both.
    pub(super) fn first(&self, only: Option<Lane>) -> Option<LaneLine> {
        let of = |lane: Lane| if only == Some(lane.other()) { None } else { self.lane(lane).first() };
        let (lane, (_, member)) = match (of(Lane::Orders), of(Lane::Others)) {
            (Some(order), Some(other)) if order < other => (Lane::Orders, order),
            (Some(order), None) => (Lane::Orders, order),
            (_, other) => (Lane::Others, other?),
        };
        Some(LaneLine { lane, member })
    }

    /// A waiter that is among the next to be served, as far as is known.
    pub(super) fn next_waiter(&self) -> Option<&W> {
        self.orders.next_waiter().or_else(|| self.others.next_waiter())
    }

    /// The services that are set aside, and some others.
    pub(super) fn set_aside(&self) -> Vec<usize> {
        let mut members = self.orders.set_aside();
        members.extend(self.others.set_aside());
        members
    }

    /// The services that are not set aside.
    pub(super) fn listed(&self) -> Vec<usize> {
        let mut members = self.orders.listed();
        members.extend(self.others.listed());
        members
    }

    /// Whether the line borrows if it is served now.
    pub(super) fn borrows(&self, line: LaneLine) -> bool {
        self.lane(line.lane).borrows(line.member)
    }

    /// The service has borrowed: the others that borrow come first now. It must be listed again.
    pub(super) fn has_borrowed(&mut self, member: usize, cost: u32) {
        self.turns.now = self.turns.of(member);
        self.turns.next[member] = self.turns.now + u64::from(cost);
    }

    /// Lists a line anew, by its head.
    pub(super) fn list(&mut self, line: LaneLine, standing: Standing) {
        let turn = self.turns.of(line.member);
        self.turns.next[line.member] = turn;
        self.lane_mut(line.lane).list(line.member, standing, turn);
    }

    /// The line is not served; it must be if it is empty.
    pub(super) fn unlist(&mut self, line: LaneLine) {
        self.lane_mut(line.lane).unlist(line.member);
    }

    /// The next service whose standing changes by `now`; it must be listed again.
    pub(super) fn change_due(&mut self, now: u64) -> Option<usize> {
        self.orders.change_due(now).or_else(|| self.others.change_due(now))
    }

    pub(super) fn next_change(&self) -> Option<u64> {
        self.orders.next_change().into_iter().chain(self.others.next_change()).min()
    }

    /// Sum of the costs that a new waiter of this service finds ahead, at least. `only`: the other kind has no place, so
    /// that this one does not wait for it.
    pub(super) fn cost_ahead<R>(&self, demand: &Demand<R>, borrows: bool, only: Option<Lane>) -> u64 {
        let &Demand { member, priority, .. } = demand;
        let lane = Lane::of(demand);
        let same = self.lane(lane).cost_ahead(member, priority, borrows);
        match lane {
            _ if only == Some(lane) => same,
            Lane::Orders => same + self.others.cost_above(member, priority, borrows),
            Lane::Others => same + self.orders.cost_ahead(member, priority, borrows),
        }
    }
}

impl Turns {
    fn of(&self, member: usize) -> u64 {
        self.next[member].max(self.now)
    }
}
