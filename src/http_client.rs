//! One HTTP/1.1 request on a connection of its own, for the vault and the command line.
//!
//! Connecting and the whole exchange have a deadline, and the size of the response is bounded; a server that sends
//! without end holds up neither the deadline nor other tasks. Redirects are not followed. Received bytes are zeroed in
//! every buffer that this process owns alone, since a response may contain a secret. Knows nothing of the requests' meaning. Fails with [`HttpError`].

use std::{future::poll_fn, io, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header::LOCATION};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tokio_rustls::TlsConnector;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    connector::{ConnectError, Connector, UnusableConnection},
    deadline::within,
    limited_read::{LimitedRead, ReadLimits},
};

/// Bounds of one request.
#[derive(Clone, Copy)]
pub(crate) struct HttpBounds {
    /// Deadline for TCP and TLS together.
    pub(crate) connect: Duration,
    /// Deadline for the whole exchange, including the connection.
    pub(crate) exchange: Duration,
    /// Maximum size of the response's body, in bytes.
    pub(crate) max_response: usize,
}

pub(crate) struct HttpResponse {
    pub(crate) status: StatusCode,
    pub(crate) body: Zeroizing<Vec<u8>>,
    /// Value of `location`.
    pub(crate) location: Option<String>,
}

/// There is no complete response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("the host is not a name that TLS can check")]
    Name,
    #[error("{0}")]
    Connect(#[from] ConnectError),
    /// The connection broke, or what came is not HTTP.
    #[error("{0}")]
    Exchange(#[from] hyper::Error),
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// With the maximum, in bytes.
    #[error("the answer is longer than {} MiB", .0 >> 20)]
    TooLong(usize),
    /// What came cannot be kept.
    #[error("{0}")]
    Kept(io::Error),
}

/// A connection, perhaps over TLS.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Where a request goes.
pub(crate) struct HttpServer<'a> {
    /// A name or an address, without brackets.
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    /// `None`: cleartext.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// Opens a connection, over TLS if the server has it, within `limit`.
///
/// # Errors
/// [`HttpError::Name`], [`HttpError::Connect`] and [`HttpError::Deadline`].
pub(crate) async fn connect(
    connector: &Connector,
    server: HttpServer<'_>,
    limit: Duration,
) -> Result<Box<dyn Connection>, HttpError> {
    let HttpServer { host, port, tls } = server;
    let by = Instant::now() + limit;
    let tls = match tls {
        Some(tls) => {
            let name = ServerName::try_from(host.to_owned()).map_err(|_| HttpError::Name)?;
            Some((TlsConnector::from(tls), name))
        }
        None => None,
    };
    let tls = &tls;
    let prepare = |tcp| async move {
        io::Result::Ok(match tls {
            Some((tls, name)) => Box::new(tls.connect(name.clone(), tcp).await?) as Box<dyn Connection>,
            None => Box::new(tcp),
        })
    };
    connector.open(host, port, by, prepare).await.map_err(|error| match error {
        UnusableConnection::NoConnection(error) => error.into(),
        UnusableConnection::Unusable(error) => ConnectError::from(error).into(),
        UnusableConnection::Silent => HttpError::Deadline(limit),
    })
}

/// Sends a request on the connection that `connect` opens within [`HttpBounds::connect`], and closes it.
///
/// # Errors
/// What `connect` fails with, or [`HttpError`]. Any status is a response. Cancel safe.
pub(crate) async fn send<E: From<HttpError>>(
    connect: impl Future<Output = Result<Box<dyn Connection>, E>>,
    request: Request<Full<Bytes>>,
    bounds: HttpBounds,
) -> Result<HttpResponse, E> {
    let mut frames = Vec::new();
    let mut keep = |_, frame| {
        frames.push(frame);
        Ok(())
    };
    let head = receive(connect, request, bounds, &mut keep).await;
    let body = joined(frames);
    head.map(|ResponseHead { status, location }| HttpResponse { status, body, location })
}

/// Given each piece of a response's body, and its status.
pub(crate) type KeepFrame<'a> = &'a mut (dyn FnMut(StatusCode, Bytes) -> io::Result<()> + Send);

/// The same, but the body goes to `keep`, piece by piece.
///
/// # Errors
/// As [`send`], and [`HttpError::Kept`].
pub(crate) async fn receive<E: From<HttpError>>(
    connect: impl Future<Output = Result<Box<dyn Connection>, E>>,
    request: Request<Full<Bytes>>,
    bounds: HttpBounds,
    keep: KeepFrame<'_>,
) -> Result<ResponseHead, E> {
    let exchange = async { Ok(exchange(connect.await?, request, bounds.max_response, keep).await?) };
    within(bounds.exchange, exchange).await.ok_or(HttpError::Deadline(bounds.exchange))?
}

pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    location: Option<String>,
}

async fn exchange(
    connection: Box<dyn Connection>,
    request: Request<Full<Bytes>>,
    max_response: usize,
    keep: KeepFrame<'_>,
) -> Result<ResponseHead, HttpError> {
    let limits = ReadLimits::default();
    let io = LimitedRead::new(connection, limits.clone());
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    limits.begin_request();
    let mut response = pin!(async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        limits.end_head();
        collect(body, &limits, max_response, &mut |frame| keep(head.status, frame)).await?;
        let location = head.headers.get(LOCATION).and_then(|value| value.to_str().ok());
        Ok(ResponseHead { status: head.status, location: location.map(str::to_owned) })
    });
    // Boxed, so that it is dropped before the buffers are zeroed.
    let mut connection = Box::pin(connection);
    tokio::select! {
        biased;
        head = &mut response => head,
        // The connection ended, perhaps after the complete response.
        _ = &mut connection => response.await,
    }
}

/// Passes the frames of a body on.
async fn collect(
    mut body: Incoming,
    limits: &ReadLimits,
    max: usize,
    keep: &mut (dyn FnMut(Bytes) -> io::Result<()> + Send),
) -> Result<(), HttpError> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        limits.piece();
        poll_fn(|cx| limits.poll_turn(cx)).await;
        let Ok(bytes) = frame?.into_data() else { continue };
        length += bytes.len();
        if length > max {
            return Err(HttpError::TooLong(max));
        }
        keep(bytes).map_err(HttpError::Kept)?;
    }
    Ok(())
}

/// Copies the frames into one buffer, and zeroes each frame that nothing else shares.
fn joined(frames: Vec<Bytes>) -> Zeroizing<Vec<u8>> {
    let mut body = Zeroizing::new(Vec::with_capacity(frames.iter().map(Bytes::len).sum()));
    for frame in frames {
        body.extend_from_slice(&frame);
        if let Ok(mut own) = frame.try_into_mut() {
            own.as_mut().zeroize();
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpSocket, TcpStream},
        time::timeout,
    };

    use super::*;

    const BOUNDS: HttpBounds =
        HttpBounds { connect: Duration::from_secs(3), exchange: Duration::from_secs(6), max_response: 1 << 10 };

    /// A listener that accepts nothing and whose backlog is full.
    async fn silent(address: SocketAddr) -> (TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(0).unwrap();
        let mut filled = Vec::new();
        while let Ok(connected) = timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
            filled.push(connected.unwrap());
        }
        (listener, filled)
    }

    #[tokio::test]
    async fn a_silent_address_leaves_the_others_their_chance() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let first = SocketAddr::from(([127, 0, 0, 2], port));
        let _silent = silent(first).await;
        let addresses = vec![first, listener.local_addr().unwrap()];
        let connector = Connector::with_lookup(move |_| Ok(addresses.clone()));
        let server = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let _ = socket.read(&mut [0; 1024]).await;
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        };
        let to = HttpServer { host: "vault.test", port, tls: None };
        let request = Request::get("/").header("host", "vault.test").body(Full::new(Bytes::new())).unwrap();
        let sent = send::<HttpError>(connect(&connector, to, BOUNDS.connect), request, BOUNDS);
        let (response, ()) = tokio::join!(sent, server);
        assert_eq!(response.unwrap().body.as_slice(), b"ok");
    }

    /// A server that sends `first` once, and then `again` without end; the outcome of a request to it.
    async fn flooded(first: &'static str, again: &'static str) -> HttpError {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let _ = socket.read(&mut [0; 1024]);
            let flood = again.repeat(4096);
            let mut sent = socket.write_all(first.as_bytes());
            while sent.is_ok() {
                sent = socket.write_all(flood.as_bytes());
            }
        });
        let (connector, to) = (Connector::default(), HttpServer { host: "127.0.0.1", port, tls: None });
        let request = Request::get("/").header("host", "vault.test").body(Full::new(Bytes::new())).unwrap();
        let bounds = HttpBounds { exchange: Duration::from_secs(2), ..BOUNDS };
        send::<HttpError>(connect(&connector, to, BOUNDS.connect), request, bounds).await.err().unwrap()
    }

    /// Interim responses without end kept a thread busy for a minute and longer, its timers included.
    #[tokio::test]
    async fn a_server_that_sends_without_end_holds_up_no_deadline() {
        for status in ["100 Continue", "103 X", "199 "] {
            let interim = format!("HTTP/1.1 {status}\r\n\r\n").leak();
            let error = flooded("", interim).await;
            assert!(matches!(error, HttpError::Exchange(_)), "{status}: {error}");
        }
        for (first, again) in
            [("HTTP/1.1 200 OK\r\nx: ", "xxxxxxxx"), ("HTTP/1.1 200 OK\r\n", "x: y\r\n"), ("", "\r\n")]
        {
            let error = flooded(first, again).await;
            assert!(matches!(error, HttpError::Exchange(_)), "{first}{again}: {error}");
        }
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        for again in ["0", "1\r\nx\r\n"] {
            let began = Instant::now();
            let error = flooded(chunked, again).await;
            assert!(!matches!(error, HttpError::Connect(_)), "{again}: {error}");
            assert!(began.elapsed() < BOUNDS.exchange, "{again}: {:?}", began.elapsed());
        }
    }

    #[tokio::test]
    async fn interim_responses_are_skipped() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let server = async {
            let _ = theirs.read(&mut [0; 1024]).await;
            let mut all = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n".repeat(32);
            all.push_str("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            theirs.write_all(all.as_bytes()).await.unwrap();
        };
        let request = Request::get("/").header("host", "vault.test").body(Full::new(Bytes::new())).unwrap();
        let connection = async { Ok::<_, HttpError>(Box::new(ours) as Box<dyn Connection>) };
        let (response, ()) = tokio::join!(send(connection, request, BOUNDS), server);
        assert_eq!(response.unwrap().body.as_slice(), b"ok");
    }
}
