//! The configuration from the disk: reads the file and the environment, and hands both to the checks.

use std::{
    env, io,
    path::{Path, PathBuf},
    thread,
};

use super::{
    Config,
    check::{Checked, Diagnostic, Environment, check},
};

/// A configuration that may be used.
#[derive(Debug)]
pub struct LoadedConfig {
    /// What the program runs on.
    pub config: Config,
    /// What is worth a line in the log.
    pub warnings: Vec<Diagnostic>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file can't be read.
    #[error("{path} cannot be read: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file has faults.
    #[error("{path} has {count} fault{s}", path = path.display(), count = faults.len(), s = if faults.len() == 1 { "" } else { "s" })]
    Faulty {
        /// The file.
        path: PathBuf,
        /// All of them.
        faults: Vec<Diagnostic>,
    },
}

impl Environment {
    /// What the environment of this process says.
    pub fn of_process() -> Self {
        let text = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        // systemd puts several folders in one variable, separated by colons; the first is the unit's own
        let state = text("STATE_DIRECTORY").and_then(|folders| folders.split(':').next().map(PathBuf::from));
        Self {
            state_directory: state,
            vault_address: text("VAULT_ADDR"),
            vault_ca: text("VAULT_CACERT").map(PathBuf::from),
            vault_namespace: text("VAULT_NAMESPACE"),
            vault_token: env::var_os("VAULT_TOKEN").is_some_and(|token| !token.is_empty()),
            cores: thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Reads and checks a file.
///
/// # Errors
/// The file can't be read. A file that has faults is no error here: they are in [`Checked`].
pub fn read(path: &Path, environment: &Environment) -> io::Result<Checked> {
    let bytes = std::fs::read(path)?;
    let folder = folder_of(path)?;
    Ok(match String::from_utf8(bytes) {
        Ok(text) => check(&text, &folder, environment),
        Err(error) => {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = memchr::memchr_iter(b'\n', good).count() + 1;
            let message = "is not TOML: it must be UTF-8 text".to_owned();
            let fault = Diagnostic { place: "syntax".to_owned(), message, line: Some(line) };
            let (faults, warnings) = (vec![fault], Vec::new());
            Checked { config: None, faults, warnings, lines: Default::default() }
        }
    })
}

/// Reads and checks a file, for use.
///
/// # Errors
/// The file can't be read, or has faults.
pub fn load(path: &Path, environment: &Environment) -> Result<LoadedConfig, LoadError> {
    let checked = read(path, environment).map_err(|source| LoadError::Unreadable { path: path.to_owned(), source })?;
    match checked.config {
        Some(config) => Ok(LoadedConfig { config, warnings: checked.warnings }),
        None => Err(LoadError::Faulty { path: path.to_owned(), faults: checked.faults }),
    }
}

/// The folder that a file lies in, absolute, so that its paths hold wherever the process goes.
fn folder_of(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    Ok(absolute.parent().map_or_else(|| absolute.clone(), Path::to_owned))
}
