//! What a token bucket holds when it is created, and what is recorded of one at a clean stop.
//!
//! What always holds: of the processes that follow each other, no window of length T gets more than `burst + T × rate`. A
//! bucket whose previous use is unknown begins as if it had just been used up. Pure.

use std::time::Duration;

use super::{
    learned::{ALL, climbed},
    tokens::FillRate,
};

/// A bucket at the end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketMark {
    /// Whole tokens that it held.
    pub tokens: u64,
    /// The part of the configured rate at which it filled, in millionths.
    pub rate_part: u32,
    /// Rest of a pause that Fastrac had imposed; zero if there was none.
    pub paused_for: Duration,
}

impl BucketMark {
    /// What of it holds `later`, if the bucket has just been used up then and there was no limit response since: the rest
    /// of the pause, and the rate, which climbs after it.
    pub fn used_up_after(self, later: Duration) -> Self {
        let climbs_for = later.saturating_sub(self.paused_for);
        let rate_part = climbed(self.rate_part, climbs_for);
        BucketMark { tokens: 0, rate_part, paused_for: self.paused_for.saturating_sub(later) }
    }

    /// Whether a limit response still has an effect.
    pub fn is_limited(&self) -> bool {
        self.rate_part < ALL || !self.paused_for.is_zero()
    }
}

/// What a bucket begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BucketStart {
    /// It was never used: it is full.
    #[default]
    Unused,
    /// It was as in the mark so long ago, and unused since.
    Recorded { mark: BucketMark, age: Duration },
    /// It may have been used up so long ago.
    Unknown { age: Duration },
}

impl BucketStart {
    /// Nanoseconds after which the bucket is full.
    pub(super) fn full_in(self, fill: FillRate) -> u64 {
        let (tokens, age) = match self {
            BucketStart::Unused => return 0,
            BucketStart::Recorded { mark, age } => (mark.tokens, age.saturating_sub(mark.paused_for)),
            BucketStart::Unknown { age } => (0, age),
        };
        let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        fill.capacity.saturating_sub(fill.worth(tokens)).saturating_sub(age)
    }

    /// The part of the configured rate, in millionths, and the rest of a pause, nanoseconds.
    pub(super) fn learned(self) -> Option<(u32, u64)> {
        let BucketStart::Recorded { mark, age } = self else { return None };
        let BucketMark { rate_part, paused_for, .. } = mark.used_up_after(age);
        Some((rate_part, u64::try_from(paused_for.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        admission::tokens::{InsufficientTokens, Tokens},
        config::Rate,
    };

    const SECOND: u64 = 1_000_000_000;

    fn nanos(nanos: u64) -> Duration {
        Duration::from_nanos(nanos)
    }

    proptest! {
        /// Over restarts and kills, every window of length T gets at most burst + T × rate; what a clean restart refuses,
        /// one process would have refused too, but for one token.
        #[test]
        fn processes_that_follow_each_other_grant_no_more_than_one(
            rate in (1_u32..50, 1_u32..50),
            steps in prop::collection::vec((0_u64..SECOND, 1_u32..6, 0_u8..24), 1..200),
        ) {
            let rate = Rate { per_second: rate.0, burst: rate.1 };
            let fill = FillRate::of(rate);
            // `began`: the start of the process, whose clock begins at zero.
            let (mut tokens, mut one, mut began, mut now) = (Tokens::full(fill), Tokens::full(fill), 0, 0);
            let mut taken: Vec<(u64, u32)> = Vec::new();
            let mut restarts = 0;
            for (later, cost, what) in steps {
                now += later;
                let start = match what {
                    0 => Some(BucketStart::Unknown { age: nanos(later / 2) }),
                    1 => {
                        let mark = BucketMark { tokens: tokens.left(now - began), rate_part: 1_000_000, paused_for: nanos(0) };
                        now += later;
                        restarts += 1;
                        Some(BucketStart::Recorded { mark, age: nanos(later) })
                    }
                    _ => None,
                };
                if let Some(start) = start {
                    if what == 0 {
                        // It was used up at its end.
                        let left = tokens.left(now - began) as u32;
                        prop_assert!(left == 0 || tokens.take(left, now - began).is_ok());
                        taken.push((now, left));
                        one.empty(now);
                        restarts = 0;
                        now += later / 2;
                    }
                    began = now;
                    tokens = Tokens::full(fill);
                    tokens.fill_until(start.full_in(fill));
                }
                let alone = one.left(now);
                match tokens.take(cost, now - began) {
                    Ok(_) => {
                        taken.push((now, cost));
                        prop_assert!(one.take(cost, now).is_ok());
                    }
                    Err(InsufficientTokens::Never) => {}
                    Err(InsufficientTokens::Until(_)) => prop_assert!(alone < u64::from(cost) + restarts),
                }
            }
            for (i, (from, _)) in taken.iter().enumerate() {
                let mut sum = 0.0;
                for (until, tokens) in &taken[i..] {
                    sum += f64::from(*tokens);
                    let window = (until - from) as f64 / 1e9;
                    prop_assert!(sum <= f64::from(rate.burst) + window * f64::from(rate.per_second) + 1e-6);
                }
            }
        }
    }

    #[test]
    fn a_pause_goes_on_and_the_bucket_fills_after_it() {
        let fill = FillRate::of(Rate { per_second: 10, burst: 20 });
        let mark = BucketMark { tokens: 0, rate_part: 500_000, paused_for: nanos(5 * SECOND) };
        let after = |seconds| BucketStart::Recorded { mark, age: nanos(seconds * SECOND) };
        assert_eq!(after(2).learned(), Some((500_000, 3 * SECOND)));
        assert_eq!(
            [14, 15, 26, 600].map(|seconds| after(seconds).learned()),
            [5, 6, 7, 10].map(|tenths| Some((tenths * 100_000, 0)))
        );
        assert_eq!((after(2).full_in(fill), after(6).full_in(fill), after(9).full_in(fill)), (2 * SECOND, SECOND, 0));
        assert_eq!((BucketStart::Unused.full_in(fill), BucketStart::Unused.learned()), (0, None));
    }
}
