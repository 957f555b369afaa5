//! What a door shows and accepts: read from its files, in one state of them.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use rustls::{
    ServerConfig,
    crypto::ring::Ticketer,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    sign::SingleCertAndKey,
};

use super::Faulty;
use crate::{
    config::{ClientAuth, ServerTlsConfig},
    files::{
        Stamp,
        listener::{self, ListenerFiles},
    },
};

/// Files that changed a moment ago may not be whole.
const SETTLED: Duration = Duration::from_millis(200);

/// What a listener shows and accepts.
pub(super) struct Showing {
    pub(super) settings: ServerTlsConfig,
    pub(super) config: Arc<ServerConfig>,
    pub(super) ends: Option<Timestamp>,
    pub(super) digest: [u8; 32],
}

/// The state that the files are in. `None`: it isn't there.
pub(super) type Stamps = [Option<Stamp>; 3];

impl Showing {
    pub(super) fn has_ended(&self) -> bool {
        self.ends.is_some_and(|ends| ends <= Timestamp::now())
    }
}

pub(super) fn ended(place: &str, tls: &ServerTlsConfig, ends: Option<Timestamp>) -> String {
    let ends = ends.map_or_else(String::new, |ends| format!(" on {ends:.0}"));
    format!("{place}.cert: {} ended{ends}: every client refuses it; renew it", tls.cert.display())
}

/// Reads the files in one state, as far as that can be seen.
pub(super) fn read(place: &str, tls: &ServerTlsConfig, speaks: &[&[u8]]) -> Result<(Showing, Stamps), Faulty> {
    let before = stamps(tls);
    let usable = listener::open(tls).map_err(|faults| {
        let each = faults.iter().map(|fault| format!("{place}.{}: {fault}", fault.key));
        Faulty(each.collect::<Vec<_>>().join("; "))
    })?;
    let (ends, digest) = (usable.ends, usable.digest);
    let config = server(tls, usable, speaks).map_err(|error| Faulty(format!("{place}: {error}")))?;
    Ok((Showing { settings: tls.clone(), config: Arc::new(config), ends, digest }, before))
}

fn server(
    tls: &ServerTlsConfig,
    usable: ListenerFiles,
    speaks: &[&[u8]],
) -> Result<ServerConfig, Box<dyn std::error::Error>> {
    let verifier = match usable.authorities {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(authorities) => {
            let builder = WebPkiClientVerifier::builder(Arc::new(authorities));
            let optional = tls.client_auth == ClientAuth::Optional;
            if optional { builder.allow_unauthenticated() } else { builder }.build()?
        }
    };
    let shown = Arc::new(SingleCertAndKey::from(usable.certified));
    let mut config = ServerConfig::builder().with_client_cert_verifier(verifier).with_cert_resolver(shown);
    config.alpn_protocols = speaks.iter().map(|name| name.to_vec()).collect();
    if tls.client_auth == ClientAuth::None {
        config.ticketer = Ticketer::new()?;
    } else {
        // rustls resumes a client's identity unchecked, for hours after its certificate has ended.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

/// The state that the files are in.
pub(super) fn stamps(tls: &ServerTlsConfig) -> Stamps {
    [Stamp::at(&tls.cert), Stamp::at(&tls.key), tls.client_ca.as_deref().and_then(Stamp::at)]
}

/// Whether one of the files changed a moment ago.
pub(super) fn settling(stamps: &Stamps) -> bool {
    stamps.iter().flatten().any(|stamp| stamp.age() < SETTLED)
}
