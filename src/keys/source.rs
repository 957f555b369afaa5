//! Where an account's pair comes from.
//!
//! Each source answers one question: which pair is there now? What always holds: both halves are of
//! one state of the source; a fault names the place and the remedy, never a value. A source must not
//! know what becomes of a pair. Sources on this machine may block for as long as a disk takes, so they
//! are read on a thread for that; a vault is asked over the network.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    LoadedPair,
    directory::{self, Directory},
    env::Env,
    file::File,
    sealed_copy::{Restored, SealedCopy},
    secret::{BadPair, KeyPair, Secret},
    vault::{self, KvSecret, Vault},
};
use crate::{config::KeySource, files::watch::Watch};

/// How often files are read, whether or not the system tells of changes.
const POLL: Duration = Duration::from_secs(1);

/// A source of one account's pair.
#[derive(Debug)]
pub enum PairSource {
    /// On this machine.
    Local(Arc<LocalSource>),
    /// In a vault.
    Vault(Box<VaultSource>),
}

/// A source on this machine.
#[derive(Debug)]
pub struct LocalSource {
    kind: Kind,
    watch: Watch,
}

/// A secret of a vault, and how often it is read.
#[derive(Debug)]
pub struct VaultSource {
    secret: KvSecret,
    poll: Duration,
    copy: Option<Arc<SealedCopy>>,
}

#[derive(Debug)]
enum Kind {
    File(File),
    Directory(Directory),
    Env(Env),
}

/// Why a source has no pair to give. Holds no value of the source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
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
    /// The vault has none to give.
    #[error("vault {address}: {fault}")]
    Vault {
        /// Its address.
        address: String,
        /// Why.
        fault: vault::VaultError,
    },
    /// The source needs a vault, and the configuration has none.
    #[error("key source `vault` without a vault")]
    NoVault,
    /// It was changed a moment ago, perhaps not all of it.
    #[error("{}: is being changed", path.display())]
    Changing {
        /// Which file or folder.
        path: PathBuf,
    },
}

impl SourceError {
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

    /// Whether the source is there, and says that its pair is gone.
    pub fn is_deletion(&self) -> bool {
        matches!(self, Self::Vault { fault: vault::VaultError::Deleted { .. }, .. })
    }
}

/// Both halves as they were read together.
pub(super) struct RawPair {
    pub(super) access: Secret,
    pub(super) secret: Secret,
    /// Where they stood, for a fault.
    pub(super) place: String,
    /// The source's own number of what was read, if it has one.
    pub(super) version: Option<u64>,
}

/// What a source has.
#[derive(Debug)]
pub struct SourceReading {
    /// Its pair; `None`: the one that was known.
    pub pair: Option<KeyPair>,
    /// The source's own number of it, if it has one.
    pub version: Option<u64>,
}

impl PairSource {
    /// A source as configured. Reads nothing yet, but for `env`, which is read now and never again.
    ///
    /// # Errors
    /// [`SourceError`] for environment variables that hold no pair, and for a vault that isn't given.
    pub fn open(source: &KeySource, account: &str, vault: Option<&Arc<Vault>>) -> Result<Self, SourceError> {
        if let KeySource::Vault { mount, path, .. } = source {
            let vault = vault.ok_or(SourceError::NoVault)?.clone();
            let poll = vault.settings().poll;
            let copy = SealedCopy::of(source, account, &vault.settings().address).map(Arc::new);
            return Ok(Self::Vault(Box::new(VaultSource { secret: KvSecret::new(vault, mount, path), poll, copy })));
        }
        LocalSource::open(source, account).map(|local| Self::Local(Arc::new(local)))
    }

    /// The pair that is there now. `known` spares making a pair anew that hasn't changed.
    ///
    /// # Errors
    /// [`SourceError`] when there is no whole, sound pair.
    pub async fn read(&self, known: Option<Arc<LoadedPair>>) -> Result<SourceReading, SourceError> {
        let made = match self {
            Self::Local(local) => {
                let local = local.clone();
                tokio::task::spawn_blocking(move || made(local.read()?, known.as_deref())).await
            }
            Self::Vault(there) => {
                let address = || there.secret.vault().settings().address.clone();
                let read = there.secret.read().await;
                let halves = read.map_err(|fault| SourceError::Vault { address: address(), fault })?;
                // Making a pair stretches a digest.
                tokio::task::spawn_blocking(move || made(halves, known.as_deref())).await
            }
        };
        made.unwrap_or(Err(SourceError::Interrupted))
    }

    /// Returns when reading again may find something new; never, where the source doesn't tell. Only a
    /// hint. Cancel safe.
    pub async fn changed(&self) {
        match self {
            Self::Local(local) => local.watch.changed().await,
            Self::Vault(_) => std::future::pending().await,
        }
    }

    /// Keeps alive what reading needs; never ends.
    pub async fn tend(&self) {
        match self {
            Self::Local(_) => std::future::pending().await,
            Self::Vault(there) => there.secret.vault().tend().await,
        }
    }

    /// The copy on disk, if it is to have one.
    pub fn copy(&self) -> Option<&Arc<SealedCopy>> {
        match self {
            Self::Local(_) => None,
            Self::Vault(there) => there.copy.as_ref(),
        }
    }

    /// What the copy on disk holds, for a source that was never read.
    pub async fn restore(&self) -> Option<Restored> {
        let copy = self.copy()?.clone();
        let loaded = tokio::task::spawn_blocking(move || copy.load()).await.ok()?;
        loaded.inspect_err(|fault| tracing::warn!(%fault, "the sealed copy of a key pair can't be used")).ok()?
    }

    /// The vault that it is in.
    pub fn vault(&self) -> Option<&Arc<Vault>> {
        match self {
            Self::Local(_) => None,
            Self::Vault(there) => Some(there.secret.vault()),
        }
    }

    /// How often it is to be read; `None`: once.
    pub fn poll(&self) -> Option<Duration> {
        match self {
            Self::Local(local) if matches!(local.kind, Kind::Env(_)) => None,
            Self::Local(_) => Some(POLL),
            Self::Vault(there) => Some(there.poll),
        }
    }

    /// The word of the configuration.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Vault(_) => "vault",
            Self::Local(local) => match local.kind {
                Kind::File(_) => "file",
                Kind::Directory(_) => "directory",
                Kind::Env(_) => "env",
            },
        }
    }

    /// Whether its pair grows old: one that is read once can't.
    pub fn ages(&self) -> bool {
        self.poll().is_some()
    }
}

/// A pair, unless it is the one that is known.
pub(super) fn made(halves: RawPair, known: Option<&LoadedPair>) -> Result<SourceReading, SourceError> {
    let RawPair { access, secret, place, version } = halves;
    if known.is_some_and(|known| known.pair.same(&access, &secret)) {
        return Ok(SourceReading { pair: None, version });
    }
    let pair = KeyPair::new(access, secret).map_err(|why| SourceError::no_pair(place, why))?;
    Ok(SourceReading { pair: Some(pair.numbered(version)), version })
}

impl LocalSource {
    pub(super) fn open(source: &KeySource, account: &str) -> Result<Self, SourceError> {
        let watch = Watch::new(match source {
            KeySource::File { path, identity } => [path].into_iter().chain(identity).cloned().collect(),
            KeySource::Directory { path } => vec![path.join(directory::ACCESS), path.join(directory::SECRET)],
            _ => Vec::new(),
        });
        let kind = match source {
            KeySource::File { path, identity } => Kind::File(File::new(path, identity.as_deref(), account)),
            KeySource::Directory { path } => Kind::Directory(Directory::new(path)),
            KeySource::Env { access_key, secret_key } => Kind::Env(Env::read_once(access_key, secret_key)?),
            KeySource::Vault { .. } => return Err(SourceError::NoVault),
        };
        Ok(Self { kind, watch })
    }

    pub(super) fn read(&self) -> Result<RawPair, SourceError> {
        // First: a change after it is either read or told.
        self.watch.arm();
        match &self.kind {
            Kind::File(file) => file.read(),
            Kind::Directory(directory) => directory.read(),
            Kind::Env(env) => Ok(env.read()),
        }
    }
}
