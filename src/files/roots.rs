//! The certificate authorities that verify a peer's certificate: Fastrac's, a vault's, or a client's.
//!
//! Fails with [`RootsError`], which quotes nothing of the file.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use rustls::RootCertStore;

use super::{
    deadline::within_deadline,
    pem,
    read::{FileError, MAX_CERTIFICATES, read},
};

/// There are no certificate authorities.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// Neither the platform nor `SSL_CERT_FILE` has any. With the first error of the search, if there was one.
    #[error("neither the platform nor SSL_CERT_FILE has any root certificate: name a PEM file as `ca`{}", because(.0))]
    Nowhere(Option<String>),
    #[error(transparent)]
    File(#[from] FileError),
}

fn because(error: &Option<String>) -> String {
    error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default()
}

/// The authorities of a PEM file, or the platform's (`SSL_CERT_FILE` is honoured). Reads files.
///
/// # Errors
/// [`RootsError`] if there is none, or one in the file can't be used.
pub(crate) fn roots(file: Option<&Path>) -> Result<RootCertStore, RootsError> {
    match file {
        Some(file) => {
            let pem = read(file, MAX_CERTIFICATES)?.bytes;
            Ok(pem::authorities(&pem).map_err(|reason| FileError::unfit(file, reason))?)
        }
        None => of_platform(),
    }
}

/// Certificates of the platform that can't be used are left out.
fn of_platform() -> Result<RootCertStore, RootsError> {
    let named = env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let load = || {
        // The library would wait for the writer of a FIFO.
        match named.filter(|named| fs::metadata(named).is_ok_and(|meta| !meta.is_file())) {
            Some(named) => Err(FileError::irregular(&named)),
            None => Ok(rustls_native_certs::load_native_certs()),
        }
    };
    let Some(found) = within_deadline(Path::new("the platform's root certificates"), load) else {
        return Err(RootsError::Nowhere(Some("reading them takes too long".to_owned())));
    };
    let found = found?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(RootsError::Nowhere(found.errors.first().map(ToString::to_string)));
    }
    Ok(roots)
}
