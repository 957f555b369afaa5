//! Sockets: bound before anything is started, or handed over by systemd.

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

use super::{runtime::Handed, tls::Door};
use crate::record::Metrics;

/// A socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("listen.{which}: {address}: {source}")]
pub struct Unbound {
    which: &'static str,
    address: SocketAddr,
    source: io::Error,
}

/// Binds an address; port 0 takes a free port.
///
/// # Errors
/// [`Unbound`] names the key, the address and the reason.
pub fn bind(which: &'static str, address: SocketAddr) -> Result<StdListener, Unbound> {
    let unbound = |source| Unbound { which, address, source };
    let listener = StdListener::bind(address).map_err(unbound)?;
    listener.set_nonblocking(true).map_err(unbound)?;
    Ok(listener)
}

/// What accepting needs.
pub struct Acceptor {
    /// The data threads, in turn.
    pub threads: Vec<UnboundedSender<Handed>>,
    /// Places for connections.
    pub seats: Arc<Semaphore>,
    /// Counts connections.
    pub metrics: Arc<Metrics>,
    /// TLS at the door.
    pub tls: Option<Arc<Door>>,
    /// Ends the accepting.
    pub stop: CancellationToken,
    /// The listeners stay open when this process ends (systemd holds them): whoever comes next accepts what waits.
    pub inherited: bool,
}

/// How long to wait after the system refused a socket: it is out of files, and some must close.
const BREATHER: Duration = Duration::from_millis(50);

/// How long a listener that closes waits for one more connection in its queue.
const LAST: Duration = Duration::from_millis(2);
/// How long it goes on where one comes after the other.
const LAST_OF_ALL: Duration = Duration::from_secs(1);

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
        // What the system has accepted already is served; only then the listener closes.
        let closes = Instant::now() + LAST_OF_ALL;
        while Instant::now() < closes
            && let Ok(accepted) = tokio::time::timeout(LAST, listener.accept()).await
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
                tokio::time::sleep(BREATHER).await;
            }
        }
    }

    async fn hand(&self, socket: TcpStream, thread: usize) {
        let Ok(seat) = self.seats.clone().try_acquire_owned() else { return full(socket, self.tls.is_some()).await };
        let Ok(socket) = socket.into_std() else { return };
        let seat = Box::new((seat, self.metrics.client_connection()));
        // Fails only when the thread has ended, and then so does this.
        let _ = self.threads[thread].send(Handed { socket, tls: self.tls.clone(), seat });
    }
}

/// Tells a client that there is no place; without TLS only, since a handshake would cost one.
async fn full(mut socket: TcpStream, tls: bool) {
    const BODY: &str = "{\"success\":false,\"message\":\"The gateway has as many connections as it can; try again\",\
        \"data\":null,\"error\":{\"code\":\"gateway.overloaded\",\"by\":\"gateway\",\"sent\":\"no\",\"retry_after\":1}}";
    if !tls {
        let answer = format!(
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n\
             retry-after: 1\r\nx-gateway-outcome: overloaded\r\nx-gateway-sent: no\r\ncontent-length: {}\r\n\r\n{BODY}",
            BODY.len()
        );
        let _ = tokio::time::timeout(BREATHER, socket.write_all(answer.as_bytes())).await;
    }
}
