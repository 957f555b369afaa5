//! The server of the admin port: few connections, each for a bounded time.
//!
//! Every connection is accepted; if there are too many, one without a request is closed (`connections`), so idle
//! clients keep nobody from health and metrics. A request head must be complete within [`HEAD`] (hyper's timer,
//! which also ends a connection that is idle for so long), a response is made within
//! `error::REQUEST_TIMEOUT`, and a connection ends after [`MAX_AGE`] whatever it does, so that a client
//! that does not read cannot keep a response in memory.

use std::{net::SocketAddr, net::TcpListener as StdListener, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::{
    Admin,
    connections::{Connections, OpenConnection},
    error::{AdminError, REQUEST_TIMEOUT},
    guard, router,
};
use crate::edge::{
    linger,
    tls::{self, HandshakeResult, TLS_REQUIRED},
};

/// Maximum size of a request head, in bytes.
const BUFFER: usize = 16 * 1024;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a head may take, and how long a connection may be idle.
const HEAD: Duration = Duration::from_secs(10);
/// Maximum age of a connection.
pub(super) const MAX_AGE: Duration = Duration::from_secs(120);
/// How long the request in progress may still take after that.
pub(super) const GRACE: Duration = Duration::from_secs(REQUEST_TIMEOUT.as_secs() + 5);
/// How long the request in progress may still take when the process ends.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stop`, then ends what is in progress within a second. `listener` must be non-blocking.
pub async fn serve(listener: StdListener, admin: Admin, stop: CancellationToken, tls: Option<Arc<tls::TlsListener>>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the admin socket could not be used"),
    };
    let template = AdminConnection { router: router(admin), tls, stop };
    let connections = Connections::default();
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = template.stop.cancelled() => break,
            accepted = accept(&listener) => accepted,
        };
        let Some((socket, peer)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (connection, place) = (template.clone(), Arc::new(connections.admit(peer.ip())));
        tasks.spawn(async move {
            tokio::select! {
                () = connection.open(socket, peer, place.clone()) => {}
                () = place.closed() => {}
            }
        });
    }
    drop(listener);
    tasks.close();
    // Connections end by themselves at `stop`; the timeout is for one whose task does not get to run.
    let _ = timeout(STOP_GRACE + ACCEPT_PAUSE, tasks.wait()).await;
}

async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::warn!(%error, "a connection to the admin port could not be accepted");
            None
        }
    }
}

/// One connection of the admin port; cloned for each accepted socket.
#[derive(Clone)]
pub(super) struct AdminConnection {
    pub(super) router: Router,
    pub(super) tls: Option<Arc<tls::TlsListener>>,
    pub(super) stop: CancellationToken,
}

impl AdminConnection {
    async fn open(self, socket: TcpStream, peer: SocketAddr, place: Arc<OpenConnection>) {
        // Responses are small and are written at once.
        let _ = socket.set_nodelay(true);
        match self.tls.clone() {
            None => self.serve(socket, peer, place).await,
            Some(tls) => match tls.handshake(socket, HANDSHAKE).await {
                HandshakeResult::Tls(socket) => self.serve(socket, peer, place).await,
                HandshakeResult::Cleartext(socket) => {
                    self.stop.run_until_cancelled(linger::respond(socket, tls_required().as_bytes())).await;
                }
                HandshakeResult::Failed => {}
            },
        }
    }

    pub(super) async fn serve<S>(self, io: S, peer: SocketAddr, place: Arc<OpenConnection>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let AdminConnection { router, stop, .. } = self;
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            let begun = place.begin(guard::is_health(request.uri().path()));
            let response = router.clone().oneshot(request);
            async move {
                let Some(_in_progress) = begun else { return Ok(too_many()) };
                response.await
            }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(BUFFER);
        let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(io), service));
        let grace = tokio::select! {
            // An error here is the client's: nothing to report.
            _ = connection.as_mut() => return,
            () = stop.cancelled() => STOP_GRACE,
            () = sleep(MAX_AGE) => GRACE,
        };
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            _ = timeout(grace, connection.as_mut()) => {}
            () = async { stop.cancelled().await; sleep(STOP_GRACE).await } => {}
        }
    }
}

/// The response to cleartext HTTP where TLS is required.
fn tls_required() -> String {
    let body = serde_json::json!({"error": {"code": "request.malformed", "message": TLS_REQUIRED}}).to_string();
    format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
         x-content-type-options: nosniff\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn too_many() -> Response {
    let message = "too many requests are in progress on the admin port; try again";
    AdminError::new(StatusCode::SERVICE_UNAVAILABLE, "admin.overloaded", message).into_response()
}
