//! The `file` source: a TOML file with one table an account, perhaps encrypted with age.
//!
//! What always holds: the file is read whole from one open file, whose mode is checked on that same
//! file, and a file that changed meanwhile is read again. No text of the file gets into a fault: the
//! parser's messages quote the line that they complain of, so only its number is used.

use std::{
    collections::HashMap,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use zeroize::Zeroizing;

use super::{
    encrypted::{self, EncryptionError},
    secret::Secret,
    source::{RawPair, SourceError},
};
use crate::files::Stamp;

/// Larger files are no key files, bytes.
const LARGEST: u64 = 1 << 20;
/// How often a file that changes under the reader is tried.
const TRIES: usize = 3;

/// A key file, and whose table is read.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    /// File with the age identity, if the key file is encrypted.
    identity: Option<PathBuf>,
    account: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    access_key: Option<String>,
    secret_key: Option<String>,
}

impl File {
    pub(super) fn new(path: &Path, identity: Option<&Path>, account: &str) -> Self {
        Self { path: path.to_owned(), identity: identity.map(Path::to_owned), account: account.to_owned() }
    }

    pub(super) fn read(&self) -> Result<RawPair, SourceError> {
        let text = self.text()?;
        let mut tables: HashMap<String, Table> = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            SourceError::malformed(
                format!("{}:{line}", self.path.display()),
                "is not TOML with a table of access_key and secret_key for each account",
            )
        })?;
        let place = format!("{}: [{}]", self.path.display(), self.account);
        let table = tables.remove(&self.account);
        // The other accounts' values shall not stay behind in freed memory either.
        for other in tables.into_values() {
            other.access_key.map(Secret::new);
            other.secret_key.map(Secret::new);
        }
        let Table { access_key, secret_key } = table.ok_or_else(|| SourceError::malformed(&place, "is missing"))?;
        match (access_key.map(Secret::line), secret_key.map(Secret::line)) {
            (Some(access), Some(secret)) => Ok(RawPair { access, secret, place, version: None }),
            (None, _) => Err(SourceError::malformed(place, "access_key is missing")),
            (_, None) => Err(SourceError::malformed(place, "secret_key is missing")),
        }
    }

    /// The file's text, decrypted if it is encrypted.
    fn text(&self) -> Result<Zeroizing<String>, SourceError> {
        let bytes = read_stable(&self.path, check_mode)?;
        let Some(identity) = &self.identity else { return text_of(&self.path, &bytes) };
        let opened = encrypted::open(&bytes, &read_stable(identity, check_mode)?);
        let plain = opened.map_err(|why| match why {
            EncryptionError::NoIdentity => SourceError::malformed(identity.display(), why.to_string()),
            _ => SourceError::malformed(self.path.display(), why.to_string()),
        })?;
        text_of(&self.path, &plain)
    }
}

/// Others must not read or write a key file, and a group must not write it.
pub(super) fn check_mode(path: &Path, mode: u32) -> Result<(), SourceError> {
    if mode & 0o026 != 0 {
        return Err(SourceError::Mode { path: path.to_owned(), mode: mode & 0o7777 });
    }
    Ok(())
}

/// Reads the text of one open file.
pub(super) fn read_open(path: &Path, file: &mut std::fs::File) -> Result<Zeroizing<String>, SourceError> {
    text_of(path, &bytes_of(path, file)?)
}

fn text_of(path: &Path, bytes: &[u8]) -> Result<Zeroizing<String>, SourceError> {
    let text = std::str::from_utf8(bytes).map_err(|_| SourceError::malformed(path.display(), "is not text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn bytes_of(path: &Path, file: &mut std::fs::File) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    let unreadable = |error| SourceError::unreadable(path, error);
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(SourceError::malformed(path.display(), "is not a file"));
    }
    if meta.len() > LARGEST {
        return Err(SourceError::malformed(path.display(), "is larger than a key file can be"));
    }
    // Room for one byte more, so that the buffer never grows and leaves a copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LARGEST.min(meta.len() + 1) as usize + 32));
    file.take(meta.len() + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// Reads a file that doesn't change meanwhile.
pub(super) fn read_stable(
    path: &Path,
    check: impl Fn(&Path, u32) -> Result<(), SourceError>,
) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    let unreadable = |error| SourceError::unreadable(path, error);
    for _ in 0..TRIES {
        let mut file = std::fs::File::open(path).map_err(unreadable)?;
        let before = file.metadata().map_err(unreadable)?;
        check(path, before.mode())?;
        let bytes = bytes_of(path, &mut file)?;
        if Stamp::of(&before) == Stamp::of(&file.metadata().map_err(unreadable)?) {
            return Ok(bytes);
        }
    }
    Err(SourceError::Changing { path: path.to_owned() })
}
