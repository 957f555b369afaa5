//! Reaches Fastrac through an HTTP proxy: CONNECT (RFC 9110, section 9.3.6), for addresses with and without TLS.
//!
//! The proxy learns Fastrac's host and port and nothing else. Of its response only the head is read, up to
//! [`MAX_HEAD`] and not a byte beyond, since what follows belongs to the tunnel; only its status gets into an error. Only
//! the account's `proxy` decides: `HTTPS_PROXY` and `NO_PROXY` are ignored. It must not know TLS. Fails with
//! `io::Error`, before anything was sent to Fastrac; its caller bounds its time.

use std::io;

use memchr::memmem;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::config::bracketed;

/// Maximum size of the proxy's response heads, interim responses included, in bytes.
const MAX_HEAD: usize = 8 * 1024;

/// Opens a tunnel through the proxy at the other end of `tcp` to `host`, a name or an address without brackets.
pub(super) async fn tunnel(mut tcp: TcpStream, host: &str, port: u16) -> io::Result<TcpStream> {
    let target = format!("{}:{port}", bracketed(host));
    tcp.write_all(format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n").as_bytes()).await?;
    let mut read = 0;
    loop {
        let head = head(&mut tcp, MAX_HEAD - read).await?;
        read += head.len();
        match status(&head).ok_or_else(|| invalid("the proxy's response is not HTTP"))? {
            // Interim responses; 101 would switch to another protocol.
            100 | 102..=199 => {}
            200..=299 => return Ok(tcp),
            status => {
                let why = format!("the proxy answered {status} to CONNECT");
                return Err(bad(io::ErrorKind::ConnectionRefused, why));
            }
        }
    }
}

/// Reads to the empty line that ends a head, and not a byte beyond.
async fn head(tcp: &mut TcpStream, max: usize) -> io::Result<Vec<u8>> {
    const END: &[u8] = b"\r\n\r\n";
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    loop {
        // Peeking leaves the bytes in the socket: what follows the head belongs to the tunnel.
        let seen = tcp.peek(&mut piece).await?;
        if seen == 0 {
            return Err(bad(
                io::ErrorKind::UnexpectedEof,
                "the proxy closed the connection before it responded".into(),
            ));
        }
        let before = head.len();
        head.extend_from_slice(&piece[..seen]);
        let from = before.saturating_sub(END.len() - 1);
        let end = memmem::find(&head[from..], END).map(|at| from + at + END.len());
        head.truncate(end.unwrap_or(head.len()));
        let own = head.len() - before;
        tcp.read_exact(&mut piece[..own]).await?;
        if head.len() > max {
            return Err(invalid("the head of the proxy's response is longer than 8 KiB"));
        }
        if !b"HTTP/1.".starts_with(&head[..head.len().min(7)]) {
            return Err(invalid("the proxy's response is not HTTP"));
        }
        if end.is_some() {
            return Ok(head);
        }
    }
}

/// The status of an HTTP/1 head; `None` if it is not one.
fn status(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.")?;
    let [b'0' | b'1', b' ', digits @ .., _] = rest.get(..6)? else { return None };
    let after = rest[5];
    if !(after == b' ' || after == b'\r') || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|status| *status >= 100)
}

fn invalid(why: &str) -> io::Error {
    bad(io::ErrorKind::InvalidData, why.to_owned())
}

fn bad(kind: io::ErrorKind, why: String) -> io::Error {
    io::Error::new(kind, why)
}

#[cfg(test)]
mod tests;
