//! The checked configuration: what the program runs on.
//!
//! A `Config` can only come from [`check`], so whoever holds one holds sane values: names resolve,
//! numbers are in range, defaults are filled in. It carries no secret, only where secrets are.
//! No I/O: [`crate::files::configuration`] reads the file, and the rooms that use the files it names open
//! them. Faults never surface here: they are found, all at once, in `config::check`.

pub mod check;
pub mod file;

use std::{borrow::Cow, net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// The whole configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the gateway listens.
    pub listen: ListenConfig,
    /// Who may use the admin port.
    pub admin: AdminConfig,
    /// Where state that survives a restart lives.
    pub state: StateConfig,
    /// The exchange log.
    pub log: LogConfig,
    /// Bounds on what one caller can take.
    pub limits: LimitsConfig,
    /// How to reach the vault; present whenever an account's keys come from it.
    pub vault: Option<VaultConfig>,
    /// Fastrac accounts, in order of their names.
    pub accounts: Vec<AccountConfig>,
    /// Internal callers, in order of their names. `ServiceConfig::account` indexes `accounts`.
    pub services: Vec<ServiceConfig>,
    /// The answer cache.
    pub cache: CacheConfig,
    /// The operation table: the built-in rows with the file's rows laid over them.
    pub operations: Vec<OperationConfig>,
    /// SHA-256 of the file's bytes, 64 hex digits: tells two configurations apart.
    pub hash: String,
}

/// `[listen]`
#[derive(Clone, Debug)]
pub struct ListenConfig {
    /// Data addresses, at least one; port 0 takes a free port.
    pub data: Vec<SocketAddr>,
    /// The admin address.
    pub admin: SocketAddr,
    /// Data threads, at least 1.
    pub workers: usize,
    /// TLS on the data addresses.
    pub tls: Option<ServerTlsConfig>,
    /// TLS on the admin address.
    pub admin_tls: Option<ServerTlsConfig>,
}

/// A certificate to show, and whose certificates to accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTlsConfig {
    /// PEM chain, leaf first.
    pub cert: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
    /// PEM roots for client certificates.
    pub client_ca: Option<PathBuf>,
    /// Whether a client must show a certificate.
    pub client_auth: ClientAuth,
}

/// What is asked of a client at the TLS handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// No certificate is asked for.
    #[default]
    None,
    /// A certificate is checked if one is shown.
    Optional,
    /// No handshake without a certificate.
    Required,
}

/// `[admin]`
#[derive(Clone)]
pub struct AdminConfig {
    /// SHA-256 of the admin token; `None` leaves only what needs no token.
    pub token_sha256: Option<[u8; 32]>,
    /// Names, beside IP addresses and localhost, that the admin pages answer to; lower case.
    pub hosts: Vec<String>,
}

impl std::fmt::Debug for AdminConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminConfig").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

/// `[state]`
#[derive(Clone, Debug)]
pub struct StateConfig {
    /// Folder of the embedded store.
    pub dir: PathBuf,
    /// The store that several replicas share.
    pub shared: Option<SharedStateConfig>,
}

/// `state.shared`
#[derive(Clone, Debug)]
pub struct SharedStateConfig {
    /// `redis://` or `rediss://`, without a password.
    pub url: String,
    /// User of the store.
    pub username: Option<String>,
    /// File that holds the password.
    pub password_file: Option<PathBuf>,
    /// PEM roots for `rediss://`.
    pub ca: Option<PathBuf>,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Where exchange lines go.
    pub exchanges: LogTarget,
    /// Whether bodies stand in them.
    pub bodies: LogBodies,
    /// Rotation: total size of all files, in bytes.
    pub keep_size: u64,
    /// Rotation: age of the oldest file, in days.
    pub keep_days: u32,
    /// What happens when the writer can't keep up.
    pub on_full: OnFull,
    /// Further member and parameter names whose values are masked; lower case.
    pub mask: Vec<String>,
}

/// Where the exchange log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// A file, rotated.
    File(PathBuf),
    /// Standard output.
    Stdout,
    /// Nowhere.
    None,
}

/// Whether bodies stand in the exchange log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogBodies {
    /// With secrets and personal data masked.
    #[default]
    Masked,
    /// Never.
    None,
}

/// What happens when the exchange log's queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// Lines are dropped, counted, and the gap is written.
    #[default]
    Drop,
    /// A request waits for its place before it begins.
    Block,
}

/// `[limits]`: bounds on what one caller can take.
#[derive(Clone, Debug)]
pub struct LimitsConfig {
    /// Largest request body, bytes.
    pub request_body: usize,
    /// Largest answer body, bytes.
    pub answer_body: usize,
    /// Answers up to this many bytes are read whole and classified before a byte goes out.
    pub answer_buffer: usize,
    /// First byte of a request to the end of its head.
    pub header_read: Duration,
    /// Between requests on a connection, and before its first byte.
    pub idle: Duration,
    /// First byte to last of one request.
    pub request: Duration,
    /// Open client connections.
    pub connections: usize,
    /// How long connections are still accepted after the signal to stop.
    pub drain_grace: Duration,
    /// From the signal to the cut, the grace included.
    pub drain: Duration,
}

/// `[vault]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultConfig {
    /// Base address.
    pub address: String,
    /// PEM roots, instead of the platform's.
    pub ca: Option<PathBuf>,
    /// Vault namespace.
    pub namespace: Option<String>,
    /// How often the secret is read.
    pub poll: Duration,
    /// How the gateway logs in.
    pub auth: VaultAuth,
}

/// How the gateway logs in to the vault. `mount` is where the method is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the vault's own names")]
pub enum VaultAuth {
    /// A token from a file, or from `VAULT_TOKEN`.
    Token { token_file: Option<PathBuf> },
    /// AppRole.
    AppRole { mount: String, role_id: String, secret_id_file: PathBuf },
    /// A Kubernetes service account.
    Kubernetes { mount: String, role: String, token_file: PathBuf },
    /// JWT or OIDC.
    Jwt { mount: String, role: String, token_file: PathBuf },
    /// A TLS certificate.
    Cert { mount: String, name: String, cert: PathBuf, key: PathBuf },
}

/// `[accounts.NAME]`: one Fastrac partner account.
#[derive(Clone, Debug)]
pub struct AccountConfig {
    /// The table's name.
    pub name: String,
    /// Where operations of neither version go.
    pub base: Endpoint,
    /// Where `v1` operations go.
    pub v1: Endpoint,
    /// Where `v2` operations go.
    pub v2: Endpoint,
    /// PEM roots, instead of the platform's.
    pub ca: Option<PathBuf>,
    /// HTTP CONNECT proxy on the way to Fastrac.
    pub proxy: Option<Proxy>,
    /// Where the key pair comes from.
    pub keys: KeySource,
    /// How a pair gives way to the next.
    pub rotation: RotationConfig,
    /// Name of the operation that proves a new pair.
    pub verify: String,
    /// What the gateway may ask of Fastrac.
    pub budget: BudgetConfig,
    /// Zone in which the day turns.
    pub day_zone: jiff::tz::TimeZone,
    /// When the account is given a rest.
    pub breaker: BreakerConfig,
    /// What `success:false` with these messages means; trimmed, lower case.
    pub messages: MessagesConfig,
}

/// An address of Fastrac, and how keys are shown there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `https` if true.
    pub tls: bool,
    /// Host name or address, as in the URL, without brackets.
    pub host: String,
    /// Port, the scheme's default filled in.
    pub port: u16,
    /// `host` header: host, and the port where it isn't the scheme's default.
    pub authority: String,
    /// Path prefix without a trailing slash; empty, or begins with a slash.
    pub prefix: String,
    /// How the pair is shown.
    pub auth: AuthStyle,
}

/// Address of an HTTP CONNECT proxy, which is spoken to in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Host name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl std::fmt::Display for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}:{}", bracketed(&self.host), self.port)
    }
}

/// A host as it stands before a port: an IPv6 address in brackets (RFC 3986 section 3.2.2).
pub fn bracketed(host: &str) -> Cow<'_, str> {
    if host.contains(':') { format!("[{host}]").into() } else { host.into() }
}

/// How the account's pair is shown to Fastrac. `auto` of the file is resolved for each version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthStyle {
    /// Headers `access-key` and `secret-key`.
    Headers,
    /// `Authorization: Basic`.
    Basic,
    /// Both of them.
    Both,
}

/// Where a key pair comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the file's own names")]
pub enum KeySource {
    /// A TOML file with one table an account, perhaps encrypted with age.
    File { path: PathBuf, identity: Option<PathBuf> },
    /// Files `access_key` and `secret_key` in a folder.
    Directory { path: PathBuf },
    /// KV fields `access_key` and `secret_key`.
    Vault { mount: String, path: String, sealed_copy: Option<SealedCopyConfig> },
    /// Two environment variables, read once.
    Env { access_key: String, secret_key: String },
}

/// A copy of a vault's pair, encrypted with age, for a restart while the vault is down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedCopyConfig {
    /// The copy; written by the gateway.
    pub path: PathBuf,
    /// File with the age identity.
    pub identity: PathBuf,
}

/// How a pair gives way to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationConfig {
    /// How long the previous pair may serve.
    pub overlap: Duration,
    /// How long after the last successful read a pair may serve.
    pub max_age: Duration,
    /// Whether an order refused with 401 is sent again with the newer pair.
    pub resend_orders: bool,
}

/// What the gateway may ask of Fastrac for an account. Absent limits are `None`: not limited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetConfig {
    /// Requests a second, and how many at once.
    pub second: Option<Rate>,
    /// Requests a calendar day.
    pub day: Option<u64>,
    /// Requests at the same time.
    pub in_flight: usize,
    /// How long a request may wait for its turn.
    pub max_wait: Duration,
}

/// A token bucket: `per_second` tokens a second, at most `burst` saved up. Both at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "said above")]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

/// When an account is given a rest.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerConfig {
    /// How far back outcomes count.
    pub window: Duration,
    /// Fewer outcomes than this say nothing.
    pub minimum: u32,
    /// Share of failures that opens it, above 0, at most 1.
    pub failures: f64,
    /// How long it stays open.
    pub open: Duration,
    /// Requests let through to try.
    pub probes: u32,
}

/// What `success:false` with a message means; whole text, trimmed, lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessagesConfig {
    /// There is no such thing.
    pub not_found: Vec<String>,
    /// The account's key is refused.
    pub key: Vec<String>,
    /// Too many requests.
    pub limit: Vec<String>,
}

/// `[services.NAME]`: one internal caller.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// The table's name.
    pub name: String,
    /// Index into `Config::accounts`.
    pub account: usize,
    /// Who waits and who is shed when the budget is short.
    pub priority: Priority,
    /// What the service may ask of the gateway.
    pub quota: QuotaConfig,
    /// Guaranteed part of the account's budget, 0 to 1.
    pub share: f64,
    /// Classes it may call.
    pub allow_classes: Vec<Class>,
    /// Operations it may call beside those of `allow_classes`.
    pub allow_operations: Vec<String>,
    /// How it proves who it is.
    pub credentials: Vec<CredentialConfig>,
    /// SANs of client certificates that prove who it is.
    pub identities: Vec<String>,
    /// Whether hits and joined calls count against the quota of the second.
    pub charge_hits_second: bool,
    /// Whether hits and joined calls count against the quota of the day.
    pub charge_hits_day: bool,
    /// Whether its `cache-control: no-cache` may reach Fastrac.
    pub force_refresh: bool,
}

/// A service's quota. Absent limits are `None`: not limited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaConfig {
    /// Requests a second, and how many at once.
    pub second: Option<Rate>,
    /// Requests a calendar day.
    pub day: Option<u64>,
}

/// An access key and the digest of its secret.
#[derive(Clone)]
pub struct CredentialConfig {
    /// 1 to 64 characters of `[A-Za-z0-9_-]`, unique in the file.
    pub access_key: String,
    /// SHA-256 of the secret.
    pub secret_sha256: [u8; 32],
}

impl std::fmt::Debug for CredentialConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CredentialConfig").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// Who waits and who is shed when the budget is short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Shed first.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Served first.
    High,
}

/// `[cache]`
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// Bytes of stored answers.
    pub memory: u64,
    /// Whether the cache is kept over a restart.
    pub snapshot: bool,
}

/// One row of the operation table.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationConfig {
    /// Name, such as `v2.city`.
    pub name: String,
    /// Which address and auth style.
    pub api: Option<Api>,
    /// Method, upper case.
    pub method: String,
    /// Path pattern: segments, `{name}` matches one.
    pub path: String,
    /// Further paths of the same operation.
    pub aliases: Vec<String>,
    /// How it is handled.
    pub class: Class,
    /// Whether and how long answers are stored.
    pub cache: Option<CachePolicy>,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// What it takes out of the account's budget.
    pub cost: u32,
    /// Request headers that may vary the answer and so pass, also on a cached operation; lower case.
    pub vary: Vec<String>,
}

/// An API version of Fastrac's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "said above")]
pub enum Api {
    V1,
    V2,
}

/// How an operation is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Slow-changing.
    Lookup,
    /// Live, of one shipment.
    Read,
    /// A price.
    Quote,
    /// Moves money: never sent twice.
    Order,
    /// What concerns the whole account.
    Account,
    /// No row matches: as strict as `Order`.
    Unlisted,
}

/// How long answers of an operation are stored.
#[derive(Clone, Debug, PartialEq)]
pub struct CachePolicy {
    /// A stored answer is given out without asking for this long.
    pub fresh: Duration,
    /// And for this long after its storing when Fastrac fails; zero: never.
    pub stale_if_error: Duration,
    /// The part of `fresh` after which a used entry is asked for again, above 0, at most 1; 1: never early.
    pub refresh_ahead: f64,
    /// How long `not_found` is stored; zero: never.
    pub not_found: Duration,
}
