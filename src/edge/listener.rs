//! Listening sockets: bound before anything is started or inherited from systemd, and the accept loop.
//!
//! What always holds: a listening socket has the longest backlog that the system allows; at most
//! `limits.connections` connections at a time, a further one is told so (503); an accept error never ends the loop.
//! The drain waits for the accept loops: when one closes its own socket, every connection that the kernel has
//! completed is served first, and an inherited socket is left to the next process. This file must not know requests.

use std::{
    io::{self, Write as _},
    net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc::UnboundedSender},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{runtime::AcceptedSocket, tls::TlsListener};
use crate::{outcome::Code, record::Metrics, refusal::Refusal};

#[derive(Debug, thiserror::Error)]
#[error("listen.{which}: {address}: {source}")]
pub struct BindError {
    which: &'static str,
    address: SocketAddr,
    source: io::Error,
}

/// Binds an address; port 0 binds a free port.
///
/// # Errors
/// [`BindError`] names the key, the address and the reason.
pub fn bind(which: &'static str, address: SocketAddr) -> Result<StdListener, BindError> {
    let unbound = |source| BindError { which, address, source };
    let listener = StdListener::bind(address).map_err(unbound)?;
    prepare(&listener).map_err(unbound)?;
    Ok(listener)
}

/// Prepares a listening socket for an accept loop: it does not block, and its backlog is as long as the system allows.
///
/// # Errors
/// The system's.
pub fn prepare(listener: &StdListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    // Again, with another backlog: the standard library passes 128. The kernel lowers it to `net.core.somaxconn`.
    rustix::net::listen(listener, i32::MAX)?;
    Ok(())
}

/// The accept loop of one process; shared by its listeners.
pub struct Acceptor {
    /// The data threads, to which connections are handed in turn.
    pub threads: Vec<UnboundedSender<AcceptedSocket>>,
    /// One permit for each connection that may be open.
    pub permits: Arc<Semaphore>,
    pub metrics: Arc<Metrics>,
    /// `None`: cleartext.
    pub tls: Option<Arc<TlsListener>>,
    /// Ends the loop.
    pub stop: CancellationToken,
    /// Counts connections from accept to close, so that the drain waits for those that no data thread has seen yet.
    pub tasks: TaskTracker,
    /// systemd holds the listening sockets: they stay open when this process ends, and the next process accepts
    /// what waits in their backlog.
    pub inherited: bool,
}

/// Pause after a failed accept: the process is out of file descriptors, and some must be closed first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a closing listener waits for one more connection: some clients have begun a handshake.
const BACKLOG_WAIT: Duration = Duration::from_millis(20);
/// How long a closing listener goes on accepting if connections keep coming.
const BACKLOG_LIMIT: Duration = Duration::from_secs(1);

impl Acceptor {
    /// Accepts until the drain stops it, then closes the listener.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        let mut next = 0;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => break,
            };
            match accepted {
                Ok((socket, _)) => self.take(socket.into_std(), &mut next),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted; it waits in the backlog");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        if !self.inherited {
            self.empty_backlog(listener, &mut next).await;
        }
    }

    /// Closes the listener. The kernel resets what is in the backlog at that moment, so it is served first.
    async fn empty_backlog(&self, listener: TcpListener, next: &mut usize) {
        let closes = Instant::now() + BACKLOG_LIMIT;
        while Instant::now() < closes
            && let Ok(Ok((socket, _))) = timeout(BACKLOG_WAIT, listener.accept()).await
        {
            self.take(socket.into_std(), next);
        }
        let Ok(listener) = listener.into_std() else { return };
        while let Ok((socket, _)) = listener.accept() {
            let socket = socket.set_nonblocking(true).map(|()| socket);
            self.take(socket, next);
        }
    }

    /// Hands a connection to the next data thread.
    fn take(&self, socket: io::Result<StdStream>, next: &mut usize) {
        let Ok(socket) = socket else { return };
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            return refuse(&socket, self.tls.is_some());
        };
        let guard = Box::new((permit, self.metrics.client_connection(), self.tasks.token()));
        // Fails only if the data thread has ended, which happens only at the end of the process.
        let _ = self.threads[*next].send(AcceptedSocket { socket, tls: self.tls.clone(), guard });
        *next = (*next + 1) % self.threads.len();
    }
}

/// Refuses a connection beyond the limit. Without TLS only: a handshake would cost a connection.
fn refuse(mut socket: &StdStream, tls: bool) {
    if !tls {
        let message = "The gateway has as many connections as `limits.connections` allows; try again in 1 s";
        let refusal = Refusal::new(Code::GatewayOverloaded, message).retry_after(Duration::from_secs(1));
        // The send buffer of a new connection has room for it.
        let _ = socket.write_all(&refusal.to_http1());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_hundred_connections_wait_in_a_backlog_that_was_short() {
        // As systemd or another program may have made it.
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        prepare(&listener).unwrap();
        let address = listener.local_addr().unwrap();
        let connect = |_| StdStream::connect_timeout(&address, Duration::from_secs(5));
        let connections: Vec<_> = (0..600).map(connect).collect::<Result<_, _>>().unwrap();
        assert_eq!(connections.len(), 600);
    }
}
