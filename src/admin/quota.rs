//! `/quota`: what is left of the quotas and who spends the budgets; and overrides, which change a quota for a time.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{Query, State},
    http::StatusCode,
};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::{
    AdminState,
    audit::AuditSubject,
    error::{AdminError, JsonBody},
    guard::TokenName,
    status::{QuotaChange, QuotaPage},
};
use crate::{
    admission::QuotaOverride,
    gateway::{NotOverridden, Overrides, SetOverride},
};

/// Longest override.
const LONGEST: Duration = Duration::from_hours(30 * 24);
/// Shortest override.
const SHORTEST: Duration = Duration::from_secs(1);
/// Longest reason, in characters. It is part of refusals.
const REASON_MAX: usize = 200;

/// Refuses a reason that would show a credential to callers, in the log and on the disk.
pub(super) const REASON_WITH_CREDENTIAL: &str = "`reason` contains a credential: leave it out";

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct QuotaQuery {
    /// Absent: all services.
    service: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct QuotaRequest {
    service: String,
    per_day: Option<u64>,
    per_second: Option<u32>,
    /// Refuses every request of the service.
    block: bool,
    /// Ends the override.
    clear: bool,
    /// A duration such as `2h`.
    r#for: Option<String>,
    reason: String,
}

/// What is left, and who uses it.
pub(super) async fn show(
    State(state): State<Arc<AdminState>>,
    Query(query): Query<QuotaQuery>,
) -> Result<Json<QuotaPage>, AdminError> {
    QuotaPage::of(&state, query.service.as_deref()).map(Json).ok_or_else(unknown_service)
}

/// Sets or ends an override.
pub(super) async fn set(
    State(state): State<Arc<AdminState>>,
    Extension(TokenName(by)): Extension<TokenName>,
    Extension(subject): Extension<AuditSubject>,
    JsonBody(request): JsonBody<QuotaRequest>,
) -> Result<Json<QuotaChange>, AdminError> {
    let now = Overrides::now();
    let set = wanted(&request, now)?.map(|limits| SetOverride { limits, by: by.clone(), since: now });
    let (service, reason) = (&request.service, request.reason.trim());
    if state.admin.gateway.current.load().recorder.holds_credential(reason) {
        return Err(AdminError::new(StatusCode::BAD_REQUEST, "quota.invalid", REASON_WITH_CREDENTIAL));
    }
    let gateway = &state.admin.gateway;
    let changed = gateway.override_quota(&request.service, set.as_ref());
    if !matches!(changed, Err(NotOverridden::UnknownService)) {
        subject.name("service", service.as_str());
    }
    subject.name("reason", reason);
    let changed = changed.map_err(not_overridden)?;
    let replaced = changed.replaced;
    match &set {
        Some(SetOverride { limits, .. }) => {
            let QuotaOverride { second, day, block, until, .. } = limits;
            subject.name("per_second", *second);
            subject.name("per_day", *day);
            subject.name("block", *block);
            subject.name("until", until.to_string());
            tracing::warn!(service, by, second, day, block, %until, reason, "an operator has changed a quota");
        }
        None => tracing::warn!(service, by, reason, "an operator has ended the change of a quota"),
    }
    if let Some(replaced) = &replaced {
        subject.name("replaced", replaced.to_string());
        tracing::warn!(service, %replaced, "the change of the quota before ends with that");
    }
    if let Err(why) = changed.written.await {
        let message = format!("this is in force, but could not be stored ({why}), so that it ends with a restart");
        return Err(AdminError::new(StatusCode::SERVICE_UNAVAILABLE, "quota.unstored", message));
    }
    QuotaChange::of(&state, &request.service, replaced).map(Json).ok_or_else(unknown_service)
}

/// The limits that a request asks for; `None`: it ends the override.
fn wanted(request: &QuotaRequest, now: Timestamp) -> Result<Option<QuotaOverride>, AdminError> {
    let invalid = |message: &str| AdminError::new(StatusCode::BAD_REQUEST, "quota.invalid", message);
    let reason = request.reason.trim();
    if !is_reason(reason) {
        return Err(invalid("`reason` must have 1 to 200 characters: callers that are refused see it"));
    }
    let changes = request.per_day.is_some() || request.per_second.is_some();
    if request.clear {
        let alone = !changes && !request.block && request.r#for.is_none();
        return if alone { Ok(None) } else { Err(invalid("`clear` ends an override: give only a reason with it")) };
    }
    if changes == request.block {
        return Err(invalid("give `per_day` or `per_second` or both, or else `block`"));
    }
    if request.per_day == Some(0) || request.per_second == Some(0) {
        return Err(invalid("a limit must be above zero; `block` refuses everything"));
    }
    let time = request.r#for.as_deref().and_then(|text| humantime::parse_duration(text).ok());
    let time = time.filter(|time| (SHORTEST..=LONGEST).contains(time));
    let time = time.ok_or_else(|| invalid("`for` must be a duration of 1 s to 30 d, such as \"2h\""))?;
    let until = SignedDuration::try_from(time).ok().and_then(|time| now.checked_add(time).ok());
    Ok(Some(QuotaOverride {
        second: request.per_second,
        day: request.per_day,
        block: request.block,
        until: until.ok_or_else(|| invalid("`for` is too long"))?,
        reason: reason.into(),
    }))
}

pub(super) fn is_reason(text: &str) -> bool {
    (1..=REASON_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

fn not_overridden(why: NotOverridden) -> AdminError {
    match why {
        NotOverridden::UnknownService => unknown_service(),
        NotOverridden::Blocked(block) => {
            let message = format!("the service is {block}; end that first (`clear`, on the command line --clear)");
            AdminError::new(StatusCode::CONFLICT, "quota.blocked", message)
        }
    }
}

fn unknown_service() -> AdminError {
    let message = "the configuration in force has no service of this name";
    AdminError::new(StatusCode::NOT_FOUND, "quota.service", message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_override_has_limits_or_blocks_and_a_bounded_time_and_a_reason() {
        let now = Timestamp::now();
        let wanted = |body: serde_json::Value| wanted(&serde_json::from_value(body).unwrap(), now);
        for good in [
            json!({"service": "a", "per_day": 1, "for": "30d", "reason": "x"}),
            json!({"service": "a", "per_second": 5, "per_day": 9, "for": "1s", "reason": " x "}),
            json!({"service": "a", "block": true, "for": "2h", "reason": "x"}),
        ] {
            assert!(wanted(good.clone()).unwrap().is_some_and(|set| set.until > now && &*set.reason == "x"), "{good}");
        }
        assert_eq!(wanted(json!({"service": "a", "clear": true, "reason": "x"})).unwrap(), None);
        for bad in [
            json!({"service": "a", "per_day": 1, "for": "2h"}),
            json!({"service": "a", "per_day": 1, "for": "2h", "reason": "a\nb"}),
            json!({"service": "a", "per_day": 1, "for": "2h", "reason": "x".repeat(201)}),
            json!({"service": "a", "per_day": 1, "reason": "x"}),
            json!({"service": "a", "per_day": 1, "for": "31d", "reason": "x"}),
            json!({"service": "a", "per_day": 1, "for": "999ms", "reason": "x"}),
            json!({"service": "a", "per_day": 1, "for": "soon", "reason": "x"}),
            json!({"service": "a", "per_day": 0, "for": "2h", "reason": "x"}),
            json!({"service": "a", "per_day": 1, "block": true, "for": "2h", "reason": "x"}),
            json!({"service": "a", "for": "2h", "reason": "x"}),
            json!({"service": "a", "clear": true, "for": "2h", "reason": "x"}),
        ] {
            assert!(wanted(bad.clone()).is_err(), "{bad}");
        }
    }
}
