//! The `directory` source: files `access_key` and `secret_key` in a directory.
//!
//! Halves of two states are never combined. Kubernetes swaps one link (`..data`) for all files: it is
//! resolved once, both files are read in the directory that it names, and it must name the same one
//! afterwards. In a plain directory the files are replaced one after the other (Vault Agent, scripts),
//! so a new state is accepted only when nothing has changed for [`SETTLED`], or for [`SETTLED_HALF`]
//! when one half is still the old one.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::{fault::SourceError, pair::RawPair, secret::Secret};
use crate::files::{
    FileError, Stamp,
    read::{MAX_KEY_FILE, read, text_of},
};

pub(super) const ACCESS: &str = "access_key";
pub(super) const SECRET: &str = "secret_key";
/// The link of Kubernetes' atomic writer.
const DATA: &str = "..data";
/// Attempts to read a directory that changes while it is read.
const ATTEMPTS: usize = 5;
/// Age of the newest file at which a state is accepted: a script writes its second file long before.
const SETTLED: Duration = Duration::from_millis(100);
/// The same for one new half beside an old one, which is probably a state in between.
const SETTLED_HALF: Duration = Duration::from_secs(2);

/// A directory with the two files.
#[derive(Debug)]
pub(super) struct KeyDirectory {
    path: PathBuf,
    /// SHA-256 of the two halves that were returned last.
    last: Mutex<Option<[[u8; 32]; 2]>>,
}

/// One half and the state that its file was in.
struct Half {
    value: Secret,
    stamp: Stamp,
}

struct Halves {
    access: Half,
    secret: Half,
}

impl KeyDirectory {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), last: Mutex::new(None) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn read(&self) -> Result<RawPair, SourceError> {
        for _ in 0..ATTEMPTS {
            let link = std::fs::read_link(self.path.join(DATA)).ok();
            let folder = link.as_ref().map_or_else(|| self.path.clone(), |link| self.path.join(link));
            let read = read_both(&folder);
            if std::fs::read_link(self.path.join(DATA)).ok() != link {
                continue;
            }
            match read? {
                Some(halves) if link.is_some() => return Ok(self.accept(halves)),
                Some(halves) => return self.accept_settled(halves),
                // A file changed while both were read.
                None => {}
            }
        }
        Err(self.changing())
    }

    fn accept_settled(&self, halves: Halves) -> Result<RawPair, SourceError> {
        let new = halves.digests();
        let min_age = match *self.last.lock() {
            Some(last) if last == new => Duration::ZERO,
            Some(last) if last[0] == new[0] || last[1] == new[1] => SETTLED_HALF,
            _ => SETTLED,
        };
        if halves.access.stamp.age().min(halves.secret.stamp.age()) < min_age {
            return Err(self.changing());
        }
        Ok(self.accept(halves))
    }

    fn accept(&self, halves: Halves) -> RawPair {
        *self.last.lock() = Some(halves.digests());
        let Halves { access, secret } = halves;
        RawPair { access: access.value, secret: secret.value, place: self.path.display().to_string(), version: None }
    }

    fn changing(&self) -> SourceError {
        FileError::Changing { path: self.path.clone() }.into()
    }
}

impl Halves {
    fn digests(&self) -> [[u8; 32]; 2] {
        [&self.access, &self.secret].map(|half| Sha256::digest(half.value.expose()).into())
    }
}

/// Both halves; `None` when a file changed meanwhile.
fn read_both(folder: &Path) -> Result<Option<Halves>, SourceError> {
    let access = read_half(&folder.join(ACCESS))?;
    let secret = read_half(&folder.join(SECRET))?;
    let unchanged = |name: &str, half: &Half| Stamp::at(&folder.join(name)) == Some(half.stamp);
    Ok((unchanged(ACCESS, &access) && unchanged(SECRET, &secret)).then_some(Halves { access, secret }))
}

fn read_half(path: &Path) -> Result<Half, SourceError> {
    let file = read(path, MAX_KEY_FILE)?;
    let text = text_of(path, &file.bytes)?;
    Ok(Half { value: Secret::line(text.to_string()), stamp: file.stamp })
}
