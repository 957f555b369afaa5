//! The files that a configuration names, and which of them the gateway writes.

use std::path::{Path, PathBuf};

use super::{Config, KeySource, LogTarget, ServerTlsConfig, VaultAuth, check::KeyPath};

/// Files that the gateway writes beside the exchange log.
pub(super) const BESIDE_LOG: [&str; 2] = ["unidentified.jsonl", AUDIT];
/// The audit log of the admin port: beside the exchange log, or in `state.dir` if that is no file.
pub(crate) const AUDIT: &str = "audit.jsonl";
/// The file of the state store.
const STORE: &str = "state.redb";

/// A file and the key that names it.
#[derive(Clone, Debug)]
pub(crate) struct NamedFile {
    pub(crate) key: KeyPath,
    pub(crate) path: PathBuf,
    /// Whether the gateway writes it; otherwise it reads it.
    pub(crate) written: bool,
}

impl Config {
    /// Every file that the configuration names, directly or by its folder.
    pub(crate) fn files(&self) -> Vec<NamedFile> {
        let mut files = Files(Vec::new());
        files.write(KeyPath::at(["state", "dir"]), self.state.dir.join(STORE));
        let key = KeyPath::at(["log", "exchanges"]);
        if let LogTarget::File(path) = &self.log.exchanges {
            files.write(key.clone(), path.clone());
            for name in BESIDE_LOG {
                files.write(key.clone(), path.with_file_name(name));
            }
        } else {
            files.write(key, self.state.dir.join(AUDIT));
        }
        let listen = KeyPath::at(["listen"]);
        for (key, tls) in [("tls", &self.listen.tls), ("admin_tls", &self.listen.admin_tls)] {
            if let Some(ServerTlsConfig { cert, key: private, client_ca, .. }) = tls {
                let table = listen.key(key);
                files.read(&table, [("cert", Some(cert)), ("key", Some(private)), ("client_ca", client_ca.as_ref())]);
            }
        }
        if let Some(vault) = &self.vault {
            let table = KeyPath::at(["vault"]);
            files.read(&table, [("ca", vault.ca.as_ref())]);
            files.vault_auth(&vault.auth, &table.key("auth"));
        }
        for account in &self.accounts {
            let table = KeyPath::at(["accounts", &account.name]);
            files.read(&table, [("ca", account.ca.as_ref())]);
            files.keys(&account.keys, &table.key("keys"));
        }
        files.0
    }
}

struct Files(Vec<NamedFile>);

impl Files {
    fn write(&mut self, key: KeyPath, path: PathBuf) {
        self.0.push(NamedFile { key, path, written: true });
    }

    fn read<const N: usize>(&mut self, table: &KeyPath, paths: [(&str, Option<&PathBuf>); N]) {
        let named = paths.into_iter().filter_map(|(key, path)| Some((table.key(key), path?.clone())));
        self.0.extend(named.map(|(key, path)| NamedFile { key, path, written: false }));
    }

    fn vault_auth(&mut self, auth: &VaultAuth, table: &KeyPath) {
        match auth {
            VaultAuth::Token { token_file } => self.read(table, [("token_file", token_file.as_ref())]),
            VaultAuth::AppRole { secret_id_file, .. } => self.read(table, [("secret_id_file", Some(secret_id_file))]),
            VaultAuth::Kubernetes { token_file, .. } | VaultAuth::Jwt { token_file, .. } => {
                self.read(table, [("token_file", Some(token_file))]);
            }
            VaultAuth::Cert { cert, key, .. } => self.read(table, [("cert", Some(cert)), ("key", Some(key))]),
        }
    }

    fn keys(&mut self, keys: &KeySource, table: &KeyPath) {
        match keys {
            KeySource::File { path, identity } => {
                self.read(table, [("path", Some(path)), ("identity", identity.as_ref())]);
            }
            KeySource::Directory { path } => {
                let [access, secret] = ["access_key", "secret_key"].map(|name| Path::join(path, name));
                self.read(table, [("path", Some(&access)), ("path", Some(&secret))]);
            }
            KeySource::Vault { sealed_copy: Some(copy), .. } => {
                let table = table.key("sealed_copy");
                self.write(table.key("path"), copy.path.clone());
                self.read(&table, [("identity", Some(&copy.identity))]);
            }
            KeySource::Vault { .. } | KeySource::Env { .. } => {}
        }
    }
}
