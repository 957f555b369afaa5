//! A pair's encrypted copy on disk, for a restart while the vault is down.
//!
//! It is encrypted with age, and never written in plain text. It is complete or absent: it is written to a
//! temporary file, which is then renamed. It contains the time when its source was last read, from which
//! its age counts, and the name of that source, so that it is used for no other. Fails with [`SourceError`].

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    encrypted::{self, read_identities},
    fault::SourceError,
    pair::{KeyPair, LoadedPair},
    secret::Secret,
};
use crate::{
    config::{self, KeySource},
    files::{
        FileError,
        read::{MAX_KEY_FILE, in_time, read_private},
    },
};

/// How far in the future a copy may have been written: clocks are adjusted a little.
const TOLERANCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct SealedCopy {
    path: PathBuf,
    /// File with the age identity that it is encrypted to.
    identity: PathBuf,
    /// Account and source.
    origin: String,
}

/// The content of a copy.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) pair: KeyPair,
    /// Time since its source was last read successfully.
    pub(crate) age: Duration,
}

#[derive(Serialize)]
struct CopyToWrite<'a> {
    origin: &'a str,
    /// RFC 3339.
    read_at: String,
    version: Option<u64>,
    access_key: &'a str,
    secret_key: &'a str,
}

#[derive(Deserialize)]
struct StoredCopy {
    origin: String,
    read_at: String,
    version: Option<u64>,
    access_key: String,
    secret_key: String,
}

/// Reads a source's copy once, as a restart does, and drops the pair; `vault` is the vault's address. Blocks.
///
/// # Errors
/// As [`SealedCopy::load`].
pub(crate) fn read_copy(source: &KeySource, account: &str, vault: &str) -> Result<(), SourceError> {
    SealedCopy::of(source, account, vault).map_or(Ok(None), |copy| copy.load()).map(drop)
}

impl SealedCopy {
    /// The copy of a source, if it is to have one; `vault` is the vault's address.
    pub(super) fn of(source: &KeySource, account: &str, vault: &str) -> Option<Self> {
        let KeySource::Vault { mount, path, sealed_copy: Some(config::SealedCopyConfig { path: file, identity }) } =
            source
        else {
            return None;
        };
        let origin = format!("{account} of {vault}: {mount}/{path}");
        Some(Self { path: file.clone(), identity: identity.clone(), origin })
    }

    /// Writes the copy of a pair. Blocks, but not for longer than a disk that responds may take.
    ///
    /// # Errors
    /// As [`SealedCopy::save`], or the disk takes too long; then the copy may still come.
    pub(crate) fn save_in_time(self: Arc<Self>, held: Arc<LoadedPair>, read_at: Timestamp) -> Result<(), SourceError> {
        let path = self.path.clone();
        in_time(&path, move || self.save(&held.pair, read_at))
    }

    /// Writes the copy. Blocks.
    ///
    /// # Errors
    /// [`SourceError`] when the identity can't be used or the file can't be written; the previous copy stays.
    pub(crate) fn save(&self, pair: &KeyPair, read_at: Timestamp) -> Result<(), SourceError> {
        let (access, secret) = pair.halves();
        let written = CopyToWrite {
            origin: &self.origin,
            read_at: read_at.to_string(),
            version: pair.number(),
            access_key: access.expose(),
            secret_key: secret.expose(),
        };
        // Capacity for both halves with every byte escaped: a buffer that grows would leave parts behind.
        let room = 1024 + self.origin.len() * 2 + (access.expose().len() + secret.expose().len()) * 2;
        let mut plain = Zeroizing::new(Vec::with_capacity(room));
        let unwritable = |error: std::io::Error| FileError::unfit(&self.path, format!("cannot be written: {error}"));
        serde_json::to_writer(&mut *plain, &written).map_err(|error| unwritable(error.into()))?;
        let text = encrypted::seal(&plain, &read_identities(&self.identity)?);
        let text = text.map_err(|why| SourceError::malformed(self.identity.display(), why.to_string()))?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        // Mode 0600 from the start.
        let mut new = tempfile::NamedTempFile::new_in(folder).map_err(unwritable)?;
        new.write_all(&text).and_then(|()| new.as_file().sync_all()).map_err(unwritable)?;
        new.persist(&self.path).map_err(|error| unwritable(error.error))?;
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(unwritable)?;
        Ok(())
    }

    /// Reads the copy; `None` when there is none yet. Blocks.
    ///
    /// # Errors
    /// [`SourceError`] when it can't be read, or is the copy of another source.
    pub(crate) fn load(&self) -> Result<Option<Restored>, SourceError> {
        let text = match read_private(&self.path, MAX_KEY_FILE) {
            Ok(file) => file.bytes,
            Err(FileError::Unreadable { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let bad = |what: &str| SourceError::malformed(self.path.display(), what);
        let plain = encrypted::open(&text, &read_identities(&self.identity)?);
        let plain = plain.map_err(|why| bad(&format!("{why}, with {}", self.identity.display())))?;
        // The parser's message may quote what it read.
        let read: StoredCopy = serde_json::from_slice(&plain).map_err(|_| bad("is not a copy of a key pair"))?;
        let (access, secret) = (Secret::new(read.access_key), Secret::new(read.secret_key));
        if read.origin != self.origin {
            return Err(bad("is the copy of another source"));
        }
        let read_at: Timestamp = read.read_at.parse().map_err(|_| bad("is not a copy of a key pair"))?;
        let since = Timestamp::now().duration_since(read_at);
        let age = Duration::try_from(since).or_else(|_| {
            let ahead = since.unsigned_abs();
            if ahead < TOLERANCE { Ok(Duration::ZERO) } else { Err(bad("has a time in the future")) }
        })?;
        let pair = KeyPair::new(access, secret).map_err(|why| SourceError::no_pair(self.path.display(), why))?;
        Ok(Some(Restored { pair: pair.numbered(read.version), age }))
    }
}
