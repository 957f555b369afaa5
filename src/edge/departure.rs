//! Whether the client of an HTTP/1.1 connection has left during its request.
//!
//! hyper sees that by itself while it reads. It reads nothing while it serves a request that other bytes follow (a stray
//! CRLF, the next request); then this asks the kernel every [`LOOK`]. What always holds: a connection that hyper reads
//! costs one flag and no timer. Must not know requests. Never fails.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Context,
    time::Duration,
};

use tokio::time::Instant;

use super::{activity::Activity, client_socket::ClientSocket, shared_io::SharedIo};
use crate::deadline::LateTimer;

/// How long a client that has left may keep what its request waits for.
const LOOK: Duration = Duration::from_millis(50);

pub(super) struct DepartureWatch<S> {
    io: SharedIo<S>,
    pub(super) activity: Arc<Activity>,
    /// Of the next look.
    timer: Option<LateTimer>,
}

impl<S: ClientSocket + Send> DepartureWatch<S> {
    pub(super) fn new(io: SharedIo<S>, activity: Arc<Activity>) -> Self {
        DepartureWatch { io, activity, timer: None }
    }

    /// To be called before hyper's connection is polled.
    pub(super) fn before_poll(&self) {
        self.activity.reading.store(false, Relaxed);
    }

    /// Whether the client has left. To be called after hyper's connection was polled; wakes the task for the next look.
    pub(super) fn poll_left(&mut self, cx: &mut Context<'_>) -> bool {
        let activity = &self.activity;
        if activity.reading.load(Relaxed) || !activity.is_busy() || activity.is_on_http2() {
            self.timer = None;
            return false;
        }
        let timer = self.timer.get_or_insert_with(|| LateTimer::at(Instant::now() + LOOK));
        while timer.poll_elapsed(cx).is_ready() {
            if self.io.has_left() {
                return true;
            }
            timer.reset(Instant::now() + LOOK);
        }
        false
    }
}
