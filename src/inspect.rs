//! `check` of the files that a configuration names.
//!
//! Each file is read by the reader that `run` uses, so `check` accepts what `run` accepts, and says the same
//! about the rest. In addition it warns of permissions that are wider than necessary and of certificates
//! that end soon. Nothing that is read is kept, and no diagnostic quotes a file's content.

#[cfg(test)]
mod tests;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    config::{
        AccountConfig, ClientAuth, Config, KeySource, ServerTlsConfig, VaultAuth,
        check::{Diagnostic, KeyPath, Lines},
    },
    files::{certificate, listener, roots},
    keys,
};

/// A certificate that ends sooner than this is worth a warning, as in the alert rule of `deploy/prometheus`.
const ENDS_SOON: SignedDuration = SignedDuration::from_hours(14 * 24);
/// Attempts to read a key source that is being changed, and the pause between two of them.
const ATTEMPTS: usize = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// What was found in the files.
#[derive(Debug, Default)]
pub struct Inspected {
    /// Files that can't be used.
    pub faults: Vec<Diagnostic>,
    /// Files with permissions wider than necessary, and certificates that end soon.
    pub warnings: Vec<Diagnostic>,
}

/// Reads every key, certificate, CA and token file that the configuration names. Blocks.
pub fn inspect(config: &Config, lines: &Lines) -> Inspected {
    let mut inspection = Inspection { lines, found: Inspected::default() };
    let listen = KeyPath::at(["listen"]);
    for (key, tls) in [("tls", &config.listen.tls), ("admin_tls", &config.listen.admin_tls)] {
        if let Some(tls) = tls {
            inspection.server_tls(tls, &listen.key(key));
        }
    }
    if let Some(vault) = &config.vault {
        let place = KeyPath::at(["vault"]);
        inspection.roots(vault.ca.as_ref(), &place.key("ca"));
        inspection.vault_auth(&vault.auth, &place.key("auth"));
    }
    for account in &config.accounts {
        inspection.account(account, &KeyPath::at(["accounts", &account.name]));
    }
    inspection.found.faults.sort_by_key(|fault| fault.line);
    inspection.found.warnings.sort_by_key(|warning| warning.line);
    inspection.found
}

struct Inspection<'l> {
    lines: &'l Lines,
    found: Inspected,
}

impl Inspection<'_> {
    fn fault(&mut self, place: &KeyPath, message: impl Into<String>) {
        self.found.faults.push(self.lines.diagnostic(place, message));
    }

    fn warn(&mut self, place: &KeyPath, message: impl Into<String>) {
        self.found.warnings.push(self.lines.diagnostic(place, message));
    }

    fn account(&mut self, account: &AccountConfig, place: &KeyPath) {
        self.roots(account.ca.as_ref(), &place.key("ca"));
        let place = place.key("keys");
        match &account.keys {
            KeySource::File { path, identity } => {
                self.warn_if_group_reads(path, &place.key("path"));
                // Without its identity the file can't be decrypted.
                if identity.as_ref().is_none_or(|identity| self.identity(identity, &place.key("identity"))) {
                    self.key_source(account, &place.key("path"));
                }
            }
            KeySource::Directory { path } => {
                for name in ["access_key", "secret_key"] {
                    self.warn_if_open(&path.join(name), &place.key("path"));
                }
                self.key_source(account, &place.key("path"));
            }
            KeySource::Vault { sealed_copy: Some(copy), .. } => {
                self.identity(&copy.identity, &place.key("sealed_copy").key("identity"));
            }
            KeySource::Vault { .. } | KeySource::Env { .. } => {}
        }
    }

    fn key_source(&mut self, account: &AccountConfig, place: &KeyPath) {
        let mut read = keys::read_files(&account.keys, &account.name);
        for _ in 1..ATTEMPTS {
            if !read.as_ref().is_err_and(keys::SourceError::is_transient) {
                break;
            }
            thread::sleep(PAUSE);
            read = keys::read_files(&account.keys, &account.name);
        }
        if let Err(error) = read {
            self.fault(place, error.to_string());
        }
    }

    /// Whether the file has an age identity.
    fn identity(&mut self, path: &Path, place: &KeyPath) -> bool {
        self.warn_if_group_reads(path, place);
        let read = keys::read_identities(path);
        if let Err(error) = &read {
            self.fault(place, error.to_string());
        }
        read.is_ok()
    }

    fn server_tls(&mut self, tls: &ServerTlsConfig, place: &KeyPath) {
        if let Some(ends) = self.certified(tls, place) {
            self.ending(ends, &tls.cert, &place.key("cert"));
        }
    }

    /// Checks a certificate, its key and the CAs; returns when the certificate ends.
    fn certified(&mut self, tls: &ServerTlsConfig, place: &KeyPath) -> Option<Timestamp> {
        self.warn_if_open(&tls.key, &place.key("key"));
        let faults = match listener::open(tls) {
            Ok(files) => return files.ends,
            Err(faults) => faults,
        };
        for fault in faults {
            self.fault(&place.key(fault.key), fault.to_string());
        }
        None
    }

    /// Reports a certificate that has expired or expires soon.
    fn ending(&mut self, ends: Timestamp, file: &Path, place: &KeyPath) {
        let left = ends.duration_since(Timestamp::now());
        if left.is_negative() || left.is_zero() {
            self.fault(place, certificate::expired(file, Some(ends)));
        } else if left < ENDS_SOON {
            self.warn(
                place,
                format!("{} expires on {ends:.0}, in {} days: renew it", file.display(), left.as_hours() / 24),
            );
        }
    }

    fn vault_auth(&mut self, auth: &VaultAuth, place: &KeyPath) {
        match auth {
            VaultAuth::Token { token_file } => self.credential(token_file.as_ref(), &place.key("token_file")),
            VaultAuth::AppRole { secret_id_file, .. } => {
                self.credential(Some(secret_id_file), &place.key("secret_id_file"));
            }
            VaultAuth::Kubernetes { token_file, .. } | VaultAuth::Jwt { token_file, .. } => {
                self.credential(Some(token_file), &place.key("token_file"));
            }
            VaultAuth::Cert { cert, key, .. } => {
                let (cert, key) = (cert.clone(), key.clone());
                let pair = ServerTlsConfig { cert, key, client_ca: None, client_auth: ClientAuth::None };
                self.certified(&pair, place);
            }
        }
    }

    fn roots(&mut self, path: Option<&PathBuf>, place: &KeyPath) {
        if let Some(path) = path
            && let Err(error) = roots(Some(path))
        {
            self.fault(place, error.to_string());
        }
    }

    fn credential(&mut self, path: Option<&PathBuf>, place: &KeyPath) {
        let Some(path) = path else { return };
        self.warn_if_open(path, place);
        if let Err(error) = keys::read_credential(path) {
            self.fault(place, error.to_string());
        }
    }

    /// For files whose reader refuses wider permissions.
    fn warn_if_group_reads(&mut self, path: &Path, place: &KeyPath) {
        if mode(path).is_some_and(|mode| mode & 0o066 == 0o040) {
            self.warn(place, format!("{} may be read by a group: chmod 600 unless that is meant", path.display()));
        }
    }

    /// For files that an orchestrator mounts, with modes that nobody chose: only a warning.
    fn warn_if_open(&mut self, path: &Path, place: &KeyPath) {
        if mode(path).is_some_and(|mode| mode & 0o066 != 0) {
            self.warn(place, format!("{} may be read or written by a group or by others", path.display()));
        }
    }
}

/// The permission bits of the file that a path leads to.
fn mode(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|meta| meta.permissions().mode())
}
