//! Files that a configuration names twice although the gateway writes one of them: it would destroy the other.
//!
//! Paths are the same if they lead to the same file, through links too, or would once the file exists. Compared are the
//! files of all keys, and the configuration file itself. Never fails: what cannot be read is compared as it is written.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::config::{
    Config,
    check::{Diagnostic, Lines},
};

/// What a path leads to.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Identity {
    /// Device and inode.
    File(u64, u64),
    /// There is no file yet.
    Path(PathBuf),
}

impl Identity {
    fn of(path: &Path) -> Self {
        if let Ok(metadata) = fs::metadata(path) {
            return Identity::File(metadata.dev(), metadata.ino());
        }
        let folder = path.parent().and_then(|folder| fs::canonicalize(folder).ok());
        let written = folder.zip(path.file_name()).map(|(folder, name)| folder.join(name));
        Identity::Path(written.unwrap_or_else(|| path.components().collect()))
    }
}

/// An error for each file that the gateway would write and that is also another file of the configuration.
pub(super) fn collisions(file: &Path, included: &[PathBuf], config: &Config, lines: &Lines) -> Vec<Diagnostic> {
    let named = config.files();
    let mut users: HashMap<Identity, Vec<String>> = HashMap::new();
    users.entry(Identity::of(file)).or_default().push("the configuration file".to_owned());
    for file in included {
        users.entry(Identity::of(file)).or_default().push("an included configuration".to_owned());
    }
    for read in named.iter().filter(|named| !named.written) {
        users.entry(Identity::of(&read.path)).or_default().push(read.key.to_string());
    }
    let mut errors = Vec::new();
    for written in named.iter().filter(|named| named.written) {
        let users = users.entry(Identity::of(&written.path)).or_default();
        if let Some(other) = users.first() {
            let name = written.path.file_name().unwrap_or_default().display();
            let message = format!("the gateway writes {name} here, which is also the file of {other}: choose another");
            errors.push(lines.diagnostic(&written.key, message));
        }
        users.push(written.key.to_string());
    }
    errors
}
