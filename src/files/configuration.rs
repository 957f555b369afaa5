//! Reads the configuration file and this process's environment, and has `config` check them.
//!
//! Relative paths in the file start at its folder. Fails with [`LoadError`]; errors of the content are
//! in it, or in [`Checked`], and never quote a value.

use std::{
    collections::HashSet,
    env, io,
    path::{Path, PathBuf},
    thread,
};

use super::{
    FileWatch,
    collisions::collisions,
    includes::{MAX_FILES, expand},
    memory,
    read::{read as read_file, read_input, text_of},
};
use crate::config::{
    Config,
    check::{self, Checked, Diagnostic, Environment, IncludePattern, IncludedFile, KeyPath, check_with},
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
        memory: memory::limit(),
    }
}

/// Reads and checks a file, and those that it includes. They are added to `watch` before they are read.
///
/// # Errors
/// The file cannot be read. A file that has errors can be read: they are in [`Checked`].
pub(crate) fn read(path: &Path, watch: &mut FileWatch) -> io::Result<Checked> {
    *watch = FileWatch::new([path.to_owned()]);
    let bytes = read_input(path, MAX_CONFIGURATION)?;
    let folder = folder_of(path)?;
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(error) => {
            let line = memchr::memchr_iter(b'\n', &bytes[..error.valid_up_to()]).count() + 1;
            let message = "is not TOML: it must be UTF-8 text".to_owned();
            let error = Diagnostic { key: "syntax".to_owned(), message, line: Some(line), file: None };
            let (errors, warnings) = (vec![error], Vec::new());
            return Ok(Checked { config: None, partial: None, errors, warnings, lines: Default::default() });
        }
    };
    let included = Included::read(text, &folder, watch);
    let mut checked = check_with(text, &included.files, &folder, &environment());
    let faults = included.faults.iter().map(|(key, message)| checked.lines.diagnostic(key, message)).collect();
    checked.add(faults, Vec::new());
    if let Some(config) = checked.written() {
        checked.add(collisions(path, &included.paths, config, &checked.lines), Vec::new());
    }
    Ok(checked)
}

/// The files that a configuration includes.
#[derive(Default)]
struct Included {
    files: Vec<IncludedFile>,
    paths: Vec<PathBuf>,
    /// What cannot be read, with the key of its pattern.
    faults: Vec<(KeyPath, String)>,
}

impl Included {
    fn read(text: &str, folder: &Path, watch: &mut FileWatch) -> Self {
        let mut included = Included::default();
        let (mut size, mut seen) = (text.len() as u64, HashSet::new());
        let patterns = check::included(text);
        watch.include(patterns.iter().map(|pattern| folder.join(&pattern.pattern)).collect());
        for IncludePattern { key, pattern } in patterns {
            for path in expand([&folder.join(pattern)]) {
                if included.paths.len() > MAX_FILES || size > MAX_CONFIGURATION {
                    included.faults.push((key, "includes too many files, or too large ones".to_owned()));
                    return included;
                }
                if !seen.insert(path.clone()) {
                    continue;
                }
                let name = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
                let content = read_file(&path, MAX_CONFIGURATION).and_then(|file| {
                    size += file.bytes.len() as u64;
                    text_of(&path, &file.bytes)
                });
                match content {
                    Ok(text) => included.files.push(IncludedFile { name, text: text.to_string() }),
                    Err(error) => included.faults.push((key.clone(), error.to_string())),
                }
                included.paths.push(path);
            }
        }
        included
    }
}

/// The folder that a file lies in, absolute, so that its paths hold wherever the process goes.
fn folder_of(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    Ok(absolute.parent().map_or_else(|| absolute.clone(), Path::to_owned))
}
