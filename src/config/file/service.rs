//! `[services.NAME]` as written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AccessKey, Fraction, Identity, Name, Parsed, PositiveInteger, Priority, Sha256Digest};

/// One internal caller.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceTable {
    /// The account that it uses.
    #[schemars(required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<Parsed<Name>>,
    /// Which services wait and which are refused when the budget is short.
    pub priority: Priority,
    /// How much it may ask of the gateway.
    pub quota: QuotaTable,
    /// Guaranteed fraction of the account's budget, per second and per day. What a service does not use is lent.
    /// Of the day, services without a share may use a fiftieth at any time, and the rest of what is idle in its last hour.
    pub share: Fraction<true>,
    /// Classes ("lookup", "read", "quote", "order", "account", "unlisted"), or names of operations.
    pub allow: Vec<Parsed<Name>>,
    /// How it authenticates; at most two, so that one can replace the other. Mandatory unless it has identities.
    pub credentials: Vec<CredentialTable>,
    /// Subject alternative names of client certificates that identify it.
    pub identities: Vec<Parsed<Identity>>,
    /// Whether cache hits and joined calls count against the quota.
    pub charge_hits: ChargeHitsTable,
    /// Whether its `cache-control: no-cache` may cause a request to Fastrac.
    pub force_refresh: bool,
}

impl Default for ServiceTable {
    fn default() -> Self {
        Self {
            account: None,
            priority: Priority::Normal,
            quota: QuotaTable::default(),
            share: Fraction(0.0),
            allow: ["lookup", "read", "quote"].map(|class| Parsed(Name(class.to_owned()))).to_vec(),
            credentials: Vec::new(),
            identities: Vec::new(),
            charge_hits: ChargeHitsTable::default(),
            force_refresh: false,
        }
    }
}

/// `services.NAME.quota`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QuotaTable {
    /// Requests per second; absent: not limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<PositiveInteger>,
    /// Requests at once; absent: as many as `per_second`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<PositiveInteger>,
    /// Requests per calendar day, in the account's zone; absent: not limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_day: Option<PositiveInteger<{ i64::MAX as u64 }>>,
    /// Whether what is beyond the limits is refused. If not, it is served, and reported in metrics, log and status.
    pub enforce: bool,
}

impl Default for QuotaTable {
    fn default() -> Self {
        Self { per_second: None, burst: None, per_day: None, enforce: true }
    }
}

/// `services.NAME.credentials[n]`, made by `fastrac-gateway service issue`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CredentialTable {
    /// 1 to 64 characters of A-Z, a-z, 0-9, "_" and "-"; no two credentials of the file may share one.
    #[schemars(required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key: Option<Parsed<AccessKey>>,
    /// SHA-256 of the secret, 64 hexadecimal digits.
    #[schemars(required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_sha256: Option<Parsed<Sha256Digest>>,
    /// The last day on which it is valid, in the account's day_zone, such as "2027-01-31". Absent: it does not expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Parsed<jiff::civil::Date>>,
}

/// `services.NAME.charge_hits`: whether cache hits and joined calls count against its quota.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChargeHitsTable {
    /// Against the per-second quota.
    pub second: bool,
    /// Against the per-day quota.
    pub day: bool,
}

impl Default for ChargeHitsTable {
    fn default() -> Self {
        Self { second: true, day: false }
    }
}
