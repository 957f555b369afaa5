//! The `Date` of responses that have none (RFC 9110, section 6.6.1).
//!
//! hyper adds one too, but does not renew it before the second after it: once the system clock was ahead and is set back, it
//! stays in the future for as long. Each thread keeps the last value. Never fails.

use std::{
    cell::RefCell,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderValue, Response, header::DATE};
use jiff::Timestamp;

thread_local! {
    /// Seconds since 1970, and their text.
    static LAST: RefCell<(u64, HeaderValue)> = const { RefCell::new((u64::MAX, HeaderValue::from_static(""))) };
}

/// Adds the present date, unless the response has one.
pub(super) fn complete<B>(mut response: Response<B>) -> Response<B> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    response.headers_mut().entry(DATE).or_insert_with(|| at(now));
    response
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
    fn follows_the_clock_in_both_directions_and_keeps_fastracs() {
        assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(784_111_778), "Sun, 06 Nov 1994 08:49:38 GMT");
        assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        let fastracs = Response::builder().header("date", "Mon, 01 Jan 2001 00:00:00 GMT").body(()).unwrap();
        assert_eq!(complete(fastracs).headers()[DATE], "Mon, 01 Jan 2001 00:00:00 GMT");
        assert!(complete(Response::new(())).headers()[DATE].to_str().unwrap().ends_with(" GMT"));
    }
}
