//! Checks `[accounts.NAME]`: addresses, key source, budget, and the operation that verifies a key pair.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    CheckContext, Diagnostics, KeyPath,
    operation::names,
    spelling::{choice, unknown},
};
use crate::config::{
    AccountConfig, AuthStyle, BreakerConfig, BudgetConfig, Class, Endpoint, KeySource, MessagesConfig, OperationConfig,
    Proxy, Rate, RotationConfig, SealedCopyConfig, SlowCallsConfig,
    file::{self, AuthSetting, BaseUrl, KeySourceName, Name, Parsed, PositiveInteger},
};

type Accounts = BTreeMap<Parsed<Name>, file::AccountTable>;

/// Every account, sorted by name; `None` for one that lacks something mandatory, which is an error.
pub(super) fn check(
    written: &Accounts,
    context: CheckContext<'_>,
    diagnostics: &mut Diagnostics,
) -> Vec<Option<AccountConfig>> {
    let account =
        |(name, account): (&Parsed<Name>, &file::AccountTable)| check_account(&name.0.0, account, context, diagnostics);
    written.iter().map(account).collect()
}

fn check_account(
    name: &str,
    written: &file::AccountTable,
    context: CheckContext<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<AccountConfig> {
    let place = &KeyPath::at(["accounts", name]);
    verify(&written.verify.0.0, &place.key("verify"), context.operations, diagnostics);
    distinct_messages(&written.messages, &place.key("messages"), diagnostics);
    let (budget, breaker) = (&written.budget, &written.breaker);
    let second = rate(budget.per_second, budget.burst, &place.key("budget"), diagnostics);
    let keys = diagnostics.require(&written.keys, &place.key("keys"), "set where the key pair comes from");
    let keys = keys.and_then(|keys| key_source(keys, &place.key("keys"), context, diagnostics));
    let endpoints = endpoints(written, place, diagnostics);
    let texts = |list: &[Parsed<file::NonBlank>]| list.iter().map(|text| text.0.0.trim().to_lowercase()).collect();
    let [base, v1, v2] = endpoints;
    let mut ca = context.optional_path(&written.ca);
    if ca.is_some() && ![&base, &v1, &v2].iter().any(|endpoint| endpoint.tls) {
        diagnostics.warn(&place.key("ca"), "is not used: every address of the account is http://");
        ca = None;
    }
    Some(AccountConfig {
        name: name.to_owned(),
        base,
        v1,
        v2,
        ca,
        proxy: written.proxy.as_ref().map(|proxy| Proxy { host: proxy.0.0.host.clone(), port: proxy.0.0.port }),
        keys: keys?,
        rotation: RotationConfig {
            overlap: written.rotation.overlap.0.0,
            max_age: written.rotation.max_age.0.0,
            resend_orders: written.rotation.resend_orders,
        },
        verify: written.verify.0.0.clone(),
        budget: BudgetConfig {
            second,
            day: budget.per_day.map(|count| count.0),
            in_flight: budget.in_flight.0 as usize,
            max_wait: budget.max_wait.0.0,
            pace: budget.pace.map(|pace| pace.0),
        },
        day_zone: written.day_zone.0.clone(),
        breaker: BreakerConfig {
            window: breaker.window.0.0,
            minimum: breaker.minimum.get(),
            failures: breaker.failures.0,
            open: breaker.open.0.0,
            probes: u32::try_from(breaker.probes.0).unwrap_or(u32::MAX),
            slow: breaker.slow.as_ref().map(|slow| SlowCallsConfig { after: slow.after.0.0, part: slow.part.0 }),
        },
        retries: written.retries.0,
        messages: MessagesConfig {
            not_found: texts(&written.messages.not_found),
            key: texts(&written.messages.key),
            limit: texts(&written.messages.limit),
        },
    })
}

/// The token bucket that `per_second` and `burst` describe; `burst` defaults to `per_second`.
pub(super) fn rate(
    per_second: Option<PositiveInteger>,
    burst: Option<PositiveInteger>,
    place: &KeyPath,
    diagnostics: &mut Diagnostics,
) -> Option<Rate> {
    if per_second.is_none() && burst.is_some() {
        diagnostics.missing(&place.key("per_second"), "burst alone limits nothing");
    }
    per_second.map(|rate| Rate { per_second: rate.get(), burst: burst.unwrap_or(rate).get() })
}

/// The addresses for operations of no version, of v1 and of v2. Without a base URL, which is an error, they are made up.
fn endpoints(written: &file::AccountTable, place: &KeyPath, diagnostics: &mut Diagnostics) -> [Endpoint; 3] {
    let url = diagnostics.require(&written.base_url, &place.key("base_url"), "set Fastrac's address");
    let missing = BaseUrl { tls: true, host: String::new(), port: 443, prefix: String::new() };
    // Through a proxy on another host, a loopback address is reached over the network.
    let stays_here = written.proxy.as_ref().is_none_or(|proxy| proxy.0.0.is_loopback());
    let mut needs_cleartext = false;
    let mut clear_text = |url: &BaseUrl, place: &KeyPath| {
        if url.tls || (url.is_loopback() && stays_here) {
        } else if url.is_loopback() {
            diagnostics.warn(place, "is http:// through a proxy on another host: the key pair travels in the clear");
        } else if written.allow_cleartext {
            needs_cleartext = true;
            diagnostics.warn(place, "is http:// to another host: the key pair travels in the clear");
        } else {
            let message = "must be https://: the key pair would travel in the clear (allow_cleartext = true allows it)";
            diagnostics.error(place, message);
        }
    };
    if let Some(url) = url {
        clear_text(&url.0, &place.key("base_url"));
    }
    let mut endpoint = |key: &str, version: &Option<file::VersionTable>, auto: AuthStyle| {
        let own = version.clone().unwrap_or_default();
        if let Some(own) = &own.base_url {
            clear_text(&own.0, &place.key(key).key("base_url"));
        }
        let url = own.base_url.as_ref().or(url).map_or(&missing, |url| &url.0);
        to_endpoint(url, resolve(own.auth.unwrap_or(written.auth), auto))
    };
    let v1 = endpoint("v1", &written.v1, AuthStyle::Headers);
    let v2 = endpoint("v2", &written.v2, AuthStyle::Basic);
    if written.allow_cleartext && !needs_cleartext {
        let message = "allows http:// to other hosts, where the key pair would travel in the clear, and no address needs \
                       it: remove it";
        diagnostics.warn(&place.key("allow_cleartext"), message);
    }
    [to_endpoint(url.map_or(&missing, |url| &url.0), resolve(written.auth, AuthStyle::Both)), v1, v2]
}

fn to_endpoint(url: &BaseUrl, auth: AuthStyle) -> Endpoint {
    Endpoint {
        tls: url.tls,
        host: url.host.clone(),
        port: url.port,
        authority: url.authority(),
        prefix: url.prefix.clone(),
        auth,
    }
}

fn resolve(auth: AuthSetting, auto: AuthStyle) -> AuthStyle {
    match auth {
        AuthSetting::Auto => auto,
        AuthSetting::Headers => AuthStyle::Headers,
        AuthSetting::Basic => AuthStyle::Basic,
        AuthSetting::Both => AuthStyle::Both,
    }
}

/// A key source with all the keys that its kind needs, and no others.
fn key_source(
    keys: &file::KeysTable,
    place: &KeyPath,
    context: CheckContext<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<KeySource> {
    let remedy = format!("set it to {}", choice(KeySourceName::names()));
    let source = *diagnostics.require(&keys.source, &place.key("source"), &remedy)?;
    let (needs, takes): (&[&str], &[&str]) = match source {
        KeySourceName::File => (&["path"], &["identity"]),
        KeySourceName::Directory => (&["path"], &[]),
        KeySourceName::Vault => (&["path"], &["mount", "sealed_copy"]),
        KeySourceName::Env => (&["access_key", "secret_key"], &[]),
    };
    let given = [
        ("path", keys.path.is_some()),
        ("identity", keys.identity.is_some()),
        ("mount", keys.mount.is_some()),
        ("sealed_copy", keys.sealed_copy.is_some()),
        ("access_key", keys.access_key.is_some()),
        ("secret_key", keys.secret_key.is_some()),
    ];
    for (key, given) in given {
        if given && !needs.contains(&key) && !takes.contains(&key) {
            diagnostics.error(&place.key(key), format!("is not a key of source {:?}: remove it", source.as_str()));
        } else if !given && needs.contains(&key) {
            diagnostics.missing(&place.key(key), &format!("source {:?} needs it", source.as_str()));
        }
    }
    match source {
        KeySourceName::File => {
            let path = keys.path.as_ref()?;
            key_file_identity(path, keys, place, diagnostics);
            Some(KeySource::File { path: context.path(path), identity: context.optional_path(&keys.identity) })
        }
        KeySourceName::Directory => Some(KeySource::Directory { path: context.path(keys.path.as_ref()?) }),
        KeySourceName::Vault => {
            let mount = keys.mount.as_ref().map_or("secret", |mount| &mount.0.0);
            let mount = vault_path(mount, &place.key("mount"), diagnostics);
            let path = vault_path(keys.path.as_ref()?.0.to_str()?, &place.key("path"), diagnostics);
            let copy = keys
                .sealed_copy
                .as_ref()
                .map(|copy| sealed_copy(copy, &place.key("sealed_copy"), context, diagnostics));
            Some(KeySource::Vault { mount, path, sealed_copy: copy.flatten() })
        }
        KeySourceName::Env => {
            let (access_key, secret_key) = (&keys.access_key.as_ref()?.0.0, &keys.secret_key.as_ref()?.0.0);
            if access_key == secret_key {
                diagnostics.error(&place.key("secret_key"), "must name another variable than access_key");
            }
            diagnostics.warn(&place.key("source"), "\"env\" is read once: rotating the pair needs a restart");
            Some(KeySource::Env { access_key: access_key.clone(), secret_key: secret_key.clone() })
        }
    }
}

/// An encrypted key file needs an identity, and no other may have one.
fn key_file_identity(path: &Parsed<PathBuf>, keys: &file::KeysTable, place: &KeyPath, diagnostics: &mut Diagnostics) {
    let encrypted = path.0.extension().is_some_and(|extension| extension == "age");
    if encrypted && keys.identity.is_none() {
        let remedy = "a path that ends in .age needs the file with the age identity";
        diagnostics.missing(&place.key("identity"), remedy);
    } else if !encrypted && keys.identity.is_some() {
        diagnostics.error(&place.key("identity"), "is only for a path that ends in .age: remove it");
    }
}

/// A path in the vault without leading and trailing slashes.
pub(super) fn vault_path(text: &str, place: &KeyPath, diagnostics: &mut Diagnostics) -> String {
    let path = text.trim_matches('/');
    if path.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        diagnostics.error(place, "must be a path without empty and dot segments");
    }
    path.to_owned()
}

fn sealed_copy(
    copy: &file::SealedCopyTable,
    place: &KeyPath,
    context: CheckContext<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<SealedCopyConfig> {
    let path = diagnostics.require(&copy.path, &place.key("path"), "set where the gateway writes the copy");
    let identity = diagnostics.require(&copy.identity, &place.key("identity"), "name the file with the age identity");
    if path.is_some_and(|path| path.0.extension().is_none_or(|extension| extension != "age")) {
        diagnostics.error(&place.key("path"), "must end in .age: the copy is encrypted");
    }
    Some(SealedCopyConfig { path: context.path(path?), identity: context.path(identity?) })
}

/// The operation that verifies a key pair must be callable without parameters.
fn verify(name: &str, place: &KeyPath, operations: &[OperationConfig], diagnostics: &mut Diagnostics) {
    match operations.iter().find(|operation| operation.name == name) {
        None => diagnostics.error(place, unknown("operation", name, names(operations))),
        Some(operation) if operation.class != Class::Lookup || operation.method != "GET" => {
            diagnostics
                .error(place, "must be an operation of class lookup and method GET: it is sent to verify a key pair");
        }
        Some(operation) if operation.path.contains('{') => {
            diagnostics.error(place, "must be an operation without {name} segments: it is sent to verify a key pair");
        }
        Some(_) => {}
    }
}

/// No message may be in two lists.
fn distinct_messages(messages: &file::MessagesTable, place: &KeyPath, diagnostics: &mut Diagnostics) {
    let lists = [("not_found", &messages.not_found), ("key", &messages.key), ("limit", &messages.limit)];
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for (list, texts) in lists {
        for (index, text) in texts.iter().enumerate() {
            let earlier = *seen.entry(text.0.0.trim().to_lowercase()).or_insert(list);
            if earlier != list {
                let message = format!("is also in {earlier}: a message can have only one meaning");
                diagnostics.error(&place.key(list).index(index), message);
            }
        }
    }
}
