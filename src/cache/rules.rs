//! What may be stored in the cache, and for how long. Pure.
//!
//! What always holds: only `success:true` with 200, and `not_found`, are ever stored, and only of an operation that
//! declares a cache policy (`config` allows one on lookups only). Must not know the cache. Never fails.

use std::time::Duration;

use http::StatusCode;

use super::entry::Lifetimes;
use crate::{
    config::CachePolicy,
    outcome::{Classification, Lifetime},
};

/// A response that could be stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) reading: Classification,
    pub(crate) status: StatusCode,
    /// Of the body, in bytes.
    pub(crate) length: usize,
    /// `limits.answer_buffer`, in bytes.
    pub(crate) max_length: usize,
}

impl Candidate {
    /// Whether Fastrac calls it an error of its own. Whatever its message says, it proves nothing against a good response.
    pub(crate) fn is_error(&self) -> bool {
        self.status.is_server_error()
    }
}

/// Whether a response of this kind may ever be stored.
pub fn storable(reading: Classification, status: StatusCode) -> bool {
    match reading.outcome.lifetime() {
        Lifetime::Fresh => status == StatusCode::OK,
        Lifetime::NotFound => true,
        Lifetime::Never => false,
    }
}

/// How long a stored response may be used; `None`: it must not be stored.
pub(crate) fn lifetimes(policy: &CachePolicy, candidate: &Candidate) -> Option<Lifetimes> {
    let Candidate { reading, status, length, max_length } = *candidate;
    let lifetimes = match reading.outcome.lifetime() {
        Lifetime::Fresh => Lifetimes {
            fresh: policy.fresh,
            usable: policy.stale_if_error.max(policy.fresh),
            refresh: refresh_age(policy, fastrand::f64()),
        },
        Lifetime::NotFound => Lifetimes::only_fresh(policy.not_found),
        Lifetime::Never => return None,
    };
    (storable(reading, status) && length <= max_length && !lifetimes.fresh.is_zero()).then_some(lifetimes)
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
    use crate::outcome::Outcome;

    #[test]
    fn only_good_responses_are_stored() {
        let policy = CachePolicy {
            fresh: Duration::from_secs(60),
            stale_if_error: Duration::ZERO,
            refresh_ahead: 1.0,
            not_found: Duration::from_secs(5),
        };
        let lifetimes = |outcome, status, length| {
            let reading = Classification { outcome, is_envelope: true, key_refused: false };
            let status = StatusCode::from_u16(status).unwrap();
            lifetimes(&policy, &Candidate { reading, status, length, max_length: 100 }).map(|found| found.fresh)
        };
        assert_eq!(lifetimes(Outcome::Ok, 200, 100), Some(policy.fresh));
        assert_eq!(lifetimes(Outcome::Ok, 200, 101), None, "too long");
        assert_eq!(lifetimes(Outcome::Ok, 201, 1), None);
        assert_eq!(lifetimes(Outcome::NotFound, 404, 1), Some(policy.not_found));
        assert_eq!(lifetimes(Outcome::Rejected, 200, 1), None);
    }

    #[test]
    fn ages_follow_the_policy() {
        let hour = Duration::from_secs(3600);
        let policy = |fresh, stale_if_error, refresh_ahead| CachePolicy {
            fresh,
            stale_if_error,
            refresh_ahead,
            not_found: Duration::from_secs(5),
        };
        let of = |policy: &CachePolicy, outcome| {
            let reading = Classification { outcome, is_envelope: true, key_refused: false };
            lifetimes(policy, &Candidate { reading, status: StatusCode::OK, length: 1, max_length: 100 }).unwrap()
        };
        let usual = policy(hour, 7 * hour, 0.9);
        assert_eq!(of(&usual, Outcome::Ok).usable, 7 * hour);
        assert_eq!(of(&usual, Outcome::NotFound), Lifetimes::only_fresh(usual.not_found));
        assert_eq!(of(&policy(hour, Duration::ZERO, 0.9), Outcome::Ok).usable, hour, "never stale");
        let refreshed = |part, random| refresh_age(&policy(hour, hour, part), random).as_secs_f64() / 3600.0;
        for (part, random, age) in
            [(0.9, 0.0, 0.85), (0.9, 1.0, 0.95), (0.99, 1.0, 1.0), (1.0, 0.0, 1.0), (0.02, 0.0, 0.01)]
        {
            assert!((refreshed(part, random) - age).abs() < 1e-6, "{part} {random}");
        }
        let second = Duration::from_secs(1);
        for (fresh, part, age) in
            [(hour, 0.0, second), (10 * second, 0.01, second), (second / 2, 0.5, second / 2), (second, 0.0, second)]
        {
            assert_eq!(refresh_age(&policy(fresh, hour, part), 0.0), age, "{fresh:?} {part}");
        }
    }
}
