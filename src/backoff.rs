//! Waits between attempts that double up to a maximum. Knows no clock: the caller waits.

use std::time::Duration;

/// Returns waits that double from `first` to `max`.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first }
    }

    /// The wait after another failure. Exact: for one waiter.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = wait.saturating_mul(2).min(self.max);
        wait
    }

    /// The wait after another failure, at random between half of it and all of it: for replicas that lost
    /// one server and must not return to it together.
    pub(crate) fn next_jittered(&mut self) -> Duration {
        self.next().mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Begins with `first` again, after a success.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_up_to_the_maximum_and_begin_again_after_a_success() {
        let mut backoff = Backoff::new(SECOND, 5 * SECOND);
        let waits = [(); 5].map(|()| backoff.next().as_secs());
        assert_eq!(waits, [1, 2, 4, 5, 5]);
        backoff.reset();
        assert_eq!(backoff.next(), SECOND);
    }

    #[test]
    fn a_random_wait_is_at_least_half_of_the_exact_one() {
        for _ in 0..1000 {
            let mut backoff = Backoff::new(SECOND, 4 * SECOND);
            for exact in [1, 2, 4, 4] {
                let wait = backoff.next_jittered();
                assert!(wait >= exact * SECOND / 2 && wait <= exact * SECOND, "{wait:?}");
            }
        }
    }
}
