//! What operators may ask for, beside keys.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json};

use super::{
    Desk,
    answer::{Fault, aside},
};
use crate::{
    config::{check::Diagnostic, load::LoadError},
    gateway::ReloadError,
};

/// Reads the configuration file again: 200, or 422 with every fault; then nothing has changed.
pub(super) async fn reload(State(desk): State<Arc<Desk>>) -> Result<Json<Value>, Fault> {
    let gateway = desk.admin.gateway.clone();
    // It reads files. Once begun it ends, also if whoever asked has left.
    let reloaded = aside(move || gateway.reload()).await?;
    reloaded.map_err(|error| faulty(&error))?;
    let hash = desk.admin.gateway.in_force.load().config.hash.clone();
    Ok(Json(json!({ "reloaded": true, "config": { "hash": hash } })))
}

fn faulty(error: &ReloadError) -> Fault {
    let (code, faults) = match error {
        ReloadError::NoFile => ("config.none", alone(error)),
        ReloadError::Load(LoadError::Unreadable { .. }) => ("config.unreadable", alone(error)),
        ReloadError::Load(LoadError::Faulty { faults, .. }) => ("config.faulty", faults.iter().map(fault).collect()),
        ReloadError::Start(_) => ("config.unusable", alone(error)),
    };
    Fault::new(StatusCode::UNPROCESSABLE_ENTITY, code, error.to_string()).with("faults", Value::Array(faults))
}

fn fault(fault: &Diagnostic) -> Value {
    json!({ "place": fault.place, "line": fault.line, "message": fault.message })
}

fn alone(error: &ReloadError) -> Vec<Value> {
    vec![json!({ "place": null, "line": null, "message": error.to_string() })]
}

/// Forgets every stored answer.
pub(super) async fn purge(State(desk): State<Arc<Desk>>) -> Result<Json<Value>, Fault> {
    let cache = desk.admin.gateway.current.load().cache.clone();
    let purged = aside(move || {
        let entries: u64 = cache.held().values().map(|held| held.entries).sum();
        cache.purge();
        entries
    })
    .await?;
    tracing::info!(entries = purged, "the cache was purged");
    Ok(Json(json!({ "purged": purged })))
}
