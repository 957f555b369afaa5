//! The ways to log in: what each sends, and what a login gives.
//!
//! What always holds: a file with a credential is read anew for each login, because agents and
//! orchestrators replace it; nothing of it gets into a fault.

use std::{path::Path, time::Duration};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{VaultError, encoded};
use crate::{
    config::VaultAuth,
    keys::{file::read_open, secret::Secret},
};

/// What a login or a renewal gives.
#[derive(Deserialize)]
pub(super) struct LoginBody {
    pub(super) auth: TokenGrant,
}

/// A token and its life.
#[derive(Deserialize)]
pub(super) struct TokenGrant {
    #[serde(deserialize_with = "secret")]
    pub(super) client_token: Secret,
    /// Seconds; 0: it doesn't end.
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    pub(super) renewable: bool,
}

/// What a token says of itself.
#[derive(Deserialize)]
pub(super) struct LookupBody {
    pub(super) data: TokenInfo,
}

/// Its life.
#[derive(Deserialize)]
pub(super) struct TokenInfo {
    /// Seconds left; 0: it doesn't end.
    ttl: u64,
    #[serde(default)]
    pub(super) renewable: bool,
}

impl TokenGrant {
    pub(super) fn life(&self) -> Option<Duration> {
        seconds(self.lease_duration)
    }
}

impl TokenInfo {
    pub(super) fn life(&self) -> Option<Duration> {
        seconds(self.ttl)
    }
}

fn seconds(seconds: u64) -> Option<Duration> {
    (seconds > 0).then_some(Duration::from_secs(seconds))
}

/// A login to be sent.
pub(super) struct LoginRequest {
    /// Below `/v1/`.
    pub(super) path: String,
    pub(super) body: Zeroizing<Vec<u8>>,
}

#[derive(Serialize)]
struct AppRoleLogin<'a> {
    role_id: &'a str,
    secret_id: &'a str,
}

#[derive(Serialize)]
struct JwtLogin<'a> {
    role: &'a str,
    jwt: &'a str,
}

#[derive(Serialize)]
struct CertLogin<'a> {
    name: &'a str,
}

impl LoginRequest {
    /// The login of a method. Reads its file. `None`: the token is there already, no login is needed.
    pub(super) fn of(auth: &VaultAuth) -> Result<Option<Self>, VaultError> {
        Ok(Some(match auth {
            VaultAuth::Token { .. } => return Ok(None),
            VaultAuth::AppRole { mount, role_id, secret_id_file } => {
                let secret_id = credential(secret_id_file)?;
                Self::new(mount, &AppRoleLogin { role_id, secret_id: secret_id.expose() })
            }
            VaultAuth::Kubernetes { mount, role, token_file } | VaultAuth::Jwt { mount, role, token_file } => {
                let jwt = credential(token_file)?;
                Self::new(mount, &JwtLogin { role, jwt: jwt.expose() })
            }
            VaultAuth::Cert { mount, name, .. } => Self::new(mount, &CertLogin { name }),
        }))
    }

    fn new(mount: &str, content: &impl Serialize) -> Self {
        // Room enough for any token: a buffer that grows would leave parts of it behind.
        let mut body = Zeroizing::new(Vec::with_capacity(64 << 10));
        // Writing these few members into memory can't fail.
        let _ = serde_json::to_writer(&mut *body, content);
        Self { path: format!("auth/{}/login", encoded(mount)), body }
    }
}

/// A file that holds one credential, trimmed.
pub(super) fn credential(path: &Path) -> Result<Secret, VaultError> {
    let unfit = |what: &dyn std::fmt::Display| VaultError::Unfit(format!("{}: {what}", path.display()));
    let mut file = std::fs::File::open(path).map_err(|error| unfit(&error))?;
    // Its fault names the path already.
    let text = read_open(path, &mut file).map_err(|fault| VaultError::Unfit(fault.to_string()))?;
    match text.trim() {
        "" => Err(unfit(&"is empty")),
        text if text.len() > 32 << 10 => Err(unfit(&"is longer than a token can be")),
        text => Ok(Secret::new(text.to_owned())),
    }
}

/// A member that is a secret.
pub(super) fn secret<'de, D: serde::Deserializer<'de>>(member: D) -> Result<Secret, D::Error> {
    String::deserialize(member).map(Secret::new)
}
