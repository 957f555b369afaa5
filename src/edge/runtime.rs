//! Threads: where it is decided how many there are and what runs on which.

use std::{io, net::TcpStream as StdStream, sync::Arc, thread::JoinHandle, time::Duration};

use tokio::{
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};
use tokio_rustls::TlsAcceptor;

use super::connection::{self, Context};
use crate::snapshot::Worker;

/// How often a worker looks through its idle connections to Fastrac.
const SWEEP: Duration = Duration::from_secs(2);

/// A socket on its way to a data thread, with what must live as long as it.
pub struct Handed {
    /// Non-blocking.
    pub socket: StdStream,
    /// TLS, if the listener asks for it.
    pub tls: Option<TlsAcceptor>,
    /// Its place among the connections.
    pub seat: Box<dyn Send>,
}

/// A data thread.
pub struct DataThread {
    /// Where sockets are handed to it; it ends when this is dropped and all its tasks are done.
    pub sockets: UnboundedSender<Handed>,
    /// To be joined at the end.
    pub thread: JoinHandle<()>,
}

/// Starts a data thread.
///
/// # Errors
/// If the system gives no thread or no event queue.
pub fn start(index: usize, make: impl FnOnce(Arc<Worker>) -> Arc<Context>) -> io::Result<DataThread> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (sockets, receiver) = unbounded_channel();
    let context = make(Arc::new(Worker::default()));
    let thread = std::thread::Builder::new()
        .name(format!("data-{index}"))
        .spawn(move || runtime.block_on(run(receiver, context)))?;
    Ok(DataThread { sockets, thread })
}

async fn run(mut sockets: UnboundedReceiver<Handed>, context: Arc<Context>) {
    let mut sweep = tokio::time::interval(SWEEP);
    let tasks = context.drain.tasks.clone();
    loop {
        tokio::select! {
            handed = sockets.recv() => match handed {
                Some(handed) => {
                    tasks.spawn(open(handed, context.clone()));
                }
                None => break,
            },
            _ = sweep.tick() => context.worker.pool.sweep(),
        }
    }
    context.worker.pool.clear();
    tokio::select! {
        () = tasks.wait() => {}
        () = context.drain.cut.cancelled() => {}
    }
}

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

async fn open(handed: Handed, context: Arc<Context>) {
    let Handed { socket, tls, seat } = handed;
    let Ok(socket) = TcpStream::from_std(socket) else { return };
    // Small answers must not wait for the peer's acknowledgement.
    let _ = socket.set_nodelay(true);
    match tls {
        None => connection::serve(socket, context).await,
        // On the heap: most connections are plain, and none should be as large as a TLS session.
        Some(tls) => Box::pin(open_tls(socket, tls, context)).await,
    }
    drop(seat);
}

async fn open_tls(socket: TcpStream, tls: TlsAcceptor, context: Arc<Context>) {
    match tokio::time::timeout(HANDSHAKE, tls.accept(socket)).await {
        Ok(Ok(stream)) => connection::serve(stream, context).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}
