//! How long responses may be used: the lifetimes in force of an operation, and those of one of its entries.
//!
//! What always holds: the entries of an operation share its lifetimes, so that a reload applies to what is stored as to
//! what is fetched; a look at them takes no lock. Must not know entries. Never fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{config::CachePolicy, outcome::Outcome};

/// The ages at which the use of a stored response changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetimes {
    /// Younger ones are fresh. Zero: the response is not stored.
    pub fresh: Duration,
    /// Younger ones may be used, if stale; at least `fresh`.
    pub usable: Duration,
    /// A hit on one that is as old as this asks for a refresh; at most `fresh`, which means never before.
    pub refresh: Duration,
}

impl Lifetimes {
    /// Of a response that is never stale: it is gone instead.
    pub const fn only_fresh(fresh: Duration) -> Self {
        Lifetimes { fresh, usable: fresh, refresh: fresh }
    }

    /// Seconds since a response of this age is stale, rounded up, at least 1.
    pub(crate) fn stale_for(&self, age: Duration) -> u64 {
        let past = age.saturating_sub(self.fresh);
        (past.as_secs() + u64::from(past.subsec_nanos() > 0)).max(1)
    }

    /// Age up to which a stale response is given at once and refreshed behind it.
    pub(super) fn revalidated(&self) -> Duration {
        self.usable.min(self.fresh.saturating_mul(2))
    }
}

/// The lifetimes of an operation's responses that are in force, in nanoseconds. All are zero if it is not cached.
#[derive(Debug)]
pub struct OperationLifetimes {
    /// As in metrics.
    name: Arc<str>,
    fresh: AtomicU64,
    usable: AtomicU64,
    /// Ages between which that of each entry's refresh lies.
    refresh_from: AtomicU64,
    refresh_to: AtomicU64,
    not_found: AtomicU64,
}

impl OperationLifetimes {
    /// Those of an operation that is not cached.
    pub(super) fn none(name: Arc<str>) -> Self {
        let (fresh, usable, refresh_from, refresh_to, not_found) = Default::default();
        OperationLifetimes { name, fresh, usable, refresh_from, refresh_to, not_found }
    }

    /// The same for every response, whatever it is.
    pub fn fixed(name: &str, lifetimes: Lifetimes) -> Arc<Self> {
        let operation = OperationLifetimes::none(name.into());
        let Lifetimes { fresh, usable, refresh } = lifetimes;
        operation.set([fresh, usable, refresh, refresh, fresh]);
        Arc::new(operation)
    }

    /// Puts the lifetimes of a policy in force. A look at the same time may see some of the new and some of the old.
    pub(super) fn apply(&self, policy: Option<&CachePolicy>) {
        self.set(policy.map_or_else(Default::default, |policy| {
            let usable = policy.stale_if_error.max(policy.fresh);
            [policy.fresh, usable, refresh_age(policy, 0.0), refresh_age(policy, 1.0), policy.not_found]
        }));
    }

    fn set(&self, lifetimes: [Duration; 5]) {
        let places = [&self.fresh, &self.usable, &self.refresh_from, &self.refresh_to, &self.not_found];
        for (place, lifetime) in places.into_iter().zip(lifetimes) {
            place.store(u64::try_from(lifetime.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Those of one response. `jitter`: its own, random.
    pub(crate) fn of(&self, outcome: Outcome, jitter: u16) -> Lifetimes {
        let in_force = |place: &AtomicU64| place.load(Relaxed);
        if outcome == Outcome::NotFound {
            return Lifetimes::only_fresh(Duration::from_nanos(in_force(&self.not_found)));
        }
        let fresh = Duration::from_nanos(in_force(&self.fresh));
        let usable = Duration::from_nanos(in_force(&self.usable)).max(fresh);
        let (from, to) = (in_force(&self.refresh_from), in_force(&self.refresh_to));
        let later = (u128::from(to.saturating_sub(from)) * u128::from(jitter)) >> u16::BITS;
        Lifetimes { fresh, usable, refresh: Duration::from_nanos(from + later as u64).min(fresh) }
    }
}

/// Youngest age at which an entry is refreshed ahead: a short lifetime must not make it be fetched all the time.
const YOUNGEST_REFRESH: Duration = Duration::from_secs(1);

/// Width of the range of ages from which one is drawn for each entry, as a part of `fresh`, at most as wide as the age
/// itself: entries that were stored together are not refreshed together.
const JITTER: f64 = 0.1;

/// Age from which on an entry is refreshed ahead. `random`: 0 to 1.
fn refresh_age(policy: &CachePolicy, random: f64) -> Duration {
    let part = policy.refresh_ahead;
    if part >= 1.0 {
        return policy.fresh;
    }
    let age = policy.fresh.mul_f64((part + JITTER.min(part) * (random - 0.5)).min(1.0));
    age.max(YOUNGEST_REFRESH).min(policy.fresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn policy(fresh: Duration, stale_if_error: Duration, refresh_ahead: f64) -> CachePolicy {
        CachePolicy { fresh, stale_if_error, refresh_ahead, not_found: Duration::from_secs(5) }
    }

    fn lifetimes(policy: &CachePolicy, outcome: Outcome, jitter: u16) -> Lifetimes {
        let operation = OperationLifetimes::none("v2.city".into());
        operation.apply(Some(policy));
        operation.of(outcome, jitter)
    }

    #[test]
    fn ages_follow_the_policy() {
        let of = |policy: &CachePolicy, outcome| lifetimes(policy, outcome, 0);
        let usual = policy(HOUR, 7 * HOUR, 0.9);
        assert_eq!(of(&usual, Outcome::Ok).usable, 7 * HOUR);
        assert_eq!(of(&usual, Outcome::NotFound), Lifetimes::only_fresh(usual.not_found));
        assert_eq!(of(&policy(HOUR, Duration::ZERO, 0.9), Outcome::Ok).usable, HOUR, "never stale");
        let refreshed = |part, jitter| {
            lifetimes(&policy(HOUR, HOUR, part), Outcome::Ok, jitter).refresh.as_secs_f64() / HOUR.as_secs_f64()
        };
        for (part, jitter, age) in
            [(0.9, 0, 0.85), (0.9, u16::MAX, 0.95), (0.99, u16::MAX, 1.0), (1.0, 0, 1.0), (0.02, 0, 0.01)]
        {
            assert!((refreshed(part, jitter) - age).abs() < 1e-5, "{part} {jitter}");
        }
        let second = Duration::from_secs(1);
        for (fresh, part, age) in
            [(HOUR, 0.0, second), (10 * second, 0.01, second), (second / 2, 0.5, second / 2), (second, 0.0, second)]
        {
            assert_eq!(refresh_age(&policy(fresh, HOUR, part), 0.0), age, "{fresh:?} {part}");
        }
    }

    #[test]
    fn the_policy_in_force_counts() {
        let operation = OperationLifetimes::none("v2.city".into());
        assert_eq!(operation.of(Outcome::Ok, 7), Lifetimes::default());
        for fresh in [HOUR, HOUR / 3600, HOUR * 1000] {
            operation.apply(Some(&policy(fresh, Duration::ZERO, 1.0)));
            assert_eq!(operation.of(Outcome::Ok, 7), Lifetimes::only_fresh(fresh));
        }
        operation.apply(None);
        assert_eq!([Outcome::Ok, Outcome::NotFound].map(|outcome| operation.of(outcome, 7)), [Lifetimes::default(); 2]);
    }
}
