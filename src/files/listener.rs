//! The files of a TLS listener or client: certificate, private key and client CAs, checked against each other.
//!
//! `check` reports every fault that is found here; the listener uses what is read. The certificate and the
//! key belong together. The text of a private key is zeroed after use. No text of a file gets into a fault.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustls::{
    Error, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{
    certificate::{ends, not_after},
    pem,
    read::{MAX_CERTIFICATES, read},
};
use crate::config::{ClientAuth, ServerTlsConfig};

/// The content of the files.
#[derive(Debug)]
pub struct ListenerFiles {
    /// Certificate chain, leaf first, and its key.
    pub certified: CertifiedKey,
    /// Authorities of clients' certificates; `None`: none are requested.
    pub authorities: Option<RootCertStore>,
    /// When the first certificate of the chain ends. `None`: unknown.
    pub ends: Option<Timestamp>,
    /// SHA-256 of the content of all the files.
    pub digest: [u8; 32],
}

/// A file that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {message}", file.display())]
pub struct UnusableFile {
    /// Its key in the configuration: `cert`, `key` or `client_ca`.
    pub key: &'static str,
    pub file: PathBuf,
    /// What is wrong, and what to do.
    pub message: String,
}

/// Reads the files. A certificate that has ended is not a fault. Blocks.
///
/// # Errors
/// Every file that can't be used. A key that doesn't belong to the certificate is a fault of the key.
pub fn open(tls: &ServerTlsConfig) -> Result<ListenerFiles, Vec<UnusableFile>> {
    let mut reader = FileReader { digest: Sha256::new(), faults: Vec::new() };
    let cert = reader.read("cert", &tls.cert, pem::certificates);
    let key = reader.read("key", &tls.key, pem::private_key);
    let client_ca = tls.client_ca.as_deref().and_then(|file| reader.read("client_ca", file, pem::certificates));
    let FileReader { digest, mut faults } = reader;

    let chain = cert.map(|pem| certificates(&pem)).unwrap_or_default();
    let broken = chain.iter().position(|certificate| not_after(certificate).is_none());
    if let Some(index) = broken {
        let message = format!("holds a certificate that is broken: number {}", index + 1);
        faults.push(UnusableFile { key: "cert", file: tls.cert.clone(), message });
    }
    let ends = ends(&chain);
    let mut certified = None;
    if let (false, Some(key)) = (chain.is_empty() || broken.is_some(), key) {
        match certified_key(chain, &key, tls) {
            Ok(pair) => certified = Some(pair),
            Err(fault) => faults.push(fault),
        }
    }
    let authorities = (tls.client_auth != ClientAuth::None)
        .then(|| authorities(client_ca.as_ref().map(|pem| pem.as_slice()), tls, &mut faults));
    match certified {
        Some(certified) if faults.is_empty() => {
            Ok(ListenerFiles { certified, authorities, ends, digest: digest.finalize().into() })
        }
        _ => Err(faults),
    }
}

/// Reads the files one after the other, and collects what is wrong.
struct FileReader {
    digest: Sha256,
    faults: Vec<UnusableFile>,
}

impl FileReader {
    /// The content of a file that passes `check`.
    fn read(
        &mut self,
        key: &'static str,
        file: &Path,
        check: fn(&[u8]) -> Result<(), &'static str>,
    ) -> Option<Zeroizing<Vec<u8>>> {
        let content = read(file, MAX_CERTIFICATES).map(|file| file.bytes).map_err(|error| error.reason());
        let content = content.and_then(|content| check(&content).map(|()| content).map_err(str::to_owned));
        match content {
            Ok(content) => {
                self.digest.update((content.len() as u64).to_be_bytes());
                self.digest.update(&content);
                Some(content)
            }
            Err(message) => {
                self.faults.push(UnusableFile { key, file: file.to_owned(), message });
                None
            }
        }
    }
}

/// The certificates of a text that was checked already.
fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: &[u8],
    tls: &ServerTlsConfig,
) -> Result<CertifiedKey, UnusableFile> {
    let of_key = |message: &str| UnusableFile { key: "key", file: tls.key.clone(), message: message.to_owned() };
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| of_key("holds no private key in PEM form"))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| match error {
        Error::InconsistentKeys(_) => {
            of_key("does not belong to the certificate: put the two that were issued together in place")
        }
        Error::InvalidCertificate(_) => UnusableFile {
            key: "cert",
            file: tls.cert.clone(),
            message: "begins with a certificate that TLS can't use".to_owned(),
        },
        _ => of_key("holds a key of a kind that TLS can't use: make an RSA, ECDSA or Ed25519 one"),
    })
}

fn authorities(client_ca: Option<&[u8]>, tls: &ServerTlsConfig, faults: &mut Vec<UnusableFile>) -> RootCertStore {
    let mut store = RootCertStore::empty();
    for (index, certificate) in client_ca.map(certificates).unwrap_or_default().into_iter().enumerate() {
        if store.add(certificate).is_err() {
            let message = format!("holds a certificate that can't be an authority: number {}", index + 1);
            faults.push(UnusableFile { key: "client_ca", file: tls.client_ca.clone().unwrap_or_default(), message });
        }
    }
    store
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_is_not_shown_when_what_a_listener_uses_is_printed() {
        let made = rcgen::generate_simple_self_signed(vec!["gateway.internal".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let tls = ServerTlsConfig { cert, key, client_ca: None, client_auth: ClientAuth::None };
        let usable = open(&tls).unwrap();
        let shown = format!("{usable:?}");
        // The scalar of a P-256 key in PKCS #8 (RFC 5915).
        let scalar = &made.signing_key.serialized_der()[36..68];
        let (listed, hex) = (format!("{:?}", &scalar[..6]), format!("{:02x?}", &scalar[..6]));
        for hidden in [listed.trim_matches(['[', ']']), hex.trim_matches(['[', ']'])] {
            assert!(!shown.contains(hidden), "{shown}");
            assert!(!shown.contains(&hidden.replace(", ", "")), "{shown}");
        }
    }
}
