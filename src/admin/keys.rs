//! Key pairs: read the source again, ask Fastrac about a pair, bar a version.
//!
//! `rotate` and `verify` concern one account or all of them. They answer 200 when every account asked
//! about came out well, and 409 with the same `accounts` otherwise.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::{
    Desk,
    answer::{Fault, Wanted},
};
use crate::{
    keys::{Rotated, Verdict, Version},
    snapshot::Account,
};

/// What came of one account: whether it is well, and the words for it.
type Outcome = (bool, Value);

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Rotate {
    /// Take a new pair without asking Fastrac.
    force: bool,
    /// All, where it is absent.
    account: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Verify {
    /// All, where it is absent.
    account: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Revoke {
    /// May be absent where there is one account only, or one only that holds the version.
    account: Option<String>,
    version: String,
}

/// Reads the sources now.
pub(super) async fn rotate(
    State(desk): State<Arc<Desk>>,
    Wanted(wanted): Wanted<Rotate>,
) -> Result<Json<Value>, Fault> {
    let accounts = named(&desk, wanted.account.as_deref())?;
    let force = wanted.force;
    let asked = each(accounts, move |account| async move { rotated(account.keys.rotate(force).await) }).await;
    answer(asked, "not every account uses what its source holds")
}

fn rotated(rotated: Option<Rotated>) -> Outcome {
    let (well, word, version, detail) = match rotated {
        Some(Rotated::Unchanged) => (true, "unchanged", None, None),
        Some(Rotated::Promoted(version)) => (true, "promoted", Some(version), None),
        Some(Rotated::Refused(version)) => (false, "refused", Some(version), None),
        Some(Rotated::Undecided(version)) => (false, "undecided", Some(version), None),
        Some(Rotated::Revoked(version)) => (false, "revoked", Some(version), None),
        Some(Rotated::Fault(fault)) => (false, "fault", None, Some(fault)),
        None => (false, "fault", None, Some("the account's rotation has ended".to_owned())),
    };
    let mut said = json!({ "result": word });
    if let Some(version) = version {
        said["version"] = version.as_str().into();
    }
    if let Some(detail) = detail {
        said["detail"] = detail.into();
    }
    (well, said)
}

/// Asks Fastrac about the candidates, or the pairs in use where there is none.
pub(super) async fn verify(
    State(desk): State<Arc<Desk>>,
    Wanted(wanted): Wanted<Verify>,
) -> Result<Json<Value>, Fault> {
    let accounts = named(&desk, wanted.account.as_deref())?;
    let asked = each(accounts, |account| async move { verified(account.keys.verify().await) }).await;
    answer(asked, "not every account has a pair that Fastrac accepts")
}

fn verified(verified: Option<(Version, Verdict)>) -> Outcome {
    let Some((version, verdict)) = verified else { return (false, json!({ "result": "no_pair" })) };
    let word = match verdict {
        Verdict::Verified => "verified",
        Verdict::Refused => "refused",
        Verdict::Undecided => "undecided",
    };
    (verdict == Verdict::Verified, json!({ "result": word, "version": version.as_str() }))
}

/// Bars a version.
pub(super) async fn revoke(
    State(desk): State<Arc<Desk>>,
    Wanted(wanted): Wanted<Revoke>,
) -> Result<Json<Value>, Fault> {
    let version: Version = wanted.version.parse().map_err(|_| {
        let message = "`version` must be the eight hexadecimal digits that /status shows";
        Fault::new(StatusCode::BAD_REQUEST, "keys.version", message)
    })?;
    let account = owner(&desk, wanted.account.as_deref(), version)?;
    account.keys.revoke(version).await;
    let status = account.keys.status();
    if !status.revoked.contains(&version) {
        let message = "the account's rotation has ended; the version is not barred";
        return Err(Fault::new(StatusCode::SERVICE_UNAVAILABLE, "keys.unavailable", message));
    }
    tracing::warn!(account = account.name, version = version.as_str(), "a key version was revoked");
    Ok(Json(json!({
        "account": account.name,
        "version": version.as_str(),
        "revoked": true,
        "usable": status.no_key.is_none(),
    })))
}

/// The account whose version is meant.
fn owner(desk: &Desk, name: Option<&str>, version: Version) -> Result<Arc<Account>, Fault> {
    let mut accounts = named(desk, name)?;
    if accounts.len() > 1 {
        accounts.retain(|account| account.keys.status().pairs.iter().any(|pair| pair.version == version));
    }
    match <[_; 1]>::try_from(accounts) {
        Ok([account]) => Ok(account),
        Err(_) => {
            let message = "name the `account`: not exactly one holds this version";
            Err(Fault::new(StatusCode::BAD_REQUEST, "keys.account", message))
        }
    }
}

/// The account of this name, or all.
fn named(desk: &Desk, name: Option<&str>) -> Result<Vec<Arc<Account>>, Fault> {
    let snapshot = desk.admin.gateway.current.load();
    let Some(name) = name else { return Ok(snapshot.accounts.clone()) };
    let found = snapshot.accounts.iter().find(|account| account.name == name);
    found.map(|account| vec![account.clone()]).ok_or_else(|| {
        Fault::new(StatusCode::NOT_FOUND, "keys.account", "the configuration in force has no account of this name")
    })
}

/// Asks all at once: each may wait for a canary.
async fn each<F>(accounts: Vec<Arc<Account>>, ask: impl Fn(Arc<Account>) -> F) -> Vec<(String, Outcome)>
where
    F: Future<Output = Outcome> + Send + 'static,
{
    let mut asked = JoinSet::new();
    for account in accounts {
        let (name, asking) = (account.name.clone(), ask(account));
        asked.spawn(async move { (name, asking.await) });
    }
    let mut outcomes = asked.join_all().await;
    outcomes.sort_by(|(a, _), (b, _)| a.cmp(b));
    outcomes
}

fn answer(outcomes: Vec<(String, Outcome)>, otherwise: &'static str) -> Result<Json<Value>, Fault> {
    let well = outcomes.iter().all(|(_, (well, _))| *well);
    let accounts: Map<String, Value> = outcomes.into_iter().map(|(name, (_, said))| (name, said)).collect();
    if well {
        return Ok(Json(json!({ "accounts": accounts })));
    }
    Err(Fault::new(StatusCode::CONFLICT, "keys.not_well", otherwise).with("accounts", Value::Object(accounts)))
}
