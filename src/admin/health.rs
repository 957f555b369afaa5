//! Whether the process lives, and whether it should get work.
//!
//! Read by everybody who reaches the port, so it names accounts and what they lack, but neither files
//! nor addresses: those stand in `/status`.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;

use super::Desk;
use crate::{
    keys::{Role, Standing as Verified},
    snapshot::Account,
    upstream::breaker::Standing,
};

/// What is wrong.
#[derive(Debug, Serialize)]
pub(super) struct Condition {
    /// Whether it should get work.
    ready: bool,
    /// Why not; empty when it is ready.
    reasons: Vec<String>,
    /// What has been lost, while hits and clear refusals are still worth having.
    degraded: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct Alive {
    live: bool,
}

/// It answers, so it lives.
pub(super) async fn livez() -> Json<Alive> {
    Json(Alive { live: true })
}

/// 200 or 503, each with the reasons.
pub(super) async fn readyz(State(desk): State<Arc<Desk>>) -> (StatusCode, Json<Condition>) {
    let condition = Condition::of(&desk);
    let status = if condition.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(condition))
}

impl Condition {
    /// As it is at this moment.
    pub(super) fn of(desk: &Desk) -> Self {
        let gateway = &desk.admin.gateway;
        let snapshot = gateway.current.load();
        let mut reasons = Vec::new();
        if desk.admin.drain.begun() {
            reasons.push("draining".to_owned());
        }
        // The store is open, else there would be no admin port.
        if !gateway.was_ready() {
            reasons.extend(snapshot.accounts.iter().filter_map(|account| keyless(account)));
        }
        let mut degraded = Vec::new();
        if !desk.admin.store.is_healthy() {
            degraded.push("state store: the last write failed".to_owned());
        }
        if !gateway.reloaded_well() {
            degraded.push("configuration: the last reload failed; the one before is in force".to_owned());
        }
        for (listener, door) in gateway.live.doors.each() {
            if door.has_ended() {
                degraded.push(format!("{listener} listener: its certificate has ended"));
            }
            if door.fault().is_some() {
                degraded
                    .push(format!("{listener} listener: the new certificate can't be used; the one before is shown"));
            }
        }
        for account in &snapshot.accounts {
            lost(account, &mut degraded);
        }
        Condition { ready: reasons.is_empty(), reasons, degraded }
    }
}

/// Why no request of the account can be signed.
fn keyless(account: &Account) -> Option<String> {
    let no_key = account.keys.status().no_key?;
    Some(format!("accounts.{}: {no_key}", account.name))
}

/// What an account has lost.
fn lost(account: &Account, degraded: &mut Vec<String>) {
    let mut say = |what: &str| degraded.push(format!("accounts.{}: {what}", account.name));
    let keys = account.keys.status();
    if let Some(no_key) = keys.no_key {
        say(&no_key.to_string());
    }
    if !keys.source.up {
        say("the key source can't be read");
    }
    let refused = |role: Role| keys.pairs.iter().any(|pair| pair.role == role && pair.standing == Verified::Refused);
    if keys.no_key.is_none() && refused(Role::Current) {
        say("Fastrac refuses the key pair in use");
    }
    if refused(Role::Candidate) {
        say("Fastrac refuses the new key pair");
    }
    match account.breaker.standing() {
        Standing::Closed => {}
        Standing::HalfOpen => say("Fastrac has been failing and is being tried"),
        Standing::Open => say("Fastrac has been failing and is not asked"),
    }
    match account.breaker.failing() {
        0 => {}
        1 => say("the last attempt to ask Fastrac failed"),
        failures => say(&format!("the last {failures} attempts to ask Fastrac failed")),
    }
}
