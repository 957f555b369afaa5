//! Whose certificates are believed, and which one is shown.
//!
//! The files are read again when they change: CAs and client certificates are rotated too.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::VaultError;
use crate::files::{Rootless, Stamp, roots};

/// Files, and what was made of them.
pub(super) struct VaultTls {
    /// Roots; `None`: the platform's.
    ca: Option<PathBuf>,
    /// Certificate and private key to show.
    client: Option<(PathBuf, PathBuf)>,
    made: Mutex<Option<(Vec<Stamp>, Arc<ClientConfig>)>>,
}

impl VaultTls {
    pub(super) fn new(ca: Option<&Path>, client: Option<(&Path, &Path)>) -> Self {
        let client = client.map(|(cert, key)| (cert.to_owned(), key.to_owned()));
        Self { ca: ca.map(Path::to_owned), client, made: Mutex::new(None) }
    }

    /// The TLS settings. Reads files.
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, VaultError> {
        let stamps = self.stamps()?;
        let mut made = self.made.lock();
        if let Some((of, config)) = made.as_ref()
            && *of == stamps
        {
            return Ok(config.clone());
        }
        let config = Arc::new(self.make()?);
        *made = Some((stamps, config.clone()));
        Ok(config)
    }

    fn stamps(&self) -> Result<Vec<Stamp>, VaultError> {
        let client = self.client.iter().flat_map(|(cert, key)| [cert, key]);
        let stamp = |path: &PathBuf| std::fs::metadata(path).map(|meta| Stamp::of(&meta)).map_err(unfit(path));
        self.ca.iter().chain(client).map(stamp).collect()
    }

    fn make(&self) -> Result<ClientConfig, VaultError> {
        let roots = roots(self.ca.as_deref()).map_err(|rootless| match rootless {
            Rootless::Nowhere => VaultError::Unfit("there is no certificate authority to verify it with".to_owned()),
            Rootless::File { .. } => VaultError::Unfit(rootless.to_string()),
        })?;
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let mut config = match &self.client {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let private = PrivateKeyDer::from_pem_file(key).map_err(unfit(key))?;
                builder.with_client_auth_cert(certificates(cert)?, private).map_err(unfit(cert))?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, VaultError> {
    let read = CertificateDer::pem_file_iter(file).map_err(unfit(file))?;
    read.map(|certificate| certificate.map_err(unfit(file))).collect()
}

fn unfit<E: std::fmt::Display>(file: &Path) -> impl Fn(E) -> VaultError {
    move |error| VaultError::Unfit(format!("{}: {error}", file.display()))
}
