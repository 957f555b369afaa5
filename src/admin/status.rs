//! `/status`: the state of everything, for people and scripts.
//!
//! Services, accounts and operations are members named like them, so that `jq .services.checkout` works.
//! Every member is written out here, so nothing is shown by accident.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use axum::{Json, extract::State};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    AdminState,
    cache_status::CacheStatus,
    error::{AdminError, off_thread},
    health::Readiness,
    scrape::REVISION,
};
use crate::{
    admission::{self, LimitWindow, WindowUsage},
    caller::Callers,
    catalog,
    config::{CredentialConfig, Priority},
    gateway::{Gateway, Outlook, SetOverride},
    keys,
    snapshot::{Account, Snapshot},
    spending::{SpenderKey, Spending, SpentToday},
    upstream::breaker::Breaker,
};

/// RFC 3339, UTC, to the millisecond.
type Rfc3339 = String;

fn rfc3339(at: Timestamp) -> Rfc3339 {
    format!("{at:.3}")
}

#[derive(Serialize)]
pub(super) struct StatusPage {
    version: &'static str,
    revision: &'static str,
    started_at: Option<Rfc3339>,
    uptime_seconds: u64,
    draining: bool,
    health: Readiness,
    addresses: Addresses,
    /// Maximum number of open client connections: `limits.connections`, or fewer if the process has no files or memory for them.
    connections_limit: usize,
    /// By listener, `data` and `admin`; only those that speak TLS.
    certificates: BTreeMap<&'static str, CertificateStatus>,
    config: ConfigStatus,
    services: BTreeMap<String, ServiceStatus>,
    accounts: BTreeMap<String, AccountStatus>,
    cache: CacheStatus,
    memory: MemoryStatus,
    store: StoreStatus,
}

#[derive(Serialize)]
struct Addresses {
    data: Vec<String>,
    admin: String,
}

/// The certificate that a listener presents.
#[derive(Serialize)]
struct CertificateStatus {
    ends_at: Option<Rfc3339>,
    /// Why the present files are not in use.
    fault: Option<String>,
}

#[derive(Serialize)]
struct ConfigStatus {
    hash: String,
    file: Option<PathBuf>,
    in_force_since: Option<Rfc3339>,
    last_reload_successful: bool,
}

#[derive(Serialize)]
struct ServiceStatus {
    account: Option<String>,
    priority: Priority,
    quota: QuotaStatus,
    /// `null`: the configured limits are in force.
    r#override: Option<OverrideStatus>,
    used_today: u64,
    /// Units of the account's budget, by operation.
    spent_today: BTreeMap<String, u64>,
    credentials: Vec<CredentialStatus>,
}

#[derive(Serialize)]
struct CredentialStatus {
    access_key: String,
    /// The last day on which it is valid.
    expires: Option<String>,
    /// `null`: not since the start.
    last_used: Option<Rfc3339>,
}

/// Bytes of requests and responses, without those of the cache.
#[derive(Serialize)]
struct MemoryStatus {
    buffered_bytes: usize,
    limit_bytes: usize,
}

#[derive(Serialize)]
struct QuotaStatus {
    #[serde(flatten)]
    windows: WindowsStatus,
    /// Of the day.
    outlook: OutlookStatus,
    enforced: bool,
    /// Requests that were served although the quota would have refused them, since the start.
    would_refuse: WouldRefuseStatus,
}

/// How far a day's limit is used.
#[derive(Serialize)]
struct OutlookStatus {
    /// The highest of 50, 80 and 95 % that is reached; 0 if none is.
    warning_percent: u8,
    /// When it is used up at the pace of the last hour; `null`: it lasts until the end of the day.
    runs_out_at: Option<Rfc3339>,
}

#[derive(Serialize)]
struct WouldRefuseStatus {
    second: u64,
    day: u64,
}

/// Limits that an operator has changed for a time. A limit that is `null` is as configured.
#[derive(Serialize)]
struct OverrideStatus {
    per_second: Option<u32>,
    per_day: Option<u64>,
    block: bool,
    until: Rfc3339,
    reason: String,
    /// Name of the token.
    by: String,
    since: Rfc3339,
}

/// `/quota`: what is left, and who uses it.
#[derive(Serialize)]
pub(super) struct QuotaPage {
    services: BTreeMap<String, ServiceStatus>,
    accounts: BTreeMap<String, BudgetStatus>,
}

/// The result of a change.
#[derive(Serialize)]
pub(super) struct QuotaChange {
    service: String,
    quota: Option<QuotaStatus>,
    r#override: Option<OverrideStatus>,
    /// What was in force instead until then; `null`: the configured limits.
    replaced: Option<OverrideStatus>,
}

/// The result of `/quota/count`.
#[derive(Serialize)]
pub(super) struct CountChange {
    pub(super) service: Option<String>,
    pub(super) account: Option<String>,
    /// Units of today.
    pub(super) used_before: u64,
    pub(super) used_today: u64,
}

/// A window without a limit is `null`.
#[derive(Serialize)]
struct WindowsStatus {
    second: Option<WindowStatus>,
    day: Option<WindowStatus>,
}

#[derive(Serialize)]
struct WindowStatus {
    limit: u64,
    left: u64,
    resets_in_seconds: u64,
}

#[derive(Serialize)]
struct AccountStatus {
    budget: BudgetStatus,
    /// The state that is farthest from closed.
    breaker: &'static str,
    /// By class.
    breakers: BTreeMap<&'static str, BreakerStatus>,
    /// The highest `failing` of its breakers.
    failing: u32,
    /// Second attempts that may be made at once.
    retries_left: u64,
    keys: KeysStatus,
    orders_unknown: u64,
}

#[derive(Serialize)]
struct BreakerStatus {
    state: &'static str,
    /// Failed requests to Fastrac since the last successful one.
    failing: u32,
    /// While it is open: until probes are sent, in seconds.
    open_seconds: f64,
}

#[derive(Serialize)]
struct BudgetStatus {
    #[serde(flatten)]
    windows: WindowsStatus,
    in_flight: InFlightStatus,
    /// Of the day.
    outlook: OutlookStatus,
    used_today: u64,
    /// By service; `-` is the gateway itself.
    spent_today: BTreeMap<String, u64>,
    waiting: usize,
    /// Requests per second at present: lower than the limit after Fastrac has throttled. Absent without a limit.
    learned_per_second: Option<f64>,
    /// Rest of the pause that Fastrac has imposed; 0 if there is none.
    paused_seconds: f64,
}

#[derive(Serialize)]
struct InFlightStatus {
    limit: u64,
    left: u64,
    /// Of `limit`: only orders may take them.
    kept_for_orders: usize,
    /// Of `limit`: no order may take them.
    kept_for_others: usize,
}

#[derive(Serialize)]
struct KeysStatus {
    usable: bool,
    /// Why there is no usable pair.
    reason: Option<String>,
    pairs: Vec<KeyPairStatus>,
    revoked: Vec<String>,
    source: KeySourceStatus,
}

#[derive(Serialize)]
struct KeyPairStatus {
    version: String,
    /// The version number in the source, if it has one.
    source_version: Option<u64>,
    role: &'static str,
    standing: &'static str,
    /// Whether requests signed with it were refused, and that is not decided yet.
    being_refused: bool,
    loaded_at: Rfc3339,
    age_seconds: i64,
}

#[derive(Serialize)]
struct KeySourceStatus {
    kind: &'static str,
    up: bool,
    last_success: Option<Rfc3339>,
    /// The version number of the last reading, if the source has one.
    version: Option<u64>,
    /// The last error: it names a file or variable, never its contents.
    fault: Option<String>,
}

#[derive(Serialize)]
struct StoreStatus {
    healthy: bool,
}

pub(super) async fn status(State(state): State<Arc<AdminState>>) -> Result<Json<StatusPage>, AdminError> {
    // Walks all cache entries.
    off_thread(move || Json(StatusPage::of(&state))).await
}

impl StatusPage {
    fn of(state: &AdminState) -> Self {
        let admin = &state.admin;
        let (snapshot, in_force) = (admin.gateway.current.load_full(), admin.gateway.in_force.load_full());
        let mut spent = SpendingStatus::today(&admin.gateway.live.spending);
        let mut account = |account: &Arc<Account>| {
            let unknown = admin.gateway.live.orders.unknown_count(&account.name);
            let spent = spent.by_account.remove(&account.name).unwrap_or_default();
            let budget = BudgetStatus::of(&admin.gateway, account, spent);
            (account.name.clone(), AccountStatus::of(account, unknown, budget))
        };
        let accounts = snapshot.accounts.iter().map(&mut account).collect();
        StatusPage {
            version: env!("CARGO_PKG_VERSION"),
            revision: REVISION,
            started_at: Timestamp::try_from(state.started_at).ok().map(rfc3339),
            uptime_seconds: state.started.elapsed().as_secs(),
            draining: admin.drain.begun(),
            health: Readiness::of(&state.admin),
            addresses: Addresses {
                data: admin.data.iter().map(ToString::to_string).collect(),
                admin: admin.address.to_string(),
            },
            connections_limit: admin.connections.get(),
            certificates: admin
                .gateway
                .live
                .tls
                .each()
                .map(|(listener, tls)| {
                    (listener, CertificateStatus { ends_at: tls.expires().map(rfc3339), fault: tls.fault() })
                })
                .collect(),
            config: ConfigStatus {
                hash: in_force.config.hash.clone(),
                file: admin.gateway.file.clone(),
                in_force_since: Timestamp::try_from(in_force.since).ok().map(rfc3339),
                last_reload_successful: admin.gateway.reloaded_well(),
            },
            services: services(&admin.gateway, &snapshot, &mut spent.by_service),
            accounts,
            cache: CacheStatus::of(&snapshot, admin),
            memory: MemoryStatus { buffered_bytes: snapshot.memory.used(), limit_bytes: snapshot.memory.limit() },
            store: StoreStatus { healthy: admin.store.is_healthy() },
        }
    }
}

/// Units sent to Fastrac today.
#[derive(Default)]
struct SpendingStatus {
    /// By account, then service.
    by_account: BTreeMap<String, BTreeMap<String, u64>>,
    /// By service, then operation.
    by_service: BTreeMap<String, BTreeMap<String, u64>>,
}

impl SpendingStatus {
    fn today(spending: &Spending) -> Self {
        let mut spent = SpendingStatus::default();
        for SpentToday { key: SpenderKey { account, service, operation }, units } in spending.today() {
            *spent.by_account.entry(account).or_default().entry(service.clone()).or_default() += units;
            *spent.by_service.entry(service).or_default().entry(operation).or_default() += units;
        }
        spent
    }
}

fn services(
    gateway: &Gateway,
    snapshot: &Snapshot,
    spent: &mut BTreeMap<String, BTreeMap<String, u64>>,
) -> BTreeMap<String, ServiceStatus> {
    let mut service = |(service, quota): (&catalog::Service, &Arc<admission::Quota>)| {
        let told = ServiceStatus {
            account: snapshot.accounts.get(service.account).map(|account| account.name.clone()),
            priority: service.config.priority,
            quota: QuotaStatus::of(gateway, &service.name, quota),
            r#override: gateway.live.overrides.of(&service.name).map(OverrideStatus::of),
            used_today: quota.used_today(),
            spent_today: spent.remove(&service.name).unwrap_or_default(),
            credentials: service
                .config
                .credentials
                .iter()
                .map(|it| CredentialStatus::of(it, &snapshot.callers))
                .collect(),
        };
        (service.name.clone(), told)
    };
    snapshot.catalog.services.iter().zip(&snapshot.quotas).map(&mut service).collect()
}

impl QuotaPage {
    /// All services and accounts, or one service and its account; `None`: there is no such service.
    pub(super) fn of(state: &AdminState, service: Option<&str>) -> Option<Self> {
        let gateway = &state.admin.gateway;
        let snapshot = gateway.current.load_full();
        let mut spent = SpendingStatus::today(&gateway.live.spending);
        let mut services = services(gateway, &snapshot, &mut spent.by_service);
        let mut accounts: BTreeMap<_, _> = snapshot
            .accounts
            .iter()
            .map(|account| {
                let spent = spent.by_account.remove(&account.name).unwrap_or_default();
                (account.name.clone(), BudgetStatus::of(gateway, account, spent))
            })
            .collect();
        if let Some(service) = service {
            services.retain(|name, _| name == service);
            let account = services.get(service)?.account.clone();
            accounts.retain(|name, _| Some(name) == account.as_ref());
        }
        Some(QuotaPage { services, accounts })
    }
}

impl QuotaChange {
    /// `None`: there is no such service any more.
    pub(super) fn of(state: &AdminState, service: &str, replaced: Option<SetOverride>) -> Option<Self> {
        let gateway = &state.admin.gateway;
        let snapshot = gateway.current.load_full();
        let index = snapshot.catalog.services.iter().position(|known| known.name == service)?;
        let quota = snapshot.quotas.get(index).map(|quota| QuotaStatus::of(gateway, service, quota));
        let set = gateway.live.overrides.of(service).map(OverrideStatus::of);
        let replaced = replaced.map(OverrideStatus::of);
        Some(QuotaChange { service: service.to_owned(), quota, r#override: set, replaced })
    }
}

impl OutlookStatus {
    fn of(outlook: Outlook) -> Self {
        OutlookStatus { warning_percent: outlook.warning, runs_out_at: outlook.runs_out_at.map(rfc3339) }
    }
}

impl QuotaStatus {
    fn of(gateway: &Gateway, service: &str, quota: &admission::Quota) -> Self {
        let would_refuse = |window| quota.would_refuse(window);
        QuotaStatus {
            windows: WindowsStatus::of(quota.usage()),
            outlook: OutlookStatus::of(gateway.quota_outlook(service, quota.day_use())),
            enforced: quota.is_enforced(),
            would_refuse: WouldRefuseStatus {
                second: would_refuse(LimitWindow::Second),
                day: would_refuse(LimitWindow::Day),
            },
        }
    }
}

impl OverrideStatus {
    fn of(set: SetOverride) -> Self {
        let SetOverride { limits, by, since } = set;
        OverrideStatus {
            per_second: limits.second,
            per_day: limits.day,
            block: limits.block,
            until: rfc3339(limits.until),
            reason: limits.reason.to_string(),
            by,
            since: rfc3339(since),
        }
    }
}

impl BudgetStatus {
    fn of(gateway: &Gateway, account: &Account, spent_today: BTreeMap<String, u64>) -> Self {
        let usage = account.budget.usage();
        BudgetStatus {
            outlook: OutlookStatus::of(gateway.budget_outlook(&account.name, account.budget.day_use())),
            windows: WindowsStatus::of(usage.windows),
            in_flight: InFlightStatus {
                limit: usage.in_flight.limit,
                left: usage.in_flight.left,
                kept_for_orders: usage.kept_for_each,
                kept_for_others: usage.kept_for_each,
            },
            used_today: usage.used_today,
            spent_today,
            waiting: usage.waiting,
            learned_per_second: usage.learned.map(|rate| (rate * 100.0).round() / 100.0),
            paused_seconds: usage.paused_for.as_secs_f64(),
        }
    }
}

impl CredentialStatus {
    fn of(credential: &CredentialConfig, callers: &Callers) -> Self {
        let last_used = callers.last_used(&credential.access_key).and_then(|at| i64::try_from(at).ok());
        CredentialStatus {
            access_key: credential.access_key.clone(),
            expires: credential.expires.map(|expiry| expiry.last_day.to_string()),
            last_used: last_used.and_then(|at| Timestamp::from_second(at).ok()).map(rfc3339),
        }
    }
}

impl WindowsStatus {
    fn of(usage: admission::UsageByWindow) -> Self {
        let left = |window: WindowUsage| WindowStatus {
            limit: window.limit,
            left: window.left,
            resets_in_seconds: window.resets_in,
        };
        WindowsStatus { second: usage.second.map(left), day: usage.day.map(left) }
    }
}

impl AccountStatus {
    fn of(account: &Account, orders_unknown: u64, budget: BudgetStatus) -> Self {
        AccountStatus {
            budget,
            breaker: account.address.breakers.worst().as_str(),
            breakers: account
                .address
                .breakers
                .each()
                .map(|one| (one.class().as_str(), BreakerStatus::of(one)))
                .collect(),
            failing: account.address.breakers.each().map(Breaker::failures_in_a_row).max().unwrap_or(0),
            retries_left: account.address.retries.left(),
            keys: KeysStatus::of(account.keys.status()),
            orders_unknown,
        }
    }
}

impl BreakerStatus {
    fn of(breaker: &Breaker) -> Self {
        BreakerStatus {
            state: breaker.state().as_str(),
            failing: breaker.failures_in_a_row(),
            open_seconds: breaker.open_for().as_secs_f64(),
        }
    }
}

impl KeysStatus {
    fn of(status: keys::KeyStatus) -> Self {
        let now = Timestamp::now();
        let pair = |pair: &keys::PairStatus| KeyPairStatus {
            version: pair.version.to_string(),
            source_version: pair.source_version,
            role: pair.role.as_str(),
            standing: pair.standing.as_str(),
            being_refused: pair.doubted,
            loaded_at: rfc3339(pair.loaded_at),
            age_seconds: now.duration_since(pair.loaded_at).as_secs().max(0),
        };
        KeysStatus {
            usable: status.no_key.is_none(),
            reason: status.no_key.map(|reason| reason.to_string()),
            pairs: status.pairs.iter().map(pair).collect(),
            revoked: status.revoked.iter().map(ToString::to_string).collect(),
            source: KeySourceStatus {
                kind: status.source.kind,
                up: status.source.up,
                last_success: status.source.last_success.map(rfc3339),
                version: status.source.version,
                fault: status.source.fault,
            },
        }
    }
}
