//! Promises of shares of the day.

use proptest::prelude::*;

use super::*;
use crate::admission::share::fixed;

/// Takes as much as the service may have. Returns how much that was.
fn take_all(shares: &mut DayShares, member: usize, day: &mut DayView) -> u64 {
    let before = day.used;
    while shares.permits(member, 1, day).is_ok() {
        shares.take(member, 1, day.date);
        day.used += 1;
    }
    day.used - before
}

/// A day of `limit` units, before its last hour.
fn day(limit: u64) -> DayView {
    DayView { date: 7, starts: 0, ends: 86_400_000, now: 0, used: 0, limit: Some(limit) }
}

/// A service borrows what it may. A second one wakes before a third one, and uses all that it gets.
#[test]
fn what_is_kept_for_one_is_not_lent_to_another_that_uses_its_own() {
    for minutes in [60, 45, 30, 16, 1] {
        for before in [&[][..], &[1], &[2], &[1, 2], &[2, 1], &[0, 1, 0, 2, 1]] {
            let mut shares = DayShares::default();
            [0.0, 0.4, 0.3, 0.3].into_iter().enumerate().for_each(|(member, share)| shares.set(member, fixed(share)));
            let mut day = day(1_000);
            day.now = day.ends - minutes * 60_000;
            for member in before {
                take_all(&mut shares, *member, &mut day);
            }
            let got = take_all(&mut shares, 3, &mut day);
            let least = 300 * minutes as u64 / 60;
            // Those without a share may always use a fiftieth.
            let common = if before.contains(&0) { 20 } else { 0 };
            assert!(got + common >= least, "{minutes} minutes before midnight, after {before:?}: {got} of {least}");
            assert!(before.is_empty() || got <= least + 1, "the others borrowed: {got} of {least}");
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Minutes.
    Pass(i64),
    Take(usize, u32),
    /// Takes, and gives back.
    Leave(usize, u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let member = 0..6_usize;
    prop::collection::vec(
        prop_oneof![
            (0..12_i64).prop_map(Step::Pass),
            (member.clone(), 1..200_u32).prop_map(|(member, units)| Step::Take(member, units)),
            (member, 1..50_u32).prop_map(|(member, units)| Step::Leave(member, units)),
        ],
        1..40,
    )
}

proptest! {
    /// Whatever the services do in the last hours, and whatever the order: if all of those with a share ask at some instant,
    /// each gets what it had not used before the last hour, as much of it as is kept at that instant, less what it has used of that
    /// since. And nothing is left at the end.
    #[test]
    fn each_gets_what_is_kept_for_it_whatever_the_others_do(
        parts in prop::collection::vec(0..100_u32, 5),
        limit in 10..2_000_u64,
        steps in steps(),
        order in Just(vec![1_usize, 2, 3, 4, 5]).prop_shuffle(),
    ) {
        let mut shares = DayShares::default();
        shares.set(0, 0);
        let sum = parts.iter().sum::<u32>().max(1);
        for (member, part) in (1..).zip(&parts) {
            shares.set(member, fixed(f64::from(*part) / f64::from(sum)));
        }
        let mut day = day(limit);
        day.now = day.ends - 2 * LENT_LAST;
        // What is kept for each if all that may be lent is lent, in units of the last hour's begin.
        let mut kept = [0.0; 6];
        (1..6).for_each(|member| kept[member] = part(limit, shares.services[member].share) as f64);
        for step in steps {
            let kept_part = ((day.ends - day.now) as f64 / LENT_LAST as f64).min(1.0);
            match step {
                Step::Pass(minutes) => day.now = (day.now + minutes * 60_000).min(day.ends - 1),
                Step::Leave(member, units) => {
                    if shares.permits(member, units, &day).is_ok() {
                        let taken = shares.take(member, units, day.date);
                        shares.give_back(member, taken);
                    }
                }
                Step::Take(member, units) => {
                    if shares.permits(member, units, &day).is_ok() {
                        shares.take(member, units, day.date);
                        day.used += u64::from(units);
                        kept[member] -= f64::from(units) / kept_part;
                    }
                }
            }
            let kept_part = ((day.ends - day.now) as f64 / LENT_LAST as f64).min(1.0);
            let common = part_rounded_up(limit, COMMON) as f64;
            let (mut shares, mut day) = (shares.clone(), day);
            for member in &order {
                let least = (kept[*member] * kept_part).floor() - common - 5.0;
                let got = take_all(&mut shares, *member, &mut day);
                prop_assert!(got as f64 >= least, "{member}: {got} of {least}");
            }
            for member in order.iter().chain([&0]) {
                take_all(&mut shares, *member, &mut day);
            }
            prop_assert_eq!(day.used, limit);
        }
    }
}

/// The clock is three days ahead for a while. Meanwhile a unit of today comes back, and one of the other date is used.
#[test]
fn a_clock_that_jumps_ahead_and_back_gives_no_service_its_share_anew() {
    let today = DayView { date: 7, starts: 0, ends: 86_400_000, now: 0, used: 5, limit: Some(10) };
    let mut shares = DayShares::default();
    shares.set(1, fixed(0.5));
    shares.set(2, fixed(0.5));
    shares.take(1, 4, 7);
    let taken = shares.take(1, 1, 7);
    let ahead = DayView { date: 10, used: 0, ..today };
    assert!(shares.permits(1, 5, &ahead).is_ok());
    shares.take(1, 1, 10);
    assert!(shares.permits(1, 1, &today).is_err(), "it has used its share");
    assert!(shares.permits(1, 5, &DayView { used: 1, ..ahead }).is_err());
    shares.give_back(1, taken);
    assert!(shares.permits(1, 1, &DayView { used: 4, ..today }).is_ok());
    assert!(shares.permits(1, 2, &DayView { used: 4, ..today }).is_err());
    // Other days are forgotten.
    for date in 11..20 {
        shares.take(1, 1, date);
    }
    assert_eq!(shares.others.len(), OTHER_DATES);
}

/// Two services share a day of ten units, of which one has used its five before a restart.
#[test]
fn a_restart_gives_no_service_its_share_anew() {
    let day = DayView { date: 7, starts: 0, ends: 86_400_000, now: 0, used: 5, limit: Some(10) };
    // What is not known to be the first one's is missing to both in proportion.
    for (restored, is_permitted, other) in [(5, false, 5), (4, true, 5), (0, true, 3)] {
        let mut shares = DayShares::default();
        shares.set(1, fixed(0.5));
        shares.set(2, fixed(0.5));
        shares.restore(1, restored, 7);
        assert_eq!(shares.permits(1, 1, &day).is_ok(), is_permitted, "{restored}");
        assert!(shares.permits(2, other, &day).is_ok());
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

/// Two services sleep, one of them with a quota below its share; a third is never content. Whenever the two wake, each
/// gets all that it can use of its share, or what is kept of it, and from the start on the third has got all the rest.
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
        let expected = if half_hours < 47 { [400, 300] } else { [200, 150] };
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
    shares.take(0, 15, 7);
    let taken = shares.take(0, 5, 7);
    shares.give_back(0, taken);
    day.used = 515;
    assert!(shares.permits(0, 5, &day).is_ok() && shares.permits(0, 6, &day).is_err());
    assert!(shares.permits(2, 485, &day).is_ok());
}
