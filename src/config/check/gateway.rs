//! Checks `[listen]`, `[admin]`, `[state]`, `[reload]`, `[log]`, `[limits]` and `[cache]`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use super::{CheckContext, Diagnostics, KeyPath};
use crate::config::{
    AdminConfig, AdminRole, AdminTokenConfig, CacheConfig, ClientAuth, LimitsConfig, ListenConfig, LogConfig,
    LogTarget, ReloadConfig, ServerTlsConfig, StateConfig, file, named_files::BESIDE_LOG,
};

/// `[listen]`
pub(super) fn listen(
    written: &file::ListenTable,
    context: CheckContext<'_>,
    diagnostics: &mut Diagnostics,
) -> ListenConfig {
    let place = KeyPath::at(["listen"]);
    let tls = |tls: &Option<file::ServerTlsTable>, key: &str, diagnostics: &mut Diagnostics| {
        tls.as_ref().and_then(|tls| server_tls(tls, &place.key(key), context, diagnostics))
    };
    let listen = ListenConfig {
        data: written.data.iter().map(|address| address.0).collect(),
        admin: written.admin.0,
        workers: written.workers.map_or_else(|| context.environment.cores.clamp(1, 2), |count| count.0 as usize),
        tls: tls(&written.tls, "tls", diagnostics),
        admin_tls: tls(&written.admin_tls, "admin_tls", diagnostics),
    };
    let data = place.key("data");
    // the list is also empty if no element of it could be used
    if listen.data.is_empty() && !diagnostics.lines().contains(&data.index(0)) {
        diagnostics.error(&data, "must name at least one address");
    }
    let mut bound = BoundPorts::default();
    for (index, address) in listen.data.iter().enumerate() {
        if bound.collides(*address) {
            diagnostics
                .error(&data.index(index), "has the port of an earlier address in this list: choose another port");
        }
        if !address.ip().is_loopback() && listen.tls.is_none() {
            let message = "is not loopback and has no TLS: credentials of services cross the network in the clear; set \
                           listen.tls, or terminate TLS in front of it";
            diagnostics.warn(&data.index(index), message);
        }
    }
    if bound.collides(listen.admin) {
        diagnostics.error(&place.key("admin"), "must not have the port of a data address");
    }
    listen
}

/// The addresses so far, by their port.
#[derive(Default)]
struct BoundPorts(BTreeMap<u16, BTreeSet<IpAddr>>);

impl BoundPorts {
    /// Adds an address; whether it cannot be bound beside the earlier ones. `[::]` takes the port of IPv4 too (`bindv6only` is
    /// 0 in ipv6(7)).
    fn collides(&mut self, address: SocketAddr) -> bool {
        let all: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let ip = address.ip().to_canonical();
        let earlier = self.0.entry(address.port()).or_default();
        let collides = match ip {
            _ if earlier.contains(&ip) || earlier.contains(&all[1]) => true,
            IpAddr::V4(_) if ip == all[0] => earlier.iter().any(IpAddr::is_ipv4),
            IpAddr::V4(_) => earlier.contains(&all[0]),
            IpAddr::V6(_) => ip == all[1] && !earlier.is_empty(),
        };
        earlier.insert(ip);
        collides && address.port() != 0
    }
}

fn server_tls(
    written: &file::ServerTlsTable,
    place: &KeyPath,
    context: CheckContext<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<ServerTlsConfig> {
    let cert = diagnostics.require(&written.cert, &place.key("cert"), "name the PEM file with the certificate chain");
    let key = diagnostics.require(&written.key, &place.key("key"), "name the PEM file with the private key");
    let client_ca = context.optional_path(&written.client_ca);
    let by_ca = if client_ca.is_some() { ClientAuth::Optional } else { ClientAuth::None };
    let client_auth = written.client_auth.unwrap_or(by_ca);
    match (client_auth, &client_ca) {
        (ClientAuth::None, Some(_)) => {
            diagnostics.error(&place.key("client_auth"), "must be \"optional\" or \"required\" where client_ca is set");
        }
        (ClientAuth::Optional | ClientAuth::Required, None) => {
            diagnostics.missing(&place.key("client_ca"), "client_auth needs the roots of the clients' certificates");
        }
        _ => {}
    }
    Some(ServerTlsConfig { cert: context.path(cert?), key: context.path(key?), client_ca, client_auth })
}

/// The name of the token that `admin.token_sha256` sets.
const ONLY_TOKEN: &str = "admin";

/// `[admin]`
pub(super) fn admin(written: &file::AdminTable, diagnostics: &mut Diagnostics) -> AdminConfig {
    let place = KeyPath::at(["admin"]);
    let mut tokens: Vec<AdminTokenConfig> = Vec::new();
    if let Some(digest) = &written.token_sha256 {
        tokens.push(AdminTokenConfig { name: ONLY_TOKEN.to_owned(), sha256: digest.0.0, role: AdminRole::Operate });
    }
    for (index, token) in written.tokens.iter().enumerate() {
        let place = place.key("tokens").index(index);
        let name = diagnostics.require(&token.name, &place.key("name"), "say who holds the token");
        let remedy = "`fastrac-gateway admin issue` makes one";
        let sha256 = diagnostics.require(&token.sha256, &place.key("sha256"), remedy);
        let (Some(name), Some(sha256)) = (name, sha256) else { continue };
        if tokens.iter().any(|other| other.name == name.0.0) {
            let message = "must be unique: the audit log tells holders apart by it (token_sha256 is named \"admin\")";
            diagnostics.error(&place.key("name"), message);
        }
        if tokens.iter().any(|other| other.sha256 == sha256.0.0) {
            diagnostics.error(&place.key("sha256"), "is also the digest of another token: give each holder its own");
        }
        tokens.push(AdminTokenConfig { name: name.0.0.clone(), sha256: sha256.0.0, role: token.role });
    }
    AdminConfig { tokens, hosts: written.hosts.iter().map(|host| host.0.0.to_ascii_lowercase()).collect() }
}

/// `[state]`. `state.shared` is checked, but not part of the result: `pending` reports that it is not supported.
pub(super) fn state(
    written: &file::StateTable,
    context: CheckContext<'_>,
    diagnostics: &mut Diagnostics,
) -> StateConfig {
    let given = written.dir.as_ref().map(|dir| &dir.0).or(context.environment.state_directory.as_ref());
    let dir = context.folder.join(given.map_or(&PathBuf::from("state"), |dir| dir));
    let place = KeyPath::at(["state", "shared"]);
    if let Some(shared) = &written.shared {
        let url = diagnostics.require(&shared.url, &place.key("url"), "give it, such as \"redis://127.0.0.1:6379/0\"");
        if shared.username.is_some() && shared.password_file.is_none() {
            diagnostics.missing(&place.key("password_file"), "a username needs a password");
        }
        let over_tls = url.is_some_and(|url| url.0.0.starts_with("rediss://"));
        if shared.ca.is_some() && url.is_some() && !over_tls {
            diagnostics.error(&place.key("ca"), "needs a url that begins with \"rediss://\"");
        }
    }
    StateConfig { dir }
}

/// `[reload]`
pub(super) fn reload(written: &file::ReloadTable) -> ReloadConfig {
    ReloadConfig { watch: written.watch, removals: written.removals.0 }
}

/// What `[log]` depends on.
pub(super) struct LogDependencies<'a> {
    pub(super) state: &'a StateConfig,
    pub(super) limits: &'a LimitsConfig,
}

/// `[log]`
pub(super) fn log(
    written: &file::LogTable,
    LogDependencies { state, limits }: LogDependencies<'_>,
    context: CheckContext<'_>,
    diagnostics: &mut Diagnostics,
) -> LogConfig {
    let exchanges = match &written.exchanges {
        None => LogTarget::File(state.dir.join("exchanges.jsonl")),
        Some(target) => match target.0.to_str() {
            Some("none") => LogTarget::None,
            Some("stdout") => LogTarget::Stdout,
            _ => LogTarget::File(context.path(target)),
        },
    };
    if let LogTarget::File(path) = &exchanges
        && path.file_name().is_some_and(|name| BESIDE_LOG.iter().any(|other| name == *other))
    {
        diagnostics
            .error(&KeyPath::at(["log"]).key("exchanges"), "the gateway has another file of this name beside it");
    }
    LogConfig {
        exchanges,
        bodies: written.bodies,
        keep_size: written.keep.size.0.0,
        keep_days: u32::try_from(written.keep.days.0).unwrap_or(u32::MAX),
        queue: (limits.memory / 4).clamp(LOG_QUEUE_MIN, LOG_QUEUE_MAX),
        on_full: written.on_full,
        mask: written.mask.iter().map(|name| name.0.0.trim().to_lowercase()).collect(),
    }
}

/// `limits.memory` where the system does not say how much memory there is, in bytes.
const MEMORY: usize = 512 << 20;

/// Bounds of what waits to be written to the exchange log, in bytes.
const LOG_QUEUE_MIN: usize = 4 << 20;
const LOG_QUEUE_MAX: usize = 128 << 20;

/// `[limits]`
pub(super) fn limits(
    written: &file::LimitsTable,
    context: CheckContext<'_>,
    diagnostics: &mut Diagnostics,
) -> LimitsConfig {
    let place = KeyPath::at(["limits"]);
    if written.answer_buffer.0.0 > written.answer_body.0.0 {
        diagnostics.error(&place.key("answer_buffer"), "must be at most answer_body");
    }
    if written.drain_grace.0.0 > written.drain.0.0 {
        diagnostics.error(&place.key("drain_grace"), "must be at most drain, which it is part of");
    }
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let (request_body, answer_body) = (size(written.request_body.0.0), size(written.answer_body.0.0));
    let half = || context.environment.memory.map_or(MEMORY, |bytes| size(bytes / 2));
    let memory = written.memory.as_ref().map_or_else(half, |bytes| size(bytes.0.0));
    if memory < request_body.saturating_add(answer_body) {
        let message = "is less than one request (request_body) with its response (answer_body) may take";
        diagnostics.warn(&place.key("memory"), message);
    }
    LimitsConfig {
        request_body,
        answer_body,
        answer_buffer: size(written.answer_buffer.0.0),
        header_read: written.header_read.0.0,
        idle: written.idle.0.0,
        request: written.request.0.0,
        connections: size(written.connections.0),
        memory,
        drain_grace: written.drain_grace.0.0,
        drain: written.drain.0.0,
    }
}

/// `[cache]`
pub(super) fn cache(written: &file::CacheTable, diagnostics: &mut Diagnostics) -> CacheConfig {
    let (memory, warm) = (written.memory.0.0, written.warm.as_ref().map(|every| every.0.0));
    if warm.is_some() && memory == 0 {
        let message = "nothing is stored while cache.memory is 0: give it memory, or remove this key";
        diagnostics.error(&KeyPath::at(["cache", "warm"]), message);
    }
    CacheConfig { memory, snapshot: written.snapshot, warm }
}
