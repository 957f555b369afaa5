//! The key pair that signs a request.
//!
//! [`Keys`] are one account's for its whole life, unless its addresses change at once with its source. No pair is sent to an
//! address that it was not configured for: when an account is called elsewhere, those of earlier sources are given up, and
//! [`Lease::source`] tells which source has returned a pair. [`Keys::lease`] returns the pair in use from a snapshot, without I/O, and [`Keys::refused`] says what to do after a 401 from Fastrac. Both
//! halves of a pair come from one reading; only its [`PairVersion`] is ever shown; a failed reading never replaces
//! a good pair; a pair older than `max_age` is not used. The room does not know how a request or a canary is sent:
//! [`crate::rotation`] does the writing, with a canary that `app` supplies. Fails with [`NoKey`] and
//! [`SourceError`].

mod account_pairs;
mod command;
mod directory;
mod encrypted;
mod env;
mod fault;
mod file;
mod last_accepted;
mod leak;
mod lease;
mod lifecycle;
mod pair;
mod read_at;
mod revoked_versions;
mod sealed_copy;
mod secret;
mod settings;
mod snapshot;
mod source;
mod source_traits;
mod status;
#[cfg(test)]
mod tests;
mod tracked_pair;
mod vault;
mod version;

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::Instant,
};

pub(crate) use self::account_pairs::{KnownForms, LiveForms};
pub(crate) use self::{
    account_pairs::AccountPairs,
    command::KeyCommand,
    encrypted::read_identities,
    file::KeyFileContent,
    lifecycle::{KeyLifecycle, RefusedRequest, RequestOrigin, TriedPair, WaitingRefusals, WantedReading},
    pair::LoadedPair,
    read_at::ReadAt,
    sealed_copy::{Restored, read_copy},
    settings::{KeySettings, SentSettings},
    source::{PairSource, SourceReading, read_local},
    source_traits::SourceId,
    tracked_pair::just_after,
    vault::{read_credential, read_vault_token},
};
pub use self::{
    command::{Remedy, Rotated},
    fault::SourceError,
    lease::{Leak, LeakScan, Lease, NoKey},
    revoked_versions::KnownRevocations,
    status::{Event, KeyEvent, KeyStatus, PairStatus, Role, SourceContent, SourceStatus, Verification},
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
use self::{
    settings::{PendingSettings, TakenSettings},
    snapshot::KeySnapshot,
};
use crate::{config, deadline::Deadline};

/// Commands that may be queued for the rotation task.
const INBOX: usize = 1024;

/// One account's key pairs.
pub struct Keys {
    live: ArcSwap<KeySnapshot>,
    /// Notified when `live` was replaced.
    changed: Notify,
    shared: Arc<AccountPairs>,
    commands: mpsc::Sender<KeyCommand>,
    settings: PendingSettings,
}

/// What the rotation task works on: for [`crate::rotation::keep`].
pub struct Keeper {
    pub(crate) keys: Arc<Keys>,
    pub(crate) life: KeyLifecycle,
    pub(crate) source: Arc<PairSource>,
    pub(crate) inbox: mpsc::Receiver<KeyCommand>,
    pub(crate) revocations: Arc<dyn KnownRevocations>,
    pub(crate) observer: Observer,
    /// Whether changes that the source reports cause a reading, or its interval alone.
    pub(crate) watched: bool,
}

/// Called with every [`Event`] of an account after it took effect, for metrics and the store. Must not block.
pub type Observer = Box<dyn Fn(&Event) + Send + Sync>;

impl Keys {
    /// Opens an account's key source; reads no file and no vault yet.
    ///
    /// # Errors
    /// [`SourceError`] when environment variables are missing or there is no vault. A file that is missing or
    /// invalid, or a vault that is down, is not an error: that may change.
    pub fn open(
        account: &config::AccountConfig,
        vault: Option<&Arc<Vault>>,
        revocations: Arc<dyn KnownRevocations>,
        observer: Observer,
    ) -> Result<(Arc<Self>, Keeper), SourceError> {
        let source = Arc::new(PairSource::open(&account.keys, &account.name, vault)?);
        let mut life = KeyLifecycle::new(&account.name, source.traits(), account.rotation.clone());
        life.await_first(Instant::now());
        let (commands, inbox) = mpsc::channel(INBOX);
        let live = ArcSwap::from_pointee(life.snapshot());
        let shared = life.share_secrets().clone();
        let keys =
            Arc::new(Self { live, changed: Notify::new(), shared, commands, settings: PendingSettings::default() });
        Ok((keys.clone(), Keeper { keys, life, source, inbox, revocations, observer, watched: true }))
    }

    /// The pair to sign with. No I/O, no lock.
    ///
    /// # Errors
    /// [`NoKey`] says why there is none.
    pub fn lease(&self) -> Result<Lease, NoKey> {
        let live = self.live.load();
        live.usable().cloned().map(Lease::new)
    }

    /// Whether a request can expect a pair from [`Keys::lease_by`].
    ///
    /// # Errors
    /// [`NoKey`] says why there is none.
    pub fn check(&self) -> Result<(), NoKey> {
        let live = self.live.load();
        if live.deciding { Ok(()) } else { live.usable().map(drop) }
    }

    /// The pair to sign with. Waits while the source is read because the pair in use was refused: it may contain a new
    /// one; and a moment for the first pair. Cancel safe.
    ///
    /// # Errors
    /// [`NoKey`] says why there is none.
    pub async fn lease_by(&self, deadline: Deadline) -> Result<Lease, NoKey> {
        loop {
            // Before looking, so that no change is missed.
            let changed = self.changed.notified();
            let live = self.live.load_full();
            match live.usable() {
                Err(_) if live.deciding && deadline.bound(changed).await.is_some() => {}
                usable => return usable.cloned().map(Lease::new),
            }
        }
    }

    /// To be called when Fastrac answered 401 (or a key message) on a listed operation. Says what to do; never
    /// [`Remedy::Resend`] with a pair that the request was signed with, nor if it may not be sent again. Cancel safe.
    pub(crate) async fn refused(&self, request: RefusedRequest) -> Remedy {
        if request.may_resend
            && let Ok(lease) = self.lease()
            && !request.has_tried(lease.version())
        {
            // The request was signed with another pair, so the 401 says nothing about the one in use.
            return Remedy::Resend(lease);
        }
        // A second time if the task was restarted in between.
        for _ in 0..2 {
            let request = request.clone();
            if let Some(remedy) = self.command(|reply| KeyCommand::Refused { request, reply }).await {
                return remedy;
            }
        }
        Remedy::Undecided
    }

    /// To be called when Fastrac accepted a request signed with `version` that it had refused with others.
    pub(crate) fn accepted(&self, version: PairVersion, tried: &[TriedPair]) {
        let tried = tried.to_vec();
        // If the queue is full, one of the next requests says the same.
        let _ = self.commands.try_send(KeyCommand::Accepted { version, tried });
    }

    /// Reads the source now. With `force` its pair is used, whatever canaries say of it; otherwise waits for its
    /// verdict. `None` when the rotation task has ended.
    pub async fn rotate(&self, force: bool) -> Option<Rotated> {
        self.command(|reply| KeyCommand::Rotate { force, reply }).await
    }

    /// Has Fastrac verify the candidate, or the pair in use if there is none. `None` without either.
    pub async fn verify(&self) -> Option<(PairVersion, Verdict)> {
        self.command(|reply| KeyCommand::Verify { reply }).await.flatten()
    }

    /// Revokes a version, in this account only: all of them must be told. From the moment that this returns, it signs
    /// nothing any more. Says whether the account has, or had, such a pair, or it was revoked before. `named`: an operator
    /// means this account. `None` when the rotation task has ended: then nothing was revoked.
    pub async fn revoke(&self, version: PairVersion, named: bool) -> Option<bool> {
        self.command(|reply| KeyCommand::Revoke { version, named, reply }).await
    }

    /// Revokes a version in these keys, which have no rotation task any more.
    pub(crate) fn forbid(&self, version: PairVersion) {
        self.shared.revoked.extend([version]);
    }

    /// Whether a pair of this version is held, in use or not.
    pub(crate) fn holds(&self, version: PairVersion) -> bool {
        self.live.load().pairs.iter().any(|pair| pair.version == version)
    }

    /// Gives the rotation task new settings, which it takes before any command that it has not begun. What was refused before
    /// `since` was refused at the address before, if that is another.
    pub(crate) fn reconfigure(&self, settings: KeySettings, since: Instant) -> SentSettings {
        if self.commands.is_closed() {
            return SentSettings::to_ended_task();
        }
        self.settings.put(settings, since)
    }

    /// The settings that the rotation task has to put in force.
    pub(crate) fn take_settings(&self) -> Option<TakenSettings> {
        self.settings.take()
    }

    /// Returns once there are settings to take. Cancel safe.
    pub(crate) async fn has_settings(&self) {
        self.settings.wait().await;
    }

    /// The secrets of the account's pairs, in use or not.
    pub(crate) fn live_forms(&self) -> LiveForms {
        self.shared.live_forms()
    }

    /// Whether one of these texts contains a secret of one of the account's pairs, in use or not.
    pub(crate) fn leaks_in(&self, texts: &[&[u8]]) -> bool {
        self.shared.leaks_in(texts)
    }

    /// What may be shown of the keys.
    pub fn status(&self) -> KeyStatus {
        let live = self.live.load();
        KeyStatus {
            no_key: live.usable().err(),
            pairs: live.pairs.clone(),
            revoked: live.revoked.clone(),
            source: live.source.clone(),
            content: live.content,
            restarted: live.restarted,
        }
    }

    pub(crate) fn publish(&self, snapshot: KeySnapshot) {
        self.live.store(Arc::new(snapshot));
        self.changed.notify_waiters();
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
