//! Commands about key pairs: read the source again, verify a pair with a canary, revoke a version.
//!
//! `rotate` and `verify` apply to one account or to all. They answer 200 if they succeeded for every such
//! account, else 409; both with the member `accounts`.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::{
    AdminState,
    audit::AuditSubject,
    error::{AdminError, JsonBody},
};
use crate::{
    keys::{PairVersion, Revocation, Rotated, Verdict},
    snapshot::Account,
};

/// Maximum number of accounts that one line of the audit log names.
const AUDITED_ACCOUNTS: usize = 64;

/// The result for one account: success, and its JSON.
type AccountResult = (bool, Value);

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RotateRequest {
    /// Use a new pair without verifying it.
    force: bool,
    /// Absent: all accounts.
    account: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct VerifyRequest {
    /// Absent: all accounts.
    account: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RevokeRequest {
    /// May be absent if there is only one account, or only one that holds the version.
    account: Option<String>,
    version: String,
}

/// Reads the key sources now.
pub(super) async fn rotate(
    State(state): State<Arc<AdminState>>,
    Extension(subject): Extension<AuditSubject>,
    JsonBody(body): JsonBody<RotateRequest>,
) -> Result<Json<Value>, AdminError> {
    let accounts = named(&state, body.account.as_deref())?;
    let force = body.force;
    subject.name("force", force);
    let results = each(accounts, move |account| async move { rotated(account.keys.rotate(force).await) }).await;
    name_results(&subject, &results);
    respond(results, "not every account uses what its source holds")
}

fn rotated(rotated: Option<Rotated>) -> AccountResult {
    let (success, result, version, detail) = match rotated {
        Some(Rotated::Unchanged) => (true, "unchanged", None, None),
        Some(Rotated::Promoted(version)) => (true, "promoted", Some(version), None),
        Some(Rotated::Refused(version)) => (false, "refused", Some(version), None),
        Some(Rotated::Undecided(version)) => (false, "undecided", Some(version), None),
        Some(Rotated::Revoked(version)) => (false, "revoked", Some(version), None),
        Some(Rotated::Fault(fault)) => (false, "fault", None, Some(fault)),
        None => (false, "fault", None, Some("the rotation task of the account has ended".to_owned())),
    };
    let mut json = json!({ "result": result });
    if let Some(version) = version {
        json["version"] = version.as_str().into();
    }
    if let Some(detail) = detail {
        json["detail"] = detail.into();
    }
    (success, json)
}

/// Verifies the candidates, or the pairs in use where there is no candidate.
pub(super) async fn verify(
    State(state): State<Arc<AdminState>>,
    Extension(subject): Extension<AuditSubject>,
    JsonBody(body): JsonBody<VerifyRequest>,
) -> Result<Json<Value>, AdminError> {
    let accounts = named(&state, body.account.as_deref())?;
    let results = each(accounts, |account| async move { verified(account.keys.verify().await) }).await;
    name_results(&subject, &results);
    respond(results, "not every account has a pair that Fastrac accepts")
}

fn verified(verified: Option<(PairVersion, Verdict)>) -> AccountResult {
    let Some((version, verdict)) = verified else { return (false, json!({ "result": "no_pair" })) };
    let result = match verdict {
        Verdict::Verified => "verified",
        Verdict::Refused => "refused",
        Verdict::Undecided => "undecided",
    };
    (verdict == Verdict::Verified, json!({ "result": result, "version": version.as_str() }))
}

/// Revokes a version.
pub(super) async fn revoke(
    State(state): State<Arc<AdminState>>,
    Extension(subject): Extension<AuditSubject>,
    JsonBody(body): JsonBody<RevokeRequest>,
) -> Result<Json<Value>, AdminError> {
    let version: PairVersion = body.version.parse().map_err(|_| {
        let message = "`version` must be the eight hexadecimal digits that /status shows";
        AdminError::new(StatusCode::BAD_REQUEST, "keys.version", message)
    })?;
    subject.name("version", version.as_str());
    let account = owner(&state, body.account.as_deref(), version)?;
    subject.name("account", account.name.as_str());
    let Some(Revocation { known, stored }) = account.keys.revoke(version).await else {
        let message = "the account was removed, or its address and key source were changed, at this moment; the version is not revoked; try again";
        return Err(AdminError::new(StatusCode::SERVICE_UNAVAILABLE, "keys.unavailable", message));
    };
    subject.name("known", known);
    tracing::warn!(account = account.name, version = version.as_str(), known, "a key version was revoked");
    if let Err(why) = stored {
        let message = format!(
            "the version is revoked in memory, but that could not be stored ({why}), so that it ends with a restart; \
             storing it is tried again until it succeeds"
        );
        return Err(AdminError::new(StatusCode::SERVICE_UNAVAILABLE, "keys.unstored", message));
    }
    Ok(Json(json!({
        "account": account.name,
        "version": version.as_str(),
        "revoked": true,
        "known": known,
        "usable": account.keys.status().no_key.is_none(),
    })))
}

/// The account that the version belongs to.
fn owner(state: &AdminState, name: Option<&str>, version: PairVersion) -> Result<Arc<Account>, AdminError> {
    let mut accounts = named(state, name)?;
    if accounts.len() > 1 {
        accounts.retain(|account| account.keys.status().pairs.iter().any(|pair| pair.version == version));
    }
    match <[_; 1]>::try_from(accounts) {
        Ok([account]) => Ok(account),
        Err(_) => {
            let message = "name the `account`: the version is held by none, or by more than one";
            Err(AdminError::new(StatusCode::BAD_REQUEST, "keys.account", message))
        }
    }
}

/// The account of this name, or all accounts.
fn named(state: &AdminState, name: Option<&str>) -> Result<Vec<Arc<Account>>, AdminError> {
    let snapshot = state.admin.gateway.current.load();
    let Some(name) = name else { return Ok(snapshot.accounts.clone()) };
    let found = snapshot.accounts.iter().find(|account| account.name == name);
    found.map(|account| vec![account.clone()]).ok_or_else(|| {
        AdminError::new(StatusCode::NOT_FOUND, "keys.account", "the configuration in force has no account of this name")
    })
}

/// Runs a command for all accounts at once, because each may wait for a canary.
async fn each<F>(accounts: Vec<Arc<Account>>, run: impl Fn(Arc<Account>) -> F) -> Vec<(String, AccountResult)>
where
    F: Future<Output = AccountResult> + Send + 'static,
{
    let mut running = JoinSet::new();
    for account in accounts {
        let (name, result) = (account.name.clone(), run(account));
        running.spawn(async move { (name, result.await) });
    }
    let mut results = running.join_all().await;
    results.sort_by(|(a, _), (b, _)| a.cmp(b));
    results
}

/// What came of it for each account, for the audit log.
fn name_results(subject: &AuditSubject, results: &[(String, AccountResult)]) {
    let brief = |(_, json): &AccountResult| {
        let words = ["result", "version"].map(|name| json[name].as_str()).into_iter().flatten();
        words.collect::<Vec<_>>().join(" ")
    };
    let accounts = results.iter().take(AUDITED_ACCOUNTS).map(|(name, result)| (name.clone(), brief(result).into()));
    subject.name("accounts", accounts.collect::<Map<String, Value>>());
}

fn respond(results: Vec<(String, AccountResult)>, failure: &'static str) -> Result<Json<Value>, AdminError> {
    let success = results.iter().all(|(_, (success, _))| *success);
    let accounts: Map<String, Value> = results.into_iter().map(|(name, (_, json))| (name, json)).collect();
    if success {
        return Ok(Json(json!({ "accounts": accounts })));
    }
    Err(AdminError::new(StatusCode::CONFLICT, "keys.not_well", failure).with("accounts", Value::Object(accounts)))
}
