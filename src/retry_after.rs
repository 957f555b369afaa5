//! `Retry-After`: how long a refused caller is told to wait, and how long Fastrac says to wait. The only place where a wait
//! becomes whole seconds.
//!
//! `Retry-After`, `error.retry_after` and the messages of refusals all say the same number (contract, section 5). Pure;
//! imports no room, so that the rooms that refuse (`admission`, the breaker) and those that phrase refusals may use it.

use std::time::Duration;

use http::{
    HeaderMap, HeaderName,
    header::{DATE, RETRY_AFTER},
};
use jiff::Timestamp;

/// Whole seconds, rounded up, at least 1: a client that waits this long is never too early.
pub fn whole_seconds(wait: Duration) -> Duration {
    let rounded_up = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
    Duration::from_secs(rounded_up.max(1))
}

/// Longer waits count as this one.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// The wait that the `Retry-After` of a response names: seconds, or a date in any of the three forms (RFC 9110, sections
/// 10.2.3 and 5.6.7). The longest, if there are several, on lines of their own or in a list: two servers on the way may each
/// have added theirs. A date is measured from the `Date` of the response, so that it does not matter whose clock is wrong;
/// from `now` without one. `None` if none is either.
pub fn named(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let texts = |name: HeaderName| headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let sent = texts(DATE).find_map(date).unwrap_or(now);
    Some(texts(RETRY_AFTER).filter_map(|text| longest(text, sent)).max()?.min(LONGEST))
}

/// The longest wait of a list. A date has a comma of its own.
fn longest(text: &str, sent: Timestamp) -> Option<Duration> {
    let items: Vec<&str> = text.split(',').collect();
    let single = items.iter().filter_map(|item| parse(item, sent));
    let dates = items.windows(2).filter_map(|date| parse(&date.join(","), sent));
    single.chain(dates).max()
}

fn date(value: &str) -> Option<Timestamp> {
    Timestamp::try_from(httpdate::parse_http_date(value.trim()).ok()?).ok()
}

fn parse(value: &str, sent: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Digits that do not fit name a very long wait, too.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    Some(Duration::try_from(date(value)?.duration_since(sent)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn waits_are_never_zero_and_never_too_short() {
        let waits = [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(2), Duration::from_millis(2001)];
        assert_eq!(waits.map(|wait| whole_seconds(wait).as_secs()), [1, 1, 2, 3]);
    }

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        let named = |values: &[&'static str]| {
            let lines = values.iter().map(|value| (RETRY_AFTER, HeaderValue::from_static(value)));
            let headers = lines.fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            });
            super::named(&headers, "2026-11-24T02:00:00Z".parse().unwrap()).map(|wait| wait.as_secs())
        };
        let parse = |value| named(&[value]);
        assert_eq!((parse("0"), parse(" 120 "), parse("86400")), (Some(0), Some(120), Some(86_400)));
        assert_eq!((named(&[]), named(&["1", "3600", "soon", "60"])), (None, Some(3_600)), "the longest");
        // IMF-fixdate, RFC 850, asctime.
        for date in ["Tue, 24 Nov 2026 02:01:30 GMT", "Tuesday, 24-Nov-26 02:01:30 GMT", "Tue Nov 24 02:01:30 2026"] {
            assert_eq!(parse(date), Some(90), "{date}");
            assert_eq!(named(&["30", date]), Some(90), "{date}");
        }
        assert_eq!(parse("Tue, 24 Nov 2026 01:01:30 GMT"), Some(0), "in the past");
        // Fastrac's clock is ten minutes ahead, or an hour behind.
        for sent in ["Tue, 24 Nov 2026 02:10:00 GMT", "Tuesday, 24-Nov-26 01:00:00 GMT"] {
            let until = date(sent).unwrap() + jiff::SignedDuration::from_secs(5);
            let until = until.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            let headers = [(DATE, sent), (RETRY_AFTER, until.as_str())];
            let headers = headers.map(|(name, value)| (name, HeaderValue::from_str(value).unwrap()));
            let wait = super::named(&HeaderMap::from_iter(headers), "2026-11-24T02:00:00Z".parse().unwrap());
            assert_eq!(wait, Some(Duration::from_secs(5)), "{sent}");
        }
        for neither in ["", "-1", "1.5", "soon", "2026-11-24", ",", "1;2"] {
            assert_eq!(parse(neither), None, "{neither}");
        }
        let (date, earlier) = ("Tue, 24 Nov 2026 02:01:30 GMT", "Tue, 24 Nov 2026 02:00:30 GMT");
        let several: [&[&'static str]; 9] = [
            &["1", "90"],
            &["90", "1"],
            &["1, 90"],
            &["90,1"],
            &["soon", "90"],
            &["soon, 90"],
            &["1", date],
            &["1, Tue, 24 Nov 2026 02:01:30 GMT"],
            &["Tue, 24 Nov 2026 02:01:30 GMT, Tue, 24 Nov 2026 02:00:30 GMT, 7", earlier],
        ];
        for values in several {
            assert_eq!(named(values), Some(90), "the longest of {values:?}");
        }
        for long in ["31622401", "18446744073709551615", "99999999999999999999", "Tue, 24 Nov 2099 02:00:00 GMT"] {
            assert_eq!(parse(long), Some(LONGEST.as_secs()), "{long}");
        }
    }
}
