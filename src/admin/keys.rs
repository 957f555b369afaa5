//! Commands about key pairs: read the source again, verify a pair with a canary, revoke a version.
//!
//! `rotate` and `verify` apply to one account or to all. They answer 200 if they succeeded for every such
//! account, else 409; both with the member `accounts`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    AdminState,
    audit::AuditSubject,
    error::{AdminError, JsonBody, given_text},
};
use crate::{
    keys::{PairVersion, Rotated, Verdict},
    snapshot::Account,
};

/// Maximum number of accounts that one line of the audit log names.
const AUDITED_ACCOUNTS: usize = 64;

/// How long a revocation waits for accounts that do not hold the version.
const OTHERS: Duration = Duration::from_secs(2);

/// The result for one account: success, and its JSON.
type AccountResult = (bool, Value);

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RotateRequest {
    /// Use a new pair without verifying it.
    force: bool,
    /// Absent: all accounts.
    #[serde(deserialize_with = "given_text")]
    account: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct VerifyRequest {
    /// Absent: all accounts.
    #[serde(deserialize_with = "given_text")]
    account: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RevokeRequest {
    /// Needed for a version that no account holds: in which one it is stored. It holds for all.
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
    respond(results, "not every account has a usable pair, and uses the one in its source")
}

fn rotated(rotated: Option<Rotated>) -> AccountResult {
    let (success, result, version, detail) = match rotated {
        Some(Rotated::Unchanged) => (true, "unchanged", None, None),
        Some(Rotated::LockedOut { version, next_canary }) => (false, "refused", version, Some(lock_out(next_canary))),
        Some(Rotated::Promoted(version)) => (true, "promoted", Some(version), None),
        Some(Rotated::Forced { version, fallback }) => (true, "promoted", Some(version), Some(forced(fallback))),
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

/// What follows from the use of a pair that is not verified.
fn forced(fallback: Option<PairVersion>) -> String {
    match fallback {
        Some(previous) => format!(
            "in use unverified: a canary that Fastrac refuses changes nothing; a request that it refuses is sent again with \
             {previous}, which is in use again if that is accepted"
        ),
        None => "in use unverified: a canary that Fastrac refuses changes nothing, unless Fastrac refuses requests too; there \
                 is no other pair to go back to"
            .to_owned(),
    }
}

fn lock_out(next_canary: Option<Instant>) -> String {
    let when = next_canary.map_or_else(
        || "is running".to_owned(),
        |due| format!("is due in {:.1} s", due.saturating_duration_since(Instant::now()).as_secs_f32()),
    );
    format!("Fastrac refuses every known key pair, and the source has no other; the next canary {when}")
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

/// Revokes a version, in every account.
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
    let owners = owners(&state, body.account.as_deref(), version)?;
    let names: Vec<&str> = owners.iter().map(|account| account.name.as_str()).collect();
    match names[..] {
        [name] => subject.name("account", name),
        _ => subject.name("accounts", names.clone()),
    }
    let revoked = &state.admin.gateway.live.revoked;
    owners.iter().for_each(|account| revoked.add(&account.name, version));
    let Some(known) = revoke_everywhere(&state, &owners, version).await else {
        let message = "an account was removed, or its address and key source were changed, at this moment; the version is not revoked there; try again";
        return Err(AdminError::new(StatusCode::SERVICE_UNAVAILABLE, "keys.unavailable", message));
    };
    subject.name("known", known);
    tracing::warn!(accounts = ?names, version = version.as_str(), known, "a key version was revoked");
    if let Err(why) = revoked.stored(version).await {
        let message = format!(
            "the version is revoked in memory, but that could not be stored ({why}), so that it ends with a restart; \
             storing it is tried again until it succeeds"
        );
        return Err(AdminError::new(StatusCode::SERVICE_UNAVAILABLE, "keys.unstored", message));
    }
    Ok(Json(json!({
        "account": names.join(", "),
        "accounts": names,
        "version": version.as_str(),
        "revoked": true,
        "known": known,
        "usable": owners.iter().all(|account| account.keys.status().no_key.is_none()),
    })))
}

/// Revokes a version in all accounts, since each may come to hold the pair: also in those that a reload adds meanwhile, and
/// for requests of those that it has removed. Says whether one of the `owners` knew it; `None`: the task of one has failed.
async fn revoke_everywhere(state: &AdminState, owners: &[Arc<Account>], version: PairVersion) -> Option<bool> {
    let owns = |account: &Arc<Account>| owners.iter().any(|owner| owner.name == account.name);
    let (mut told, mut known) = (BTreeSet::new(), false);
    loop {
        let mut accounts = state.admin.gateway.current.load().accounts.clone();
        accounts.extend(owners.iter().cloned());
        accounts.retain(|account| told.insert(Arc::as_ptr(&account.keys).addr()));
        if accounts.is_empty() {
            state.admin.gateway.live.revoked.tell_given_up(version);
            return Some(known);
        }
        let mut running = JoinSet::new();
        for account in accounts {
            let named = owns(&account);
            running.spawn(async move {
                let revoked = account.keys.revoke(version, named);
                // The others do it as soon as their task gets to it.
                let limit = if named { Duration::MAX } else { OTHERS };
                (named, timeout(limit, revoked).await.ok().flatten())
            });
        }
        for (named, was_known) in running.join_all().await {
            match was_known {
                Some(was_known) => known |= named && was_known,
                None if named => return None,
                None => {}
            }
        }
    }
}

/// The accounts that hold the version, and the one that is named.
fn owners(state: &AdminState, name: Option<&str>, version: PairVersion) -> Result<Vec<Arc<Account>>, AdminError> {
    let mut accounts = named(state, None)?;
    if let Some(name) = name {
        named(state, Some(name))?;
    }
    let only = accounts.len() == 1;
    accounts.retain(|account| only || name == Some(account.name.as_str()) || account.keys.holds(version));
    if accounts.is_empty() {
        let message = "no account holds the version: name an `account` to revoke it all the same";
        return Err(AdminError::new(StatusCode::BAD_REQUEST, "keys.account", message));
    }
    Ok(accounts)
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
