//! Where an account's pair is read from.
//!
//! Each source returns the pair that it contains now; both halves are of one state of the source. Sources
//! on this machine may block as long as a disk takes, so they are read on a thread for that; a vault is
//! requested over the network. A source does not know what a pair is used for. Fails with [`SourceError`].

use std::{sync::Arc, time::Duration};

use super::{
    directory::{self, KeyDirectory},
    env::KeyEnvironment,
    fault::SourceError,
    file::{self, KeyFile},
    pair::{KeyPair, LoadedPair, RawPair},
    sealed_copy::{Restored, SealedCopy},
    source_traits::{SourceId, SourceTraits},
    vault::{KvSecret, Vault},
    version::PairVersion,
};
use crate::{
    config::KeySource,
    files::{read::in_time, watch::FolderWatch},
};

/// Interval between readings of files, whether or not the system reports changes.
const POLL: Duration = Duration::from_secs(1);

/// The source of one account's pair.
#[derive(Debug)]
pub(crate) enum PairSource {
    /// On this machine.
    Local(Arc<LocalSource>),
    /// In a vault.
    Vault(Box<VaultSource>),
}

/// A source on this machine.
#[derive(Debug)]
pub(crate) struct LocalSource {
    id: SourceId,
    kind: LocalKind,
    watch: FolderWatch,
}

/// A secret of a vault, and how often it is read.
#[derive(Debug)]
pub(crate) struct VaultSource {
    id: SourceId,
    secret: KvSecret,
    poll: Duration,
    copy: Option<Arc<SealedCopy>>,
}

#[derive(Debug)]
enum LocalKind {
    File(KeyFile),
    Directory(KeyDirectory),
    Env(KeyEnvironment),
}

/// The result of reading a source.
#[derive(Debug)]
pub(crate) struct SourceReading {
    /// The pair; `None`: the one that was known.
    pub(crate) pair: Option<KeyPair>,
    /// The source's own version number, if it has one.
    pub(crate) version: Option<u64>,
}

impl PairSource {
    /// Reads nothing yet, except `env`, which is read only now.
    ///
    /// # Errors
    /// [`SourceError`] for environment variables without a pair, and for a missing vault.
    pub(crate) fn open(source: &KeySource, account: &str, vault: Option<&Arc<Vault>>) -> Result<Self, SourceError> {
        if let KeySource::Vault { mount, path, .. } = source {
            let vault = vault.ok_or(SourceError::NoVault)?.clone();
            let poll = vault.settings().poll;
            let copy = SealedCopy::of(source, account, &vault.settings().address).map(Arc::new);
            let (id, secret) = (SourceId::next(), KvSecret::new(vault, mount, path));
            return Ok(Self::Vault(Box::new(VaultSource { id, secret, poll, copy })));
        }
        LocalSource::open(source, account).map(|local| Self::Local(Arc::new(local)))
    }

    /// Reads the pair. One equal to `known` is not prepared again. `now`: an operator wants it now, whatever waits
    /// earlier failures have caused.
    ///
    /// # Errors
    /// [`SourceError`] when there is no complete, valid pair.
    pub(crate) async fn read(&self, known: Option<Arc<LoadedPair>>, now: bool) -> Result<SourceReading, SourceError> {
        let read = match self {
            Self::Local(local) => {
                let local = local.clone();
                tokio::task::spawn_blocking(move || checked(local.read()?, known.as_deref())).await
            }
            Self::Vault(there) => {
                let address = || there.secret.vault().settings().address.clone();
                let raw =
                    there.secret.read(now).await.map_err(|error| SourceError::Vault { address: address(), error })?;
                // Preparing a pair hashes for half a millisecond.
                tokio::task::spawn_blocking(move || checked(raw, known.as_deref())).await
            }
        };
        read.unwrap_or(Err(SourceError::Interrupted))
    }

    /// Returns when reading again may find something new; never, if the source doesn't report changes. Only
    /// a hint. Cancel safe.
    pub(crate) async fn changed(&self) {
        match self {
            Self::Local(local) => local.watch.changed().await,
            Self::Vault(_) => std::future::pending().await,
        }
    }

    /// Keeps the login alive that reading needs; never ends.
    pub(crate) async fn tend(&self) {
        match self {
            Self::Local(_) => std::future::pending().await,
            Self::Vault(there) => there.secret.vault().tend().await,
        }
    }

    /// The encrypted copy, if there is to be one.
    pub(crate) fn copy(&self) -> Option<&Arc<SealedCopy>> {
        match self {
            Self::Local(_) => None,
            Self::Vault(there) => there.copy.as_ref(),
        }
    }

    /// Reads the encrypted copy, for a source that was never read.
    pub(crate) async fn restore(&self) -> Option<Restored> {
        let copy = self.copy()?.clone();
        let loaded = tokio::task::spawn_blocking(move || copy.load()).await.ok()?;
        loaded.inspect_err(|fault| tracing::warn!(%fault, "the encrypted copy of a key pair can't be used")).ok()?
    }

    /// Interval between readings; `None`: it is read once.
    pub(crate) fn poll(&self) -> Option<Duration> {
        match self {
            Self::Local(local) if matches!(local.kind, LocalKind::Env(_)) => None,
            Self::Local(_) => Some(POLL),
            Self::Vault(there) => Some(there.poll),
        }
    }

    /// Its type as the configuration names it.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Vault(_) => "vault",
            Self::Local(local) => match local.kind {
                LocalKind::File(_) => "file",
                LocalKind::Directory(_) => "directory",
                LocalKind::Env(_) => "env",
            },
        }
    }

    pub(crate) fn id(&self) -> SourceId {
        match self {
            Self::Local(local) => local.id,
            Self::Vault(there) => there.id,
        }
    }

    /// Its pair does not become too old if it is read only once.
    pub(crate) fn traits(&self) -> SourceTraits {
        SourceTraits { id: self.id(), kind: self.as_str(), ages: self.poll().is_some() }
    }
}

/// Checks a pair that was read, and prepares it unless it is the known one.
pub(super) fn checked(raw: RawPair, known: Option<&LoadedPair>) -> Result<SourceReading, SourceError> {
    let RawPair { access, secret, place, version } = raw;
    if known.is_some_and(|known| known.pair.same(&access, &secret)) {
        return Ok(SourceReading { pair: None, version });
    }
    let pair = KeyPair::new(access, secret).map_err(|error| SourceError::no_pair(place, error))?;
    Ok(SourceReading { pair: Some(pair.numbered(version)), version })
}

impl LocalSource {
    pub(super) fn open(source: &KeySource, account: &str) -> Result<Self, SourceError> {
        let watch = FolderWatch::new(match source {
            KeySource::File { path, identity } => [path].into_iter().chain(identity).cloned().collect(),
            KeySource::Directory { path } => vec![path.join(directory::ACCESS), path.join(directory::SECRET)],
            _ => Vec::new(),
        });
        let kind = match source {
            KeySource::File { path, identity } => LocalKind::File(KeyFile::new(path, identity.as_deref(), account)),
            KeySource::Directory { path } => LocalKind::Directory(KeyDirectory::new(path)),
            KeySource::Env { access_key, secret_key } => {
                LocalKind::Env(KeyEnvironment::read_once(access_key, secret_key)?)
            }
            KeySource::Vault { .. } => return Err(SourceError::NoVault),
        };
        Ok(Self { id: SourceId::next(), kind, watch })
    }

    /// Blocks, but not for longer than a disk that responds may take.
    pub(super) fn read(self: &Arc<Self>) -> Result<RawPair, SourceError> {
        let path = match &self.kind {
            LocalKind::File(file) => file.path(),
            LocalKind::Directory(directory) => directory.path(),
            LocalKind::Env(env) => return Ok(env.read()),
        };
        let this = self.clone();
        in_time(path, move || this.read_now())
    }

    fn read_now(&self) -> Result<RawPair, SourceError> {
        // Before reading, so that a later change is either read or reported.
        self.watch.arm();
        match &self.kind {
            LocalKind::File(file) => file.read(),
            LocalKind::Directory(directory) => directory.read(),
            LocalKind::Env(env) => Ok(env.read()),
        }
    }
}

/// Reads a source on this machine once, as the rotation task does. Returns the version of the pair, which is dropped.
/// Blocks.
///
/// # Errors
/// As [`PairSource::open`] and [`PairSource::read`].
pub(crate) fn read_local(source: &KeySource, account: &str) -> Result<PairVersion, SourceError> {
    file::version(Arc::new(LocalSource::open(source, account)?).read()?)
}
