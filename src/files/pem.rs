//! Checks what PEM text contains.

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

/// At least one certificate, and no broken one.
pub(crate) fn certificates(pem: &[u8]) -> Result<(), &'static str> {
    let mut found = false;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        certificate.map_err(|_| "holds PEM that is broken")?;
        found = true;
    }
    if found { Ok(()) } else { Err("holds no certificate in PEM form") }
}

/// A private key.
pub(crate) fn private_key(pem: &[u8]) -> Result<(), &'static str> {
    PrivateKeyDer::from_pem_slice(pem).map(drop).map_err(|_| "holds no private key in PEM form")
}
