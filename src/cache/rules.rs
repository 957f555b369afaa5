//! What may be stored in the cache, for how long, and which stored response a caller accepts (RFC 9111, contract
//! section 4). Pure.
//!
//! What always holds: only `success:true` with 200, and `not_found`, are ever stored, and only of an operation that
//! declares a cache policy (`config` allows one on lookups only). Must not know the cache. Never fails: directives that
//! cannot be read count as absent, except `max-age`, which counts as 0.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header::CACHE_CONTROL};

use super::entry::Lifetimes;
use crate::{
    config::CachePolicy,
    outcome::{Classification, Lifetime},
};

/// The directives of a request's `Cache-Control` (RFC 9111, section 5.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    /// A response that is not stored is not accepted.
    pub only_if_cached: bool,
    /// Maximum age of a stored response; zero (also `no-cache`): none is accepted. Absent: any fresh one is.
    pub max_age: Option<Duration>,
}

impl RequestDirectives {
    /// Reads `Cache-Control`. Without `force_refresh`, directives other than `only-if-cached` count as absent.
    pub(crate) fn read(headers: &HeaderMap, force_refresh: bool) -> Self {
        let mut directives = RequestDirectives::default();
        for value in headers.get_all(CACHE_CONTROL) {
            let Ok(value) = value.to_str() else { continue };
            for directive in value.split(',').map(str::trim) {
                let (name, argument) = directive.split_once('=').unwrap_or((directive, ""));
                if name.eq_ignore_ascii_case("only-if-cached") {
                    directives.only_if_cached = true;
                } else if force_refresh && name.eq_ignore_ascii_case("no-cache") {
                    directives.max_age = Some(Duration::ZERO);
                } else if force_refresh && name.eq_ignore_ascii_case("max-age") {
                    let seconds = argument.trim_matches('"').parse().map(Duration::from_secs);
                    // An age that cannot be read makes the response stale (RFC 9111, section 4.2.1).
                    let seconds = seconds.unwrap_or(Duration::ZERO);
                    directives.max_age = Some(directives.max_age.map_or(seconds, |known| known.min(seconds)));
                }
            }
        }
        directives
    }

    /// Whether a stored response of this age is accepted.
    pub(crate) fn accepts(self, age: Duration) -> bool {
        self.max_age.is_none_or(|max| age <= max && max > Duration::ZERO)
    }
}

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

/// Width of the range of ages from which one is drawn for each entry, as a part of `fresh`: entries that were stored
/// together are not refreshed together.
const JITTER: f64 = 0.1;

/// Age from which on an entry is refreshed ahead. `random`: 0 to 1.
fn refresh_age(policy: &CachePolicy, random: f64) -> Duration {
    let part = policy.refresh_ahead;
    if part >= 1.0 {
        return policy.fresh;
    }
    policy.fresh.mul_f64((part + JITTER * (random - 0.5)).clamp(part / 2.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;

    fn read(value: &'static str, force_refresh: bool) -> RequestDirectives {
        let headers = HeaderMap::from_iter([(CACHE_CONTROL, value.parse().unwrap())]);
        RequestDirectives::read(&headers, force_refresh)
    }

    #[test]
    fn only_those_who_may_can_force() {
        assert_eq!(read("no-cache, max-age=0", false), RequestDirectives::default());
        assert!(read("only-if-cached", false).only_if_cached);
        assert!(!read("No-Cache", true).accepts(Duration::ZERO));
        assert!(read("max-age=60", true).accepts(Duration::from_secs(60)));
        assert!(!read("max-age=60", true).accepts(Duration::from_secs(61)));
        assert!(!read("max-age=junk", true).accepts(Duration::ZERO));
    }

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
    }
}
