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
    pair::RawPair,
    secret::Secret,
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFileTable {
    access_key: Option<String>,
    secret_key: Option<String>,
}

impl KeyFile {
    pub(super) fn new(path: &Path, identity: Option<&Path>, account: &str) -> Self {
        Self { path: path.to_owned(), identity: identity.map(Path::to_owned), account: account.to_owned() }
    }

    pub(super) fn read(&self) -> Result<RawPair, SourceError> {
        let text = self.text()?;
        let mut tables: HashMap<String, KeyFileTable> = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            SourceError::malformed(
                format!("{}:{line}", self.path.display()),
                "is not TOML with a table of access_key and secret_key for each account",
            )
        })?;
        let place = format!("{}: [{}]", self.path.display(), self.account);
        let table = tables.remove(&self.account);
        // Zeroes the values of the other accounts too.
        for other in tables.into_values() {
            other.access_key.map(Secret::new);
            other.secret_key.map(Secret::new);
        }
        let KeyFileTable { access_key, secret_key } =
            table.ok_or_else(|| SourceError::malformed(&place, "is missing"))?;
        match (access_key.map(Secret::line), secret_key.map(Secret::line)) {
            (Some(access), Some(secret)) => Ok(RawPair { access, secret, place, version: None }),
            (None, _) => Err(SourceError::malformed(place, "access_key is missing")),
            (_, None) => Err(SourceError::malformed(place, "secret_key is missing")),
        }
    }

    /// The file's text, decrypted.
    fn text(&self) -> Result<Zeroizing<String>, SourceError> {
        let bytes = read_private(&self.path, MAX_KEY_FILE)?.bytes;
        let Some(identity) = &self.identity else { return Ok(text_of(&self.path, &bytes)?) };
        let plain = encrypted::open(&bytes, &read_identities(identity)?)
            .map_err(|error| FileError::unfit(&self.path, error.to_string()))?;
        Ok(text_of(&self.path, &plain)?)
    }
}
