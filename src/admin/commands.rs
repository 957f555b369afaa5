//! Commands of operators, except those about keys: reload, purge of the cache.

use std::{collections::BTreeMap, io, sync::Arc};

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    AdminState,
    audit::AuditSubject,
    cache_status::walks,
    error::{AdminError, JsonBody, given_text, off_thread},
};
use crate::{
    cache::PurgeScope,
    config::{Class, check::Diagnostic},
    files::configuration::LoadError,
    gateway::{Gateway, ReloadError, Removals},
    record::RequestToShow,
    snapshot::Snapshot,
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

/// What is to be purged: everything for which all members hold. A member that a script has left empty is an error: it
/// would make the command mean more.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PurgeRequest {
    /// Absent: of all accounts.
    #[serde(deserialize_with = "given_text")]
    account: Option<String>,
    /// Name of an operation; absent: of all.
    #[serde(deserialize_with = "given_text")]
    operation: Option<String>,
    /// Text with which the path begins; absent: any path.
    #[serde(deserialize_with = "given_text")]
    path_prefix: Option<String>,
}

/// Removes the stored responses for which all that is given holds; if nothing is given, every one. Also from the disk.
pub(super) async fn purge(
    State(state): State<Arc<AdminState>>,
    Extension(subject): Extension<AuditSubject>,
    JsonBody(PurgeRequest { account, operation, path_prefix }): JsonBody<PurgeRequest>,
) -> Result<Json<Value>, AdminError> {
    let snapshot = state.admin.gateway.current.load_full();
    let scope = PurgeScope { account, operation, path_prefix };
    let PurgeScope { account, operation, path_prefix } = &scope;
    let unknown = |what: &str| {
        let message = format!("the configuration in force has no {what} of this name");
        AdminError::new(StatusCode::NOT_FOUND, "cache.unknown", message)
    };
    if account.as_ref().is_some_and(|name| !snapshot.accounts.iter().any(|known| known.name == *name)) {
        return Err(unknown("account"));
    }
    if operation.as_ref().is_some_and(|name| !snapshot.catalog.operations.iter().any(|known| known.name == *name)) {
        return Err(unknown("operation"));
    }
    if path_prefix.as_ref().is_some_and(|prefix| !prefix.starts_with('/') || prefix.contains(['?', '#'])) {
        let message = "`path_prefix` is the beginning of a path: it begins with a slash and has no query";
        return Err(AdminError::new(StatusCode::BAD_REQUEST, "cache.path_prefix", message));
    }
    subject.name("account", account.clone());
    subject.name("operation", operation.clone());
    // Also of a purge that finds nothing in the memory: it covers the disk, and what is being fetched.
    subject.name("path_prefix", path_prefix.as_deref().map(|prefix| masked(prefix, &snapshot)));
    let gateway = state.admin.gateway.clone();
    let purge = move || purge_within(&gateway, &scope);
    // Waits for the disk. Runs to its end even if the client has left.
    let removed = off_thread(purge).await?.map_err(|error| not_purged(&error))?;
    let entries: u64 = removed.values().sum();
    let operations: Value = removed.iter().map(|(name, entries)| (name.to_string(), json!(entries))).collect();
    subject.name("entries", entries);
    subject.name("operations", operations.clone());
    tracing::info!(entries, "stored responses were purged");
    Ok(Json(json!({ "purged": entries, "operations": operations })))
}

/// The beginning of a path as the exchange log would show it.
fn masked(path: &str, snapshot: &Snapshot) -> String {
    let (headers, method, body): (_, _, &[u8]) = (&HeaderMap::new(), "", b"");
    snapshot.recorder.shown(RequestToShow { class: Class::Unlisted, account: None, headers, method, path, body }).path
}

/// Purges entries on the disk, then in the memory, and returns their number by operation. Nothing is removed if the
/// disk fails: a restart would bring it back.
fn purge_within(gateway: &Gateway, scope: &PurgeScope) -> io::Result<BTreeMap<Arc<str>, u64>> {
    let (snapshot, file) = (gateway.current.load_full(), &gateway.live.snapshot_file);
    // From here on until its entries are gone, no snapshot includes it.
    let begun = file.begin_purge();
    match file.purge(&begun, scope) {
        Err(error) if gateway.in_force.load().config.cache.snapshot => return Err(error),
        // The next start restores nothing.
        Err(_) | Ok(()) => {}
    }
    let removed = snapshot.cache.purge_within(scope);
    drop(begun);
    if *scope != PurgeScope::default() {
        file.make_due();
    }
    Ok(removed)
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WarmRequest {
    /// Absent: all accounts.
    #[serde(deserialize_with = "given_text")]
    account: Option<String>,
}

/// Begins to walk the region tree of accounts of which no walk is under way, and reports all walks.
pub(super) async fn warm(
    State(state): State<Arc<AdminState>>,
    Extension(subject): Extension<AuditSubject>,
    JsonBody(WarmRequest { account }): JsonBody<WarmRequest>,
) -> Result<Json<Value>, AdminError> {
    let (snapshot, warmer) = (state.admin.gateway.current.load_full(), &state.admin.warmer);
    let names = snapshot.accounts.iter().map(|known| &known.name);
    let accounts: Vec<_> = names.filter(|name| account.as_ref().is_none_or(|wanted| wanted == *name)).collect();
    if accounts.is_empty() {
        let message = "the configuration in force has no account of this name";
        return Err(AdminError::new(StatusCode::NOT_FOUND, "cache.unknown", message));
    }
    let begun: Vec<_> = accounts.iter().filter(|name| warmer.begin(name)).collect();
    subject.name("accounts", json!(accounts));
    subject.name("begun", json!(begun));
    tracing::info!(accounts = ?begun, "walks of the region tree have begun");
    Ok(Json(json!({ "begun": begun, "walks": walks(warmer) })))
}

fn not_purged(error: &io::Error) -> AdminError {
    let message = format!(
        "nothing was purged: the cache's snapshot in state.dir cannot be changed ({error}), and a restart would bring back \
         what it holds; purge again once the disk works, or after a reload with cache.snapshot = false"
    );
    AdminError::new(StatusCode::INTERNAL_SERVER_ERROR, "cache.snapshot", message)
}
