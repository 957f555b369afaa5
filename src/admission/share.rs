//! What each service is guaranteed of an account's tokens, and how many of them the others must leave.
//!
//! A service with a share has a *guarantee*: a level that fills at its share of the account's rate, up to its share of
//! the bucket, at most of one second. Tokens within the guarantee are taken without regard to others. Tokens beyond it
//! are *borrowed*: a borrower leaves in the bucket what is guaranteed to the others ([`Shares::reserve`]). A service that
//! has not asked for [`SLEEP_AFTER`] lends all but one token, and has its guarantee again as soon as it asks.
//!
//! Always holds: the levels add up to at most what the bucket may hold; a decision takes logarithmic time, because the
//! sum of all levels is kept and not computed. Times are nanoseconds that only grow, levels are [`WHOLE`]ths of a
//! nanosecond of the bucket, so nothing is rounded away. The room knows services by number only. Never fails.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::tokens::FillRate;

/// The service number of calls that the gateway makes for itself. It has no share.
pub(super) const GATEWAY: usize = 0;

/// A share of 1. Shares are multiples of its inverse, rounded down.
pub(super) const WHOLE: u64 = 1_000_000_000;

/// A service whose guarantee has been full for so long lends it, nanoseconds.
const SLEEP_AFTER: u64 = 1_000_000_000;

/// A guarantee holds at most the tokens of this time, nanoseconds: so what was lent is back within it.
const GUARANTEED_TIME: u64 = 1_000_000_000;

/// A share of the configuration as a multiple of 1 / [`WHOLE`].
pub(super) fn fixed(share: f64) -> u64 {
    // A billionth of a billionth more, because 0.29 * 1e9 is a bit below 290,000,000.
    ((share * WHOLE as f64 + 1e-3) as u64).min(WHOLE)
}

/// The guarantees of an account's services.
#[derive(Debug)]
pub(super) struct Shares {
    members: Vec<Guarantee>,
    fill: FillRate,
    /// Tokens of the most expensive request: every guarantee holds twice as many.
    largest: u64,
    sums: Sums,
    /// When a guarantee becomes full, or a service falls asleep; possibly too early, or out of date.
    changes: BinaryHeap<Reverse<(u64, usize)>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Guarantee {
    /// Of [`WHOLE`]; 0: nothing is guaranteed.
    share: u64,
    capacity: i128,
    /// When it will be full.
    full_at: u64,
    state: GuaranteeState,
    /// A request of the service waits.
    waits: bool,
    /// Its entry in [`Shares::changes`]; entries with another time are out of date.
    listed: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum GuaranteeState {
    /// Until `full_at`.
    Filling,
    /// Full.
    Awake { until: u64 },
    /// Full, and lent.
    #[default]
    Asleep,
}

/// What a borrower needs of a bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loan {
    /// Nanoseconds of the bucket.
    pub(super) worth: u64,
    /// When the bucket begins to fill for it, nanoseconds from now; below zero: it has as much as that.
    pub(super) after: i128,
}

/// Sums over the services, by state.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    /// Level at time 0 of those that are filling, if it had always grown as it does now.
    filling: i128,
    /// Shares of those that are filling: how fast their levels grow.
    growth: i128,
    /// Levels of those that are awake.
    awake: i128,
    asleep: Sleepers,
    /// Of all: how many, and their shares.
    count: i128,
    shares: i128,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sleepers {
    count: i128,
    shares: i128,
}

impl Guarantee {
    fn level(&self, now: u64) -> i128 {
        let lacks = i128::from(self.share) * i128::from(self.full_at.saturating_sub(now));
        (self.capacity - lacks).max(0)
    }

    /// When its state changes.
    fn changes_at(&self) -> u64 {
        match self.state {
            GuaranteeState::Filling => self.full_at,
            GuaranteeState::Awake { until } => until,
            GuaranteeState::Asleep => u64::MAX,
        }
    }
}

impl Sums {
    /// Adds a service (`sign` 1) or removes it (-1).
    fn add(&mut self, one: &Guarantee, sign: i128) {
        let share = i128::from(one.share) * sign;
        self.shares += share;
        self.count += sign;
        match one.state {
            GuaranteeState::Filling => {
                self.filling += sign * one.capacity - share * i128::from(one.full_at);
                self.growth += share;
            }
            GuaranteeState::Awake { .. } => self.awake += sign * one.capacity,
            GuaranteeState::Asleep => {
                self.asleep.count += sign;
                self.asleep.shares += share;
            }
        }
    }
}

impl Shares {
    /// No service yet.
    pub(super) fn new(fill: FillRate) -> Self {
        Shares { members: Vec::new(), fill, largest: 1, sums: Sums::default(), changes: BinaryHeap::new() }
    }

    /// Gives a service another share; an unknown number is a new service, whose guarantee begins full if `full`.
    pub(super) fn set(&mut self, member: usize, share: u64, now: u64, full: bool) {
        while self.members.len() <= member {
            self.members.push(Guarantee::default());
        }
        if self.members[member].share == share {
            return;
        }
        let level = self.members[member].level(now);
        self.change(member, now, |one| one.share = share);
        let capacity = self.capacity_of(share);
        self.change(member, now, |one| {
            one.capacity = capacity;
            let lacks = if full || share == 0 { 0 } else { capacity - level.min(capacity) };
            one.full_at = now + ceil(lacks, share);
        });
    }

    pub(super) fn share(&self, member: usize) -> u64 {
        self.members.get(member).map_or(0, |one| one.share)
    }

    /// Whether a service has a share.
    pub(super) fn any(&self) -> bool {
        self.members.iter().any(|one| one.share > 0)
    }

    /// The bucket fills differently now: the levels keep their tokens, as far as they hold them. `empty`: they begin at
    /// zero.
    pub(super) fn refill(&mut self, fill: FillRate, now: u64, empty: bool) {
        let old = std::mem::replace(&mut self.fill, fill);
        self.sums = Sums::default();
        self.changes.clear();
        for member in 0..self.members.len() {
            let capacity = self.capacity_of(self.members[member].share);
            let one = &mut self.members[member];
            let level = one.level(now) * i128::from(fill.period) / i128::from(old.period);
            let level = if empty { 0 } else { level.min(capacity) };
            one.listed = None;
            one.capacity = capacity;
            one.full_at = now + ceil(capacity - level, one.share);
            if one.full_at > now {
                one.state = GuaranteeState::Filling;
            }
            let one = *one;
            if one.share > 0 {
                self.sums.add(&one, 1);
                self.list(member);
            }
        }
    }

    /// A request that costs so many tokens may come.
    pub(super) fn expect(&mut self, tokens: u32, now: u64) {
        if u64::from(tokens) > self.largest {
            self.largest = u64::from(tokens);
            self.refill(self.fill, now, false);
        }
    }

    /// A service has asked.
    pub(super) fn wake(&mut self, member: usize, now: u64) {
        let one = self.members[member];
        if one.share > 0 && one.state != GuaranteeState::Filling {
            let until = now + SLEEP_AFTER;
            // Often the same service asks again soon: its time is noted, and found when the old one is over.
            match &mut self.members[member].state {
                GuaranteeState::Awake { until: known } => *known = until,
                _ => self.change(member, now, |one| one.state = GuaranteeState::Awake { until }),
            }
        }
    }

    /// Whether requests of the service wait: it does not fall asleep then.
    pub(super) fn waits(&mut self, member: usize, waits: bool) {
        self.members[member].waits = waits;
    }

    /// Whether the service's guarantee holds `worth` nanoseconds.
    pub(super) fn covers(&self, member: usize, worth: u64, now: u64) -> bool {
        let one = &self.members[member];
        one.share > 0 && one.level(now) >= scaled(worth)
    }

    /// When `worth` in total, which may be more than it holds, will have come if nothing else is taken; `None`: never.
    pub(super) fn covers_at(&self, member: usize, worth: u64, now: u64) -> Option<u64> {
        let one = &self.members[member];
        let lacks = scaled(worth) - one.level(now);
        (one.share > 0).then(|| now.saturating_add(ceil(lacks, one.share)))
    }

    /// Takes from the service's guarantee what is there, at most `worth`. Returns what [`Shares::give_back`] needs.
    pub(super) fn take(&mut self, member: usize, worth: u64, now: u64) -> u64 {
        let one = self.members[member];
        if one.share == 0 {
            return 0;
        }
        let delay = ceil(scaled(worth).min(one.level(now)), one.share);
        self.change(member, now, |one| one.full_at = one.full_at.max(now) + delay);
        delay
    }

    pub(super) fn give_back(&mut self, member: usize, delay: u64, now: u64) {
        if delay > 0 && self.members[member].share > 0 {
            self.change(member, now, |one| one.full_at = one.full_at.saturating_sub(delay).max(now));
        }
    }

    /// What a borrower of `worth` must leave in the bucket: [`WHOLE`]ths of a nanosecond. A full bucket always has a
    /// request's worth to lend.
    pub(super) fn reserve(&mut self, borrower: usize, worth: u64, now: u64) -> i128 {
        self.advance(now);
        let most = scaled(self.fill.capacity.saturating_sub(worth));
        let others = self.others(borrower);
        self.levels(&others, now).min(self.parts(&others)).min(most)
    }

    /// The earliest instant at which `reserve` may be met by a bucket with `level` nanoseconds.
    pub(super) fn met_at(&mut self, borrower: usize, worth: u64, level: u64, now: u64) -> u64 {
        self.advance(now);
        let others = self.others(borrower);
        let spare = scaled(level) - scaled(worth);
        let after = |lacks: i128, rise: i128| match u64::try_from(rise) {
            Ok(rise) if rise > 0 => now.saturating_add(ceil(lacks, rise)),
            _ => u64::MAX,
        };
        let levels = after(self.levels(&others, now) - spare, i128::from(WHOLE) - others.growth);
        let parts = after(self.parts(&others) - spare, i128::from(WHOLE));
        let change = self.changes.peek().map_or(u64::MAX, |Reverse((at, _))| (*at).max(now + 1));
        let full = now + self.fill.capacity.saturating_sub(level);
        levels.min(parts).min(change).min(full)
    }

    /// Time until a borrower gets what it needs if nobody else takes anything before, nanoseconds. The guarantees that fill
    /// meanwhile are kept from it, up to what all of them can hold. It is too long if some of them will be lent before.
    pub(super) fn lent_in(&mut self, borrower: usize, Loan { worth, after }: Loan, now: u64) -> u64 {
        self.advance(now);
        let others = self.others(borrower);
        let needed = (after + i128::from(worth)) * i128::from(WHOLE);
        let most = scaled(self.fill.capacity.saturating_sub(worth));
        // The sum of their capacities, at most.
        let held = others.shares * i128::from(self.fill.capacity.min(GUARANTEED_TIME))
            + others.count * scaled(self.fill.worth(2 * self.largest));
        let full = ceil(needed + held.min(self.parts(&others)).min(most), WHOLE);
        match u64::try_from(i128::from(WHOLE) - others.growth) {
            Ok(rise) if rise > 0 => full.min(ceil(needed + self.levels(&others, now), rise)),
            _ => full,
        }
    }

    /// What the guarantees of the others hold, less what is lent of those that sleep.
    fn levels(&self, others: &Sums, now: u64) -> i128 {
        let lent = others.asleep.shares * i128::from(self.fill.capacity) / 2;
        let asleep = (others.asleep.count * scaled(self.fill.period)).min(lent);
        others.filling + others.growth * i128::from(now) + others.awake + asleep
    }

    /// The parts of the bucket that the shares of the others come to.
    fn parts(&self, others: &Sums) -> i128 {
        others.shares * i128::from(self.fill.capacity)
    }

    fn others(&self, borrower: usize) -> Sums {
        let mut others = self.sums;
        let own = &self.members[borrower];
        if own.share > 0 {
            others.add(own, -1);
        }
        others
    }

    /// Applies the changes of state that are due.
    fn advance(&mut self, now: u64) {
        while let Some(Reverse((at, member))) = self.changes.peek().copied()
            && at <= now
        {
            self.changes.pop();
            let one = &mut self.members[member];
            if one.listed != Some(at) {
                continue;
            }
            one.listed = None;
            if one.changes_at() > now {
                self.list(member);
                continue;
            }
            let state = match one.state {
                GuaranteeState::Filling => GuaranteeState::Awake { until: one.full_at + SLEEP_AFTER },
                _ if one.waits => GuaranteeState::Awake { until: now + SLEEP_AFTER },
                _ => GuaranteeState::Asleep,
            };
            self.replace(member, |one| one.state = state);
            self.list(member);
        }
    }

    /// Changes a guarantee, and its state with it.
    fn change(&mut self, member: usize, now: u64, change: impl FnOnce(&mut Guarantee)) {
        self.replace(member, |one| {
            change(one);
            match one.state {
                _ if one.full_at > now => one.state = GuaranteeState::Filling,
                GuaranteeState::Filling => one.state = GuaranteeState::Awake { until: now + SLEEP_AFTER },
                _ => {}
            }
        });
        self.list(member);
    }

    fn replace(&mut self, member: usize, change: impl FnOnce(&mut Guarantee)) {
        let one = &mut self.members[member];
        if one.share > 0 {
            self.sums.add(one, -1);
        }
        change(one);
        if one.share > 0 {
            self.sums.add(one, 1);
        }
    }

    /// Sees to it that the next change of state is noticed. An entry that comes too early is renewed then, so that most
    /// takes need none.
    fn list(&mut self, member: usize) {
        let one = &mut self.members[member];
        let at = one.changes_at();
        if one.share > 0 && at < one.listed.unwrap_or(u64::MAX) {
            one.listed = Some(at);
            self.changes.push(Reverse((at, member)));
        }
    }

    fn capacity_of(&self, share: u64) -> i128 {
        let held = i128::from(share) * i128::from(self.fill.capacity.min(GUARANTEED_TIME));
        // Two requests, so that one that comes early finds its token.
        if share == 0 { 0 } else { held.max(scaled(self.fill.worth(2 * self.largest))) }
    }
}

fn scaled(nanos: u64) -> i128 {
    i128::from(nanos) * i128::from(WHOLE)
}

/// Nanoseconds in which a level grows by `amount`.
fn ceil(amount: i128, share: u64) -> u64 {
    if amount <= 0 {
        return 0;
    }
    let share = i128::from(share.max(1));
    u64::try_from((amount + share - 1) / share).unwrap_or(u64::MAX / 4)
}
