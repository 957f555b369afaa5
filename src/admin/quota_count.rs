//! `/quota/count`: sets how much of today is used at least, after both records of the day counts were lost.
//!
//! What always holds: a count is never lowered; the response comes when the count is recorded, or says that it is not. Fails
//! with [`AdminError`].

use std::{sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::Deserialize;

use super::{
    AdminState,
    audit::AuditSubject,
    error::{AdminError, JsonBody},
    guard::TokenName,
    quota::{REASON_WITH_CREDENTIAL, is_reason},
    status::CountChange,
};
use crate::{admission::DayCounter, degraded::DegradedReason};

/// How long the ledger may take to record the count.
const RECORDED: Duration = Duration::from_secs(5);
/// Largest count.
const LARGEST: u64 = 1 << 50;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CountRequest {
    service: Option<String>,
    account: Option<String>,
    /// Units used today, at least.
    at_least: u64,
    reason: String,
}

/// Raises the day's count of a service or an account.
pub(super) async fn set(
    State(state): State<Arc<AdminState>>,
    Extension(TokenName(by)): Extension<TokenName>,
    Extension(subject): Extension<AuditSubject>,
    JsonBody(request): JsonBody<CountRequest>,
) -> Result<Json<CountChange>, AdminError> {
    let CountRequest { service, account, at_least, reason } = request;
    let invalid = |message: &str| AdminError::new(StatusCode::BAD_REQUEST, "quota.invalid", message);
    if !is_reason(reason.trim()) {
        return Err(invalid("`reason` must have 1 to 200 characters"));
    }
    if state.admin.gateway.current.load().recorder.holds_credential(&reason) {
        return Err(invalid(REASON_WITH_CREDENTIAL));
    }
    if at_least > LARGEST {
        return Err(invalid("`at_least` is too large"));
    }
    let counter = match (&service, &account) {
        (Some(service), None) => counter_of_service(&state, service),
        (None, Some(account)) => counter_of_account(&state, account),
        _ => return Err(invalid("give either `service` or `account`")),
    };
    let unknown = || {
        let message = "the configuration in force has no service or account of this name";
        AdminError::new(StatusCode::NOT_FOUND, "quota.service", message)
    };
    let counter = counter.ok_or_else(unknown)?;
    let used_before = counter.raise_to(at_least);
    let used_today = used_before.max(at_least);
    for (member, name) in [("service", &service), ("account", &account)] {
        if let Some(name) = name {
            subject.name(member, name.as_str());
        }
    }
    subject.name("used_today", used_today);
    subject.name("reason", reason.trim());
    tracing::warn!(service, account, by, used_before, used_today, reason, "an operator has set the count of the day");
    if !is_recorded(&counter).await {
        let message = "this counts, but could not be stored, so that it may be lost with a restart";
        return Err(AdminError::new(StatusCode::SERVICE_UNAVAILABLE, "quota.unstored", message));
    }
    if let Some(account) = &account {
        state.admin.gateway.live.degraded.withdraw(DegradedReason::DayCountsLost, account);
    }
    Ok(Json(CountChange { service, account, used_before, used_today }))
}

fn counter_of_service(state: &AdminState, name: &str) -> Option<Arc<DayCounter>> {
    let snapshot = state.admin.gateway.current.load();
    let index = snapshot.catalog.services.iter().position(|known| known.name == name)?;
    snapshot.quotas.get(index).map(|quota| quota.day().clone())
}

fn counter_of_account(state: &AdminState, name: &str) -> Option<Arc<DayCounter>> {
    let snapshot = state.admin.gateway.current.load();
    snapshot.accounts.iter().find(|known| known.name == name).map(|account| account.budget.day().clone())
}

async fn is_recorded(counter: &DayCounter) -> bool {
    let recorded = async {
        while !counter.is_leased() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(RECORDED, recorded).await.is_ok()
}
