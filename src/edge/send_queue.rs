//! How much of what was written to a connection has not reached the other machine.
//!
//! A write is over once the kernel has the bytes. Those that the client's machine has not acknowledged, because it is gone or
//! takes nothing, stay in the socket's send queue. Its length is read as `ss` reads it (sock_diag(7)): the ioctl for it
//! (SIOCOUTQ) has no safe wrapper. Where it does not answer (other systems, no netlink socket allowed),
//! nothing is known. Asked only about orders, about connections that take nothing, and at the end of one that its client has not
//! closed. Fails like the socket calls.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, netlink, recv, send, socket_with,
};
use tokio::net::TcpStream;

/// `SOCK_DIAG_BY_FAMILY`, of the request and of its answer.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// Size of a netlink message's header, of a request's and of an answer's content, in bytes.
const HEADER: usize = 16;
const CONTENT: usize = 56;
const ANSWER: usize = 72;
/// Where the number of bytes in the send queue is in the answer's content (`idiag_wqueue`).
const SEND_QUEUE: usize = 60;

/// How many of the bytes that were written have not been acknowledged.
///
/// # Errors
/// If the kernel does not say.
pub(super) fn unacknowledged(socket: &TcpStream) -> io::Result<u32> {
    queued(socket.local_addr()?, socket.peer_addr()?)
}

/// Bytes in the send queue of a connection.
fn queued(local: SocketAddr, peer: SocketAddr) -> io::Result<u32> {
    let kernel = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    send(&kernel, &request(local, peer), SendFlags::empty())?;
    let mut answer = [0; 4096];
    // It is there already.
    let (length, _) = recv(&kernel, &mut answer, RecvFlags::DONTWAIT)?;
    read(&answer[..length]).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn request(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let mut message = Vec::with_capacity(HEADER + CONTENT);
    message.extend(((HEADER + CONTENT) as u32).to_ne_bytes());
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    // Sequence number and port of the sender.
    message.extend([0; 8]);
    message.extend([family.as_raw() as u8, ipproto::TCP.as_raw().get() as u8, 0, 0]);
    // Connections in any state.
    message.extend(u32::MAX.to_ne_bytes());
    message.extend(local.port().to_be_bytes());
    message.extend(peer.port().to_be_bytes());
    for address in [local.ip(), peer.ip()] {
        match address {
            IpAddr::V4(address) => message.extend([&address.octets()[..], &[0; 12]].concat()),
            IpAddr::V6(address) => message.extend(address.octets()),
        }
    }
    // Any interface, and no cookie.
    message.extend(0_u32.to_ne_bytes());
    message.extend([0xff; 8]);
    message
}

fn read(answer: &[u8]) -> Option<u32> {
    let (header, content) = answer.split_at_checked(HEADER)?;
    if header[4..6] != BY_FAMILY.to_ne_bytes() || content.len() < ANSWER {
        return None;
    }
    content[SEND_QUEUE..][..4].try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpSocket};

    use super::*;

    #[tokio::test]
    async fn what_the_peer_has_no_room_for_is_not_acknowledged() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            let listener = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
            listener.set_recv_buffer_size(4096).unwrap();
            listener.bind(address).unwrap();
            let listener = listener.listen(1).unwrap();
            let mut socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut peer, _) = listener.accept().await.unwrap();
            socket.write_all(b"x").await.unwrap();
            assert_eq!(unacknowledged(&socket).unwrap(), 0, "{address}");
            socket.write_all(&[0; 60_000]).await.unwrap();
            assert!((1..=60_000).contains(&unacknowledged(&socket).unwrap()), "{address}");
            let read_all = async {
                let mut left = 60_001;
                while left > 0 {
                    left -= tokio::io::AsyncReadExt::read(&mut peer, &mut [0; 8192]).await.unwrap();
                }
            };
            read_all.await;
            while unacknowledged(&socket).unwrap() > 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}
