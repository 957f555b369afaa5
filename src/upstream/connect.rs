//! Opens connections to Fastrac: name lookup, TCP, a proxy if the account has one, TLS.
//!
//! Server names and certificates are always verified; the roots are those of the account's `ca` file, else the
//! platform's (`SSL_CERT_FILE` is honoured). It must not know HTTP. `dial` fails with [`ConnectError`] before anything was
//! sent to Fastrac; the set-up fails with [`DestinationError`].

use std::{
    io::{self, ErrorKind, Read as _},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::proxy;
use crate::{
    config::{Endpoint, Proxy},
    connector::{ConnectError, Connector, UnusableConnection},
    record::UpstreamConnections,
};

/// Where connections go. Pools keep the connections of each destination apart.
pub struct Destination {
    /// Unique for the life of the process.
    pub id: u64,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    dialer: Dialer,
    /// When it was last logged that it can't be reached.
    last_warning: Mutex<Option<Instant>>,
    pub(super) connections: UpstreamConnections,
}

/// How TCP connections to destinations are opened.
#[derive(Clone, Default)]
pub struct Dialer {
    pub connector: Connector,
    /// They go through this proxy, if there is one.
    pub proxy: Option<Proxy>,
}

impl std::fmt::Debug for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Destination({}:{}, tls: {}", self.host, self.port, self.tls.is_some())?;
        self.dialer.proxy.iter().try_for_each(|proxy| write!(f, ", proxy: {proxy}"))?;
        f.write_str(")")
    }
}

/// Why an endpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DestinationError {
    #[error("{0}: TLS without root certificates")]
    NoRoots(String),
    #[error("{0}: not a host name or address that TLS can verify")]
    Name(String),
}

/// Minimum time between two warnings that a destination can't be reached.
const WARNING_INTERVAL: Duration = Duration::from_secs(30);

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Destination {
    /// The destination of an endpoint.
    ///
    /// # Errors
    /// [`DestinationError`] if the endpoint uses TLS and `roots` is `None`, or if TLS can't verify its host.
    pub fn new(
        endpoint: &Endpoint,
        roots: Option<&Arc<ClientConfig>>,
        dialer: Dialer,
        connections: UpstreamConnections,
    ) -> Result<Self, DestinationError> {
        let tls = if endpoint.tls {
            let name = ServerName::try_from(endpoint.host.clone())
                .map_err(|_| DestinationError::Name(endpoint.host.clone()))?;
            Some((
                TlsConnector::from(roots.ok_or_else(|| DestinationError::NoRoots(endpoint.host.clone()))?.clone()),
                name,
            ))
        } else {
            None
        };
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let (host, port) = (endpoint.host.clone(), endpoint.port);
        Ok(Destination { id, host, port, tls, dialer, last_warning: Mutex::new(None), connections })
    }

    /// Logs why it can't be reached, at most once per [`WARNING_INTERVAL`]: each request may fail on it.
    pub(super) fn unreachable(&self, why: &ConnectError) {
        let now = Instant::now();
        let mut last = self.last_warning.lock();
        if last.is_none_or(|at| now >= at + WARNING_INTERVAL) {
            *last = Some(now);
            let proxy = self.dialer.proxy.as_ref().map(tracing::field::display);
            tracing::warn!(host = self.host, port = self.port, proxy, %why, "no connection to Fastrac");
        }
    }
}

/// TLS settings with these roots.
pub fn client_config(roots: Arc<RootCertStore>) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// An open connection.
///
/// Write errors are deferred, so that a response that has already arrived can still be read: Fastrac may respond to the
/// head alone, most likely with a refusal, and close the connection with the body unread. If there is no response, the
/// read reports that the connection is lost. hyper would give up at the first write that fails.
pub(super) enum UpstreamIo {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Opens a connection.
///
/// # Errors
/// [`ConnectError`], not later than at `by`.
pub(super) async fn dial(destination: &Destination, by: Instant) -> Result<UpstreamIo, ConnectError> {
    let Destination { host, port, dialer: Dialer { connector, proxy }, .. } = destination;
    let prepare = |tcp| async move {
        let tcp = if proxy.is_some() { proxy::tunnel(tcp, host, *port).await? } else { tcp };
        io::Result::Ok(match &destination.tls {
            None => UpstreamIo::Plain(tcp),
            Some((connector, name)) => UpstreamIo::Tls(Box::new(connector.connect(name.clone(), tcp).await?)),
        })
    };
    let (to_host, to_port) = proxy.as_ref().map_or((host, *port), |proxy| (&proxy.host, proxy.port));
    connector.open(to_host, to_port, by, prepare).await.map_err(|error| match error {
        UnusableConnection::NoConnection(error) if proxy.is_some() => error.context("the proxy"),
        UnusableConnection::NoConnection(error) => error,
        UnusableConnection::Unusable(error) => error.into(),
        UnusableConnection::Silent => ConnectError::late(),
    })
}

/// Turns the error of a write to a connection that the peer has closed into `Pending`. hyper polls reads before writes,
/// so the task is registered for the end of the connection, which wakes it.
fn deferred<T>(written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
    match written {
        Poll::Ready(Err(error)) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            Poll::Pending
        }
        written => written,
    }
}

impl AsyncRead for UpstreamIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            UpstreamIo::Plain(io) => Pin::new(io).poll_read(cx, buf),
            UpstreamIo::Tls(io) => match Pin::new(&mut *io).poll_read(cx, buf) {
                Poll::Ready(Err(_)) if read_rest(io, buf) => Poll::Ready(Ok(())),
                read => read,
            },
        }
    }
}

/// Reads what was decrypted before an error (a fatal alert, bytes that are no TLS record) came in the same read: it may be
/// the whole response. Whether there was any; the next read fails again.
fn read_rest(io: &mut TlsStream<TcpStream>, buf: &mut ReadBuf<'_>) -> bool {
    let rest = io.get_mut().1.reader().read(buf.initialize_unfilled());
    rest.is_ok_and(|read| {
        buf.advance(read);
        read > 0
    })
}

impl AsyncWrite for UpstreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        deferred(match self.get_mut() {
            UpstreamIo::Plain(io) => Pin::new(io).poll_write(cx, buf),
            UpstreamIo::Tls(io) => Pin::new(io).poll_write(cx, buf),
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        deferred(match self.get_mut() {
            UpstreamIo::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            UpstreamIo::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        })
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            UpstreamIo::Plain(io) => io.is_write_vectored(),
            UpstreamIo::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        deferred(match self.get_mut() {
            UpstreamIo::Plain(io) => Pin::new(io).poll_flush(cx),
            UpstreamIo::Tls(io) => Pin::new(io).poll_flush(cx),
        })
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            UpstreamIo::Plain(io) => Pin::new(io).poll_shutdown(cx),
            UpstreamIo::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
