//! `[accounts.NAME]` and `[vault]`, checked: where Fastrac is, where the key pair comes from, what may be sent.
//!
//! Plain values; see [`Config`](super::Config) for what always holds.

use std::{borrow::Cow, path::PathBuf, time::Duration};

/// `[accounts.NAME]`: one Fastrac partner account.
#[derive(Clone, Debug)]
pub struct AccountConfig {
    pub name: String,
    /// For operations of no API version.
    pub base: Endpoint,
    /// For `v1` operations.
    pub v1: Endpoint,
    /// For `v2` operations.
    pub v2: Endpoint,
    /// PEM file: trusted roots that replace the platform's. `None` too if no address uses TLS.
    pub ca: Option<PathBuf>,
    /// HTTP CONNECT proxy through which Fastrac is reached.
    pub proxy: Option<Proxy>,
    pub keys: KeySource,
    pub rotation: RotationConfig,
    /// Name of the operation that verifies a new key pair: a GET lookup without `{name}` segments.
    pub verify: String,
    pub budget: BudgetConfig,
    /// Time zone in which a new day starts.
    pub day_zone: jiff::tz::TimeZone,
    pub breaker: BreakerConfig,
    /// Second attempts after failures, as a fraction of first attempts, 0 to 1.
    pub retries: f64,
    pub messages: MessagesConfig,
}

/// An address of Fastrac, and how credentials are sent to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `https` if true, else `http`.
    pub tls: bool,
    /// Host name or address as in the URL, without brackets.
    pub host: String,
    pub port: u16,
    /// Value of the `host` header: the host, and the port unless it is the scheme's default.
    pub authority: String,
    /// Path prefix without a trailing slash; empty, or begins with a slash.
    pub prefix: String,
    pub auth: AuthStyle,
}

impl std::fmt::Display for Endpoint {
    /// As a URL.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Endpoint { tls, authority, prefix, .. } = self;
        write!(f, "{}://{authority}{prefix}", if *tls { "https" } else { "http" })
    }
}

/// Address of an HTTP CONNECT proxy. The connection to the proxy itself is cleartext.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Host name or address, without brackets.
    pub host: String,
    pub port: u16,
}

impl std::fmt::Display for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}:{}", bracketed(&self.host), self.port)
    }
}

/// A host as it is written before a port: an IPv6 address in brackets (RFC 3986 section 3.2.2).
pub fn bracketed(host: &str) -> Cow<'_, str> {
    if host.contains(':') { format!("[{host}]").into() } else { host.into() }
}

/// How the key pair is sent to Fastrac. The file's `auto` is already resolved for each API version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum AuthStyle {
    /// Headers `access-key` and `secret-key`.
    Headers,
    /// `Authorization: Basic`.
    Basic,
    /// The key headers and `Authorization: Basic`.
    Both,
}

impl AuthStyle {
    /// The word that the configuration file uses.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Where a key pair comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A TOML file with one table for each account; encrypted with age if there is an identity file.
    File { path: PathBuf, identity: Option<PathBuf> },
    /// Files `access_key` and `secret_key` in a folder.
    Directory { path: PathBuf },
    /// KV v2 fields `access_key` and `secret_key`.
    Vault { mount: String, path: String, sealed_copy: Option<SealedCopyConfig> },
    /// Names of two environment variables, read once at start.
    Env { access_key: String, secret_key: String },
}

/// A copy of the vault's pair, encrypted with age, for a restart while the vault is unreachable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedCopyConfig {
    /// Written by the gateway.
    pub path: PathBuf,
    /// File with the age identity.
    pub identity: PathBuf,
}

/// How one key pair replaces another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationConfig {
    /// How long the previous pair may still be used; zero: not at all.
    pub overlap: Duration,
    /// How long a pair may be used after the last successful read of its source. Does not apply to `env`.
    pub max_age: Duration,
    /// Whether an order that was refused with 401 is sent again with a newer pair.
    pub resend_orders: bool,
}

/// How much the gateway may send to Fastrac for an account.
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetConfig {
    /// Requests per second with a burst; `None`: not limited.
    pub second: Option<Rate>,
    /// Requests per calendar day; `None`: not limited.
    pub day: Option<u64>,
    /// Concurrent requests, 1 to 65,536.
    pub in_flight: usize,
    /// How long a request may wait for the budget, but for tokens of its service's share; zero: not at all.
    pub max_wait: Duration,
    /// How far the day's spending may run ahead of the clock, as a fraction of the day, 0 to 1; `None`: no pacing.
    pub pace: Option<f64>,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens added per second, at least 1.
    pub per_second: u32,
    /// Capacity in tokens, at least 1.
    pub burst: u32,
}

/// When the circuit breakers of an account open and close; it has one for each class.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerConfig {
    /// Period in which outcomes are counted.
    pub window: Duration,
    /// The breaker stays closed while there are fewer outcomes than this in the window.
    pub minimum: u32,
    /// Fraction of failures that opens the breaker, above 0, at most 1.
    pub failures: f64,
    /// How long the breaker stays open.
    pub open: Duration,
    /// Number of probe requests while half-open.
    pub probes: u32,
    /// `None`: slow calls are not counted.
    pub slow: Option<SlowCallsConfig>,
}

/// Which calls are slow, and how many of them open the breaker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowCallsConfig {
    /// A response that takes longer than this is slow.
    pub after: Duration,
    /// Fraction of calls that are slow or fail which opens the breaker, above 0, at most 1.
    pub part: f64,
}

/// What `success:false` with a message means. The whole message is compared; entries are trimmed and lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessagesConfig {
    /// The requested thing does not exist.
    pub not_found: Vec<String>,
    /// The account's key pair is refused.
    pub key: Vec<String>,
    /// Too many requests.
    pub limit: Vec<String>,
}

/// `[vault]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultConfig {
    /// Base URL.
    pub address: String,
    /// PEM file: trusted roots that replace the platform's.
    pub ca: Option<PathBuf>,
    pub namespace: Option<String>,
    /// Interval between reads of a secret.
    pub poll: Duration,
    pub auth: VaultAuth,
}

/// How the gateway logs in to the vault. `mount` is the path at which the auth method is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultAuth {
    /// A token from a file; without a file, from `VAULT_TOKEN`.
    Token {
        token_file: Option<PathBuf>,
    },
    AppRole {
        mount: String,
        role_id: String,
        secret_id_file: PathBuf,
    },
    /// A Kubernetes service account.
    Kubernetes {
        mount: String,
        role: String,
        token_file: PathBuf,
    },
    /// JWT or OIDC.
    Jwt {
        mount: String,
        role: String,
        token_file: PathBuf,
    },
    /// A TLS client certificate.
    Cert {
        mount: String,
        name: String,
        cert: PathBuf,
        key: PathBuf,
    },
}
