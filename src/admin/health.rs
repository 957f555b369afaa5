//! Liveness and readiness.
//!
//! These pages are open to everyone who reaches the port, so they name accounts and conditions, but neither
//! files nor addresses: those are in `/status`.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;

use super::{Admin, AdminState};
use crate::{
    keys::{Role, Verification as Verified},
    snapshot::Account,
    upstream::breaker,
};

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
        let mut degraded = Vec::new();
        if !state.admin.store.is_healthy() {
            degraded.push("state store: the last write failed".to_owned());
        }
        if !gateway.reloaded_well() {
            degraded.push("configuration: the last reload failed; the previous one is in force".to_owned());
        }
        for key in &gateway.in_force.load().waiting {
            degraded.push(format!("configuration: {key} has changed and waits for a restart"));
        }
        for (listener, tls) in gateway.live.tls.each() {
            if tls.has_expired() {
                degraded.push(format!("{listener} listener: its certificate has expired"));
            }
            if tls.fault().is_some() {
                degraded.push(format!(
                    "{listener} listener: the new certificate cannot be used; the previous one is in use"
                ));
            }
        }
        for account in &snapshot.accounts {
            degradations(account, &mut degraded);
        }
        Readiness { ready: reasons.is_empty(), reasons, degraded }
    }
}

fn no_usable_pair(account: &Account) -> Option<String> {
    let no_key = account.keys.status().no_key?;
    Some(format!("accounts.{}: {no_key}", account.name))
}

/// Adds what does not work for an account.
fn degradations(account: &Account, degraded: &mut Vec<String>) {
    let mut add = |what: &str| degraded.push(format!("accounts.{}: {what}", account.name));
    let keys = account.keys.status();
    if let Some(no_key) = keys.no_key {
        add(&no_key.to_string());
    }
    if !keys.source.up {
        add("the key source cannot be read");
    }
    let refused = |role: Role| keys.pairs.iter().any(|pair| pair.role == role && pair.standing == Verified::Refused);
    if keys.no_key.is_none() && refused(Role::Current) {
        add("Fastrac refuses the key pair in use");
    }
    if refused(Role::Candidate) {
        add("Fastrac refuses the new key pair");
    }
    match account.breaker.state() {
        breaker::State::Closed => {}
        breaker::State::HalfOpen => add("circuit breaker half-open: Fastrac was failing; probes are being sent"),
        breaker::State::Open => add("circuit breaker open: Fastrac is failing; requests are refused"),
    }
    match account.breaker.failures_in_a_row() {
        0 => {}
        1 => add("the last request to Fastrac failed"),
        failures => add(&format!("the last {failures} requests to Fastrac failed")),
    }
}
