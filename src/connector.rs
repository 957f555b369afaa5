//! Opens TCP connections to hosts by name: for Fastrac, for its proxies, for the vault and for the command line.
//!
//! Names are looked up by few threads, and what they find is kept for a while (`lookup`). Connection attempts to the
//! addresses of a name are staggered and raced (`race`). An address whose connection cannot be used (its TLS handshake
//! fails, say) is tried after the others for some minutes, beginning with the same call. What always holds: neither
//! takes longer than the caller allows. It must not know what the connection is for. Fails with [`ConnectError`], which
//! tells a fault of this host from a fault of the other side, before anything was sent.

mod cached_name;
mod error;
mod lookup;
mod race;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{net::TcpStream, time::Instant};

pub use error::{ConnectError, LookupError};
use lookup::Lookups;

use crate::deadline;

/// How long an address may be silent before another one is tried, at least.
const SILENT: Duration = Duration::from_secs(1);

/// Why there is no connection that can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnusableConnection {
    #[error(transparent)]
    NoConnection(#[from] ConnectError),
    /// It was opened, and preparing it has failed.
    #[error("{0}")]
    Unusable(io::Error),
    /// It was opened, and the other side did not respond in time.
    #[error("it did not respond in time")]
    Silent,
}

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

    /// Opens a connection to `host`, a name or an address without brackets, and prepares it for use. If that fails,
    /// another address is tried; one that is silent is given half of the time that is left, [`SILENT`] at least. Cancel
    /// safe.
    ///
    /// # Errors
    /// [`UnusableConnection`], not later than at `by`.
    pub(crate) async fn open<T, F: Future<Output = io::Result<T>>>(
        &self,
        host: &str,
        port: u16,
        by: Instant,
        prepare: impl Fn(TcpStream) -> F,
    ) -> Result<T, UnusableConnection> {
        loop {
            let Connected { tcp, address, has_others } = self.connect(host, port, by).await?;
            let now = Instant::now();
            let half = (by.saturating_duration_since(now) / 2).max(SILENT);
            let prepared = deadline::until(if has_others { by.min(now + half) } else { by }, prepare(tcp)).await;
            let failed = match prepared {
                Some(Ok(prepared)) => return Ok(prepared),
                Some(Err(error)) => UnusableConnection::Unusable(error),
                None => UnusableConnection::Silent,
            };
            self.lookups.avoid(host, address.ip());
            if !has_others || Instant::now() >= by {
                return Err(failed);
            }
        }
    }

    async fn connect(&self, host: &str, port: u16, by: Instant) -> Result<Connected, ConnectError> {
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => self.lookups.addresses(host, port, by).await?,
        };
        let (tcp, address) = race::race(&addresses, by, TcpStream::connect).await?;
        if addresses.first() != Some(&address) {
            self.lookups.prefer(host, address.ip());
        }
        tcp.set_nodelay(true)?;
        let mut others: Vec<_> = addresses.into_iter().filter(|other| *other != address).collect();
        let has_others = !others.is_empty() && self.lookups.order(host, &mut others) > 0;
        Ok(Connected { tcp, address, has_others })
    }
}

/// An open connection to one of the addresses of a name.
struct Connected {
    tcp: TcpStream,
    address: SocketAddr,
    /// Whether there are others that are not avoided.
    has_others: bool,
}
