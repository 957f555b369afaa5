//! Opens TCP connections to hosts by name: for Fastrac, for its proxies, for the vault and for the command line.
//!
//! Names are looked up by few threads, and what they find is kept for a while (`lookup`). Connection attempts to the
//! addresses of a name are staggered and raced (`race`). What always holds: neither takes longer than the caller allows.
//! It must not know what the connection is for. Fails with [`ConnectError`], which tells a fault of this host from a
//! fault of the other side, before anything was sent.

mod cached_name;
mod error;
mod lookup;
mod race;

use std::net::{IpAddr, SocketAddr};

use tokio::{net::TcpStream, time::Instant};

pub use error::{ConnectError, LookupError};
use lookup::Lookups;

/// Opens connections. Clones share what was looked up.
#[derive(Clone)]
pub struct Connector {
    lookups: Lookups,
}

impl Default for Connector {
    /// Looks names up with the system's resolver (getaddrinfo(3)), so that `/etc/hosts` and nsswitch.conf(5) are honoured.
    fn default() -> Self {
        Connector::with_lookup(lookup::system)
    }
}

impl Connector {
    /// Looks names up with `lookup`, which may block. The ports of its addresses are ignored.
    pub fn with_lookup(lookup: impl Fn(&str) -> Result<Vec<SocketAddr>, LookupError> + Send + Sync + 'static) -> Self {
        Connector { lookups: Lookups::new(lookup) }
    }

    /// Opens a connection to `host`, a name or an address without brackets. Cancel safe.
    ///
    /// # Errors
    /// [`ConnectError`], not later than at `by`.
    pub(crate) async fn connect(&self, host: &str, port: u16, by: Instant) -> Result<TcpStream, ConnectError> {
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => self.lookups.addresses(host, port, by).await?,
        };
        let (tcp, address) = race::race(&addresses, by, TcpStream::connect).await?;
        if addresses.first() != Some(&address) {
            self.lookups.prefer(host, address.ip());
        }
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }
}
