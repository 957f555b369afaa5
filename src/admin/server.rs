//! Serves the admin port: few connections, each for a bounded time.
//!
//! A seat is held from accept to close; a head must be whole within [`HEAD`] (hyper's timer, which
//! also ends a connection that has been idle for so long), an answer is made within
//! `answer::REQUEST`, and a connection ends after [`LIFE`] whatever it does, so that a client that
//! doesn't read can't keep an answer in memory. When all seats are taken, others wait in the
//! system's queue.

use std::{net::SocketAddr, net::TcpListener as StdListener, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::{Admin, answer::REQUEST, router};
use crate::edge::tls::{self, Shaken};

/// Open connections: some scrapers, some probes, some people.
const CONNECTIONS: usize = 64;
/// Longest head, bytes.
const BUFFER: usize = 16 * 1024;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a head may take, and how long a connection may be idle.
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection is kept.
pub(super) const LIFE: Duration = Duration::from_secs(120);
/// How long the answer under way may still take when a connection has lived that long.
pub(super) const LAST: Duration = Duration::from_secs(REQUEST.as_secs() + 5);
/// And at the end of the process.
const LAST_OF_ALL: Duration = Duration::from_secs(1);
/// How long to wait after the system refused a socket.
const BREATHER: Duration = Duration::from_millis(50);

/// Serves until `stop`, then ends what is under way within a second. `listener` must be
/// non-blocking.
pub async fn serve(listener: StdListener, admin: Admin, stop: CancellationToken, tls: Option<Arc<tls::Door>>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the admin socket could not be used"),
    };
    let door = Door { router: router(admin), tls, stop };
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = door.stop.cancelled() => break,
            accepted = accept(&listener, &seats) => accepted,
        };
        let Some((socket, peer, seat)) = accepted else {
            sleep(BREATHER).await;
            continue;
        };
        let door = door.clone();
        tasks.spawn(async move {
            door.open(socket, peer).await;
            drop(seat);
        });
    }
    drop(listener);
    tasks.close();
    // Connections see `stop` themselves; this is for one that doesn't get to it.
    let _ = timeout(LAST_OF_ALL + BREATHER, tasks.wait()).await;
}

async fn accept(
    listener: &TcpListener,
    seats: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let seat = seats.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((socket, peer)) => Some((socket, peer, seat)),
        Err(error) => {
            tracing::warn!(%error, "a connection to the admin port could not be accepted");
            None
        }
    }
}

/// What every connection needs.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) router: Router,
    pub(super) tls: Option<Arc<tls::Door>>,
    pub(super) stop: CancellationToken,
}

impl Door {
    async fn open(self, socket: TcpStream, peer: SocketAddr) {
        // Answers are small and go out whole.
        let _ = socket.set_nodelay(true);
        match self.tls.clone() {
            None => self.talk(socket, peer).await,
            Some(tls) => {
                if let Shaken::Tls(socket) = tls.shake(socket, HANDSHAKE).await {
                    self.talk(socket, peer).await;
                }
            }
        }
    }

    pub(super) async fn talk<S>(self, io: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Door { router, stop, .. } = self;
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            router.clone().oneshot(request)
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(BUFFER);
        let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(io), service));
        let last = tokio::select! {
            // How a client leaves is its own affair.
            _ = connection.as_mut() => return,
            () = stop.cancelled() => LAST_OF_ALL,
            () = sleep(LIFE) => LAST,
        };
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            _ = timeout(last, connection.as_mut()) => {}
            () = async { stop.cancelled().await; sleep(LAST_OF_ALL).await } => {}
        }
    }
}
