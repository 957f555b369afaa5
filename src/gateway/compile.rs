//! Compiles a configuration into a snapshot.
//!
//! Live state is found by name and kept; it gets its new settings only when nothing can fail any more. Fails with
//! [`StartError`].

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderValue;
use rustls::RootCertStore;

use super::{Keepers, Live, StartError, counts::Counts};
use crate::{
    admission::{BudgetMember, Sharer},
    cache::{Cache, Flights},
    caller::Callers,
    catalog::{Catalog, Service},
    config::{self, Config, Endpoint, KeySource},
    connector::Connector,
    files::roots,
    keys::{Keeper, KeySettings, Keys, Observer, PairSource, SourceId, Vault, VaultError},
    memory::{Memory, MemoryShares},
    record::{LiveSecrets, Masker, Names, Recorder},
    snapshot::{Account, AddressState, Snapshot},
    spending::{Spenders, Spending},
    upstream::{
        connect::{Destination, Dialer, client_config},
        inject::Route,
    },
};

/// What the rotation tasks have to do after a reload.
#[derive(Default)]
pub(super) struct KeyChanges {
    pub(super) opened: Keepers,
    pub(super) changed: Vec<(Arc<Keys>, KeySettings)>,
}

/// What a reload replaces. `None` at start-up.
#[derive(Clone, Copy)]
pub(super) struct Previous<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) config: &'a Config,
}

/// An account before the reload.
#[derive(Clone, Copy)]
struct PreviousAccount<'a> {
    account: &'a Arc<Account>,
    settings: &'a config::AccountConfig,
}

impl<'a> Previous<'a> {
    fn account(self, name: &str) -> Option<PreviousAccount<'a>> {
        let index = self.config.accounts.iter().position(|account| account.name == name)?;
        Some(PreviousAccount { account: &self.snapshot.accounts[index], settings: &self.config.accounts[index] })
    }

    /// The cache, for the new configuration: an account may be at another address now, or gone.
    fn cache_for(self, config: &Config) -> Cache {
        let gone = |before: &config::AccountConfig| !config.accounts.iter().any(|account| account.name == before.name);
        let moved = |settings: &config::AccountConfig| {
            self.account(&settings.name).is_some_and(|before| !is_same_address(before.settings, settings))
        };
        let has_moved = config.accounts.iter().any(moved) || self.config.accounts.iter().any(gone);
        if has_moved { self.snapshot.cache.moved() } else { self.snapshot.cache.clone() }
    }
}

/// The state that a configuration is compiled with.
#[derive(Clone, Copy)]
pub(super) struct CompileContext<'a> {
    pub(super) live: &'a Live,
    pub(super) counts: &'a Counts,
}

/// Compiles a configuration. Nothing that is live has changed if it fails.
///
/// # Errors
/// [`StartError`] names the account.
pub(super) fn compile(
    config: &Config,
    previous: Option<Previous<'_>>,
    CompileContext { live, counts }: CompileContext<'_>,
) -> Result<(Snapshot, KeyChanges), StartError> {
    let catalog = Catalog::new(config);
    let mut keys = KeyChanges::default();
    let mut accounts = Vec::with_capacity(config.accounts.len());
    let vault = vault(config, previous, &live.connector)?;
    for (index, settings) in config.accounts.iter().enumerate() {
        let vaults =
            Vaults { now: vault.as_ref(), before: previous.and_then(|previous| previous.snapshot.vault.as_ref()) };
        let builder = AccountBuilder { index, settings, vaults, live, counts };
        let (account, change) = builder.build(previous.and_then(|previous| previous.account(&settings.name)))?;
        match change {
            KeyChange::None => {}
            KeyChange::Opened(keeper) => keys.opened.push((account.clone(), *keeper)),
            KeyChange::Settings(settings) => keys.changed.push((account.keys.clone(), settings)),
        }
        accounts.push(account);
    }
    // From here on nothing can fail.
    counts.prepare_zones(config);
    for (account, settings) in accounts.iter().zip(&config.accounts) {
        account.budget.resize(&settings.budget);
        account.budget.set_zone(&settings.day_zone);
        account.address.breakers.reconfigure(&settings.breaker);
        account.address.retries.reconfigure(settings.retries);
        live.spending.set_zone(&settings.name, &settings.day_zone);
    }
    live.orders.reconfigure(&config.orders, config.limits.memory);
    let members = members(&catalog, &accounts);
    let quota = |service: &config::ServiceConfig| {
        let quota = counts.quota(service, &config.accounts[service.account].day_zone);
        live.overrides.apply(&service.name, &quota);
        quota
    };
    let quotas = config.services.iter().map(quota).collect();
    let names = Names {
        accounts: config.accounts.iter().map(|account| account.name.clone()).collect(),
        services: config.services.iter().map(|service| (service.name.clone(), service.account)).collect(),
        operations: catalog.operations.iter().map(|operation| (operation.name.clone(), operation.class)).collect(),
    };
    let cache = previous.map_or_else(|| Cache::new(config.cache.memory), |previous| previous.cache_for(config));
    cache.set_policies(catalog.operations.iter().map(|operation| (&operation.label, operation.cache.as_ref())));
    let memory =
        previous.map_or_else(|| Memory::new(config.limits.memory), |previous| previous.snapshot.memory.clone());
    memory.set_limit(config.limits.memory);
    let credentials = || config.services.iter().flat_map(|service| &service.credentials);
    let access_keys = credentials().map(|credential| &*credential.access_key);
    let digests = credentials().map(|credential| credential.secret_sha256);
    let digests = digests.chain(config.admin.tokens.iter().map(|token| token.sha256));
    let mask = Masker::new(config.log.bodies, &config.log.mask).withholding(live_secrets(&accounts));
    let mask = Arc::new(mask.recognizing(access_keys, digests));
    let snapshot = Snapshot {
        limits: config.limits.clone(),
        memory_shares: MemoryShares::new(&memory, config.services.iter().map(|service| &*service.name)),
        memory,
        callers: Callers::new(&config.services, previous.map(|previous| &previous.snapshot.callers)),
        catalog,
        quotas,
        members,
        accounts,
        cache,
        vault,
        flights: previous.map_or_else(|| Arc::new(Flights::default()), |previous| previous.snapshot.flights.clone()),
        orders: live.orders.clone(),
        spenders: Spenders::new(
            live.spending.clone(),
            names.services.len(),
            names.accounts.len(),
            names.operations.len(),
        ),
        recorder: Recorder::new(live.metrics.clone(), live.log.clone(), mask, names, live.cut.clone()),
        tasks: live.tasks.clone(),
    };
    if previous.is_none() {
        restore_days(&snapshot, &live.spending);
    }
    Ok((snapshot, keys))
}

/// Shares each account's budget among its services. By index of service.
fn members(catalog: &Catalog, accounts: &[Arc<Account>]) -> Vec<BudgetMember> {
    let mut members = vec![BudgetMember::GATEWAY; catalog.services.len()];
    for (index, account) in accounts.iter().enumerate() {
        let own = || catalog.services.iter().enumerate().filter(|(_, service)| service.account == index);
        let sharers: Vec<_> = own()
            .map(|(index, Service { name, config, .. })| {
                let quota = config.quota.day.filter(|_| config.quota.enforce);
                let most_per_day = quota.map(|requests| requests.saturating_mul(catalog.highest_cost(index)));
                Sharer { name, share: config.share, most_per_day, orders: catalog.may_order(index) }
            })
            .collect();
        for ((service, _), member) in own().zip(account.budget.share_among(&sharers)) {
            members[service] = member;
        }
    }
    members
}

/// What services have spent today, before the gateway was restarted, counts towards their shares of the day, also where no
/// counter knows it: an account's first shares may be new.
fn restore_days(snapshot: &Snapshot, spending: &Spending) {
    let services = &snapshot.catalog.services;
    for (index, account) in snapshot.accounts.iter().enumerate() {
        let spent: BTreeMap<String, u64> = spending.top_services(&account.name, usize::MAX).into_iter().collect();
        let own = snapshot.members.iter().enumerate().filter(|(service, _)| services[*service].account == index);
        let known = own.map(|(service, member)| (*member, spent.get(&*services[service].name).copied().unwrap_or(0)));
        account.budget.restore_day(&known.collect::<Vec<_>>());
    }
}

/// Accounts whose live secrets are searched for in the log line of a request whose caller is unknown.
const SEARCHED_ACCOUNTS: usize = 16;

/// Searches for the live secrets of the accounts, for the exchange log.
fn live_secrets(accounts: &[Arc<Account>]) -> LiveSecrets {
    let keys: Vec<_> = accounts.iter().map(|account| account.keys.clone()).collect();
    Box::new(move |account, texts| {
        let leaks = |keys: &Arc<Keys>| keys.leaks_in(texts);
        match account {
            Some(account) => keys.get(account).is_some_and(leaks),
            None => keys.iter().take(SEARCHED_ACCOUNTS).any(leaks),
        }
    })
}

/// The vault client: the present one, with its session, if its settings have not changed.
fn vault(
    config: &Config,
    previous: Option<Previous<'_>>,
    connector: &Connector,
) -> Result<Option<Arc<Vault>>, VaultError> {
    let Some(settings) = &config.vault else { return Ok(None) };
    let known = previous.and_then(|previous| previous.snapshot.vault.as_ref());
    match known.filter(|vault| vault.settings() == settings) {
        Some(vault) => Ok(Some(vault.clone())),
        None => Ok(Some(Arc::new(Vault::open(settings, connector.clone())?))),
    }
}

/// What an [`Account`] is built from.
struct AccountBuilder<'a> {
    index: usize,
    settings: &'a config::AccountConfig,
    vaults: Vaults<'a>,
    live: &'a Live,
    counts: &'a Counts,
}

/// The vault client, and the one before the reload.
#[derive(Clone, Copy)]
struct Vaults<'a> {
    now: Option<&'a Arc<Vault>>,
    before: Option<&'a Arc<Vault>>,
}

/// An account's keys, and what a reload changes of them.
struct AccountKeys {
    keys: Arc<Keys>,
    source: SourceId,
    change: KeyChange,
}

/// What a reload changes of an account's keys.
enum KeyChange {
    None,
    /// They are new.
    Opened(Box<Keeper>),
    Settings(KeySettings),
}

impl AccountBuilder<'_> {
    fn build(&self, previous: Option<PreviousAccount<'_>>) -> Result<(Arc<Account>, KeyChange), StartError> {
        let settings = self.settings;
        let authorities = self.authorities()?;
        let AccountRoutes { base, v1, v2 } = self.routes(previous, authorities.as_ref())?;
        let AccountKeys { keys, source, change } = self.keys(previous)?;
        let budget = self.counts.budget(settings);
        let address = match previous {
            Some(PreviousAccount { account, settings: old }) if is_same_address(old, settings) => {
                account.address.clone()
            }
            Some(PreviousAccount { account, .. }) => Arc::new(account.address.elsewhere(settings, source)),
            None => Arc::new(AddressState::new(settings, source)),
        };
        let account = Account {
            name: settings.name.clone(),
            index: self.index,
            base,
            v1,
            v2,
            authorities,
            address,
            keys,
            source,
            budget,
            refreshes: previous.map_or_else(Arc::default, |previous| previous.account.refreshes.clone()),
            messages: settings.messages.clone(),
            verify: settings.verify.clone(),
            resend_orders: settings.rotation.resend_orders,
        };
        Ok((Arc::new(account), change))
    }

    /// The account's keys, with what has changed. They are new only if address and source are others: a pair is never sent to
    /// an address that it was not configured for. Which pairs are in use does not matter: that may change before the reload
    /// takes effect.
    fn keys(&self, previous: Option<PreviousAccount<'_>>) -> Result<AccountKeys, StartError> {
        let AccountBuilder { settings, vaults, live, .. } = *self;
        let name = &settings.name;
        let unusable = |source| StartError::Keys { account: name.clone(), source };
        let other_vault = matches!(settings.keys, KeySource::Vault { .. })
            && !vaults.now.zip(vaults.before).is_some_and(|(now, before)| Arc::ptr_eq(now, before));
        let other_source = |old: &config::AccountConfig| old.keys != settings.keys || other_vault;
        let moved = |old: &config::AccountConfig| !is_same_address(old, settings);
        let begins_anew = |PreviousAccount { settings: old, .. }: &PreviousAccount<'_>| moved(old) && other_source(old);
        let Some(PreviousAccount { account, settings: old }) = previous.filter(|previous| !begins_anew(previous))
        else {
            let opened = Keys::open(settings, vaults.now, live.revoked.clone(), observer(name.clone(), live));
            let (keys, keeper) = opened.map_err(unusable)?;
            let source = keeper.source.id();
            return Ok(AccountKeys { keys, source, change: KeyChange::Opened(Box::new(keeper)) });
        };
        let source = if other_source(old) {
            Some(Arc::new(PairSource::open(&settings.keys, name, vaults.now).map_err(unusable)?))
        } else {
            None
        };
        let source_id = source.as_ref().map_or(account.source, |source| source.id());
        let moved = moved(old).then_some(source_id);
        let change = match source {
            None if old.rotation == settings.rotation && moved.is_none() => KeyChange::None,
            source => KeyChange::Settings(KeySettings { source, rotation: settings.rotation.clone(), moved }),
        };
        Ok(AccountKeys { keys: account.keys.clone(), source: source_id, change })
    }

    /// The certificate authorities as they are now: the file may have been replaced under its name.
    fn authorities(&self) -> Result<Option<Arc<RootCertStore>>, StartError> {
        let rootless = |source| StartError::Authorities { account: self.settings.name.clone(), source };
        let tls = endpoints(self.settings).iter().any(|endpoint| endpoint.tls);
        tls.then(|| roots(self.settings.ca.as_deref()).map(Arc::new).map_err(rootless)).transpose()
    }

    /// The routes to the account's three addresses; those to the same host share their connections.
    fn routes(
        &self,
        previous: Option<PreviousAccount<'_>>,
        authorities: Option<&Arc<RootCertStore>>,
    ) -> Result<AccountRoutes, StartError> {
        let AccountBuilder { settings, live, .. } = *self;
        if let Some(PreviousAccount { account, settings: old }) = previous
            && is_same_address(old, settings)
            && old.proxy == settings.proxy
            && account.authorities.as_ref().map(|old| &old.roots) == authorities.map(|new| &new.roots)
        {
            return Ok(AccountRoutes { base: account.base.clone(), v1: account.v1.clone(), v2: account.v2.clone() });
        }
        let unusable = |source| StartError::Account { account: settings.name.clone(), source };
        let tls = authorities.cloned().map(client_config);
        let dialer = Dialer { connector: live.connector.clone(), proxy: settings.proxy.clone() };
        let connections = live.metrics.upstream_connections(&settings.name);
        let mut known: Vec<Route> = Vec::new();
        let mut route = |endpoint: &Endpoint| -> Result<Route, StartError> {
            let host =
                HeaderValue::try_from(&endpoint.authority).map_err(|_| StartError::Host(settings.name.clone()))?;
            let address = |e: &Endpoint| (e.tls, e.host.clone(), e.port);
            let destination = match known.iter().find(|route| address(&route.endpoint) == address(endpoint)) {
                Some(route) => route.destination.clone(),
                None => Arc::new(
                    Destination::new(endpoint, tls.as_ref(), dialer.clone(), connections.clone()).map_err(unusable)?,
                ),
            };
            known.push(Route { endpoint: endpoint.clone(), url: endpoint.to_string().into(), host, destination });
            Ok(known[known.len() - 1].clone())
        };
        Ok(AccountRoutes { base: route(&settings.base)?, v1: route(&settings.v1)?, v2: route(&settings.v2)? })
    }
}

/// Where the operations of an account are sent, by API version.
struct AccountRoutes {
    base: Route,
    v1: Route,
    v2: Route,
}

fn endpoints(settings: &config::AccountConfig) -> [&Endpoint; 3] {
    [&settings.base, &settings.v1, &settings.v2]
}

/// Whether the account is called at the same addresses, in the same way.
fn is_same_address(before: &config::AccountConfig, now: &config::AccountConfig) -> bool {
    endpoints(before) == endpoints(now)
}

/// Counts the key events of an account.
fn observer(account: String, live: &Live) -> Observer {
    let metrics = live.metrics.clone();
    Box::new(move |event| metrics.key_event(&account, event.what.as_str()))
}
