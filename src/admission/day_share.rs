//! What each service is guaranteed of an account's day, and how far the day's spending may run ahead of the clock.
//!
//! A service is guaranteed its share of the day's budget whenever it asks, so a borrower leaves what the others have
//! not used of theirs: units that are lent do not come back. What a service cannot use, because its own quota of the
//! day is smaller, is lent from the start. In the last part of the day ([`LENT_LAST`]) what is left of the guarantees
//! is lent, step by step, so that nothing is lost at midnight. Those without a share, the gateway's background calls
//! among them, may use a small part of the day ([`COMMON`]) at any time while it is not used up, even if the shares add
//! up to 1. With pacing, all of this applies to the part of the budget that the clock has released so far.
//!
//! Always holds: a decision takes constant time; the sum of what is owed to the services is computed anew only when the
//! budget, a share or the date changes, or when the clock has released a [`STEPS`]th more. Never takes anything itself:
//! the account's day counter does, and it alone is exact. Pure. Fails with [`DayRefused`].

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

#[derive(Debug, Default)]
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
    /// Units used.
    used: u64,
}

impl Default for DayPart {
    fn default() -> Self {
        DayPart { share: 0, most: u64::MAX, used: 0 }
    }
}

impl DayPart {
    /// What it has not used of its part of `released`, as far as it can use it.
    fn is_owed(&self, released: u64) -> u64 {
        self.guaranteed(released).saturating_sub(self.used)
    }

    fn guaranteed(&self, released: u64) -> u64 {
        part(released, self.share).min(self.most)
    }
}

/// What services have used of a date that is not current.
#[derive(Debug)]
struct OtherDate {
    date: i32,
    /// Units, by number of the service.
    used: Vec<u64>,
}

/// What was computed last.
#[derive(Clone, Copy, Debug, Default)]
struct Plan {
    limit: u64,
    /// Units released, of `limit`.
    released: u64,
    /// What all services together have not used of their parts of `released`.
    owed: u64,
    /// Shares of all, of [`WHOLE`].
    shares: u64,
    /// Units that those without a share have used.
    unshared: u64,
}

/// The counts of the day if a service took the units that it asks for.
struct CountsAfter {
    day: u64,
    own: DayPart,
    /// Of those without a share.
    unshared: u64,
}

impl CountsAfter {
    fn are_guaranteed(&self, released: u64) -> bool {
        self.own.used <= self.own.guaranteed(released)
    }

    /// `kept`: what a borrower must leave of `released`.
    fn are_allowed(&self, released: u64, kept: u64) -> bool {
        let common = || self.own.share == 0 && self.unshared <= part_rounded_up(released, COMMON);
        let lent = || self.day <= released.saturating_sub(kept);
        self.day <= released && (self.are_guaranteed(released) || common() || lent())
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
        let others = self.unshared(date) - self.services[GATEWAY].used;
        self.count(GATEWAY, |used| used.max(units.saturating_sub(others)));
    }

    /// What a service has used of `date`.
    pub(super) fn used(&mut self, member: usize, date: i32) -> u64 {
        self.begin(date);
        self.services[member].used
    }

    /// What those without a share have used of `date`.
    pub(super) fn unshared(&mut self, date: i32) -> u64 {
        self.begin(date);
        self.services.iter().filter(|service| service.share == 0).map(|service| service.used).sum()
    }

    /// What a service has used of `date` before the start.
    pub(super) fn restore(&mut self, member: usize, units: u64, date: i32) {
        self.begin(date);
        self.count(member, |used| used.max(units));
    }

    /// Counts units of `date`.
    pub(super) fn take(&mut self, member: usize, units: u32, date: i32) {
        self.begin(date);
        self.count(member, |used| used + u64::from(units));
    }

    /// Gives units of `date` back.
    pub(super) fn give_back(&mut self, member: usize, units: u32, date: i32) {
        if date == self.date {
            self.count(member, |used| used.saturating_sub(u64::from(units)));
        } else if let Some(used) =
            self.others.iter_mut().find(|it| it.date == date).and_then(|it| it.used.get_mut(member))
        {
            *used = used.saturating_sub(u64::from(units));
        }
    }

    fn count(&mut self, member: usize, change: impl FnOnce(u64) -> u64) {
        let (owed, used) = (self.owed_to(member), self.services[member].used);
        self.services[member].used = change(used);
        self.plan.owed = self.plan.owed.saturating_sub(owed) + self.owed_to(member);
        if self.services[member].share == 0 {
            self.plan.unshared = self.plan.unshared.saturating_sub(used) + self.services[member].used;
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
        let (counts, released) = (self.counts(member, units, day), self.released(limit, day));
        if counts.are_allowed(released, self.kept(self.owed_to_others(member), day)) {
            return Ok(());
        }
        let own_share_used = counts.own.share > 0 && !counts.are_guaranteed(released);
        Err(DayRefused { free_at: self.free_at(member, &counts, day), own_share_used })
    }

    fn counts(&self, member: usize, units: u32, day: &DayView) -> CountsAfter {
        let units = u64::from(units);
        CountsAfter {
            day: day.used.saturating_add(units),
            own: DayPart { used: self.services[member].used + units, ..self.services[member] },
            unshared: self.plan.unshared + units,
        }
    }

    /// What a borrower leaves of what the others are owed: less and less in the last part of the day.
    fn kept(&self, owed: u64, day: &DayView) -> u64 {
        let use_up = u128::from(self.plan.limit) * u128::from(self.period) / 1_000_000;
        let last = i64::try_from(use_up).unwrap_or(i64::MAX).max(LENT_LAST);
        let left = (day.ends - day.now).clamp(0, last);
        (i128::from(owed) * i128::from(left) / i128::from(last)) as u64
    }

    /// Units that the clock has released of `limit`.
    fn released(&self, limit: u64, day: &DayView) -> u64 {
        let Some(pace) = self.pace else { return limit };
        let length = i128::from((day.ends - day.starts).max(1));
        let elapsed = i128::from((day.now - day.starts).max(0)) * i128::from(WHOLE) / length;
        let released = (elapsed + i128::from(pace)).min(i128::from(WHOLE));
        part(limit, released as u64)
    }

    /// When the service may reach `counts`: the earliest instant at which nothing forbids it, if nobody takes anything
    /// before. By bisection, because several things change with time.
    fn free_at(&self, member: usize, counts: &CountsAfter, day: &DayView) -> i64 {
        let limit = day.limit.unwrap_or(u64::MAX);
        let others = self.owed_to_others(member);
        let others_share = self.plan.shares.saturating_sub(counts.own.share);
        let is_free = |now: i64| {
            let at = DayView { now, ..*day };
            let released = self.released(limit, &at);
            // What the clock releases meanwhile is owed to the others in part, at most.
            let owed = others + part(released.saturating_sub(self.plan.released), others_share);
            counts.are_allowed(released, self.kept(owed, &at))
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
        let used =
            self.services.iter_mut().map(|one| std::mem::replace(&mut one.used, known.next().unwrap_or(0))).collect();
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
                0 => plan.unshared += service.used,
                share => plan.shares += share,
            }
        }
        self.plan = plan;
    }

    fn owed_to_others(&self, member: usize) -> u64 {
        self.plan.owed.saturating_sub(self.owed_to(member))
    }

    /// What a service has not used of its part.
    fn owed_to(&self, member: usize) -> u64 {
        self.services[member].is_owed(self.plan.released)
    }
}

/// Units of a day of `limit` that those without a share may use together, whatever the others do.
pub(super) fn least_unshared(limit: u64, shares: u64) -> u64 {
    part_rounded_up(limit, COMMON).max(limit.saturating_sub(part(limit, shares)))
}

/// A part of `whole`, rounded down.
pub(super) fn part(whole: u64, share: u64) -> u64 {
    (u128::from(whole) * u128::from(share) / u128::from(WHOLE)) as u64
}

/// A part of `whole`, rounded up.
fn part_rounded_up(whole: u64, share: u64) -> u64 {
    (u128::from(whole) * u128::from(share)).div_ceil(u128::from(WHOLE)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::share::fixed;

    /// The clock is three days ahead for a while. Meanwhile a unit of today comes back, and one of the other date is used.
    #[test]
    fn a_clock_that_jumps_ahead_and_back_gives_no_service_its_share_anew() {
        let today = DayView { date: 7, starts: 0, ends: 86_400_000, now: 0, used: 5, limit: Some(10) };
        let mut shares = DayShares::default();
        shares.set(1, fixed(0.5));
        shares.set(2, fixed(0.5));
        shares.take(1, 5, 7);
        let ahead = DayView { date: 10, used: 0, ..today };
        assert!(shares.permits(1, 5, &ahead).is_ok());
        shares.take(1, 1, 10);
        assert!(shares.permits(1, 1, &today).is_err(), "it has used its share");
        assert!(shares.permits(1, 5, &DayView { used: 1, ..ahead }).is_err());
        shares.give_back(1, 1, 7);
        assert!(shares.permits(1, 1, &DayView { used: 4, ..today }).is_ok());
        assert!(shares.permits(1, 2, &DayView { used: 4, ..today }).is_err());
        // Other days are forgotten.
        (11..20).for_each(|date| shares.take(1, 1, date));
        assert_eq!(shares.others.len(), OTHER_DATES);
    }

    /// Two services share a day of ten units, of which one has used its five before a restart.
    #[test]
    fn a_restart_gives_no_service_its_share_anew() {
        let day = DayView { date: 7, starts: 0, ends: 86_400_000, now: 0, used: 5, limit: Some(10) };
        for (restored, is_permitted) in [(5, false), (4, true), (0, true)] {
            let mut shares = DayShares::default();
            shares.set(1, fixed(0.5));
            shares.set(2, fixed(0.5));
            shares.restore(1, restored, 7);
            assert_eq!(shares.permits(1, 1, &day).is_ok(), is_permitted, "{restored}");
            assert!(shares.permits(2, 5, &day).is_ok());
            let tomorrow = DayView { date: 8, used: 0, ..day };
            assert!(shares.permits(1, 1, &tomorrow).is_ok());
        }
    }

    /// Services whose shares add up to 1 or less, and two members without one. The first to come are those without.
    #[test]
    fn idle_shares_leave_something_to_those_without_and_cost_their_owners_a_fiftieth_at_most() {
        let sums: [&[f64]; 6] = [&[0.5, 0.5], &[1.0], &[0.9, 0.1], &[0.34, 0.33, 0.33], &[0.49, 0.49], &[0.2, 0.1]];
        for (services, limit) in sums.iter().flat_map(|services| [10, 100, 4_000, 100_000].map(|it| (*services, it))) {
            for pace in [None, Some(0.25)] {
                let mut shares = DayShares::default();
                shares.configure(pace, 0);
                shares.set(0, 0);
                shares.set(1, 0);
                (2..).zip(services).for_each(|(member, share)| shares.set(member, fixed(*share)));
                let mut day = DayView { date: 7, starts: 0, ends: 86_400_000, now: 0, used: 0, limit: Some(limit) };
                let mut take_all = |member: usize, day: &mut DayView| {
                    let before = day.used;
                    while let Ok(()) = shares.permits(member, 1, day) {
                        shares.take(member, 1, 7);
                        day.used += 1;
                    }
                    let refused = shares.permits(member, 1, day).expect_err("the last was refused");
                    assert!(refused.free_at > day.now, "{refused:?}");
                    day.used - before
                };
                let released = if pace.is_some() { limit / 4 } else { limit };
                let free = released - services.iter().map(|share| part(released, fixed(*share))).sum::<u64>();
                let common = part_rounded_up(released, COMMON);
                let got = take_all(0, &mut day) + take_all(1, &mut day);
                assert_eq!(got, free.max(common), "{services:?} of {limit}");
                // Each can still use its share, but what those without have used beyond what was free.
                let due: u64 = services.iter().map(|share| part(released, fixed(*share))).sum();
                let got: u64 = (2..2 + services.len()).map(|member| take_all(member, &mut day)).sum();
                assert_eq!(got, due - common.saturating_sub(free), "{services:?} of {limit}");
                assert_eq!(day.used, released);
            }
        }
    }

    /// Two services sleep, one of them with a quota below its share; a third is never content. Whenever the two wake, the
    /// first gets all that it can use, the second its share, and from the start on the third has got all the rest.
    #[test]
    fn what_an_owner_cannot_use_is_lent_at_once_and_the_rest_is_there_whenever_it_wakes() {
        for half_hours in 0..48 {
            let mut shares = DayShares::default();
            shares.set(0, 0);
            (1..).zip([0.5, 0.3, 0.2]).for_each(|(member, share)| shares.set(member, fixed(share)));
            shares.bound(1, Some(400));
            let mut day = DayView { date: 7, starts: 0, ends: 86_400_000, now: 0, used: 0, limit: Some(1_000) };
            let mut take_all = |member: usize, day: &mut DayView| {
                let before = day.used;
                while shares.permits(member, 1, day).is_ok() {
                    shares.take(member, 1, 7);
                    day.used += 1;
                }
                day.used - before
            };
            let mut lent = 0;
            for half_hour in 0..=half_hours {
                day.now = half_hour * LENT_LAST / 2;
                lent += take_all(3, &mut day);
                // In the middle of the last hour, half of what is owed is lent too.
                assert_eq!(lent, if half_hour < 47 { 300 } else { 650 });
            }
            let got = [take_all(1, &mut day), take_all(2, &mut day)];
            // Who comes first then gets the rest, up to its quota.
            let expected = if half_hours < 47 { [400, 300] } else { [350, 0] };
            assert_eq!(got, expected, "after {half_hours} half hours");
        }
    }

    /// A service that has used its share borrows nothing of what those without a share may have.
    #[test]
    fn owners_take_nothing_of_one_another_although_those_without_a_share_may() {
        let mut shares = DayShares::default();
        [0.0, 0.5, 0.5].into_iter().enumerate().for_each(|(member, share)| shares.set(member, fixed(share)));
        let mut day = DayView { date: 7, starts: 0, ends: 86_400_000, now: 0, used: 0, limit: Some(1_000) };
        assert!(shares.permits(1, 500, &day).is_ok());
        shares.take(1, 500, 7);
        day.used = 500;
        assert_eq!(shares.permits(1, 1, &day).map_err(|refused| refused.own_share_used), Err(true));
        assert!(shares.permits(0, 20, &day).is_ok() && shares.permits(0, 21, &day).is_err());
        shares.take(0, 20, 7);
        shares.give_back(0, 5, 7);
        day.used = 515;
        assert!(shares.permits(0, 5, &day).is_ok() && shares.permits(0, 6, &day).is_err());
        assert!(shares.permits(2, 485, &day).is_ok());
    }
}
