//! Checks `[services.NAME]`: account, credentials, and what the service may call.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};

use super::{Diagnostics, Environment, KeyPath, account::rate, operation::names, spelling::unknown};
use crate::config::{
    Class, CredentialConfig, CredentialExpiry, OperationConfig, QuotaConfig, ServiceConfig,
    file::{self, ConfigFile, Name, Parsed},
};

/// A service needs a second credential only while it changes from one to the next; more are probably forgotten ones.
const LIVE_CREDENTIALS: usize = 2;

/// How long before its end a credential is warned of.
const EXPIRES_SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Every service, also those with errors.
pub(super) fn check(
    written: &ConfigFile,
    operations: &[OperationConfig],
    environment: &Environment,
    diagnostics: &mut Diagnostics,
) -> Vec<ServiceConfig> {
    let mut seen = FirstUses::default();
    let known = KnownNames {
        // the accounts of the `Config` are sorted by name too
        accounts: written.accounts.keys().enumerate().map(|(index, name)| (name.0.0.as_str(), index)).collect(),
        operations: names(operations).collect(),
    };
    let mut services = Vec::new();
    for (name, service) in &written.services {
        let place = KeyPath::at(["services", &name.0.0]);
        let account = account(service, &place, &known, diagnostics);
        let (allow_classes, allow_operations) = allowed(&service.allow, &place.key("allow"), &known, diagnostics);
        let mut credentials = credentials(service, &place, &mut seen, diagnostics);
        let zone = service.account.as_ref().and_then(|name| written.accounts.get(name));
        let zone = zone.map_or(TimeZone::UTC, |account| account.day_zone.0.clone());
        for (index, credential) in &mut credentials {
            let written = &service.credentials[*index];
            credential.expires = written.expires.as_ref().and_then(|last_day| expiry(last_day.0, &zone));
            if let (Some(expiry), Some(now)) = (credential.expires, environment.now) {
                warn_of_expiry(expiry, now, &place.key("credentials").index(*index).key("expires"), diagnostics);
            }
        }
        let credentials = credentials.into_iter().map(|(_, credential)| credential).collect();
        let quota = &service.quota;
        services.push(ServiceConfig {
            name: name.0.0.clone(),
            account,
            priority: service.priority,
            quota: QuotaConfig {
                second: rate(quota.per_second, quota.burst, &place.key("quota"), diagnostics),
                day: quota.per_day.map(|count| count.0),
                enforce: quota.enforce,
            },
            share: service.share.0,
            allow_classes,
            allow_operations,
            credentials,
            identities: identities(service, &place, &mut seen, diagnostics),
            charge_hits_second: service.charge_hits.second,
            charge_hits_day: service.charge_hits.day,
            force_refresh: service.force_refresh,
        });
    }
    services
}

/// The names that a service may refer to.
struct KnownNames<'a> {
    /// With their index.
    accounts: BTreeMap<&'a str, usize>,
    operations: BTreeSet<&'a str>,
}

/// Values that must or should be unique in the file, with the key of their first use.
#[derive(Default)]
struct FirstUses {
    access_keys: BTreeMap<String, KeyPath>,
    identities: BTreeMap<String, KeyPath>,
    /// By the digest of the secret.
    digests: BTreeMap<[u8; 32], UseOfDigest>,
}

/// Where the digest of a secret is.
struct UseOfDigest {
    service: KeyPath,
    key: KeyPath,
}

/// The index of the service's account; `usize::MAX` after an error.
fn account(
    service: &file::ServiceTable,
    place: &KeyPath,
    known: &KnownNames<'_>,
    diagnostics: &mut Diagnostics,
) -> usize {
    let place = place.key("account");
    let Some(name) = diagnostics.require(&service.account, &place, "name the account that the service uses") else {
        return usize::MAX;
    };
    known.accounts.get(name.0.0.as_str()).copied().unwrap_or_else(|| {
        // an account whose table has errors exists all the same
        if !diagnostics.lines().contains(&KeyPath::at(["accounts", &name.0.0])) {
            diagnostics.error(&place, unknown("account", &name.0.0, known.accounts.keys().copied()));
        }
        usize::MAX
    })
}

fn allowed(
    written: &[Parsed<Name>],
    place: &KeyPath,
    known: &KnownNames<'_>,
    diagnostics: &mut Diagnostics,
) -> (Vec<Class>, Vec<String>) {
    let (mut classes, mut listed) = (Vec::new(), Vec::new());
    for (index, word) in written.iter().enumerate() {
        let (word, place) = (word.0.0.as_str(), place.index(index));
        if let Some(class) = Class::named(word) {
            if class == Class::Unlisted {
                let message = "allows every request that matches no operation, which may be as powerful as \"order\": \
                               list the operations that the service needs instead";
                diagnostics.warn(&place, message);
            }
            if !classes.contains(&class) {
                classes.push(class);
            }
        } else if known.operations.contains(word) {
            if !listed.iter().any(|name| name == word) {
                listed.push(word.to_owned());
            }
        } else {
            let known = Class::names().iter().copied().chain(known.operations.iter().copied());
            diagnostics.error(&place, unknown("class or operation", word, known));
        }
    }
    if written.is_empty() {
        diagnostics.warn(place, "is empty: the service may call nothing");
    }
    (classes, listed)
}

/// The credentials, by their index in the file; without their expiry.
fn credentials(
    service: &file::ServiceTable,
    place: &KeyPath,
    seen: &mut FirstUses,
    diagnostics: &mut Diagnostics,
) -> Vec<(usize, CredentialConfig)> {
    let list = place.key("credentials");
    if service.credentials.is_empty() && service.identities.is_empty() {
        let remedy = "a service needs a credential (`fastrac-gateway service issue` makes one) or an identity";
        diagnostics.missing(&list, remedy);
    }
    if service.credentials.len() > LIVE_CREDENTIALS {
        diagnostics.error(&list, format!("must hold at most {LIVE_CREDENTIALS}: remove what is no longer used"));
    }
    let mut credentials = Vec::new();
    for (index, written) in service.credentials.iter().enumerate() {
        let entry = list.index(index);
        let remedy = "`fastrac-gateway service issue` makes one";
        let access_key = diagnostics.require(&written.access_key, &entry.key("access_key"), remedy);
        let digest = diagnostics.require(&written.secret_sha256, &entry.key("secret_sha256"), remedy);
        if let Some(key) = access_key {
            unique(&mut seen.access_keys, &key.0.0, &entry.key("access_key"), diagnostics);
        }
        if let Some(digest) = digest {
            let use_of = UseOfDigest { service: place.clone(), key: entry.key("secret_sha256") };
            shared(&mut seen.digests, digest.0.0, use_of, diagnostics);
        }
        if let (Some(key), Some(digest)) = (access_key, digest) {
            let (access_key, secret_sha256) = (key.0.0.clone(), digest.0.0);
            credentials.push((index, CredentialConfig { access_key, secret_sha256, expires: None }));
        }
    }
    credentials
}

/// When a credential ends whose last day this is; `None` if that is beyond the years that can be represented.
fn expiry(last_day: Date, zone: &TimeZone) -> Option<CredentialExpiry> {
    let ends = last_day.tomorrow().ok()?.to_zoned_datetime(zone.clone()).ok()?.timestamp();
    Some(CredentialExpiry { last_day, ends })
}

fn warn_of_expiry(expiry: CredentialExpiry, now: Timestamp, place: &KeyPath, diagnostics: &mut Diagnostics) {
    let CredentialExpiry { last_day, ends } = expiry;
    if ends <= now {
        diagnostics.warn(place, format!("the credential was valid until {last_day} and is refused: remove it"));
    } else if ends.duration_since(now) < EXPIRES_SOON {
        diagnostics.warn(place, format!("the credential is valid until {last_day}: replace it before"));
    }
}

fn identities(
    service: &file::ServiceTable,
    place: &KeyPath,
    seen: &mut FirstUses,
    diagnostics: &mut Diagnostics,
) -> Vec<String> {
    let list = place.key("identities");
    // DNS names are compared without case (RFC 5280 section 7.2), URIs as they are.
    let canonical = |name: &str| if name.contains("://") { name.to_owned() } else { name.to_ascii_lowercase() };
    let identities: Vec<String> = service.identities.iter().map(|identity| canonical(&identity.0.0)).collect();
    for (index, identity) in identities.iter().enumerate() {
        unique(&mut seen.identities, identity, &list.index(index), diagnostics);
    }
    identities
}

/// Warns of two services with one secret: who knows it can act as both.
fn shared(
    seen: &mut BTreeMap<[u8; 32], UseOfDigest>,
    digest: [u8; 32],
    here: UseOfDigest,
    diagnostics: &mut Diagnostics,
) {
    match seen.get(&digest) {
        Some(first) if first.service != here.service => {
            let message = format!("is also at {}: two services share one secret; issue one for each", first.key);
            diagnostics.warn(&here.key, message);
        }
        Some(_) => {}
        None => drop(seen.insert(digest, here)),
    }
}

/// No two services may have the same access key or identity.
fn unique(seen: &mut BTreeMap<String, KeyPath>, value: &str, place: &KeyPath, diagnostics: &mut Diagnostics) {
    if let Some(first) = seen.get(value) {
        let line = diagnostics.lines().text(first).map_or(String::new(), |line| format!(" on {line}"));
        diagnostics.error(place, format!("must be unique in the file: it is also at {first}{line}"));
    } else {
        seen.insert(value.to_owned(), place.clone());
    }
}
