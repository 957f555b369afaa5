//! How bytes become requests: accept → connection → path, and how all of it ends.
//!
//! Listeners accept on the control runtime and hand sockets to the data threads in turn, because
//! the kernel spreads few long-lived connections badly. Each data thread is a current-thread
//! runtime with its own pool to Fastrac. What always holds: a connection that was accepted ends by
//! its own deadlines or by the drain, and every request that was read gets an answer. Knows nothing
//! of what requests mean.

pub mod connection;
pub mod listener;
pub mod phase;
pub mod runtime;
pub mod tls;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How far the end has come. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    /// Answers end their connections.
    pub closing: Arc<AtomicBool>,
    /// Listeners close; connections end after the request under way.
    pub stop: CancellationToken,
    /// What is still there is cut.
    pub cut: CancellationToken,
    /// Everything that must end before the process does: connections, and tasks of the path.
    pub tasks: TaskTracker,
}

impl Drain {
    /// Whether the end has begun.
    pub fn begun(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Answers end their connections from now on.
    pub fn begin(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }
}
