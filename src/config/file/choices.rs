//! Words that the file chooses from, each list written once.
//!
//! serde and the JSON Schema read these enums from the file; the checked configuration uses them too. Their names come
//! from the variants, so no list of names can be incomplete.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::VariantNames as _;

/// Whether a client must send a certificate in the TLS handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// No certificate is requested.
    #[default]
    None,
    /// A certificate is verified if the client sends one.
    Optional,
    /// The handshake fails without a certificate.
    Required,
}

/// What the holder of an admin token may do.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum AdminRole {
    /// Every GET.
    #[default]
    Read,
    /// POST too.
    Operate,
}

impl AdminRole {
    /// The name in the file.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// What becomes of orders while the shared store is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnStoreLoss {
    /// None is sent.
    #[default]
    Refuse,
    /// Each replica protects orders with what it knows itself.
    Alone,
}

/// Whether bodies are written to the exchange log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogBodies {
    /// With secrets and personal data masked.
    #[default]
    Masked,
    /// Never.
    None,
}

/// What happens when the queue of the exchange log is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// Lines are dropped and counted, and the gap is written to the log.
    #[default]
    Drop,
    /// A request waits for a place in the queue before it begins.
    Block,
}

/// Which services wait and which are refused when the budget is short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Refused first.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Served first.
    High,
}

/// An API version of Fastrac.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Api {
    V1,
    V2,
}

/// How an operation is handled.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
    strum::VariantNames,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Class {
    /// Slow-changing data.
    Lookup,
    /// Live data about one shipment.
    Read,
    /// A price.
    Quote,
    /// Moves money: never sent twice.
    Order,
    /// Concerns the whole account.
    Account,
    /// Matches no row: handled as carefully as `Order`.
    Unlisted,
}

impl Class {
    /// The class with this name.
    pub fn named(name: &str) -> Option<Self> {
        name.parse().ok()
    }

    /// The name in the file, in logs and in messages.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The names of all classes.
    pub fn names() -> &'static [&'static str] {
        Self::VARIANTS
    }
}

/// How a key pair is sent to Fastrac.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuthSetting {
    /// `v1` operations: headers; `v2` operations: basic; others: both.
    #[default]
    Auto,
    /// Headers `access-key` and `secret-key`.
    Headers,
    /// `Authorization: Basic`.
    Basic,
    /// The key headers and `Authorization: Basic`.
    Both,
}

/// A kind of key source.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr, strum::VariantNames,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum KeySourceName {
    /// A TOML file.
    File,
    /// A folder with two files.
    Directory,
    /// A KV secret.
    Vault,
    /// Two environment variables, read once.
    Env,
}

impl KeySourceName {
    /// The name in the file.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The names of all kinds.
    pub fn names() -> &'static [&'static str] {
        Self::VARIANTS
    }
}

/// A login method of the vault.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr, strum::VariantNames,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum VaultMethod {
    /// A token.
    Token,
    /// AppRole.
    AppRole,
    /// A Kubernetes service account.
    Kubernetes,
    /// JWT or OIDC.
    Jwt,
    /// A TLS client certificate.
    Cert,
}

impl VaultMethod {
    /// The name in the file, and the default mount of the method.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The names of all methods.
    pub fn names() -> &'static [&'static str] {
        Self::VARIANTS
    }
}
