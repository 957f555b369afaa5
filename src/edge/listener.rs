//! Listening sockets: bound before anything is started or inherited from systemd, and the accept loop.
//!
//! What always holds: at most `limits.connections` connections at a time, a further one is told so (503);
//! an accept error never ends the loop; when the drain closes an own socket, what waits in its backlog is
//! accepted first, and an inherited socket is left to the next process. This file must not know requests.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc::UnboundedSender},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

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
    listener.set_nonblocking(true).map_err(unbound)?;
    Ok(listener)
}

/// The accept loop of one process; shared by its listeners.
pub struct Acceptor {
    /// The data threads, to which connections are handed in turn.
    pub threads: Vec<UnboundedSender<AcceptedSocket>>,
    /// One permit for each of `limits.connections`.
    pub permits: Arc<Semaphore>,
    pub metrics: Arc<Metrics>,
    /// `None`: cleartext.
    pub tls: Option<Arc<TlsListener>>,
    /// Ends the loop.
    pub stop: CancellationToken,
    /// systemd holds the listening sockets: they stay open when this process ends, and the next process accepts
    /// what waits in their backlog.
    pub inherited: bool,
}

/// Pause after a failed accept: the process is out of file descriptors, and some must be closed first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a closing listener waits for one more connection from its backlog.
const BACKLOG_WAIT: Duration = Duration::from_millis(2);
/// How long a closing listener goes on accepting if connections keep coming.
const BACKLOG_LIMIT: Duration = Duration::from_secs(1);

impl Acceptor {
    /// Accepts until the drain stops it, then closes the listener.
    pub async fn run(self: Arc<Self>, listener: StdListener) {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "a listener could not be used"),
        };
        let mut next = 0;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => break,
            };
            self.take(accepted, &mut next).await;
        }
        if self.inherited {
            return;
        }
        // The kernel has already completed the handshake of what is in the backlog: serve it, then close.
        let closes = Instant::now() + BACKLOG_LIMIT;
        while Instant::now() < closes
            && let Ok(accepted) = tokio::time::timeout(BACKLOG_WAIT, listener.accept()).await
        {
            self.take(accepted, &mut next).await;
        }
    }

    /// Hands a connection to the next thread.
    async fn take(&self, accepted: io::Result<(TcpStream, SocketAddr)>, next: &mut usize) {
        match accepted {
            Ok((socket, _)) => {
                self.hand(socket, *next).await;
                *next = (*next + 1) % self.threads.len();
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    async fn hand(&self, socket: TcpStream, thread: usize) {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            return full(socket, self.tls.is_some()).await;
        };
        let Ok(socket) = socket.into_std() else { return };
        let permit = Box::new((permit, self.metrics.client_connection()));
        // Fails only when the data thread has ended, which happens only at the end of the process.
        let _ = self.threads[thread].send(AcceptedSocket { socket, tls: self.tls.clone(), permit });
    }
}

/// Refuses a connection beyond the limit. Without TLS only: a handshake would cost a connection.
async fn full(mut socket: TcpStream, tls: bool) {
    if !tls {
        let message = "The gateway has as many connections as `limits.connections` allows; try again in 1 s";
        let refusal = Refusal::new(Code::GatewayOverloaded, message).retry_after(Duration::from_secs(1));
        let _ = tokio::time::timeout(ACCEPT_PAUSE, socket.write_all(&refusal.to_http1())).await;
    }
}
