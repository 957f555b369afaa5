//! Whether an account has budget that nobody else needs, for what the gateway sends although nobody waits for it.
//!
//! For refreshes of stored responses, walks of the region tree, and the few reads about unknown orders. Always holds: a
//! check takes nothing; a call that may follow still has to spend budget like any other. Must not know what is to be sent.
//! Fails with [`NotSpare`].

use std::time::Duration;

use crate::{
    admission::{BudgetUsage, WindowUsage},
    snapshot::Account,
    upstream::breaker::State,
};

/// How often the end of what lasts longer is waited for: a failure or a pause of Fastrac's, a part of the day that is used
/// up.
pub(crate) const LONG_PAUSE: Duration = Duration::from_millis(500);

/// Why nothing is to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotSpare {
    /// Fastrac is failing.
    BreakerOpen,
    /// Calls of its class that nobody waits for fail.
    ClassFailing,
    /// Fastrac has throttled the account.
    Paused,
    /// Requests wait for the account's budget, or too little of it is left.
    Scarce,
    /// There is one place in flight that is not kept for orders: nothing may occupy it that nobody waits for.
    OnePlace,
}

impl NotSpare {
    /// After which time to look again.
    pub(crate) fn pause(self) -> Duration {
        match self {
            NotSpare::Scarce => Duration::from_millis(50),
            NotSpare::BreakerOpen | NotSpare::ClassFailing | NotSpare::Paused | NotSpare::OnePlace => LONG_PAUSE,
        }
    }
}

/// Checks that no request waits for the account's budget, and that at least half of the burst and of the places in
/// flight that are not kept for orders are left, and of the day's budget what belongs to the rest of the day ([`leaves_the_rest_of_the_day`]); and that
/// Fastrac is neither failing nor throttling.
///
/// # Errors
/// [`NotSpare`].
pub(crate) fn check(account: &Account) -> Result<(), NotSpare> {
    usage(account).map(|_| ())
}

/// The same for what nobody waits for and of which there may be much: it also needs a full bucket. A token that the bucket
/// cannot hold is lost anyway, so callers find at most `cost` tokens less. (With half a bucket left, bursts of 9 at 10/s were
/// refused beside many refreshes.) They must not lack those ([`Budget::may_spare`](crate::admission::Budget::may_spare)). And
/// half of the places in flight are left beside its own, which comes back only when the call ends.
///
/// # Errors
/// [`NotSpare`].
pub(crate) fn check_surplus(account: &Account, cost: u32) -> Result<(), NotSpare> {
    let BudgetUsage { bucket, of_others: places, .. } = usage(account)?;
    if places.limit <= 1 {
        return Err(NotSpare::OnePlace);
    }
    let is_full = bucket.is_none_or(|bucket| bucket.left >= bucket.burst);
    let leaves_places = places.left.saturating_sub(1) * 2 >= places.limit;
    if is_full && leaves_places && account.budget.may_spare(cost) { Ok(()) } else { Err(NotSpare::Scarce) }
}

/// The use of a budget of which something is spare.
fn usage(account: &Account) -> Result<BudgetUsage, NotSpare> {
    // A half-open one may be waiting for just this read.
    if account.address.breakers.worst() == State::Open {
        return Err(NotSpare::BreakerOpen);
    }
    let usage = account.budget.usage();
    if !usage.paused_for.is_zero() {
        return Err(NotSpare::Paused);
    }
    let second = usage.bucket.is_none_or(|bucket| bucket.left * 2 >= bucket.burst);
    let day = usage.windows.day.is_none_or(|day| leaves_the_rest_of_the_day(&day));
    let places = usage.of_others.left * 2 >= usage.of_others.limit;
    if usage.waiting == 0 && second && day && places { Ok(usage) } else { Err(NotSpare::Scarce) }
}

/// Time in which the account's budget of the day spares so many units, if callers use no more than their part of it;
/// `None`: never.
pub(crate) fn days_spare_after(account: &Account, units: u64) -> Option<Duration> {
    account.budget.usage().windows.day.map_or(Some(Duration::ZERO), |day| spares_after(&day, units))
}

const DAY_SECONDS: u64 = 24 * 3600;

/// Whether as much is left of the day's budget as of the day: units of a day do not come back, and what is used up early
/// is missed until midnight. A tenth may be used at any time, and the last tenth is the callers'.
fn leaves_the_rest_of_the_day(day: &WindowUsage) -> bool {
    of_day(day.left) >= of_the_rest(day)
}

/// Units of a day, for each of its seconds.
fn of_day(units: u64) -> u128 {
    u128::from(units) * u128::from(DAY_SECONDS)
}

/// The same of what belongs to the rest of the day.
fn of_the_rest(day: &WindowUsage) -> u128 {
    let rest = day.resets_in.clamp(DAY_SECONDS / 10, DAY_SECONDS - DAY_SECONDS / 10);
    u128::from(day.limit) * u128::from(rest)
}

fn spares_after(day: &WindowUsage, units: u64) -> Option<Duration> {
    // A day's budget becomes spare in a day.
    let missing = (of_day(units) + of_the_rest(day)).saturating_sub(of_day(day.left));
    let seconds = missing.checked_div(u128::from(day.limit))?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_days_budget_is_spare_as_far_as_it_is_ahead_of_the_day() {
        let spare = |left, hours: u64| leaves_the_rest_of_the_day(&WindowUsage::of(1_000, left, hours * 3600));
        // At midnight, a tenth; at noon, what is above a half; in the last hours, all but a tenth.
        for (hours, needed) in [(24, 900), (22, 900), (12, 500), (6, 250), (1, 100), (0, 100)] {
            assert!(spare(needed, hours) && !spare(needed - 1, hours), "{hours} h before midnight");
        }
        assert!(leaves_the_rest_of_the_day(&WindowUsage::of(u64::MAX, u64::MAX, DAY_SECONDS)));
    }

    #[test]
    fn the_days_budget_spares_its_part_of_an_hour_in_an_hour() {
        let hours = |left, resets_in: u64, units| {
            spares_after(&WindowUsage::of(2_400, left, resets_in * 3600), units).map(|time| time.as_secs_f64() / 3600.0)
        };
        assert_eq!(hours(1_200, 12, 100), Some(1.0));
        assert_eq!(hours(1_500, 12, 100), Some(0.0), "300 are spare");
        assert_eq!(hours(1_500, 12, 700), Some(4.0));
        assert_eq!(hours(0, 12, 4_800), Some(60.0), "two days of it, behind callers who are half a day ahead");
        assert_eq!(spares_after(&WindowUsage::of(0, 0, 3600), 1), None);
    }
}
