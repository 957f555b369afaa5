//! One TLS handshake: bounded in time, counted, with a readable refusal for cleartext HTTP.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::TlsListener;
use crate::{deadline::within, outcome::Code, record::Handshake, refusal::Refusal};

/// The first byte of a TLS connection: a record that holds a handshake (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;

/// How long a client that sent cleartext HTTP may take to read its refusal.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(500);

/// What became of a handshake.
pub enum HandshakeResult {
    Tls(Box<TlsStream<TcpStream>>),
    /// The client sent cleartext HTTP, which was refused with 400.
    Cleartext,
    Failed,
}

impl TlsListener {
    /// Performs a handshake with the settings that are active now.
    pub async fn handshake(&self, socket: TcpStream, limit: Duration) -> HandshakeResult {
        let acceptor = TlsAcceptor::from(self.active.load().config.clone());
        let peer = socket.peer_addr().ok().map(tracing::field::display);
        let (counted, result) = match within(limit, accept(acceptor, socket)).await {
            Some(Ok(stream)) => (Handshake::Ok, HandshakeResult::Tls(Box::new(stream))),
            Some(Err(Broken::Cleartext)) => (Handshake::Cleartext, HandshakeResult::Cleartext),
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
    Cleartext,
    Closed,
    Tls(io::Error),
}

async fn accept(acceptor: TlsAcceptor, socket: TcpStream) -> Result<TlsStream<TcpStream>, Broken> {
    let mut first = [0; 1];
    match socket.peek(&mut first).await {
        Ok(0) | Err(_) => return Err(Broken::Closed),
        Ok(_) if first[0] != HANDSHAKE && first[0].is_ascii_uppercase() => {
            refuse_cleartext(socket).await;
            return Err(Broken::Cleartext);
        }
        Ok(_) => {}
    }
    acceptor.accept(socket).await.map_err(Broken::Tls)
}

/// Tells a client that speaks HTTP without TLS what is wrong, in HTTP.
async fn refuse_cleartext(mut socket: TcpStream) {
    let message = "This port requires TLS: use an address that begins with https://";
    let response = Refusal::new(Code::RequestMalformed, message).to_http1();
    let respond = async {
        socket.write_all(&response).await?;
        socket.shutdown().await?;
        // Closing a socket with unread bytes resets it, and the client may lose the response.
        let mut rest = [0; 4096];
        while socket.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = within(REFUSAL_TIMEOUT, respond).await;
}
