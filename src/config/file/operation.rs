//! `[operations.NAME]` as written: a new row of the operation table, or changed fields of a built-in one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Api, BoundedDuration, Class, DAY, Fraction, HOUR, MethodName, Parsed, PathPattern, PositiveInteger, VaryHeader,
};

/// A row of the operation table. A field that is absent keeps the value of the built-in row of that name.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OperationTable {
    /// API version, which selects the account's address and auth style; absent in a new row: the account's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<Api>,
    /// Method. Mandatory in a new row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Parsed<MethodName>>,
    /// Path, without the account's prefix; `{name}` matches one segment. Mandatory in a new row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Parsed<PathPattern>>,
    /// Further paths of the same operation; absent in a new row: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aliases: Option<Vec<Parsed<PathPattern>>>,
    /// How it is handled. Mandatory in a new row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// Whether and how long responses are stored; absent in a new row: not stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CachePolicyTable>,
    /// Maximum duration of one attempt; absent in a new row: "10s".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<BoundedDuration<1, HOUR>>,
    /// Units of the account's budget that one request takes; absent in a new row: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<PositiveInteger<1000>>,
    /// Whether requests come before others of their priority in the wait queue, as orders always do; absent in a new row:
    /// false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub urgent: Option<bool>,
    /// Request headers that are passed on and are part of the cache key; absent in a new row: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vary: Option<Vec<Parsed<VaryHeader>>>,
}

/// `operations.NAME.cache`. A field that is absent keeps the value of the built-in row of that name.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CachePolicyTable {
    /// A stored response is used without asking Fastrac for this long; zero: nothing is stored. Mandatory in a new row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fresh: Option<BoundedDuration<0, { 366 * DAY }>>,
    /// Age up to which a stored response may be used after `fresh`: for as long again as `fresh` while it is fetched again in
    /// the background, then when Fastrac fails; zero: never; absent in a new row: "0ms".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_if_error: Option<BoundedDuration<0, { 366 * DAY }>>,
    /// Fraction of `fresh` after which a response that is used is fetched again in the background, from budget that nobody
    /// else needs; 1: never early; absent in a new row: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_ahead: Option<Fraction<false>>,
    /// How long "Data not found" is stored; zero: never; absent in a new row: "0ms".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_found: Option<BoundedDuration<0, DAY>>,
}
