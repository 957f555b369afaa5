//! What a PEM text (RFC 7468) contains: a certificate chain, certificate authorities, a private key.
//!
//! A message says what is wrong and quotes nothing of the text.

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::certificate::not_after;

/// How an encrypted key begins: PKCS #8 (RFC 7468 section 11), and the older form (RFC 1421 section 4.6.1.1).
const ENCRYPTED: [&[u8]; 2] = [b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED"];

/// A certificate chain: at least one certificate, and no broken one.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain = blocks(pem)?;
    match chain.iter().position(|certificate| not_after(certificate).is_none()) {
        Some(index) => Err(format!("contains a certificate that is broken: number {}", index + 1)),
        None => Ok(chain),
    }
}

/// Certificate authorities: at least one, and nothing else.
pub(super) fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for (index, certificate) in blocks(pem)?.into_iter().enumerate() {
        let invalid = |_| format!("contains a certificate that can't be an authority: number {}", index + 1);
        store.add(certificate).map_err(invalid)?;
    }
    Ok(store)
}

/// A private key that is not encrypted.
pub(super) fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        let encrypted = ENCRYPTED.iter().any(|mark| memchr::memmem::find(pem, mark).is_some());
        if encrypted {
            "contains an encrypted private key: store it decrypted (openssl pkey -in OLD -out NEW), with mode 0600"
        } else {
            "contains no private key in PEM form"
        }
        .to_owned()
    })
}

/// Every `CERTIFICATE` block.
fn blocks(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let blocks: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match blocks {
        Err(_) => Err("contains PEM that is broken".to_owned()),
        Ok(blocks) if blocks.is_empty() => Err("contains no certificate in PEM form".to_owned()),
        Ok(blocks) => Ok(blocks),
    }
}
