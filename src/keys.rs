//! Which key pair signs a request.
//!
//! [`Keys`] is one account's, live: [`Keys::lease`] gives the pair in use from a snapshot, without
//! I/O, and [`Keys::refused`] says what to do after Fastrac's 401. What always holds: a pair is whole
//! (both halves of one reading); nothing of it is ever shown but its [`PairVersion`]; a failed reading
//! never replaces a good pair; a pair older than `max_age` doesn't serve. It must not know how a
//! request or a canary is sent: [`crate::rotation`] moves it, with a canary that `app` supplies. It
//! fails with [`NoKey`].

mod directory;
pub(crate) mod encrypted;
mod env;
mod file;
mod leak;
mod lifecycle;
mod sealed_copy;
mod secret;
mod source;
mod status;
#[cfg(test)]
mod tests;
mod tracked_pair;
mod vault;

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::HeaderValue;
use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

pub(crate) use self::lifecycle::{KeyLifecycle, RefusalAction};
pub use self::{
    leak::{Leak, LeakScan},
    sealed_copy::{Restored, SealedCopy},
    secret::{BadPair, KeyPair, NotAVersion, PairVersion, Secret},
    source::{PairSource, SourceError, SourceReading},
    status::{Event, KeyEvent, KeyStatus, PairStatus, Role, SourceStatus, Verification},
    vault::{Vault, VaultError},
};
use crate::config;

/// Requests to the rotation task that may wait for it at once.
const INBOX: usize = 1024;

/// One account's key pairs, live.
pub struct Keys {
    live: ArcSwap<KeySnapshot>,
    vault: Option<Arc<Vault>>,
    inbox: mpsc::Sender<KeyCommand>,
}

/// What the rotation task works on; [`crate::rotation::keep`] takes it.
pub struct Keeper {
    pub(crate) keys: Arc<Keys>,
    pub(crate) life: KeyLifecycle,
    pub(crate) source: Arc<PairSource>,
    pub(crate) inbox: mpsc::Receiver<KeyCommand>,
    pub(crate) observer: Observer,
    /// Whether the source's own hints of changes are heeded, or its pace alone.
    pub(crate) watched: bool,
}

/// What an account's keys are opened beside.
#[derive(Clone, Copy, Default)]
pub struct Beside<'a> {
    /// The vault, for a source in it.
    pub vault: Option<&'a Arc<Vault>>,
    /// The account's keys before a reload: their pair serves on until the new source has given one.
    pub before: Option<&'a Keys>,
}

/// Told of every [`Event`] of an account, after it took effect: metrics, and the store for
/// [`KeyEvent::Revoked`]. Must not block.
pub type Observer = Box<dyn Fn(&Event) + Send + Sync>;

/// A request to the rotation task.
pub(crate) enum KeyCommand {
    Refused { version: PairVersion, may_resend: bool, reply: oneshot::Sender<Remedy> },
    Rotate { force: bool, reply: oneshot::Sender<Rotated> },
    Verify { reply: oneshot::Sender<Option<(PairVersion, Verdict)>> },
    Revoke { version: PairVersion, reply: oneshot::Sender<()> },
}

/// A pair as it was loaded for an account.
pub struct LoadedPair {
    pub(crate) account: Arc<str>,
    pub(crate) pair: KeyPair,
    pub(crate) loaded_at: Timestamp,
}

impl LoadedPair {
    pub(crate) fn version(&self) -> PairVersion {
        self.pair.version()
    }
}

/// A pair that a request may be signed with. Cheap to clone; retired pairs are zeroed when their last
/// lease is dropped.
#[derive(Clone)]
pub struct Lease {
    held: Arc<LoadedPair>,
}

/// No pair may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    /// None was read yet, or none that Fastrac accepts.
    #[error("no key pair has been read and accepted yet")]
    None,
    /// Fastrac refused every one that is known.
    #[error("Fastrac refuses every known key pair")]
    Refused,
    /// The source has been lost for longer than `rotation.max_age`.
    #[error("the key pair is older than it may be")]
    TooOld,
}

/// What Fastrac says of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `success:true`.
    Verified,
    /// 401 or a key message.
    Refused,
    /// Anything else.
    Undecided,
}

/// What to do with a request that was answered 401.
#[derive(Clone, Debug)]
pub enum Remedy {
    /// Send it once more, with this one.
    Resend(Lease),
    /// The pair is good: the 401 was the request's own, and passes.
    Own,
    /// The account's key is refused.
    Rejected,
}

/// What came of [`Keys::rotate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotated {
    /// The source holds the pair in use.
    Unchanged,
    /// This one is in use now.
    Promoted(PairVersion),
    /// Fastrac refuses it; the old one stays.
    Refused(PairVersion),
    /// Fastrac said neither; the old one stays, and it is asked again.
    Undecided(PairVersion),
    /// It was revoked.
    Revoked(PairVersion),
    /// The source has no pair: why, without any value.
    Fault(String),
}

/// What requests and the status page see of an account's keys.
#[derive(Clone)]
pub(crate) struct KeySnapshot {
    pub(crate) current: Option<Arc<LoadedPair>>,
    /// Whether there is a pair, but one that Fastrac refuses.
    pub(crate) refused: bool,
    pub(crate) stale_at: Option<Instant>,
    /// When the source was read well.
    pub(crate) read_at: Option<Instant>,
    pub(crate) pairs: Vec<PairStatus>,
    pub(crate) revoked: Vec<PairVersion>,
    pub(crate) source: SourceStatus,
}

impl Keys {
    /// Opens an account's key source and reads nothing yet. `revoked` are the versions that were
    /// barred before a restart.
    ///
    /// # Errors
    /// [`SourceError`] when the source can't be had at all: an environment without the variables, or no
    /// vault. A file that is missing or bad, or a vault that is down, is no error here: it may come.
    pub fn open(
        account: &config::AccountConfig,
        beside: Beside<'_>,
        revoked: impl IntoIterator<Item = PairVersion>,
        observer: Observer,
    ) -> Result<(Arc<Self>, Keeper), SourceError> {
        let source = Arc::new(PairSource::open(&account.keys, &account.name, beside.vault)?);
        let mut life = KeyLifecycle::new(&account.name, source.as_str(), source.ages(), account.rotation.clone());
        life.bar(revoked);
        if let Some(before) = beside.before {
            life.inherit(&before.live.load());
        }
        let (asked, inbox) = mpsc::channel(INBOX);
        let keys = Arc::new(Self {
            live: ArcSwap::from_pointee(life.snapshot()),
            vault: source.vault().cloned(),
            inbox: asked,
        });
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
        live.usable().map(|held| Lease { held: held.clone() })
    }

    /// Fastrac answered 401 (or a key message) on a listed operation to a request signed with
    /// `version`. Reads the source once for all requests that were signed with it. `may_resend` is
    /// false on a second attempt, and for an order that must not be sent again: then the answer is
    /// never [`Remedy::Resend`]. Cancel safe.
    pub async fn refused(&self, version: PairVersion, may_resend: bool) -> Remedy {
        if may_resend
            && let Ok(lease) = self.lease()
            && lease.version() != version
        {
            // A late answer to an older pair: there is nothing to find out.
            return Remedy::Resend(lease);
        }
        self.ask(|reply| KeyCommand::Refused { version, may_resend, reply }).await.unwrap_or(Remedy::Rejected)
    }

    /// Reads the source now. With `force` a new pair is used without asking Fastrac, else its
    /// verdict is waited for. `None` when the rotation task has ended.
    pub async fn rotate(&self, force: bool) -> Option<Rotated> {
        self.ask(|reply| KeyCommand::Rotate { force, reply }).await
    }

    /// Asks Fastrac about the candidate, or the pair in use if there is none. `None` without either.
    pub async fn verify(&self) -> Option<(PairVersion, Verdict)> {
        self.ask(|reply| KeyCommand::Verify { reply }).await.flatten()
    }

    /// Bars a version; takes effect before this returns. Keeping it over a restart is for whoever
    /// sees [`KeyEvent::Revoked`].
    pub async fn revoke(&self, version: PairVersion) {
        self.ask(|reply| KeyCommand::Revoke { version, reply }).await;
    }

    /// What may be shown.
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

    async fn ask<T>(&self, asked: impl FnOnce(oneshot::Sender<T>) -> KeyCommand) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(asked(reply)).await.ok()?;
        answer.await.ok()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl KeySnapshot {
    fn usable(&self) -> Result<&Arc<LoadedPair>, NoKey> {
        let held = self.current.as_ref().ok_or(if self.refused { NoKey::Refused } else { NoKey::None })?;
        match self.stale_at {
            Some(at) if Instant::now() >= at => Err(NoKey::TooOld),
            _ => Ok(held),
        }
    }
}

/// Half of a wait to all of it: replicas that lost one source shall not come back to it together.
pub(crate) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + fastrand::f64() / 2.0)
}

impl Lease {
    pub(crate) fn new(held: Arc<LoadedPair>) -> Self {
        Self { held }
    }

    /// Which pair it is.
    pub fn version(&self) -> PairVersion {
        self.held.version()
    }

    /// The same as text, shared.
    pub fn version_text(&self) -> Arc<str> {
        self.held.pair.version_text().clone()
    }

    /// The account that it belongs to.
    pub fn account(&self) -> &str {
        &self.held.account
    }

    /// Value of `access-key`, sensitive. A clone copies nothing.
    pub fn access_key(&self) -> &HeaderValue {
        &self.held.pair.headers().access_key
    }

    /// Value of `secret-key`, sensitive. A clone copies nothing.
    pub fn secret_key(&self) -> &HeaderValue {
        &self.held.pair.headers().secret_key
    }

    /// Value of `authorization`, sensitive. A clone copies nothing.
    pub fn basic(&self) -> &HeaderValue {
        &self.held.pair.headers().basic
    }

    /// Whether `body` holds the secret key: plain, in its Basic form, or either under JSON's escapes.
    /// Secrets under 8 bytes are not looked for.
    pub fn leaks_in(&self, body: &[u8]) -> bool {
        self.held.pair.forms().stand_in(body)
    }

    /// The same for an answer that is streamed.
    pub fn scan(&self) -> LeakScan {
        LeakScan::new(self.held.clone())
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("account", &self.held.account).field("version", &self.version()).finish()
    }
}
