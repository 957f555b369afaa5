//! Reads the configuration file and this process's environment, and has `config` check them.
//!
//! Relative paths in the file start at its folder. Fails with [`LoadError`]; errors of the content are
//! in it, or in [`Checked`], and never quote a value.

use std::{
    env, io,
    path::{Path, PathBuf},
    thread,
};

use super::{collisions::collisions, read::read_input};
use crate::config::{
    Config,
    check::{Checked, Diagnostic, Environment, check},
};

/// Maximum size of the configuration file, in bytes: room for tens of thousands of services.
const MAX_CONFIGURATION: u64 = 16 << 20;

/// A configuration without errors.
#[derive(Debug)]
pub struct LoadedConfig {
    pub config: Config,
    /// To be logged.
    pub warnings: Vec<Diagnostic>,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("{path} cannot be read: {source}", path = path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// The file has errors.
    #[error("{path} has {count} error{s}", path = path.display(), count = errors.len(), s = if errors.len() == 1 { "" } else { "s" })]
    Invalid { path: PathBuf, errors: Vec<Diagnostic> },
}

fn environment() -> Environment {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    // what is not text can't be an address or a namespace: the checks find the replacement character
    let text = |name: &str| set(name).map(|value| value.to_string_lossy().into_owned());
    // systemd puts several folders in one variable, separated by colons; the first is the unit's own
    let state = text("STATE_DIRECTORY").and_then(|folders| folders.split(':').next().map(PathBuf::from));
    Environment {
        state_directory: state,
        vault_address: text("VAULT_ADDR"),
        vault_ca: set("VAULT_CACERT").map(PathBuf::from),
        vault_namespace: text("VAULT_NAMESPACE"),
        vault_token: set("VAULT_TOKEN").is_some(),
        now: Some(jiff::Timestamp::now()),
        cores: thread::available_parallelism().map_or(1, usize::from),
    }
}

/// Reads and checks a file.
///
/// # Errors
/// The file cannot be read. A file that has errors can be read: they are in [`Checked`].
pub fn read(path: &Path) -> io::Result<Checked> {
    let bytes = read_input(path, MAX_CONFIGURATION)?;
    let folder = folder_of(path)?;
    Ok(match String::from_utf8(bytes.to_vec()) {
        Ok(text) => {
            let mut checked = check(&text, &folder, &environment());
            if let Some(config) = checked.written() {
                checked.add(collisions(path, config, &checked.lines), Vec::new());
            }
            checked
        }
        Err(error) => {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = memchr::memchr_iter(b'\n', good).count() + 1;
            let message = "is not TOML: it must be UTF-8 text".to_owned();
            let error = Diagnostic { key: "syntax".to_owned(), message, line: Some(line) };
            let (errors, warnings) = (vec![error], Vec::new());
            Checked { config: None, partial: None, errors, warnings, lines: Default::default() }
        }
    })
}

/// The folder that a file lies in, absolute, so that its paths hold wherever the process goes.
fn folder_of(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    Ok(absolute.parent().map_or_else(|| absolute.clone(), Path::to_owned))
}
