//! What each service is guaranteed of an account's day, and how far the day's spending may run ahead of the clock.
//!
//! A service is guaranteed its share of the day's budget whenever it asks, so a borrower leaves what the others have
//! not used of theirs: units that are lent do not come back. What a service cannot use, because its own quota of the
//! day is smaller, is lent from the start. In the last part of the day ([`LENT_LAST`]) what is left of the guarantees
//! is lent, step by step, so that nothing is lost at midnight. What is borrowed then is missing to all that are owed
//! something in the same proportion, and a service that uses its own takes its part of what is left, not what is kept for
//! another one. (After a restart this proportion begins anew, from what is left and what each has not used.) Those
//! without a share, the gateway's background calls among them, may use a small part of the day ([`COMMON`]) at any time
//! while it is not used up, even if the shares add up to 1. With pacing, all of this applies to the part of the budget that
//! the clock has released so far.
//!
//! Always holds: a decision takes constant time; the sum of what is owed to the services is computed anew only when the
//! budget, a share or the date changes, or when the clock has released a [`STEPS`]th more. Never takes anything itself:
//! the account's day counter does, and it alone is exact. Pure. Fails with [`DayRefused`].

#[cfg(test)]
mod tests;

use super::share::{GATEWAY, WHOLE};

/// In this last part of the day the guarantees are lent, milliseconds; longer if the budget of the day needs longer to be
/// used up at the account's rate.
const LENT_LAST: i64 = 3_600_000;

/// How often in a day the sum of what is owed is computed anew, with pacing: three times a second.
const STEPS: u64 = 1 << 18;

/// How many dates besides the current one are remembered: where the clock may have been by mistake, and came from.
const OTHER_DATES: usize = 3;

/// Part of the day that those without a share may use together whatever the others are owed, of [`WHOLE`]; rounded up to
/// whole units.
const COMMON: u64 = WHOLE / 50;

/// What services are owed is counted in these parts of a unit, because units are lent in proportion.
const FINE: u128 = 1 << 20;

/// The account's day at one instant. Times are milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DayView {
    /// Days since 1970, in the account's zone.
    pub(super) date: i32,
    pub(super) starts: i64,
    pub(super) ends: i64,
    pub(super) now: i64,
    /// Units used, reserved ones included.
    pub(super) used: u64,
    pub(super) limit: Option<u64>,
}

/// A service may not take units of the day now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DayRefused {
    /// When it may, if nobody takes any before; milliseconds since 1970.
    pub(super) free_at: i64,
    /// The service has a share, and has used it.
    pub(super) own_share_used: bool,
}

/// Units of a date that a service has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DayTake {
    units: u32,
    /// As in [`UsedOfDay`].
    lent: u128,
    date: i32,
}

#[derive(Clone, Debug, Default)]
pub(super) struct DayShares {
    /// By number.
    services: Vec<DayPart>,
    date: i32,
    /// The dates that were current before, at most [`OTHER_DATES`]: a clock that jumps ahead and back finds them again.
    others: Vec<OtherDate>,
    /// How far spending may run ahead of the clock, as a part of the day, of [`WHOLE`]; `None`: no pacing.
    pace: Option<u64>,
    /// Time in which the account's rate allows one unit, nanoseconds; 0: no rate.
    period: u64,
    plan: Plan,
}

/// One service's part of the day.
#[derive(Clone, Copy, Debug)]
struct DayPart {
    /// Of [`WHOLE`]; 0: none.
    share: u64,
    /// Units that its own quota lets it use in a day, at most.
    most: u64,
    used: UsedOfDay,
}

/// What a service has used of a day.
#[derive(Clone, Copy, Debug, Default)]
struct UsedOfDay {
    units: u64,
    /// What others had borrowed of its part, as much of it as belongs to the units that it has used; [`FINE`]ths of a unit.
    lent: u128,
}

impl Default for DayPart {
    fn default() -> Self {
        DayPart { share: 0, most: u64::MAX, used: UsedOfDay::default() }
    }
}

impl DayPart {
    /// What it is owed of `released` if nothing has been lent: its part, as far as it can use it, less what it has used, and
    /// what others had borrowed of that. In [`FINE`]ths of a unit.
    fn is_owed(&self, released: u64) -> u128 {
        let UsedOfDay { units, lent } = self.used;
        fine(self.guaranteed(released)).saturating_sub(fine(units) + lent)
    }

    fn guaranteed(&self, released: u64) -> u64 {
        part(released, self.share).min(self.most)
    }
}

/// What services have used of a date that is not current.
#[derive(Clone, Debug)]
struct OtherDate {
    date: i32,
    /// By number of the service.
    used: Vec<UsedOfDay>,
}

/// What was computed last.
#[derive(Clone, Copy, Debug, Default)]
struct Plan {
    limit: u64,
    /// Units released, of `limit`.
    released: u64,
    /// Units of what is released that were not used when a service asked last.
    left: u64,
    /// What all services together are owed of `released`, if nothing has been lent: [`FINE`]ths of a unit.
    owed: u128,
    /// Shares of all, of [`WHOLE`].
    shares: u64,
    /// Units that those without a share have used.
    unshared: u64,
}

/// What a service asks for, and the counts of the day before.
struct DayRequest {
    units: u64,
    /// Units used, of the account.
    day: u64,
    own: DayPart,
    /// Units used by those without a share.
    unshared: u64,
}

/// What the others are owed, in [`FINE`]ths of a unit.
#[derive(Clone, Copy)]
struct OwedToOthers {
    /// If nothing has been lent.
    all: u128,
    /// What a borrower leaves of it.
    kept: u128,
}

impl DayRequest {
    /// Whether the service has used less than its part of `released`.
    fn is_guaranteed(&self, released: u64) -> bool {
        self.own.used.units + self.units <= self.own.guaranteed(released)
    }

    fn is_allowed(&self, released: u64, others: OwedToOthers) -> bool {
        let left = released.saturating_sub(self.day);
        let common = || self.own.share == 0 && self.unshared + self.units <= part_rounded_up(released, COMMON);
        let lent = || fine(left.saturating_sub(self.units)) >= others.kept;
        self.units <= left && (self.is_owed(released, left, others.all) || common() || lent())
    }

    /// Whether it is its own part of what is left, which is the same proportion of what each is owed; rounded up, so that
    /// the last unit is of use to somebody.
    fn is_owed(&self, released: u64, left: u64, others: u128) -> bool {
        let own = self.own.is_owed(released);
        let owed = own + others;
        if owed <= fine(left) {
            return fine(self.units) <= own;
        }
        owed.saturating_mul(u128::from(self.units.saturating_sub(1))) < own.saturating_mul(u128::from(left))
    }
}

impl DayShares {
    pub(super) fn set(&mut self, member: usize, share: u64) {
        self.services.resize(self.services.len().max(member + 1), DayPart::default());
        self.services[member].share = share;
        self.plan = Plan::default();
    }

    /// Bounds what a service can use of a day; `None`: no limit.
    pub(super) fn bound(&mut self, member: usize, most: Option<u64>) {
        self.services[member].most = most.unwrap_or(u64::MAX);
        self.plan = Plan::default();
    }

    /// `period`: nanoseconds; 0: the account has no rate.
    pub(super) fn configure(&mut self, pace: Option<f64>, period: u64) {
        self.pace = pace.map(super::share::fixed);
        self.period = period;
        self.plan = Plan::default();
    }

    /// What those without a share have used of `date` before the start; what is not known to be of one of them counts as the
    /// gateway's.
    pub(super) fn restore_unshared(&mut self, units: u64, date: i32) {
        self.begin(date);
        let others = self.unshared(date) - self.services[GATEWAY].used.units;
        self.count(GATEWAY, |used| used.units = used.units.max(units.saturating_sub(others)));
    }

    /// What a service has used of `date`.
    pub(super) fn used(&mut self, member: usize, date: i32) -> u64 {
        self.begin(date);
        self.services[member].used.units
    }

    /// What those without a share have used of `date`.
    pub(super) fn unshared(&mut self, date: i32) -> u64 {
        self.begin(date);
        self.services.iter().filter(|service| service.share == 0).map(|service| service.used.units).sum()
    }

    /// What a service has used of `date` before the start.
    pub(super) fn restore(&mut self, member: usize, units: u64, date: i32) {
        self.begin(date);
        self.count(member, |used| used.units = used.units.max(units));
    }

    /// Counts units of `date`, of which [`DayShares::permits`] has just said that they may be taken.
    pub(super) fn take(&mut self, member: usize, units: u32, date: i32) -> DayTake {
        self.begin(date);
        let lent = self.lent_of(member, units);
        self.count(member, |used| {
            used.units += u64::from(units);
            used.lent += lent;
        });
        DayTake { units, lent, date }
    }

    /// Gives back what was taken.
    pub(super) fn give_back(&mut self, member: usize, DayTake { units, lent, date }: DayTake) {
        let give_back = |used: &mut UsedOfDay| {
            used.units = used.units.saturating_sub(u64::from(units));
            used.lent = used.lent.saturating_sub(lent);
        };
        if date == self.date {
            self.count(member, give_back);
        } else if let Some(used) =
            self.others.iter_mut().find(|it| it.date == date).and_then(|it| it.used.get_mut(member))
        {
            give_back(used);
        }
    }

    /// What others have borrowed of a service's part, as much as belongs to `units` that it takes. So the part of what is
    /// left that each of the others is owed stays the same.
    fn lent_of(&self, member: usize, units: u32) -> u128 {
        let (own, owed, left) = (self.owed_to(member), self.plan.owed, fine(self.plan.left));
        let missing = owed.saturating_sub(left);
        if own == 0 || missing == 0 || left == 0 {
            return 0;
        }
        let of_units = fine(u64::from(units)).saturating_mul(missing).div_ceil(left);
        // It borrows the rest.
        let of_all = own.saturating_mul(missing) / owed;
        of_units.min(of_all)
    }

    fn count(&mut self, member: usize, change: impl FnOnce(&mut UsedOfDay)) {
        let (owed, used) = (self.owed_to(member), self.services[member].used);
        change(&mut self.services[member].used);
        self.plan.owed = self.plan.owed.saturating_sub(owed) + self.owed_to(member);
        if self.services[member].share == 0 {
            self.plan.unshared = self.plan.unshared.saturating_sub(used.units) + self.services[member].used.units;
        }
    }

    /// Whether a service may take `units` now.
    ///
    /// # Errors
    /// [`DayRefused`] says when it may.
    pub(super) fn permits(&mut self, member: usize, units: u32, day: &DayView) -> Result<(), DayRefused> {
        self.begin(day.date);
        let Some(limit) = day.limit else { return Ok(()) };
        self.refresh(limit, day);
        let (request, released) = (self.request(member, units, day), self.released(limit, day));
        self.plan.left = released.saturating_sub(day.used);
        if request.is_allowed(released, self.left_to(self.owed_to_others(member), day)) {
            return Ok(());
        }
        let own_share_used = request.own.share > 0 && !request.is_guaranteed(released);
        Err(DayRefused { free_at: self.free_at(member, &request, day), own_share_used })
    }

    fn request(&self, member: usize, units: u32, day: &DayView) -> DayRequest {
        let own = self.services[member];
        DayRequest { units: u64::from(units), day: day.used, own, unshared: self.plan.unshared }
    }

    /// What a borrower leaves to the others, which are owed `all`: less and less in the last part of the day.
    fn left_to(&self, all: u128, day: &DayView) -> OwedToOthers {
        let use_up = u128::from(self.plan.limit) * u128::from(self.period) / 1_000_000;
        let last = i64::try_from(use_up).unwrap_or(i64::MAX).max(LENT_LAST);
        let left = (day.ends - day.now).clamp(0, last);
        let kept = if left == last { all } else { all.saturating_mul(left as u128) / last as u128 };
        OwedToOthers { all, kept }
    }

    /// Units that the clock has released of `limit`.
    fn released(&self, limit: u64, day: &DayView) -> u64 {
        let Some(pace) = self.pace else { return limit };
        let length = i128::from((day.ends - day.starts).max(1));
        let elapsed = i128::from((day.now - day.starts).max(0)) * i128::from(WHOLE) / length;
        let released = (elapsed + i128::from(pace)).min(i128::from(WHOLE));
        part(limit, released as u64)
    }

    /// When the service gets what it asks for: the earliest instant at which nothing forbids it, if nobody takes anything
    /// before. By bisection, because several things change with time.
    fn free_at(&self, member: usize, request: &DayRequest, day: &DayView) -> i64 {
        let limit = day.limit.unwrap_or(u64::MAX);
        let others = self.owed_to_others(member);
        let others_share = self.plan.shares.saturating_sub(request.own.share);
        let is_free = |now: i64| {
            let at = DayView { now, ..*day };
            let released = self.released(limit, &at);
            // What the clock releases meanwhile is owed to the others in part, at most.
            let owed = others + fine(part(released.saturating_sub(self.plan.released), others_share));
            request.is_allowed(released, self.left_to(owed, &at))
        };
        if !is_free(day.ends - 1) {
            return day.ends;
        }
        let (mut not_yet, mut free) = (day.now, day.ends - 1);
        while free - not_yet > 1 {
            let middle = not_yet + (free - not_yet) / 2;
            if is_free(middle) { free = middle } else { not_yet = middle }
        }
        free
    }

    /// Goes on with what was used of another date.
    fn begin(&mut self, date: i32) {
        if date == self.date {
            return;
        }
        let known = self.others.iter().position(|other| other.date == date).map(|at| self.others.remove(at).used);
        let mut known = known.unwrap_or_default().into_iter();
        let used = self
            .services
            .iter_mut()
            .map(|one| std::mem::replace(&mut one.used, known.next().unwrap_or_default()))
            .collect();
        self.others.push(OtherDate { date: std::mem::replace(&mut self.date, date), used });
        if self.others.len() > OTHER_DATES {
            self.others.remove(0);
        }
        self.plan = Plan::default();
    }

    fn refresh(&mut self, limit: u64, day: &DayView) {
        let released = self.released(limit, day);
        let step = limit / STEPS;
        if limit == self.plan.limit && released >= self.plan.released && released - self.plan.released <= step {
            return;
        }
        let mut plan = Plan { limit, released, ..Plan::default() };
        for service in &self.services {
            plan.owed += service.is_owed(released);
            match service.share {
                0 => plan.unshared += service.used.units,
                share => plan.shares += share,
            }
        }
        self.plan = plan;
    }

    fn owed_to_others(&self, member: usize) -> u128 {
        self.plan.owed.saturating_sub(self.owed_to(member))
    }

    /// What a service is owed if nothing has been lent.
    fn owed_to(&self, member: usize) -> u128 {
        self.services[member].is_owed(self.plan.released)
    }
}

/// Units of a day of `limit` that those without a share may use together, whatever the others do.
pub(super) fn least_unshared(limit: u64, shares: u64) -> u64 {
    part_rounded_up(limit, COMMON).max(limit.saturating_sub(part(limit, shares)))
}

fn fine(units: u64) -> u128 {
    u128::from(units) * FINE
}

/// A part of `whole`, rounded down.
pub(super) fn part(whole: u64, share: u64) -> u64 {
    (u128::from(whole) * u128::from(share) / u128::from(WHOLE)) as u64
}

/// A part of `whole`, rounded up.
fn part_rounded_up(whole: u64, share: u64) -> u64 {
    (u128::from(whole) * u128::from(share)).div_ceil(u128::from(WHOLE)) as u64
}
