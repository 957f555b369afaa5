//! The ways to log in: what each sends, and what a login returns.
//!
//! A file with a credential is read again for each login, because agents and orchestrators replace it.
//! Nothing of it gets into an error.

use std::{
    env::{self, VarError},
    fmt::Display,
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{client::encoded, fault::VaultError, number::number};
use crate::{
    config::VaultAuth,
    files::{
        FileError,
        read::{MAX_KEY_FILE, read, text_of},
    },
    keys::secret::Secret,
};

/// The variable with the token of method `token` without a file.
const VAULT_TOKEN: &str = "VAULT_TOKEN";
/// A token that lives longer is renewed or replaced after this time all the same: points in time that far can be
/// calculated with.
const MAX_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// Maximum length of a credential, in bytes.
const MAX_CREDENTIAL: usize = 32 << 10;

/// Response to a login or a renewal.
#[derive(Deserialize)]
pub(super) struct LoginBody {
    pub(super) auth: TokenGrant,
}

#[derive(Deserialize)]
pub(super) struct TokenGrant {
    #[serde(deserialize_with = "secret")]
    pub(super) client_token: Secret,
    /// In seconds; 0: it doesn't end.
    #[serde(default, deserialize_with = "number")]
    lease_duration: u64,
    #[serde(default)]
    pub(super) renewable: bool,
}

/// Response to a token's look-up of itself.
#[derive(Deserialize)]
pub(super) struct LookupBody {
    pub(super) data: TokenInfo,
}

#[derive(Deserialize)]
pub(super) struct TokenInfo {
    /// Seconds left; 0: it doesn't end.
    #[serde(default, deserialize_with = "number")]
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
    (seconds > 0).then_some(Duration::from_secs(seconds).min(MAX_LIFE))
}

pub(super) struct LoginRequest {
    /// Path below `/v1/`.
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
    /// The request of an auth method; reads its file. `None`: a token is configured, no login is needed.
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
        // Capacity for any token: a buffer that grows would leave parts of it behind.
        let mut body = Zeroizing::new(Vec::with_capacity(64 << 10));
        // Writing these few members into memory can't fail.
        let _ = serde_json::to_writer(&mut *body, content);
        Self { path: format!("auth/{}/login", encoded(mount)), body }
    }
}

/// The credential in a file.
///
/// # Errors
/// [`VaultError::Unfit`] if it can't be read, or isn't a credential.
pub(crate) fn credential(path: &Path) -> Result<Secret, VaultError> {
    let file = |error: FileError| VaultError::Unfit(error.to_string());
    let text = text_of(path, &read(path, MAX_KEY_FILE).map_err(file)?.bytes).map_err(file)?;
    one_line(&text, path.display())
}

/// The token in `$VAULT_TOKEN`.
///
/// # Errors
/// [`VaultError::Unfit`] if it is not set, or isn't a credential.
pub(crate) fn env_token() -> Result<Secret, VaultError> {
    match env::var(VAULT_TOKEN) {
        Ok(token) => one_line(&Zeroizing::new(token), VAULT_TOKEN),
        // The error's own text would show the value.
        Err(VarError::NotUnicode(_)) => Err(VaultError::Unfit(format!("{VAULT_TOKEN}: is not text"))),
        Err(VarError::NotPresent) => Err(VaultError::Unfit(format!("{VAULT_TOKEN}: is not set in the environment"))),
    }
}

/// A credential: one line, trimmed.
fn one_line(text: &str, place: impl Display) -> Result<Secret, VaultError> {
    let unfit = |what: &str| VaultError::Unfit(format!("{place}: {what}"));
    match text.trim() {
        "" => Err(unfit("is empty")),
        text if text.len() > MAX_CREDENTIAL => Err(unfit("is longer than 32 KiB")),
        // A token is sent as a header, and no other credential has any either.
        text if text.chars().any(char::is_control) => {
            Err(unfit("contains a line break or a control character; a credential is one line"))
        }
        text => Ok(Secret::new(text.to_owned())),
    }
}

pub(super) fn secret<'de, D: serde::Deserializer<'de>>(member: D) -> Result<Secret, D::Error> {
    String::deserialize(member).map(Secret::new)
}
