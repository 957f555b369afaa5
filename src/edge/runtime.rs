//! The data threads: one current-thread runtime each, with a connection pool of its own.
//!
//! The only place that decides which thread a connection runs on: sockets are handed to the threads in
//! turn, and a connection stays where it began. A thread ends when no socket can come any more and all tasks
//! are done, or when the drain cuts off what is left. It then waits for nothing: name lookups that hang are left behind.

use std::{io, net::TcpStream as StdStream, sync::Arc, time::Duration};

use tokio::{
    net::TcpStream,
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot,
    },
};

use super::{
    connection::{self, Context, FIRST_REQUEST, Protocol},
    connection_limit::{AdmittedConnection, ConnectionStanding},
    heartbeat::Heartbeat,
    linger,
    tls::{HandshakeResult, TLS_REQUIRED, TlsListener},
    unread,
};
use crate::{
    caller::{Client, ClientCertificate},
    deadline::within,
    outcome::Code,
    refusal::Refusal,
    snapshot::Worker,
};

/// How often a worker closes expired idle connections to Fastrac, and shows that it makes progress.
const SWEEP: Duration = Duration::from_secs(2);

/// How many bytes the kernel takes before they can be sent to the client, about. By default it takes up to several MiB,
/// and more only when a third of that is free: a client that reads slowly would seem to read nothing for a long time.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 * 1024;

/// An accepted socket on its way to a data thread.
pub struct AcceptedSocket {
    /// Non-blocking.
    pub socket: StdStream,
    /// `None`: the listener is cleartext.
    pub tls: Option<Arc<TlsListener>>,
    /// The permit for one of `limits.connections`, until the connection ends.
    pub admitted: AdmittedConnection,
    /// Counts the connection until it ends.
    pub guard: Box<dyn Send>,
}

/// A data thread.
pub struct DataThread {
    /// Sends sockets to the thread; when it is dropped, the thread ends after the last task.
    pub sockets: UnboundedSender<AcceptedSocket>,
    pub heartbeat: Heartbeat,
    /// Completes when the thread has dropped everything it held.
    pub ended: oneshot::Receiver<()>,
}

/// Starts a data thread.
///
/// # Errors
/// If the system cannot create a thread or an event queue.
pub fn start(index: usize, make: impl FnOnce(Arc<Worker>) -> Arc<Context>) -> io::Result<DataThread> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (sockets, receiver) = unbounded_channel();
    let (end, ended) = oneshot::channel();
    let context = make(Arc::new(Worker::default()));
    let heartbeat = Heartbeat::new(format!("data-{index}"));
    let beats = heartbeat.clone();
    std::thread::Builder::new().name(heartbeat.name().to_owned()).spawn(move || {
        runtime.block_on(run(receiver, context, &beats));
        // Drops what was cut off, but does not wait for blocking calls, such as a name lookup.
        runtime.shutdown_background();
        drop(end);
    })?;
    Ok(DataThread { sockets, heartbeat, ended })
}

async fn run(mut sockets: UnboundedReceiver<AcceptedSocket>, context: Arc<Context>, heartbeat: &Heartbeat) {
    let mut sweep = tokio::time::interval(SWEEP);
    let (tasks, cut) = (context.drain.tasks.clone(), context.drain.cut.clone());
    let mut accepting = true;
    loop {
        tokio::select! {
            accepted = sockets.recv(), if accepting => match accepted {
                Some(accepted) => {
                    tasks.spawn(open(accepted, context.clone()));
                }
                None => {
                    accepting = false;
                    context.worker.pool.clear();
                }
            },
            _ = sweep.tick() => {
                heartbeat.beat();
                context.worker.pool.sweep();
            }
            () = tasks.wait(), if !accepting => return,
            () = cut.cancelled() => return,
        }
    }
}

async fn open(accepted: AcceptedSocket, context: Arc<Context>) {
    let AcceptedSocket { socket, tls, admitted, guard } = accepted;
    let Ok(socket) = TcpStream::from_std(socket) else {
        return drop(context.current.load().recorder.unreadable(None, Code::GatewayOverloaded));
    };
    let peer = socket.peer_addr().ok().map(|peer| peer.ip());
    // Nagle's algorithm would hold small responses back until the peer acknowledges earlier data.
    let _ = socket.set_nodelay(true);
    // Not available on every system; it only makes progress visible earlier.
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT);
    let client = Client { peer, identified: admitted.standing.identified.clone(), ..Client::default() };
    match tls {
        None => {
            let peek = peek_protocol(&socket, &context);
            if let Some(Some(protocol)) = admitted.standing.run_until_told(peek).await {
                connection::serve(socket, protocol, client, &admitted.standing, context).await;
            }
        }
        // Boxed: most connections are cleartext, and their future should not be as large as a TLS session.
        Some(tls) => Box::pin(open_tls(socket, tls, client, &admitted.standing, context)).await,
    }
    drop((admitted, guard));
}

/// Detects the protocol from the first bytes without consuming them. `None`: the peer sent nothing in time.
async fn peek_protocol(socket: &TcpStream, context: &Context) -> Option<Protocol> {
    let idle = context.current.load().limits.idle;
    let peek = async {
        let mut first = [0; 4];
        let length = socket.peek(&mut first).await.ok()?;
        (length > 0).then(|| Protocol::of(&first[..length]))
    };
    let mut peek = std::pin::pin!(within(idle, peek));
    let peeked = tokio::select! {
        peeked = peek.as_mut() => peeked,
        () = context.drain.stop.cancelled() => within(FIRST_REQUEST, peek).await?,
    };
    peeked?
}

/// Accepts TLS. A handshake may take as long as a request head (`limits.header_read`), from its first byte.
async fn open_tls(
    socket: TcpStream,
    listener: Arc<TlsListener>,
    client: Client,
    standing: &Arc<ConnectionStanding>,
    context: Arc<Context>,
) {
    let handshake = async {
        peek_protocol(&socket, &context).await?;
        let (within, share) = {
            let current = context.current.load();
            (current.limits.header_read, current.memory_shares.of_unidentified().clone())
        };
        Some(listener.handshake(socket, within, Some(share)).await)
    };
    let Some(Some(result)) = standing.run_until_told(handshake).await else { return };
    match result {
        HandshakeResult::Tls(stream) => {
            let session = stream.get_ref().1;
            let protocol = if session.alpn_protocol() == Some(b"h2") { Protocol::Http2 } else { Protocol::Http1 };
            let leaf = session.peer_certificates().and_then(<[_]>::first);
            let certificate = leaf.map(|leaf| Arc::new(ClientCertificate::of(leaf)));
            connection::serve(stream, protocol, Client { certificate, ..client }, standing, context).await;
        }
        HandshakeResult::Cleartext(socket) => {
            standing.run_until_told(refuse_cleartext(socket, &context)).await;
        }
        HandshakeResult::Failed => {}
    }
}

/// Tells a client that speaks HTTP without TLS what is wrong, in HTTP.
async fn refuse_cleartext(socket: TcpStream, context: &Context) {
    let refusal = Refusal::new(Code::RequestMalformed, TLS_REQUIRED);
    let response = unread::refuse(&context.current.load().recorder, &refusal);
    context.drain.cut.run_until_cancelled(linger::respond(socket, &response)).await;
}
