//! Tells the service manager what this process does (sd_notify(3)).
//!
//! `$NOTIFY_SOCKET` names a datagram socket: a path, or an abstract name after `@`. Any other kind of address is an
//! error. What the service manager does not read waits for it, without blocking the thread.

use std::{
    env,
    ffi::OsStr,
    io,
    os::unix::{
        ffi::OsStrExt as _,
        net::{SocketAddr, UnixDatagram},
    },
};

/// Sends a state such as `READY=1`; does nothing if no service manager waits for it.
///
/// # Errors
/// The socket that the variable names can't be used.
pub(super) async fn notify(state: &str) -> io::Result<()> {
    let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Ok(()) };
    send(state, &address(&name)?).await
}

async fn send(state: &str, to: &SocketAddr) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    // Connected, because only then does the reactor see that the peer's queue has room.
    socket.connect_addr(to)?;
    socket.set_nonblocking(true)?;
    tokio::net::UnixDatagram::from_std(socket)?.send(state.as_bytes()).await.map(drop)
}

fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(name),
        [b'@', name @ ..] => abstract_address(name),
        _ => Err(io::Error::other("NOTIFY_SOCKET is neither a path nor an abstract name")),
    }
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt as _;
    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_: &[u8]) -> io::Result<SocketAddr> {
    Err(io::Error::other("this system has no abstract sockets"))
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, task::Poll};

    use super::*;

    /// What a service manager reads at the address that a variable names.
    async fn received(name: &OsStr) -> Vec<u8> {
        let manager = UnixDatagram::bind_addr(&address(name).unwrap()).unwrap();
        send("READY=1", &address(name).unwrap()).await.unwrap();
        next(&manager)
    }

    fn next(manager: &UnixDatagram) -> Vec<u8> {
        let mut text = [0; 64];
        let length = manager.recv(&mut text).unwrap();
        text[..length].to_vec()
    }

    #[tokio::test]
    async fn reaches_a_socket_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        assert_eq!(received(path.as_os_str()).await, b"READY=1");
        let name = format!("@fastrac-gateway/{}", path.display());
        assert_eq!(received(OsStr::new(&name)).await, b"READY=1");
    }

    #[tokio::test]
    async fn a_full_queue_does_not_block_and_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let before = UnixDatagram::unbound().unwrap();
        before.set_nonblocking(true).unwrap();
        let queued = (0..).take_while(|_| before.send_to(b"x", &path).is_ok()).count();
        let to = address(path.as_os_str()).unwrap();
        let mut sending = pin!(send("READY=1", &to));
        assert!(poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx).is_pending())).await);
        (0..queued).for_each(|_| assert_eq!(next(&manager), b"x"));
        sending.await.unwrap();
        assert_eq!(next(&manager), b"READY=1");
    }

    #[test]
    fn an_address_of_another_kind_is_an_error() {
        for name in ["vsock:2:1234", "notify", "\0x"] {
            assert!(address(OsStr::new(name)).is_err(), "{name}");
        }
    }
}
