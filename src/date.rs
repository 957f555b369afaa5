//! The `Date` of responses that have none (RFC 9110, section 6.6.1).
//!
//! hyper adds one too, but does not renew it before the second after it: once the system clock was ahead and is set back, it
//! stays in the future for as long. Each thread keeps the last value. Never fails.

use std::{
    cell::RefCell,
    time::{SystemTime, UNIX_EPOCH},
};

use http::HeaderValue;
use jiff::Timestamp;

thread_local! {
    /// Seconds since 1970, and their text.
    static LAST: RefCell<(u64, HeaderValue)> = const { RefCell::new((u64::MAX, HeaderValue::from_static(""))) };
}

/// The present date.
pub(crate) fn now() -> HeaderValue {
    at(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

fn at(second: u64) -> HeaderValue {
    LAST.with_borrow_mut(|(known, text)| {
        if *known != second {
            let time = i64::try_from(second).ok().and_then(|second| Timestamp::from_second(second).ok());
            let date = time.unwrap_or(Timestamp::UNIX_EPOCH).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            (*known, *text) = (second, HeaderValue::try_from(date).unwrap_or(HeaderValue::from_static("")));
        }
        text.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_clock_in_both_directions() {
        assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(784_111_778), "Sun, 06 Nov 1994 08:49:38 GMT");
        assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert!(now().to_str().unwrap().ends_with(" GMT"));
    }
}
