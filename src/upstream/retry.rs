//! Which failures a second attempt may repair, and the pause before it.

use std::time::Duration;

use http::StatusCode;

use super::Failure;
use crate::deadline::Deadline;

/// Pause before the second attempt: long enough for a restart behind a load balancer.
const PAUSE: Duration = Duration::from_millis(50);

impl Failure {
    /// Whether the connection failed, which another one may not.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Failure::Connect(_) | Failure::Cut)
    }
}

/// Whether a status says that something between here and Fastrac failed.
pub(crate) fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 502..=504)
}

/// Whether there is time for the pause.
pub(crate) fn fits(deadline: Deadline) -> bool {
    deadline.leaves(PAUSE)
}

/// Waits before the second attempt. On the heap, like every timer of the path that is seldom needed: inside the path's
/// own future it would make each request larger and align it to 128 bytes.
pub(crate) async fn pause() {
    Box::pin(tokio::time::sleep(PAUSE)).await;
}
