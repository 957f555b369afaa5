//! What the kernel and TLS know of the client of a connection, whatever hyper has read so far.
//!
//! hyper reads nothing while it serves a request that other bytes follow, so it does not see a close behind them. Never
//! fails: a socket that cannot be polled counts as open. What cannot be seen: over TLS, a close_notify behind more
//! unread bytes than rustls buffers, unless the client has closed the TCP connection too.

use std::{
    io::{self, Read, Write},
    os::fd::AsFd,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::sockopt::set_socket_linger,
};
use tokio::net::TcpStream;
use tokio_rustls::{rustls::ServerConnection, server::TlsStream};

use super::{send_queue, tls::TlsSocket};

/// A client's connection.
pub trait ClientSocket {
    /// Whether closing the sending half writes bytes (a close_notify), which a client that has closed the connection
    /// answers with a reset.
    const CLOSE_WRITES: bool = false;

    /// Whether the client has closed the connection or its sending half, which look the same.
    fn has_left(&mut self) -> bool;

    /// Whether an error of the connection waits to be read: the client has reset it.
    fn was_reset(&self) -> bool;

    /// Whether there is something to read, or the end.
    fn has_unread(&self) -> bool;

    /// How many bytes of what was written the client's machine has not acknowledged; `None`: not known. Asks the kernel.
    fn unacknowledged(&self) -> Option<u32>;

    /// Whether there are any, as far as that is known.
    fn has_unacknowledged(&self) -> bool {
        self.unacknowledged().is_some_and(|bytes| bytes > 0)
    }

    /// Writes although the reactor does not call the socket writable, which it is only once a third of its buffer is
    /// free: first what TLS holds, then of `bytes`. `None`: the client has taken nothing; otherwise, how many of `bytes`
    /// were taken.
    fn push(&mut self, bytes: &[u8]) -> io::Result<Option<usize>>;

    /// Makes the close a reset, so that the client does not take what it got for everything.
    fn reset_on_close(&self);
}

impl ClientSocket for TcpStream {
    fn has_left(&mut self) -> bool {
        is(self, CLOSED)
    }

    fn was_reset(&self) -> bool {
        is(self, PollFlags::ERR)
    }

    fn has_unread(&self) -> bool {
        is(self, PollFlags::IN)
    }

    fn unacknowledged(&self) -> Option<u32> {
        send_queue::unacknowledged(self).ok()
    }

    fn push(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        match Room(self).write(bytes) {
            Ok(0) => Ok(None),
            Ok(written) => Ok(Some(written)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn reset_on_close(&self) {
        // An error here means that the connection is gone.
        let _ = set_socket_linger(self, Some(Duration::ZERO));
    }
}

impl ClientSocket for Box<TlsStream<TlsSocket>> {
    const CLOSE_WRITES: bool = true;

    fn has_left(&mut self) -> bool {
        let (socket, session) = self.get_mut();
        is(socket.tcp(), CLOSED) || has_sent_close_notify(socket.tcp(), session)
    }

    fn was_reset(&self) -> bool {
        self.get_ref().0.tcp().was_reset()
    }

    fn has_unread(&self) -> bool {
        let (socket, session) = self.get_ref();
        // Or it was decrypted and is not read.
        socket.tcp().has_unread() || !session.wants_read()
    }

    fn unacknowledged(&self) -> Option<u32> {
        self.get_ref().0.tcp().unacknowledged()
    }

    fn push(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let (socket, session) = self.get_mut();
        let mut taken = false;
        while session.wants_write() {
            match session.write_tls(&mut Room(socket.tcp())) {
                Ok(0) => break,
                Ok(_) => taken = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if taken { session.writer().write(bytes).map(Some) } else { Ok(None) }
    }

    fn reset_on_close(&self) {
        self.get_ref().0.tcp().reset_on_close();
    }
}

/// A connection in memory: a client that does not leave.
#[cfg(test)]
pub trait InMemory {
    /// The bytes that it has taken and its client has not. While there are any, it takes no more.
    fn held(&self) -> Option<u32> {
        None
    }
}

#[cfg(test)]
impl InMemory for tokio::io::DuplexStream {}

#[cfg(test)]
impl<S: InMemory> ClientSocket for S {
    fn has_left(&mut self) -> bool {
        false
    }

    fn was_reset(&self) -> bool {
        false
    }

    fn has_unread(&self) -> bool {
        false
    }

    fn unacknowledged(&self) -> Option<u32> {
        self.held()
    }

    fn push(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        Ok((self.held() == Some(0)).then_some(bytes.len()))
    }

    fn reset_on_close(&self) {}
}

#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOSED: PollFlags = PollFlags::RDHUP.union(PollFlags::HUP).union(PollFlags::ERR);
/// Elsewhere, a client that has closed is only seen once it has reset the connection.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOSED: PollFlags = PollFlags::HUP.union(PollFlags::ERR);

fn is(socket: &impl AsFd, events: PollFlags) -> bool {
    let mut polled = [PollFd::new(socket, events)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        match poll(&mut polled, Some(&now)) {
            Err(Errno::INTR) => {}
            Err(_) => return false,
            Ok(_) => return polled[0].revents().intersects(events),
        }
    }
}

/// Reads ahead, as far as rustls buffers what is not asked for, to see whether a close_notify has come.
fn has_sent_close_notify(socket: &TcpStream, session: &mut ServerConnection) -> bool {
    loop {
        match session.read_tls(&mut Available(socket)) {
            Ok(0) => return true,
            Ok(_) => match session.process_new_packets() {
                Ok(state) if state.peer_has_closed() => return true,
                Ok(_) => {}
                // The next read fails with it.
                Err(_) => return false,
            },
            Err(_) => return false,
        }
    }
}

/// Reads what has arrived.
struct Available<'s>(&'s TcpStream);

impl Read for Available<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

/// Writes as far as there is room in the kernel's buffer.
struct Room<'s>(&'s TcpStream);

impl Write for Room<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() { Ok(0) } else { Ok(rustix::io::write(self.0, bytes)?) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_close_behind_unread_bytes_is_seen() {
        let (mut client, mut socket) = pair().await;
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        assert!(!socket.has_left());
        client.shutdown().await.unwrap();
        while !socket.has_left() {
            tokio::task::yield_now().await;
        }
        assert!(!socket.was_reset());
    }

    #[tokio::test]
    async fn a_reset_is_seen_and_stays_to_be_read() {
        let (client, mut socket) = pair().await;
        socket.write_all(b"a response that is not read").await.unwrap();
        assert!(!socket.was_reset());
        client.readable().await.unwrap();
        drop(client);
        while !socket.was_reset() {
            tokio::task::yield_now().await;
        }
        assert!(socket.was_reset() && socket.has_left());
    }
}
