//! Waiting, with a clock that is looked at only by those who really wait.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::Duration,
};

use tokio::time::Instant;

/// What a future gives, and how long it was waited for: nothing, if it was ready at once.
pub(super) async fn waited<F: Future>(future: F) -> (F::Output, Duration) {
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
    async fn only_what_was_waited_for_takes_time() {
        assert_eq!(waited(async { 1 }).await, (1, Duration::ZERO));
        let nap = Duration::from_millis(20);
        assert_eq!(waited(tokio::time::sleep(nap)).await, ((), nap));
    }
}
