//! The snapshot in force, and how a reload replaces it.
//!
//! [`Gateway::reload`] reads and compiles a new configuration and swaps it in. Live state (quotas, budgets,
//! keys, cache, breakers) is kept (`compile`), except what belongs to an address that an account has left
//! ([`AddressState`](crate::snapshot::AddressState)). What always holds: a reload that fails changes nothing. This room
//! must not know threads or sockets, which belong to `app`. It fails with [`StartError`].

mod compile;
mod counts;
mod file;
mod forget;
mod overrides;
mod ready;
mod removals;
mod restart;
mod revoked;
mod use_watch;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::LastCounts,
    cache::snapshot_file::SnapshotFile,
    config::Config,
    connector::Connector,
    degraded::DegradedReports,
    edge::tls::{TlsFilesError, TlsListeners},
    files::{
        FileWatch, RootsError,
        configuration::{LoadError, LoadedConfig},
        configuration_within_deadline,
    },
    inspect,
    keys::{Keeper, Keys, NoKey, SentSettings, SourceError, VaultError},
    orders::Orders,
    record::{ExchangeLog, Metrics, UNLIMITED},
    snapshot::{Account, Snapshot},
    spending::Spending,
    upstream::connect::DestinationError,
};

use compile::{CompileContext, Previous, compile};
pub use counts::Counting;
use counts::Counts;
use file::LateReads;
pub use file::{POLL_INTERVAL, ReloadError};
use forget::{forget_on_disk, forget_unused, unused_scopes};
pub use overrides::{NotOverridden, Overrides, SetOverride};
use ready::ReadySoFar;
pub use removals::{Inventory, Removals};
use restart::keep_in_force;
pub(crate) use restart::keys_of_a_restart;
pub use revoked::Revoked;
use use_watch::UseWatch;
pub use use_watch::{Outlook, WATCH_INTERVAL};

/// Why a configuration cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An account's address cannot be used.
    #[error("accounts.{account}.base_url: {source}")]
    Account { account: String, source: DestinationError },
    #[error("accounts.{account}.ca: {source}")]
    Authorities { account: String, source: RootsError },
    #[error("accounts.{account}.keys: {source}")]
    Keys { account: String, source: SourceError },
    #[error("vault: {0}")]
    Vault(#[from] VaultError),
    /// The host of an account's base URL cannot be sent as a `Host` header.
    #[error("accounts.{0}.base_url: the host cannot be sent as a Host header")]
    Host(String),
    /// A listener's certificate, key or CA file cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsFilesError),
}

/// State that outlives every configuration.
#[derive(Clone)]
pub struct Live {
    pub metrics: Arc<Metrics>,
    pub log: ExchangeLog,
    pub orders: Orders,
    pub revoked: Arc<Revoked>,
    pub spending: Arc<Spending>,
    pub overrides: Arc<Overrides>,
    pub tls: Arc<TlsListeners>,
    pub connector: Connector,
    pub counting: Counting,
    /// What does not work, of rooms without a state of their own.
    pub degraded: Arc<DegradedReports>,
    /// Where the cache is kept while no gateway runs.
    pub snapshot_file: Arc<SnapshotFile>,
    /// The tasks that the drain waits for.
    pub tasks: TaskTracker,
    /// Cancelled when the drain waits no longer.
    pub cut: CancellationToken,
}

/// The configuration in force.
pub struct InForce {
    /// With the previous values of the keys in `waiting`.
    pub config: Config,
    pub since: SystemTime,
    /// Keys that a reload has changed and that take effect after a restart.
    pub waiting: Vec<&'static str>,
}

/// The running gateway, as one handle.
pub struct Gateway {
    /// The snapshot that new requests use.
    pub current: Arc<ArcSwap<Snapshot>>,
    /// The configuration that `current` was compiled from.
    pub in_force: ArcSwap<InForce>,
    pub live: Live,
    /// The file that a reload reads. `None`: there is no file (`demo`).
    pub file: Option<PathBuf>,
    adopt: OnceLock<Adopt>,
    apply: OnceLock<Apply>,
    reloaded_well: AtomicBool,
    ready: ReadySoFar,
    /// Locked during a reload: one at a time.
    watch: Mutex<FileWatch>,
    late: Mutex<LateReads>,
    counts: Counts,
    watch_use: UseWatch,
}

/// Starts the rotation tasks of new key sources.
pub type Adopt = Box<dyn Fn(Keepers) + Send + Sync>;

/// Applies what of a configuration concerns sockets.
pub type Apply = Box<dyn Fn(&Config) + Send + Sync>;

/// Key pairs of new accounts; each needs a rotation task.
pub type Keepers = Vec<(Arc<Account>, Keeper)>;

/// How long a reload waits until the rotation tasks have its settings.
const RECONFIGURE_WAIT: Duration = Duration::from_secs(5);

impl Gateway {
    /// Puts the first configuration in force.
    ///
    /// # Errors
    /// [`StartError`] names the account.
    pub fn new(config: Config, file: Option<PathBuf>, live: Live) -> Result<(Arc<Self>, Keepers), StartError> {
        let counts = Counts::new(live.counting.clone());
        let (snapshot, keys) = compile(&config, None, CompileContext { live: &live, counts: &counts })?;
        let mut watch = FileWatch::new(file.clone());
        watch.include(config.include.clone());
        let watch = Mutex::new(watch);
        let gateway = Gateway {
            current: Arc::new(ArcSwap::from_pointee(snapshot)),
            in_force: ArcSwap::from_pointee(InForce { config, since: SystemTime::now(), waiting: Vec::new() }),
            live,
            file,
            adopt: OnceLock::new(),
            apply: OnceLock::new(),
            reloaded_well: AtomicBool::new(true),
            ready: ReadySoFar::default(),
            watch,
            late: Mutex::default(),
            counts,
            watch_use: UseWatch::default(),
        };
        gateway.observe_use();
        Ok((Arc::new(gateway), keys.opened))
    }

    /// Sets the function that starts rotation tasks for accounts added by a reload. Called once, at start-up.
    pub fn adopt_with(&self, adopt: Adopt) {
        // Only a second call could fail.
        let _ = self.adopt.set(adopt);
    }

    /// Sets the function that applies a configuration which a reload has put in force to sockets. Called once, at start-up.
    pub fn apply_with(&self, apply: Apply) {
        // Only a second call could fail.
        let _ = self.apply.set(apply);
    }

    fn read_again(&self, watch: &mut FileWatch, confirmed: bool) -> Result<(), ReloadError> {
        let file = self.file.as_deref().ok_or(ReloadError::NoFile)?;
        let LoadedConfig { mut config, warnings } = load_in_time(file, watch)?;
        let (snapshot, in_force) = (self.current.load_full(), self.in_force.load_full());
        let (now, new) = (Inventory::of(&in_force.config), Inventory::of(&config));
        let removals = Removals::to_confirm(&now, &new, in_force.config.reload.removals);
        if let Some(removals) = removals.filter(|_| !confirmed) {
            return Err(ReloadError::Removals(removals));
        }
        for warning in &warnings {
            tracing::warn!(target: UNLIMITED, "{warning}");
        }
        let waiting = keep_in_force(&mut config, &in_force.config);
        for key in &waiting {
            tracing::warn!(target: UNLIMITED, "{key} has changed; it takes effect after a restart");
        }
        let tls = self.live.tls.read_again(&config.listen).map_err(StartError::Tls)?;
        let previous = Previous { snapshot: &snapshot, config: &in_force.config };
        let (compiled, keys) = compile(&config, Some(previous), self.compile_context())?;
        let has_snapshot = config.cache.snapshot || in_force.config.cache.snapshot;
        let is_switched = config.cache.snapshot != in_force.config.cache.snapshot;
        let removed = unused_scopes(&snapshot, &compiled);
        let are_listed = !removed.is_empty();
        let listed = has_snapshot.then(|| forget_on_disk(&self.live.snapshot_file, &removed));
        left_accounts(&snapshot, &compiled).for_each(|account| account.leave());
        let since = tokio::time::Instant::now();
        let stay = |old: &Account| compiled.accounts.iter().any(|new| Arc::ptr_eq(&new.keys, &old.keys));
        let given_up = snapshot.accounts.iter().filter(|account| !stay(account));
        self.live.revoked.give_up(given_up.map(|account| &account.keys));
        self.current.store(Arc::new(compiled));
        // At once: until then, what is known of the pairs is what the address before has said.
        let sent = keys.changed.into_iter().map(|(keys, settings)| keys.reconfigure(settings, since));
        let sent: Vec<_> = sent.collect();
        removed.into_iter().for_each(|scope| snapshot.cache.begin_purge(scope));
        let has_forgotten = forget_unused(&self.current.load());
        drop(listed);
        tls.activate();
        self.counts.forget_unused(&config);
        self.live.log.set_limits(&config.log);
        if let Some(apply) = self.apply.get() {
            apply(&config);
        }
        self.in_force.store(Arc::new(InForce { config, since: SystemTime::now(), waiting }));
        if is_switched || are_listed || has_forgotten {
            self.live.snapshot_file.make_due();
        }
        let opened: Vec<_> = keys.opened.iter().map(|(account, _)| account.keys.clone()).collect();
        if let Some(adopt) = self.adopt.get() {
            adopt(keys.opened);
            await_pairs(&opened, RECONFIGURE_WAIT);
        }
        sent.into_iter().for_each(await_settings(RECONFIGURE_WAIT));
        Ok(())
    }

    fn compile_context(&self) -> CompileContext<'_> {
        CompileContext { live: &self.live, counts: &self.counts }
    }

    /// Leases the first units of tomorrow where today ends soon. To be called every second or so: a clock may jump.
    pub fn prepare_tomorrow(&self) {
        self.counts.prepare_tomorrow();
    }

    /// Whether no request would wait for the ledger now.
    pub fn days_are_leased(&self) -> bool {
        self.counts.are_leased()
    }

    /// Ends all counting, because the process ends: the last counts.
    pub fn close_counts(&self) -> LastCounts {
        self.counts.close()
    }

    /// Whether the last reload succeeded.
    pub fn reloaded_well(&self) -> bool {
        self.reloaded_well.load(Ordering::Relaxed)
    }

    /// Whether the gateway has been ready at some time since its start.
    pub fn was_ready(&self) -> bool {
        self.ready.gateway(self.current.load().accounts.iter().map(Arc::as_ref))
    }

    /// Whether the account has been ready at some time since its start.
    pub fn account_was_ready(&self, account: &Account) -> bool {
        self.ready.account(account)
    }
}

/// Reads and checks the configuration, but waits for no disk that does not respond; `watch` is as it was then.
fn load_in_time(file: &Path, watch: &mut FileWatch) -> Result<LoadedConfig, LoadError> {
    let path = file.to_owned();
    let load = move || {
        let mut watch = FileWatch::default();
        (inspect::load(&path, &mut watch), watch)
    };
    let (loaded, read) = configuration_within_deadline(file, load)
        .map_err(|source| LoadError::Unreadable { path: file.to_owned(), source })?;
    *watch = read;
    loaded
}

/// The accounts, as they were before, that are not called at their addresses any more.
fn left_accounts<'a>(before: &'a Snapshot, now: &'a Snapshot) -> impl Iterator<Item = &'a Arc<Account>> {
    let stays = |old: &Account| now.accounts.iter().any(|new| Arc::ptr_eq(&new.address, &old.address));
    before.accounts.iter().filter(move |old| !stays(old))
}

/// Waits until settings are in force, but not longer than `within` in all.
fn await_settings(within: Duration) -> impl FnMut(SentSettings) {
    let end = Instant::now() + within;
    move |sent| {
        if !sent.are_in_force(end.saturating_duration_since(Instant::now())) {
            tracing::warn!("the rotation task of an account has not put its new settings in force yet");
        }
    }
}

/// Waits until new accounts have a pair, or will have none for now, but not longer than `within` in all.
fn await_pairs(opened: &[Arc<Keys>], within: Duration) {
    const PAUSE: Duration = Duration::from_millis(5);
    let end = Instant::now() + within;
    let is_new = |keys: &Arc<Keys>| {
        let status = keys.status();
        matches!(status.no_key, Some(NoKey::None)) && status.source.fault.is_none()
    };
    while opened.iter().any(is_new) && Instant::now() < end {
        std::thread::sleep(PAUSE);
    }
}
