//! The directives of a caller's `Cache-Control` (RFC 9111, section 5.2.1), and which stored responses it accepts. Pure.
//!
//! README has the table "Which directive wins"; each of its rows is a test below. What always holds: a response past its
//! last permitted use is never accepted; without `force_refresh`, no directive makes a request reach Fastrac that would be
//! answered from the cache otherwise, except `max-stale`, which can refuse stale responses. Must not know the cache. Never
//! fails: of a directive that is given several times the strictest value counts; a `max-age` or `min-fresh` that cannot be
//! read accepts no stored response (RFC 9111, section 4.2.1), and a `max-stale` that cannot be read counts as absent.

use std::time::Duration;

use http::{HeaderMap, header::CACHE_CONTROL};

use super::Lifetimes;

/// The directives of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    /// A response that is not stored is not accepted.
    pub only_if_cached: bool,
    /// No stored response is accepted.
    no_cache: bool,
    /// Maximum age of a stored response; zero: none is accepted.
    max_age: Option<Duration>,
    /// How long a stored response must stay fresh.
    min_fresh: Option<Duration>,
    /// How long after the end of its freshness a stored response is accepted.
    max_stale: Option<Duration>,
}

/// Whether a caller accepts a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acceptance {
    /// Without asking Fastrac first.
    AtOnce,
    /// If Fastrac was asked and gave nothing better.
    AfterFailure,
    Never,
}

impl RequestDirectives {
    /// Reads `Cache-Control`. Without `force_refresh`, `no-cache`, `max-age` and `min-fresh` count as absent.
    pub(crate) fn read(headers: &HeaderMap, force_refresh: bool) -> Self {
        let mut directives = RequestDirectives::default();
        for value in headers.get_all(CACHE_CONTROL) {
            for element in elements(value.as_bytes()) {
                directives.add(element, force_refresh);
            }
        }
        directives
    }

    fn add(&mut self, element: &[u8], force_refresh: bool) {
        let name_length = element.iter().position(|byte| *byte == b'=').unwrap_or(element.len());
        let (name, argument) = element.split_at(name_length);
        let argument = argument.split_first().map(|(_, argument)| argument);
        let is = |known: &str| name.trim_ascii().eq_ignore_ascii_case(known.as_bytes());
        let strictest = |seconds: Option<Duration>, known: Option<Duration>| seconds.into_iter().chain(known).min();
        if is("only-if-cached") {
            self.only_if_cached = true;
        } else if is("max-stale") {
            // Without a value: however stale.
            self.max_stale = strictest(argument.map_or(Some(Duration::MAX), seconds), self.max_stale);
        }
        if !force_refresh {
            return;
        }
        if is("no-cache") {
            self.no_cache = true;
        } else if is("max-age") {
            let max_age = argument.and_then(seconds);
            self.max_age = strictest(max_age, self.max_age);
            self.no_cache |= max_age.is_none();
        } else if is("min-fresh") {
            self.min_fresh = self.min_fresh.max(Some(argument.and_then(seconds).unwrap_or(Duration::MAX)));
        }
    }

    /// Whether only a response is accepted that Fastrac is asked for from now on.
    pub(crate) fn only_new(&self) -> bool {
        self.no_cache || (self.max_age == Some(Duration::ZERO) && self.max_stale.is_none())
    }

    /// Whether a stored response of this age is accepted.
    pub(crate) fn accept(&self, age: Duration, lifetimes: &Lifetimes) -> Acceptance {
        let is_stale = age >= lifetimes.fresh;
        let is_gone = is_stale && age >= lifetimes.usable;
        let fresh_enough = |min| !is_stale && lifetimes.fresh - age >= min;
        if is_gone || self.no_cache || self.min_fresh.is_some_and(|min| !fresh_enough(min)) {
            return Acceptance::Never;
        }
        // A lower maximum age ends freshness earlier, for this caller.
        let max_age = self.max_age.unwrap_or(Duration::MAX);
        let is_too_old = age > max_age || max_age.is_zero();
        if !is_stale && !is_too_old {
            return Acceptance::AtOnce;
        }
        let over = age.saturating_sub(lifetimes.fresh.min(max_age));
        match (self.max_stale, self.max_age) {
            (Some(max_stale), _) if over <= max_stale => Acceptance::AtOnce,
            (Some(_), _) | (None, Some(_)) => Acceptance::Never,
            (None, None) if self.only_if_cached || age < lifetimes.revalidated() => Acceptance::AtOnce,
            (None, None) => Acceptance::AfterFailure,
        }
    }
}

/// The elements of a list; a comma within quotes separates nothing (RFC 9110, section 5.6.4).
fn elements(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    list.split(move |byte| {
        let separates = *byte == b',' && !quoted;
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
        separates
    })
}

/// Whole seconds, also in quotes. More than fit are as many as fit (RFC 9111, section 1.2.2).
fn seconds(argument: &[u8]) -> Option<Duration> {
    let argument = argument.trim_ascii();
    let unquoted = argument.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    let digits = unquoted.unwrap_or(argument);
    let value = digits.iter().try_fold(0u64, |value, digit| {
        let digit = char::from(*digit).to_digit(10)?;
        Some(value.saturating_mul(10).saturating_add(digit.into()))
    });
    value.filter(|_| !digits.is_empty()).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        Acceptance::{AfterFailure, AtOnce, Never},
        *,
    };

    /// Fresh for 100 s, stale and given at once until 200 s, usable until 500 s.
    const LIFETIMES: Lifetimes = Lifetimes {
        fresh: Duration::from_secs(100),
        usable: Duration::from_secs(500),
        refresh: Duration::from_secs(100),
    };

    fn read(value: &str, force_refresh: bool) -> RequestDirectives {
        let headers = HeaderMap::from_iter([(CACHE_CONTROL, value.parse().unwrap())]);
        RequestDirectives::read(&headers, force_refresh)
    }

    /// Acceptance at the ages of a fresh, an older fresh, a stale, an older stale and a gone entry.
    fn at(directives: RequestDirectives) -> [Acceptance; 5] {
        [10, 90, 150, 300, 500].map(|age| directives.accept(Duration::from_secs(age), &LIFETIMES))
    }

    fn anyone(value: &str) -> [Acceptance; 5] {
        assert_eq!(read(value, false), read(value, true), "{value}");
        at(read(value, false))
    }

    fn forcing(value: &str) -> [Acceptance; 5] {
        at(read(value, true))
    }

    const USUAL: [Acceptance; 5] = [AtOnce, AtOnce, AtOnce, AfterFailure, Never];
    const NONE: [Acceptance; 5] = [Never; 5];

    #[test]
    fn without_directives_the_operation_decides() {
        assert_eq!(at(RequestDirectives::default()), USUAL);
        assert_eq!(at(RequestDirectives::read(&HeaderMap::new(), true)), USUAL);
    }

    #[test]
    fn only_if_cached_takes_what_is_stored() {
        assert_eq!(anyone("only-if-cached"), [AtOnce, AtOnce, AtOnce, AtOnce, Never]);
    }

    #[test]
    fn max_stale_takes_stale_ones_up_to_its_value_and_no_others() {
        assert_eq!(anyone("max-stale"), [AtOnce, AtOnce, AtOnce, AtOnce, Never]);
        assert_eq!(anyone("max-stale=200"), [AtOnce, AtOnce, AtOnce, AtOnce, Never]);
        assert_eq!(anyone("max-stale=199"), [AtOnce, AtOnce, AtOnce, Never, Never]);
        assert_eq!(anyone("max-stale=0"), [AtOnce, AtOnce, Never, Never, Never]);
        assert_eq!(anyone("max-stale=60, only-if-cached"), [AtOnce, AtOnce, AtOnce, Never, Never]);
    }

    #[test]
    fn no_cache_takes_none() {
        assert_eq!(forcing("no-cache"), NONE);
        assert_eq!(forcing("no-cache, max-stale, max-age=1000, only-if-cached"), NONE);
    }

    #[test]
    fn max_age_takes_fresh_ones_up_to_its_value() {
        assert_eq!(forcing("max-age=90"), [AtOnce, AtOnce, Never, Never, Never]);
        assert_eq!(forcing("max-age=89"), [AtOnce, Never, Never, Never, Never]);
        assert_eq!(forcing("max-age=1000"), [AtOnce, AtOnce, Never, Never, Never], "a stale one is not accepted");
        assert_eq!(forcing("max-age=0"), NONE);
        let only_new = |value: &str| [true, false].map(|force_refresh| read(value, force_refresh).only_new());
        assert_eq!(["max-age=0", "no-cache"].map(only_new), [[true, false]; 2]);
        assert_eq!(["max-age=1", "max-age=0, max-stale", "min-fresh=1"].map(only_new), [[false, false]; 3]);
        assert_eq!(read("max-age=0", true).accept(Duration::ZERO, &LIFETIMES), Never);
    }

    #[test]
    fn max_stale_counts_from_the_end_of_a_max_age() {
        assert_eq!(forcing("max-age=50, max-stale=40"), [AtOnce, AtOnce, Never, Never, Never]);
        assert_eq!(forcing("max-age=50, max-stale=39"), [AtOnce, Never, Never, Never, Never]);
        assert_eq!(forcing("max-age=0, max-stale"), [AtOnce, AtOnce, AtOnce, AtOnce, Never]);
        assert_eq!(forcing("max-stale=200, max-age=1000"), [AtOnce, AtOnce, AtOnce, AtOnce, Never]);
    }

    #[test]
    fn min_fresh_takes_those_that_stay_fresh_and_wins_over_max_stale() {
        assert_eq!(forcing("min-fresh=90"), [AtOnce, Never, Never, Never, Never]);
        assert_eq!(forcing("min-fresh=91"), NONE);
        assert_eq!(forcing("min-fresh=0"), [AtOnce, AtOnce, Never, Never, Never]);
        assert_eq!(forcing("min-fresh=10, max-stale"), [AtOnce, AtOnce, Never, Never, Never]);
        assert_eq!(forcing("min-fresh=10, max-age=50"), [AtOnce, Never, Never, Never, Never]);
        assert_eq!(forcing("min-fresh=1, max-age=0"), NONE, "both must hold");
    }

    #[test]
    fn without_force_refresh_none_makes_a_request_reach_fastrac() {
        for value in ["no-cache", "max-age=0", "min-fresh=1000", "no-cache=\"x\", max-age=junk"] {
            assert_eq!(at(read(value, false)), USUAL, "{value}");
        }
    }

    #[test]
    fn of_several_values_the_strictest_counts() {
        assert_eq!(forcing("max-age=1000, max-age=50"), forcing("max-age=50"));
        assert_eq!(forcing("min-fresh=1, min-fresh=90, min-fresh=2"), forcing("min-fresh=90"));
        assert_eq!(anyone("max-stale, max-stale=60, max-stale=1000"), anyone("max-stale=60"));
        let lines = ["max-age=1000", "max-age=50"].map(|value| (CACHE_CONTROL, value.parse().unwrap()));
        assert_eq!(at(RequestDirectives::read(&HeaderMap::from_iter(lines), true)), forcing("max-age=50"));
    }

    #[test]
    fn a_value_that_cannot_be_read_accepts_nothing_stored_or_counts_as_absent() {
        for value in ["max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age=junk", "max-age=\"", "max-age=1 2"] {
            assert_eq!(forcing(value), NONE, "{value}");
            let beside = ["max-stale", "max-stale=1000", "max-age=1000", "max-age=1000, max-stale", "only-if-cached"];
            for other in beside {
                assert_eq!(forcing(&format!("{value}, {other}")), NONE, "{value} {other}");
                assert_eq!(forcing(&format!("{other}, {value}")), NONE, "{other} {value}");
            }
        }
        for value in ["min-fresh", "min-fresh=x", "min-fresh=\"\"", "min-fresh=x, max-stale", "max-age=9, min-fresh="] {
            assert_eq!(forcing(value), NONE, "{value}");
        }
        for value in ["max-stale=", "max-stale=x", "max-stale=-1", "max-stale=\"1", "maxstale", "x-max-stale=5"] {
            assert_eq!(anyone(value), USUAL, "{value}");
        }
        assert_eq!(forcing("max-age=99999999999999999999999"), forcing("max-age=1000"));
    }

    #[test]
    fn case_spaces_and_quotes_make_no_difference() {
        assert_eq!(forcing(" No-Cache ,x=y"), NONE);
        assert_eq!(forcing("MAX-AGE=\"50\""), forcing("max-age=50"));
        assert_eq!(forcing("max-age = 50"), forcing("max-age=50"));
        assert_eq!(forcing(",,max-age=50,,"), forcing("max-age=50"));
        assert_eq!(forcing("no-cache=\"set-cookie\""), NONE);
    }

    #[test]
    fn what_is_in_quotes_is_no_directive() {
        for value in ["x=\"a, no-cache\"", "x=\"\\\", no-cache\"", "x=\", no-cache", "\"no-cache\""] {
            assert_eq!(forcing(value), USUAL, "{value}");
        }
        assert_eq!(forcing("x=\"a\\\\\", no-cache"), NONE);
    }

    #[test]
    fn others_have_no_effect() {
        for value in ["no-store", "no-transform", "stale-if-error=0", "must-revalidate, private", "", "=", "=5"] {
            assert_eq!(forcing(value), USUAL, "{value}");
        }
    }

    #[test]
    fn a_response_that_is_never_stale_is_never_accepted_stale() {
        let lifetimes = Lifetimes::only_fresh(Duration::from_secs(100));
        let accept = |value, age| read(value, true).accept(Duration::from_secs(age), &lifetimes);
        assert_eq!([accept("max-stale", 99), accept("max-stale", 100)], [AtOnce, Never]);
    }

    proptest! {
        #[test]
        fn a_response_past_its_last_use_is_never_accepted(
            value in "((no-cache|max-age|min-fresh|max-stale|only-if-cached)(=\"?[0-9]{0,4}\"?)?, ?){0,4}",
            force in any::<bool>(),
            age in 0u64..1000,
        ) {
            let directives = read(&value, force);
            let accepted = directives.accept(Duration::from_secs(age), &LIFETIMES);
            prop_assert!(age < 500 || accepted == Never);
            // A caller without the right gets what the operation allows, or less of what is stale.
            prop_assert!(force || age >= 100 || accepted == AtOnce);
        }

        #[test]
        fn never_panics(value in prop::collection::vec(32u8..=255, 0..40)) {
            if let Ok(value) = http::HeaderValue::from_bytes(&value) {
                RequestDirectives::read(&HeaderMap::from_iter([(CACHE_CONTROL, value)]), true);
            }
        }
    }
}
