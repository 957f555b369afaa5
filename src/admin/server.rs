//! The server of the admin port: few connections, each for a bounded time.
//!
//! Every connection is accepted; if there are too many, one without a request is closed (`connections`), so idle
//! clients keep nobody from health and metrics. A request head must be complete within [`HEAD`] (hyper's timer,
//! which also ends a connection that is idle for so long), a response is made within
//! `error::REQUEST_TIMEOUT`, and a connection ends after [`MAX_AGE`] whatever it does, so that a client
//! that does not read cannot keep a response in memory.
//!
//! A stop answers every request whose head was read, and what was in the backlog; it does not wait for a connection
//! without a request, nor for a client that does not take its response, unless that is the response to a command; and it
//! cuts off what is still in progress when the drain does.

use std::{
    convert::Infallible,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{HeaderValue, Method, StatusCode, header::CONNECTION},
    response::{IntoResponse as _, Response},
};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tower::ServiceExt as _;

use super::{
    Admin,
    connections::{Connections, OpenConnection, RequestInProgress},
    error::{AdminError, REQUEST_TIMEOUT},
    guard, router,
};
use crate::edge::{
    Drain,
    connection::FIRST_REQUEST,
    linger,
    listener::close,
    tls::{HandshakeResult, TLS_REQUIRED, TlsListener},
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
/// How long a client may take for a response when the port has stopped, at least; up to twice as long.
const TAKE_GRACE: Duration = Duration::from_secs(1);
/// How long a connection may still take for its last response when the drain cuts off what is in progress.
const CUT_GRACE: Duration = Duration::from_millis(250);
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A socket that listens, without blocking.
pub struct AdminListener {
    pub socket: StdListener,
    /// systemd holds it: what waits in its backlog is left to the next process.
    pub inherited: bool,
    /// `None`: cleartext.
    pub tls: Option<Arc<TlsListener>>,
}

/// Serves until the drain stops it. What has arrived by then is answered: connections and commands are among the drain's
/// `admin_tasks`.
pub async fn serve(AdminListener { socket, inherited, tls }: AdminListener, admin: Admin) {
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the admin socket could not be used"),
    };
    let drain = admin.drain.clone();
    let template = AdminConnection { router: router(admin), tls, drain: drain.clone() };
    let connections = Connections::default();
    let open = |socket: TcpStream| {
        // An error: its client has left.
        let Ok(peer) = socket.peer_addr() else { return };
        let (connection, place) = (template.clone(), Arc::new(connections.admit(peer.ip())));
        drain.admin_tasks.spawn(async move {
            tokio::select! {
                () = connection.open(socket, peer, place.clone()) => {}
                () = place.closed() => {}
            }
        });
    };
    loop {
        let accepted = tokio::select! {
            () = drain.stop_admin.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _)) => open(socket),
            Err(error) => {
                tracing::warn!(%error, "a connection to the admin port could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    if !inherited {
        close(listener, |socket| socket.and_then(TcpStream::from_std).into_iter().for_each(open)).await;
    }
}

/// One connection of the admin port; cloned for each accepted socket.
#[derive(Clone)]
pub(super) struct AdminConnection {
    pub(super) router: Router,
    pub(super) tls: Option<Arc<TlsListener>>,
    pub(super) drain: Drain,
}

impl AdminConnection {
    async fn open(self, socket: TcpStream, peer: SocketAddr, place: Arc<OpenConnection>) {
        // Responses are small and are written at once.
        let _ = socket.set_nodelay(true);
        let Some(tls) = self.tls.clone() else { return self.serve(socket, peer, place).await };
        let handshake = tokio::select! {
            handshake = tls.handshake(socket, HANDSHAKE, None) => handshake,
            () = self.stopped_for(FIRST_REQUEST) => return,
        };
        match handshake {
            HandshakeResult::Tls(socket) => self.serve(socket, peer, place).await,
            HandshakeResult::Cleartext(socket) => {
                let refusal = tls_required();
                let respond = linger::respond(socket, refusal.as_bytes());
                self.drain.stop_admin.run_until_cancelled(respond).await;
            }
            HandshakeResult::Failed => {}
        }
    }

    pub(super) async fn serve<S>(self, io: S, peer: SocketAddr, place: Arc<OpenConnection>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (router, drain, own) = (self.router.clone(), self.drain.clone(), place.clone());
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            let begun = own.begin(guard::is_health(request.uri().path()));
            let changes = request.method() == Method::POST;
            let (response, drain) = (router.clone().oneshot(request), drain.clone());
            async move {
                let mut response = match begun {
                    Some(in_progress) => {
                        let response = response.await?;
                        match changes && response.status().is_success() {
                            true => response.map(|body| until_taken(body, in_progress)),
                            false => response,
                        }
                    }
                    None => too_many(),
                };
                if drain.begun() {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(BUFFER);
        let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(io), service));
        tokio::select! {
            biased;
            // An error here is the client's: nothing to report.
            _ = connection.as_mut() => return,
            () = self.drain.stop_admin.cancelled() => {}
            () = sleep(MAX_AGE) => {}
        }
        // A first request may have arrived without having been read: it was in the backlog.
        if place.is_unused() {
            tokio::select! {
                _ = connection.as_mut() => return,
                () = sleep(FIRST_REQUEST) => {}
                () = self.cut_off() => {}
            }
            if place.is_unused() {
                return;
            }
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            _ = timeout(GRACE, connection.as_mut()) => {}
            () = self.stopped_at_rest(&place) => {}
            () = self.cut_off() => {}
        }
    }

    /// Returns when the admin port has been stopped for so long.
    async fn stopped_for(&self, time: Duration) {
        self.drain.stop_admin.cancelled().await;
        sleep(time).await;
    }

    /// Returns when the admin port has been stopped, and no request of the connection has been in progress for a while.
    async fn stopped_at_rest(&self, place: &OpenConnection) {
        self.drain.stop_admin.cancelled().await;
        loop {
            let before = place.at_rest_since();
            sleep(TAKE_GRACE).await;
            if before.is_some() && place.at_rest_since() == before {
                return;
            }
        }
    }

    /// Returns when the last response must be written.
    async fn cut_off(&self) {
        self.drain.cut.cancelled().await;
        sleep(CUT_GRACE).await;
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

/// A body of which the request is in progress until the last byte is taken from it.
fn until_taken(body: Body, in_progress: RequestInProgress) -> Body {
    Body::new(body.map_frame(move |frame| {
        let _held = &in_progress;
        frame
    }))
}

fn too_many() -> Response {
    let message = "too many requests are in progress on the admin port; try again";
    AdminError::new(StatusCode::SERVICE_UNAVAILABLE, "admin.overloaded", message).into_response()
}
