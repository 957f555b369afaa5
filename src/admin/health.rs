//! Liveness and readiness.
//!
//! These pages are open to everyone who reaches the port, so they name accounts and conditions, but neither
//! files nor addresses: those are in `/status`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};

use super::{Admin, AdminState, degraded, error::AdminError};
use crate::{degraded::Degradation, snapshot::Account};

/// The body of `/readyz`.
#[derive(Debug, Serialize)]
pub(super) struct Readiness {
    ready: bool,
    /// Why it is not ready; empty if it is.
    reasons: Vec<String>,
    /// What does not work although the gateway is ready: cache hits and clear refusals are still useful.
    degraded: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct Liveness {
    live: bool,
    /// Threads that make no progress, or have ended; only a restart helps.
    stuck: Vec<String>,
}

/// Fails when a thread that requests need makes no progress any more. A hung disk or a failing Fastrac is no such
/// case: a restart would not help.
pub(super) async fn livez(State(state): State<Arc<AdminState>>) -> (StatusCode, Json<Liveness>) {
    let Admin { heartbeats, store, drain, .. } = &state.admin;
    let hanging = heartbeats.iter().filter(|heartbeat| heartbeat.hangs());
    let mut stuck: Vec<_> = hanging.map(|heartbeat| heartbeat.name().to_owned()).collect();
    if !store.runs() && !drain.begun() {
        stuck.push("store".to_owned());
    }
    if !state.admin.gateway.live.orders.archive().runs() && !drain.begun() {
        stuck.push("archive".to_owned());
    }
    let status = if stuck.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Liveness { live: stuck.is_empty(), stuck }))
}

/// The query of `/readyz`.
#[derive(Deserialize)]
pub(super) struct ReadinessQuery {
    /// Absent: the gateway as a whole.
    account: Option<String>,
}

pub(super) async fn readyz(
    State(state): State<Arc<AdminState>>,
    Query(query): Query<ReadinessQuery>,
) -> Result<(StatusCode, Json<Readiness>), AdminError> {
    let condition = match query.account.as_deref() {
        None => Readiness::of(&state.admin),
        Some(name) => Readiness::of_account(&state.admin, name).ok_or_else(|| {
            let message = "the configuration in force has no account of this name";
            AdminError::new(StatusCode::NOT_FOUND, "readyz.account", message)
        })?,
    };
    let status = if condition.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(condition)))
}

impl Readiness {
    /// Of the gateway as a whole: at least one account can send requests.
    pub(super) fn of(admin: &Admin) -> Self {
        let mut reasons = draining(admin);
        if !admin.gateway.was_ready() {
            let snapshot = admin.gateway.current.load();
            let accounts = || snapshot.accounts.iter();
            if accounts().all(|account| account.keys.lease().is_err()) {
                reasons.extend(accounts().filter_map(|account| no_usable_pair(account)));
            }
            let unread = accounts().filter(|account| !account.keys.status().source.was_read());
            reasons.extend(unread.map(|account| format!("accounts.{}: its key source is being read", account.name)));
        }
        Readiness { ready: reasons.is_empty(), reasons, degraded: texts(degraded::list(admin)) }
    }

    /// Of one account. `None`: there is no account of this name.
    fn of_account(admin: &Admin, name: &str) -> Option<Self> {
        let snapshot = admin.gateway.current.load();
        let account = snapshot.accounts.iter().find(|account| account.name == name)?;
        let mut reasons = draining(admin);
        if !admin.gateway.account_was_ready(account) {
            reasons.extend(no_usable_pair(account));
        }
        let own = format!("accounts.{name}: ");
        let mut degraded = degraded::list(admin);
        degraded.retain(|one| one.text.starts_with(&own) || !one.text.starts_with("accounts."));
        Some(Readiness { ready: reasons.is_empty(), reasons, degraded: texts(degraded) })
    }
}

/// The state store is open: the admin port is not served before.
fn draining(admin: &Admin) -> Vec<String> {
    if admin.drain.begun() { vec!["draining".to_owned()] } else { Vec::new() }
}

fn texts(degraded: Vec<Degradation>) -> Vec<String> {
    degraded.into_iter().map(|one| one.text).collect()
}

fn no_usable_pair(account: &Account) -> Option<String> {
    let no_key = account.keys.status().no_key?;
    Some(format!("accounts.{}: {no_key}", account.name))
}
