//! The files of a TLS listener: read, and checked against each other.
//!
//! One reading for `check`, which wants every fault, and for the door, which wants what it can use.
//! What always holds: the certificate and the key belong together, and whoever asks for clients'
//! certificates knows an authority for them. The text of a private key is zeroed after use. No text
//! of a file gets into a fault.

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

/// What a listener can show and accept.
#[derive(Debug)]
pub struct Usable {
    /// Certificate chain, leaf first, and its key.
    pub certified: CertifiedKey,
    /// Authorities of clients' certificates; `None` where none are asked for.
    pub authorities: Option<RootCertStore>,
    /// When the chain ends: with its first certificate that does. `None`: it doesn't say.
    pub ends: Option<Timestamp>,
    /// Tells one content of all the files from another.
    pub digest: [u8; 32],
}

/// A file of a listener that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {message}", file.display())]
pub struct Unusable {
    /// Its key: `cert`, `key` or `client_ca`.
    pub key: &'static str,
    /// Where it is.
    pub file: PathBuf,
    /// What is wrong, and what to do.
    pub message: String,
}

/// Reads a listener's files. An ended certificate is none of the faults.
///
/// # Errors
/// Every file that can't be used. A pair that doesn't belong together is a fault of its key.
pub fn open(tls: &ServerTlsConfig) -> Result<Usable, Vec<Unusable>> {
    let mut digest = Sha256::new();
    let mut faults = Vec::new();
    let mut take = |key, file: &Path, check: fn(&[u8]) -> Result<(), &'static str>| {
        let fault = |message: String| Unusable { key, file: file.to_owned(), message };
        let content = read(file, MAX_CERTIFICATES).map(|file| file.bytes).map_err(|error| fault(error.reason()));
        let content = content.and_then(|content| check(&content).map(|()| content).map_err(|m| fault(m.to_owned())));
        content.map_err(|fault| faults.push(fault)).ok().inspect(|content| {
            digest.update((content.len() as u64).to_be_bytes());
            digest.update(content);
        })
    };
    let cert = take("cert", &tls.cert, pem::certificates);
    let key = take("key", &tls.key, pem::private_key);
    let roots = tls.client_ca.as_deref().and_then(|file| Some((file, take("client_ca", file, pem::certificates)?)));
    let digest = digest.finalize().into();

    let chain = cert.map(|pem| certificates(&pem)).unwrap_or_default();
    let broken = chain.iter().position(|certificate| not_after(certificate).is_none());
    if let Some(index) = broken {
        let message = format!("holds a certificate that is broken: number {}", index + 1);
        faults.push(Unusable { key: "cert", file: tls.cert.clone(), message });
    }
    let ends = ends(&chain);
    let mut certified = None;
    if let (false, Some(key)) = (chain.is_empty() || broken.is_some(), key) {
        match pair(chain, &key) {
            Ok(pair) => certified = Some(pair),
            Err((key, message)) => {
                let file = if key == "key" { &tls.key } else { &tls.cert };
                faults.push(Unusable { key, file: file.clone(), message });
            }
        }
    }
    let authorities = (tls.client_auth != ClientAuth::None).then(|| authorities(roots.as_ref(), &mut faults));
    match certified {
        Some(certified) if faults.is_empty() => Ok(Usable { certified, authorities, ends, digest }),
        _ => Err(faults),
    }
}

/// The certificates of a text that was checked already.
fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

fn pair(chain: Vec<CertificateDer<'static>>, key: &Zeroizing<Vec<u8>>) -> Result<CertifiedKey, (&'static str, String)> {
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| ("key", "holds no private key in PEM form".to_owned()))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| match error {
        Error::InconsistentKeys(_) => {
            ("key", "does not belong to the certificate: put the two that were issued together in place".to_owned())
        }
        Error::InvalidCertificate(_) => ("cert", "begins with a certificate that TLS can't use".to_owned()),
        _ => ("key", "holds a key of a kind that TLS can't use: make an RSA, ECDSA or Ed25519 one".to_owned()),
    })
}

fn authorities(roots: Option<&(&Path, Zeroizing<Vec<u8>>)>, faults: &mut Vec<Unusable>) -> RootCertStore {
    let mut store = RootCertStore::empty();
    let Some((file, pem)) = roots else { return store };
    for (index, certificate) in certificates(pem).into_iter().enumerate() {
        if store.add(certificate).is_err() {
            let message = format!("holds a certificate that can't be an authority: number {}", index + 1);
            faults.push(Unusable { key: "client_ca", file: (*file).to_owned(), message });
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
