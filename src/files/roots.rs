//! The certificate authorities that verify a server's certificate: Fastrac's, or a vault's.
//!
//! Fails with [`RootsError`], which quotes nothing of the file.

use std::path::{Path, PathBuf};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::{
    pem,
    read::{MAX_CERTIFICATES, read},
};

/// There are no certificate authorities.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootsError {
    /// Neither the platform nor `SSL_CERT_FILE` has any.
    #[error("neither the platform nor SSL_CERT_FILE has any root certificate")]
    Nowhere,
    /// The configured file can't be used.
    #[error("{}: {reason}", file.display())]
    File { file: PathBuf, reason: String },
}

/// The authorities of a PEM file, or the platform's (`SSL_CERT_FILE` is honoured). Reads files.
///
/// # Errors
/// [`RootsError`] if there is none, or one in the file can't be used.
pub(crate) fn roots(file: Option<&Path>) -> Result<RootCertStore, RootsError> {
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if roots.is_empty() { Err(RootsError::Nowhere) } else { Ok(roots) };
    };
    let bad = |reason: String| RootsError::File { file: file.to_owned(), reason };
    let pem = read(file, MAX_CERTIFICATES).map_err(|error| bad(error.reason()))?.bytes;
    pem::certificates(&pem).map_err(|reason| bad(reason.to_owned()))?;
    for (index, certificate) in CertificateDer::pem_slice_iter(&pem).flatten().enumerate() {
        let invalid = |_| bad(format!("contains a certificate that can't be an authority: number {}", index + 1));
        roots.add(certificate).map_err(invalid)?;
    }
    Ok(roots)
}
