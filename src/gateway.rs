//! The snapshot in force, and how a reload replaces it.
//!
//! [`Gateway::reload`] reads and compiles a new configuration and swaps it in. Live state (quotas, budgets,
//! keys, cache, breakers) is found by name and kept; it gets its new settings only when nothing can fail
//! any more. What always holds: a reload that fails changes nothing. This room must not know threads or
//! sockets, which belong to `app`. It fails with [`StartError`].

mod file;
mod revoked;

use std::{
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;
use http::HeaderValue;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use crate::{
    admission::{Budget, Quota, WallClock},
    cache::{Cache, Flights},
    caller::Callers,
    catalog::Catalog,
    config::{
        self, Config, Endpoint,
        check::Environment,
        load::{Loaded, load},
    },
    edge::tls::{Doors, Faulty},
    keys::{Beside, Fault, Keeper, KeyEvent, Keys, Observer, Vault, VaultFault},
    orders::Orders,
    record::{ExchangeLog, Masker, Metrics, Names, Recorder},
    snapshot::{Account, Snapshot},
    upstream::{
        breaker::Breaker,
        connect::{Destination, Unusable, client_config},
        inject::Route,
    },
};

use file::FileWatch;
pub use file::{LOOK, ReloadError};
pub use revoked::Revoked;

/// Why a configuration cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An account's address or CA file cannot be used.
    #[error("accounts.{account}: {source}")]
    Account { account: String, source: Unusable },
    #[error("accounts.{account}.keys: {source}")]
    Keys { account: String, source: Fault },
    #[error("vault: {0}")]
    Vault(#[from] VaultFault),
    /// The host of an account's base URL cannot be sent as a `Host` header.
    #[error("accounts.{0}.base_url: the host cannot be sent as a Host header")]
    Host(String),
    /// A listener's certificate, key or CA file cannot be used.
    #[error(transparent)]
    Tls(#[from] Faulty),
}

/// State that outlives every configuration.
#[derive(Clone)]
pub struct Live {
    pub metrics: Arc<Metrics>,
    pub log: ExchangeLog,
    pub orders: Orders,
    pub revoked: Arc<Revoked>,
    pub doors: Arc<Doors>,
    /// The tasks that the drain waits for.
    pub tasks: TaskTracker,
}

/// The configuration in force.
pub struct InForce {
    pub config: Config,
    pub since: SystemTime,
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
    reloaded_well: AtomicBool,
    /// Whether every account has had a usable key pair at some time.
    was_ready: AtomicBool,
    /// Locked during a reload: one at a time.
    looks: Mutex<FileWatch>,
}

/// Starts the rotation tasks of new key sources.
pub type Adopt = Box<dyn Fn(Keepers) + Send + Sync>;

/// New key sources; each needs a rotation task.
pub type Keepers = Vec<(Arc<Account>, Keeper)>;

impl Gateway {
    /// Puts the first configuration in force.
    ///
    /// # Errors
    /// [`StartError`] names the account.
    pub fn new(config: Config, file: Option<PathBuf>, live: Live) -> Result<(Arc<Self>, Keepers), StartError> {
        let (snapshot, keepers) = compile(&config, None, &live)?;
        let looks = Mutex::new(FileWatch::at(file.as_deref()));
        let gateway = Gateway {
            current: Arc::new(ArcSwap::from_pointee(snapshot)),
            in_force: ArcSwap::from_pointee(InForce { config, since: SystemTime::now() }),
            live,
            file,
            adopt: OnceLock::new(),
            reloaded_well: AtomicBool::new(true),
            was_ready: AtomicBool::new(false),
            looks,
        };
        Ok((Arc::new(gateway), keepers))
    }

    /// Sets the function that starts rotation tasks for accounts added by a reload. Called once, at start-up.
    pub fn adopt_with(&self, adopt: Adopt) {
        // Only a second call could fail.
        let _ = self.adopt.set(adopt);
    }

    fn read_again(&self) -> Result<(), ReloadError> {
        let file = self.file.as_deref().ok_or(ReloadError::NoFile)?;
        let Loaded { config, warnings } = load(file, &Environment::of_process())?;
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let before = (self.current.load_full(), self.in_force.load_full());
        for key in needs_restart(&before.1.config, &config) {
            tracing::warn!("{key} has changed; it takes effect after a restart");
        }
        let doors = self.live.doors.renew(&config.listen).map_err(StartError::Tls)?;
        let (snapshot, keepers) = compile(&config, Some((&before.0, &before.1.config)), &self.live)?;
        self.current.store(Arc::new(snapshot));
        doors.show();
        self.in_force.store(Arc::new(InForce { config, since: SystemTime::now() }));
        if let Some(adopt) = self.adopt.get() {
            adopt(keepers);
        }
        Ok(())
    }

    /// Whether the last reload succeeded.
    pub fn reloaded_well(&self) -> bool {
        self.reloaded_well.load(Ordering::Relaxed)
    }

    /// Whether every account has had a usable key pair at some time. From then on the gateway stays ready: cache
    /// hits and clear refusals are useful whatever is lost.
    pub fn was_ready(&self) -> bool {
        if self.was_ready.load(Ordering::Relaxed) {
            return true;
        }
        let ready = self.current.load().accounts.iter().all(|account| account.keys.lease().is_ok());
        if ready {
            self.was_ready.store(true, Ordering::Relaxed);
        }
        ready
    }
}

/// The changed keys that a reload cannot apply.
fn needs_restart(before: &Config, now: &Config) -> Vec<&'static str> {
    let addresses = |config: &Config| (config.listen.data.clone(), config.listen.admin, config.listen.workers);
    let log = |config: &Config| (config.log.exchanges.clone(), config.log.on_full);
    let tls = |config: &Config| (config.listen.tls.is_some(), config.listen.admin_tls.is_some());
    [
        ("listen", addresses(before) != addresses(now) || tls(before) != tls(now)),
        ("state.dir", before.state.dir != now.state.dir),
        ("log.exchanges", log(before) != log(now)),
        ("cache.memory", before.cache.memory != now.cache.memory),
        ("limits.connections", before.limits.connections != now.limits.connections),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}

type Before<'a> = Option<(&'a Snapshot, &'a Config)>;

fn compile(config: &Config, before: Before<'_>, live: &Live) -> Result<(Snapshot, Keepers), StartError> {
    let catalog = Catalog::new(config);
    let mut keepers = Keepers::new();
    let mut accounts = Vec::with_capacity(config.accounts.len());
    let vault = vault(config, before)?;
    for (index, settings) in config.accounts.iter().enumerate() {
        let place = Place { index, vault: vault.as_ref() };
        accounts.push(account(place, settings, before, live, &mut keepers)?);
    }
    // From here on nothing can fail.
    for (account, settings) in accounts.iter().zip(&config.accounts) {
        account.budget.resize(&settings.budget);
        account.breaker.reconfigure(&settings.breaker);
    }
    let quotas = config.services.iter().map(|service| quota(service, config, before)).collect();
    let names = Names {
        accounts: config.accounts.iter().map(|account| account.name.clone()).collect(),
        services: config.services.iter().map(|service| (service.name.clone(), service.account)).collect(),
        operations: catalog.operations.iter().map(|operation| (operation.name.clone(), operation.class)).collect(),
    };
    let mask = Arc::new(Masker::new(config.log.bodies, &config.log.mask));
    let snapshot = Snapshot {
        limits: config.limits.clone(),
        callers: Callers::new(&config.services),
        catalog,
        quotas,
        accounts,
        cache: before.map_or_else(|| Cache::new(config.cache.memory), |(snapshot, _)| snapshot.cache.clone()),
        flights: before.map_or_else(|| Arc::new(Flights::default()), |(snapshot, _)| snapshot.flights.clone()),
        orders: live.orders.clone(),
        recorder: Recorder::new(live.metrics.clone(), live.log.clone(), mask, names),
        tasks: live.tasks.clone(),
    };
    Ok((snapshot, keepers))
}

fn quota(service: &config::Service, config: &Config, before: Before<'_>) -> Arc<Quota> {
    let zone = &config.accounts[service.account].day_zone;
    let kept = before.and_then(|(snapshot, config)| {
        let index = config.services.iter().position(|old| old.name == service.name)?;
        let (old, live) = (&config.services[index], &snapshot.quotas[index]);
        // In another time zone the day is another one: its count starts anew.
        let same_day = config.accounts[old.account].day_zone == *zone;
        let reloaded =
            || if old.quota == service.quota { live.clone() } else { Arc::new(live.reloaded(&service.quota)) };
        same_day.then(reloaded)
    });
    kept.unwrap_or_else(|| Arc::new(Quota::new(&service.quota, zone, WallClock::system())))
}

/// The vault client: the present one, with its session, if its settings have not changed.
fn vault(config: &Config, before: Before<'_>) -> Result<Option<Arc<Vault>>, VaultFault> {
    let wanted = |account: &config::Account| matches!(account.keys, config::KeySource::Vault { .. });
    let Some(settings) = config.vault.as_ref().filter(|_| config.accounts.iter().any(wanted)) else {
        return Ok(None);
    };
    let known = before.and_then(|(snapshot, _)| snapshot.accounts.iter().find_map(|account| account.keys.vault()));
    match known.filter(|vault| vault.settings() == settings) {
        Some(vault) => Ok(Some(vault.clone())),
        None => Ok(Some(Arc::new(Vault::open(settings)?))),
    }
}

/// Where an account stands, and the vault beside it.
#[derive(Clone, Copy)]
struct Place<'a> {
    index: usize,
    vault: Option<&'a Arc<Vault>>,
}

fn account(
    Place { index, vault }: Place<'_>,
    settings: &config::Account,
    before: Before<'_>,
    live: &Live,
    keepers: &mut Keepers,
) -> Result<Arc<Account>, StartError> {
    let name = &settings.name;
    let old = before.and_then(|(snapshot, config)| {
        let index = config.accounts.iter().position(|old| old.name == *name)?;
        Some((snapshot.accounts[index].clone(), &config.accounts[index]))
    });
    let old = old.as_ref().map(|(account, settings)| (account, *settings));
    let (base, v1, v2) = routes(settings, old, live)?;
    let (keys, keeper) = keys(settings, vault, old, live)?;
    let budget = old.filter(|(_, old)| old.day_zone == settings.day_zone);
    let budget = budget.map_or_else(
        || Arc::new(Budget::new(&settings.budget, &settings.day_zone, WallClock::system())),
        |(account, _)| account.budget.clone(),
    );
    let breaker = old.map_or_else(|| Arc::new(Breaker::new(&settings.breaker)), |(account, _)| account.breaker.clone());
    let account = Arc::new(Account {
        name: name.clone(),
        index,
        base,
        v1,
        v2,
        keys,
        budget,
        breaker,
        messages: settings.messages.clone(),
        verify: settings.verify.clone(),
        resend_orders: settings.rotation.resend_orders,
    });
    keepers.extend(keeper.map(|keeper| (account.clone(), keeper)));
    Ok(account)
}

/// The account's keys: the present ones if source and rotation have not changed, else new ones that start
/// with the pairs in use.
fn keys(
    settings: &config::Account,
    vault: Option<&Arc<Vault>>,
    old: Old<'_>,
    live: &Live,
) -> Result<(Arc<Keys>, Option<Keeper>), StartError> {
    let name = &settings.name;
    let kept = old.filter(|(account, old)| {
        let same_vault = account.keys.vault().is_none_or(|old| vault.is_some_and(|vault| Arc::ptr_eq(old, vault)));
        old.keys == settings.keys && old.rotation == settings.rotation && same_vault
    });
    if let Some((account, _)) = kept {
        return Ok((account.keys.clone(), None));
    }
    // A pair is never sent to an address that it was not configured for.
    let there = |(_, old): &(&Arc<Account>, &config::Account)| {
        [&old.base, &old.v1, &old.v2] == [&settings.base, &settings.v1, &settings.v2]
    };
    let before = old.filter(there).map(|(account, _)| &*account.keys);
    let opened = Keys::open(settings, Beside { vault, before }, live.revoked.of(name), observer(name.clone(), live));
    let (keys, keeper) = opened.map_err(|source| StartError::Keys { account: name.clone(), source })?;
    Ok((keys, Some(keeper)))
}

/// Counts the key events of an account and stores revocations.
fn observer(account: String, live: &Live) -> Observer {
    let (metrics, revoked) = (live.metrics.clone(), live.revoked.clone());
    Box::new(move |event| {
        metrics.key_event(&account, event.what.as_str());
        if let (KeyEvent::Revoked, Some(version)) = (event.what, event.version) {
            revoked.add(&account, version);
        }
    })
}

type Old<'a> = Option<(&'a Arc<Account>, &'a config::Account)>;

/// The account's three routes; those to the same host share their connections.
fn routes(settings: &config::Account, old: Old<'_>, live: &Live) -> Result<(Route, Route, Route), StartError> {
    let endpoints = [&settings.base, &settings.v1, &settings.v2];
    if let Some((account, old)) = old
        && [&old.base, &old.v1, &old.v2] == endpoints
        && (&old.ca, &old.proxy) == (&settings.ca, &settings.proxy)
    {
        return Ok((account.base.clone(), account.v1.clone(), account.v2.clone()));
    }
    let unusable = |source| StartError::Account { account: settings.name.clone(), source };
    let tls = endpoints.iter().any(|endpoint| endpoint.tls);
    let tls = if tls { Some(client_config(settings.ca.as_deref()).map_err(unusable)?) } else { None };
    let (proxy, connections) = (settings.proxy.as_ref(), live.metrics.upstream_connections(&settings.name));
    let mut known: Vec<Route> = Vec::new();
    let mut route = |endpoint: &Endpoint| -> Result<Route, StartError> {
        let host = HeaderValue::try_from(&endpoint.authority).map_err(|_| StartError::Host(settings.name.clone()))?;
        let place = |e: &Endpoint| (e.tls, e.host.clone(), e.port);
        let destination = match known.iter().find(|route| place(&route.endpoint) == place(endpoint)) {
            Some(route) => route.destination.clone(),
            None => Arc::new(Destination::new(endpoint, tls.as_ref(), proxy, connections.clone()).map_err(unusable)?),
        };
        known.push(Route { endpoint: endpoint.clone(), host, destination });
        Ok(known[known.len() - 1].clone())
    };
    Ok((route(&settings.base)?, route(&settings.v1)?, route(&settings.v2)?))
}
