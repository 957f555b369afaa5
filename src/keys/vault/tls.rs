//! TLS settings for the vault: its certificate authorities, and the client certificate.
//!
//! The files are read again when they change: authorities and client certificates are rotated too. Fails
//! with [`VaultError::Unfit`].

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use rustls::{ClientConfig, sign::SingleCertAndKey};

use super::fault::VaultError;
use crate::{
    config::{ClientAuth, ServerTlsConfig, VaultAuth},
    files::{
        FileError, Stamp, certificate,
        listener::{self, UnusableFile},
        read::in_time,
        roots,
    },
};

/// The files, and the settings made of them.
pub(super) struct VaultTls {
    /// Authorities; `None`: the platform's.
    ca: Option<PathBuf>,
    /// Certificate and private key of the client.
    client: Option<ServerTlsConfig>,
    made: Mutex<Option<Made>>,
}

struct Made {
    /// The state of the files that were read.
    stamps: Vec<Option<Stamp>>,
    config: Arc<ClientConfig>,
}

impl VaultTls {
    pub(super) fn new(ca: Option<&Path>, auth: &VaultAuth) -> Self {
        let client = match auth {
            VaultAuth::Cert { cert, key, .. } => Some(ServerTlsConfig {
                cert: cert.clone(),
                key: key.clone(),
                client_ca: None,
                client_auth: ClientAuth::None,
            }),
            _ => None,
        };
        Self { ca: ca.map(Path::to_owned), client, made: Mutex::new(None) }
    }

    /// The TLS settings. Reads files: blocks.
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, VaultError> {
        let stamps = self.files().map(|file| stamp(file)).collect::<Result<Vec<_>, _>>()?;
        let mut made = self.made.lock();
        if let Some(made) = made.as_ref().filter(|made| made.stamps == stamps) {
            return Ok(made.config.clone());
        }
        let config = Arc::new(self.make()?);
        *made = Some(Made { stamps, config: config.clone() });
        Ok(config)
    }

    /// Whether the configuration names any file.
    pub(super) fn names_files(&self) -> bool {
        self.files().next().is_some()
    }

    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let client = self.client.iter().flat_map(|client| [&client.cert, &client.key]);
        self.ca.iter().chain(client)
    }

    fn make(&self) -> Result<ClientConfig, VaultError> {
        let roots = roots(self.ca.as_deref()).map_err(|error| VaultError::Unfit(error.to_string()))?;
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let mut config = match &self.client {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let faults = |faults: Vec<UnusableFile>| {
                    let each = faults.iter().map(ToString::to_string);
                    VaultError::Unfit(each.collect::<Vec<_>>().join("; "))
                };
                let opened = listener::open(files).map_err(faults)?;
                if let Some(warning) = opened.ends.and_then(|ends| certificate::expiry_warning(&files.cert, ends)) {
                    tracing::warn!("vault.auth.cert: {warning}");
                }
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(opened.certified)))
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// The state of a file, if it can be told in time.
fn stamp(file: &Path) -> Result<Option<Stamp>, VaultError> {
    let path = file.to_owned();
    in_time(file, move || Ok(Stamp::at(&path))).map_err(|error: FileError| VaultError::Unfit(error.to_string()))
}
