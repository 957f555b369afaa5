//! TLS at the door: the certificate that is shown, and whose certificates are accepted.

use std::{path::Path, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio_rustls::TlsAcceptor;

use super::AppError;
use crate::config::{ClientAuth, ServerTls};

/// What the data port speaks, and what the admin port does.
pub(super) const DATA: &[&[u8]] = &[b"h2", b"http/1.1"];
pub(super) const ADMIN: &[&[u8]] = &[b"http/1.1"];

/// What accepts TLS on a listener. `which` is its key in `[listen]`.
pub(super) fn acceptor(which: &'static str, tls: &ServerTls, speaks: &[&[u8]]) -> Result<TlsAcceptor, AppError> {
    let bad = |reason: String| AppError::Tls { which, reason };
    let chain = certificates(&tls.cert).map_err(bad)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|e| bad(format!("{}: {e}", tls.key.display())))?;
    let verifier = verifier(tls).map_err(bad)?;
    let config = ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(chain, key);
    let mut config = config.map_err(|e| bad(e.to_string()))?;
    config.alpn_protocols = speaks.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config).into())
}

fn verifier(tls: &ServerTls) -> Result<Arc<dyn ClientCertVerifier>, String> {
    if tls.client_auth == ClientAuth::None {
        return Ok(WebPkiClientVerifier::no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    for certificate in tls.client_ca.iter().map(|file| certificates(file)).collect::<Result<Vec<_>, _>>()?.concat() {
        roots.add(certificate).map_err(|e| e.to_string())?;
    }
    let builder = WebPkiClientVerifier::builder(Arc::new(roots));
    let builder = if tls.client_auth == ClientAuth::Optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|e| e.to_string())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found {
        Ok(found) if found.is_empty() => Err(format!("{}: no certificate in it", file.display())),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("{}: {error}", file.display())),
    }
}
