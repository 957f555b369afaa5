//! The list of what does not work, collected from the rooms at the moment it is asked for.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::Admin;
use crate::{
    degraded::{Degradation, DegradedReason},
    keys::{KeyStatus, NoKey, Role, SourceContent, Verification},
    snapshot::Account,
    upstream::breaker,
};

/// How long a restarted rotation task is reported.
const REPORTED: SignedDuration = SignedDuration::from_hours(1);

/// Everything that does not work now.
pub(super) fn list(admin: &Admin) -> Vec<Degradation> {
    let mut list = Vec::new();
    let mut add = |reason, text: String| list.push(Degradation { reason, text });
    if let Some(failure) = admin.store.failure() {
        add(DegradedReason::StoreFailing, format!("state store: {failure}"));
    }
    if let Some(failure) = admin.gateway.live.orders.archive().failure() {
        add(DegradedReason::StoreFailing, format!("archive of ended orders: {failure}"));
    }
    for (service, orders) in admin.gateway.live.orders.full_services() {
        let text = format!(
            "services.{service}: {orders} orders are not over, so no other one is sent; settle the unknown ones"
        );
        add(DegradedReason::OrdersFull, text);
    }
    if admin.gateway.live.revoked.has_unstored() {
        let text = "keys: a revoked version is not stored yet: a restart would forget it";
        add(DegradedReason::RevocationUnstored, text.to_owned());
    }
    for log in admin.gateway.live.log.stalled().collect::<BTreeSet<_>>() {
        let text = format!("exchange log {log}: its output takes nothing; lines wait in memory");
        add(DegradedReason::LogFailing, text);
    }
    configuration(admin, &mut add);
    for account in &admin.gateway.current.load().accounts {
        let mut add = |reason, text: &str| add(reason, format!("accounts.{}: {text}", account.name));
        keys(&account.keys.status(), &mut add);
        upstream(account, &mut add);
    }
    list.extend(admin.gateway.live.degraded.list());
    list
}

fn configuration(admin: &Admin, add: &mut impl FnMut(DegradedReason, String)) {
    let gateway = &admin.gateway;
    if !gateway.reloaded_well() {
        let text = "configuration: the last reload failed; the previous one is in force";
        add(DegradedReason::ReloadRefused, text.to_owned());
    }
    for key in &gateway.in_force.load().waiting {
        add(DegradedReason::RestartPending, format!("configuration: {key} has changed and waits for a restart"));
    }
    for (listener, tls) in gateway.live.tls.each() {
        if tls.has_expired() {
            let text = format!("{listener} listener: its certificate has expired");
            add(DegradedReason::CertificateExpired, text);
        }
        if tls.fault().is_some() {
            let text = format!("{listener} listener: the new certificate cannot be used; the previous one is in use");
            add(DegradedReason::CertificateUnusable, text);
        }
    }
}

fn keys(keys: &KeyStatus, add: &mut impl FnMut(DegradedReason, &str)) {
    if let Some(no_key) = keys.no_key {
        let refused = matches!(no_key, NoKey::Refused { .. });
        let reason = if refused { DegradedReason::KeyPairRefused } else { DegradedReason::NoKeyPair };
        add(reason, &no_key.to_string());
    }
    if !keys.source.up {
        add(DegradedReason::KeySourceLost, "the key source cannot be read");
    }
    for pair in &keys.pairs {
        match (pair.role, pair.standing) {
            (Role::Current, Verification::Unverified) if keys.no_key.is_none() && pair.doubted => {
                let text = "the key pair in use is not verified, and Fastrac refuses requests that are signed with it";
                add(DegradedReason::KeyPairUnverified, text);
            }
            (Role::Current, Verification::Unverified) if keys.no_key.is_none() => {
                add(DegradedReason::KeyPairUnverified, "the key pair in use is not verified");
            }
            (Role::Candidate, Verification::Unverified) if keys.no_key.is_none() && pair.undecided => {
                let text = "the new key pair is not verified: Fastrac's response says neither yes nor no";
                add(DegradedReason::KeyPairUnverified, text);
            }
            _ => {}
        }
    }
    match keys.content {
        SourceContent::Refused if keys.pairs.iter().any(|pair| pair.role == Role::Candidate) => {
            add(DegradedReason::SourcePairUnusable, "Fastrac refuses the new key pair");
        }
        // It is the pair in use: forced, or of a lock-out.
        SourceContent::Refused => add(
            DegradedReason::SourcePairUnusable,
            "Fastrac refuses canaries with the pair in the key source: a restart could not use it",
        ),
        SourceContent::Revoked => add(
            DegradedReason::SourcePairUnusable,
            "the key source contains a pair that was revoked: the next start would have none",
        ),
        SourceContent::Incomplete => {
            add(DegradedReason::SourcePairUnusable, "the key source contains no complete pair")
        }
        SourceContent::Unknown | SourceContent::Usable => {}
    }
    if keys.restarted.is_some_and(|at| Timestamp::now().duration_since(at) < REPORTED) {
        add(DegradedReason::RotationFailed, "the task that keeps the key pairs current failed, and was restarted");
    }
}

fn upstream(account: &Account, add: &mut impl FnMut(DegradedReason, &str)) {
    for breaker in account.address.breakers.each() {
        let class = breaker.class().as_str();
        let text = match breaker.state() {
            breaker::State::Closed => continue,
            breaker::State::HalfOpen => "circuit breaker half-open: Fastrac was failing; probes are being sent",
            breaker::State::Open => "circuit breaker open: Fastrac is failing; requests are refused",
        };
        add(DegradedReason::BreakerOpen, &format!("{text} (class {class})"));
    }
    for breaker in account.address.breakers.each() {
        let text = match breaker.failures_in_a_row() {
            0 => continue,
            1 => "the last request to Fastrac failed".to_owned(),
            failures => format!("the last {failures} requests to Fastrac failed"),
        };
        add(DegradedReason::UpstreamFailing, &format!("{text} (class {})", breaker.class().as_str()));
    }
}
