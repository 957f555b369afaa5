//! The key pair that signs a request.
//!
//! [`Keys`] are one account's: [`Keys::lease`] returns the pair in use from a snapshot, without I/O, and
//! [`Keys::refused`] says what to do after a 401 from Fastrac. Both halves of a pair come from one reading;
//! only its [`PairVersion`] is ever shown; a failed reading never replaces a good pair; a pair older than
//! `max_age` is not used. The room does not know how a request or a canary is sent: [`crate::rotation`]
//! does the writing, with a canary that `app` supplies. Fails with [`NoKey`] and [`SourceError`].

mod command;
mod directory;
mod encrypted;
mod env;
mod fault;
mod file;
mod leak;
mod lease;
mod lifecycle;
mod pair;
mod sealed_copy;
mod secret;
mod snapshot;
mod source;
mod status;
#[cfg(test)]
mod tests;
mod tracked_pair;
mod vault;
mod version;

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use self::snapshot::KeySnapshot;
pub(crate) use self::{
    command::KeyCommand,
    encrypted::read_identities,
    lifecycle::{KeyLifecycle, RefusalAction},
    pair::LoadedPair,
    sealed_copy::{Restored, read_copy},
    source::{PairSource, SourceReading, read_local},
    tracked_pair::ReadAt,
    vault::{read_credential, read_vault_token},
};
pub use self::{
    command::{Remedy, Rotated},
    fault::SourceError,
    lease::{Leak, LeakScan, Lease, NoKey},
    status::{Event, KeyEvent, KeyStatus, PairStatus, Role, SourceStatus, Verification},
    tracked_pair::Verdict,
    vault::{Vault, VaultError},
    version::{NotAVersion, PairVersion},
};
#[cfg(test)]
pub(crate) use self::{
    pair::{KeyPair, PairError},
    sealed_copy::SealedCopy,
    secret::Secret,
};
use crate::config;

/// Commands that may be queued for the rotation task.
const INBOX: usize = 1024;

/// One account's key pairs.
pub struct Keys {
    live: ArcSwap<KeySnapshot>,
    vault: Option<Arc<Vault>>,
    commands: mpsc::Sender<KeyCommand>,
}

/// What the rotation task works on: for [`crate::rotation::keep`].
pub struct Keeper {
    pub(crate) keys: Arc<Keys>,
    pub(crate) life: KeyLifecycle,
    pub(crate) source: Arc<PairSource>,
    pub(crate) inbox: mpsc::Receiver<KeyCommand>,
    pub(crate) observer: Observer,
    /// Whether changes that the source reports cause a reading, or its interval alone.
    pub(crate) watched: bool,
}

/// What an account's keys may use when they are opened.
#[derive(Clone, Copy, Default)]
pub struct KeyContext<'a> {
    /// For a source in a vault.
    pub vault: Option<&'a Arc<Vault>>,
    /// The account's keys before a reload: their pair is used until the new source was read.
    pub before: Option<&'a Keys>,
}

/// Called with every [`Event`] of an account after it took effect, for metrics and the store. Must not block.
pub type Observer = Box<dyn Fn(&Event) + Send + Sync>;

impl Keys {
    /// Opens an account's key source; reads no file and no vault yet. `revoked` are the versions that were
    /// revoked before a restart.
    ///
    /// # Errors
    /// [`SourceError`] when environment variables are missing or there is no vault. A file that is missing or
    /// invalid, or a vault that is down, is not an error: that may change.
    pub fn open(
        account: &config::AccountConfig,
        context: KeyContext<'_>,
        revoked: impl IntoIterator<Item = PairVersion>,
        observer: Observer,
    ) -> Result<(Arc<Self>, Keeper), SourceError> {
        let source = Arc::new(PairSource::open(&account.keys, &account.name, context.vault)?);
        let mut life = KeyLifecycle::new(&account.name, source.as_str(), source.ages(), account.rotation.clone());
        life.restore_revoked(revoked);
        if let Some(before) = context.before {
            life.inherit(&before.live.load(), tokio::time::Instant::now());
        }
        let (commands, inbox) = mpsc::channel(INBOX);
        let keys =
            Arc::new(Self { live: ArcSwap::from_pointee(life.snapshot()), vault: source.vault().cloned(), commands });
        Ok((keys.clone(), Keeper { keys, life, source, inbox, observer, watched: true }))
    }

    /// The vault that the source is in.
    pub fn vault(&self) -> Option<&Arc<Vault>> {
        self.vault.as_ref()
    }

    /// The pair to sign with. No I/O, no lock.
    ///
    /// # Errors
    /// [`NoKey`] says why there is none.
    pub fn lease(&self) -> Result<Lease, NoKey> {
        let live = self.live.load();
        live.usable().cloned().map(Lease::new)
    }

    /// To be called when Fastrac answered 401 (or a key message) on a listed operation to a request signed
    /// with `version`. Reads the source once for all requests that were signed with it. `may_resend` is
    /// false on a second attempt, and for an order that must not be sent again: then the result is never
    /// [`Remedy::Resend`]. Cancel safe.
    pub async fn refused(&self, version: PairVersion, may_resend: bool) -> Remedy {
        if may_resend
            && let Ok(lease) = self.lease()
            && lease.version() != version
        {
            // The request was signed with an older pair, so the 401 says nothing about the one in use.
            return Remedy::Resend(lease);
        }
        self.command(|reply| KeyCommand::Refused { version, may_resend, reply }).await.unwrap_or(Remedy::Rejected)
    }

    /// Reads the source now. With `force` a new pair is used without verification; otherwise waits for its
    /// verdict. `None` when the rotation task has ended.
    pub async fn rotate(&self, force: bool) -> Option<Rotated> {
        self.command(|reply| KeyCommand::Rotate { force, reply }).await
    }

    /// Has Fastrac verify the candidate, or the pair in use if there is none. `None` without either.
    pub async fn verify(&self) -> Option<(PairVersion, Verdict)> {
        self.command(|reply| KeyCommand::Verify { reply }).await.flatten()
    }

    /// Revokes a version; takes effect before this returns. The observer of [`KeyEvent::Revoked`] stores it for
    /// the next start.
    pub async fn revoke(&self, version: PairVersion) {
        self.command(|reply| KeyCommand::Revoke { version, reply }).await;
    }

    /// What may be shown of the keys.
    pub fn status(&self) -> KeyStatus {
        let live = self.live.load();
        KeyStatus {
            no_key: live.usable().err(),
            pairs: live.pairs.clone(),
            revoked: live.revoked.clone(),
            source: live.source.clone(),
        }
    }

    pub(crate) fn publish(&self, snapshot: KeySnapshot) {
        self.live.store(Arc::new(snapshot));
    }

    /// Sends a command to the rotation task and waits for its reply. `None` when the task has ended.
    async fn command<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> KeyCommand) -> Option<T> {
        let (reply, result) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        result.await.ok()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("status", &self.status()).finish_non_exhaustive()
    }
}
