//! `[accounts.NAME]` as written.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    AuthSetting, BaseUrl, BoundedDuration, DAY, Fraction, HOUR, KeySourceName, MINUTE, Name, NonBlank, Parsed,
    PositiveInteger, ProxyUrl, SECOND, VariableName,
};

/// One Fastrac partner account.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccountTable {
    /// Fastrac's address, with an optional path prefix that callers never send. "http://" only on loopback, or with
    /// `allow_cleartext`.
    #[schemars(required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<Parsed<BaseUrl>>,
    /// How the key pair is sent to Fastrac.
    pub auth: AuthSetting,
    /// Address, prefix or auth style of `v1` operations, if different.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v1: Option<VersionTable>,
    /// Address, prefix or auth style of `v2` operations, if different.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v2: Option<VersionTable>,
    /// PEM file: roots of Fastrac's certificate, instead of the platform's. A reload reads it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<Parsed<PathBuf>>,
    /// HTTP CONNECT proxy through which Fastrac is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Parsed<ProxyUrl>>,
    /// Whether the key pair may be sent over "http://" to a host other than loopback.
    pub allow_cleartext: bool,
    /// Where the key pair comes from.
    #[schemars(required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<KeysTable>,
    /// How one key pair replaces another.
    pub rotation: RotationTable,
    /// The operation that verifies a new key pair: a GET lookup without `{name}` segments.
    pub verify: Parsed<Name>,
    /// How much the gateway may send to Fastrac.
    pub budget: BudgetTable,
    /// IANA time zone in which a new day starts.
    pub day_zone: Parsed<jiff::tz::TimeZone>,
    /// When the circuit breakers open and close: there is one for each class.
    pub breaker: BreakerTable,
    /// Second attempts after failures, as a fraction of first attempts; 0: none.
    pub retries: Fraction<true>,
    /// What `success:false` with these messages means, whatever the status: the whole message is compared, trimmed, ignoring
    /// case.
    pub messages: MessagesTable,
}

impl Default for AccountTable {
    fn default() -> Self {
        Self {
            base_url: None,
            auth: AuthSetting::Auto,
            v1: None,
            v2: None,
            ca: None,
            proxy: None,
            allow_cleartext: false,
            keys: None,
            rotation: RotationTable::default(),
            verify: Parsed(Name("v2.province".to_owned())),
            budget: BudgetTable::default(),
            // bundled in the binary; WIB has had no summer time since 1964
            day_zone: Parsed(jiff::tz::TimeZone::get("Asia/Jakarta").unwrap_or(jiff::tz::TimeZone::UTC)),
            breaker: BreakerTable::default(),
            retries: Fraction(0.1),
            messages: MessagesTable::default(),
        }
    }
}

/// What is different for one API version.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VersionTable {
    /// Its address; absent: the account's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<Parsed<BaseUrl>>,
    /// Its auth style; absent: the account's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthSetting>,
}

/// Where a key pair comes from: which keys belong to it depends on `source`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeysTable {
    /// Kind of source.
    #[schemars(required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<KeySourceName>,
    /// "file": TOML file with one table an account, encrypted with age if it ends in ".age". "directory": folder with
    /// files access_key and secret_key. "vault": path of the secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Parsed<PathBuf>>,
    /// "file": age identity, for a path that ends in ".age".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Parsed<PathBuf>>,
    /// "vault": where the KV engine is mounted; absent: "secret".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount: Option<Parsed<NonBlank>>,
    /// "vault": a copy on disk for a restart while the vault is down, encrypted with age.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealed_copy: Option<SealedCopyTable>,
    /// "env": name of the variable that holds the access key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key: Option<Parsed<VariableName>>,
    /// "env": name of the variable that holds the secret key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<Parsed<VariableName>>,
}

/// `keys.sealed_copy`: a copy of a vault's pair.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SealedCopyTable {
    /// Where the gateway writes it; ends in ".age".
    #[schemars(required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Parsed<PathBuf>>,
    /// File with the age identity that it is encrypted to.
    #[schemars(required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Parsed<PathBuf>>,
}

/// `accounts.NAME.rotation`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RotationTable {
    /// How long the previous pair may still be used; zero: not at all.
    pub overlap: BoundedDuration<0, { 30 * DAY }>,
    /// How long a pair may be used after the last successful read of its source; a pair from "env" does not age.
    pub max_age: BoundedDuration<SECOND, { 366 * DAY }>,
    /// Whether an order that was refused with 401 is sent again with the newer pair.
    pub resend_orders: bool,
}

impl Default for RotationTable {
    fn default() -> Self {
        Self {
            overlap: BoundedDuration::millis(10 * MINUTE),
            max_age: BoundedDuration::millis(72 * HOUR),
            resend_orders: true,
        }
    }
}

/// `accounts.NAME.budget`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetTable {
    /// Requests per second; absent: not limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<PositiveInteger>,
    /// Requests at once; absent: as many as `per_second`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<PositiveInteger>,
    /// Requests per calendar day; absent: not limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_day: Option<PositiveInteger<{ i64::MAX as u64 }>>,
    /// Concurrent requests.
    pub in_flight: PositiveInteger<65_536>,
    /// How long a request may wait for the budget, or up to a second for tokens of its own share, and as much
    /// longer for those that refreshes and walks have taken; zero: not at all.
    pub max_wait: BoundedDuration<0, MINUTE>,
    /// How far the day's spending may run ahead of the clock, as a fraction of the day; absent: no pacing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pace: Option<Fraction<true>>,
}

impl Default for BudgetTable {
    fn default() -> Self {
        Self {
            per_second: None,
            burst: None,
            per_day: None,
            in_flight: PositiveInteger(64),
            max_wait: BoundedDuration::millis(250),
            pace: None,
        }
    }
}

/// `accounts.NAME.breaker`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerTable {
    /// Period in which outcomes are counted.
    pub window: BoundedDuration<SECOND, HOUR>,
    /// The breaker stays closed while there are fewer outcomes than this in the window.
    pub minimum: PositiveInteger,
    /// Fraction of failures that opens it.
    pub failures: Fraction<false>,
    /// How long it stays open.
    pub open: BoundedDuration<100, HOUR>,
    /// Number of probe requests while half-open.
    pub probes: PositiveInteger<1000>,
    /// Counts slow calls too; absent: only failures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow: Option<SlowCallsTable>,
}

impl Default for BreakerTable {
    fn default() -> Self {
        Self {
            window: BoundedDuration::millis(10 * SECOND),
            minimum: PositiveInteger(20),
            failures: Fraction(0.5),
            open: BoundedDuration::millis(5 * SECOND),
            probes: PositiveInteger(3),
            slow: None,
        }
    }
}

/// `accounts.NAME.breaker.slow`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SlowCallsTable {
    /// A response that takes longer is slow.
    pub after: BoundedDuration<1, HOUR>,
    /// Fraction of calls that are slow or fail which opens the breaker.
    pub part: Fraction<false>,
}

impl Default for SlowCallsTable {
    fn default() -> Self {
        Self { after: BoundedDuration::millis(10 * SECOND), part: Fraction(0.5) }
    }
}

/// `accounts.NAME.messages`: a list here replaces the built-in one.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MessagesTable {
    /// The requested thing does not exist.
    pub not_found: Vec<Parsed<NonBlank>>,
    /// The key pair is refused.
    pub key: Vec<Parsed<NonBlank>>,
    /// Too many requests.
    pub limit: Vec<Parsed<NonBlank>>,
}

impl Default for MessagesTable {
    fn default() -> Self {
        let list = |texts: &[&str]| texts.iter().map(|text| Parsed(NonBlank((*text).to_owned()))).collect();
        Self {
            // the first is documented, the others are what such APIs say; Fastrac's own are unconfirmed
            not_found: list(&["Data not found"]),
            key: list(&[
                "Unauthorized",
                "Unauthenticated",
                "Invalid credentials",
                "Invalid access key",
                "Invalid secret key",
                "Invalid access key or secret key",
            ]),
            limit: list(&["Too Many Requests", "Rate limit exceeded"]),
        }
    }
}
