//! A pair's sealed copy on disk, for a restart while the vault is down.
//!
//! What always holds: it is encrypted with age and never written in clear; it is whole or not there
//! (written beside its place, then renamed); it says when its source was last read, so that its age
//! counts from then, and which source that was, so that it serves for no other.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    encrypted,
    file::{check_mode, read_stable},
    secret::{KeyPair, Secret},
    source::SourceError,
};
use crate::config::{self, KeySource};

/// A clock that was put back a little is none that was put back.
const TOLERANCE: Duration = Duration::from_secs(60);

/// Where an account's copy is.
#[derive(Debug)]
pub struct SealedCopy {
    path: PathBuf,
    /// File with the age identity that it is encrypted to.
    identity: PathBuf,
    /// Whose pair, and where it came from.
    origin: String,
}

/// What a copy holds.
#[derive(Debug)]
pub struct Restored {
    /// The pair.
    pub pair: KeyPair,
    /// How long ago its source was read well.
    pub age: Duration,
}

#[derive(Serialize)]
struct Written<'a> {
    origin: &'a str,
    /// RFC 3339.
    read_at: String,
    version: Option<u64>,
    access_key: &'a str,
    secret_key: &'a str,
}

#[derive(Deserialize)]
struct Read {
    origin: String,
    read_at: String,
    version: Option<u64>,
    access_key: String,
    secret_key: String,
}

impl SealedCopy {
    /// The copy of a source that has one; `vault` is the vault's address.
    pub(super) fn of(source: &KeySource, account: &str, vault: &str) -> Option<Self> {
        let KeySource::Vault { mount, path, sealed_copy: Some(config::SealedCopyConfig { path: file, identity }) } =
            source
        else {
            return None;
        };
        let origin = format!("{account} of {vault}: {mount}/{path}");
        Some(Self { path: file.clone(), identity: identity.clone(), origin })
    }

    /// Writes it. Touches the disk.
    ///
    /// # Errors
    /// [`SourceError`] when the identity can't be used or the file can't be written; the copy before stays.
    pub fn save(&self, pair: &KeyPair, read_at: Timestamp) -> Result<(), SourceError> {
        let (access, secret) = pair.halves();
        let written = Written {
            origin: &self.origin,
            read_at: read_at.to_string(),
            version: pair.number(),
            access_key: access.expose(),
            secret_key: secret.expose(),
        };
        // Room for both halves with every byte escaped: a buffer that grows would leave parts behind.
        let room = 1024 + self.origin.len() * 2 + (access.expose().len() + secret.expose().len()) * 2;
        let mut plain = Zeroizing::new(Vec::with_capacity(room));
        let unwritable = |error| SourceError::unreadable(&self.path, error);
        serde_json::to_writer(&mut *plain, &written).map_err(|error| unwritable(error.into()))?;
        let text = encrypted::seal(&plain, &read_stable(&self.identity, check_mode)?);
        let text = text.map_err(|why| SourceError::malformed(self.identity.display(), why.to_string()))?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        // Mode 0600 from the start.
        let mut new = tempfile::NamedTempFile::new_in(folder).map_err(unwritable)?;
        new.write_all(&text).and_then(|()| new.as_file().sync_all()).map_err(unwritable)?;
        new.persist(&self.path).map_err(|error| unwritable(error.error))?;
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(unwritable)
    }

    /// What it holds; `None` when there is none yet. Touches the disk.
    ///
    /// # Errors
    /// [`SourceError`] when it can't be read, or is another source's.
    pub fn load(&self) -> Result<Option<Restored>, SourceError> {
        let text = match read_stable(&self.path, check_mode) {
            Ok(text) => text,
            Err(SourceError::Unreadable { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(fault) => return Err(fault),
        };
        let bad = |what: &str| SourceError::malformed(self.path.display(), what);
        let plain = encrypted::open(&text, &read_stable(&self.identity, check_mode)?);
        let plain = plain.map_err(|why| bad(&format!("{why}, with {}", self.identity.display())))?;
        // The parser's words may quote what it read.
        let read: Read = serde_json::from_slice(&plain).map_err(|_| bad("is no copy of a key pair"))?;
        let (access, secret) = (Secret::new(read.access_key), Secret::new(read.secret_key));
        if read.origin != self.origin {
            return Err(bad("is the copy of another source"));
        }
        let read_at: Timestamp = read.read_at.parse().map_err(|_| bad("is no copy of a key pair"))?;
        let since = Timestamp::now().duration_since(read_at);
        let age = Duration::try_from(since).or_else(|_| {
            let ahead = since.unsigned_abs();
            if ahead < TOLERANCE { Ok(Duration::ZERO) } else { Err(bad("was written later than it is now")) }
        })?;
        let pair = KeyPair::new(access, secret).map_err(|why| SourceError::no_pair(self.path.display(), why))?;
        Ok(Some(Restored { pair: pair.numbered(read.version), age }))
    }
}
