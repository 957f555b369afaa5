//! What each service has used of an account's day, in counters that outlive the process.
//!
//! [`DayShares`](super::day_share::DayShares) decides by these counts, but forgets them with the process. Each service with
//! a share has a counter; those without, and the gateway itself, have one together. Without any share nothing is counted.
//!
//! Always holds: a unit of the account's day is taken together with one of the service's part, and recorded before it is
//! sent; the counters refuse nothing that the account's does not. After `kill -9` a part counts as used by at most 0.5 % of
//! itself too much. Knows services by number and name only. Never fails.

use std::sync::Arc;

use jiff::tz::TimeZone;

use super::{
    day::DayCounter,
    day_row::DayLimit,
    day_share,
    lease::{CounterContext, CounterId},
    share::GATEWAY,
};

#[derive(Debug)]
pub(super) struct DayParts {
    /// Of the account.
    context: CounterContext,
    zone: TimeZone,
    /// Of the account's day.
    limit: Option<u64>,
    /// By number of the service; that of [`GATEWAY`] is for all without a share.
    parts: Vec<Part>,
}

#[derive(Debug, Default)]
struct Part {
    /// Of [`super::share::WHOLE`].
    share: u64,
    /// It has or had a share.
    used: Option<Arc<DayCounter>>,
}

impl DayParts {
    pub(super) fn new(limit: Option<u64>, zone: &TimeZone, context: CounterContext) -> Self {
        DayParts { context, zone: zone.clone(), limit, parts: vec![Part::default()] }
    }

    /// Gives a service another share. `Some`: it had none before, so this is its counter, which may know what was used before
    /// the start.
    pub(super) fn set_share(&mut self, member: usize, name: &str, share: u64) -> Option<Arc<DayCounter>> {
        self.parts.resize_with(self.parts.len().max(member + 1), Part::default);
        let before = std::mem::replace(&mut self.parts[member].share, share);
        (before == 0 && share > 0).then(|| self.counter(member, name))
    }

    /// The counter of those without a share, if anybody has one. `Some`: it is new.
    pub(super) fn count_unshared(&mut self) -> Option<Arc<DayCounter>> {
        let is_new = self.parts[GATEWAY].used.is_none() && self.parts.iter().any(|part| part.share > 0);
        is_new.then(|| self.counter(GATEWAY, ""))
    }

    fn counter(&mut self, member: usize, name: &str) -> Arc<DayCounter> {
        let limit = self.limit_of(member);
        let id = CounterId::part(&self.context.id, name);
        let new = || DayCounter::new(limit, &self.zone, CounterContext { id, ..self.context.clone() });
        self.parts[member].used.get_or_insert_with(new).clone()
    }

    /// The shares or the account's limit have changed.
    pub(super) fn set_limit(&mut self, limit: Option<u64>) {
        self.limit = limit;
        for (member, part) in self.parts.iter().enumerate() {
            if let Some(day) = &part.used {
                day.set_limit(self.limit_of(member));
            }
        }
    }

    fn limit_of(&self, member: usize) -> DayLimit {
        let shares = || self.parts.iter().map(|part| part.share).sum();
        let units = |limit| match self.parts[member].share {
            0 => day_share::least_unshared(limit, shares()),
            share => day_share::part(limit, share),
        };
        DayLimit { units: self.limit, part: self.limit.map(units) }
    }

    /// Changes the zone in which days begin; the counts stay. Returns whether it is another one.
    pub(super) fn set_zone(&mut self, zone: &TimeZone) -> bool {
        let is_new = self.zone != *zone;
        self.zone = zone.clone();
        self.all().for_each(|day| day.set_zone(zone));
        is_new
    }

    /// The counter that a service's units are taken from; `None` if nobody has a share.
    pub(super) fn of(&self, member: usize) -> Option<&Arc<DayCounter>> {
        let own = self.parts.get(member).filter(|part| part.share > 0);
        own.unwrap_or(&self.parts[GATEWAY]).used.as_ref()
    }

    /// The counter of a service that has a share.
    pub(super) fn with_share(&self) -> impl Iterator<Item = (usize, &Arc<DayCounter>)> {
        let parts = self.parts.iter().enumerate().filter(|(_, part)| part.share > 0);
        parts.filter_map(|(member, part)| Some((member, part.used.as_ref()?)))
    }

    pub(super) fn unshared(&self) -> Option<&Arc<DayCounter>> {
        self.parts[GATEWAY].used.as_ref()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<DayCounter>> {
        self.parts.iter().filter_map(|part| part.used.as_ref())
    }
}
