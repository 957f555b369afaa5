//! The listening sockets: bound here or inherited from systemd (sd_listen_fds(3)).

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use crate::{
    config::ListenConfig,
    edge::listener::{BindError, bind, prepare},
};

/// Sockets that already listen, before anything else is started.
pub struct Sockets {
    pub data: Vec<TcpListener>,
    /// Whether `data` was inherited from systemd.
    pub inherited: bool,
    pub admin: TcpListener,
    /// Whether `admin` was.
    pub admin_inherited: bool,
}

impl Sockets {
    /// Uses the sockets that systemd passes (`FileDescriptorName=admin` for the admin port, any other name for
    /// data) and binds the others.
    ///
    /// # Errors
    /// [`BindError`] names the address that cannot be bound.
    pub fn bind(listen: &ListenConfig) -> Result<Self, BindError> {
        let (mut data, mut admin) = inherited_sockets();
        let inherited = !data.is_empty();
        if !inherited {
            data = listen.data.iter().map(|address| bind("data", *address)).collect::<Result<_, _>>()?;
        }
        let admin_inherited = !admin.is_empty();
        let admin = admin.pop().map_or_else(|| bind("admin", listen.admin), Ok)?;
        Ok(Sockets { data, inherited, admin, admin_inherited })
    }

    /// The addresses bound.
    ///
    /// # Errors
    /// If the system does not report an address.
    pub fn addresses(&self) -> io::Result<(Vec<SocketAddr>, SocketAddr)> {
        let data = self.data.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        Ok((data, self.admin.local_addr()?))
    }
}

/// The data and admin sockets that systemd has passed.
fn inherited_sockets() -> (Vec<TcpListener>, Vec<TcpListener>) {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut passed = listenfd::ListenFd::from_env();
    let (mut data, mut admin) = (Vec::new(), Vec::new());
    for index in 0..passed.len() {
        let name = names.next().unwrap_or_default();
        let Ok(Some(listener)) = passed.take_tcp_listener(index) else { continue };
        if let Err(error) = prepare(&listener) {
            tracing::warn!(%error, "a socket passed by systemd cannot be used");
            continue;
        }
        if name == "admin" { admin.push(listener) } else { data.push(listener) }
    }
    (data, admin)
}
