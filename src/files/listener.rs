//! The files of a TLS listener or client: certificate, private key and client CAs, checked against each other.
//!
//! `check` reports every fault that is found here; the listener uses what is read. The certificate and the
//! key belong together. The text of a private key is zeroed after use. No text of a file gets into a fault.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustls::{
    Error, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};
use sha2::{Digest as _, Sha256};

use super::{
    certificate::ends,
    pem,
    read::{MAX_CERTIFICATES, read},
};
use crate::config::ServerTlsConfig;

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
#[error("{}: {message}", file.display())]
pub struct UnusableFile {
    /// Its key in the configuration: `cert`, `key` or `client_ca`.
    pub key: &'static str,
    pub file: PathBuf,
    /// What is wrong, and what to do.
    pub message: String,
}

/// Reads the files. A certificate that has expired is not a fault. Blocks.
///
/// # Errors
/// Every file that can't be used. A key that doesn't belong to the certificate is a fault of the key.
pub fn open(tls: &ServerTlsConfig) -> Result<ListenerFiles, Vec<UnusableFile>> {
    let mut reader = FileReader { digest: Sha256::new(), faults: Vec::new() };
    let chain = reader.read("cert", &tls.cert, pem::certificates);
    let key = reader.read("key", &tls.key, pem::private_key);
    let authorities = tls.client_ca.as_deref().and_then(|file| reader.read("client_ca", file, pem::authorities));
    let FileReader { digest, mut faults } = reader;

    let ends = chain.as_deref().and_then(ends);
    let certified = chain.zip(key).map(|(chain, key)| certified_key(chain, key, tls));
    let certified = certified.and_then(|made| made.map_err(|fault| faults.push(fault)).ok());
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
    /// What `parse` finds in a file.
    fn read<T>(&mut self, key: &'static str, file: &Path, parse: fn(&[u8]) -> Result<T, String>) -> Option<T> {
        let content = read(file, MAX_CERTIFICATES).map(|file| file.bytes).map_err(|error| error.reason());
        let parsed = content.and_then(|content| {
            self.digest.update((content.len() as u64).to_be_bytes());
            self.digest.update(&content);
            parse(&content)
        });
        parsed.map_err(|message| self.faults.push(UnusableFile { key, file: file.to_owned(), message })).ok()
    }
}

fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    tls: &ServerTlsConfig,
) -> Result<CertifiedKey, UnusableFile> {
    let of_key = |message: &str| UnusableFile { key: "key", file: tls.key.clone(), message: message.to_owned() };
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| match error {
        Error::InconsistentKeys(_) => {
            of_key("does not belong to the certificate: put the two that were issued together in place")
        }
        Error::InvalidCertificate(_) => UnusableFile {
            key: "cert",
            file: tls.cert.clone(),
            message: "begins with a certificate that TLS can't use".to_owned(),
        },
        _ => of_key("contains a key of a kind that TLS can't use: make an RSA, ECDSA or Ed25519 one"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientAuth;

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
