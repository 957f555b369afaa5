//! `/config`: the configuration in force, with every default, in the notation of the file.
//!
//! Written out member by member, so that a new field is not shown until it is added here.
//! Left out: digests, the services' access keys, the vault's role id. A credential or token is shown by a fingerprint, so
//! that one sees that it was replaced.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::AdminState;
use crate::config::{
    AccountConfig, AdminTokenConfig, Config, CredentialConfig, Endpoint, KeySource, LimitsConfig, LogTarget,
    OperationConfig, Rate, ServerTlsConfig, ServiceConfig, VaultAuth, VaultConfig,
};

pub(super) async fn config(State(state): State<Arc<AdminState>>) -> Json<Value> {
    Json(effective(&state.admin.gateway.in_force.load().config))
}

/// A configuration with every default.
pub(crate) fn effective(config: &Config) -> Value {
    let Config {
        include,
        listen,
        admin,
        state,
        orders,
        reload,
        log,
        limits,
        vault,
        accounts,
        services,
        cache,
        operations,
        hash,
    } = config;
    json!({
        "hash": hash,
        "include": include,
        "listen": {
            "data": listen.data,
            "admin": listen.admin,
            "workers": listen.workers,
            "tls": listen.tls.as_ref().map(tls),
            "admin_tls": listen.admin_tls.as_ref().map(tls),
        },
        "admin": {
            "tokens": admin.tokens.iter().map(token).collect::<Vec<_>>(),
            "hosts": admin.hosts,
        },
        "state": { "dir": state.dir },
        "orders": {
            "remember": span(orders.remember),
            "undelivered": span(orders.undelivered),
            "reconcile": span(orders.reconcile),
        },
        "reload": { "watch": reload.watch, "removals": reload.removals },
        "log": {
            "exchanges": match &log.exchanges {
                LogTarget::File(path) => json!(path),
                LogTarget::Stdout => json!("stdout"),
                LogTarget::None => json!("none"),
            },
            "bodies": log.bodies,
            "keep": { "size": size(log.keep_size), "days": log.keep_days },
            "on_full": log.on_full,
            "mask": log.mask,
        },
        "limits": limits_section(limits),
        "vault": vault.as_ref().map(vault_section),
        "accounts": by_name(accounts.iter().map(|it| (&it.name, account(it)))),
        "services": by_name(services.iter().map(|it| (&it.name, service(it, accounts)))),
        "cache": { "memory": size(cache.memory), "snapshot": cache.snapshot, "warm": cache.warm.map(span) },
        "operations": by_name(operations.iter().map(|it| (&it.name, operation(it)))),
    })
}

fn limits_section(limits: &LimitsConfig) -> Value {
    json!({
        "request_body": size(limits.request_body as u64),
        "answer_body": size(limits.answer_body as u64),
        "answer_buffer": size(limits.answer_buffer as u64),
        "header_read": span(limits.header_read),
        "idle": span(limits.idle),
        "request": span(limits.request),
        "connections": limits.connections,
        "memory": size(limits.memory as u64),
        "drain_grace": span(limits.drain_grace),
        "drain": span(limits.drain),
    })
}

fn by_name<'a>(named: impl Iterator<Item = (&'a String, Value)>) -> Map<String, Value> {
    named.map(|(name, value)| (name.clone(), value)).collect()
}

fn tls(tls: &ServerTlsConfig) -> Value {
    json!({ "cert": tls.cert, "key": tls.key, "client_ca": tls.client_ca, "client_auth": tls.client_auth })
}

fn vault_section(vault: &VaultConfig) -> Value {
    let auth = match &vault.auth {
        VaultAuth::Token { token_file } => json!({ "method": "token", "token_file": token_file }),
        VaultAuth::AppRole { mount, role_id: _, secret_id_file } => {
            json!({ "method": "approle", "mount": mount, "secret_id_file": secret_id_file })
        }
        VaultAuth::Kubernetes { mount, role, token_file } => {
            json!({ "method": "kubernetes", "mount": mount, "role": role, "token_file": token_file })
        }
        VaultAuth::Jwt { mount, role, token_file } => {
            json!({ "method": "jwt", "mount": mount, "role": role, "token_file": token_file })
        }
        VaultAuth::Cert { mount, name, cert, key } => {
            json!({ "method": "cert", "mount": mount, "name": name, "cert": cert, "key": key })
        }
    };
    json!({
        "address": vault.address,
        "ca": vault.ca,
        "namespace": vault.namespace,
        "poll": span(vault.poll),
        "auth": auth,
    })
}

fn account(account: &AccountConfig) -> Value {
    let keys = match &account.keys {
        KeySource::File { path, identity } => json!({ "source": "file", "path": path, "identity": identity }),
        KeySource::Directory { path } => json!({ "source": "directory", "path": path }),
        KeySource::Vault { mount, path, sealed_copy } => {
            let copy = sealed_copy.as_ref().map(|copy| json!({ "path": copy.path, "identity": copy.identity }));
            json!({ "source": "vault", "mount": mount, "path": path, "sealed_copy": copy })
        }
        KeySource::Env { access_key, secret_key } => {
            json!({ "source": "env", "access_key": access_key, "secret_key": secret_key })
        }
    };
    let (rotation, budget, breaker) = (&account.rotation, &account.budget, &account.breaker);
    json!({
        "base": endpoint(&account.base),
        "v1": endpoint(&account.v1),
        "v2": endpoint(&account.v2),
        "ca": account.ca,
        "proxy": account.proxy.as_ref().map(ToString::to_string),
        "keys": keys,
        "rotation": {
            "overlap": span(rotation.overlap),
            "max_age": span(rotation.max_age),
            "resend_orders": rotation.resend_orders,
        },
        "verify": account.verify,
        "budget": {
            "per_second": budget.second.map(|rate| rate.per_second),
            "burst": budget.second.map(|rate| rate.burst),
            "per_day": budget.day,
            "in_flight": budget.in_flight,
            "max_wait": span(budget.max_wait),
            "pace": budget.pace,
        },
        "day_zone": zone(&account.day_zone),
        "breaker": {
            "window": span(breaker.window),
            "minimum": breaker.minimum,
            "failures": breaker.failures,
            "open": span(breaker.open),
            "probes": breaker.probes,
            "slow": breaker.slow.map(|slow| json!({ "after": span(slow.after), "part": slow.part })),
        },
        "retries": account.retries,
        "messages": {
            "not_found": account.messages.not_found,
            "key": account.messages.key,
            "limit": account.messages.limit,
        },
    })
}

fn endpoint(endpoint: &Endpoint) -> Value {
    json!({ "base_url": endpoint.to_string(), "auth": endpoint.auth.as_str() })
}

fn service(service: &ServiceConfig, accounts: &[AccountConfig]) -> Value {
    let rate: Option<Rate> = service.quota.second;
    json!({
        "account": accounts.get(service.account).map(|account| &account.name),
        "priority": service.priority,
        "quota": {
            "per_second": rate.map(|rate| rate.per_second),
            "burst": rate.map(|rate| rate.burst),
            "per_day": service.quota.day,
            "enforce": service.quota.enforce,
        },
        "share": service.share,
        "allow": { "classes": service.allow_classes, "operations": service.allow_operations },
        "credentials": service.credentials.iter().map(credential).collect::<Vec<_>>(),
        "identities": service.identities,
        "charge_hits": { "second": service.charge_hits_second, "day": service.charge_hits_day },
        "force_refresh": service.force_refresh,
    })
}

fn credential(credential: &CredentialConfig) -> Value {
    json!({
        "fingerprint": fingerprint(&credential.access_key, &credential.secret_sha256),
        "expires": credential.expires.map(|expires| expires.last_day.to_string()),
    })
}

fn token(token: &AdminTokenConfig) -> Value {
    json!({ "name": token.name, "role": token.role, "fingerprint": fingerprint(&token.name, &token.sha256) })
}

/// Too short to be a digest of anything, long enough to differ.
fn fingerprint(name: &str, digest: &[u8; 32]) -> String {
    let digest = Sha256::new().chain_update(name).chain_update([0]).chain_update(digest).finalize();
    hex::encode(&digest[..4])
}

fn operation(operation: &OperationConfig) -> Value {
    let cache = operation.cache.as_ref().map(|cache| {
        json!({
            "fresh": span(cache.fresh),
            "stale_if_error": span(cache.stale_if_error),
            "refresh_ahead": cache.refresh_ahead,
            "not_found": span(cache.not_found),
        })
    });
    json!({
        "api": operation.api,
        "method": operation.method,
        "path": operation.path,
        "aliases": operation.aliases,
        "class": operation.class,
        "cache": cache,
        "timeout": span(operation.timeout),
        "cost": operation.cost,
        "urgent": operation.urgent,
        "vary": operation.vary,
    })
}

fn zone(zone: &TimeZone) -> Option<&str> {
    zone.iana_name()
}

/// A duration in the notation of the file: the largest unit without a remainder.
fn span(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let fits = units.into_iter().find(|(unit, _)| millis >= *unit && millis.is_multiple_of(*unit));
    fits.map_or_else(|| format!("{millis}ms"), |(unit, name)| format!("{}{name}", millis / unit))
}

/// A size in the notation of the file: the largest unit without a remainder.
fn size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let fits = units.into_iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    fits.map_or_else(|| format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_are_read_back_as_they_were() {
        for (millis, text) in [(0, "0ms"), (250, "250ms"), (90_000, "90s"), (86_400_000, "1d"), (7_200_000, "2h")] {
            let duration = Duration::from_millis(millis);
            assert_eq!(span(duration), text);
            assert_eq!(humantime::parse_duration(text).unwrap(), duration);
        }
        for (bytes, text) in [(1 << 20, "1MiB"), (1_500, "1500B"), (64 << 10, "64KiB"), (1 << 30, "1GiB")] {
            assert_eq!(size(bytes), text);
            assert_eq!(text.parse::<bytesize::ByteSize>().unwrap().as_u64(), bytes);
        }
    }
}
