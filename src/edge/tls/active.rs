//! What a TLS listener presents and accepts, read from its files.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::{
    ServerConfig,
    crypto::ring::Ticketer,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    sign::SingleCertAndKey,
};

use super::TlsFilesError;
use crate::{
    config::{ClientAuth, ServerTlsConfig},
    files::{
        FileWatch, certificate,
        listener::{self, ListenerFiles},
    },
};

/// The TLS settings that new handshakes use.
pub(super) struct ActiveTls {
    pub(super) settings: ServerTlsConfig,
    pub(super) config: Arc<ServerConfig>,
    pub(super) expires: Option<Timestamp>,
    pub(super) digest: [u8; 32],
}

impl ActiveTls {
    pub(super) fn has_expired(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= Timestamp::now())
    }

    /// What is said if the certificate has expired or expires soon; `key` is the listener's.
    pub(super) fn expiry_warning(&self, key: &str) -> Option<String> {
        let warning = certificate::expiry_warning(&self.settings.cert, self.expires?)?;
        Some(format!("{key}.cert: {warning}"))
    }
}

/// Reads the files; also returns their watch, begun before so that a change during the read is noticed.
pub(super) fn read(key: &str, tls: &ServerTlsConfig, alpn: &[&[u8]]) -> Result<(ActiveTls, FileWatch), TlsFilesError> {
    let watch = watch(tls);
    let usable = listener::open(tls).map_err(|faults| {
        let each = faults.iter().map(|fault| format!("{key}.{}: {fault}", fault.key));
        TlsFilesError(each.collect::<Vec<_>>().join("; "))
    })?;
    let (expires, digest) = (usable.ends, usable.digest);
    let config = server_config(tls, usable, alpn).map_err(|error| TlsFilesError(format!("{key}: {error}")))?;
    Ok((ActiveTls { settings: tls.clone(), config: Arc::new(config), expires, digest }, watch))
}

fn server_config(
    tls: &ServerTlsConfig,
    usable: ListenerFiles,
    alpn: &[&[u8]],
) -> Result<ServerConfig, Box<dyn std::error::Error>> {
    let verifier = match usable.authorities {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(authorities) => {
            let builder = WebPkiClientVerifier::builder(Arc::new(authorities));
            let optional = tls.client_auth == ClientAuth::Optional;
            if optional { builder.allow_unauthenticated() } else { builder }.build()?
        }
    };
    let certificate = Arc::new(SingleCertAndKey::from(usable.certified));
    let mut config = ServerConfig::builder().with_client_cert_verifier(verifier).with_cert_resolver(certificate);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    if tls.client_auth == ClientAuth::None {
        config.ticketer = Ticketer::new()?;
    } else {
        // A resumed session keeps the client's identity unchecked, for hours after its certificate has expired.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

/// Watches certificate, key and CA file.
pub(super) fn watch(tls: &ServerTlsConfig) -> FileWatch {
    FileWatch::new([&tls.cert, &tls.key].into_iter().chain(&tls.client_ca).cloned())
}
