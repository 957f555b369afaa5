//! One TLS handshake: bounded in time and memory, and counted. Cleartext HTTP is recognised, so that it can be refused
//! readably.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::TlsListener;
use crate::{deadline::within, edge::unfinished_head::UnfinishedHead, memory::MemoryShare, record::Handshake};

/// The first byte of a TLS connection: a record that holds a handshake (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;

/// What to tell a client that sent cleartext HTTP.
pub const TLS_REQUIRED: &str = "This port requires TLS: use an address that begins with https://";

/// What became of a handshake.
pub enum HandshakeResult {
    Tls(Box<TlsStream<TlsSocket>>),
    /// The client sends cleartext HTTP, and waits for a response.
    Cleartext(TcpStream),
    Failed,
}

impl TlsListener {
    /// Performs a handshake with the settings that are active now. What the client sends of it claims its memory of `share`,
    /// if it is not small.
    pub async fn handshake(
        &self,
        socket: TcpStream,
        limit: Duration,
        share: Option<Arc<MemoryShare>>,
    ) -> HandshakeResult {
        let acceptor = TlsAcceptor::from(self.active.load().config.clone());
        let peer = socket.peer_addr().ok().map(tracing::field::display);
        let (counted, result) = match within(limit, accept(acceptor, socket, share)).await {
            Some(Ok(stream)) => (Handshake::Ok, HandshakeResult::Tls(Box::new(stream))),
            Some(Err(Broken::Cleartext(socket))) => (Handshake::Cleartext, HandshakeResult::Cleartext(socket)),
            // A client that closes before its first byte is a probe and is not counted.
            Some(Err(Broken::Closed)) => return HandshakeResult::Failed,
            Some(Err(Broken::Tls(error))) => {
                tracing::debug!(listener = self.key, peer, %error, "a TLS handshake failed");
                (Handshake::Failed, HandshakeResult::Failed)
            }
            None => {
                tracing::debug!(listener = self.key, peer, "a TLS handshake took too long");
                (Handshake::Timeout, HandshakeResult::Failed)
            }
        };
        self.handshakes.count(counted);
        result
    }
}

enum Broken {
    Cleartext(TcpStream),
    Closed,
    Tls(io::Error),
}

async fn accept(
    acceptor: TlsAcceptor,
    socket: TcpStream,
    share: Option<Arc<MemoryShare>>,
) -> Result<TlsStream<TlsSocket>, Broken> {
    let mut first = [0; 1];
    match socket.peek(&mut first).await {
        Ok(0) | Err(_) => return Err(Broken::Closed),
        Ok(_) if first[0] != HANDSHAKE && first[0].is_ascii_uppercase() => {
            return Err(Broken::Cleartext(socket));
        }
        Ok(_) => {}
    }
    let socket = TlsSocket { socket, handshake: share.map(|share| UnfinishedHead::of(share, Arc::default())) };
    let mut stream = acceptor.accept(socket).await.map_err(Broken::Tls)?;
    stream.get_mut().0.handshake = None;
    Ok(stream)
}

/// The socket below TLS. rustls keeps up to 64 KiB of a message of the handshake that is not complete.
pub struct TlsSocket {
    socket: TcpStream,
    /// What has come of the handshake; `None`: it is complete, or not counted.
    handshake: Option<UnfinishedHead>,
}

impl TlsSocket {
    pub fn tcp(&self) -> &TcpStream {
        &self.socket
    }
}

impl AsyncRead for TlsSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let TlsSocket { socket, handshake } = &mut *self;
        let Some(handshake) = handshake else { return Pin::new(socket).poll_read(cx, buf) };
        let before = buf.filled().len();
        let polled = Pin::new(socket).poll_read(cx, buf);
        handshake.came(buf.filled().len() - before);
        if polled.is_pending() {
            handshake.claim().map_err(|full| io::Error::new(io::ErrorKind::OutOfMemory, full))?;
        }
        polled
    }
}

impl AsyncWrite for TlsSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
