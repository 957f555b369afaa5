//! Who waits for one kind of places, and in which order they are served.
//!
//! Each service has a line of its own: higher priority first, then the more urgent, then earliest deadline. Of the heads
//! of the lines, those that their service's guarantee covers come first, in the same order; then the borrowers, by
//! priority, then the service that has borrowed least lately (start-time fair queueing), then as in a line. A line can be
//! set aside until a later instant, so that what it lacks does not keep others waiting.
//!
//! Always holds: a service is in at most one of the two orders; every change takes logarithmic time. Knows neither
//! tokens nor days: its owner says what is covered. Never fails.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use crate::config::Priority;

/// Which of the requests with the same priority comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// An order. Some places are kept for orders, and some for all others.
    Order,
    /// What it obtains expires within minutes.
    Expiring,
    Usual,
}

/// A request for a part of the budget.
#[derive(Clone, Copy, Debug)]
pub(in crate::admission) struct Demand<Q> {
    /// Number of the service.
    pub(in crate::admission) member: usize,
    /// Tokens of the second and units of the day.
    pub(in crate::admission) cost: u32,
    pub(in crate::admission) priority: Priority,
    pub(in crate::admission) urgency: Urgency,
    /// Until when it waits, nanoseconds.
    pub(in crate::admission) expires: u64,
    /// When its own time ends, nanoseconds; never before `expires`.
    pub(in crate::admission) deadline: u64,
    /// What is taken with it, besides the account's budget.
    pub(in crate::admission) with: Q,
}

/// Order of service within a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) priority: Reverse<Priority>,
    pub(super) urgency: Urgency,
    /// Until when it waits, nanoseconds.
    pub(super) expires: u64,
    /// Number of its arrival.
    pub(super) arrival: u64,
}

/// How early the head of a line is served: a lower rank is earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    borrows: bool,
    priority: Reverse<Priority>,
    /// Virtual time of its borrowing; zero if it is covered.
    turn: u64,
    position: Position,
}

/// How the head of a line is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The service's guarantee covers it.
    Covered,
    /// It borrows; covered from that instant on, if there is one.
    Borrows { covered_at: Option<u64> },
    /// Not before that instant.
    SetAside { until: u64 },
}

#[derive(Debug)]
pub(super) struct ServiceLines<W, Q> {
    lines: Vec<ServiceLine<W, Q>>,
    covered: BTreeSet<(Position, usize)>,
    borrowing: BTreeSet<(Reverse<Priority>, u64, Position, usize)>,
    /// When borrowers become covered, and when lines that were set aside are looked at again.
    changes: BTreeSet<(u64, usize)>,
    queued: QueuedCost,
    waiting: usize,
}

#[derive(Debug)]
struct ServiceLine<W, Q> {
    waiters: BTreeMap<Position, Waiting<W, Q>>,
    queued: QueuedCost,
    listed: Option<Listed>,
}

#[derive(Debug)]
pub(super) struct Waiting<W, Q> {
    pub(super) demand: Demand<Q>,
    pub(super) waiter: W,
}

/// Where a line is listed.
#[derive(Clone, Copy, Debug)]
struct Listed {
    standing: Standing,
    head: Position,
    turn: u64,
}

/// Sum of the costs of those that wait, by priority.
#[derive(Clone, Copy, Debug, Default)]
struct QueuedCost([u64; 3]);

impl QueuedCost {
    fn of(&mut self, priority: Priority) -> &mut u64 {
        &mut self.0[priority as usize]
    }

    fn above(&self, priority: Priority) -> u64 {
        self.0[priority as usize + 1..].iter().sum()
    }
}

impl<W, Q> Default for ServiceLines<W, Q> {
    fn default() -> Self {
        ServiceLines {
            lines: Vec::new(),
            covered: BTreeSet::new(),
            borrowing: BTreeSet::new(),
            changes: BTreeSet::new(),
            queued: QueuedCost::default(),
            waiting: 0,
        }
    }
}

impl<W, Q> ServiceLines<W, Q> {
    pub(super) fn add_line(&mut self) {
        let line = ServiceLine { waiters: BTreeMap::new(), queued: QueuedCost::default(), listed: None };
        self.lines.push(line);
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn waits(&self, member: usize) -> bool {
        !self.lines[member].waiters.is_empty()
    }

    pub(super) fn any_covered(&self) -> bool {
        !self.covered.is_empty()
    }

    /// Puts a waiter into the line of its service. The line must be listed again.
    pub(super) fn enter(&mut self, waiting: Waiting<W, Q>, arrival: u64) -> Position {
        let Demand { member, cost, priority, urgency, expires, .. } = waiting.demand;
        let position = Position { priority: Reverse(priority), urgency, expires, arrival };
        let line = &mut self.lines[member];
        *line.queued.of(priority) += u64::from(cost);
        *self.queued.of(priority) += u64::from(cost);
        line.waiters.insert(position, waiting);
        self.waiting += 1;
        position
    }

    /// Takes a waiter out of the line, which must be listed again.
    pub(super) fn remove(&mut self, member: usize, position: Position) -> Option<Waiting<W, Q>> {
        let line = &mut self.lines[member];
        let waiting = line.waiters.remove(&position)?;
        let Demand { cost, priority, .. } = waiting.demand;
        *line.queued.of(priority) -= u64::from(cost);
        *self.queued.of(priority) -= u64::from(cost);
        self.waiting -= 1;
        Some(waiting)
    }

    pub(super) fn head(&self, member: usize) -> Option<(Position, &Waiting<W, Q>)> {
        self.lines[member].waiters.first_key_value().map(|(position, waiting)| (*position, waiting))
    }

    /// The line to be served next, and its rank.
    pub(super) fn first(&self) -> Option<(Rank, usize)> {
        if let Some((position, member)) = self.covered.first() {
            let rank = Rank { borrows: false, priority: position.priority, turn: 0, position: *position };
            return Some((rank, *member));
        }
        let (priority, turn, position, member) = self.borrowing.first()?;
        Some((Rank { borrows: true, priority: *priority, turn: *turn, position: *position }, *member))
    }

    /// The waiter to be served next, as far as is known.
    pub(super) fn next_waiter(&self) -> Option<&W> {
        let first = self.first().map(|(_, member)| member);
        let member = first.or_else(|| self.changes.first().map(|(_, member)| *member))?;
        self.head(member).map(|(_, waiting)| &waiting.waiter)
    }

    /// The lines that are set aside, and some others.
    pub(super) fn set_aside(&self) -> Vec<usize> {
        self.changes.iter().map(|(_, member)| *member).collect()
    }

    /// The lines that are not set aside.
    pub(super) fn listed(&self) -> Vec<usize> {
        let borrowing = self.borrowing.iter().map(|(.., member)| *member);
        self.covered.iter().map(|(_, member)| *member).chain(borrowing).collect()
    }

    /// Whether the line borrows if it is served now.
    pub(super) fn borrows(&self, member: usize) -> bool {
        self.lines[member].listed.is_none_or(|listed| listed.standing != Standing::Covered)
    }

    /// Lists a line anew, by its head. `turn`: the virtual time of its next borrowing.
    pub(super) fn list(&mut self, member: usize, standing: Standing, turn: u64) {
        self.unlist(member);
        let line = &mut self.lines[member];
        let Some((&head, _)) = line.waiters.first_key_value() else { return };
        let listed = Listed { standing, head, turn };
        line.listed = Some(listed);
        match standing {
            Standing::Covered => {
                self.covered.insert((head, member));
            }
            Standing::Borrows { covered_at } => {
                self.borrowing.insert((head.priority, listed.turn, head, member));
                self.changes.extend(covered_at.map(|at| (at, member)));
            }
            Standing::SetAside { until } => {
                self.changes.insert((until, member));
            }
        }
    }

    /// The line is not served; it must be if it is empty.
    pub(super) fn unlist(&mut self, member: usize) {
        let Some(Listed { standing, head, turn }) = self.lines[member].listed.take() else { return };
        match standing {
            Standing::Covered => {
                self.covered.remove(&(head, member));
            }
            Standing::Borrows { covered_at } => {
                self.borrowing.remove(&(head.priority, turn, head, member));
                if let Some(at) = covered_at {
                    self.changes.remove(&(at, member));
                }
            }
            Standing::SetAside { until } => {
                self.changes.remove(&(until, member));
            }
        }
    }

    /// The next line whose standing changes by `now`; it must be listed again.
    pub(super) fn change_due(&mut self, now: u64) -> Option<usize> {
        let (at, member) = *self.changes.first()?;
        (at <= now).then(|| {
            self.unlist(member);
            member
        })
    }

    pub(super) fn next_change(&self) -> Option<u64> {
        self.changes.first().map(|(at, _)| *at)
    }

    /// Sum of the costs of those with a higher priority than a new waiter of this service; if it does not borrow, in its
    /// own line.
    pub(super) fn cost_above(&self, member: usize, priority: Priority, borrows: bool) -> u64 {
        let queued = if borrows { &self.queued } else { &self.lines[member].queued };
        queued.above(priority)
    }

    /// Sum of the costs that a new waiter of this service and priority finds ahead, at least: those of its own line, and
    /// if `borrows`, of all with a higher priority and as many of its own priority as will have had their turns.
    pub(super) fn cost_ahead(&self, member: usize, priority: Priority, borrows: bool) -> u64 {
        let line = &self.lines[member];
        let (mine, at) = (line.queued, priority as usize);
        let own = mine.above(priority) + mine.0[at];
        if !borrows {
            return own;
        }
        let higher = self.queued.above(priority) - mine.above(priority);
        let others = (self.covered.len() + self.borrowing.len()).saturating_sub(1) as u64;
        own + higher + (self.queued.0[at] - mine.0[at]).min(mine.0[at].saturating_mul(others))
    }
}
