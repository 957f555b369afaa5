//! Freshness and what a caller may say about it (RFC 9111, contract section 4). Pure.

use std::time::Duration;

use http::{HeaderMap, header::CACHE_CONTROL};

use crate::{config::CachePolicy, outcome::Outcome};

/// What a caller asks of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    /// Only a stored answer will do.
    pub only_if_cached: bool,
    /// A stored answer older than this will not do; zero for `no-cache`.
    pub max_age: Option<Duration>,
}

impl RequestDirectives {
    /// Reads `Cache-Control`. Without `force_refresh` only `only-if-cached` is heard.
    pub fn read(headers: &HeaderMap, force_refresh: bool) -> Self {
        let mut wish = RequestDirectives::default();
        for value in headers.get_all(CACHE_CONTROL) {
            let Ok(value) = value.to_str() else { continue };
            for directive in value.split(',').map(str::trim) {
                let (name, argument) = directive.split_once('=').unwrap_or((directive, ""));
                if name.eq_ignore_ascii_case("only-if-cached") {
                    wish.only_if_cached = true;
                } else if force_refresh && name.eq_ignore_ascii_case("no-cache") {
                    wish.max_age = Some(Duration::ZERO);
                } else if force_refresh && name.eq_ignore_ascii_case("max-age") {
                    let seconds = argument.trim_matches('"').parse().map(Duration::from_secs);
                    // A second that can't be read is none (RFC 9111, section 4.2.1).
                    let seconds = seconds.unwrap_or(Duration::ZERO);
                    wish.max_age = Some(wish.max_age.map_or(seconds, |known| known.min(seconds)));
                }
            }
        }
        wish
    }

    /// Whether an answer of this age will do.
    pub fn accepts(self, age: Duration) -> bool {
        self.max_age.is_none_or(|max| age <= max && max > Duration::ZERO)
    }
}

/// How long an answer is fresh, zero if it is not to be stored.
pub fn lifetime(policy: &CachePolicy, outcome: Outcome) -> Duration {
    match outcome {
        Outcome::Ok => policy.fresh,
        Outcome::NotFound => policy.not_found,
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(value: &'static str, force_refresh: bool) -> RequestDirectives {
        let headers = HeaderMap::from_iter([(CACHE_CONTROL, value.parse().unwrap())]);
        RequestDirectives::read(&headers, force_refresh)
    }

    #[test]
    fn only_those_who_may_can_force() {
        assert_eq!(wish("no-cache, max-age=0", false), RequestDirectives::default());
        assert!(wish("only-if-cached", false).only_if_cached);
        assert!(!wish("No-Cache", true).accepts(Duration::ZERO));
        assert!(wish("max-age=60", true).accepts(Duration::from_secs(60)));
        assert!(!wish("max-age=60", true).accepts(Duration::from_secs(61)));
        assert!(!wish("max-age=junk", true).accepts(Duration::ZERO));
    }
}
