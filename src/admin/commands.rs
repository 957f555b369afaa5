//! Commands of operators, except those about keys: reload, cache purge.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    AdminState,
    audit::AuditSubject,
    error::{AdminError, JsonBody, off_thread},
};
use crate::{
    config::check::Diagnostic,
    files::configuration::LoadError,
    gateway::{ReloadError, Removals},
};

/// Errors of a configuration in one response; its message has their number.
const MAX_FAULTS: usize = 1_000;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ReloadRequest {
    /// Whatever the new configuration removes.
    confirm_removals: bool,
}

/// Reads the configuration file again: 200, with the keys that wait for a restart; or 422 with every error, or 409 if
/// removals must be confirmed, and then nothing has changed.
pub(super) async fn reload(
    State(state): State<Arc<AdminState>>,
    Extension(subject): Extension<AuditSubject>,
    JsonBody(request): JsonBody<ReloadRequest>,
) -> Result<Json<Value>, AdminError> {
    subject.name("confirm_removals", request.confirm_removals);
    let gateway = state.admin.gateway.clone();
    let reload = move || if request.confirm_removals { gateway.reload_confirmed() } else { gateway.reload() };
    // Reads files. Runs to its end even if the client has left.
    off_thread(reload).await?.map_err(|error| reload_error(&error))?;
    let in_force = state.admin.gateway.in_force.load();
    let (hash, waiting) = (&in_force.config.hash, &in_force.waiting);
    subject.name("config", hash.as_str());
    Ok(Json(json!({ "reloaded": true, "config": { "hash": hash }, "waits_for_restart": waiting })))
}

fn reload_error(error: &ReloadError) -> AdminError {
    let (code, faults) = match error {
        ReloadError::Removals(Removals { accounts, services, .. }) => {
            let removed = json!({ "accounts": accounts, "services": services });
            return AdminError::new(StatusCode::CONFLICT, "config.removals", error.to_string())
                .with("removes", removed);
        }
        ReloadError::Busy => {
            return AdminError::new(StatusCode::SERVICE_UNAVAILABLE, "config.busy", error.to_string());
        }
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
    json!({ "place": found.key, "file": found.file, "line": found.line, "message": found.message })
}

fn single(error: &ReloadError) -> Vec<Value> {
    vec![json!({ "place": null, "line": null, "message": error.to_string() })]
}

/// Removes every stored response.
pub(super) async fn purge(
    State(state): State<Arc<AdminState>>,
    Extension(subject): Extension<AuditSubject>,
) -> Result<Json<Value>, AdminError> {
    let cache = state.admin.gateway.current.load().cache.clone();
    let purged = off_thread(move || {
        let entries: u64 = cache.usage().values().map(|held| held.entries).sum();
        cache.purge();
        entries
    })
    .await?;
    subject.name("entries", purged);
    tracing::info!(entries = purged, "the cache was purged");
    Ok(Json(json!({ "purged": purged })))
}
