//! HashiCorp Vault or OpenBao: a session that is kept alive, and secrets that are read with it.
//!
//! [`Vault`] is one server or cluster and one login, shared by all accounts whose pairs are in it;
//! [`KvSecret`] is where one account's pair is. What always holds: certificates are verified; the token
//! goes to the address of the configuration and, once, to the leader that a standby names, if that is
//! reached over TLS too; every question has a deadline; a denied one leads to one new login and not to
//! a loop of them. No request of a service ever waits for anything here. It must not know what a pair
//! is used for. It fails with [`VaultError`], which holds no value.

mod kv;
mod login;
#[cfg(test)]
mod tests;
mod token;
mod trust;
mod wire;

use http::{Method, StatusCode};
use serde::Deserialize;

pub(super) use self::kv::KvSecret;
use self::{
    token::Session,
    trust::VaultTls,
    wire::{VaultClient, VaultRequest, VaultResponse},
};
use super::secret::Secret;
use crate::config::{
    self, VaultAuth,
    file::{BaseUrl, TextValue as _},
};

/// A vault and the login to it.
pub struct Vault {
    settings: config::VaultConfig,
    server: BaseUrl,
    wire: VaultClient,
    /// `$VAULT_TOKEN`, where the login is by it.
    token: Option<Secret>,
    session: Session,
}

/// Why the vault gave no pair. Holds no value of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// Something of ours doesn't fit: a certificate, a file with a credential, a name.
    #[error("{0}")]
    Unfit(String),
    /// No connection, or one that broke.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// No whole answer in time.
    #[error("gave no answer within {0:?}")]
    DeadlineExceeded(std::time::Duration),
    /// It is sealed, so it can't read its own secrets.
    #[error("is sealed")]
    Sealed,
    /// It was never set up.
    #[error("is not initialised")]
    Uninitialized,
    /// It is a standby, and the leader is not to be had, or not to be trusted.
    #[error("is a standby, and its leader can't be asked: {0}")]
    Standby(&'static str),
    /// The login was refused.
    #[error("refuses the login ({status}): {said}")]
    Login {
        /// HTTP status.
        status: u16,
        /// Its words, without anything that may be a credential.
        said: String,
    },
    /// 403, also after a new login.
    #[error("denies reading {0}: the token may have ended, or its policy lacks `read` there")]
    Denied(String),
    /// There is no such secret.
    #[error("has no secret at {0}")]
    Missing(String),
    /// The newest version was deleted or destroyed.
    #[error("version {version} of {place} is {how}")]
    Deleted {
        /// Where.
        place: String,
        /// The version.
        version: u64,
        /// `deleted` or `destroyed`.
        how: &'static str,
    },
    /// It answered with something else.
    #[error("answers {status}: {said}")]
    Answered {
        /// HTTP status.
        status: u16,
        /// Its words, without anything that may be a credential.
        said: String,
    },
    /// Its answer isn't what it should be.
    #[error("{0}")]
    Malformed(String),
}

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    errors: Vec<String>,
}

#[derive(Deserialize)]
struct LeaderBody {
    #[serde(default)]
    leader_address: String,
}

impl Vault {
    /// A vault as configured. Asks nothing yet; reads `$VAULT_TOKEN`.
    ///
    /// # Errors
    /// [`VaultError::Unfit`] when the address is none, or the variable holds no token.
    pub fn open(settings: &config::VaultConfig) -> Result<Self, VaultError> {
        let server = BaseUrl::parse(&settings.address).map_err(VaultError::Unfit)?;
        let client = match &settings.auth {
            VaultAuth::Cert { cert, key, .. } => Some((cert.as_path(), key.as_path())),
            _ => None,
        };
        let token = match &settings.auth {
            VaultAuth::Token { token_file: None } => {
                let unset = |_| VaultError::Unfit("VAULT_TOKEN is not set, or is not text".to_owned());
                Some(Secret::new(std::env::var("VAULT_TOKEN").map_err(unset)?))
            }
            _ => None,
        };
        let wire = VaultClient::new(settings.namespace.clone(), VaultTls::new(settings.ca.as_deref(), client));
        Ok(Self { settings: settings.clone(), server, wire, token, session: Session::default() })
    }

    /// What it was opened with.
    pub fn settings(&self) -> &config::VaultConfig {
        &self.settings
    }

    /// Asks, and if a standby answers, its leader. What is neither good nor the asker's to judge (400,
    /// 403, 404) is a fault, and `sys/health` says which.
    async fn ask(&self, call: VaultRequest<'_>) -> Result<VaultResponse, VaultError> {
        let mut reply = self.wire.ask(&self.server, &call).await?;
        if reply.status.is_redirection() {
            let leader = self.leader(&reply, &call).await?;
            reply = self.wire.ask(&leader, &call).await?;
        }
        match reply.status {
            status if status.is_success() => Ok(reply),
            StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => Ok(reply),
            _ => Err(self.diagnose(&reply).await),
        }
    }

    /// The leader that a standby sends us to. The token goes there too, so it must be the one that the
    /// configured address itself calls its leader, asked the same, and over TLS unless both are here.
    async fn leader(&self, reply: &VaultResponse, call: &VaultRequest<'_>) -> Result<BaseUrl, VaultError> {
        let moved = matches!(reply.status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
        if !moved && call.method != Method::GET {
            return Err(VaultError::Standby("it redirects in a way that drops what is asked"));
        }
        let told = self.wire.ask(&self.server, &VaultRequest::open("sys/leader")).await?;
        let named: Option<LeaderBody> = serde_json::from_slice(&told.body).ok();
        let leader = named.and_then(|named| BaseUrl::parse(&named.leader_address).ok());
        let leader = leader.ok_or(VaultError::Standby("it names none"))?;
        if !leader.tls && (self.server.tls || !leader.is_loopback()) {
            return Err(VaultError::Standby("it is not reached over TLS"));
        }
        let wanted = format!("{}/v1/{}", leader.to_text(), call.path);
        match &reply.location {
            Some(location) if *location == wanted => Ok(leader),
            _ => Err(VaultError::Standby("it redirects elsewhere")),
        }
    }

    async fn diagnose(&self, reply: &VaultResponse) -> VaultError {
        let health = self.wire.ask(&self.server, &VaultRequest::open("sys/health")).await;
        match health.map(|health| health.status.as_u16()) {
            Ok(503) => VaultError::Sealed,
            Ok(501) => VaultError::Uninitialized,
            Ok(429 | 472 | 473) => VaultError::Standby("it did not pass the question on"),
            _ => VaultError::Answered { status: reply.status.as_u16(), said: said(reply) },
        }
    }
}

/// The vault's own words about what is wrong, fit for a log: one line, bounded, and without whatever is
/// long enough to be a credential.
fn said(reply: &VaultResponse) -> String {
    let errors = serde_json::from_slice(&reply.body).map_or_else(|_| Vec::new(), |said: ErrorBody| said.errors);
    let word = |word: &str| if word.len() > 24 { "…".to_owned() } else { word.escape_debug().collect() };
    let mut text: Vec<String> = errors.iter().flat_map(|error| error.split_whitespace()).map(word).collect();
    text.truncate(40);
    if text.is_empty() { "without a word".to_owned() } else { text.join(" ") }
}

/// A path as it stands in a URL: whatever isn't plain is percent-encoded, slashes stay.
fn encoded(path: &str) -> String {
    use std::fmt::Write as _;
    path.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}
