//! The files that a configuration names: can they be opened, do they hold what they should, and may
//! nobody read them who shouldn't?
//!
//! Apart from the checks of the text, because it asks the disk. The rooms that use the files open
//! them themselves, but for those of a TLS listener, which are read by [`listener`] for both; nothing
//! read here is kept, and nothing of it appears in a finding.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use zeroize::Zeroizing;

use crate::{
    config::{
        AccountConfig, Config, KeySource, ServerTlsConfig, VaultAuth,
        check::{Diagnostic, KeyPath, Lines},
    },
    files::{
        listener, pem,
        read::{MAX_CERTIFICATES, read},
    },
    keys::encrypted,
};

/// A certificate that ends sooner is worth a warning: as the alert rule in `deploy/prometheus` has it.
const ENDS_SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// What was found in the files.
#[derive(Debug, Default)]
pub struct Inspected {
    /// Files that can't be used.
    pub faults: Vec<Diagnostic>,
    /// Files that are laxer than they need be.
    pub warnings: Vec<Diagnostic>,
}

/// Opens every key, certificate and CA file that the configuration names.
pub fn inspect(config: &Config, lines: &Lines) -> Inspected {
    let mut inspection = Inspection { lines, found: Inspected::default() };
    let listen = KeyPath::at(["listen"]);
    for (key, tls) in [("tls", &config.listen.tls), ("admin_tls", &config.listen.admin_tls)] {
        if let Some(tls) = tls {
            inspection.server_tls(tls, &listen.key(key));
        }
    }
    if let Some(shared) = &config.state.shared {
        let place = KeyPath::at(["state", "shared"]);
        inspection.roots(shared.ca.as_ref(), &place.key("ca"));
        inspection.secret(shared.password_file.as_ref(), &place.key("password_file"));
    }
    if let Some(vault) = &config.vault {
        let place = KeyPath::at(["vault"]);
        inspection.roots(vault.ca.as_ref(), &place.key("ca"));
        inspection.vault_auth(&vault.auth, &place.key("auth"));
    }
    for account in &config.accounts {
        inspection.account(account, &KeyPath::at(["accounts", &account.name]));
    }
    inspection.found.faults.sort_by_key(|finding| finding.line);
    inspection.found.warnings.sort_by_key(|finding| finding.line);
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
                let content = self.open(path, &place.key("path"));
                self.closed(path, &place.key("path"));
                match (identity, content) {
                    (Some(identity), content) => {
                        let identities = self.identity(identity, &place.key("identity"));
                        if let (Some(content), Some(identities)) = (content, identities) {
                            match encrypted::open(&content, &identities) {
                                Ok(content) => self.key_file(&content, &account.name, &place.key("path")),
                                Err(why) => self.fault(&place.key("path"), format!("{} {why}", path.display())),
                            }
                        }
                    }
                    (None, Some(content)) => self.key_file(&content, &account.name, &place.key("path")),
                    (None, None) => {}
                }
            }
            KeySource::Directory { path } => {
                for name in ["access_key", "secret_key"] {
                    let file = path.join(name);
                    let content = self.open(&file, &place.key("path"));
                    if content.is_some_and(|content| content.trim_ascii().is_empty()) {
                        self.fault(&place.key("path"), format!("{} is empty", file.display()));
                    }
                    self.not_lax(&file, &place.key("path"));
                }
            }
            KeySource::Vault { sealed_copy: Some(copy), .. } => {
                self.identity(&copy.identity, &place.key("sealed_copy").key("identity"));
            }
            KeySource::Vault { .. } | KeySource::Env { .. } => {}
        }
    }

    fn server_tls(&mut self, tls: &ServerTlsConfig, place: &KeyPath) {
        self.not_lax(&tls.key, &place.key("key"));
        match listener::open(tls) {
            Ok(usable) => self.ending(usable.ends, &tls.cert, &place.key("cert")),
            Err(faults) => {
                for fault in faults {
                    self.fault(&place.key(fault.key), fault.to_string());
                }
            }
        }
    }

    /// Clients refuse a certificate that has ended, and somebody must renew it before.
    fn ending(&mut self, ends: Option<Timestamp>, file: &Path, place: &KeyPath) {
        let Some(ends) = ends else { return };
        let left = ends.duration_since(Timestamp::now());
        if left.is_negative() || left.is_zero() {
            self.fault(place, format!("{} ended on {ends:.0}: every client refuses it; renew it", file.display()));
        } else if left < ENDS_SOON {
            self.warn(
                place,
                format!("{} ends on {ends:.0}, in {} days: renew it", file.display(), left.as_hours() / 24),
            );
        }
    }

    fn vault_auth(&mut self, auth: &VaultAuth, place: &KeyPath) {
        match auth {
            VaultAuth::Token { token_file } => self.secret(token_file.as_ref(), &place.key("token_file")),
            VaultAuth::AppRole { secret_id_file, .. } => {
                self.secret(Some(secret_id_file), &place.key("secret_id_file"));
            }
            VaultAuth::Kubernetes { token_file, .. } | VaultAuth::Jwt { token_file, .. } => {
                self.secret(Some(token_file), &place.key("token_file"));
            }
            VaultAuth::Cert { cert, key, .. } => {
                self.pem(cert, &place.key("cert"), pem::certificates);
                self.pem(key, &place.key("key"), pem::private_key);
                self.not_lax(key, &place.key("key"));
            }
        }
    }

    /// A file with an age identity.
    fn identity(&mut self, path: &Path, place: &KeyPath) -> Option<Zeroizing<Vec<u8>>> {
        let content = self.open(path, place)?;
        self.closed(path, place);
        match encrypted::seal(b"", &content) {
            Ok(_) => Some(content),
            Err(why) => {
                self.fault(place, format!("{} {why}", path.display()));
                None
            }
        }
    }

    fn roots(&mut self, path: Option<&PathBuf>, place: &KeyPath) {
        if let Some(path) = path {
            self.pem(path, place, pem::certificates);
        }
    }

    fn secret(&mut self, path: Option<&PathBuf>, place: &KeyPath) {
        let Some(path) = path else { return };
        let content = self.open(path, place);
        if content.is_some_and(|content| content.trim_ascii().is_empty()) {
            self.fault(place, format!("{} is empty", path.display()));
        }
        self.not_lax(path, place);
    }

    fn pem(&mut self, path: &Path, place: &KeyPath, check: fn(&[u8]) -> Result<(), &'static str>) {
        if let Some(content) = self.open(path, place)
            && let Err(message) = check(&content)
        {
            self.fault(place, format!("{} {message}", path.display()));
        }
    }

    /// The pair of the account is there; what it is like is the business of the keys.
    fn key_file(&mut self, content: &[u8], account: &str, place: &KeyPath) {
        let pair = std::str::from_utf8(content).ok().and_then(|text| text.parse::<toml::Table>().ok());
        let Some(file) = pair else {
            return self.fault(place, "holds no TOML: it wants a table [ACCOUNT] with access_key and secret_key");
        };
        for key in ["access_key", "secret_key"] {
            let value = file.get(account).and_then(|pair| pair.get(key)).and_then(toml::Value::as_str);
            if value.is_none_or(|value| value.trim().is_empty()) {
                self.fault(place, format!("holds no {key} in a table [{account}]"));
            }
        }
    }

    fn open(&mut self, path: &Path, place: &KeyPath) -> Option<Zeroizing<Vec<u8>>> {
        match read(path, MAX_CERTIFICATES) {
            Ok(content) => Some(content.bytes),
            Err(error) => {
                self.fault(place, error.to_string());
                None
            }
        }
    }

    /// Nobody else reads or writes it: the contract for key files.
    fn closed(&mut self, path: &Path, place: &KeyPath) {
        let Some(mode) = mode(path) else { return };
        if mode & 0o026 != 0 {
            let message = format!("{} may be read by others or written by a group: chmod 600", path.display());
            self.fault(place, message);
        } else if mode & 0o040 != 0 {
            self.warn(place, format!("{} may be read by a group: chmod 600 unless that is meant", path.display()));
        }
    }

    /// The same for files that an orchestrator mounts, whose modes nobody chose: only a warning.
    fn not_lax(&mut self, path: &Path, place: &KeyPath) {
        if mode(path).is_some_and(|mode| mode & 0o066 != 0) {
            self.warn(place, format!("{} may be read or written by a group or by others", path.display()));
        }
    }
}

/// The permission bits of the file that a path leads to.
fn mode(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|meta| meta.permissions().mode())
}
