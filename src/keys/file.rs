//! The `file` source: a TOML file with one table for each account, possibly encrypted with age.
//!
//! No text of the file gets into an error: the parser's messages quote the line that they complain
//! about, so only its number is used.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use zeroize::Zeroizing;

use super::{
    encrypted::{self, read_identities},
    fault::SourceError,
    pair::{KeyPair, RawPair},
    secret::Secret,
    version::PairVersion,
};
use crate::files::{
    FileError,
    read::{MAX_KEY_FILE, read_private, text_of},
};

/// A key file and the account whose table is read.
#[derive(Debug)]
pub(super) struct KeyFile {
    path: PathBuf,
    /// File with the age identity; `None`: the key file is not encrypted.
    identity: Option<PathBuf>,
    account: String,
}

/// What a key file contains: for each account, the halves as they are written.
pub(crate) struct KeyFileContent {
    path: PathBuf,
    tables: HashMap<String, KeyFileTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFileTable {
    access_key: Option<String>,
    secret_key: Option<String>,
}

impl KeyFileContent {
    /// Reads a key file, encrypted if there is an `identity`. Blocks.
    ///
    /// # Errors
    /// [`SourceError`]
    pub(crate) fn read(path: &Path, identity: Option<&Path>) -> Result<Self, SourceError> {
        let text = text(path, identity)?;
        let tables = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            SourceError::malformed(
                format!("{}:{line}", path.display()),
                "is not TOML with a table of access_key and secret_key for each account",
            )
        })?;
        Ok(Self { path: path.to_owned(), tables })
    }

    /// Takes out the pair of an account, and returns its version.
    ///
    /// # Errors
    /// [`SourceError`] if there is none.
    pub(crate) fn take_version(&mut self, account: &str) -> Result<PairVersion, SourceError> {
        version(self.take(account)?)
    }

    fn take(&mut self, account: &str) -> Result<RawPair, SourceError> {
        let place = format!("{}: [{account}]", self.path.display());
        let KeyFileTable { access_key, secret_key } =
            self.tables.remove(account).ok_or_else(|| SourceError::malformed(&place, "is missing"))?;
        match (access_key.map(Secret::line), secret_key.map(Secret::line)) {
            (Some(access), Some(secret)) => Ok(RawPair { access, secret, place, version: None }),
            (None, _) => Err(SourceError::malformed(place, "access_key is missing")),
            (_, None) => Err(SourceError::malformed(place, "secret_key is missing")),
        }
    }
}

impl Drop for KeyFileContent {
    /// Zeroes the values of the other accounts too.
    fn drop(&mut self) {
        for (_, table) in self.tables.drain() {
            table.access_key.map(Secret::new);
            table.secret_key.map(Secret::new);
        }
    }
}

impl KeyFile {
    pub(super) fn new(path: &Path, identity: Option<&Path>, account: &str) -> Self {
        Self { path: path.to_owned(), identity: identity.map(Path::to_owned), account: account.to_owned() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn read(&self) -> Result<RawPair, SourceError> {
        KeyFileContent::read(&self.path, self.identity.as_deref())?.take(&self.account)
    }
}

/// The version of a pair that was read, which is dropped.
///
/// # Errors
/// [`SourceError`] if its halves are not a pair.
pub(super) fn version(raw: RawPair) -> Result<PairVersion, SourceError> {
    let RawPair { access, secret, place, .. } = raw;
    KeyPair::new(access, secret).map(|pair| pair.version()).map_err(|error| SourceError::no_pair(place, error))
}

/// The file's text, decrypted.
fn text(path: &Path, identity: Option<&Path>) -> Result<Zeroizing<String>, SourceError> {
    let bytes = read_private(path, MAX_KEY_FILE)?.bytes;
    let Some(identity) = identity else { return Ok(text_of(path, &bytes)?) };
    let plain = encrypted::open(&bytes, &read_identities(identity)?)
        .map_err(|error| FileError::unfit(path, error.to_string()))?;
    Ok(text_of(path, &plain)?)
}
