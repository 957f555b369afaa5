//! What a request lacks of the supply, and when it will have it: whether it waits, and what its caller is told.
//!
//! Always holds: of several limits, the one that lasts longest is named; nothing is taken. Times are nanoseconds that only
//! grow. Must not know who waits, or counters. Never fails.

use std::time::Duration;

use super::{Ahead, At, DayShort, Days, Exhausted, Stop, Supply, is_gateways, is_unawaited, nanos_at};
use crate::admission::{
    day_share::DayRefused,
    queue::lines::Demand,
    share::{Loan, WHOLE},
};

/// What a request that finds no place in flight is told to wait, nanoseconds.
const PLACE_WAIT: u64 = 1_000_000_000;

/// How long a request waits for tokens of its service's guarantee, or for those that a call has taken that nobody waits for,
/// nanoseconds, even if requests may not wait so long: no rate is lower than one token a second.
const OWN_TOKEN_WAIT: u64 = 1_000_000_000;

/// A day that has fewer units left than a request needs.
#[derive(Clone, Copy, Debug)]
pub(in crate::admission::queue) struct ClosedDay {
    pub(in crate::admission::queue) exhausted: Exhausted,
    /// When it may have them, nanoseconds.
    pub(in crate::admission::queue) free_at: u64,
}

impl Supply {
    /// Of the limits that a request lacks now, the one that lasts longest.
    pub(in crate::admission::queue) fn shortage<Q, D: Days<Q>>(
        &mut self,
        demand: &Demand<Q>,
        ahead: Ahead,
        at: &At<'_, D>,
    ) -> Exhausted {
        let of_day = self.closed_day(demand, at);
        self.longest_shortage(demand, ahead, at, of_day)
    }

    /// The same; `of_day`: [`Supply::closed_day`] of this instant.
    pub(in crate::admission::queue) fn longest_shortage<Q, D: Days<Q>>(
        &mut self,
        demand: &Demand<Q>,
        ahead: Ahead,
        at: &At<'_, D>,
        of_day: Option<ClosedDay>,
    ) -> Exhausted {
        let &At { now, days } = at;
        let has_share = self.shares.share(demand.member) > 0;
        let due = self.served_in(demand, ahead, now);
        if let Some(ClosedDay { exhausted, .. }) = of_day.filter(|day| day.free_at >= now.saturating_add(due)) {
            return exhausted;
        }
        let wait = Duration::from_nanos(due);
        if now < self.learned.paused_until() {
            return Exhausted::Paused { wait };
        }
        let has_place = self.check_place(demand, now).is_ok();
        if !has_place && due <= PLACE_WAIT {
            let is_guaranteed = self.places.is_guaranteed(demand.member);
            if is_guaranteed {
                self.places.are_slow(now);
            }
            return Exhausted::InFlight { own_share_used: has_share && !is_guaranteed };
        }
        if has_place
            && self.check_tokens(demand, now).is_ok()
            && let Err(DayShort::NotLeased | DayShort::Stalled) = days.reserve(demand)
        {
            return Exhausted::NotLeased;
        }
        // Those of its own that wait have the first claim on its guarantee.
        let needed = self.fill().map(|fill| fill.worth(ahead.own + u64::from(demand.cost)));
        let own_share_used = has_share && needed.is_some_and(|needed| !self.shares.covers(demand.member, needed, now));
        Exhausted::Second { wait, own_share_used }
    }

    /// What a request lacks of the day: of the account's, of its service's, or of its service's part of the account's.
    pub(in crate::admission::queue) fn closed_day<Q, D: Days<Q>>(
        &mut self,
        demand: &Demand<Q>,
        at: &At<'_, D>,
    ) -> Option<ClosedDay> {
        let &At { now, days } = at;
        let view = days.view();
        let used_up = days.used_up(demand).map(|short| match short {
            DayShort::Service => Exhausted::ServiceDay,
            _ => Exhausted::Day(DayRefused { free_at: view.ends, own_share_used: false }),
        });
        if let Some(exhausted) = used_up {
            return Some(ClosedDay { exhausted, free_at: nanos_at(view.ends, &view, now) });
        }
        match self.days_apply.then(|| self.check_day(demand, now, view)) {
            Some(Err(Stop::Day(refused, free_at))) => Some(ClosedDay { exhausted: Exhausted::Day(refused), free_at }),
            _ => None,
        }
    }

    /// Time until the request could be served, nanoseconds: an estimate that is rather too short, because those ahead may
    /// leave, and others may ask for what they are guaranteed.
    pub(in crate::admission::queue) fn due_in<Q>(&mut self, demand: &Demand<Q>, ahead: Ahead, now: u64) -> u64 {
        let Some(tokens) = &self.tokens else { return self.pause(now) };
        let worth = tokens.fill().worth(u64::from(demand.cost));
        let kept = self.shares.reserve(demand.member, worth, now) / i128::from(WHOLE);
        let borrowed = tokens.fill().worth(ahead.all).saturating_add(worth).saturating_add(kept as u64);
        let borrowed = tokens.due_in(borrowed, now);
        self.guaranteed_in(demand, ahead, now).unwrap_or(borrowed).min(borrowed).max(self.pause(now))
    }

    /// Time after which the request will be served if nobody else asks before, nanoseconds: what its caller is told.
    pub(in crate::admission::queue) fn served_in<Q>(&mut self, demand: &Demand<Q>, ahead: Ahead, now: u64) -> u64 {
        let Some(tokens) = &self.tokens else { return self.pause(now) };
        let worth = tokens.fill().worth(u64::from(demand.cost));
        let ahead_of_it = tokens.fill().worth(ahead.all);
        let loan = Loan { worth, after: tokens.empty_until(now) + i128::from(ahead_of_it) };
        let borrowed = self.shares.lent_in(demand.member, loan, now).max(tokens.due_in(ahead_of_it + worth, now));
        self.guaranteed_in(demand, ahead, now).unwrap_or(borrowed).min(borrowed).max(self.pause(now))
    }

    /// Time until the service's guarantee covers the request; `None`: it has none.
    fn guaranteed_in<Q>(&self, demand: &Demand<Q>, ahead: Ahead, now: u64) -> Option<u64> {
        let tokens = self.tokens.as_ref()?;
        let own = tokens.fill().worth(ahead.own + u64::from(demand.cost));
        let covered = if is_gateways(demand) { Some(now) } else { self.shares.covers_at(demand.member, own, now) };
        covered.map(|at| at.saturating_sub(now).max(tokens.due_in(own, now)))
    }

    /// Until when a request waits at least, because the tokens that come next are its own. Where the bucket holds fewer tokens
    /// than there are services, a borrower that is there when one comes would take it, each time before this request is
    /// sent again. In the past if it has no such claim, and where no request waits.
    pub(in crate::admission::queue) fn guaranteed_until<Q>(&self, demand: &Demand<Q>, ahead: Ahead, now: u64) -> u64 {
        let Some(tokens) = self.tokens.as_ref().filter(|_| self.max_wait > 0) else { return 0 };
        let worth = tokens.fill().worth(ahead.own + u64::from(demand.cost));
        let is_covered = is_gateways(demand) || self.shares.covers(demand.member, worth, now);
        let due = tokens.due_in(worth, now).max(self.pause(now));
        let comes = due > 0 && due <= OWN_TOKEN_WAIT;
        if is_covered && comes { demand.deadline.min(now + OWN_TOKEN_WAIT) } else { 0 }
    }

    /// Until when a request waits because it would have its tokens by then, or sooner, if calls that nobody waits for had
    /// taken none: as much longer as it may wait anyway, within limits. In the past if that makes no difference, and where no
    /// request waits.
    pub(in crate::admission::queue) fn delayed_until<Q>(&self, demand: &Demand<Q>, ahead: Ahead, now: u64) -> u64 {
        let Some(tokens) = self.tokens.as_ref().filter(|_| self.max_wait > 0 && !is_unawaited(demand)) else {
            return 0;
        };
        let (fill, cost) = (tokens.fill(), u64::from(demand.cost));
        let due = tokens.due_in(fill.worth(ahead.all + cost), now);
        let delay = due.saturating_sub(self.spare.due_in_without(fill.worth(cost), fill.capacity, now));
        if delay == 0 { 0 } else { demand.deadline.min(demand.expires.saturating_add(delay.min(OWN_TOKEN_WAIT))) }
    }

    /// Rest of the pause, nanoseconds.
    fn pause(&self, now: u64) -> u64 {
        self.learned.paused_until().saturating_sub(now)
    }
}
