//! Liveness and readiness.
//!
//! These pages are open to everyone who reaches the port, so they name accounts and conditions, but neither
//! files nor addresses: those are in `/status`.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;

use super::{Admin, AdminState, degraded};
use crate::snapshot::Account;

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
    let status = if stuck.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Liveness { live: stuck.is_empty(), stuck }))
}

pub(super) async fn readyz(State(state): State<Arc<AdminState>>) -> (StatusCode, Json<Readiness>) {
    let condition = Readiness::of(&state);
    let status = if condition.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(condition))
}

impl Readiness {
    pub(super) fn of(state: &AdminState) -> Self {
        let gateway = &state.admin.gateway;
        let snapshot = gateway.current.load();
        let mut reasons = Vec::new();
        if state.admin.drain.begun() {
            reasons.push("draining".to_owned());
        }
        // The state store is open: the admin port is not served before.
        if !gateway.was_ready() {
            reasons.extend(snapshot.accounts.iter().filter_map(|account| no_usable_pair(account)));
        }
        let degraded = degraded::list(&state.admin).into_iter().map(|one| one.text).collect();
        Readiness { ready: reasons.is_empty(), reasons, degraded }
    }
}

fn no_usable_pair(account: &Account) -> Option<String> {
    let no_key = account.keys.status().no_key?;
    Some(format!("accounts.{}: {no_key}", account.name))
}
