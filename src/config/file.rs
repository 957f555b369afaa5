//! The configuration file as written: its keys, the values that each accepts, and their defaults.
//!
//! These types are the only list of keys. serde reads the file into them; schemars generates `fastrac-gateway schema`
//! from them, including the doc comments; `Default` is the default in both. What concerns two keys, or depends on the
//! machine, is decided in [`check`](super::check). A mandatory key is an `Option` marked `schemars(required)`, so that a
//! missing key does not hide other errors.

mod account;
mod choices;
mod operation;
mod schema;
mod service;
mod url;
mod values;
mod vault;
mod words;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    account::{
        AccountTable, BreakerTable, BudgetTable, KeysTable, MessagesTable, RotationTable, SealedCopyTable,
        SlowCallsTable, VersionTable,
    },
    choices::{
        AdminRole, Api, AuthSetting, Class, ClientAuth, KeySourceName, LogBodies, OnFull, OnStoreLoss, Priority,
        VaultMethod,
    },
    operation::{CachePolicyTable, OperationTable},
    schema::schema,
    service::{ChargeHitsTable, CredentialTable, QuotaTable, ServiceTable},
    url::{BaseUrl, ProxyUrl, StoreUrl},
    values::{
        BoundedDuration, BoundedSize, DurationBetween, Fraction, Parsed, PositiveInteger, SizeBetween, TextValue,
    },
    vault::{VaultAuthTable, VaultTable},
    words::{
        AccessKey, HostName, Identity, MethodName, Name, NonBlank, PathPattern, Sha256Digest, VariableName, VaryHeader,
    },
};

/// Milliseconds of a second, a minute, an hour and a day, for the bounds of durations.
pub(crate) const SECOND: u64 = 1_000;
pub(crate) const MINUTE: u64 = 60 * SECOND;
pub(crate) const HOUR: u64 = 60 * MINUTE;
pub(crate) const DAY: u64 = 24 * HOUR;
/// Bytes.
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const TIB: u64 = 1 << 40;

/// Configuration of fastrac-gateway. Unknown keys are errors. Durations are strings such as "250ms", sizes strings such
/// as "64MiB". Relative paths are relative to the file's folder. Never put a secret here: give the path or the variable
/// that holds it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "fastrac-gateway configuration")]
pub struct ConfigFile {
    /// More files, such as "services.d/*.toml" ("*" and "?" match names, except hidden ones), read as if their text were
    /// here: only tables of services and operations, and no name in two files. An empty list: none.
    pub include: Vec<Parsed<PathBuf>>,
    /// Where the gateway listens.
    pub listen: ListenTable,
    /// Who may use the admin port.
    pub admin: AdminTable,
    /// State that survives a restart.
    pub state: StateTable,
    /// How orders are protected against being sent twice.
    pub orders: OrdersTable,
    /// How the configuration is reloaded.
    pub reload: ReloadTable,
    /// The exchange log.
    pub log: LogTable,
    /// Bounds on what one caller can use.
    pub limits: LimitsTable,
    /// The vault; only for `keys.source = "vault"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vault: Option<VaultTable>,
    /// Fastrac partner accounts by name.
    pub accounts: BTreeMap<Parsed<Name>, AccountTable>,
    /// Internal callers by name.
    pub services: BTreeMap<Parsed<Name>, ServiceTable>,
    /// The answer cache.
    pub cache: CacheTable,
    /// Rows that change the built-in operation table, field by field, or add to it.
    pub operations: BTreeMap<Parsed<Name>, OperationTable>,
}

/// `[listen]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListenTable {
    /// What services point their base URL at. Port 0: the system chooses a free port.
    pub data: Vec<Parsed<SocketAddr>>,
    /// Health, metrics, status, console; never on a data address. Port 0: the system chooses a free port.
    pub admin: Parsed<SocketAddr>,
    /// Data threads. Absent: number of cores, at most 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<PositiveInteger<1024>>,
    /// TLS on the data addresses; absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServerTlsTable>,
    /// TLS on the admin address; absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_tls: Option<ServerTlsTable>,
}

impl Default for ListenTable {
    fn default() -> Self {
        Self {
            data: vec![Parsed(SocketAddr::from(([127, 0, 0, 1], 8080)))],
            admin: Parsed(SocketAddr::from(([127, 0, 0, 1], 9464))),
            workers: None,
            tls: None,
            admin_tls: None,
        }
    }
}

/// The server's certificate, and which client certificates it accepts. The files are read again when they change.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerTlsTable {
    /// PEM file: the certificate chain, leaf first.
    #[schemars(required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<Parsed<PathBuf>>,
    /// PEM file: the private key.
    #[schemars(required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Parsed<PathBuf>>,
    /// PEM file: roots for clients' certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<Parsed<PathBuf>>,
    /// Whether a client must send a certificate. Absent: "optional" with `client_ca`, else "none".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<ClientAuth>,
}

/// `[admin]`
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminTable {
    /// The tokens that are accepted; any number, so that one can be replaced while another is in use. Without one, only
    /// what needs no token is served.
    pub tokens: Vec<AdminTokenTable>,
    /// The same as one token named "admin" with role "operate".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_sha256: Option<Parsed<Sha256Digest>>,
    /// Host names that the admin pages accept, besides IP addresses and localhost.
    pub hosts: Vec<Parsed<HostName>>,
}

/// `admin.tokens[n]`, made by `fastrac-gateway admin issue`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminTokenTable {
    /// Who holds it; the audit log shows it. No two tokens may share a name.
    #[schemars(required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Parsed<Name>>,
    /// SHA-256 of the token, 64 hexadecimal digits.
    #[schemars(required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Parsed<Sha256Digest>>,
    /// What its holder may do.
    pub role: AdminRole,
}

/// `[state]`
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StateTable {
    /// Folder of the embedded store: day counters, order journal, usage, cache snapshot. Absent: $STATE_DIRECTORY
    /// (systemd), else "state".
    #[schemars(extend("default" = "state"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<Parsed<PathBuf>>,
    /// A store that several replicas share. Not supported yet: setting it is an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedStateTable>,
}

/// `state.shared`: Redis or Valkey.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SharedStateTable {
    /// "redis://host:port/database", or "rediss://…" over TLS; a password in it is an error.
    #[schemars(required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Parsed<StoreUrl>>,
    /// User of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<Parsed<NonBlank>>,
    /// File that holds the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<Parsed<PathBuf>>,
    /// PEM file: roots for "rediss://", instead of the platform's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<Parsed<PathBuf>>,
}

/// `[orders]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OrdersTable {
    /// How long an `Idempotency-Key` and its response are remembered; at least 24h.
    pub remember: BoundedDuration<DAY, { 366 * DAY }>,
    /// How long the response to an order that has reached nobody is kept for an equal order without a key; "0s": not at
    /// all.
    pub undelivered: BoundedDuration<0, DAY>,
    /// How long the outcome of an order has been unknown before the gateway reads balance history and tracking by
    /// itself, to propose what became of it; "0s": only for `orders show`.
    pub reconcile: BoundedDuration<0, DAY>,
    /// With `state.shared`: whether orders are refused while the shared store is lost, or each replica protects orders
    /// with what it knows itself.
    pub on_store_loss: OnStoreLoss,
}

impl Default for OrdersTable {
    fn default() -> Self {
        Self {
            remember: BoundedDuration::millis(7 * DAY),
            undelivered: BoundedDuration::millis(10 * MINUTE),
            reconcile: BoundedDuration::millis(2 * MINUTE),
            on_store_loss: OnStoreLoss::default(),
        }
    }
}

/// `[reload]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReloadTable {
    /// Whether the file is read again when it changes. If not, only SIGHUP and `fastrac-gateway reload` do that.
    pub watch: bool,
    /// A reload that would remove an account in use, or more than this fraction of the services (and more than one
    /// service), is refused until it is confirmed: `fastrac-gateway reload --confirm-removals`.
    pub removals: Fraction<true>,
}

impl Default for ReloadTable {
    fn default() -> Self {
        Self { watch: true, removals: Fraction(0.2) }
    }
}

/// `[log]`: the exchange log.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogTable {
    /// A file, one JSON line for each request; or "stdout", or "none". Absent: "exchanges.jsonl" in `state.dir`.
    #[schemars(extend("default" = "state/exchanges.jsonl"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchanges: Option<Parsed<PathBuf>>,
    /// Whether bodies are written to it.
    pub bodies: LogBodies,
    /// How much of it is kept.
    pub keep: KeepTable,
    /// drop: lines that do not fit in the queue are dropped and counted, and the gap is written; block: a request of a
    /// known service waits for a place in the queue before it begins.
    pub on_full: OnFull,
    /// Additional names of members and parameters whose values are masked.
    pub mask: Vec<Parsed<NonBlank>>,
}

/// `log.keep`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeepTable {
    /// Size of all its files together. The files of unknown callers ("unidentified.jsonl") may have a tenth more.
    pub size: BoundedSize<MIB, { 1024 * TIB }>,
    /// Age of its oldest file, in days.
    pub days: PositiveInteger<3650>,
}

impl Default for KeepTable {
    fn default() -> Self {
        Self { size: BoundedSize::bytes(GIB), days: PositiveInteger(30) }
    }
}

/// `[limits]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsTable {
    /// Maximum size of a request body; a larger one is refused with 413.
    pub request_body: BoundedSize<1, GIB>,
    /// Maximum size of a response body; a larger one is cut off.
    pub answer_body: BoundedSize<1, GIB>,
    /// Responses up to this size are read whole and classified before a byte is passed on; at most `answer_body`.
    pub answer_buffer: BoundedSize<1, GIB>,
    /// From the first byte of a request to the end of its head.
    pub header_read: BoundedDuration<1, HOUR>,
    /// Between requests on a connection, and before its first byte; also how long a caller may take no byte of its
    /// response.
    pub idle: BoundedDuration<1, DAY>,
    /// From the first byte of a request to its last, including a slow upload.
    pub request: BoundedDuration<1, DAY>,
    /// Open client connections; fewer if the process may not open enough files, or if they could take more than a quarter of
    /// `memory` (16 KiB each, 40 KiB over TLS; 1024 are always allowed).
    pub connections: PositiveInteger,
    /// Sum of the buffered bytes of requests and responses; beyond it requests are shed by priority, "low" first. Absent:
    /// half of what the process's cgroup may use, else half of the machine's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<BoundedSize<{ MIB / 16 }, { 1024 * TIB }>>,
    /// How long connections are still accepted after the stop signal; zero: not at all.
    pub drain_grace: BoundedDuration<0, HOUR>,
    /// From the stop signal until open requests are cut off, including `drain_grace`. The process ends at most 2 s later.
    pub drain: BoundedDuration<0, DAY>,
}

impl Default for LimitsTable {
    fn default() -> Self {
        Self {
            request_body: BoundedSize::bytes(MIB),
            answer_body: BoundedSize::bytes(16 * MIB),
            answer_buffer: BoundedSize::bytes(MIB),
            header_read: BoundedDuration::millis(10 * SECOND),
            idle: BoundedDuration::millis(75 * SECOND),
            request: BoundedDuration::millis(30 * SECOND),
            connections: PositiveInteger(10_000),
            memory: None,
            drain_grace: BoundedDuration::millis(5 * SECOND),
            drain: BoundedDuration::millis(35 * SECOND),
        }
    }
}

/// `[cache]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CacheTable {
    /// Memory that stored responses take, with their keys; zero: nothing is stored. A response that would take more than an
    /// eighth of it is not stored.
    pub memory: BoundedSize<0, TIB>,
    /// Whether stored responses are kept across a restart.
    pub snapshot: bool,
    /// How often the region tree of every account is walked, so that its lookups are stored before anyone asks; within
    /// spare budget. Absent: only when an operator begins it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm: Option<BoundedDuration<{ 10 * MINUTE }, { 31 * DAY }>>,
}

impl Default for CacheTable {
    fn default() -> Self {
        Self { memory: BoundedSize::bytes(64 * MIB), snapshot: true, warm: None }
    }
}
