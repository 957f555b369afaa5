//! Opens connections to Fastrac: name look-up, TCP, perhaps a proxy, TLS.
//!
//! Server names and certificates are always checked; the roots are the platform's (`SSL_CERT_FILE`
//! is honoured) or the file that the account names.

use std::{
    io::{self, ErrorKind},
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::proxy;
use crate::{
    config::{Endpoint, Proxy},
    files::{Rootless, roots},
    record::UpstreamConnections,
};

/// Where connections go; each has its own place in the pools.
pub struct Destination {
    /// Unique for the life of the process.
    pub id: u64,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    proxy: Option<Proxy>,
    /// When operators were told last that it can't be reached.
    told: Mutex<Option<Instant>>,
    pub(super) connections: UpstreamConnections,
}

impl std::fmt::Debug for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Destination({}:{}, tls: {}", self.host, self.port, self.tls.is_some())?;
        self.proxy.iter().try_for_each(|proxy| write!(f, ", proxy: {proxy}"))?;
        f.write_str(")")
    }
}

/// A destination that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// No certificate authority at all.
    #[error(
        "no root certificates: neither the platform nor SSL_CERT_FILE has any; name a PEM file as the account's `ca`"
    )]
    NoRoots,
    /// The file of roots can't be read.
    #[error("{file}: {reason}")]
    Roots {
        /// Its path.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The host is neither a name nor an address.
    #[error("{0}: not a host name or address that TLS can check")]
    Name(String),
}

/// How often operators are told that a destination can't be reached.
const TOLD_AT_MOST: Duration = Duration::from_secs(30);

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Destination {
    /// The destination of an endpoint, perhaps through a proxy.
    ///
    /// # Errors
    /// [`Unusable`] if TLS is asked for and `roots` is `None`, or if the host can't be checked.
    pub fn new(
        endpoint: &Endpoint,
        roots: Option<&Arc<ClientConfig>>,
        proxy: Option<&Proxy>,
        connections: UpstreamConnections,
    ) -> Result<Self, Unusable> {
        let tls = if endpoint.tls {
            let name =
                ServerName::try_from(endpoint.host.clone()).map_err(|_| Unusable::Name(endpoint.host.clone()))?;
            Some((TlsConnector::from(roots.ok_or(Unusable::NoRoots)?.clone()), name))
        } else {
            None
        };
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let (host, port, proxy) = (endpoint.host.clone(), endpoint.port, proxy.cloned());
        Ok(Destination { id, host, port, tls, proxy, told: Mutex::new(None), connections })
    }

    /// Tells operators why it can't be reached, now and then: it may be by each request.
    pub(super) fn unreachable(&self, why: &str) {
        let now = Instant::now();
        let mut told = self.told.lock();
        if told.is_none_or(|at| now >= at + TOLD_AT_MOST) {
            *told = Some(now);
            let proxy = self.proxy.as_ref().map(tracing::field::display);
            tracing::warn!(host = self.host, port = self.port, proxy, why, "no connection to Fastrac");
        }
    }
}

/// The TLS settings of an account: roots of `ca`, or the platform's.
///
/// # Errors
/// [`Unusable`] if there are no roots.
pub fn client_config(ca: Option<&Path>) -> Result<Arc<ClientConfig>, Unusable> {
    let roots = roots(ca).map_err(|rootless| match rootless {
        Rootless::Nowhere => Unusable::NoRoots,
        Rootless::File { file, reason } => Unusable::Roots { file: file.display().to_string(), reason },
    })?;
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// An open connection.
///
/// What can no longer be written is no error here but waits: Fastrac may have answered by the head, a refusal most
/// likely, and ended the connection with the body unread. The answer is still there to be read, and if there is none
/// whoever reads is told that the connection is lost. hyper would give up with the first write that fails.
pub(super) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Opens a connection.
pub(super) async fn dial(destination: &Destination) -> io::Result<Io> {
    let place = (destination.host.as_str(), destination.port);
    let tcp = match &destination.proxy {
        None => TcpStream::connect(place).await?,
        Some(proxy) => proxy::tunnel(proxy, place).await?,
    };
    tcp.set_nodelay(true)?;
    match &destination.tls {
        None => Ok(Io::Plain(tcp)),
        Some((connector, name)) => Ok(Io::Tls(Box::new(connector.connect(name.clone(), tcp).await?))),
    }
}

/// A write to a connection that the other end has left waits for what is read to tell. hyper reads before it writes,
/// so that the end, which comes after, wakes it.
fn or_wait<T>(written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
    match written {
        Poll::Ready(Err(error)) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            Poll::Pending
        }
        written => written,
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        or_wait(match self.get_mut() {
            Io::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        or_wait(match self.get_mut() {
            Io::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        })
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Io::Plain(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        or_wait(match self.get_mut() {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        })
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
