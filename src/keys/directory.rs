//! The `directory` source: files `access_key` and `secret_key` in a folder.
//!
//! What always holds: halves of two states are never put together. Kubernetes swaps one link
//! (`..data`) for all files: it is resolved once, both files are read in the folder that it named, and
//! it must name the same one afterwards. In a plain folder the files are replaced one after the other
//! (Vault Agent, scripts), so a new state is believed only when nothing changed for [`SETTLED`], and
//! for [`SETTLED_HALF`] when one half is still the old one.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::{
    file::read_open,
    secret::Secret,
    source::{RawPair, SourceError},
};
use crate::files::Stamp;

pub(super) const ACCESS: &str = "access_key";
pub(super) const SECRET: &str = "secret_key";
/// The link of Kubernetes' atomic writer.
const DATA: &str = "..data";
/// How often a folder that changes under the reader is tried.
const TRIES: usize = 5;
/// A script writes its second file long within this.
const SETTLED: Duration = Duration::from_millis(100);
/// One new half beside an old one is most likely a state in between.
const SETTLED_HALF: Duration = Duration::from_secs(2);

/// A folder with the two files.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Digests of the halves that were given out last.
    last: Mutex<Option<[[u8; 32]; 2]>>,
}

/// One half and the state that its file was in.
struct Half {
    value: Secret,
    stamp: Stamp,
}

impl Directory {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), last: Mutex::new(None) }
    }

    pub(super) fn read(&self) -> Result<RawPair, SourceError> {
        let mut fault = SourceError::Changing { path: self.path.clone() };
        for _ in 0..TRIES {
            let link = std::fs::read_link(self.path.join(DATA)).ok();
            let folder = link.as_ref().map_or_else(|| self.path.clone(), |link| self.path.join(link));
            let read = read_both(&folder);
            if std::fs::read_link(self.path.join(DATA)).ok() != link {
                continue;
            }
            match read {
                Ok(Some((access, secret))) if link.is_some() => return Ok(self.give(access, secret)),
                Ok(Some((access, secret))) => return self.give_settled(access, secret),
                // A file changed while both were read.
                Ok(None) => {}
                Err(why) => {
                    fault = why;
                    break;
                }
            }
        }
        Err(fault)
    }

    fn give_settled(&self, access: Half, secret: Half) -> Result<RawPair, SourceError> {
        let new = [digest(&access), digest(&secret)];
        let least = match *self.last.lock() {
            Some(last) if last == new => Duration::ZERO,
            Some(last) if last[0] == new[0] || last[1] == new[1] => SETTLED_HALF,
            _ => SETTLED,
        };
        if access.stamp.age().min(secret.stamp.age()) < least {
            return Err(SourceError::Changing { path: self.path.clone() });
        }
        Ok(self.give(access, secret))
    }

    fn give(&self, access: Half, secret: Half) -> RawPair {
        *self.last.lock() = Some([digest(&access), digest(&secret)]);
        RawPair { access: access.value, secret: secret.value, place: self.path.display().to_string(), version: None }
    }
}

/// Both halves; `None` when a file changed meanwhile.
fn read_both(folder: &Path) -> Result<Option<(Half, Half)>, SourceError> {
    let access = read_half(&folder.join(ACCESS))?;
    let secret = read_half(&folder.join(SECRET))?;
    let same =
        |name: &str, half: &Half| std::fs::metadata(folder.join(name)).is_ok_and(|meta| Stamp::of(&meta) == half.stamp);
    Ok((same(ACCESS, &access) && same(SECRET, &secret)).then_some((access, secret)))
}

fn read_half(path: &Path) -> Result<Half, SourceError> {
    let unreadable = |error| SourceError::unreadable(path, error);
    let mut file = std::fs::File::open(path).map_err(unreadable)?;
    let stamp = Stamp::of(&file.metadata().map_err(unreadable)?);
    let text = read_open(path, &mut file)?;
    Ok(Half { value: Secret::line(text.to_string()), stamp })
}

fn digest(half: &Half) -> [u8; 32] {
    Sha256::digest(half.value.expose()).into()
}
