//! The checks: text of the file → [`Config`], or every fault at once.
//!
//! Reading stops at no fault: what is faulty is reported, left out, and the rest is read on (`read`).
//! Then each section is checked by its own file here, and what relates sections by `relations`. A
//! section that has a fault still yields a value, so that the others can be checked against it; the
//! `Config` is handed out only if there was no fault at all.
//!
//! Pure: no I/O, no environment, no clock. What the machine says comes in as [`Environment`]. No
//! message repeats a value of the file, which may be a secret that was written into the wrong place.

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

use std::path::{Path, PathBuf};

use sha2::Digest as _;

use self::key_path::Diagnostics;
pub use self::key_path::{Diagnostic, KeyPath, Lines};
use super::{Config, OperationConfig, file};

/// What the machine says, where the file doesn't.
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
    /// Cores that this process may use; 0 counts as 1.
    pub cores: usize,
}

/// What the checks found.
#[derive(Debug)]
pub struct Checked {
    /// The configuration, if there is no fault.
    pub config: Option<Config>,
    /// Every fault, in the order of the lines.
    pub faults: Vec<Diagnostic>,
    /// What is allowed but worth knowing, in the order of the lines.
    pub warnings: Vec<Diagnostic>,
    /// Where each key stands, for findings made later, such as of files that can't be opened.
    pub lines: Lines,
}

/// Checks the text of a configuration file. `folder` is where relative paths start.
pub fn check(text: &str, folder: &Path, environment: &Environment) -> Checked {
    let tree = read::parse(text);
    let mut diagnostics = Diagnostics::new(tree.lines(text));
    let written = tree.read(text, &mut diagnostics);
    let context = CheckContext { folder, environment };

    let operations = operation::table(&written.operations, &mut diagnostics);
    let vault = vault::check(&written, context, &mut diagnostics);
    let accounts = account::check(&written.accounts, &operations, context, &mut diagnostics);
    let services = service::check(&written, &operations, &mut diagnostics);
    let state = gateway::state(&written.state, context, &mut diagnostics);
    let config = Config {
        listen: gateway::listen(&written.listen, context, &mut diagnostics),
        admin: gateway::admin(&written.admin),
        log: gateway::log(&written.log, &state, context),
        limits: gateway::limits(&written.limits, &mut diagnostics),
        cache: gateway::cache(&written.cache),
        state,
        vault,
        accounts: accounts.iter().flatten().cloned().collect(),
        services,
        operations,
        hash: sha2::Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    relations::check(&accounts, &config, &mut diagnostics);
    pending::warn(&tree, &mut diagnostics);

    let (faults, warnings, lines) = diagnostics.end();
    Checked { config: faults.is_empty().then_some(config), faults, warnings, lines }
}

/// The built-in operation table.
pub fn built_in_operations() -> Vec<OperationConfig> {
    operation::built_in().rows
}

/// What every section is checked with.
#[derive(Clone, Copy)]
struct CheckContext<'a> {
    folder: &'a Path,
    environment: &'a Environment,
}

impl CheckContext<'_> {
    /// A path of the file, made absolute by the file's folder.
    fn path(self, written: &file::Parsed<PathBuf>) -> PathBuf {
        self.folder.join(&written.0)
    }

    /// The same for a path that may be absent.
    fn path_of(self, written: &Option<file::Parsed<PathBuf>>) -> Option<PathBuf> {
        written.as_ref().map(|path| self.path(path))
    }
}
