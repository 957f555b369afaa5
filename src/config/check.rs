//! The checks: text of the configuration file → [`Config`], or every error at once.
//!
//! * `read` parses the text. It does not stop at an error: what cannot be used is reported and left out.
//! * Each section is checked by a file of its own, and `relations` checks what sections have to do with each other. A
//!   section with an error still yields a value, so that other sections can be checked against it.
//! * The `Config` is handed out only if there was no error.
//!
//! Does no I/O and reads neither environment nor clock: what the machine says comes in as [`Environment`]. No message
//! repeats a value of the file, because it may be a secret in the wrong place.

mod account;
mod gateway;
mod key_path;
mod operation;
mod pattern;
mod pending;
mod read;
mod relations;
mod service;
mod spelling;
mod vault;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use sha2::Digest as _;

use self::key_path::Diagnostics;
pub use self::key_path::{Diagnostic, KeyPath, Lines};
pub(crate) use self::relations::same_pair;
use super::{Config, OperationConfig, OrdersConfig, file};

/// What the machine says where the file is silent.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `$STATE_DIRECTORY`: default of `state.dir`.
    pub state_directory: Option<PathBuf>,
    /// `$VAULT_ADDR`: default of `vault.address`.
    pub vault_address: Option<String>,
    /// `$VAULT_CACERT`: default of `vault.ca`.
    pub vault_ca: Option<PathBuf>,
    /// `$VAULT_NAMESPACE`: default of `vault.namespace`.
    pub vault_namespace: Option<String>,
    /// Whether `$VAULT_TOKEN` is set. Its value is read where it is used.
    pub vault_token: bool,
    /// The time, for what expires; `None`: nothing is warned of.
    pub now: Option<jiff::Timestamp>,
    /// Cores that this process may use; 0 counts as 1.
    pub cores: usize,
    /// Bytes of memory that this process may use; `None`: not known.
    pub memory: Option<u64>,
}

/// The result of the checks.
#[derive(Debug)]
pub struct Checked {
    /// The configuration, if there is no error.
    pub config: Option<Config>,
    /// What can be used of one with errors: only to find errors in the files that it names. `None`: it is not text.
    pub partial: Option<Config>,
    /// Every error, in the order of the lines.
    pub errors: Vec<Diagnostic>,
    /// What is allowed but should be known, in the order of the lines.
    pub warnings: Vec<Diagnostic>,
    /// The line of every key, for later diagnostics, such as those about files that cannot be read.
    pub lines: Lines,
}

impl Checked {
    /// Adds errors and warnings about what the file names. An error about a key that has one already is left out: the
    /// file then names something else, or nothing.
    pub fn add(&mut self, errors: Vec<Diagnostic>, warnings: Vec<Diagnostic>) {
        let reported: BTreeSet<String> = self.errors.iter().map(|error| error.key.clone()).collect();
        self.errors.extend(errors.into_iter().filter(|error| !reported.contains(&error.key)));
        self.warnings.extend(warnings);
        key_path::sort(&mut self.errors);
        key_path::sort(&mut self.warnings);
        if !self.errors.is_empty() {
            self.partial = self.config.take().or(self.partial.take());
        }
    }

    /// The configuration, whether it has errors or not.
    pub fn written(&self) -> Option<&Config> {
        self.config.as_ref().or(self.partial.as_ref())
    }
}

/// A file that the configuration includes.
#[derive(Clone, Debug)]
pub struct IncludedFile {
    /// For diagnostics.
    pub name: String,
    pub text: String,
}

/// A pattern of `include`.
#[derive(Clone, Debug)]
pub struct IncludePattern {
    /// Its key, for diagnostics.
    pub key: KeyPath,
    pub pattern: PathBuf,
}

/// The patterns of `include` in the text of a configuration file; those that are no text are left out.
pub fn included(text: &str) -> Vec<IncludePattern> {
    // Most files include none, and parsing takes most of the time of the checks.
    if memchr::memmem::find(text.as_bytes(), b"include").is_none() {
        return Vec::new();
    }
    let (root, _) = toml::de::DeTable::parse_recoverable(text);
    let list = root.get_ref().get("include").and_then(|list| list.get_ref().as_array());
    let pattern = |(index, element): (usize, &toml::Spanned<toml::de::DeValue<'_>>)| {
        let pattern = PathBuf::from(element.get_ref().as_str()?);
        Some(IncludePattern { key: KeyPath::at(["include"]).index(index), pattern })
    };
    list.into_iter().flat_map(|list| list.iter().enumerate().filter_map(pattern)).collect()
}

/// Checks the text of a configuration file. Relative paths in it are relative to `folder`.
pub fn check(text: &str, folder: &Path, environment: &Environment) -> Checked {
    check_with(text, &[], folder, environment)
}

/// The same, with the files that it includes.
pub fn check_with(text: &str, included: &[IncludedFile], folder: &Path, environment: &Environment) -> Checked {
    let tree = read::parse(text, included);
    let mut diagnostics = Diagnostics::new(tree.lines());
    let written = tree.read(&mut diagnostics);

    let operations = operation::table(&written.operations, &mut diagnostics);
    let context = CheckContext { folder, environment, operations: &operations };
    let vault = vault::check(&written, context, &mut diagnostics);
    let accounts = account::check(&written.accounts, context, &mut diagnostics);
    let services = service::check(&written, &operations, environment, &mut diagnostics);
    let state = gateway::state(&written.state, context, &mut diagnostics);
    let limits = gateway::limits(&written.limits, context, &mut diagnostics);
    let config = Config {
        include: written.include.iter().map(|pattern| context.path(pattern)).collect(),
        listen: gateway::listen(&written.listen, context, &mut diagnostics),
        admin: gateway::admin(&written.admin, &mut diagnostics),
        orders: OrdersConfig {
            remember: written.orders.remember.0.0,
            undelivered: written.orders.undelivered.0.0,
            reconcile: written.orders.reconcile.0.0,
        },
        reload: gateway::reload(&written.reload),
        log: gateway::log(
            &written.log,
            gateway::LogDependencies { state: &state, limits: &limits },
            context,
            &mut diagnostics,
        ),
        limits,
        cache: gateway::cache(&written.cache, &mut diagnostics),
        state,
        vault,
        accounts: accounts.iter().flatten().cloned().collect(),
        services,
        operations,
        hash: hash(text, included),
    };
    relations::check(&accounts, &config, &mut diagnostics);
    pending::check(&tree, &mut diagnostics);

    let found = diagnostics.finish();
    let (config, partial) = if found.errors.is_empty() { (Some(config), None) } else { (None, Some(config)) };
    Checked { config, partial, errors: found.errors, warnings: found.warnings, lines: found.lines }
}

/// SHA-256 of the text; of all texts and their names if there are included ones.
fn hash(text: &str, included: &[IncludedFile]) -> String {
    let mut digest = sha2::Sha256::new_with_prefix(text);
    for IncludedFile { name, text } in included {
        for part in [name, text] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
    }
    hex::encode(digest.finalize())
}

/// The built-in operation table.
pub fn built_in_operations() -> Vec<OperationConfig> {
    operation::built_in().rows
}

/// What sections are checked with.
#[derive(Clone, Copy)]
struct CheckContext<'a> {
    folder: &'a Path,
    environment: &'a Environment,
    /// The whole operation table.
    operations: &'a [OperationConfig],
}

impl CheckContext<'_> {
    /// A path of the file, made absolute.
    fn path(self, written: &file::Parsed<PathBuf>) -> PathBuf {
        self.folder.join(&written.0)
    }

    /// The same for a path that may be absent.
    fn optional_path(self, written: &Option<file::Parsed<PathBuf>>) -> Option<PathBuf> {
        written.as_ref().map(|path| self.path(path))
    }
}
