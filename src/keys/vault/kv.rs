//! One account's secret in a KV engine.
//!
//! Which of the engine's two versions a mount has is asked of the vault, as its own command line does
//! (`sys/internal/ui/mounts`); a token that may not ask gets version 2. What always holds: a version
//! that was deleted or destroyed is a fault and never a value; a denied reading leads to one new login,
//! and the next only after a wait that grows, because an ended token and a denied path look the same.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    Vault, VaultError, encoded,
    token::VaultToken,
    wire::{VaultRequest, VaultResponse},
};
use crate::keys::{secret::Secret, source::RawPair};

/// A whole reading: what the mount is, a login, the secret, and perhaps why not.
const READING: Duration = Duration::from_secs(15);
/// The first wait between two logins that only a denied reading asks for, and the longest.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);
const LAST_PATIENCE: Duration = Duration::from_secs(3600);

/// Where the pair is.
pub(crate) struct KvSecret {
    vault: Arc<Vault>,
    mount: String,
    path: String,
    state: Mutex<ReadState>,
}

#[derive(Default)]
struct ReadState {
    engine: Option<Engine>,
    /// When a denied reading may lead to a login again, and how long it waited for that.
    denied: Option<(Instant, Duration)>,
}

/// Version of the KV engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    V1,
    V2,
}

#[derive(Deserialize)]
struct MountBody {
    data: MountInfo,
}

#[derive(Deserialize)]
struct MountInfo {
    options: Option<MountOptions>,
}

#[derive(Deserialize)]
struct MountOptions {
    version: Option<String>,
}

#[derive(Deserialize)]
struct V1 {
    data: PairFields,
}

#[derive(Deserialize)]
struct V2 {
    data: Option<KvV2Data>,
}

#[derive(Deserialize)]
struct KvV2Data {
    data: Option<PairFields>,
    metadata: KvV2Metadata,
}

#[derive(Deserialize)]
struct KvV2Metadata {
    version: u64,
    #[serde(default)]
    destroyed: bool,
}

#[derive(Deserialize)]
struct PairFields {
    #[serde(default, deserialize_with = "text")]
    access_key: Option<Secret>,
    #[serde(default, deserialize_with = "text")]
    secret_key: Option<Secret>,
}

fn text<'de, D: serde::Deserializer<'de>>(member: D) -> Result<Option<Secret>, D::Error> {
    Ok(Option::<String>::deserialize(member)?.map(Secret::line))
}

impl std::fmt::Debug for KvSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KvSecret({}/{})", self.mount, self.path)
    }
}

impl KvSecret {
    pub(crate) fn new(vault: Arc<Vault>, mount: &str, path: &str) -> Self {
        Self { vault, mount: mount.to_owned(), path: path.to_owned(), state: Mutex::default() }
    }

    /// The vault that it is in.
    pub(crate) fn vault(&self) -> &Arc<Vault> {
        &self.vault
    }

    /// Both halves of the newest version, and its number.
    ///
    /// # Errors
    /// [`VaultError`] when there is no whole pair.
    pub(crate) async fn read(&self) -> Result<RawPair, VaultError> {
        let read =
            tokio::time::timeout(READING, self.ask()).await.unwrap_or(Err(VaultError::DeadlineExceeded(READING)));
        if let Err(fault) = &read
            && !matches!(fault, VaultError::Unreachable(_) | VaultError::DeadlineExceeded(_))
        {
            // It may have been mounted anew.
            self.state.lock().engine = None;
        }
        read
    }

    async fn ask(&self) -> Result<RawPair, VaultError> {
        let token = self.vault.token().await?;
        let mut read = self.ask_with(&token).await;
        if matches!(read, Err(VaultError::Denied(_)))
            && self.may_log_in()
            && let Some(token) = self.vault.another(&token).await
        {
            read = self.ask_with(&*token?).await;
        }
        if !matches!(read, Err(VaultError::Denied(_))) {
            self.state.lock().denied = None;
        }
        read
    }

    /// Whether a denied reading may lead to a login now; the next may only after a longer wait, unless
    /// a reading succeeds in between.
    fn may_log_in(&self) -> bool {
        let now = Instant::now();
        let mut state = self.state.lock();
        let wait = match state.denied {
            None => FIRST_PATIENCE,
            Some((at, _)) if now < at => return false,
            Some((_, wait)) => (wait * 2).min(LAST_PATIENCE),
        };
        state.denied = Some((now + wait, wait));
        true
    }

    async fn ask_with(&self, token: &VaultToken) -> Result<RawPair, VaultError> {
        let engine = self.engine(token).await?;
        let between = if engine == Engine::V2 { "data/" } else { "" };
        let path = format!("{}/{between}{}", encoded(&self.mount), encoded(&self.path));
        let reply = self.vault.ask(VaultRequest::get(&path, &token.value)).await?;
        match reply.status {
            StatusCode::OK if engine == Engine::V2 => self.second(&reply),
            StatusCode::OK => {
                let V1 { data } = serde_json::from_slice(&reply.body).map_err(|_| self.malformed())?;
                self.halves(data, None)
            }
            StatusCode::NOT_FOUND if engine == Engine::V2 => Err(self.gone(&reply)),
            StatusCode::NOT_FOUND => Err(VaultError::Missing(self.place())),
            StatusCode::FORBIDDEN => Err(VaultError::Denied(self.place())),
            status => Err(VaultError::Answered { status: status.as_u16(), said: super::said(&reply) }),
        }
    }

    async fn engine(&self, token: &VaultToken) -> Result<Engine, VaultError> {
        if let Some(engine) = self.state.lock().engine {
            return Ok(engine);
        }
        let path = format!("sys/internal/ui/mounts/{}/{}", encoded(&self.mount), encoded(&self.path));
        let reply = self.vault.ask(VaultRequest::get(&path, &token.value)).await?;
        let mounted: Option<MountBody> =
            serde_json::from_slice(&reply.body).ok().filter(|_| reply.status == StatusCode::OK);
        let Some(mounted) = mounted else { return Ok(Engine::V2) };
        let version = mounted.data.options.and_then(|options| options.version);
        let engine = if version.as_deref() == Some("2") { Engine::V2 } else { Engine::V1 };
        self.state.lock().engine = Some(engine);
        Ok(engine)
    }

    fn second(&self, reply: &VaultResponse) -> Result<RawPair, VaultError> {
        let answer: V2 = serde_json::from_slice(&reply.body).map_err(|_| self.malformed())?;
        match answer.data {
            Some(KvV2Data { data: Some(fields), metadata }) if !metadata.destroyed => {
                self.halves(fields, Some(metadata.version))
            }
            Some(_) => Err(self.gone(reply)),
            None => Err(self.malformed()),
        }
    }

    /// Whether there never was a secret, or its newest version is gone.
    fn gone(&self, reply: &VaultResponse) -> VaultError {
        match serde_json::from_slice(&reply.body) {
            Ok(V2 { data: Some(KvV2Data { metadata, .. }) }) => {
                let how = if metadata.destroyed { "destroyed" } else { "deleted" };
                VaultError::Deleted { place: self.place(), version: metadata.version, how }
            }
            _ => VaultError::Missing(self.place()),
        }
    }

    fn halves(&self, fields: PairFields, version: Option<u64>) -> Result<RawPair, VaultError> {
        let missing = |name: &str| VaultError::Malformed(format!("{} has no {name}", self.place()));
        let access = fields.access_key.ok_or_else(|| missing("access_key"))?;
        let secret = fields.secret_key.ok_or_else(|| missing("secret_key"))?;
        let place = format!("vault {}: {}", self.vault.settings().address, self.place());
        Ok(RawPair { access, secret, place, version })
    }

    fn malformed(&self) -> VaultError {
        VaultError::Malformed(format!("{} is not text in access_key and secret_key", self.place()))
    }

    fn place(&self) -> String {
        format!("{}/{}", self.mount, self.path)
    }
}
