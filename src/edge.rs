//! From bytes to requests: accept → connection → path; and the drain, which ends all of it.
//!
//! Listeners accept on the control runtime and hand sockets to the data threads in turn, because with
//! `SO_REUSEPORT` the kernel distributes few long-lived connections unevenly. Each data thread is a
//! current-thread runtime with its own connection pool to Fastrac. What always holds: an accepted
//! connection ends by its own deadlines, by the drain, or to make room for another one (`connection_limit`), a response also
//! by its caller's pace (`streams`), the drain counts a connection from accept to close, and what is refused before its head
//! was read is counted and logged too (`listener`, `unread`). This room must not know what requests mean.

mod activity;
mod client_socket;
pub mod connection;
pub mod connection_limit;
mod deadlines;
mod departure;
mod frames;
mod heads;
pub mod heartbeat;
pub(crate) mod linger;
pub mod listener;
mod receipts;
mod request_body;
pub mod runtime;
mod send_queue;
mod shared_io;
mod streams;
pub mod tls;
mod unfinished_head;
mod unread;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The progress of a shutdown. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    /// Responses carry `Connection: close` (HTTP/2: GOAWAY).
    pub closing: Arc<AtomicBool>,
    /// Listeners close; connections end after the requests in progress.
    pub stop: CancellationToken,
    /// The admin port closes: until nothing else is in progress, it answers health checks and takes commands.
    pub stop_admin: CancellationToken,
    /// What is still in progress is cut off.
    pub cut: CancellationToken,
    /// Everything that must end before the process does: accept loops, connections from accept to close, and tasks of
    /// the path (orders, fills). Each holds its place until it has handed on what it holds, so that there is no instant
    /// at which nothing is counted although something is left.
    pub tasks: TaskTracker,
    /// The same of the admin port: its accept loop, connections and commands.
    pub admin_tasks: TaskTracker,
}

impl Drain {
    /// Whether the shutdown has begun.
    pub fn begun(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Whether connections end after the requests in progress. Cheaper than to ask `stop`, which is behind a lock: the
    /// shutdown begins before.
    pub fn stopped(&self) -> bool {
        self.begun() && self.stop.is_cancelled()
    }

    /// Begins the shutdown: from now on responses carry `Connection: close` (HTTP/2: GOAWAY).
    pub fn begin(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }
}
