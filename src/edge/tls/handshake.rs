//! One handshake: bounded, counted, and polite to those who came without TLS.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::Door;
use crate::{outcome::Code, record::Handshake, refusal::Refusal};

/// The first byte of a TLS connection: a record that holds a handshake (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;

/// How long a client that speaks HTTP may take to read what it is told.
const LAST: Duration = Duration::from_millis(500);

/// How a connection began.
pub enum Shaken {
    /// With TLS.
    Tls(Box<TlsStream<TcpStream>>),
    /// With HTTP in the clear, which was refused with 400.
    Cleartext,
    /// Not at all.
    Not,
}

impl Door {
    /// Shakes hands, with the certificate of this moment.
    pub async fn shake(&self, socket: TcpStream, within: Duration) -> Shaken {
        let acceptor = TlsAcceptor::from(self.showing.load().config.clone());
        let peer = socket.peer_addr().ok().map(tracing::field::display);
        let (result, shaken) = match timeout(within, shake(acceptor, socket)).await {
            Ok(Ok(stream)) => (Handshake::Ok, Shaken::Tls(Box::new(stream))),
            Ok(Err(Broken::Cleartext)) => (Handshake::Cleartext, Shaken::Cleartext),
            // Whoever leaves before its first byte has asked for nothing: a probe.
            Ok(Err(Broken::Left)) => return Shaken::Not,
            Ok(Err(Broken::Tls(error))) => {
                tracing::debug!(listener = self.place, peer, %error, "a TLS handshake failed");
                (Handshake::Failed, Shaken::Not)
            }
            Err(_) => {
                tracing::debug!(listener = self.place, peer, "a TLS handshake took too long");
                (Handshake::Timeout, Shaken::Not)
            }
        };
        self.handshakes.count(result);
        shaken
    }
}

enum Broken {
    Cleartext,
    Left,
    Tls(io::Error),
}

async fn shake(acceptor: TlsAcceptor, socket: TcpStream) -> Result<TlsStream<TcpStream>, Broken> {
    let mut first = [0; 1];
    match socket.peek(&mut first).await {
        Ok(0) | Err(_) => return Err(Broken::Left),
        Ok(_) if first[0] != HANDSHAKE && first[0].is_ascii_uppercase() => {
            refuse(socket).await;
            return Err(Broken::Cleartext);
        }
        Ok(_) => {}
    }
    acceptor.accept(socket).await.map_err(Broken::Tls)
}

/// Tells a client that speaks HTTP without TLS what is wrong, in HTTP.
async fn refuse(mut socket: TcpStream) {
    let message = "This port requires TLS: use an address that begins with https://";
    let response = Refusal::new(Code::RequestMalformed, message).to_http1();
    let tell = async {
        socket.write_all(&response).await?;
        socket.shutdown().await?;
        // Closing a socket with unread bytes resets it, and the client may lose the response.
        let mut rest = [0; 4096];
        while socket.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(LAST, tell).await;
}
