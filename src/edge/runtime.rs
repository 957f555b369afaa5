//! Threads: where it is decided how many there are and what runs on which.

use std::{io, net::TcpStream as StdStream, sync::Arc, thread::JoinHandle, time::Duration};

use tokio::{
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

use super::{
    connection::{self, Context, FIRST_REQUEST, Protocol},
    tls::{Door, Shaken},
};
use crate::{caller::Certificate, outcome::Code, snapshot::Worker};

/// How often a worker looks through its idle connections to Fastrac.
const SWEEP: Duration = Duration::from_secs(2);

/// A socket on its way to a data thread, with what must live as long as it.
pub struct Handed {
    /// Non-blocking.
    pub socket: StdStream,
    /// TLS, if the listener asks for it.
    pub tls: Option<Arc<Door>>,
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

async fn open(handed: Handed, context: Arc<Context>) {
    let Handed { socket, tls, seat } = handed;
    let Ok(socket) = TcpStream::from_std(socket) else { return };
    // Small answers must not wait for the peer's acknowledgement.
    let _ = socket.set_nodelay(true);
    match tls {
        None => {
            if let Some(speaks) = first_bytes(&socket, &context).await {
                connection::serve(socket, (speaks, None), context).await;
            }
        }
        // On the heap: most connections are plain, and none should be as large as a TLS session.
        Some(tls) => Box::pin(open_tls(socket, tls, context)).await,
    }
    drop(seat);
}

/// Looks at a connection's first bytes, and leaves them there. `None` if none come.
async fn first_bytes(socket: &TcpStream, context: &Context) -> Option<Protocol> {
    let idle = context.current.load().limits.idle;
    let look = async {
        let mut first = [0; 4];
        let length = socket.peek(&mut first).await.ok()?;
        (length > 0).then(|| Protocol::of(&first[..length]))
    };
    let mut look = std::pin::pin!(tokio::time::timeout(idle, look));
    let looked = tokio::select! {
        looked = look.as_mut() => looked,
        () = context.drain.stop.cancelled() => tokio::time::timeout(FIRST_REQUEST, look).await.ok()?,
    };
    looked.ok()?
}

/// A handshake has the time of a head: from its first byte.
async fn open_tls(socket: TcpStream, door: Arc<Door>, context: Arc<Context>) {
    if first_bytes(&socket, &context).await.is_none() {
        return;
    }
    let within = context.current.load().limits.header_read;
    match door.shake(socket, within).await {
        Shaken::Tls(stream) => {
            let session = stream.get_ref().1;
            let speaks = if session.alpn_protocol() == Some(b"h2") { Protocol::Http2 } else { Protocol::Http1 };
            let leaf = session.peer_certificates().and_then(<[_]>::first);
            let certificate = leaf.map(|leaf| Arc::new(Certificate::of(leaf)));
            connection::serve(stream, (speaks, certificate), context).await;
        }
        Shaken::Cleartext => drop(context.current.load().recorder.unreadable(Some(400), Code::RequestMalformed)),
        Shaken::Not => {}
    }
}
