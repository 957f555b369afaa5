//! What may be spent of an account's budget now: tokens of the second, units of the day, places in flight.
//!
//! A request takes what it needs of all three together or not at all. Tokens within its service's guarantee come before
//! borrowed ones, and a borrower leaves what is guaranteed to the others ([`Shares`], [`DayShares`]). While Fastrac has
//! paused the account, nothing is taken.
//!
//! Always holds: a refused request takes nothing; what is given back goes where it came from. A value without a lock and
//! without a clock: times are nanoseconds that only grow. Must not know who waits, or counters: it calls [`Days`]. It
//! fails with [`Stop`].

mod shortage;
mod spare;

use std::time::Duration;

use self::spare::SpareTokens;
use super::{
    lanes::Lane,
    lines::{Demand, Standing},
    places::{NoPlace, OccupiedPlace, PlaceRequest, Places},
};
use crate::{
    admission::{
        bucket_start::{BucketMark, BucketStart},
        day_share::{DayRefused, DayShares, DayTake, DayView},
        learned::Learned,
        share::{GATEWAY, Shares, WHOLE},
        tokens::{FillRate, Tokens},
    },
    config::{Priority, Rate},
};

/// The limits of an account.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::admission) struct Limits {
    pub(in crate::admission) second: Option<Rate>,
    pub(in crate::admission) places: usize,
    /// How long a request may wait.
    pub(in crate::admission) max_wait: Duration,
    /// How far the day's spending may run ahead of the clock, as a part of the day; `None`: no pacing.
    pub(in crate::admission) pace: Option<f64>,
}

/// The day counters of the account and of its services.
pub(super) trait Days<Q> {
    type Output;

    fn view(&self) -> DayView;

    /// The counter that has fewer units left than would be taken; `None`: both have as many.
    fn used_up(&self, demand: &Demand<Q>) -> Option<DayShort>;

    /// Takes what the request costs of the account's day, and what `with` says, or nothing.
    ///
    /// # Errors
    /// [`DayShort`] names the counter.
    fn reserve(&self, demand: &Demand<Q>) -> Result<DayUnits<Self::Output>, DayShort>;
}

pub(super) struct DayUnits<T> {
    pub(super) units: T,
    /// Of the account's day: days since 1970.
    pub(super) date: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DayShort {
    /// The service's day is used up.
    Service,
    /// The account's day is used up.
    Account,
    /// There are units left, but the ledger has not granted them yet.
    NotLeased,
    /// There are units left, but the ledger grants none at present.
    Stalled,
}

/// What a request has taken.
#[derive(Debug)]
#[must_use = "it is given back, or kept"]
pub(super) struct Served<T> {
    pub(super) units: T,
    pub(super) taken: Taken,
}

/// What a request has taken of the supply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    place: OccupiedPlace,
    /// Number of the take; `None` without a limit.
    tokens: Option<u64>,
    /// Of the service's guarantee.
    delay: u64,
    day: DayTake,
}

impl Taken {
    pub(super) fn member(&self) -> usize {
        self.place.member
    }
}

/// Why a request gets nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::admission) enum Exhausted {
    /// All places in flight that it may take are occupied.
    InFlight { own_share_used: bool },
    /// Tokens come after this time.
    Second { wait: Duration, own_share_used: bool },
    /// Fastrac has paused the account; tokens come after this time.
    Paused { wait: Duration },
    /// It costs more than the bucket ever holds.
    TooLarge,
    /// The account's day.
    Day(DayRefused),
    /// The service's day.
    ServiceDay,
    /// The ledger has granted no units of the day in time, or grants none at present.
    NotLeased,
}

/// Why a request cannot be served now.
pub(super) enum Stop {
    /// The bucket has no tokens for it before that instant; those behind it wait too.
    Until(u64),
    /// No place that it may take is free; those of its kind wait too. At that instant there may be one although no call has
    /// ended.
    Place(Option<u64>),
    /// The service may not take more of the day before that instant.
    Day(DayRefused, u64),
    /// There are no units of the day, or not yet.
    NotLeased,
    Final(Exhausted),
}

/// An instant, and the day counters at it.
pub(super) struct At<'a, D> {
    pub(super) now: u64,
    pub(super) days: &'a D,
}

/// Tokens of those that are served before a request, at least.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    /// Of its own service.
    pub(super) own: u64,
    /// If it borrows.
    pub(super) all: u64,
}

#[derive(Debug)]
pub(super) struct Supply {
    rate: Option<Rate>,
    tokens: Option<Tokens>,
    spare: SpareTokens,
    shares: Shares,
    days: DayShares,
    /// A service has a share, or there is pacing.
    days_apply: bool,
    learned: Learned,
    pub(super) places: Places,
    /// How long a request may wait, nanoseconds.
    max_wait: u64,
    /// Places are scarce: a guarantee holds for as many of them as the service's share.
    few_places: bool,
    /// Cost of the most expensive request so far.
    largest: u32,
    /// The bucket was full at time 0.
    begins_full: bool,
}

impl Supply {
    pub(super) fn new(limits: Limits) -> Self {
        let fill = limits.second.map(FillRate::of);
        let mut supply = Supply {
            rate: limits.second,
            tokens: fill.map(Tokens::full),
            spare: SpareTokens::default(),
            shares: Shares::new(fill.unwrap_or(FillRate { period: 1, capacity: 1 })),
            days: DayShares::default(),
            days_apply: false,
            learned: Learned::default(),
            places: Places::default(),
            max_wait: 0,
            few_places: false,
            largest: 1,
            begins_full: true,
        };
        supply.limit(limits, 0);
        supply
    }

    /// The bucket begins with what it had in the process before, and so do pause and rate; the guarantees begin empty.
    pub(super) fn begin(&mut self, begins: BucketStart) {
        self.begins_full = begins == BucketStart::Unused;
        if let Some((part, paused)) = begins.learned() {
            self.learned.restore(part, paused);
            self.refill(0, true);
        }
        if let Some(tokens) = &mut self.tokens {
            let full_in = begins.full_in(tokens.fill());
            tokens.fill_until(self.learned.paused_until() + full_in);
            self.spare.changed(tokens.full_at());
        }
    }

    /// Changes the limits. The bucket keeps its tokens; one that is new begins empty.
    pub(super) fn limit(&mut self, limits: Limits, now: u64) {
        self.max_wait = u64::try_from(limits.max_wait.as_nanos()).unwrap_or(u64::MAX);
        self.places.limit(limits.places, self.max_wait);
        self.days.configure(limits.pace, limits.second.map_or(0, |rate| FillRate::of(rate).period));
        self.days_apply = limits.pace.is_some() || self.shares.any();
        if limits.second == self.rate {
            return;
        }
        self.rate = limits.second;
        self.tokens = limits.second.map(|rate| {
            self.tokens.take().unwrap_or_else(|| {
                let mut tokens = Tokens::full(FillRate::of(rate));
                tokens.empty(now);
                tokens
            })
        });
        self.refill(now, false);
    }

    /// Gives a service another share, of [`WHOLE`]. A new number is a new service, and must be the next one.
    pub(super) fn set_share(&mut self, member: usize, share: u64, now: u64) {
        self.places.set_share(member, share);
        // Before the first request, the guarantees are full if the bucket is.
        self.shares.set(member, share, now, now == 0 && self.begins_full);
        self.days.set(member, share);
        self.days_apply |= share > 0;
    }

    /// Units of a day that a service's own quota lets it use; `None`: no limit.
    pub(super) fn bound_day(&mut self, member: usize, most: Option<u64>) {
        self.days.bound(member, most);
    }

    /// What services have used of the account's day.
    pub(super) fn days(&mut self) -> &mut DayShares {
        &mut self.days
    }

    /// How long a request may wait, nanoseconds.
    pub(super) fn max_wait(&self) -> u64 {
        self.max_wait
    }

    /// The configured rate.
    pub(super) fn rate(&self) -> Option<Rate> {
        self.rate
    }

    /// Tokens that the bucket holds; `None` without a limit.
    pub(super) fn tokens_left(&self, now: u64) -> Option<u64> {
        self.tokens.as_ref().map(|tokens| tokens.left(now))
    }

    /// How the bucket fills at present; `None` without a limit.
    pub(super) fn fill(&self) -> Option<FillRate> {
        self.tokens.as_ref().map(Tokens::fill)
    }

    /// When the pause that Fastrac has imposed ends; in the past if there is none.
    pub(super) fn paused_until(&self) -> u64 {
        self.learned.paused_until()
    }

    /// What the next process has to know.
    pub(super) fn mark(&self, now: u64) -> BucketMark {
        BucketMark {
            tokens: self.tokens_left(now).unwrap_or(0),
            rate_part: self.learned.part(),
            paused_for: Duration::from_nanos(self.paused_until().saturating_sub(now)),
        }
    }

    /// When the rate rises next; the end of time if it is not low.
    pub(super) fn climbs_at(&self) -> u64 {
        self.learned.climbs_at()
    }

    /// Whether a call that nobody waits for may take so much of a full bucket.
    pub(super) fn may_spare(&self, cost: u32, now: u64) -> bool {
        let Some(fill) = self.fill() else { return true };
        self.spare.may_be_taken(fill.worth(u64::from(cost)), fill.capacity, self.max_wait, now)
    }

    /// A request arrives.
    pub(super) fn asks<Q>(&mut self, demand: &Demand<Q>, now: u64) {
        let &Demand { member, cost, .. } = demand;
        if cost > self.largest {
            self.largest = cost;
            self.shares.expect(cost, now);
            self.refill(now, false);
        }
        if let Some(tokens) = self.tokens.as_ref().filter(|_| !is_unawaited(demand)) {
            let fill = tokens.fill();
            self.spare.caller_asks(fill.worth(u64::from(cost)), fill.capacity, now);
        }
        self.shares.wake(member, now);
        self.places.asks(member, now);
    }

    /// A request that has arrived is served, or waits.
    pub(super) fn admits<Q>(&mut self, demand: &Demand<Q>, now: u64) {
        if let Some(fill) = self.fill().filter(|_| !is_unawaited(demand)) {
            self.spare.caller_admitted(fill.worth(u64::from(demand.cost)), now);
        }
    }

    /// Whether requests of the service wait.
    pub(super) fn waits(&mut self, member: usize, waits: bool) {
        self.shares.waits(member, waits);
    }

    /// Takes all that a request needs, or nothing.
    ///
    /// # Errors
    /// [`Stop`] says what must change first.
    pub(super) fn take<Q, D: Days<Q>>(
        &mut self,
        demand: &Demand<Q>,
        now: u64,
        days: &D,
    ) -> Result<Served<D::Output>, Stop> {
        let &Demand { member, cost, .. } = demand;
        if now < self.learned.paused_until() {
            return Err(Stop::Until(self.learned.paused_until()));
        }
        self.check_place(demand, now).map_err(|NoPlace { until }| Stop::Place(until))?;
        let worth = self.check_tokens(demand, now)?;
        if self.days_apply {
            self.check_day(demand, now, days.view())?;
        }
        let DayUnits { units, date } = days.reserve(demand).map_err(|short| day_stop(short, days))?;
        let tokens = self.tokens.as_mut().and_then(|tokens| tokens.take(cost, now).ok());
        let delay = self.shares.take(member, worth, now);
        let day = self.days.take(member, cost, date);
        let place = self.places.take(member, Lane::of(demand), now);
        Ok(Served { units, taken: Taken { place, tokens, delay, day } })
    }

    /// Says what became of what was taken: it was used, or comes back.
    pub(super) fn decide(&mut self, taken: Taken, kept: bool, now: u64) {
        if let (Some(number), Some(tokens)) = (taken.tokens, &mut self.tokens) {
            tokens.decide(number, kept);
        }
        if !kept {
            self.shares.give_back(taken.member(), taken.delay, now);
            self.days.give_back(taken.member(), taken.day);
        }
    }

    /// The place in flight is free again.
    pub(super) fn release(&mut self, taken: Taken, now: u64) {
        self.places.release(taken.place, now);
    }

    /// A request that was sent at `sent` got a limit response of Fastrac, which names a time to wait or none.
    pub(super) fn throttled(&mut self, now: u64, sent: u64, wait: Option<Duration>) {
        let fell = self.learned.throttled(now, sent, wait);
        if fell {
            self.refill(now, true);
        }
        if let Some(tokens) = &mut self.tokens {
            // What gathers in a pause would go out as one burst after it. One is there, for who comes when it was told to.
            tokens.leave_one(self.learned.paused_until());
            self.spare.changed(tokens.full_at());
        }
    }

    /// Raises the learned rate if it is time. Returns whether it rose.
    pub(super) fn climb(&mut self, now: u64) -> bool {
        let rose = self.learned.climb(now);
        if rose {
            self.refill(now, false);
        }
        rose
    }

    /// Whether places are scarce. Returns whether that is new.
    pub(super) fn places_are_few(&mut self, few: bool) -> bool {
        std::mem::replace(&mut self.few_places, few) != few
    }

    pub(super) fn few_places(&self) -> bool {
        self.few_places
    }

    /// Whether the service's guarantee covers the request.
    pub(super) fn covers<Q>(&self, demand: &Demand<Q>, now: u64) -> bool {
        let member = demand.member;
        let covered = match &self.tokens {
            Some(tokens) => self.shares.covers(member, tokens.fill().worth(u64::from(demand.cost)), now),
            None => self.shares.share(member) > 0,
        };
        is_gateways(demand) || (covered && (!self.few_places || self.places.is_guaranteed(member)))
    }

    /// How a request would be served now.
    pub(super) fn standing<Q>(&self, demand: &Demand<Q>, now: u64) -> Standing {
        if self.covers(demand, now) {
            return Standing::Covered;
        }
        let &Demand { member, cost, .. } = demand;
        let worth = self.fill().map(|fill| fill.worth(u64::from(cost)));
        let covered_at = worth.and_then(|worth| self.shares.covers_at(member, worth, now));
        Standing::Borrows { covered_at: covered_at.filter(|at| *at > now) }
    }

    /// Checks that there are tokens that the request may take now. Returns what they are worth, nanoseconds.
    pub(super) fn check_tokens<Q>(&mut self, demand: &Demand<Q>, now: u64) -> Result<u64, Stop> {
        let Some(tokens) = &self.tokens else { return Ok(0) };
        let worth = tokens.fill().worth(u64::from(demand.cost));
        if worth > tokens.fill().capacity {
            return Err(Stop::Final(Exhausted::TooLarge));
        }
        let (level, is_full) = (tokens.level(now), tokens.full_at() <= now);
        if level < worth {
            return Err(Stop::Until(now + worth - level));
        }
        if is_full || is_gateways(demand) || self.shares.covers(demand.member, worth, now) {
            return Ok(worth);
        }
        let reserve = self.shares.reserve(demand.member, worth, now);
        if i128::from(level - worth) * i128::from(WHOLE) >= reserve {
            return Ok(worth);
        }
        let met_at = self.shares.met_at(demand.member, worth, level, now);
        Err(Stop::Until(met_at.max(now + 1)))
    }

    /// Checks that the service may take so much of the account's day, as far as shares and pacing are concerned.
    pub(super) fn check_day<Q>(&mut self, demand: &Demand<Q>, now: u64, view: DayView) -> Result<(), Stop> {
        if is_gateways(demand) {
            return Ok(());
        }
        self.days
            .permits(demand.member, demand.cost, &view)
            .map_err(|refused| Stop::Day(refused, nanos_at(refused.free_at, &view, now)))
    }

    /// Checks that there is a place that the request may take now.
    pub(super) fn check_place<Q>(&mut self, demand: &Demand<Q>, now: u64) -> Result<(), NoPlace> {
        let request = PlaceRequest { member: demand.member, lane: Lane::of(demand), exempt: is_gateways(demand) };
        self.places.check(request, now)
    }

    /// The bucket fills as configured and learned. `empty`: the guarantees begin at zero.
    fn refill(&mut self, now: u64, empty: bool) {
        let (Some(rate), Some(tokens)) = (self.rate, &mut self.tokens) else { return };
        let fill = self.learned.apply(FillRate::of(rate), u64::from(self.largest));
        if fill != tokens.fill() {
            tokens.refill(fill, now);
            self.spare.changed(tokens.full_at());
        }
        self.shares.refill(fill, now, empty);
    }
}

/// An instant of the wall clock (milliseconds since 1970), of which `now` is that of `view`.
fn nanos_at(millis: i64, view: &DayView, now: u64) -> u64 {
    let millis = u64::try_from(millis.saturating_sub(view.now)).unwrap_or(0);
    now.saturating_add(millis.saturating_mul(1_000_000))
}

fn day_stop<Q, D: Days<Q>>(short: DayShort, days: &D) -> Stop {
    match short {
        DayShort::Service => Stop::Final(Exhausted::ServiceDay),
        DayShort::Account => {
            Stop::Final(Exhausted::Day(DayRefused { free_at: days.view().ends, own_share_used: false }))
        }
        DayShort::NotLeased => Stop::NotLeased,
        DayShort::Stalled => Stop::Final(Exhausted::NotLeased),
    }
}

/// Whether the gateway makes the call for itself and nobody waits for it: a refresh, a walk, a read about an unknown order.
fn is_unawaited<Q>(demand: &Demand<Q>) -> bool {
    demand.member == GATEWAY && demand.priority == Priority::Low
}

/// Whether the gateway makes the call for itself and cannot do without it: a canary. Neither shares nor pacing apply.
fn is_gateways<Q>(demand: &Demand<Q>) -> bool {
    demand.member == GATEWAY && demand.priority == Priority::High
}
