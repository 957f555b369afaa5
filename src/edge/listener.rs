//! Listening sockets: bound before anything is started or inherited from systemd, and the accept loop.
//!
//! What always holds: a listening socket has the longest backlog that the system allows; at most `limits.connections`
//! connections at a time; a further one for which none makes room is told so (503), counted and logged; an accept error
//! never ends the loop. The drain waits for the accept loops: when one closes its own socket, every connection that the
//! kernel has completed is served first, and an inherited socket is left to the next process. This file must not know
//! requests.

use std::{
    io::{self, Write as _},
    net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc::UnboundedSender},
    time::{Instant, sleep, timeout},
};

use super::{
    Drain,
    connection_limit::{AdmittedConnection, ConnectionLimit},
    linger::linger,
    runtime::AcceptedSocket,
    tls::TlsListener,
    unread,
};
use crate::{outcome::Code, record::Metrics, refusal::Refusal, snapshot::Snapshot};

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
    pub limit: Arc<ConnectionLimit>,
    pub metrics: Arc<Metrics>,
    /// The snapshot in force, which records refusals.
    pub current: Arc<ArcSwap<Snapshot>>,
    /// One permit for each refused connection that may be kept until its client has read the refusal: [`REFUSED`].
    pub refused: Arc<Semaphore>,
    /// `None`: cleartext.
    pub tls: Option<Arc<TlsListener>>,
    /// Its `stop` ends the loop. Its `tasks` count connections from accept to close, so that the drain waits for those
    /// that no data thread has seen yet.
    pub drain: Drain,
    /// systemd holds the listening sockets: they stay open when this process ends, and the next process accepts
    /// what waits in their backlog.
    pub inherited: bool,
}

/// Maximum number of connections beyond the limit that are kept until their client has read the refusal. Others are
/// closed as soon as it is written, and a client that is still sending may lose it.
pub const REFUSED: usize = 64;

/// Pause after a failed accept: the process is out of file descriptors, and some must be closed first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a closing listener waits for one more connection: some clients have begun a handshake, which takes them a
/// round trip.
const BACKLOG_WAIT: Duration = Duration::from_millis(50);
/// How long a closing listener goes on accepting if connections keep coming.
const BACKLOG_LIMIT: Duration = Duration::from_secs(1);

impl Acceptor {
    /// Accepts until the drain stops it, then closes the listener.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        let mut next = 0;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.drain.stop.cancelled() => break,
            };
            match accepted {
                Ok((socket, peer)) => {
                    let admitted = self.limit.admit_or_make_room(Some(peer.ip())).await;
                    self.take(socket.into_std(), admitted, &mut next);
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted; it waits in the backlog");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        if !self.inherited {
            let admit = |socket: &StdStream| self.limit.admit(socket.peer_addr().ok().map(|peer| peer.ip()));
            close(listener, |socket| {
                let admitted = socket.as_ref().ok().and_then(admit);
                self.take(socket, admitted, &mut next);
            })
            .await;
        }
    }

    /// Hands a connection to the next data thread, or refuses it.
    fn take(&self, socket: io::Result<StdStream>, admitted: Option<AdmittedConnection>, next: &mut usize) {
        let Ok(socket) = socket else { return };
        let Some(admitted) = admitted else {
            return self.refuse(socket);
        };
        let guard = connection_guard(&self.metrics, &self.drain);
        // Fails only if the data thread has ended, which happens only at the end of the process.
        let _ = self.threads[*next].send(AcceptedSocket { socket, tls: self.tls.clone(), admitted, guard });
        *next = (*next + 1) % self.threads.len();
    }

    /// Refuses a connection beyond the limit.
    fn refuse(&self, mut socket: StdStream) {
        tracing::warn!("a connection was refused: there are as many as `limits.connections` allows");
        // With TLS it is only closed: a handshake would cost a connection.
        let recorder = self.current.load().recorder.clone();
        if self.tls.is_some() {
            return drop(recorder.unreadable(None, Code::GatewayOverloaded));
        }
        let message = "The gateway has as many connections as `limits.connections` allows; try again in 1 s";
        let refusal = Refusal::new(Code::GatewayOverloaded, message).retry_after(Duration::from_secs(1));
        // The send buffer of a new connection has room for it.
        let _ = socket.write_all(&unread::refuse(&recorder, &refusal));
        let Ok(permit) = self.refused.clone().try_acquire_owned() else { return };
        let Ok(socket) = TcpStream::from_std(socket) else { return };
        let cut = self.drain.cut.clone();
        self.drain.tasks.spawn(async move {
            cut.run_until_cancelled(linger(socket)).await;
            drop(permit);
        });
    }
}

/// What a connection holds from accept to close beside its permit: its count, and its place among what the drain waits for.
fn connection_guard(metrics: &Arc<Metrics>, drain: &Drain) -> Box<dyn Send> {
    Box::new((metrics.client_connection(), drain.tasks.token()))
}

/// Closes a listening socket of this process. The kernel resets what is in the backlog at that moment, so it is served first.
pub(crate) async fn close(listener: TcpListener, mut serve: impl FnMut(io::Result<StdStream>)) {
    begin_no_more(&listener);
    let closes = Instant::now() + BACKLOG_LIMIT;
    while Instant::now() < closes
        && let Ok(Ok((socket, _))) = timeout(BACKLOG_WAIT, listener.accept()).await
    {
        serve(socket.into_std());
    }
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((socket, _)) = listener.accept() {
        serve(socket.set_nonblocking(true).map(|()| socket));
    }
}

/// Lets no further handshake begin: a filter drops SYN segments, and nothing else, so that those that have begun are
/// completed. However often the backlog was emptied, another connection could be completed before the close, and be
/// reset. Clients repeat the SYN after a second, and then find the next process, or that the port is closed.
#[cfg(target_os = "linux")]
fn begin_no_more(listener: &TcpListener) {
    use socket2::{SockFilter, SockRef};
    // Classic BPF, on the TCP header (linux/filter.h): the flags are in its byte 13.
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    let filter = [
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    // Where filters are not supported, the backlog is only emptied.
    let _ = SockRef::from(listener).attach_filter(&filter);
}

#[cfg(not(target_os = "linux"))]
fn begin_no_more(_: &TcpListener) {}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

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

    #[test]
    fn the_drain_waits_for_a_connection_that_no_data_thread_has_seen_yet() {
        let drain = Drain::default();
        let guard = connection_guard(&Metrics::new().unwrap(), &drain);
        assert!(!drain.tasks.is_empty());
        drop(guard);
        assert!(drain.tasks.is_empty());
    }

    /// A client that is connected is served, whenever it came: one that is not can try elsewhere.
    #[tokio::test(flavor = "multi_thread")]
    async fn no_connection_that_was_completed_is_reset_by_a_close() {
        for _ in 0..8 {
            let listener = bind("data", "127.0.0.1:0".parse().unwrap()).unwrap();
            let address = listener.local_addr().unwrap();
            let clients: Vec<_> = (0..8).map(|_| std::thread::spawn(move || until_closed(address))).collect();
            let listener = TcpListener::from_std(listener).unwrap();
            let respond = |socket: io::Result<StdStream>| socket.unwrap().write_all(b"x").unwrap();
            for _ in 0..200 {
                respond(listener.accept().await.unwrap().0.into_std());
            }
            close(listener, respond).await;
            let served: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
            assert!(served >= 200);
        }
    }

    /// Connects again and again until that fails; each connection gets its byte.
    fn until_closed(address: SocketAddr) -> usize {
        let mut served = 0;
        while let Ok(mut socket) = StdStream::connect_timeout(&address, Duration::from_millis(200)) {
            let mut response = [0];
            socket.read_exact(&mut response).unwrap_or_else(|error| panic!("connected, but {error}"));
            served += 1;
        }
        served
    }
}
