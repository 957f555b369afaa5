//! The checked configuration: what the program runs on.
//!
//! A [`Config`] can only come from [`check`]: its types cannot be deserialized. Every value is therefore sane: names
//! resolve, numbers are in range, defaults are filled in. It contains no secret, only where to find secrets.
//!
//! This room does no I/O: [`files::configuration`](crate::files::configuration) reads the file from disk, and other rooms open the files
//! that the configuration names. Errors are found by [`check`], all at once, and reported with their line.

mod account;
pub mod check;
pub mod file;
pub(crate) mod lenient_path;
mod named_files;
mod operation;
mod service;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

pub(crate) use self::named_files::AUDIT;
pub use self::{
    account::{
        AccountConfig, AuthStyle, BreakerConfig, BudgetConfig, Endpoint, KeySource, MessagesConfig, Proxy, Rate,
        RotationConfig, SealedCopyConfig, SlowCallsConfig, VaultAuth, VaultConfig, bracketed,
    },
    file::{AdminRole, Api, Class, ClientAuth, LogBodies, OnFull, Priority},
    operation::{CachePolicy, OperationConfig},
    service::{CredentialConfig, CredentialExpiry, QuotaConfig, ServiceConfig},
};

/// The whole configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Patterns of the files that it includes.
    pub include: Vec<PathBuf>,
    pub listen: ListenConfig,
    pub admin: AdminConfig,
    pub state: StateConfig,
    pub orders: OrdersConfig,
    pub reload: ReloadConfig,
    pub log: LogConfig,
    pub limits: LimitsConfig,
    /// Present if an account's keys come from the vault.
    pub vault: Option<VaultConfig>,
    /// Fastrac accounts, sorted by name.
    pub accounts: Vec<AccountConfig>,
    /// Internal callers, sorted by name. `ServiceConfig::account` indexes `accounts`.
    pub services: Vec<ServiceConfig>,
    pub cache: CacheConfig,
    /// The operation table: the built-in rows, changed and extended by the file's rows; sorted by name.
    pub operations: Vec<OperationConfig>,
    /// SHA-256 of the file's bytes, and of those that it includes, 64 hexadecimal digits: identifies a configuration.
    pub hash: String,
}

/// `[listen]`
#[derive(Clone, Debug)]
pub struct ListenConfig {
    /// Data addresses, at least one. Port 0: the system chooses a free port.
    pub data: Vec<SocketAddr>,
    pub admin: SocketAddr,
    /// Data threads, 1 to 1024.
    pub workers: usize,
    /// TLS on the data addresses; `None`: cleartext.
    pub tls: Option<ServerTlsConfig>,
    /// TLS on the admin address; `None`: cleartext.
    pub admin_tls: Option<ServerTlsConfig>,
}

/// The server's certificate, and which client certificates it accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTlsConfig {
    /// PEM file: certificate chain, leaf first.
    pub cert: PathBuf,
    /// PEM file: private key.
    pub key: PathBuf,
    /// PEM file: roots for client certificates. Present exactly if `client_auth` is not `None`.
    pub client_ca: Option<PathBuf>,
    pub client_auth: ClientAuth,
}

/// `[admin]`
#[derive(Clone)]
pub struct AdminConfig {
    /// Empty: only what needs no token is served.
    pub tokens: Vec<AdminTokenConfig>,
    /// Lower-case host names that the admin pages accept, besides IP addresses and localhost.
    pub hosts: Vec<String>,
}

/// A token for the admin port.
#[derive(Clone)]
pub struct AdminTokenConfig {
    /// Unique in the file.
    pub name: String,
    /// Unique in the file.
    pub sha256: [u8; 32],
    pub role: AdminRole,
}

impl std::fmt::Debug for AdminTokenConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminTokenConfig").field("name", &self.name).field("role", &self.role).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for AdminConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminConfig").field("tokens", &self.tokens).field("hosts", &self.hosts).finish()
    }
}

/// `[state]`
#[derive(Clone, Debug)]
pub struct StateConfig {
    /// Folder of the embedded store.
    pub dir: PathBuf,
}

/// `[orders]`
#[derive(Clone, Debug)]
pub struct OrdersConfig {
    /// How long an `Idempotency-Key` and its response are remembered; at least 24 hours.
    pub remember: Duration,
    /// How long a response that has reached nobody is kept for an equal order without a key; zero: not at all.
    pub undelivered: Duration,
    /// How long an order has been unknown before balance history and tracking are read for it; zero: only on request.
    pub reconcile: Duration,
}

/// `[reload]`
#[derive(Clone, Debug)]
pub struct ReloadConfig {
    /// Whether the file is read again when it changes.
    pub watch: bool,
    /// Fraction of the services, 0 to 1, that a reload may remove without confirmation.
    pub removals: f64,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct LogConfig {
    pub exchanges: LogTarget,
    pub bodies: LogBodies,
    /// Rotation: total size of the files of the log, in bytes; those of unknown callers have a tenth more.
    pub keep_size: u64,
    /// Rotation: maximum age of a log file, in days.
    pub keep_days: u32,
    /// Maximum size of the lines that wait to be written, in bytes; derived from `limits.memory`.
    pub queue: usize,
    pub on_full: OnFull,
    /// Additional member and parameter names whose values are masked; lower case.
    pub mask: Vec<String>,
}

/// Where the exchange log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// A file, rotated.
    File(PathBuf),
    Stdout,
    None,
}

/// `[limits]`: bounds on what one caller can use.
#[derive(Clone, Debug)]
pub struct LimitsConfig {
    /// Maximum size of a request body, in bytes.
    pub request_body: usize,
    /// Maximum size of a response body, in bytes.
    pub answer_body: usize,
    /// Responses up to this size, in bytes, are read whole and classified before a byte is passed on.
    pub answer_buffer: usize,
    /// From the first byte of a request to the end of its head.
    pub header_read: Duration,
    /// Between requests on a connection, and before its first byte.
    pub idle: Duration,
    /// From the first byte of a request to its last.
    pub request: Duration,
    /// Maximum number of open client connections.
    pub connections: usize,
    /// Maximum number of buffered bytes of requests and responses, of the whole process.
    pub memory: usize,
    /// How long connections are still accepted after the stop signal; zero: not at all.
    pub drain_grace: Duration,
    /// From the stop signal until open requests are cut off, including `drain_grace`.
    pub drain: Duration,
}

/// `[cache]`
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// Memory for stored responses, in bytes; zero: nothing is stored.
    pub memory: u64,
    /// Whether the cache is kept across a restart.
    pub snapshot: bool,
    /// How often the region tree is walked by itself; `None`: never.
    pub warm: Option<Duration>,
}
