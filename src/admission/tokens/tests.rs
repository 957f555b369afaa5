//! The token bucket against a plain model that computes everything from the start.

use proptest::prelude::*;

use super::*;

/// Something that happened to the bucket.
#[derive(Clone, Copy, Debug)]
enum Step {
    Take(u32),
    Rate(Rate),
    EmptyUntil(u64),
}

/// What may be taken at `now`, of a bucket that was full at 0, after these steps: tokens that come back one by one.
fn free(first: Rate, steps: &[(u64, Step)], now: u64) -> f64 {
    let (mut rate, mut at) = (first, 0);
    let mut level = f64::from(rate.burst);
    let fill = |level: f64, rate: Rate, nanos: u64| {
        (level + nanos as f64 / FillRate::of(rate).period as f64).min(f64::from(rate.burst))
    };
    for (then, step) in steps.iter().chain([&(now, Step::Take(0))]) {
        // In an account's bucket nothing is taken before it begins to fill again.
        level = fill(level, rate, then.saturating_sub(at));
        at = at.max(*then);
        match step {
            Step::Take(tokens) => level -= f64::from(*tokens),
            Step::Rate(new) => {
                rate = *new;
                level = level.min(f64::from(rate.burst));
            }
            Step::EmptyUntil(until) => (level, at) = (0.0, *until),
        }
    }
    level
}

proptest! {
    /// In every window of length T at most burst + T × rate are kept, what is given back is as if it had never been
    /// taken, and what is refused would have been too much: also while the rate changes and the bucket is emptied.
    #[test]
    fn never_over_admits_in_any_window(
        first in (1_u32..200, 1_u32..100),
        steps in prop::collection::vec((0_u64..200_000, 1_u32..4, 0_u8..4, 0_usize..32), 1..200),
        rates in prop::collection::vec((1_u32..200, 1_u32..100), 8),
        changes: bool,
    ) {
        let rate = |(per_second, burst)| Rate { per_second, burst };
        let mut tokens = Tokens::full(FillRate::of(rate(first)));
        let (mut now, mut done, mut undecided) = (0, Vec::new(), Vec::<(usize, u64)>::new());
        for (micros, cost, fate, decide) in steps {
            now += micros * 1_000;
            if decide < undecided.len() {
                let (index, number) = undecided.swap_remove(decide);
                tokens.decide(number, decide % 2 == 0);
                if decide % 2 == 1 { done[index] = (done_at(&done, index), Step::Take(0)) }
            }
            if changes && decide >= 24 {
                let new = rate(rates[decide - 24]);
                tokens.refill(FillRate::of(new), now);
                done.push((now, Step::Rate(new)));
            } else if changes && decide == 23 {
                let until = now + micros * 500;
                tokens.empty(until);
                done.push((now, Step::EmptyUntil(until)));
                now = until;
            }
            let left = free(rate(first), &done, now);
            // Each change of the rate rounds down by less than a nanosecond.
            prop_assert!((tokens.level(now) as f64 / tokens.fill().period as f64 - left).abs() < 1e-3);
            let burst = tokens.fill().capacity / tokens.fill().period;
            match tokens.take(cost, now) {
                Ok(number) => {
                    prop_assert!(left + 1e-3 >= f64::from(cost), "took {cost} of {left}");
                    done.push((now, Step::Take(cost)));
                    match fate {
                        0 => tokens.decide(number, true),
                        1 => {
                            tokens.decide(number, false);
                            done.pop();
                        }
                        _ => undecided.push((done.len() - 1, number)),
                    }
                }
                Err(InsufficientTokens::Never) => prop_assert!(u64::from(cost) > burst),
                Err(InsufficientTokens::Until(wait)) => {
                    prop_assert!(left - 1e-3 < f64::from(cost), "refused {cost} of {left}");
                    let worth = tokens.fill().worth(u64::from(cost));
                    prop_assert_eq!(wait.as_nanos() as u64, tokens.due_in(worth, now));
                }
            }
        }
        if !changes {
            within_windows(rate(first), &done);
        }
    }
}

fn done_at(done: &[(u64, Step)], index: usize) -> u64 {
    done[index].0
}

fn within_windows(rate: Rate, done: &[(u64, Step)]) {
    for (i, (from, _)) in done.iter().enumerate() {
        let mut sum = 0.0;
        for (until, step) in &done[i..] {
            let Step::Take(tokens) = step else { continue };
            sum += f64::from(*tokens);
            let window = (until - from) as f64 / 1e9;
            assert!(sum <= f64::from(rate.burst) + window * f64::from(rate.per_second) + 1e-6);
        }
    }
}

#[test]
fn a_change_of_the_rate_grants_no_burst() {
    let mut tokens = Tokens::full(FillRate::of(Rate { per_second: 10, burst: 10 }));
    tokens.take(8, 0).unwrap();
    tokens.refill(FillRate::of(Rate { per_second: 100, burst: 100 }), 0);
    assert_eq!((tokens.left(0), tokens.left(SECOND / 2), tokens.left(2 * SECOND)), (2, 52, 100));
    tokens.refill(FillRate::of(Rate { per_second: 5, burst: 5 }), 2 * SECOND);
    assert_eq!(tokens.left(2 * SECOND), 5);
}
