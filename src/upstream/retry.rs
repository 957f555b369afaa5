//! Second attempts after failures: how many an account may make, and how long each waits.
//!
//! Which failures a second attempt may follow is a column of the table of outcomes. What always holds: in any period, an
//! account makes at most [`RESERVE`] second attempts and its fraction (`retries`) of the first attempts that may be
//! repeated, so that they do not multiply the load on a Fastrac that fails; one that is scheduled counts until it is
//! dropped without having begun. Must not know requests. Cannot fail.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Pause before a second attempt, on average: long enough for a restart behind a load balancer. The actual one is at
/// random between half of it and one and a half, so that requests that failed together do not return together.
const PAUSE: Duration = Duration::from_millis(50);

/// The longest pause that Fastrac may ask for (`Retry-After`): a caller with less patience than Fastrac is better served by
/// the first response, which says the same.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Second attempts that need no first attempts before them, and the most that can be saved up.
const RESERVE: u64 = 10;

/// One second attempt.
const ONE: u64 = 1_000_000;

/// How many second attempts an account may make.
#[derive(Debug)]
pub struct RetryBudget {
    /// What is left, in millionths of an attempt.
    left: AtomicU64,
    /// What a first attempt adds, in millionths; 0: there are no second attempts.
    earned: AtomicU64,
}

impl RetryBudget {
    /// A full one. `fraction`: second attempts per first attempt, 0 to 1.
    pub fn new(fraction: f64) -> Self {
        RetryBudget { left: AtomicU64::new(RESERVE * ONE), earned: AtomicU64::new(millionths(fraction)) }
    }

    /// Takes a new fraction; what is left is kept.
    pub fn reconfigure(&self, fraction: f64) {
        self.earned.store(millionths(fraction), Relaxed);
    }

    /// A first attempt that may be repeated is made.
    pub(crate) fn earn(&self) {
        self.add(self.earned.load(Relaxed));
    }

    fn add(&self, millionths: u64) {
        // A full one, the usual case, is only read.
        let add = |left: u64| (left < RESERVE * ONE).then(|| (left + millionths).min(RESERVE * ONE));
        let _ = self.left.fetch_update(Relaxed, Relaxed, add);
    }

    /// Takes one second attempt, if there is one.
    pub(crate) fn take(self: &Arc<Self>) -> Option<RetryToken> {
        let take = |left: u64| left.checked_sub(ONE);
        let is_taken = self.earned.load(Relaxed) > 0 && self.left.fetch_update(Relaxed, Relaxed, take).is_ok();
        is_taken.then(|| RetryToken { budget: self.clone(), has_begun: false })
    }

    /// Second attempts that may be made at once.
    pub fn left(&self) -> u64 {
        if self.earned.load(Relaxed) > 0 { self.left.load(Relaxed) / ONE } else { 0 }
    }
}

fn millionths(fraction: f64) -> u64 {
    // A fraction that is not zero allows some.
    if fraction > 0.0 { ((fraction * ONE as f64).round() as u64).clamp(1, ONE) } else { 0 }
}

/// One second attempt, which goes back unless it begins.
#[derive(Debug)]
#[must_use = "dropping it gives it back"]
pub(crate) struct RetryToken {
    budget: Arc<RetryBudget>,
    has_begun: bool,
}

impl RetryToken {
    /// The attempt begins.
    pub(crate) fn spend(mut self) {
        self.has_begun = true;
    }
}

impl Drop for RetryToken {
    fn drop(&mut self) {
        if !self.has_begun {
            self.budget.add(ONE);
        }
    }
}

/// The pause before a second attempt, at random, and at least as long as Fastrac says (`Retry-After`); `None` if that is
/// too long.
pub(crate) fn pause(named: Option<Duration>) -> Option<Duration> {
    let pause = PAUSE.mul_f64(0.5 + fastrand::f64());
    let named = named.unwrap_or_default();
    (named <= LONGEST_PAUSE).then(|| pause.max(named))
}

/// Waits before the second attempt. On the heap, like every timer of the path that is seldom needed: inside the path's
/// own future it would make each request larger and align it to 128 bytes.
pub(crate) async fn wait(pause: Duration) {
    Box::pin(tokio::time::sleep(pause)).await;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pauses_differ_and_are_as_long_as_fastrac_asks() {
        let pauses: BTreeSet<_> = (0..100).filter_map(|_| pause(None)).collect();
        assert!(pauses.len() > 50, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause >= PAUSE / 2 && *pause <= PAUSE * 3 / 2), "{pauses:?}");
        for named in [Duration::from_secs(1), LONGEST_PAUSE] {
            assert_eq!(pause(Some(named)), Some(named));
        }
        assert!(pause(Some(Duration::ZERO)).is_some_and(|pause| pause >= PAUSE / 2));
        assert_eq!(pause(Some(LONGEST_PAUSE + Duration::from_nanos(1))), None);
    }

    #[test]
    fn a_fraction_of_zero_allows_none() {
        let budget = Arc::new(RetryBudget::new(0.0));
        budget.earn();
        assert!(budget.take().is_none() && budget.left() == 0);
        budget.reconfigure(1.0);
        budget.take().expect("one of them").spend();
        assert_eq!(budget.left(), RESERVE - 1);
    }

    #[test]
    fn takes_at_once_never_exceed_it() {
        let budget = Arc::new(RetryBudget::new(0.1));
        let take = || (0..1000).filter_map(|_| budget.take()).map(RetryToken::spend).count();
        let taken: usize = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).sum()
        });
        assert_eq!(taken as u64, RESERVE);
    }

    /// What happens to a budget.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Earn(u16),
        Take(u16),
        /// Those that are scheduled begin.
        Begin,
        /// They do not.
        GiveBack,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let taken = prop_oneof![Just(Step::Begin), Just(Step::GiveBack)];
        let step = prop_oneof![(0..500_u16).prop_map(Step::Earn), (0..100_u16).prop_map(Step::Take), taken];
        prop::collection::vec(step, 1..60)
    }

    proptest! {
        /// Against a model that counts each attempt: the same are granted, and in any period not more than the reserve and
        /// the fraction of the first attempts of that period. What goes back does not count.
        #[test]
        fn grants_what_was_earned_and_not_more(steps in steps(), percent in 1_u64..=100) {
            let budget = Arc::new(RetryBudget::new(percent as f64 / 100.0));
            let (mut model, mut scheduled) = (100 * RESERVE, Vec::new());
            // First attempts and grants up to each step.
            let mut history = vec![(0_u64, 0_u64)];
            for step in steps {
                let (mut firsts, mut granted) = history[history.len() - 1];
                match step {
                    Step::Earn(times) => for _ in 0..times {
                        budget.earn();
                        firsts += 1;
                        model = (model + percent).min(100 * RESERVE);
                    },
                    Step::Take(times) => for _ in 0..times {
                        let (taken, expected) = (budget.take(), model >= 100);
                        prop_assert_eq!(taken.is_some(), expected);
                        if expected {
                            model -= 100;
                            granted += 1;
                        }
                        scheduled.extend(taken);
                    },
                    Step::Begin => scheduled.drain(..).for_each(RetryToken::spend),
                    Step::GiveBack => {
                        let back = scheduled.len() as u64;
                        scheduled.clear();
                        model = (model + 100 * back).min(100 * RESERVE);
                        granted -= back;
                    }
                }
                prop_assert_eq!(budget.left(), model / 100);
                for (firsts_before, granted_before) in &history {
                    let earned = (firsts - firsts_before) * percent;
                    prop_assert!(granted.saturating_sub(*granted_before) * 100 <= 100 * RESERVE + earned);
                }
                history.push((firsts, granted));
            }
        }
    }
}
