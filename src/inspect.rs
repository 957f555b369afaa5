//! The configuration file together with the files and variables that it names: all errors at once.
//!
//! [`load`] is for use, by `run` and by a reload; [`check`] is for the command. Each file is read by the reader that the
//! running gateway uses. A fault is what `run` cannot use: it does not start, or it starts and has no key pair. What
//! `run` works without is a warning: an expired certificate, the encrypted copy of a pair, permissions wider than
//! necessary. What nothing uses is not read. Nothing that is read is kept, and no diagnostic quotes it.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::{
    config::{
        AccountConfig, ClientAuth, Config, KeySource, LogTarget, SealedCopyConfig, ServerTlsConfig, VaultAuth,
        VaultConfig,
        check::{Checked, Diagnostic, KeyPath, Lines, same_pair},
    },
    files::{
        FileWatch, RootsError,
        certificate::expiry_warning,
        configuration::{self, LoadError, LoadedConfig},
        listener::{self, ListenerFiles},
        place::{may_create_in, open_existing},
        roots,
    },
    keys::{self, KeyFileContent, PairVersion, SourceError},
    record::{ExchangeLog, LogError},
    store::{self, OpenError, PlaceProbe},
};

/// Attempts to read a key source that is being changed, and the pause between two of them.
const ATTEMPTS: usize = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// What was found in the files.
#[derive(Debug, Default)]
struct Inspected {
    /// What can't be used.
    faults: Vec<Diagnostic>,
    /// What can be used, but should be changed.
    warnings: Vec<Diagnostic>,
}

/// Reads and checks a configuration file, and what it names unless `no_files`. Blocks.
///
/// # Errors
/// The file cannot be read.
pub fn check(path: &Path, no_files: bool) -> io::Result<Checked> {
    let mut checked = configuration::read(path, &mut FileWatch::default())?;
    if let (Some(config), false) = (checked.written(), no_files) {
        let found = inspect(config, &checked.lines);
        checked.add(found.faults, found.warnings);
    }
    Ok(checked)
}

/// Reads and checks a configuration file for use, and what the gateway does not start without. Blocks.
///
/// `watch` then has the files that decide whether another reading would have another result: the configuration, and if a
/// file that it names cannot be used, all those files too.
///
/// # Errors
/// The file cannot be read, or there are errors in it or in what it names.
pub(crate) fn load(path: &Path, watch: &mut FileWatch) -> Result<LoadedConfig, LoadError> {
    let mut checked =
        configuration::read(path, watch).map_err(|source| LoadError::Unreadable { path: path.to_owned(), source })?;
    if let Some(config) = checked.written() {
        let named = FileWatch::new(config.files().into_iter().filter(|file| !file.written).map(|file| file.path));
        let faults = required(config, &checked.lines);
        if !faults.is_empty() {
            watch.append(named);
        }
        checked.add(faults, Vec::new());
    }
    match checked.config {
        Some(config) => Ok(LoadedConfig { config, warnings: checked.warnings }),
        None => Err(LoadError::Invalid { path: path.to_owned(), errors: checked.errors }),
    }
}

/// Reads everything that the configuration names, for `check`. Blocks.
///
/// An unset variable, or a system without root certificates, is only a warning: `check` may run elsewhere than `run`,
/// such as in CI.
fn inspect(config: &Config, lines: &Lines) -> Inspected {
    let mut inspection = Inspection::new(lines);
    inspection.required(config);
    // A folder that is a file is known already.
    if inspection.found.faults.is_empty() {
        inspection.written(config);
    }
    if let Some(vault) = &config.vault {
        inspection.vault(vault);
    }
    for account in &config.accounts {
        inspection.keys(account, config.vault.as_ref());
    }
    let Inspection { mut found, lacking, .. } = inspection;
    found.warnings.extend(lacking);
    found
}

/// What `run` doesn't start without: certificates of the listeners, authorities of Fastrac, variables, and places for
/// state and log. The files with keys and those for a vault may come later. Blocks.
fn required(config: &Config, lines: &Lines) -> Vec<Diagnostic> {
    let mut inspection = Inspection::new(lines);
    inspection.required(config);
    let Inspection { found: Inspected { mut faults, .. }, lacking, .. } = inspection;
    faults.extend(lacking);
    faults
}

struct Inspection<'l> {
    lines: &'l Lines,
    found: Inspected,
    /// What the environment of this process lacks, and that of `run` may have.
    lacking: Vec<Diagnostic>,
    /// The first account with each pair, by the pair's version.
    pairs: BTreeMap<PairVersion, String>,
    /// The key files that were read, by their path and identity, or why they could not be: accounts may share one.
    key_files: BTreeMap<(PathBuf, Option<PathBuf>), Result<KeyFileContent, String>>,
    /// The result of reading authorities, by their file; `None`: the platform's.
    roots: BTreeMap<Option<PathBuf>, Option<Unrooted>>,
}

/// Why there are no authorities.
#[derive(Clone)]
struct Unrooted {
    message: String,
    /// Whether only this machine has none.
    nowhere: bool,
}

impl<'l> Inspection<'l> {
    fn new(lines: &'l Lines) -> Self {
        let (found, lacking) = (Inspected::default(), Vec::new());
        let (pairs, key_files, roots) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Inspection { lines, found, lacking, pairs, key_files, roots }
    }

    fn fault(&mut self, place: &KeyPath, message: impl Into<String>) {
        self.found.faults.push(self.lines.diagnostic(place, message));
    }

    fn warn(&mut self, place: &KeyPath, message: impl Into<String>) {
        self.found.warnings.push(self.lines.diagnostic(place, message));
    }

    fn required(&mut self, config: &Config) {
        self.folder(&config.state.dir, &KeyPath::at(["state", "dir"]));
        if let LogTarget::File(path) = &config.log.exchanges {
            let place = KeyPath::at(["log", "exchanges"]);
            match path.parent() {
                _ if path.is_dir() => self.fault(&place, format!("{}: is a folder", path.display())),
                Some(folder) => self.folder(folder, &place),
                None => {}
            }
        }
        let listen = KeyPath::at(["listen"]);
        for (key, tls) in [("tls", &config.listen.tls), ("admin_tls", &config.listen.admin_tls)] {
            if let Some(tls) = tls {
                self.certified(tls, &listen.key(key));
            }
        }
        for account in &config.accounts {
            let place = KeyPath::at(["accounts", &account.name]);
            if [&account.base, &account.v1, &account.v2].iter().any(|endpoint| endpoint.tls) {
                self.roots(account.ca.as_deref(), &place.key("ca"));
            }
            if let KeySource::Env { .. } = account.keys {
                let place = place.key("keys").key("source");
                match keys::read_local(&account.keys, &account.name) {
                    Err(error @ SourceError::Unset { .. }) => {
                        self.lacking.push(self.lines.diagnostic(&place, error.to_string()));
                    }
                    Err(error) => self.fault(&place, error.to_string()),
                    Ok(version) => self.pair(account, version),
                }
            }
        }
        if let Some(VaultAuth::Token { token_file: None }) = config.vault.as_ref().map(|vault| &vault.auth)
            && let Err(error) = keys::read_vault_token()
        {
            self.fault(&KeyPath::at(["vault", "auth"]), error.to_string());
        }
    }

    /// A folder that exists, or that can be made.
    fn folder(&mut self, path: &Path, place: &KeyPath) {
        if let Some(existing) = path.ancestors().find(|path| path.exists())
            && !existing.is_dir()
        {
            self.fault(place, format!("{}: is not a folder", existing.display()));
        }
    }

    /// The places for state and log, which `run` opens. That another process uses them is only a warning: it may be the
    /// gateway that is to be reloaded.
    fn written(&mut self, config: &Config) {
        match store::usable(&config.state.dir, PlaceProbe { may_create_in, open_existing }) {
            Err(error @ OpenError::InUse { .. }) => self.warn(&KeyPath::at(["state", "dir"]), error.to_string()),
            Err(error) => self.fault(&KeyPath::at(["state", "dir"]), error.to_string()),
            Ok(()) => {}
        }
        match ExchangeLog::usable(&config.log.exchanges) {
            Err(error @ LogError::Locked { .. }) => self.warn(&KeyPath::at(["log", "exchanges"]), error.to_string()),
            Err(error) => self.fault(&KeyPath::at(["log", "exchanges"]), error.to_string()),
            Ok(()) => {}
        }
    }

    fn vault(&mut self, vault: &VaultConfig) {
        let place = KeyPath::at(["vault"]);
        self.roots(vault.ca.as_deref(), &place.key("ca"));
        let place = place.key("auth");
        match &vault.auth {
            VaultAuth::Token { token_file: None } => {}
            VaultAuth::Token { token_file: Some(token_file) }
            | VaultAuth::Kubernetes { token_file, .. }
            | VaultAuth::Jwt { token_file, .. } => self.credential(token_file, &place.key("token_file")),
            VaultAuth::AppRole { secret_id_file, .. } => self.credential(secret_id_file, &place.key("secret_id_file")),
            VaultAuth::Cert { cert, key, .. } => {
                let (cert, key) = (cert.clone(), key.clone());
                self.certified(&ServerTlsConfig { cert, key, client_ca: None, client_auth: ClientAuth::None }, &place);
            }
        }
    }

    fn keys(&mut self, account: &AccountConfig, vault: Option<&VaultConfig>) {
        let place = KeyPath::at(["accounts", &account.name, "keys"]);
        match &account.keys {
            KeySource::File { path, identity } => {
                self.warn_if_group_reads(path, &place.key("path"));
                // Without its identity the file can't be decrypted.
                let usable = identity.as_deref().map(|identity| self.identity(identity, &place.key("identity")));
                match usable {
                    Some(Err(unusable)) => self.found.faults.push(unusable),
                    Some(Ok(())) | None => {
                        let version = self.in_key_file(path, identity.as_deref(), &account.name);
                        self.key_pair(account, version, &place.key("path"));
                    }
                }
            }
            KeySource::Directory { path } => {
                for name in ["access_key", "secret_key"] {
                    self.warn_if_open(&path.join(name), &place.key("path"));
                }
                let version = retried(|| keys::read_local(&account.keys, &account.name));
                self.key_pair(account, version.map_err(|error| error.to_string()), &place.key("path"));
            }
            KeySource::Vault { sealed_copy: Some(copy), .. } => {
                let place = place.key("sealed_copy");
                match self.identity(&copy.identity, &place.key("identity")) {
                    Err(unusable) => self.found.warnings.push(unusable),
                    Ok(()) => self.copy(account, vault, copy, &place.key("path")),
                }
            }
            // What `env` names is required.
            KeySource::Vault { .. } | KeySource::Env { .. } => {}
        }
    }

    /// The version of an account's pair in a key file. The file is read once for all accounts.
    fn in_key_file(&mut self, path: &Path, identity: Option<&Path>, account: &str) -> Result<PairVersion, String> {
        let file = self.key_files.entry((path.to_owned(), identity.map(Path::to_owned)));
        let read = || retried(|| KeyFileContent::read(path, identity)).map_err(|error| error.to_string());
        match file.or_insert_with(read) {
            Ok(content) => content.take_version(account).map_err(|error| error.to_string()),
            Err(why) => Err(why.clone()),
        }
    }

    fn key_pair(&mut self, account: &AccountConfig, version: Result<PairVersion, String>, place: &KeyPath) {
        match version {
            Err(why) => self.fault(place, why),
            Ok(version) => self.pair(account, version),
        }
    }

    /// Warns if another account has the same pair. Two that read it from one place are known without reading it.
    fn pair(&mut self, account: &AccountConfig, version: PairVersion) {
        match self.pairs.get(&version) {
            None => drop(self.pairs.insert(version, account.name.clone())),
            Some(first) => {
                let message = same_pair(first);
                self.warn(&KeyPath::at(["accounts", &account.name, "keys"]), message);
            }
        }
    }

    /// Reads a file with an age identity.
    fn identity(&mut self, path: &Path, place: &KeyPath) -> Result<(), Diagnostic> {
        self.warn_if_group_reads(path, place);
        keys::read_identities(path).map(drop).map_err(|error| self.lines.diagnostic(place, error.to_string()))
    }

    /// Reads the encrypted copy of a vault's pair.
    fn copy(&mut self, account: &AccountConfig, vault: Option<&VaultConfig>, copy: &SealedCopyConfig, place: &KeyPath) {
        let address = vault.map_or("", |vault| &vault.address);
        if !copy.path.parent().is_some_and(Path::is_dir) {
            self.warn(place, format!("{}: its folder does not exist, so it can't be written", copy.path.display()));
        } else if let Err(error) = keys::read_copy(&account.keys, &account.name, address) {
            self.warn(place, error.to_string());
        }
    }

    /// Reads a certificate, its key and the CAs.
    fn certified(&mut self, tls: &ServerTlsConfig, place: &KeyPath) {
        self.warn_if_open(&tls.key, &place.key("key"));
        match listener::open(tls) {
            Ok(ListenerFiles { ends, .. }) => {
                if let Some(warning) = ends.and_then(|ends| expiry_warning(&tls.cert, ends)) {
                    self.warn(&place.key("cert"), warning);
                }
            }
            Err(faults) => faults.iter().for_each(|fault| self.fault(&place.key(fault.key), fault.to_string())),
        }
    }

    /// Reads certificate authorities, or the platform's.
    fn roots(&mut self, path: Option<&Path>, place: &KeyPath) {
        let result = self.roots.entry(path.map(Path::to_owned)).or_insert_with(|| {
            let unrooted = |error: RootsError| Unrooted {
                message: error.to_string(),
                nowhere: matches!(error, RootsError::Nowhere(_)),
            };
            roots(path).err().map(unrooted)
        });
        match result.clone() {
            Some(Unrooted { message, nowhere: true }) => self.lacking.push(self.lines.diagnostic(place, message)),
            Some(Unrooted { message, nowhere: false }) => self.fault(place, message),
            None => {}
        }
    }

    fn credential(&mut self, path: &Path, place: &KeyPath) {
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

/// Reads a key source, again for a while if it is being changed.
fn retried<T>(read: impl Fn() -> Result<T, SourceError>) -> Result<T, SourceError> {
    let mut result = read();
    for _ in 1..ATTEMPTS {
        if !result.as_ref().is_err_and(SourceError::is_transient) {
            break;
        }
        thread::sleep(PAUSE);
        result = read();
    }
    result
}

/// The permission bits of the regular file that a path leads to.
fn mode(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|meta| meta.permissions().mode())
}
