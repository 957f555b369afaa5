//! The pause before a second attempt.
//!
//! Which failures a second attempt may follow is a column of the table of outcomes. Cannot fail.

use std::time::Duration;

use crate::deadline::Deadline;

/// Pause before the second attempt: long enough for a restart behind a load balancer.
const PAUSE: Duration = Duration::from_millis(50);

/// Whether there is time for the pause.
pub(crate) fn fits(deadline: Deadline) -> bool {
    deadline.leaves(PAUSE)
}

/// Waits before the second attempt. On the heap, like every timer of the path that is seldom needed: inside the path's
/// own future it would make each request larger and align it to 128 bytes.
pub(crate) async fn pause() {
    Box::pin(tokio::time::sleep(PAUSE)).await;
}
