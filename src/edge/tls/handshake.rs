//! One TLS handshake: bounded in time, and counted. Cleartext HTTP is recognised, so that it can be refused readably.

use std::{io, time::Duration};

use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::TlsListener;
use crate::{deadline::within, record::Handshake};

/// The first byte of a TLS connection: a record that holds a handshake (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;

/// What to tell a client that sent cleartext HTTP.
pub const TLS_REQUIRED: &str = "This port requires TLS: use an address that begins with https://";

/// What became of a handshake.
pub enum HandshakeResult {
    Tls(Box<TlsStream<TcpStream>>),
    /// The client sends cleartext HTTP, and waits for a response.
    Cleartext(TcpStream),
    Failed,
}

impl TlsListener {
    /// Performs a handshake with the settings that are active now.
    pub async fn handshake(&self, socket: TcpStream, limit: Duration) -> HandshakeResult {
        let acceptor = TlsAcceptor::from(self.active.load().config.clone());
        let peer = socket.peer_addr().ok().map(tracing::field::display);
        let (counted, result) = match within(limit, accept(acceptor, socket)).await {
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

async fn accept(acceptor: TlsAcceptor, socket: TcpStream) -> Result<TlsStream<TcpStream>, Broken> {
    let mut first = [0; 1];
    match socket.peek(&mut first).await {
        Ok(0) | Err(_) => return Err(Broken::Closed),
        Ok(_) if first[0] != HANDSHAKE && first[0].is_ascii_uppercase() => {
            return Err(Broken::Cleartext(socket));
        }
        Ok(_) => {}
    }
    acceptor.accept(socket).await.map_err(Broken::Tls)
}
