//! `[vault]` as written.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BaseUrl, BoundedDuration, DAY, NonBlank, Parsed, SECOND, VaultMethod};

/// `[vault]`: HashiCorp Vault or OpenBao.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VaultTable {
    /// Its address; absent: $VAULT_ADDR. "http://" only on loopback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Parsed<BaseUrl>>,
    /// PEM file: trusted roots that replace the platform's; absent: $VAULT_CACERT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<Parsed<PathBuf>>,
    /// Namespace; absent: $VAULT_NAMESPACE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Parsed<NonBlank>>,
    /// Interval between reads of a secret.
    pub poll: BoundedDuration<100, DAY>,
    /// How the gateway logs in; absent: with the token in $VAULT_TOKEN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<VaultAuthTable>,
}

impl Default for VaultTable {
    fn default() -> Self {
        Self { address: None, ca: None, namespace: None, poll: BoundedDuration::millis(30 * SECOND), auth: None }
    }
}

/// `vault.auth`: which keys belong to it depends on `method`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VaultAuthTable {
    /// How the gateway logs in.
    #[schemars(required)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<VaultMethod>,
    /// Where the method is mounted; absent: the method's own name. Not for "token".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount: Option<Parsed<NonBlank>>,
    /// File with the token ("token"; absent there: $VAULT_TOKEN), or the JWT ("kubernetes", "jwt").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<Parsed<PathBuf>>,
    /// Role id ("approle").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role_id: Option<Parsed<NonBlank>>,
    /// File with the secret id ("approle").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_id_file: Option<Parsed<PathBuf>>,
    /// Role ("kubernetes", "jwt").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Parsed<NonBlank>>,
    /// Name of the certificate role ("cert").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Parsed<NonBlank>>,
    /// PEM file: the client's certificate ("cert").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<Parsed<PathBuf>>,
    /// PEM file: its private key ("cert").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Parsed<PathBuf>>,
}
