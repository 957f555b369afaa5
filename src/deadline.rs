//! A point in time that ends a wait.
//!
//! A request has one [`Deadline`] from its first byte on; a wait that takes it ends there at the latest. Also measures
//! waits. Reads `x-gateway-timeout`, because only the caller may shorten the time. Fails with [`InvalidTimeout`].

use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::Duration,
};

use http::HeaderMap;
use tokio::time::{Instant, timeout_at};

/// Milliseconds, above 0, in which the caller wants the whole response.
const TIMEOUT: &str = "x-gateway-timeout";

/// When a wait ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// `x-gateway-timeout` cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("x-gateway-timeout must be a whole number of milliseconds above 0")]
pub struct InvalidTimeout;

impl Deadline {
    /// `limit` after `began`.
    pub fn after(began: Instant, limit: Duration) -> Self {
        Deadline(began + limit)
    }

    /// The deadline of a request: `limit` (`limits.request`) after its first byte, or earlier if its headers say so.
    ///
    /// # Errors
    /// [`InvalidTimeout`] if `x-gateway-timeout` is not a whole number of milliseconds above 0.
    pub(crate) fn of_request(headers: &HeaderMap, began: Instant, limit: Duration) -> Result<Self, InvalidTimeout> {
        let Some(value) = headers.get(TIMEOUT) else { return Ok(Deadline::after(began, limit)) };
        let wanted = value.to_str().ok().and_then(|text| text.trim().parse().ok()).map(Duration::from_millis);
        let wanted = wanted.filter(|wanted| !wanted.is_zero()).ok_or(InvalidTimeout)?;
        Ok(Deadline::after(began, limit.min(wanted)))
    }

    /// As a point on tokio's clock.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// Whether this deadline has passed, and was earlier than `other`: it is what ended the wait.
    pub(crate) fn ended_before(self, other: Deadline) -> bool {
        self < other && Instant::now() >= self.0
    }

    /// Whether `pause` would end before it.
    pub(crate) fn leaves(self, pause: Duration) -> bool {
        Instant::now() + pause < self.0
    }

    /// The output of `future`, or `None` if the deadline passes first.
    pub(crate) async fn bound<F: Future>(self, future: F) -> Option<F::Output> {
        timeout_at(self.0, future).await.ok()
    }
}

/// The output of a future and how long it was pending: zero, without reading the clock, if it was ready at once.
pub(crate) async fn timed<F: Future>(future: F) -> (F::Output, Duration) {
    let mut future = pin!(future);
    let mut since = None;
    let output = poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() {
            since.get_or_insert_with(Instant::now);
        }
        polled
    })
    .await;
    (output, since.map_or(Duration::ZERO, |since| since.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_time_spent_pending_counts() {
        assert_eq!(timed(async { 1 }).await, (1, Duration::ZERO));
        let nap = Duration::from_millis(20);
        assert_eq!(timed(tokio::time::sleep(nap)).await, ((), nap));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_can_only_shorten_it() {
        let (began, limit) = (Instant::now(), Duration::from_secs(2));
        let of = |value: &'static str| {
            let headers = HeaderMap::from_iter([(http::HeaderName::from_static(TIMEOUT), value.parse().unwrap())]);
            Deadline::of_request(&headers, began, limit).map(|deadline| deadline.instant() - began)
        };
        assert_eq!((of("150"), of(" 9000 ")), (Ok(Duration::from_millis(150)), Ok(limit)));
        assert_eq!(["0", "-1", "1.5", "", "1s"].map(of), [Err(InvalidTimeout); 5]);
    }
}
