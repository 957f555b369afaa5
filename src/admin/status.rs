//! `/status`: how everything does, for people and scripts.
//!
//! Services, accounts and operations are members by their name, so that `jq .services.checkout` is
//! enough. Every member is written out here: what is not named can't slip in.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use axum::{Json, extract::State};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    Desk,
    answer::{Fault, aside},
    health::Condition,
    scrape::REVISION,
};
use crate::{
    admission::{self, Window},
    cache::Cache,
    catalog,
    config::Priority,
    keys,
    snapshot::{Account, Snapshot},
};

/// RFC 3339, UTC, to the millisecond.
type Moment = String;

fn moment(at: Timestamp) -> Moment {
    format!("{at:.3}")
}

#[derive(Serialize)]
pub(super) struct Status {
    version: &'static str,
    revision: &'static str,
    started_at: Option<Moment>,
    uptime_seconds: u64,
    draining: bool,
    health: Condition,
    addresses: Addresses,
    /// By listener, `data` and `admin`; only those that speak TLS.
    certificates: BTreeMap<&'static str, Certificate>,
    config: Configuration,
    services: BTreeMap<String, Service>,
    accounts: BTreeMap<String, Fastrac>,
    cache: Stored,
    store: StateStore,
}

#[derive(Serialize)]
struct Addresses {
    data: Vec<String>,
    admin: String,
}

/// What a listener shows.
#[derive(Serialize)]
struct Certificate {
    ends_at: Option<Moment>,
    /// Why the files that are there now are not what is shown.
    fault: Option<String>,
}

#[derive(Serialize)]
struct Configuration {
    hash: String,
    file: Option<PathBuf>,
    in_force_since: Option<Moment>,
    last_reload_successful: bool,
}

#[derive(Serialize)]
struct Service {
    account: Option<String>,
    priority: Priority,
    quota: Windows,
    used_today: u64,
}

/// A window without a limit is `null`.
#[derive(Serialize)]
struct Windows {
    second: Option<Left>,
    day: Option<Left>,
}

#[derive(Serialize)]
struct Left {
    limit: u64,
    left: u64,
    resets_in_seconds: u64,
}

#[derive(Serialize)]
struct Fastrac {
    budget: Budget,
    breaker: &'static str,
    /// Attempts to ask Fastrac that failed, up to now; 0 after one that did not.
    failing: u32,
    keys: Keys,
    orders_unknown: u64,
}

#[derive(Serialize)]
struct Budget {
    #[serde(flatten)]
    windows: Windows,
    in_flight: Places,
    used_today: u64,
    waiting: usize,
}

#[derive(Serialize)]
struct Places {
    limit: u64,
    left: u64,
}

#[derive(Serialize)]
struct Keys {
    usable: bool,
    /// Why no request can be signed.
    reason: Option<String>,
    pairs: Vec<Pair>,
    revoked: Vec<String>,
    source: Source,
}

#[derive(Serialize)]
struct Pair {
    version: String,
    /// The source's own number of it, if it has one.
    source_version: Option<u64>,
    role: &'static str,
    standing: &'static str,
    loaded_at: Moment,
    age_seconds: i64,
}

#[derive(Serialize)]
struct Source {
    kind: &'static str,
    up: bool,
    last_success: Option<Moment>,
    /// Its own number of what it gave last, if it has one.
    version: Option<u64>,
    /// What is wrong: a file's or variable's name, never what it holds.
    fault: Option<String>,
}

#[derive(Serialize)]
struct Stored {
    entries: u64,
    bytes: u64,
    operations: BTreeMap<String, OfOperation>,
}

#[derive(Serialize)]
struct OfOperation {
    entries: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct StateStore {
    healthy: bool,
}

/// How everything does at this moment.
pub(super) async fn status(State(desk): State<Arc<Desk>>) -> Result<Json<Status>, Fault> {
    // All stored answers are walked.
    aside(move || Json(Status::of(&desk))).await
}

impl Status {
    fn of(desk: &Desk) -> Self {
        let admin = &desk.admin;
        let (snapshot, in_force) = (admin.gateway.current.load_full(), admin.gateway.in_force.load_full());
        let account = |account: &Arc<Account>| {
            let unknown = admin.gateway.live.orders.unknown_count(&account.name);
            (account.name.clone(), Fastrac::of(account, unknown))
        };
        Status {
            version: env!("CARGO_PKG_VERSION"),
            revision: REVISION,
            started_at: Timestamp::try_from(desk.began).ok().map(moment),
            uptime_seconds: desk.clock.elapsed().as_secs(),
            draining: admin.drain.begun(),
            health: Condition::of(desk),
            addresses: Addresses {
                data: admin.data.iter().map(ToString::to_string).collect(),
                admin: admin.address.to_string(),
            },
            certificates: admin
                .gateway
                .live
                .doors
                .each()
                .map(|(listener, door)| {
                    (listener, Certificate { ends_at: door.ends().map(moment), fault: door.fault() })
                })
                .collect(),
            config: Configuration {
                hash: in_force.config.hash.clone(),
                file: admin.gateway.file.clone(),
                in_force_since: Timestamp::try_from(in_force.since).ok().map(moment),
                last_reload_successful: admin.gateway.reloaded_well(),
            },
            services: services(&snapshot),
            accounts: snapshot.accounts.iter().map(account).collect(),
            cache: Stored::of(&snapshot.cache),
            store: StateStore { healthy: admin.store.is_healthy() },
        }
    }
}

fn services(snapshot: &Snapshot) -> BTreeMap<String, Service> {
    let service = |(service, quota): (&catalog::Service, &Arc<admission::Quota>)| {
        let told = Service {
            account: snapshot.accounts.get(service.account).map(|account| account.name.clone()),
            priority: service.config.priority,
            quota: Windows::of(quota.standing()),
            used_today: quota.used_today(),
        };
        (service.name.clone(), told)
    };
    snapshot.catalog.services.iter().zip(&snapshot.quotas).map(service).collect()
}

impl Windows {
    fn of(standing: admission::Standing) -> Self {
        let left =
            |window: Window| Left { limit: window.limit, left: window.left, resets_in_seconds: window.resets_in };
        Windows { second: standing.second.map(left), day: standing.day.map(left) }
    }
}

impl Fastrac {
    fn of(account: &Account, orders_unknown: u64) -> Self {
        let figures = account.budget.figures();
        Fastrac {
            budget: Budget {
                windows: Windows::of(figures.standing),
                in_flight: Places { limit: figures.in_flight.limit, left: figures.in_flight.left },
                used_today: figures.used_today,
                waiting: figures.waiting,
            },
            breaker: account.breaker.standing().as_str(),
            failing: account.breaker.failing(),
            keys: Keys::of(account.keys.status()),
            orders_unknown,
        }
    }
}

impl Keys {
    fn of(status: keys::Status) -> Self {
        let now = Timestamp::now();
        let pair = |pair: &keys::PairStatus| Pair {
            version: pair.version.to_string(),
            source_version: pair.source_version,
            role: pair.role.as_str(),
            standing: pair.standing.as_str(),
            loaded_at: moment(pair.loaded_at),
            age_seconds: now.duration_since(pair.loaded_at).as_secs().max(0),
        };
        Keys {
            usable: status.no_key.is_none(),
            reason: status.no_key.map(|reason| reason.to_string()),
            pairs: status.pairs.iter().map(pair).collect(),
            revoked: status.revoked.iter().map(ToString::to_string).collect(),
            source: Source {
                kind: status.source.kind,
                up: status.source.up,
                last_success: status.source.last_success.map(moment),
                version: status.source.version,
                fault: status.source.fault,
            },
        }
    }
}

impl Stored {
    fn of(cache: &Cache) -> Self {
        let held = cache.held();
        Stored {
            entries: held.values().map(|held| held.entries).sum(),
            bytes: held.values().map(|held| held.bytes).sum(),
            operations: held
                .iter()
                .map(|(name, held)| (name.to_string(), OfOperation { entries: held.entries, bytes: held.bytes }))
                .collect(),
        }
    }
}
