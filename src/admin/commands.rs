//! Commands of operators, except those about keys: reload, cache purge.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json};

use super::{
    AdminState,
    error::{AdminError, off_thread},
};
use crate::{config::check::Diagnostic, files::configuration::LoadError, gateway::ReloadError};

/// Errors of a configuration in one response; its message has their number.
const MAX_FAULTS: usize = 1_000;

/// Reads the configuration file again: 200, or 422 with every error, and then nothing has changed.
pub(super) async fn reload(State(state): State<Arc<AdminState>>) -> Result<Json<Value>, AdminError> {
    let gateway = state.admin.gateway.clone();
    // Reads files. Runs to its end even if the client has left.
    let reloaded = off_thread(move || gateway.reload()).await?;
    reloaded.map_err(|error| reload_error(&error))?;
    let hash = state.admin.gateway.in_force.load().config.hash.clone();
    Ok(Json(json!({ "reloaded": true, "config": { "hash": hash } })))
}

fn reload_error(error: &ReloadError) -> AdminError {
    let (code, faults) = match error {
        ReloadError::NoFile => ("config.none", single(error)),
        ReloadError::Load(LoadError::Unreadable { .. }) => ("config.unreadable", single(error)),
        ReloadError::Load(LoadError::Invalid { errors, .. }) => {
            ("config.faulty", errors.iter().take(MAX_FAULTS).map(diagnostic).collect())
        }
        ReloadError::Start(_) => ("config.unusable", single(error)),
    };
    AdminError::new(StatusCode::UNPROCESSABLE_ENTITY, code, error.to_string()).with("faults", Value::Array(faults))
}

fn diagnostic(found: &Diagnostic) -> Value {
    json!({ "place": found.key, "line": found.line, "message": found.message })
}

fn single(error: &ReloadError) -> Vec<Value> {
    vec![json!({ "place": null, "line": null, "message": error.to_string() })]
}

/// Removes every stored response.
pub(super) async fn purge(State(state): State<Arc<AdminState>>) -> Result<Json<Value>, AdminError> {
    let cache = state.admin.gateway.current.load().cache.clone();
    let purged = off_thread(move || {
        let entries: u64 = cache.usage().values().map(|held| held.entries).sum();
        cache.purge();
        entries
    })
    .await?;
    tracing::info!(entries = purged, "the cache was purged");
    Ok(Json(json!({ "purged": purged })))
}
