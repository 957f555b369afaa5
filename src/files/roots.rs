//! The authorities by which a server's certificate is checked: Fastrac's, or a vault's.

use std::path::{Path, PathBuf};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// There are none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Rootless {
    /// Neither the platform nor `SSL_CERT_FILE` has any.
    #[error("neither the platform nor SSL_CERT_FILE has any root certificate")]
    Nowhere,
    /// The file that was named for it has none that can be used.
    #[error("{}: {reason}", file.display())]
    File {
        /// Where it is.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Those of a PEM file, or the platform's (`SSL_CERT_FILE` is honoured). Reads files.
///
/// # Errors
/// [`Rootless`] if there is none, or one in the file that can't be used.
pub(crate) fn roots(file: Option<&Path>) -> Result<RootCertStore, Rootless> {
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if roots.is_empty() { Err(Rootless::Nowhere) } else { Ok(roots) };
    };
    let bad = |reason: String| Rootless::File { file: file.to_owned(), reason };
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| bad(error.to_string()))? {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() { Err(bad("no certificate in it".to_owned())) } else { Ok(roots) }
}
