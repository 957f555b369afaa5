//! The wait queue of an account: which requests wait for its budget, and which is served next.
//!
//! The [`Scheduler`] decides; this is its lock, its clock and its timer. A [`Permit`] is a place in flight, tokens of the
//! second and units of the day, taken together or not at all. Each waiter has a timer for the end of its own wait, and one
//! of them has the queue's: for the next instant at which somebody can be served.
//!
//! Always holds: a permit that was granted and not taken goes to the next waiter; a waiter that leaves gives its place
//! back at once; no lock is held across an await; an event wakes only the waiters that it grants or refuses, and the one
//! with the queue's timer. The queue knows neither services nor requests. It fails with [`Exhausted`].

mod lanes;
mod lines;
mod places;
mod scheduler;
mod supply;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
    time::Duration,
};

use jiff::tz::TimeZone;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

pub use self::lines::Urgency;
pub(super) use self::{
    lines::Demand,
    supply::{Exhausted, Limits},
};
use self::{
    scheduler::{QueueArrival, QueueTicket, Scheduler},
    supply::{DayShort, DayUnits, Days, Served, Taken},
};
use super::{
    bucket::nanos_since,
    bucket_start::{BucketMark, BucketStart},
    day::{DayCounter, DayReservation, DayShortage, Unrecorded},
    day_parts::DayParts,
    day_share::DayView,
    share,
    usage::TokensLeft,
};
use crate::{config::Priority, deadline::until};

/// The day counter of a service, if one unit of it is to be taken.
pub(super) type ServiceDay = Option<Arc<DayCounter>>;

/// The limits of an account, and the requests that wait for them.
#[derive(Debug)]
pub(super) struct WaitQueue {
    pub(super) day: Arc<DayCounter>,
    /// Times are nanoseconds since then.
    start: Instant,
    state: Mutex<WaitState>,
    /// Numbers of the services, by name. Those that are gone keep theirs.
    members: Mutex<BTreeMap<String, usize>>,
    /// A day counter has got units since the queue was served last.
    leased: AtomicBool,
}

type QueueScheduler = Scheduler<Arc<WaitOutcome>, ServiceDay>;

#[derive(Debug)]
struct WaitState {
    scheduler: QueueScheduler,
    parts: DayParts,
    timer: Option<Timer>,
}

/// The queue's timer.
#[derive(Debug)]
struct Timer {
    /// The waiter that has it.
    owner: Arc<WaitOutcome>,
    at: u64,
}

/// What the queue tells one waiter.
#[derive(Debug, Default)]
struct WaitOutcome {
    decision: Mutex<Option<Result<Permit, Exhausted>>>,
    /// A decision was made, or the waiter has the queue's timer now.
    changed: Notify,
}

/// A place in flight, occupied until this is dropped, and what was taken of the windows.
#[derive(Debug)]
pub(super) struct Permit {
    queue: Arc<WaitQueue>,
    taken: Taken,
    /// Of the account; `None` once they are used.
    units: Option<AccountUnits>,
    /// Of the service.
    pub(super) service_unit: Option<DayReservation>,
}

/// A service among those that share a budget.
#[derive(Clone, Copy, Debug)]
pub struct Sharer<'a> {
    pub name: &'a str,
    /// From 0 to 1, at most 1 in all.
    pub share: f64,
    /// Units that its own quota lets it use in a day; `None`: no limit.
    pub most_per_day: Option<u64>,
    /// Whether it may place orders.
    pub orders: bool,
}

/// A request for a permit.
#[derive(Debug)]
pub(super) struct PermitRequest {
    /// Number of the service.
    pub(super) member: usize,
    pub(super) cost: u32,
    pub(super) priority: Priority,
    pub(super) urgency: Urgency,
    /// It never waits beyond this.
    pub(super) deadline: Instant,
    pub(super) service_day: ServiceDay,
}

impl PermitRequest {
    /// The same in nanoseconds: it waits until `expires`.
    fn demand(self, expires: u64) -> Demand<ServiceDay> {
        let PermitRequest { member, cost, priority, urgency, service_day, .. } = self;
        Demand { member, cost, priority, urgency, expires, deadline: expires, with: service_day }
    }
}

/// A response of Fastrac that says that there were too many requests.
#[derive(Clone, Copy, Debug)]
pub struct LimitResponse {
    /// When the request was sent.
    pub sent: Instant,
    /// How long it says to wait.
    pub wait: Option<Duration>,
}

/// How much of the second and of the places is used.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueUsage {
    /// At the configured rate; `None` without a limit.
    pub(super) second: Option<TokensLeft>,
    /// Rate at present, tokens per second; `None` without a limit.
    pub(super) per_second: Option<f64>,
    /// Rest of a pause that Fastrac has imposed; zero if there is none.
    pub(super) paused_for: Duration,
    pub(super) in_flight: usize,
    pub(super) places: usize,
    /// Of `places`: only orders may take them. As many are kept for all others.
    pub(super) kept_for_each: usize,
    /// Places that requests other than orders may take, and how many of them are free.
    pub(super) of_others: (usize, usize),
    pub(super) waiting: usize,
}

/// The counters that a grant takes units from.
struct AccountDays<'a> {
    queue: &'a Arc<WaitQueue>,
    parts: &'a DayParts,
}

/// Units of the account's day.
#[derive(Debug)]
struct AccountUnits {
    account: DayReservation,
    /// As many of the service's part of it, if services have shares.
    part: Option<DayReservation>,
}

/// Units of the account's day, and one of the service's.
#[derive(Debug)]
struct TakenUnits {
    account: AccountUnits,
    service: Option<DayReservation>,
}

impl Days<ServiceDay> for AccountDays<'_> {
    type Output = TakenUnits;

    fn view(&self) -> DayView {
        self.queue.day.view()
    }

    fn used_up(&self, demand: &Demand<ServiceDay>) -> Option<DayShort> {
        let service = demand.with.as_ref().filter(|day| !day.has(1)).map(|_| DayShort::Service);
        service.or_else(|| (!self.queue.day.has(demand.cost)).then_some(DayShort::Account))
    }

    fn reserve(&self, demand: &Demand<ServiceDay>) -> Result<DayUnits<TakenUnits>, DayShort> {
        // The counters of an account and its services have the same clock.
        let now = self.queue.day.millis();
        let of_account =
            |day: &Arc<DayCounter>| self.granted(day, demand.cost, day.reserve_at(now, demand.cost), DayShort::Account);
        let of_service = |day: &Arc<DayCounter>| self.granted(day, 1, day.reserve_at(now, 1), DayShort::Service);
        let service = demand.with.as_ref().map(of_service).transpose()?;
        let account = of_account(&self.queue.day)?;
        let part = self.parts.of(demand.member).map(of_account).transpose()?;
        let date = account.date();
        Ok(DayUnits { units: TakenUnits { account: AccountUnits { account, part }, service }, date })
    }
}

impl AccountDays<'_> {
    /// Tries once more if the ledger grants units meanwhile.
    fn granted(
        &self,
        day: &Arc<DayCounter>,
        units: u32,
        reserved: Result<DayReservation, DayShortage>,
        exhausted: DayShort,
    ) -> Result<DayReservation, DayShort> {
        let reserved = match reserved {
            Err(DayShortage::NotLeased) => {
                day.wake_when_granted(&Waker::from(self.queue.clone()));
                day.reserve(units)
            }
            decided => decided,
        };
        reserved.map_err(|shortage| match shortage {
            DayShortage::Exhausted => exhausted,
            DayShortage::NotLeased => DayShort::NotLeased,
            DayShortage::Stalled => DayShort::Stalled,
        })
    }
}

/// A day counter has got units. The ledger may say so while the queue is locked; then the holder of the lock serves the
/// queue once more when it has finished.
impl Wake for WaitQueue {
    fn wake(self: Arc<Self>) {
        self.leased.store(true, Ordering::SeqCst);
        self.serve_leased();
    }
}

impl WaitQueue {
    pub(super) fn new(limits: Limits, day: Arc<DayCounter>, parts: DayParts) -> Self {
        Self {
            day,
            start: Instant::now(),
            state: Mutex::new(WaitState { scheduler: Scheduler::new(limits), parts, timer: None }),
            members: Mutex::default(),
            leased: AtomicBool::new(false),
        }
    }

    /// What the bucket begins with. Called before any request.
    pub(super) fn begin(&self, begins: BucketStart) {
        self.state.lock().scheduler.supply.begin(begins);
    }

    /// For [`super::DayLedger::bucket`] of the next process.
    pub(super) fn bucket_mark(&self) -> BucketMark {
        self.state.lock().scheduler.supply.mark(self.now())
    }

    /// Changes the limits while requests are in flight or wait. A changed rate never grants a burst.
    pub(super) fn limit(self: &Arc<Self>, limits: Limits, day: Option<u64>) {
        self.day.set_limit(day);
        self.locked(|state| {
            state.scheduler.limit(limits, self.now());
            state.parts.set_limit(day);
            self.serve(state);
        });
    }

    /// Changes the zone in which days begin; their counts stay.
    pub(super) fn set_zone(self: &Arc<Self>, zone: &TimeZone) {
        self.day.set_zone(zone);
        let mut state = self.state.lock();
        let WaitState { scheduler, parts, .. } = &mut *state;
        if !parts.set_zone(zone) {
            return;
        }
        // The date may be another one now.
        for (member, day) in parts.with_share() {
            let DayView { used, date, .. } = day.view();
            scheduler.supply.days().restore(member, used, date);
        }
        if let Some(DayView { used, date, .. }) = parts.unshared().map(|day| day.view()) {
            scheduler.supply.days().restore_unshared(used, date);
        }
    }

    /// Shares the budget among these services; any other has no share any more. Returns their numbers.
    pub(super) fn share_among(self: &Arc<Self>, services: &[Sharer<'_>]) -> Vec<usize> {
        let mut members = self.members.lock();
        // The guarantees of a new queue are full.
        let is_new = members.is_empty();
        let gone: Vec<usize> = members
            .iter()
            .filter(|(name, _)| !services.iter().any(|service| service.name == *name))
            .map(|(_, number)| *number)
            .collect();
        self.locked(|state| {
            let WaitState { scheduler, parts, .. } = &mut *state;
            let now = if is_new { 0 } else { self.now() };
            for number in gone {
                scheduler.set_share(number, 0, now);
                parts.set_share(number, "", 0);
            }
            scheduler.place_orders(services.iter().any(|service| service.orders));
            let set = |service: &Sharer<'_>| {
                let number = *members.entry(service.name.to_owned()).or_insert_with(|| scheduler.members());
                let share = share::fixed(service.share);
                scheduler.set_share(number, share, now);
                scheduler.supply.bound_day(number, service.most_per_day);
                if let Some(day) = parts.set_share(number, service.name, share) {
                    let DayView { used, date, .. } = day.view();
                    scheduler.supply.days().restore(number, used, date);
                    raise(&day, scheduler.supply.days().used(number, date));
                }
                number
            };
            let numbers = services.iter().map(set).collect();
            if let Some(day) = parts.count_unshared() {
                raise(&day, scheduler.supply.days().unshared(day.view().date));
            }
            parts.set_limit(self.day.limit());
            self.serve(state);
            numbers
        })
    }

    /// After the start: what services have used of today before, by number, as far as is known besides the counters of
    /// their parts.
    pub(super) fn restore_day(self: &Arc<Self>, used: &[(usize, u64)]) {
        let mut state = self.state.lock();
        let WaitState { scheduler, parts, .. } = &mut *state;
        let (days, date) = (scheduler.supply.days(), self.day.view().date);
        for (member, units) in used {
            days.restore(*member, *units, date);
        }
        parts.with_share().for_each(|(member, day)| raise(day, days.used(member, date)));
        if let Some(day) = parts.unshared() {
            days.restore_unshared(day.view().used, date);
            raise(day, days.unshared(date));
        }
    }

    /// The counters of the services' parts of the day.
    pub(super) fn parts(&self) -> Vec<Arc<DayCounter>> {
        self.state.lock().parts.all().cloned().collect()
    }

    /// A request got a limit response of Fastrac. `record` takes what that has taught, under the queue's lock. Returns how
    /// long the same request has to wait.
    pub(super) fn throttled(
        self: &Arc<Self>,
        limit: LimitResponse,
        again: PermitRequest,
        record: impl FnOnce(BucketMark),
    ) -> Duration {
        let sent = self.nanos(limit.sent);
        let due = self.change(|scheduler, now| {
            scheduler.throttled(now, sent, limit.wait);
            record(scheduler.supply.mark(now));
            scheduler.served_in(&again.demand(now), now)
        });
        Duration::from_nanos(due)
    }

    /// Why no request like this is granted anything for a while, whatever the tokens: a pause, or the day. Takes nothing.
    pub(super) fn closed(self: &Arc<Self>, request: PermitRequest) -> Option<Exhausted> {
        self.locked(|state| {
            let now = self.now();
            let WaitState { scheduler, parts, .. } = state;
            scheduler.closed(&request.demand(now), now, &AccountDays { queue: self, parts })
        })
    }

    pub(super) fn max_wait(&self) -> Duration {
        Duration::from_nanos(self.state.lock().scheduler.supply.max_wait())
    }

    /// Whether a call that nobody waits for may take so much of a full bucket.
    pub(super) fn may_spare(&self, cost: u32) -> bool {
        self.state.lock().scheduler.supply.may_spare(cost, self.now())
    }

    pub(super) fn usage(&self) -> QueueUsage {
        let (mut state, now) = (self.state.lock(), self.now());
        // What waits for a full bucket asks for nothing until it is.
        state.scheduler.climb(now);
        let supply = &state.scheduler.supply;
        QueueUsage {
            second: supply.rate().zip(supply.tokens_left(now)).map(|(rate, left)| TokensLeft { rate, left }),
            per_second: supply.fill().map(|fill| 1e9 / fill.period as f64),
            paused_for: Duration::from_nanos(supply.paused_until().saturating_sub(now)),
            in_flight: supply.places.in_flight(),
            places: supply.places.count(),
            kept_for_each: supply.places.kept_for_each(),
            of_others: supply.places.of_others(),
            waiting: state.scheduler.waiting(),
        }
    }

    /// Takes a permit, waiting for it as long as the request may.
    ///
    /// # Errors
    /// [`Exhausted`] names the limit that was short; at once if waiting cannot help.
    pub(super) async fn acquire(self: &Arc<Self>, request: PermitRequest) -> Result<Permit, Exhausted> {
        match self.enter(request)? {
            Entered::Permit(permit) => Ok(permit),
            // Few requests wait, so their state is on the heap.
            Entered::Waiter(waiter) => Box::pin(waiter.wait()).await,
        }
    }

    fn enter(self: &Arc<Self>, request: PermitRequest) -> Result<Entered, Exhausted> {
        let deadline = self.nanos(request.deadline);
        self.locked(|state| {
            let now = self.now();
            let expires = now.saturating_add(state.scheduler.supply.max_wait()).min(deadline);
            let demand = Demand { deadline, ..request.demand(expires) };
            let days = AccountDays { queue: self, parts: &state.parts };
            let expires = match state.scheduler.arrive(&demand, now, &days) {
                QueueArrival::Granted(grant) => {
                    let permit = self.permit(grant);
                    // It overtook them: with it, the places that they had to leave for its service may be fewer.
                    if state.scheduler.waiting() > 0 {
                        self.serve(state);
                    }
                    return Ok(Entered::Permit(permit));
                }
                QueueArrival::Refused(exhausted) => return Err(exhausted),
                QueueArrival::Waits { expires } => expires,
            };
            let outcome = Arc::new(WaitOutcome::default());
            let ticket = state.scheduler.enter(Demand { expires, ..demand }, outcome.clone(), now);
            self.serve(state);
            Ok(Entered::Waiter(Waiter { queue: self.clone(), ticket, outcome, expires }))
        })
    }

    /// Works on the state. If a counter has got units meanwhile, the queue is served after it.
    fn locked<T>(self: &Arc<Self>, work: impl FnOnce(&mut WaitState) -> T) -> T {
        let result = work(&mut self.state.lock());
        if self.leased.load(Ordering::SeqCst) {
            self.serve_leased();
        }
        result
    }

    /// Changes something, and decides the waiters that can be decided then.
    fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut QueueScheduler, u64) -> T) -> T {
        self.locked(|state| {
            let result = change(&mut state.scheduler, self.now());
            self.serve(state);
            result
        })
    }

    fn serve_leased(self: &Arc<Self>) {
        while self.leased.load(Ordering::SeqCst)
            && let Some(mut state) = self.state.try_lock()
        {
            self.serve(&mut state);
        }
    }

    fn permit(self: &Arc<Self>, grant: Served<TakenUnits>) -> Permit {
        let Served { units: TakenUnits { account, service }, taken } = grant;
        Permit { queue: self.clone(), taken, units: Some(account), service_unit: service }
    }

    /// Decides as many waiters as can be decided now, and gives the queue's timer to the one that comes first.
    fn serve(self: &Arc<Self>, state: &mut WaitState) {
        let WaitState { scheduler, parts, timer } = state;
        let leased = self.leased.swap(false, Ordering::SeqCst);
        if scheduler.waiting() == 0 {
            *timer = None;
            return;
        }
        if leased {
            scheduler.leased(self.now());
        }
        let days = AccountDays { queue: self, parts };
        let next = scheduler.serve(self.now(), &days, |waiter, decision| {
            *waiter.decision.lock() = Some(decision.map(|grant| self.permit(grant)));
            waiter.changed.notify_one();
        });
        let Some((at, owner)) = next.zip(scheduler.next_waiter()) else {
            *timer = None;
            return;
        };
        let known = timer.as_ref().is_some_and(|timer| timer.at <= at && Arc::ptr_eq(&timer.owner, owner));
        if !known {
            owner.changed.notify_one();
            *timer = Some(Timer { owner: owner.clone(), at });
        } else if let Some(timer) = timer {
            timer.at = at;
        }
    }

    fn now(&self) -> u64 {
        nanos_since(self.start)
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Has a counter count at least so many units. One that is not used costs nothing.
fn raise(day: &Arc<DayCounter>, units: u64) {
    if units > day.today().used {
        day.raise_to(units);
    }
}

/// A request that has come to the queue.
enum Entered {
    Permit(Permit),
    Waiter(Waiter),
}

/// A request in the queue; leaves it when dropped.
struct Waiter {
    queue: Arc<WaitQueue>,
    ticket: QueueTicket,
    outcome: Arc<WaitOutcome>,
    expires: u64,
}

impl Waiter {
    async fn wait(self) -> Result<Permit, Exhausted> {
        loop {
            if let Some(decision) = self.outcome.decision.lock().take() {
                return decision;
            }
            let (wake_at, changed) = (self.wake_at(), self.outcome.changed.notified());
            let at = self.queue.start + Duration::from_nanos(wake_at);
            if wake_at < self.expires {
                if timeout_at(at, changed).await.is_err() {
                    self.queue.change(|_, _| ());
                }
                continue;
            }
            // A place that was free in time may only not have been seen yet.
            if until(at, changed).await.is_none() {
                self.queue.change(|_, _| ());
                if let Some(exhausted) = self.give_up() {
                    return Err(exhausted);
                }
            }
        }
    }

    fn wake_at(&self) -> u64 {
        let state = self.queue.state.lock();
        let timer = state.timer.as_ref().filter(|timer| Arc::ptr_eq(&timer.owner, &self.outcome));
        timer.map_or(self.expires, |timer| timer.at.min(self.expires))
    }

    /// Leaves the queue because the time is up; `None` if it was decided in the meantime.
    fn give_up(&self) -> Option<Exhausted> {
        let queue = &self.queue;
        queue.locked(|state| {
            let WaitState { scheduler, parts, .. } = &mut *state;
            let now = queue.now();
            let demand = scheduler.leave(self.ticket, now)?;
            let exhausted = scheduler.shortage(&demand, now, &AccountDays { queue, parts });
            queue.serve(state);
            Some(exhausted)
        })
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // The next one may cost less, or needs the timer.
        self.queue.change(|scheduler, now| scheduler.leave(self.ticket, now));
        // A permit that was granted and not taken goes to the next waiter; that takes the lock again.
        let decision = self.outcome.decision.lock().take();
        drop(decision);
    }
}

impl Permit {
    /// Records the units of the account's day, as [`DayReservation::record`] does.
    pub(super) async fn record(&mut self, until: Instant) -> Result<(), Unrecorded> {
        let Some(AccountUnits { account, part }) = &mut self.units else { return Ok(()) };
        account.record(until).await?;
        match part {
            Some(part) => part.record(until).await,
            None => Ok(()),
        }
    }

    /// Counts everything as used. The place stays occupied.
    pub(super) fn keep(&mut self) {
        if let Some(AccountUnits { account, part }) = self.units.take() {
            account.keep();
            part.into_iter().for_each(DayReservation::keep);
            self.queue.locked(|state| state.scheduler.decide(self.taken, true, 0));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Given back before a waiter is served, which may need them.
        drop(self.service_unit.take());
        let unused = self.units.take();
        let is_unused = unused.is_some();
        drop(unused);
        self.queue.change(|scheduler, now| {
            if is_unused {
                scheduler.decide(self.taken, false, now);
            }
            scheduler.release(self.taken, now);
        });
    }
}
