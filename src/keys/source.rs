//! Where an account's pair comes from.
//!
//! Each source answers one question: which pair is there now? What always holds: both halves are of
//! one state of the source; a fault names the place and the remedy, never a value. A source must not
//! know what becomes of a pair. Reading may block for as long as a disk takes. A later source (vault)
//! is one more variant here.

use std::path::{Path, PathBuf};

use super::{
    directory::Directory,
    env::Env,
    file::File,
    secret::{BadPair, Pair, Secret},
};
use crate::config::KeySource;

/// A source of one account's pair.
#[derive(Debug)]
pub struct Source {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    File(File),
    Directory(Directory),
    Env(Env),
}

/// Why a source has no pair to give. Holds no value of the source.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The source comes with a later version.
    #[error("{0} is not in this version yet")]
    NotYet(&'static str),
    /// The file can't be opened or read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Too many can read it, or write it.
    #[error("{}: mode {mode:04o}: others can read it or a group can write it; chmod 0600", path.display())]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is there, but it isn't what it should be.
    #[error("{place}: {what}")]
    Malformed {
        /// File, or file and line, or variable.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// The reading itself broke off.
    #[error("reading the key source broke off")]
    Interrupted,
    /// It was changed a moment ago, perhaps not all of it.
    #[error("{}: is being changed", path.display())]
    Changing {
        /// Which file or folder.
        path: PathBuf,
    },
}

impl Fault {
    pub(super) fn unreadable(path: &Path, error: std::io::Error) -> Self {
        Self::Unreadable { path: path.to_owned(), error }
    }

    pub(super) fn malformed(place: impl std::fmt::Display, what: impl Into<String>) -> Self {
        Self::Malformed { place: place.to_string(), what: what.into() }
    }

    pub(super) fn no_pair(place: impl std::fmt::Display, why: BadPair) -> Self {
        Self::malformed(place, why.to_string())
    }

    /// Whether it is worth looking again in a moment.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Changing { .. })
    }
}

/// Both halves as they were read together.
pub(super) struct Halves {
    pub(super) access: Secret,
    pub(super) secret: Secret,
    /// Where they stood, for a fault.
    pub(super) place: String,
}

impl Source {
    /// A source as configured. Reads nothing yet, but for `env`, which is read now and never again.
    ///
    /// # Errors
    /// [`Fault`] for a source of a later version, or environment variables that hold no pair.
    pub fn open(source: &KeySource, account: &str) -> Result<Self, Fault> {
        let kind = match source {
            KeySource::File { path, .. } if path.extension().is_some_and(|extension| extension == "age") => {
                return Err(Fault::NotYet("a key file encrypted with age"));
            }
            KeySource::File { path, .. } => Kind::File(File::new(path, account)),
            KeySource::Directory { path } => Kind::Directory(Directory::new(path)),
            KeySource::Vault { .. } => return Err(Fault::NotYet("key source `vault`")),
            KeySource::Env { access_key, secret_key } => Kind::Env(Env::read_once(access_key, secret_key)?),
        };
        Ok(Self { kind })
    }

    /// The pair that is there now. `known` spares making a pair anew that hasn't changed: then the
    /// answer is `None`.
    ///
    /// # Errors
    /// [`Fault`] when there is no whole, sound pair.
    pub fn read(&self, known: Option<&Pair>) -> Result<Option<Pair>, Fault> {
        let halves = match &self.kind {
            Kind::File(file) => file.read()?,
            Kind::Directory(directory) => directory.read()?,
            Kind::Env(env) => env.read(),
        };
        if known.is_some_and(|known| known.same(&halves.access, &halves.secret)) {
            return Ok(None);
        }
        let place = halves.place;
        Pair::new(halves.access, halves.secret).map(Some).map_err(|why| Fault::no_pair(place, why))
    }

    /// What `check` warns of: a key file that a group can read, variables that are read once.
    pub fn warning(&self) -> Option<String> {
        match &self.kind {
            Kind::File(file) => file.warning(),
            Kind::Directory(_) => None,
            Kind::Env(_) => Some("an `env` key source needs a restart to rotate".to_owned()),
        }
    }

    /// The word of the configuration.
    pub fn as_str(&self) -> &'static str {
        match self.kind {
            Kind::File(_) => "file",
            Kind::Directory(_) => "directory",
            Kind::Env(_) => "env",
        }
    }

    /// Whether its pair grows old: one that is read once can't.
    pub fn ages(&self) -> bool {
        !matches!(self.kind, Kind::Env(_))
    }
}
