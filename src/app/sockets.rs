//! The listening sockets: bound here, or inherited from systemd.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use crate::{
    config::Listen,
    edge::listener::{BindError, bind},
};

/// Sockets that listen already, before anything else is started.
pub struct Sockets {
    /// For services.
    pub data: Vec<TcpListener>,
    /// Whether those are systemd's.
    pub inherited: bool,
    /// For operators.
    pub admin: TcpListener,
}

impl Sockets {
    /// Takes what systemd hands over (`FileDescriptorName=admin` for the admin port, any other name
    /// for data), and binds the rest.
    ///
    /// # Errors
    /// [`BindError`] names the address that can't be bound.
    pub fn bind(listen: &Listen) -> Result<Self, BindError> {
        let (mut data, mut admin) = handed_over();
        let inherited = !data.is_empty();
        if !inherited {
            data = listen.data.iter().map(|address| bind("data", *address)).collect::<Result<_, _>>()?;
        }
        let admin = admin.pop().map_or_else(|| bind("admin", listen.admin), Ok)?;
        Ok(Sockets { data, inherited, admin })
    }

    /// The addresses bound.
    ///
    /// # Errors
    /// If the system doesn't tell.
    pub fn addresses(&self) -> io::Result<(Vec<SocketAddr>, SocketAddr)> {
        let data = self.data.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        Ok((data, self.admin.local_addr()?))
    }
}

/// Sockets for data, and for admin.
fn handed_over() -> (Vec<TcpListener>, Vec<TcpListener>) {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut handed = listenfd::ListenFd::from_env();
    let (mut data, mut admin) = (Vec::new(), Vec::new());
    for index in 0..handed.len() {
        let name = names.next().unwrap_or_default();
        let Ok(Some(listener)) = handed.take_tcp_listener(index) else { continue };
        if let Err(error) = listener.set_nonblocking(true) {
            tracing::warn!(%error, "a socket of systemd's can't be used");
            continue;
        }
        if name == "admin" { admin.push(listener) } else { data.push(listener) }
    }
    (data, admin)
}
